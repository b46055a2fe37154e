//! What psi-serve takes from systemd and tells it.

use std::process::Command;

use psi_test_support::notify::Manager;
use rustix::process::Signal;

use crate::fixture::{Host, PROGRAM, wait_until};

#[test]
fn it_is_ready_once_the_cache_is_open_and_pings_the_watchdog() {
    let host = Host::new();
    let manager = Manager::new(&host.path("notify"));
    let mut command = host.command();
    command
        .env("NOTIFY_SOCKET", manager.path())
        .env("WATCHDOG_USEC", "200000");
    let serve = host.start_with(&mut command);
    let ready = manager.wait_for("READY=1");
    assert!(ready.contains("STATUS=cache absent, 0 values"), "{ready}");
    manager.wait_for("WATCHDOG=1");
    manager.wait_for("WATCHDOG=1");
    assert_eq!(serve.hand_over(&[("app", &[("A", b"v")])]).status, 200);
    let status = manager.wait_for("STATUS=");
    assert!(
        status.starts_with("STATUS=cache open, 1 values"),
        "{status}"
    );
}

#[test]
fn a_reload_and_the_end_are_announced() {
    let host = Host::new();
    let manager = Manager::new(&host.path("notify"));
    let mut command = host.command();
    command.env("NOTIFY_SOCKET", manager.path());
    let mut serve = host.start_with(&mut command);
    manager.wait_for("READY=1");
    serve.signal(Signal::HUP);
    let reloading = manager.wait_for("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    manager.wait_for("READY=1");
    host.configure("nonsense: 1");
    serve.signal(Signal::HUP);
    manager.wait_for("RELOADING=1");
    manager.wait_for("READY=1");
    serve.signal(Signal::TERM);
    manager.wait_for("STOPPING=1");
    assert_eq!(serve.wait().code(), Some(0));
}

#[test]
fn a_closed_cache_is_in_the_status_line() {
    let host = Host::new();
    let serve = host.start();
    assert_eq!(serve.hand_over(&[("app", &[("A", b"v")])]).status, 200);
    drop(serve);
    host.deliver("psi-cache-key", b"");
    let manager = Manager::new(&host.path("notify"));
    let mut command = host.command();
    command.env("NOTIFY_SOCKET", manager.path());
    let _serve = host.start_with(&mut command);
    let ready = manager.wait_for("READY=1");
    assert!(
        ready.contains("STATUS=cache closed") && ready.contains("is empty"),
        "{ready}"
    );
}

#[test]
fn a_socket_from_systemd_is_used_and_stays_when_psi_serve_ends() {
    let host = Host::new();
    let mut command = Command::new("systemd-socket-activate");
    command.arg("--listen").arg(host.socket());
    let credentials = host.path("credentials");
    command.arg(format!(
        "--setenv=CREDENTIALS_DIRECTORY={}",
        credentials.display()
    ));
    command
        .arg(PROGRAM)
        .arg("--config")
        .arg(host.path("config.yaml"));
    host.environment(&mut command);
    let mut serve = host.start_with(&mut command);
    let id = serve.store(1, "A");
    assert_eq!(serve.hand_over(&[("app", &[("A", b"v")])]).status, 200);
    assert_eq!(serve.lookup(&id).ok(), b"v");
    serve.signal(Signal::TERM);
    assert_eq!(serve.wait().code(), Some(0));
    assert!(host.socket().exists());
}

/// Variables that were meant for a parent process.
#[test]
fn a_socket_for_another_process_is_not_taken_for_ours() {
    let host = Host::new();
    let mut command = host.command();
    command.env("LISTEN_PID", "1").env("LISTEN_FDS", "1");
    let serve = host.start_with(&mut command);
    wait_until("the socket", || host.socket().exists());
    serve.lookup("nobody").fails(404, "no_mapping");
}
