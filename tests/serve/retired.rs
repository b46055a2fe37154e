//! What the providers no longer have: told apart, kept, and dropped on demand.

use serde_json::{Value, json};

use crate::fixture::{Host, Serve, id};

fn owners(serve: &Serve, id: &str) -> Value {
    serve.check(&json!({"ids": [id]}))["ids"][0]["owners"].clone()
}

fn prune(serve: &Serve, body: &Value) -> usize {
    let answer = serve.post("/cache/prune", body.to_string().as_bytes());
    let dropped = answer.json()["dropped"].as_u64();
    dropped.unwrap() as usize
}

/// A and B are handed over for two workloads, then both are gone for the first.
fn start_with_two_retired(host: &Host) -> Serve {
    let serve = host.start();
    let both: &[(&str, &[u8])] = &[("A", b"1"), ("B", b"2")];
    let first = [("one", both), ("two", &both[1..])];
    assert_eq!(serve.hand_over(&first).status, 200);
    let answer = serve.hand_over(&[("one", &[])]).json();
    assert_eq!(answer["workloads"]["one"]["retired"], 2);
    serve
}

#[test]
fn check_tells_for_which_workload_a_value_is_retired_and_since_when() {
    let host = Host::new();
    let serve = start_with_two_retired(&host);
    let (a, b) = (serve.store(1, "A"), serve.store(2, "B"));
    assert!(owners(&serve, &a)["one"].as_u64().unwrap() > 1_700_000_000);
    assert!(owners(&serve, &b)["one"].as_u64().unwrap() > 1_700_000_000);
    assert_eq!(owners(&serve, &b)["two"], 0);
    let again: &[(&str, &[u8])] = &[("A", b"1")];
    assert_eq!(serve.hand_over(&[("one", again)]).status, 200);
    assert_eq!(owners(&serve, &a), json!({"one": 0}), "it is back");
}

#[test]
fn check_tells_whether_a_reference_was_left_in_a_value() {
    let host = Host::new();
    let serve = host.start();
    let values: &[(&str, &[u8])] = &[("A", b"x ${B} y"), ("B", b"$B {}")];
    assert_eq!(serve.hand_over(&[("app", values)]).status, 200);
    let ids = [serve.store(1, "A"), serve.store(2, "B")];
    let answer = serve.check(&json!({"ids": ids}));
    assert_eq!(answer["ids"][0]["unresolved"], true);
    assert_eq!(answer["ids"][1]["unresolved"], false);
}

#[test]
fn what_is_retired_is_served_until_it_is_pruned_and_then_gone_from_disk_too() {
    let host = Host::new();
    let serve = start_with_two_retired(&host);
    let (a, b) = (serve.store(1, "A"), serve.store(2, "B"));
    assert_eq!(serve.lookup(&a).ok(), b"1");
    assert_eq!(prune(&serve, &json!({"keep": {"one": [a]}})), 1);
    assert_eq!(serve.lookup(&a).ok(), b"1", "it was to be kept");
    assert_eq!(serve.lookup(&b).ok(), b"2", "another workload has it");
    assert_eq!(prune(&serve, &json!({"keep": {"one": []}})), 1);
    serve.lookup(&a).asked_the_dead_provider();
    serve.kill();
    let serve = host.start();
    serve.lookup(&a).asked_the_dead_provider();
    assert_eq!(serve.lookup(&b).ok(), b"2");
    assert_eq!(serve.status()["cache"]["entries"], 1);
}

#[test]
fn what_a_provider_still_has_is_never_pruned_and_nothing_is_written_for_nothing() {
    let host = Host::new();
    let serve = host.start();
    assert_eq!(serve.hand_over(&[("app", &[("A", b"v")])]).status, 200);
    let before = crate::fixture::fingerprint(&host.cache_file());
    let all = json!({"keep": {"app": [], "nobody": []}, "forget": ["nobody"]});
    assert_eq!(prune(&serve, &all), 0);
    assert_eq!(crate::fixture::fingerprint(&host.cache_file()), before);
    assert_eq!(serve.lookup(&serve.store(1, "A")).ok(), b"v");
}

#[test]
fn of_a_forgotten_workload_nothing_stays_but_what_another_one_has() {
    let host = Host::new();
    let serve = host.start();
    let both: &[(&str, &[u8])] = &[("A", b"1"), ("B", b"2")];
    let given = [("one", both), ("two", &both[1..])];
    assert_eq!(serve.hand_over(&given).status, 200);
    assert_eq!(prune(&serve, &json!({"forget": ["one"]})), 2);
    serve.lookup(&serve.store(1, "A")).asked_the_dead_provider();
    assert_eq!(serve.lookup(&serve.store(2, "B")).ok(), b"2");
    assert_eq!(serve.check(&json!({}))["workloads"], json!(["two"]));
}

#[test]
fn where_a_mapping_to_be_kept_cannot_be_read_nothing_is_pruned() {
    let host = Host::new();
    let serve = start_with_two_retired(&host);
    let a = serve.store(1, "A");
    host.write_state(&id(3), b"{broken");
    let body = json!({"keep": {"one": [id(3)]}}).to_string();
    let answer = serve.post("/cache/prune", body.as_bytes());
    answer.fails(500, "damaged");
    let body = json!({"keep": {"one": ["../x"]}}).to_string();
    let answer = serve.post("/cache/prune", body.as_bytes());
    answer.fails(400, "bad_request");
    assert_eq!(serve.lookup(&a).ok(), b"1");
    assert_eq!(prune(&serve, &json!({"keep": {"one": [a, id(9)]}})), 1);
    assert_eq!(serve.lookup(&a).ok(), b"1");
}
