//! Who may ask what: the socket token, and the caller's user id.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::fixture::{Host, Serve, id, mapping};

/// Nobody's on any machine; 65534 can't be listed.
const NOBODY: u32 = 65533;

fn with_token(serve: &Serve, path: &str, token: &str) -> u16 {
    let header = format!("Authorization: {token}\r\n");
    serve.request_with("GET", path, &header, b"").status
}

/// Every route but /healthz takes `token` and nothing else.
fn needs_token(serve: &Serve, token: &str) {
    assert_eq!(serve.get("/healthz").status, 503);
    for (method, path) in [
        ("GET", "/lookup/nobody"),
        ("GET", "/status"),
        ("GET", "/list"),
        ("GET", "/nothing"),
        ("POST", "/store/nobody"),
        ("DELETE", "/delete/nobody"),
        ("POST", "/cache/infisical"),
        ("PUT", "/local/A"),
        ("DELETE", "/local/A"),
    ] {
        serve.request(method, path, b"").fails(401, "unauthorized");
    }
    let shorter = &token[..token.len() - 1];
    for wrong in [
        "",
        "Bearer",
        "Bearer ",
        token,
        &format!("Basic {token}"),
        &format!("Bearer {shorter}"),
        &format!("Bearer {token}x"),
        &format!("bearer{token}"),
    ] {
        assert_eq!(with_token(serve, "/list", wrong), 401, "{wrong}");
    }
    assert_eq!(with_token(serve, "/list", &format!("Bearer {token}")), 200);
}

#[test]
fn a_token_in_the_configuration_is_needed_for_all_but_the_health() {
    let host = Host::new();
    host.configure("socket_token: config-token.1\ncache: {backend: tpm}");
    let serve = host.start_with(&mut host.command());
    make_unhealthy(&serve, "config-token.1");
    needs_token(&serve, "config-token.1");
    assert!(!host.log().contains("config-token"), "{}", host.log());
}

/// So that /healthz has an answer that does not depend on the provider's last call.
fn make_unhealthy(serve: &Serve, token: &str) {
    let header = format!("Authorization: Bearer {token}\r\n");
    let path = format!("/store/{}", id(1));
    let text = mapping("A").to_string();
    assert_eq!(
        serve
            .request_with("POST", &path, &header, text.as_bytes())
            .status,
        200
    );
    let lookup = format!("/lookup/{}", id(1));
    serve
        .request_with("GET", &lookup, &header, b"")
        .asked_the_dead_provider();
}

#[test]
fn the_credential_goes_before_the_variable_and_the_variable_before_the_configuration() {
    let host = Host::new();
    host.configure("socket_token: config-token.1\n");
    let mut command = host.command();
    command.env("PSI_SOCKET_TOKEN", "variable-token.2");
    let serve = host.start_with(&mut command);
    make_unhealthy(&serve, "variable-token.2");
    needs_token(&serve, "variable-token.2");
    drop(serve);
    host.deliver("psi-socket-token", b"credential-token.3\n");
    let serve = host.start_with(&mut command);
    make_unhealthy(&serve, "credential-token.3");
    needs_token(&serve, "credential-token.3");
}

#[test]
fn a_token_that_is_none_keeps_psi_serve_from_starting() {
    let host = Host::new();
    for wrong in [
        b"".as_slice(),
        b"\n",
        b"canary",
        b"canary canary",
        b"canary-canary\n\n",
        b"canary-\xff\xff",
    ] {
        host.deliver("psi-socket-token", wrong);
        let (code, log) = host.fail_to_start();
        assert_eq!(code, 78, "{log}");
        assert!(
            log.contains("psi-socket-token") && log.contains("next: "),
            "{log}"
        );
        assert!(!log.contains("canary"), "{log}");
    }
}

#[test]
fn a_new_token_is_in_force_after_a_reload_and_the_old_one_stays_good_for_a_while() {
    let host = Host::new();
    host.deliver("psi-socket-token", b"the-old-token");
    let serve = host.start_with(&mut host.command());
    host.deliver("psi-socket-token", b"the-new-token");
    assert_eq!(with_token(&serve, "/list", "Bearer the-new-token"), 401);
    serve.signal(Signal::HUP);
    host.wait_for_log("the configuration was read again");
    for (token, status) in [
        ("the-new-token", 200),
        ("the-old-token", 200),
        ("no-token-of-ours", 401),
    ] {
        assert_eq!(
            with_token(&serve, "/list", &format!("Bearer {token}")),
            status,
            "{token}"
        );
    }
    host.deliver("psi-socket-token", b"short");
    serve.signal(Signal::HUP);
    host.wait_for_log("the configuration stays as it was");
    assert_eq!(with_token(&serve, "/list", "Bearer the-new-token"), 200);
}

/// The status that another user gets; the socket is opened to all first.
fn as_nobody(host: &Host, method: &str, path: &str, body: &str) -> u16 {
    fs::set_permissions(host.path("."), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(host.socket(), fs::Permissions::from_mode(0o666)).unwrap();
    let output = Command::new("curl")
        .args([
            "--silent",
            "--max-time",
            "20",
            "--write-out",
            "%{http_code}",
        ])
        .args([
            "--output",
            "/dev/null",
            "--request",
            method,
            "--data-binary",
            body,
        ])
        .arg("--unix-socket")
        .arg(host.socket())
        .arg(format!("http://psi{path}"))
        .stdin(Stdio::null())
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().parse().unwrap()
}

fn writes_are_forbidden(host: &Host) {
    let text = mapping("B").to_string();
    for (method, path, body) in [
        ("POST", format!("/store/{}", id(2)), text.as_str()),
        ("DELETE", format!("/delete/{}", id(1)), ""),
        ("POST", "/cache/infisical".into(), r#"{"workloads": {}}"#),
        ("POST", "/cache/invalidate".into(), r#"{"id": "x"}"#),
        ("POST", "/cache/init".into(), r#"{"force": true}"#),
        ("POST", "/cache/slots".into(), r#"{"change": "test"}"#),
        ("POST", "/cache/check".into(), "{}"),
        ("POST", "/cache/verify".into(), ""),
        ("PUT", "/local/A".into(), "v"),
        ("DELETE", "/local/A".into(), ""),
        ("GET", "/list".into(), ""),
    ] {
        assert_eq!(as_nobody(host, method, &path, body), 403, "{method} {path}");
    }
}

#[test]
fn another_user_may_ask_for_the_health_and_nothing_else() {
    let host = Host::new();
    let serve = host.start();
    let id = serve.store(1, "A");
    assert_eq!(serve.hand_over(&[("app", &[("A", b"v")])]).status, 200);
    let before = host.state_files();
    assert_eq!(as_nobody(&host, "GET", "/healthz", ""), 200);
    assert_eq!(as_nobody(&host, "GET", &format!("/lookup/{id}"), ""), 403);
    assert_eq!(as_nobody(&host, "GET", "/status", ""), 403);
    writes_are_forbidden(&host);
    assert_eq!(host.state_files(), before);
}

#[test]
fn a_user_who_is_allowed_after_a_reload_may_look_up_and_never_write() {
    let host = Host::new();
    let serve = host.start();
    let id = serve.store(1, "A");
    let lookup = format!("/lookup/{id}");
    assert_eq!(serve.hand_over(&[("app", &[("A", b"v")])]).status, 200);
    let before = host.state_files();
    assert_eq!(as_nobody(&host, "GET", &lookup, ""), 403);
    host.configure(&format!(
        "allowed_uids: [{NOBODY}]\ncache: {{backend: tpm}}"
    ));
    serve.signal(Signal::HUP);
    host.wait_for_log("the configuration was read again");
    assert_eq!(as_nobody(&host, "GET", &lookup, ""), 200);
    assert_eq!(as_nobody(&host, "GET", "/status", ""), 200);
    writes_are_forbidden(&host);
    assert_eq!(host.state_files(), before);
}

#[test]
fn the_socket_and_all_files_are_for_their_owner_alone() {
    let host = Host::new();
    let serve = host.start();
    serve.store(1, "A");
    assert_eq!(serve.hand_over(&[("app", &[("A", b"v")])]).status, 200);
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&host.socket()), 0o600);
    assert_eq!(mode(&host.path("state")), 0o700);
    for (name, _) in host.state_files() {
        assert_eq!(mode(&host.state(&name)), 0o600, "{name}");
    }
}
