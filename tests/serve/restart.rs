//! How psi-serve starts beside another one, opens, reloads and ends.

use std::fs;
use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::fixture::{Answer, Host, KEY, PATIENCE, PROGRAM, Serve, mapping, wait, wait_until};

#[test]
fn a_second_psi_serve_takes_neither_the_lock_nor_the_socket() {
    let host = Host::new();
    let serve = host.start();
    assert_eq!(serve.hand_over(&[("app", &[("A", b"v")])]).status, 200);
    let id = serve.store(1, "A");
    let (code, log) = host.fail_to_start();
    assert_eq!(code, 69, "{log}");
    assert!(log.contains("another process holds"), "{log}");
    assert!(log.contains("next: "), "{log}");
    assert_eq!(serve.lookup(&id).ok(), b"v");
}

#[test]
fn a_socket_on_which_another_program_answers_is_left_to_it() {
    let host = Host::new();
    let _other = UnixListener::bind(host.socket()).unwrap();
    let (code, log) = host.fail_to_start();
    assert_eq!(code, 1, "{log}");
    assert!(log.contains("is in use"), "{log}");
    UnixStream::connect(host.socket()).unwrap();
}

#[test]
fn what_a_killed_psi_serve_left_behind_does_not_matter() {
    let host = Host::new();
    let serve = host.start();
    let id = serve.store(1, "A");
    assert_eq!(serve.hand_over(&[("app", &[("A", b"v")])]).status, 200);
    serve.kill();
    assert!(host.socket().exists());
    host.write_state(".cache.enc.new", b"half a sa");
    host.write_state(&format!(".{id}.new"), b"{\"provider\":");
    let serve = host.start();
    assert_eq!(serve.lookup(&id).ok(), b"v");
    assert_eq!(serve.get("/list").ok(), format!("{id}\n").as_bytes());
    serve.store(1, "A");
    assert_eq!(serve.hand_over(&[("app", &[("A", b"w")])]).status, 200);
    assert_eq!(serve.lookup(&id).ok(), b"w");
    let names: Vec<String> = host
        .state_files()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names, [".lock", &id, "cache.enc"]);
}

#[test]
fn sigterm_lets_a_request_that_is_under_way_be_answered() {
    let host = Host::new();
    let mut serve = host.start();
    let text = mapping("A").to_string();
    let head = format!(
        "POST /store/{} HTTP/1.1\r\nHost: psi\r\nContent-Length: {}\r\n\r\n",
        crate::fixture::id(1),
        text.len()
    );
    let mut stream = serve.connect();
    stream.write_all(head.as_bytes()).unwrap();
    // Its turn has come once a later one was answered.
    assert_eq!(serve.get("/list").status, 200);
    serve.signal(Signal::TERM);
    host.wait_for_log("stopping");
    assert!(serve.is_running());
    stream.write_all(text.as_bytes()).unwrap();
    assert_eq!(Answer::read(&mut stream).ok(), b"ok");
    assert_eq!(serve.wait().code(), Some(0));
    assert!(!host.socket().exists());
    assert_eq!(
        fs::read(host.state(&crate::fixture::id(1))).unwrap(),
        text.as_bytes()
    );
}

#[test]
fn sigterm_lets_a_caller_that_is_slow_to_ask_be_answered() {
    let host = Host::new();
    let mut serve = host.start();
    let id = serve.store(1, "A");
    assert_eq!(serve.hand_over(&[("app", &[("A", b"v")])]).status, 200);
    let mut slow = serve.connect();
    // Its connection is taken once a later one's was.
    assert_eq!(serve.get("/list").status, 200);
    serve.signal(Signal::TERM);
    host.wait_for_log("stopping");
    let request = format!("GET /lookup/{id} HTTP/1.1\r\nHost: psi\r\n\r\n");
    slow.write_all(request.as_bytes()).unwrap();
    assert_eq!(Answer::read(&mut slow).ok(), b"v");
    assert_eq!(serve.wait().code(), Some(0));
}

#[test]
fn sigterm_ends_it_soon_while_silent_callers_hold_connections() {
    let host = Host::new();
    let mut serve = host.start();
    let _silent: Vec<UnixStream> = (0..20).map(|_| serve.connect()).collect();
    assert_eq!(serve.get("/list").status, 200);
    let start = Instant::now();
    serve.signal(Signal::TERM);
    assert_eq!(serve.wait().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn sigterm_ends_it_as_process_1_of_a_container() {
    let host = Host::new();
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--", PROGRAM, "--config"]);
    command.arg(host.path("config.yaml"));
    host.environment(&mut command);
    let mut unshare = host.start_with(&mut command);
    let pid = unshare.child.id();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let psi_serve = Pid::from_raw(children.trim().parse().unwrap()).unwrap();
    kill_process(psi_serve, Signal::TERM).unwrap();
    assert_eq!(unshare.wait().code(), Some(0));
}

/// A host whose cache has one value and whose key is a pipe: it comes when it is written.
fn slow_to_open() -> (Host, String) {
    let host = Host::new();
    let serve = host.start();
    let id = serve.store(1, "A");
    assert_eq!(serve.hand_over(&[("app", &[("A", b"v")])]).status, 200);
    drop(serve);
    let key = host.path("credentials/psi-cache-key");
    fs::remove_file(&key).unwrap();
    mknodat(CWD, &key, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    (host, id)
}

fn deliver_late(host: &Host) {
    fs::write(host.path("credentials/psi-cache-key"), KEY).unwrap();
}

fn is_opening(serve: &Serve) -> bool {
    serve.status()["cache"]["state"] == "opening"
}

#[test]
fn requests_wait_while_the_cache_is_being_opened() {
    let (host, id) = slow_to_open();
    let serve = host.start_with(&mut host.command());
    assert!(is_opening(&serve));
    serve.get("/healthz").fails(503, "opening");
    thread::scope(|scope| {
        let lookups: Vec<_> = (0..20).map(|_| scope.spawn(|| serve.lookup(&id))).collect();
        let check = scope.spawn(|| serve.check(&json!({"ids": [id]})));
        let hand_over = scope.spawn(|| serve.hand_over(&[("other", &[])]));
        serve.lookup("nobody").fails(404, "no_mapping");
        assert!(is_opening(&serve));
        deliver_late(&host);
        for lookup in lookups {
            assert_eq!(lookup.join().unwrap().ok(), b"v");
        }
        assert_eq!(check.join().unwrap()["ids"][0]["sealed"], true);
        assert_eq!(hand_over.join().unwrap().status, 200);
    });
    assert_eq!(serve.get("/healthz").ok(), b"ok");
}

#[test]
fn a_lookup_that_waits_for_the_cache_is_answered_after_sigterm() {
    let (host, id) = slow_to_open();
    let mut serve = host.start_with(&mut host.command());
    let mut waiting = serve.connect();
    let request = format!("GET /lookup/{id} HTTP/1.1\r\nHost: psi\r\n\r\n");
    waiting.write_all(request.as_bytes()).unwrap();
    assert!(is_opening(&serve));
    serve.signal(Signal::TERM);
    host.wait_for_log("stopping");
    deliver_late(&host);
    assert_eq!(Answer::read(&mut waiting).ok(), b"v");
    assert_eq!(serve.wait().code(), Some(0));
}

#[test]
fn a_device_that_hangs_holds_up_neither_a_reload_nor_the_end() {
    let (host, _) = slow_to_open();
    let mut serve = host.start_with(&mut host.command());
    assert!(is_opening(&serve));
    serve.signal(Signal::HUP);
    assert!(is_opening(&serve));
    serve.signal(Signal::TERM);
    let start = Instant::now();
    assert_eq!(serve.wait().code(), Some(0));
    assert!(start.elapsed() < PATIENCE / 2);
}

#[test]
fn a_reload_tries_a_closed_cache_again() {
    let host = Host::new();
    let serve = host.start();
    let id = serve.store(1, "A");
    assert_eq!(serve.hand_over(&[("app", &[("A", b"v")])]).status, 200);
    drop(serve);
    host.deliver("psi-cache-key", b"");
    let serve = host.start();
    assert_eq!(serve.status()["cache"]["state"], "closed");
    host.deliver("psi-cache-key", &KEY);
    serve.signal(Signal::HUP);
    wait_until("an open cache", || {
        serve.status()["cache"]["state"] == "open"
    });
    assert_eq!(serve.lookup(&id).ok(), b"v");
}

#[test]
fn a_bad_new_configuration_leaves_the_old_one_in_force_and_says_so() {
    let host = Host::new();
    let mut serve = host.start();
    let id = serve.store(1, "A");
    assert_eq!(serve.hand_over(&[("app", &[("A", b"v")])]).status, 200);
    host.configure("lookup_timeoutt: canary-1f0a\n");
    serve.signal(Signal::HUP);
    host.wait_for_log("the configuration stays as it was");
    assert!(
        host.log().contains("did you mean `lookup_timeout`?"),
        "{}",
        host.log()
    );
    assert!(!host.log().contains("canary"), "{}", host.log());
    assert_eq!(serve.lookup(&id).ok(), b"v");
    host.configure("cache: {backend: tpm}");
    serve.signal(Signal::HUP);
    host.wait_for_log("the configuration was read again");
    assert!(serve.is_running());
}

#[test]
fn check_health_says_whether_lookups_can_be_answered() {
    let host = Host::new();
    let check = || {
        let mut child = host.command().arg("--check-health").spawn().unwrap();
        wait(&mut child).code()
    };
    assert_eq!(check(), Some(69));
    assert!(host.log().contains("does not answer"), "{}", host.log());
    let serve = host.start();
    let id = serve.store(1, "A");
    serve.lookup(&id).asked_the_dead_provider();
    assert_eq!(check(), Some(69));
    assert!(
        host.log().contains("there is no cache file yet"),
        "{}",
        host.log()
    );
    assert_eq!(serve.hand_over(&[("app", &[("A", b"v")])]).status, 200);
    assert_eq!(check(), Some(0));
}

#[test]
fn check_health_waits_for_a_cache_that_is_being_opened() {
    let (host, _) = slow_to_open();
    let _serve = host.start_with(&mut host.command());
    let mut check = host.command().arg("--check-health").spawn().unwrap();
    host.wait_for_log("answered 503: opening the cache");
    assert_eq!(check.try_wait().unwrap(), None);
    deliver_late(&host);
    assert_eq!(wait(&mut check).code(), Some(0));
}
