//! psi-serve behind a socket that outlives it, with a real Podman and its driver in front.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use psi::cli::block_on;
use psi::podman::{NewSecret, Podman};
use psi_test_support::done::Done;
use psi_test_support::podman::Podman as PodmanService;
use psi_test_support::proxy::{Proxy, Step};
use psi_test_support::psi::{Host, ask};
use psi_test_support::wait;

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

/// psi-secret as Podman runs it, again and again, in the background of a test.
struct Callers<'h> {
    host: &'h Host,
    answered: AtomicUsize,
    is_over: AtomicBool,
}

const ID: &str = "0123456789abcdef012345678";

impl<'h> Callers<'h> {
    /// On a host with a sealed value and a file for the token.
    fn new(host: &'h Host) -> Self {
        hand_over(&host.socket());
        let head = format!("POST /store/{ID} HTTP/1.1\r\nHost: psi\r\nContent-Length: ");
        let request = format!("{head}{}\r\n\r\n{MAPPING}", MAPPING.len());
        assert_eq!(ask(&host.socket(), request.as_bytes()).0, 200);
        Self {
            host,
            answered: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
        }
    }

    /// Runs `story` while three callers look up. None of their lookups may fail.
    fn look_up_during(&self, story: impl FnOnce()) {
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !self.is_over.load(Ordering::SeqCst) {
                        self.look_up();
                    }
                });
            }
            let outcome = catch_unwind(AssertUnwindSafe(story));
            self.is_over.store(true, Ordering::SeqCst);
            outcome.unwrap_or_else(|panic| resume_unwind(panic));
        });
    }

    fn look_up(&self) {
        let mut command = Command::new(DRIVER);
        command.args(["lookup", "--socket"]).arg(self.host.socket());
        command.arg("--token-file").arg(token_file(self.host));
        command.env_clear().env("SECRET_ID", ID);
        let done = Done::run(command, b"").ended(0);
        assert_eq!(done.stdout, "sealed");
        self.answered.fetch_add(1, Ordering::SeqCst);
    }

    /// Waits for a few more of them.
    fn go_on(&self) {
        let before = self.answered.load(Ordering::SeqCst);
        wait::until("more lookups", || {
            self.answered.load(Ordering::SeqCst) > before + 10
        });
    }
}

fn token_file(host: &Host) -> PathBuf {
    host.path("socket-token")
}

fn write_private(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// As docs/configuration.md has it.
#[test]
fn a_new_socket_token_takes_three_commands_and_fails_no_lookup() {
    let host = Host::new();
    host.write_config(SEALED);
    let serve = host.serve_activated(Path::new(SERVE));
    write_private(&token_file(&host), "token-number-0\n");
    let callers = Callers::new(&host);
    callers.look_up_during(|| {
        for n in 1..=3 {
            let before = fs::read_to_string(token_file(&host)).unwrap();
            let before = before.lines().next().unwrap();
            let both = format!("token-number-{n}\n{before}\n");
            let new = host.path("socket-token.new");
            write_private(&new, &both);
            host.set_credential("psi-socket-token", both.as_bytes());
            assert!(serve.sigterm().success());
            serve.restart();
            callers.go_on();
            fs::rename(&new, token_file(&host)).unwrap();
            callers.go_on();
        }
    });
    let status = |n: usize| {
        let head = "GET /list HTTP/1.1\r\nHost: psi\r\nAuthorization: Bearer token-number-";
        ask(&host.socket(), format!("{head}{n}\r\n\r\n").as_bytes()).0
    };
    assert_eq!([3, 2, 1, 0].map(status), [200, 200, 401, 401]);
    assert!(!serve.log().contains("token-number"), "{}", serve.log());
}

#[test]
fn a_reload_fails_no_lookup_and_names_what_waits_for_a_restart() {
    let host = Host::new();
    host.write_config(SEALED);
    let serve = host.serve_activated(Path::new(SERVE));
    write_private(&token_file(&host), "no-token-is-needed\n");
    let callers = Callers::new(&host);
    let pid = serve.pid();
    let reload = |config: &str, says: &str| {
        host.write_config(config);
        let before = serve.log().matches(says).count();
        serve.signal("HUP");
        wait::until(says, || serve.log().matches(says).count() > before);
        callers.go_on();
    };
    let read = "the configuration was read again";
    callers.look_up_during(|| {
        for n in 0..10 {
            reload(&format!("allowed_uids: [{n}]\n{SEALED}"), read);
            reload("allowed_uids: [x]", "the configuration stays as it was");
        }
        assert!(!serve.log().contains("before a restart"), "{}", serve.log());
        let changed = "changed, and not in force before a restart: cache.on_unseal_failure, cache.tpm.pcrs; next: `systemctl restart psi-secrets.service`";
        let cache = "cache: {backend: tpm, on_unseal_failure: recreate, tpm: {pcrs: [4]}}\n";
        reload(&format!("{cache}providers: {{local: {{}}}}\n"), changed);
        reload(SEALED, read);
    });
    assert_eq!((serve.pid(), serve.starts()), (pid, 1));
}
