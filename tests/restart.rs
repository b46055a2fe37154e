//! psi-serve behind a socket that outlives it, with a real Podman and its driver in front.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::path::Path;

use psi::cli::block_on;
use psi::podman::{NewSecret, Podman};
use psi_test_support::podman::Podman as PodmanService;
use psi_test_support::psi::{Host, ask};

const SERVE: &str = env!("CARGO_BIN_EXE_psi-serve");
const DRIVER: &str = env!("CARGO_BIN_EXE_psi-secret");

const LIVE: &str = "cache: {enabled: false}\nproviders: {local: {}}\n";

/// The driver's commands as they are registered on a host whose socket is not the usual one.
fn options(host: &Host) -> BTreeMap<String, String> {
    let socket = host.socket();
    let line = |c: &str| format!("exec {DRIVER} {c} --socket {}", socket.display());
    ["store", "lookup", "delete", "list"]
        .map(|command| (command.to_owned(), line(command)))
        .into()
}

fn list(socket: &Path) -> String {
    let (status, _, body) = ask(socket, b"GET /list HTTP/1.1\r\nHost: psi\r\n\r\n");
    assert_eq!(status, 200);
    String::from_utf8(body).unwrap()
}

#[test]
fn a_kill_costs_podman_waiting_and_no_error() {
    let host = Host::new();
    host.write_config(LIVE);
    let serve = host.serve_activated(Path::new(SERVE));
    let service = PodmanService::start();
    let podman = Podman::new(&service.socket()).unwrap();
    let options = options(&host);
    let labels = BTreeMap::new();
    let mut ids = Vec::new();
    for n in 0..3 {
        serve.kill9();
        let name = format!("app--KEY{n}");
        let new = NewSecret {
            name: &name,
            payload: br#"{"provider":"local","key":"KEY"}"#,
            options: &options,
            labels: &labels,
        };
        ids.push(block_on(podman.create(&new)).unwrap());
    }
    assert!(serve.starts() >= 4, "{} starts", serve.starts());
    ids.sort();
    assert_eq!(list(&host.socket()).lines().collect::<Vec<_>>(), ids);

    serve.kill9();
    block_on(podman.remove(&ids[0])).unwrap();
    assert_eq!(list(&host.socket()).lines().count(), 2);
}

#[test]
fn a_service_that_is_stopped_stays_down_and_its_clients_queue() {
    let host = Host::new();
    host.write_config(LIVE);
    let serve = host.serve_activated(Path::new(SERVE));
    assert!(serve.sigterm().success(), "{}", serve.log());
    let waiting = {
        let socket = host.socket();
        std::thread::spawn(move || list(&socket))
    };
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(!waiting.is_finished());
    assert_eq!(serve.starts(), 1);
    serve.restart();
    assert_eq!(waiting.join().unwrap(), "");
}

#[test]
fn a_service_that_binds_its_own_socket_can_be_killed_and_started_again() {
    let host = Host::new();
    host.write_config(LIVE);
    let serve = host.serve(Path::new(SERVE));
    serve.kill9();
    serve.restart();
    assert_eq!((list(&host.socket()).as_str(), serve.starts()), ("", 2));
    assert!(serve.sigterm().success(), "{}", serve.log());
    assert!(!host.socket().exists());
}
