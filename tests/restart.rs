//! psi-serve behind a socket that outlives it, with a real Podman and its driver in front.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use psi::cli::block_on;
use psi::podman::{NewSecret, Podman};
use psi_test_support::podman::Podman as PodmanService;
use psi_test_support::proxy::{Proxy, Step};
use psi_test_support::psi::{Host, ask};

const SERVE: &str = env!("CARGO_BIN_EXE_psi-serve");
const DRIVER: &str = env!("CARGO_BIN_EXE_psi-secret");

const LIVE: &str = "cache: {enabled: false}\nproviders: {local: {}}\n";

/// The driver's commands as they are registered on a host whose socket is not the usual one.
fn options(socket: &Path) -> BTreeMap<String, String> {
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
    let options = options(&host.socket());
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
        thread::spawn(move || list(&socket))
    };
    thread::sleep(Duration::from_millis(300));
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

const SEALED: &str = "cache: {backend: tpm}\nproviders: {local: {}}\n";
const MAPPING: &str = r#"{"key":"KEY","project":"myproject","provider":"infisical"}"#;

/// Seals the value `sealed` for [`MAPPING`]; its provider is not even configured.
fn hand_over(socket: &Path) {
    let entry = format!(r#"{{"mapping":{MAPPING},"value":"c2VhbGVk"}}"#);
    let body = format!(r#"{{"workloads":{{"app":{{"entries":[{entry}]}}}}}}"#);
    let length = body.len();
    let head = format!("POST /cache/infisical HTTP/1.1\r\nHost: psi\r\nContent-Length: {length}");
    let (status, _, answer) = ask(socket, format!("{head}\r\n\r\n{body}").as_bytes());
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
}

#[test]
fn a_thousand_lookups_through_podman_survive_kills_in_the_middle_of_them() {
    const LOOKUPS: usize = 1000;
    const CALLERS: usize = 4;
    const KILLS: usize = 25;
    let host = Host::new();
    host.write_config(SEALED);
    let serve = Arc::new(host.serve_activated(Path::new(SERVE)));
    hand_over(&host.socket());
    let proxy = Proxy::start(&host.socket(), &host.path("proxy.sock"));
    let service = PodmanService::start();
    let new = NewSecret {
        name: "app--KEY",
        payload: MAPPING.as_bytes(),
        options: &options(proxy.socket()),
        labels: &BTreeMap::new(),
    };
    block_on(Podman::new(&service.socket()).unwrap().create(&new)).unwrap();
    let started = service.start_container("app", &["app--KEY,type=env,target=KEY"], None);
    assert!(started.status.success(), "{started:?}");

    // Each kill strikes when psi-serve has a caller's connection and owes it an answer.
    proxy.clear();
    let kills = Arc::new(AtomicUsize::new(0));
    for n in 1..=KILLS {
        let (serve, kills) = (Arc::clone(&serve), Arc::clone(&kills));
        proxy.on(n * 40, Step::Asked, move || {
            thread::sleep(Duration::from_millis(20));
            serve.kill9();
            kills.fetch_add(1, Ordering::SeqCst);
        });
    }
    thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                for _ in 0..LOOKUPS / CALLERS {
                    let output = service.exec("app", "printenv KEY");
                    assert_eq!(output.stdout, b"sealed\n", "{output:?}");
                }
            });
        }
    });
    assert_eq!(kills.load(Ordering::SeqCst), KILLS);
    assert!(serve.starts() > KILLS, "{} starts", serve.starts());
    let asked = proxy.requests().len();
    assert!(
        asked >= LOOKUPS + KILLS,
        "{asked}: each kill broke a lookup off, which asked again"
    );
}
