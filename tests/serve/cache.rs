//! Hand-overs and what is asked about the cache.

use std::fs;

use serde_json::json;

use crate::fixture::{Host, fingerprint, hand_over, id, mapping};

#[test]
fn what_was_handed_over_outlives_a_power_cut_with_the_provider_down() {
    let host = Host::new();
    let serve = host.start();
    let id = serve.store(1, "A");
    serve.lookup(&id).asked_the_dead_provider();
    let answer = serve.hand_over(&[("app", &[("A", b"v\0\n")])]);
    let counts = json!({"stored": 1, "unchanged": 0, "retired": 0});
    assert_eq!(
        answer.json(),
        json!({"generation": 1, "workloads": {"app": counts}})
    );
    assert_eq!(serve.lookup(&id).ok(), b"v\0\n");
    serve.kill();
    let serve = host.start();
    assert_eq!(serve.lookup(&id).ok(), b"v\0\n");
    assert_eq!(serve.get("/healthz").ok(), b"ok");
    assert_eq!(serve.generation(), 1);
}

/// Podman's ids change whenever a secret is created again.
#[test]
fn a_value_is_found_by_its_mapping_whatever_the_id() {
    let host = Host::new();
    let serve = host.start();
    assert_eq!(serve.hand_over(&[("app", &[("A", b"v")])]).status, 200);
    let first = serve.store(1, "A");
    assert_eq!(serve.lookup(&first).ok(), b"v");
    assert_eq!(
        serve
            .request("DELETE", &format!("/delete/{first}"), b"")
            .status,
        200
    );
    let reordered = r#"{ "key":"A", "provider":"infisical", "project":"p","path":"/" }"#;
    assert_eq!(
        serve
            .post(&format!("/store/{}", id(2)), reordered.as_bytes())
            .status,
        200
    );
    assert_eq!(serve.lookup(&id(2)).ok(), b"v");
}

#[test]
fn the_generation_counts_what_was_written_and_nothing_is_written_for_nothing() {
    let host = Host::new();
    let serve = host.start();
    let both: [(&str, &[u8]); 2] = [("A", b"1"), ("B", b"2")];
    assert_eq!(serve.hand_over(&[("app", &both)]).json()["generation"], 1);
    let before = fingerprint(&host.cache_file());
    let answer = serve.hand_over(&[("app", &both)]);
    let counts = json!({"stored": 0, "unchanged": 2, "retired": 0});
    assert_eq!(
        answer.json(),
        json!({"generation": 1, "workloads": {"app": counts}})
    );
    assert_eq!(fingerprint(&host.cache_file()), before);
    let answer = serve.hand_over(&[("app", &[("A", b"new"), ("B", b"2")])]);
    let counts = json!({"stored": 1, "unchanged": 1, "retired": 0});
    assert_eq!(
        answer.json(),
        json!({"generation": 2, "workloads": {"app": counts}})
    );
    assert_ne!(fingerprint(&host.cache_file()), before);
    assert_eq!(serve.generation(), 2);
}

#[test]
fn a_rotated_value_is_served_at_once() {
    let host = Host::new();
    let serve = host.start();
    let id = serve.store(1, "A");
    for value in [b"one".as_slice(), b"two", b"", b"one"] {
        assert_eq!(serve.hand_over(&[("app", &[("A", value)])]).status, 200);
        assert_eq!(serve.lookup(&id).ok(), value);
    }
}

#[test]
fn a_workload_that_is_not_handed_over_keeps_what_it_has() {
    let host = Host::new();
    let serve = host.start();
    let (a, b) = (serve.store(1, "A"), serve.store(2, "B"));
    assert_eq!(
        serve
            .hand_over(&[("one", &[("A", b"a")]), ("two", &[("B", b"b")])])
            .status,
        200
    );
    assert_eq!(serve.hand_over(&[("two", &[("B", b"new")])]).status, 200);
    assert_eq!(serve.lookup(&a).ok(), b"a");
    assert_eq!(serve.lookup(&b).ok(), b"new");
    let answer = serve.hand_over(&[("one", &[])]);
    assert_eq!(answer.json()["workloads"]["one"]["retired"], 1);
    assert_eq!(
        serve.lookup(&a).ok(),
        b"a",
        "running containers still ask for it"
    );
}

#[test]
fn two_workloads_may_share_a_secret_but_not_with_two_values() {
    let host = Host::new();
    let serve = host.start();
    let id = serve.store(1, "A");
    assert_eq!(
        serve
            .hand_over(&[("one", &[("A", b"v")]), ("two", &[("A", b"v")])])
            .status,
        200
    );
    let before = fingerprint(&host.cache_file());
    let within_one = hand_over(&[("one", &[("A", b"v"), ("A", b"w")])]);
    let between_two = hand_over(&[("one", &[("A", b"v")]), ("two", &[("A", b"w")])]);
    for wrong in [within_one, between_two] {
        serve.post("/cache/infisical", &wrong).fails(409, "refused");
    }
    assert_eq!(fingerprint(&host.cache_file()), before);
    assert_eq!(serve.lookup(&id).ok(), b"v");
}

#[test]
fn a_hand_over_that_is_refused_leaves_everything_as_it_was() {
    let host = Host::new();
    let serve = host.start();
    let good = hand_over(&[("app", &[("A", b"v")])]);
    let other_provider = json!({"workloads": {"app": {"entries": [
        {"mapping": mapping("A"), "value": "dg=="},
        {"mapping": {"provider": "local", "key": "B"}, "value": "dg=="},
    ]}}});
    let no_provider =
        json!({"workloads": {"app": {"entries": [{"mapping": {"key": "A"}, "value": "dg=="}]}}});
    let no_value = json!({"workloads": {"app": {"entries": [{"mapping": mapping("A")}]}}});
    let more = json!({"workloads": {}, "force": true});
    let wrong: Vec<Vec<u8>> = [other_provider, no_provider, no_value, more]
        .map(|json| json.to_string().into_bytes())
        .into_iter()
        .chain([good[..good.len() - 1].to_vec(), Vec::new()])
        .collect();
    let refuse_all = || {
        for body in &wrong {
            serve
                .post("/cache/infisical", body)
                .fails(400, "bad_request");
        }
        let no_name = hand_over(&[("", &[("A", b"v")])]);
        serve
            .post("/cache/infisical", &no_name)
            .fails(409, "refused");
    };
    refuse_all();
    assert!(!host.cache_file().exists(), "{:?}", host.state_files());
    assert_eq!(serve.status()["cache"]["state"], "absent");
    assert_eq!(serve.post("/cache/infisical", &good).status, 200);
    let before = fingerprint(&host.cache_file());
    refuse_all();
    assert_eq!(fingerprint(&host.cache_file()), before);
    serve.post("/cache/local", &good).fails(400, "bad_request");
}

#[test]
fn a_hand_over_that_cannot_be_written_leaves_the_last_one() {
    let host = Host::new();
    let serve = host.start();
    let id = serve.store(1, "A");
    assert_eq!(serve.hand_over(&[("app", &[("A", b"old")])]).status, 200);
    let before = fingerprint(&host.cache_file());
    // A directory in the temporary file's place can neither be removed nor replaced by a file.
    let obstacle = host.state(".cache.enc.new");
    fs::create_dir(&obstacle).unwrap();
    let answer = serve.hand_over(&[("app", &[("A", b"new")])]);
    answer.fails(500, "failed");
    assert!(answer.detail().contains("cache.enc"), "{}", answer.text());
    assert_eq!(fingerprint(&host.cache_file()), before);
    assert_eq!(serve.lookup(&id).ok(), b"old");
    fs::remove_dir(&obstacle).unwrap();
    assert_eq!(serve.hand_over(&[("app", &[("A", b"new")])]).status, 200);
    assert_eq!(serve.lookup(&id).ok(), b"new");
}

#[test]
fn without_a_cache_a_hand_over_is_not_taken_and_nothing_is_remembered() {
    let host = Host::new();
    for off in ["", "cache: {enabled: false, backend: tpm}"] {
        host.configure(off);
        let serve = host.start();
        let id = serve.store(1, "A");
        serve
            .hand_over(&[("app", &[("A", b"v")])])
            .fails(409, "not_cached");
        serve.lookup(&id).asked_the_dead_provider();
        assert_eq!(
            serve.check(&json!({"ids": [id]}))["ids"][0]["sealed"],
            false
        );
        serve.post("/cache/verify", b"").fails(409, "refused");
        serve.post("/cache/init", b"{}").fails(409, "refused");
        assert_eq!(serve.status()["cache"]["state"], "off");
        assert!(!host.cache_file().exists());
    }
}

#[test]
fn check_tells_what_could_be_answered_without_the_provider() {
    let host = Host::new();
    let serve = host.start();
    let (known, unknown) = (serve.store(1, "A"), serve.store(2, "B"));
    let asked = json!({
        "mappings": [mapping("A"), mapping("B")],
        "ids": [known, unknown, "nobody", "../x"],
    });
    // SHA-256 of the canonical mapping, which sha256sum(1) gives as well.
    let a = "211eaec1a548cc77c276bea68fa3fafff26aeed3e1e36fb00c3924649d78ba35";
    let b = "7d3a99958f421f51a5991cb1ad4ff21cfd4a17b033f2fce2a67e89804f8b575b";
    let id = |digest: Option<&str>, owners: serde_json::Value| {
        let sealed = owners != json!({});
        let folder = digest.map(|_| json!({"project": "p", "path": "/"}));
        json!({"digest": digest, "folder": folder, "sealed": sealed, "unresolved": false, "owners": owners})
    };
    let answer = |a_is_sealed: bool, owners: serde_json::Value, workloads: &[&str]| {
        let ids = [
            id(Some(a), owners),
            id(Some(b), json!({})),
            id(None, json!({})),
            id(None, json!({})),
        ];
        let sealed = [a_is_sealed, false];
        json!({"mappings": sealed, "variables": sealed, "resolved": sealed, "ids": ids, "workloads": workloads})
    };
    assert_eq!(serve.check(&asked), answer(false, json!({}), &[]));
    assert_eq!(serve.hand_over(&[("app", &[("A", b"v")])]).status, 200);
    let owners = json!({"app": 0});
    assert_eq!(serve.check(&asked), answer(true, owners, &["app"]));
    let nothing =
        json!({"mappings": [], "variables": [], "resolved": [], "ids": [], "workloads": ["app"]});
    assert_eq!(serve.check(&json!({})), nothing);
}

#[test]
fn an_invalidated_value_is_asked_for_anew_also_after_a_restart() {
    let host = Host::new();
    let serve = host.start();
    let (a, b) = (serve.store(1, "A"), serve.store(2, "B"));
    let invalidate = json!({"id": a}).to_string();
    let values: [(&str, &[u8]); 2] = [("A", b"a"), ("B", b"b")];
    assert_eq!(serve.hand_over(&[("app", &values)]).status, 200);
    let answer = serve.post("/cache/invalidate", invalidate.as_bytes());
    assert_eq!(answer.json(), json!({"dropped": true}));
    serve.lookup(&a).asked_the_dead_provider();
    assert_eq!(serve.lookup(&b).ok(), b"b");
    let answer = serve.post("/cache/invalidate", invalidate.as_bytes());
    assert_eq!(answer.json(), json!({"dropped": false}));
    serve.kill();
    let serve = host.start();
    serve.lookup(&a).asked_the_dead_provider();
    assert_eq!(serve.lookup(&b).ok(), b"b");
    assert_eq!(
        serve.hand_over(&[("app", &values)]).json()["workloads"]["app"]["stored"],
        1
    );
    assert_eq!(serve.lookup(&a).ok(), b"a");
}

#[test]
fn verify_reads_the_file_that_is_on_disk() {
    let host = Host::new();
    let serve = host.start();
    serve.post("/cache/verify", b"").fails(404, "not_found");
    assert_eq!(serve.hand_over(&[("app", &[("A", b"v")])]).status, 200);
    let answer = serve.post("/cache/verify", b"").json();
    assert_eq!(
        (&answer["generation"], &answer["entries"]),
        (&json!(1), &json!(1))
    );
    let mut bytes = fs::read(host.cache_file()).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(host.cache_file(), &bytes).unwrap();
    serve.post("/cache/verify", b"").fails(500, "damaged");
    fs::remove_file(host.cache_file()).unwrap();
    serve.post("/cache/verify", b"").fails(500, "damaged");
}

#[test]
fn init_makes_an_empty_cache_and_puts_an_old_one_aside_only_by_force() {
    let host = Host::new();
    let serve = host.start();
    assert_eq!(
        serve.post("/cache/init", b"{}").json()["cache"]["entries"],
        0
    );
    let id = serve.store(1, "A");
    assert_eq!(serve.hand_over(&[("app", &[("A", b"v")])]).status, 200);
    let old = fs::read(host.cache_file()).unwrap();
    serve.post("/cache/init", b"{}").fails(409, "refused");
    assert_eq!(serve.lookup(&id).ok(), b"v");
    assert_eq!(
        serve.post("/cache/init", br#"{"force": true}"#).json()["cache"]["entries"],
        0
    );
    serve.lookup(&id).asked_the_dead_provider();
    let files = host.state_files();
    let aside = files
        .iter()
        .find(|(name, _)| name.starts_with("cache.enc.replaced-"));
    assert_eq!(aside.map(|(_, bytes)| bytes), Some(&old));
}

#[test]
fn the_status_counts_and_names_no_secret() {
    let host = Host::new();
    let serve = host.start();
    let id = serve.store(1, "A_NAME");
    serve.lookup(&id).asked_the_dead_provider();
    assert_eq!(
        serve
            .hand_over(&[("a-workload", &[("A_NAME", b"v")])])
            .status,
        200
    );
    serve.lookup(&id).ok();
    let status = serve.status();
    assert_eq!(status["healthy"], true);
    assert_eq!(status["cache"]["state"], "open");
    assert_eq!(status["cache"]["entries"], 1);
    let lookups = json!({"hits": 1, "live": 0, "failed": 1, "learned": 0});
    assert_eq!(status["lookups"], lookups);
    for name in ["A_NAME", "a-workload", &id] {
        assert!(!status.to_string().contains(name), "{status}");
    }
}
