//! `/local/<name>`: values that are put by hand.

use serde_json::json;

use crate::fixture::{Host, Serve, fingerprint};

const LARGEST: usize = 511_999;

fn put(serve: &Serve, name: &str, value: &[u8]) -> crate::fixture::Answer {
    serve.request("PUT", &format!("/local/{name}"), value)
}

fn map(host: &Host, name: &str, key: &str) {
    let mapping = json!({"provider": "local", "key": key});
    host.write_state(name, mapping.to_string().as_bytes());
}

#[test]
fn a_value_is_answered_byte_for_byte_once_it_is_put_and_no_more_once_it_is_deleted() {
    let host = Host::new();
    let serve = host.start();
    map(&host, "by-name", "A");
    serve.lookup("by-name").fails(500, "configuration");
    let answer = put(&serve, "A", b"v\0\n\xff");
    assert_eq!(
        answer.json(),
        json!({"stored": true, "generation": 1, "slots": 1})
    );
    // The failure before is forgotten at once.
    assert_eq!(serve.lookup("by-name").ok(), b"v\0\n\xff");
    let again = put(&serve, "A", b"v\0\n\xff").json();
    assert_eq!(
        (&again["stored"], &again["generation"]),
        (&false.into(), &1.into())
    );
    assert_eq!(serve.status()["cache"]["local"], 1);
    let removed = serve.request("DELETE", "/local/A", b"");
    assert_eq!(removed.json(), json!({"removed": true}));
    serve.lookup("by-name").fails(500, "configuration");
    let removed = serve.request("DELETE", "/local/A", b"");
    assert_eq!(removed.json(), json!({"removed": false}));
    assert_eq!(serve.status()["cache"]["local"], 0);
}

#[test]
fn a_chunked_value_is_whole_and_one_that_is_cut_short_is_none() {
    let host = Host::new();
    let serve = host.start();
    map(&host, "by-name", "A");
    let chunked = b"PUT /local/A HTTP/1.1\r\nHost: psi\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n";
    assert_eq!(serve.raw(chunked).status, 200);
    assert_eq!(serve.lookup("by-name").ok(), b"abc");
    let mut stream = serve.connect();
    let cut = b"PUT /local/A HTTP/1.1\r\nHost: psi\r\nContent-Length: 9\r\n\r\nnew";
    std::io::Write::write_all(&mut stream, cut).unwrap();
    crate::fixture::finish(&stream);
    assert!(crate::fixture::Answer::try_read(&mut stream).is_none_or(|a| a.status == 400));
    assert_eq!(serve.lookup("by-name").ok(), b"abc");
}

#[test]
fn what_cannot_be_a_local_value_is_refused_and_the_one_before_stays() {
    let host = Host::new();
    let serve = host.start();
    map(&host, "by-name", "A");
    put(&serve, "A", b"good").ok();
    let before = fingerprint(&host.cache_file());
    put(&serve, "A", b"").fails(409, "refused");
    put(&serve, "A", &vec![b'x'; LARGEST + 1]).fails(413, "too_large");
    let too_long = "a".repeat(254);
    for name in ["", ".", "..", ".a", "-a", "a/b", "a%41", "a?b", &too_long] {
        put(&serve, name, b"v").fails(400, "bad_name");
        let delete = serve.request("DELETE", &format!("/local/{name}"), b"");
        delete.fails(400, "bad_name");
    }
    assert_eq!(fingerprint(&host.cache_file()), before);
    assert_eq!(serve.lookup("by-name").ok(), b"good");
    put(&serve, "A", &vec![b'x'; LARGEST]).ok();
}

#[test]
fn local_values_come_in_one_way_only() {
    let host = Host::new();
    let serve = host.start();
    let entry = json!({"mapping": {"provider": "local", "key": "A"}, "value": "dg=="});
    let body = json!({"workloads": {"app": {"entries": [entry]}}}).to_string();
    for provider in ["local", "infisical"] {
        serve
            .post(&format!("/cache/{provider}"), body.as_bytes())
            .fails(400, "bad_request");
    }
    for method in ["GET", "POST"] {
        let answer = serve.request(method, "/local/A", b"v");
        answer.fails(405, "method_not_allowed");
        assert_eq!(answer.header("allow"), "put, delete");
    }
    serve
        .request("PUT", "/lookup/A", b"v")
        .fails(405, "method_not_allowed");
    assert!(!host.cache_file().exists());
}

#[test]
fn a_check_tells_what_is_there_and_what_can_be_a_variable() {
    let host = Host::new();
    let serve = host.start();
    put(&serve, "TEXT", b"v").ok();
    put(&serve, "NUL", b"a\0b").ok();
    put(&serve, "LARGE", &vec![b'x'; 131_072]).ok();
    let names = ["TEXT", "NUL", "LARGE", "NEVER"];
    let mappings = names.map(|name| json!({"provider": "local", "key": name}));
    let checked = serve.check(&json!({"mappings": mappings}));
    assert_eq!(checked["mappings"], json!([true, true, true, false]));
    assert_eq!(checked["variables"], json!([true, false, false, false]));
}

#[test]
fn a_value_that_cannot_be_written_leaves_the_one_before() {
    let host = Host::new();
    let serve = host.start();
    map(&host, "by-name", "A");
    put(&serve, "A", b"old").ok();
    // A directory in the temporary file's place can neither be removed nor replaced by a file.
    let obstacle = host.state(".cache.enc.new");
    std::fs::create_dir(&obstacle).unwrap();
    put(&serve, "A", b"new").fails(500, "failed");
    serve
        .request("DELETE", "/local/A", b"")
        .fails(500, "failed");
    assert_eq!(serve.lookup("by-name").ok(), b"old");
    std::fs::remove_dir(&obstacle).unwrap();
    put(&serve, "A", b"new").ok();
    assert_eq!(serve.lookup("by-name").ok(), b"new");
}

#[test]
fn a_closed_cache_is_tried_again_before_a_value_is_put() {
    let host = Host::new();
    let serve = host.start();
    put(&serve, "A", b"v").ok();
    drop(serve);
    host.deliver("psi-cache-key", &[9; 32]);
    let serve = host.start();
    put(&serve, "B", b"v").fails(500, "cache_closed");
    host.deliver("psi-cache-key", &crate::fixture::KEY);
    put(&serve, "B", b"v").ok();
    assert_eq!(serve.status()["cache"]["local"], 2);
}

#[test]
fn nothing_that_is_pruned_or_forgotten_for_workloads_is_a_local_value() {
    let host = Host::new();
    let serve = host.start();
    map(&host, "by-name", "A");
    put(&serve, "A", b"v").ok();
    assert_eq!(serve.hand_over(&[("app", &[("A", b"v")])]).status, 200);
    let before = serve.check(&json!({}));
    assert_eq!(before["workloads"], json!(["app"]));
    let prune = json!({"keep": {"": [], "app": []}, "forget": ["", "local", "app"]});
    let pruned = serve.post("/cache/prune", prune.to_string().as_bytes());
    assert_eq!(pruned.json(), json!({"dropped": 1}));
    assert_eq!(serve.lookup("by-name").ok(), b"v");
    assert_eq!(serve.status()["cache"]["local"], 1);
}
