//! A state directory that the Python program left: its cache of version 1, and its mappings.

use std::fs;

use psi_test_support::vectors::version1;
use serde_json::{Value, json};

use crate::fixture::{Host, Serve, hand_over, id};

fn mapping(key: &str) -> Value {
    json!({"provider": "infisical", "project": "myproject", "path": "/myapp", "key": key})
}

/// The file `name` of the vectors in the cache's place, and mappings of two of its three values.
fn migrated(name: &str) -> Host {
    let host = Host::new();
    host.deliver("psi-cache-key", &version1("credential"));
    for (n, key) in [(1, "DB_HOST"), (2, "DB_PASSWORD")] {
        host.write_state(&id(n), mapping(key).to_string().as_bytes());
    }
    host.write_state("cache.enc", &version1(name));
    host
}

/// Hands over `values` for `workload`, with the mappings that the vectors have.
fn hands_over(serve: &Serve, workload: &str, values: &[(&str, &[u8])]) {
    let mut body: Value = serde_json::from_slice(&hand_over(&[(workload, values)])).unwrap();
    for entry in body["workloads"][workload]["entries"]
        .as_array_mut()
        .unwrap()
    {
        let key = entry["mapping"]["key"].as_str().unwrap().to_owned();
        entry["mapping"] = mapping(&key);
    }
    let answer = serve.post("/cache/infisical", body.to_string().as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.text());
}

const WORKLOADS: &str = "
cache: {backend: tpm}
workloads:
  one: {secrets: [{project: p}]}
  two: {secrets: [{project: p}]}
";

#[test]
fn its_values_are_served_at_once_while_the_provider_is_down() {
    let host = migrated("tpm_file");
    let serve = host.start();
    assert_eq!(serve.lookup(&id(1)).ok(), b"db.example.com");
    assert_eq!(serve.lookup(&id(2)).ok(), b"\0not text\xff\n");
    assert_eq!(serve.status()["cache"]["entries"], 3);
    host.wait_for_log("3 values were carried over from a cache of version 1");
    assert_eq!(
        fs::read(host.state("cache.enc.v1")).unwrap(),
        version1("tpm_file")
    );
    serve.kill();
    assert_eq!(host.start().lookup(&id(1)).ok(), b"db.example.com");
}

#[test]
fn what_no_mapping_names_goes_once_every_workload_was_handed_over_and_the_old_file_at_the_next_start()
 {
    let host = migrated("tpm_file");
    host.configure(WORKLOADS);
    let serve = host.start();
    hands_over(&serve, "one", &[("DB_HOST", b"new.example.com")]);
    assert_eq!(serve.status()["cache"]["entries"], 3, "not every workload");
    let both = json!({"workloads": {"one": {"entries": []}, "two": {"entries": []}}});
    assert_eq!(
        serve
            .post("/cache/infisical", both.to_string().as_bytes())
            .status,
        200
    );
    host.wait_for_log("1 values of the old cache of version 1 were dropped");
    // Retired by the hand-over, or named by a mapping: both are still somebody's.
    assert_eq!(serve.lookup(&id(1)).ok(), b"new.example.com");
    assert_eq!(serve.lookup(&id(2)).ok(), b"\0not text\xff\n");
    assert_eq!(serve.status()["cache"]["entries"], 2);
    assert!(host.state("cache.enc.v1").exists());
    serve.kill();
    let serve = host.start();
    assert_eq!(serve.lookup(&id(2)).ok(), b"\0not text\xff\n");
    assert!(!host.state("cache.enc.v1").exists());
    // Its secret is removed: the value goes with the next hand-over.
    assert_eq!(
        serve
            .request("DELETE", &format!("/delete/{}", id(2)), b"")
            .status,
        200
    );
    assert_eq!(
        serve
            .post("/cache/infisical", both.to_string().as_bytes())
            .status,
        200
    );
    assert_eq!(serve.status()["cache"]["entries"], 1);
}

#[test]
fn one_that_can_not_be_opened_is_kept_and_tried_again_once_it_can() {
    let host = migrated("tpm_file");
    host.deliver("psi-cache-key", &[9; 32]);
    let serve = host.start();
    assert_eq!(
        serve.lookup(&id(1)).status,
        500,
        "the provider does not know it"
    );
    let why = serve.status()["why"].to_string();
    assert!(
        why.contains("it is another key, or the file is damaged"),
        "{why}"
    );
    assert_eq!(fs::read(host.cache_file()).unwrap(), version1("tpm_file"));
    assert_eq!(host.state_files().len(), 4, "the lock and what was there");
    serve.kill();
    host.deliver("psi-cache-key", &version1("credential"));
    assert_eq!(host.start().lookup(&id(1)).ok(), b"db.example.com");
}

#[test]
fn one_that_a_token_sealed_says_so() {
    let host = migrated("hsm_file");
    let serve = host.start();
    let why = serve.status()["why"].to_string();
    assert!(
        why.contains("sealed by a PKCS#11 token (tag 2, HSM)"),
        "{why}"
    );
    assert_eq!(fs::read(host.cache_file()).unwrap(), version1("hsm_file"));
}
