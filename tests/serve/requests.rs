//! Every route with every outcome, and what is no request at all.

use std::fs;
use std::io::Write;

use serde_json::json;

use crate::fixture::{Answer, Host, finish, hand_over, id, mapping};

#[test]
fn a_value_comes_back_byte_for_byte() {
    let host = Host::new();
    let serve = host.start();
    let large: Vec<u8> = (0..1 << 20).map(|n: u32| (n * 31 % 251) as u8).collect();
    let values: [(&str, &[u8]); 6] = [
        ("EMPTY", b""),
        ("NUL", b"a\0b\0"),
        ("LINES", b"\n a \r\n\n"),
        ("BYTES", b"\xff\xfe\x80"),
        ("TEXT", "pässword".as_bytes()),
        ("LARGE", &large),
    ];
    assert_eq!(serve.hand_over(&[("app", &values)]).status, 200);
    for (n, (key, value)) in (1..).zip(values) {
        let id = serve.store(n, key);
        let answer = serve.lookup(&id);
        assert_eq!(answer.header("content-type"), "application/octet-stream");
        assert_eq!(answer.ok(), value, "{key}");
    }
}

#[test]
fn a_mapping_is_stored_listed_looked_up_and_deleted() {
    let host = Host::new();
    let serve = host.start();
    assert_eq!(serve.get("/list").ok(), b"");
    let id = serve.store(1, "A");
    let text = mapping("A").to_string();
    assert_eq!(fs::read(host.state(&id)).unwrap(), text.as_bytes());
    host.write_state("by-hand", text.as_bytes());
    assert_eq!(
        serve.get("/list").ok(),
        format!("{id}\nby-hand\n").as_bytes()
    );
    assert_eq!(serve.hand_over(&[("app", &[("A", b"v")])]).status, 200);
    assert_eq!(serve.lookup(&id).ok(), b"v");
    assert_eq!(serve.lookup("by-hand").ok(), b"v");
    let delete = format!("/delete/{id}");
    assert_eq!(serve.request("DELETE", &delete, b"").ok(), b"ok");
    assert_eq!(
        serve.request("DELETE", &delete, b"").ok(),
        b"ok",
        "so that Podman can forget it"
    );
    serve.lookup(&id).fails(404, "no_mapping");
    assert_eq!(serve.get("/healthz").ok(), b"ok");
}

#[test]
fn every_error_has_its_status_its_code_and_a_next_step() {
    let host = Host::new();
    let serve = host.start();
    assert_eq!(serve.hand_over(&[("app", &[])]).status, 200);
    host.write_state("other", br#"{"provider":"nitrokeyhsm","blob":""}"#);
    host.write_state("unknown", br#"{"provider":"vault"}"#);
    let id = id(1);
    let store = format!("/store/{id}");
    let cases: &[(&str, &str, &[u8], u16, &str)] = &[
        ("GET", "/lookup/nobody", b"", 404, "no_mapping"),
        ("GET", "/lookup/", b"", 400, "bad_id"),
        ("GET", "/lookup/other", b"", 500, "configuration"),
        ("GET", "/lookup/unknown", b"", 500, "corrupt_mapping"),
        ("POST", "/lookup/nobody", b"", 405, "method_not_allowed"),
        ("POST", "/store/nobody", b"{}", 400, "bad_id"),
        ("POST", &store, b"null", 400, "bad_mapping"),
        ("PUT", &store, b"{}", 405, "method_not_allowed"),
        ("DELETE", "/delete/", b"", 400, "bad_id"),
        ("DELETE", "/delete/nobody", b"", 400, "bad_id"),
        ("GET", "/delete/nobody", b"", 405, "method_not_allowed"),
        ("POST", "/healthz", b"", 405, "method_not_allowed"),
        ("POST", "/list", b"", 405, "method_not_allowed"),
        ("GET", "/cache/infisical", b"", 405, "method_not_allowed"),
        ("POST", "/cache/vault", b"{}", 404, "unknown_provider"),
        ("POST", "/cache/infisical", b"no", 400, "bad_request"),
        ("POST", "/cache/check", b"7", 400, "bad_request"),
        (
            "POST",
            "/cache/check",
            br#"{"ids": [], "x": 1}"#,
            400,
            "bad_request",
        ),
        ("POST", "/cache/invalidate", b"", 400, "bad_request"),
        (
            "POST",
            "/cache/invalidate",
            br#"{"id": "../x"}"#,
            400,
            "bad_id",
        ),
        (
            "POST",
            "/cache/invalidate",
            br#"{"id": "nobody"}"#,
            404,
            "no_mapping",
        ),
        ("POST", "/cache/init", b"{}", 409, "refused"),
        ("GET", "/", b"", 404, "not_found"),
        ("GET", "/lookup", b"", 404, "not_found"),
        ("GET", "/healthz/x", b"", 404, "not_found"),
        ("POST", "/store", b"{}", 404, "not_found"),
    ];
    for (method, path, body, status, code) in cases {
        println!("{method} {path}");
        serve.request(method, path, body).fails(*status, code);
    }
    let failed = serve.store(2, "NEVER_HANDED_OVER");
    serve.lookup(&failed).asked_the_dead_provider();
}

#[test]
fn a_path_says_which_methods_it_takes() {
    let host = Host::new();
    let serve = host.start();
    for (method, path, allowed) in [
        ("POST", "/healthz", "get"),
        ("DELETE", "/status", "get"),
        ("POST", "/list", "get"),
        ("POST", "/lookup/x", "get"),
        ("GET", "/store/x", "post"),
        ("GET", "/delete/x", "delete"),
        ("PUT", "/cache/infisical", "post"),
        ("GET", "/local/x", "put, delete"),
    ] {
        let answer = serve.request(method, path, b"");
        answer.fails(405, "method_not_allowed");
        assert_eq!(answer.header("allow"), allowed, "{method} {path}");
    }
}

#[test]
fn what_is_no_id_reaches_no_file() {
    let host = Host::new();
    let serve = host.start();
    assert_eq!(serve.hand_over(&[("app", &[("A", b"v")])]).status, 200);
    let outside = mapping("A").to_string();
    fs::write(host.path("outside"), &outside).unwrap();
    let before = host.state_files();
    let long = "a".repeat(300);
    let upper = id(0xabc).to_uppercase();
    let with_query = format!("{}?x", id(1));
    for bad in [
        "",
        ".",
        "..",
        "../outside",
        "..%2foutside",
        "%2e%2e",
        "a/b",
        "a%2fb",
        "a%00",
        ".lock",
        "cache.enc",
        "cache.enc.v1",
        "nitrokeyhsm-pubkey.der",
        "-rf",
        &long,
        &upper,
        &with_query,
        "\u{e9}",
        "a?b",
    ] {
        println!("{bad}");
        for (method, route) in [("POST", "store"), ("DELETE", "delete")] {
            let answer = serve.request(method, &format!("/{route}/{bad}"), outside.as_bytes());
            answer.fails(400, "bad_id");
        }
        if bad != upper {
            serve.lookup(bad).fails(400, "bad_id");
        }
    }
    for raw in [b"a\0b".as_slice(), b"a\x01b", b"a b", b"\xff"] {
        let request = [b"DELETE /delete/", raw, b" HTTP/1.1\r\nHost: psi\r\n\r\n"].concat();
        assert_eq!(serve.raw(&request).status, 400, "{raw:?}");
    }
    assert_eq!(host.state_files(), before);
    assert_eq!(fs::read_to_string(host.path("outside")).unwrap(), outside);
}

#[test]
fn what_is_no_mapping_is_refused_and_nothing_is_written() {
    let host = Host::new();
    let serve = host.start();
    let kept = serve.store(1, "A");
    let before = host.state_files();
    for bad in [
        b"".as_slice(),
        b"null",
        b"7",
        b"[]",
        b"\"text\"",
        b"{}",
        b"{\"provider\":null}",
        b"{\"provider\":\"vault\"}",
        b"{\"provider\":\"local\",\"n\":1}",
        b"{\"provider\":\"local\"",
        b"{\"provider\":\"local\",\"k\":\"\xff\"}",
        b"provider: local",
    ] {
        for id in [&kept, &id(2)] {
            let answer = serve.post(&format!("/store/{id}"), bad);
            answer.fails(400, "bad_mapping");
        }
    }
    let head = format!("POST /store/{} HTTP/1.1\r\nHost: psi\r\n", id(2));
    let text = mapping("A").to_string();
    let without_length = format!("{head}\r\n{text}");
    serve
        .raw(without_length.as_bytes())
        .fails(400, "bad_mapping");
    for lie in [
        "Content-Length: x\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
    ] {
        assert_eq!(
            serve
                .raw(format!("{head}{lie}\r\n{text}").as_bytes())
                .status,
            400
        );
    }
    assert_eq!(host.state_files(), before);
}

#[test]
fn a_store_that_breaks_off_writes_nothing() {
    let host = Host::new();
    let serve = host.start();
    let before = host.state_files();
    let text = mapping("A").to_string();
    let head = format!("POST /store/{} HTTP/1.1\r\nHost: psi\r\n", id(1));
    let longer = format!("{head}Content-Length: {}\r\n\r\n{text}", text.len() + 1);
    let chunk = format!("{:x}\r\n{text}\r\n", text.len());
    let unended = format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunk}");
    for request in [longer, unended] {
        let mut stream = serve.connect();
        stream.write_all(request.as_bytes()).unwrap();
        finish(&stream);
        if let Some(answer) = Answer::try_read(&mut stream) {
            assert_eq!(answer.status, 400);
        }
    }
    assert_eq!(host.state_files(), before);
}

#[test]
fn a_chunked_store_keeps_the_same_bytes() {
    let host = Host::new();
    let serve = host.start();
    let text = mapping("A").to_string();
    let (one, two) = text.split_at(10);
    let request = format!(
        "POST /store/{} HTTP/1.1\r\nHost: psi\r\nTransfer-Encoding: chunked\r\n\r\n\
         {:x}\r\n{one}\r\n{:x}\r\n{two}\r\n0\r\n\r\n",
        id(1),
        one.len(),
        two.len()
    );
    assert_eq!(serve.raw(request.as_bytes()).ok(), b"ok");
    assert_eq!(fs::read(host.state(&id(1))).unwrap(), text.as_bytes());
}

#[test]
fn a_store_that_is_too_large_is_refused_while_psi_serve_goes_on() {
    let host = Host::new();
    let serve = host.start();
    let before = host.state_files();
    let text = format!(r#"{{"provider":"local","key":"{}"}}"#, "x".repeat(10 << 20));
    let path = format!("/store/{}", id(1));
    serve.post(&path, text.as_bytes()).fails(413, "too_large");
    let head = format!("POST {path} HTTP/1.1\r\nHost: psi\r\nTransfer-Encoding: chunked\r\n\r\n");
    let chunked = format!("{head}{:x}\r\n{text}\r\n0\r\n\r\n", text.len());
    serve.raw(chunked.as_bytes()).fails(413, "too_large");
    let limit = 512_000;
    let fits = |length: usize| {
        let frame = r#"{"provider":"local","key":""}"#.len();
        format!(
            r#"{{"provider":"local","key":"{}"}}"#,
            "x".repeat(length - frame)
        )
    };
    serve
        .post(&path, fits(limit + 1).as_bytes())
        .fails(413, "too_large");
    assert_eq!(host.state_files(), before);
    assert_eq!(serve.post(&path, fits(limit).as_bytes()).ok(), b"ok");
}

#[test]
fn a_broken_state_file_is_named_and_the_others_are_served() {
    let host = Host::new();
    let broken: [(&str, &[u8]); 6] = [
        ("not-json", b"hunter2hunter2"),
        ("not-utf8", b"{\"provider\":\"local\",\"k\":\"\xff\"}"),
        ("array", b"[]"),
        ("number", b"7"),
        ("null", b"null"),
        ("empty", b""),
    ];
    for (name, bytes) in broken {
        host.write_state(name, bytes);
    }
    host.write_state("good", mapping("A").to_string().as_bytes());
    let serve = host.start();
    assert_eq!(serve.hand_over(&[("app", &[("A", b"v")])]).status, 200);
    for (name, _) in broken {
        let answer = serve.lookup(name);
        answer.fails(500, "corrupt_mapping");
        assert!(answer.detail().contains(name), "{}", answer.text());
        assert!(!answer.text().contains("hunter2"));
    }
    assert_eq!(serve.lookup("good").ok(), b"v");
    assert_eq!(serve.get("/list").ok(), b"good\n");
    assert!(!host.log().contains("hunter2"));
}

#[test]
fn a_mapping_file_that_changes_is_read_again() {
    let host = Host::new();
    let serve = host.start();
    let values: [(&str, &[u8]); 2] = [("A", b"a"), ("B", b"b")];
    assert_eq!(serve.hand_over(&[("app", &values)]).status, 200);
    let id = serve.store(1, "A");
    assert_eq!(serve.lookup(&id).ok(), b"a");
    serve.store(1, "B");
    assert_eq!(serve.lookup(&id).ok(), b"b");
    fs::remove_file(host.state(&id)).unwrap();
    serve.lookup(&id).fails(404, "no_mapping");
}

#[test]
fn a_hand_over_that_is_too_large_is_refused() {
    let host = Host::new();
    let serve = host.start();
    let head = format!(
        "POST /cache/infisical HTTP/1.1\r\nHost: psi\r\nContent-Length: {}\r\n\r\n",
        (64 << 20) + 1
    );
    serve.raw(head.as_bytes()).fails(413, "too_large");
    assert!(!host.cache_file().exists());
}

#[test]
fn a_caller_that_hangs_up_early_is_no_error() {
    let host = Host::new();
    let serve = host.start();
    let large = vec![b'x'; 1 << 20];
    assert_eq!(serve.hand_over(&[("app", &[("A", &large)])]).status, 200);
    let id = serve.store(1, "A");
    let before = host.log();
    for request in [
        String::new(),
        "GET /loo".into(),
        format!("GET /lookup/{id} HTTP/1.1\r\nHost: psi\r\n\r\n"),
    ] {
        serve.connect().write_all(request.as_bytes()).unwrap();
    }
    assert_eq!(serve.lookup(&id).ok(), large);
    assert_eq!(host.log(), before);
}

#[test]
fn what_is_not_http_is_told_so_and_psi_serve_goes_on() {
    let host = Host::new();
    let serve = host.start();
    for noise in [
        b"\0\0\0\0".as_slice(),
        b"SSH-2.0-x\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\n\r\n",
        &[0xff; 5000],
    ] {
        let answer = serve.raw(noise);
        answer.fails(400, "bad_request");
        assert_eq!(answer.detail(), "this is no HTTP request");
    }
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(70_000));
    serve.raw(long.as_bytes()).fails(414, "bad_request");
    let many = format!("GET /list HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(200));
    serve.raw(many.as_bytes()).fails(431, "bad_request");
    host.wait_for_log("is no request");
    serve.lookup("nobody").fails(404, "no_mapping");
}

#[test]
fn nothing_that_is_asked_or_answered_puts_a_value_into_the_log() {
    let host = Host::new();
    let serve = host.start();
    let canary = b"canary-5d1f".as_slice();
    let mut two_values = hand_over(&[("app", &[("A", canary), ("A", b"x")])]);
    serve
        .post("/cache/infisical", &two_values)
        .fails(409, "refused");
    two_values.truncate(two_values.len() - 3);
    serve
        .post("/cache/infisical", &two_values)
        .fails(400, "bad_request");
    let not_base64 = json!({"workloads": {"app": {"entries": [{"mapping": mapping("A"), "value": "canary-5d1f!"}]}}});
    let answer = serve.post("/cache/infisical", not_base64.to_string().as_bytes());
    answer.fails(400, "bad_request");
    assert!(!answer.text().contains("canary"));
    assert_eq!(serve.hand_over(&[("app", &[("A", canary)])]).status, 200);
    let id = serve.store(1, "A");
    assert_eq!(serve.lookup(&id).ok(), canary);
    assert!(!host.log().contains("canary"), "{}", host.log());
    for (name, bytes) in host.state_files() {
        assert!(!bytes.windows(6).any(|w| w == b"canary"), "{name}");
    }
}
