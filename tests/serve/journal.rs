//! What psi-serve writes to the journal, and what it does not.

use std::path::Path;
use std::process::Command;

use psi_test_support::journal::{Entry, Journal};
use rustix::process::Signal;

use crate::fixture::{Host, PROGRAM, Serve, hand_over, id, mapping, wait_until};

const WORKLOADS: &str = "
cache: {backend: tpm}
workloads:
  app: {secrets: [{project: p}]}
  web: {secrets: [{project: p}, {project: p, path: /web}]}
";

/// psi-serve, with the journal as its standard error.
fn command(host: &Host, journal: &Journal) -> Command {
    let mut command = Command::new(journal.program(Path::new(PROGRAM)));
    command.arg("--config").arg(host.path("config.yaml"));
    host.environment(&mut command);
    command
}

fn start(host: &Host, journal: &Journal) -> Serve {
    host.start_with(&mut command(host, journal))
}

fn field<'e>(entry: &'e Entry, name: &str) -> &'e str {
    entry.get(name).map_or("", String::as_str)
}

/// The only entry of an event.
fn one(journal: &Journal, event: &str) -> Entry {
    let entries = journal.of_event(event);
    assert_eq!(entries.len(), 1, "{event}: {:?}", journal.entries());
    entries.into_iter().next().unwrap()
}

#[test]
fn a_failed_lookup_is_in_the_journal_with_its_name_and_one_from_memory_is_not() {
    let host = Host::new();
    host.configure(WORKLOADS);
    let journal = Journal::new(&host.path("journal"));
    let serve = start(&host, &journal);
    let known = serve.store(1, "A");
    let unknown = serve.store(2, "B");
    let web = id(3);
    let text = mapping("C").to_string().replace(r#""/""#, r#""/web""#);
    serve.post(&format!("/store/{web}"), text.as_bytes()).ok();
    serve
        .post("/cache/infisical", &hand_over(&[("app", &[("A", b"v")])]))
        .ok();
    let before = journal.entries().len();
    assert_eq!(serve.lookup(&known).ok(), b"v");
    assert_eq!(journal.entries().len(), before);

    serve.lookup(&unknown).asked_the_dead_provider();
    let entry = one(&journal, "PROVIDER_UNREACHABLE");
    assert_eq!(field(&entry, "PSI_SECRET"), "app--B, web--B");
    assert_eq!(field(&entry, "PSI_PROVIDER"), "infisical");
    assert_eq!(field(&entry, "PSI_OUTCOME"), "unreachable");
    assert_eq!(field(&entry, "PRIORITY"), "4");
    assert_eq!(field(&entry, "SYSLOG_IDENTIFIER"), "psi-serve");
    assert_eq!(field(&entry, "MESSAGE_ID").len(), 32);
    let message = field(&entry, "MESSAGE");
    for part in [
        unknown.as_str(),
        "app--B, web--B",
        "answered 502",
        "; next: ",
    ] {
        assert!(message.contains(part), "{message}");
    }

    serve.lookup(&web).asked_the_dead_provider();
    let entries = journal.of_event("PROVIDER_UNREACHABLE");
    assert_eq!(field(&entries[1], "PSI_SECRET"), "web--C");

    serve.lookup("nobody").fails(404, "no_mapping");
    let entry = one(&journal, "SECRET_UNKNOWN");
    assert_eq!(field(&entry, "PSI_SECRET"), "nobody");
    assert_eq!(field(&entry, "PSI_OUTCOME"), "not-found");
    assert_eq!(host.log(), "", "nothing is logged twice");
}

#[test]
fn each_kind_of_failure_has_a_message_id_of_its_own() {
    let host = Host::new();
    host.configure(WORKLOADS);
    let journal = Journal::new(&host.path("journal"));
    let serve = start(&host, &journal);
    host.write_state("broken", b"no mapping");
    serve.lookup("broken").fails(500, "corrupt_mapping");
    serve.get("/nothing").fails(404, "not_found");
    serve
        .post("/cache/infisical", b"{}")
        .fails(400, "bad_request");
    host.configure("nonsense: 1");
    serve.signal(Signal::HUP);
    wait_until("the reload", || {
        !journal.of_event("RELOAD_FAILED").is_empty()
    });
    let events = ["MAPPING_UNUSABLE", "REQUEST_REFUSED", "RELOAD_FAILED"];
    let ids = events.map(|event| field(&journal.of_event(event)[0], "MESSAGE_ID").to_owned());
    assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2]);
    assert_eq!(field(&one(&journal, "RELOAD_FAILED"), "PRIORITY"), "3");
}

/// A datagram holds 208 KiB by default.
#[test]
fn an_entry_that_is_too_large_for_a_datagram_comes_nonetheless() {
    let host = Host::new();
    let name = |n: usize| format!("{n:0>95}");
    let workload = |n| format!("  \"{}\": {{secrets: [{{project: p}}]}}\n", name(n));
    let workloads: String = (0..1300).map(workload).collect();
    host.configure(&format!("workloads:\n{workloads}"));
    let journal = Journal::new(&host.path("journal"));
    let serve = start(&host, &journal);
    let id = serve.store(1, "A");
    serve.lookup(&id).asked_the_dead_provider();
    let entry = one(&journal, "PROVIDER_UNREACHABLE");
    assert!(field(&entry, "PSI_SECRET").contains(&format!("{}--A", name(1299))));
    assert_eq!(journal.files(), 1);
}

#[test]
fn the_level_is_that_of_the_variable() {
    let host = Host::new();
    let journal = Journal::new(&host.path("journal"));
    let mut command = command(&host, &journal);
    let serve = host.start_with(command.env("PSI_LOG", "error"));
    serve.lookup("nobody").fails(404, "no_mapping");
    assert_eq!(journal.entries(), Vec::<Entry>::new());
}

#[test]
fn a_psi_serve_that_can_not_start_says_so_in_the_journal() {
    let host = Host::new();
    host.configure("nonsense: 1");
    let journal = Journal::new(&host.path("journal"));
    assert_eq!(command(&host, &journal).status().unwrap().code(), Some(78));
    let entry = one(&journal, "ENDED_CONFIGURATION");
    assert_eq!(field(&entry, "PRIORITY"), "3");
    assert!(field(&entry, "MESSAGE").contains("nonsense"));
}
