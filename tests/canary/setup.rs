//! psi-setup with the real Podman, and all that goes wrong for it.

use std::path::Path;
use std::time::Duration;

use psi_test_support::infisical::{Fault, Identity, Route, Times};
use psi_test_support::marks::Kind;
use psi_test_support::podman::Podman;
use psi_test_support::proxy::{Proxy, Step};
use serde_json::{Value, json};

use crate::world::{OTHER, PATIENCE, PROJECT, SETUP, World};

const WORKLOADS: &str = "cache: {backend: tpm}
workloads:
  app: {secrets: [{project: myproject, path: /app}]}
  other: {secrets: [{project: other, path: /}]}
";

/// Podman, and the world with one value for each workload.
fn set_up() -> (Podman, Proxy, World) {
    let podman = Podman::start();
    let mut world = World::new();
    let proxy = Proxy::start(&podman.socket(), &world.host.path("podman.sock"));
    world.configure(WORKLOADS);
    let value = world.value("a value of app");
    world.set("/app", "A", &value);
    let other = world.value("a value of other");
    world.infisical.set(OTHER, "prod", "/", "B", &other);
    (podman, proxy, world)
}

/// An answer of the provider.
fn answer(status: u16, body: String) -> Fault {
    Fault::Answer {
        status,
        headers: vec![("content-type", "application/json".into())],
        body,
    }
}

/// Runs psi-setup after one bad answer to `route`.
#[track_caller]
fn after(world: &mut World, route: Route, fault: Fault) {
    world.infisical.fault(route, Times::Always, fault);
    let done = world.setup(&[]);
    assert!(matches!(done.code, Some(1 | 78)), "{done:?}");
    world.infisical.heal();
}

#[test]
fn values_reach_containers_and_nothing_else() {
    let (podman, proxy, mut world) = set_up();
    let serve = world.serve();
    world.setup(&["--dry-run"]).ended(0);
    world.setup(&[]).ended(0);
    let value = world.value("a new value of app");
    world.set("/app", "A", &value);
    world.setup(&["--json"]).ended(0);
    world.cachectl(&["refresh"], b"").ended(0);
    let secret = "app--A,type=env,target=A";
    let output = podman.run_container(&[secret], "printenv A");
    let output = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output, value + "\n", "{}", podman.service_log());

    // Killed before and after it hands over and registers a new value, and run again.
    let steps = [(1, Step::Answered), (2, Step::Asked), (2, Step::Answered)];
    for (n, (request, step)) in steps.into_iter().enumerate() {
        let value = world.value(&format!("value {n} of app"));
        world.set("/app", &format!("NEW{n}"), &value);
        kill_at(&mut world, &proxy, request, step);
        world.setup(&[]).ended(0);
    }
    serve.sigterm();
    world.keeps_its_secrets();
}

/// Kills psi-setup at a step of its `n`-th request to Podman.
fn kill_at(world: &mut World, proxy: &Proxy, n: usize, step: Step) {
    let program = world.traced("psi-setup", SETUP);
    let mut running = world.start("psi-setup", &program, &[]);
    let (reached, hook) = std::sync::mpsc::channel();
    let (go_on, waits) = std::sync::mpsc::channel();
    proxy.on(n, step, move || {
        reached.send(()).unwrap();
        let _ = waits.recv_timeout(PATIENCE);
    });
    let mut child = running.spawn();
    hook.recv_timeout(PATIENCE).unwrap();
    child.kill().unwrap();
    go_on.send(()).unwrap();
    assert_eq!(running.finish(child, b"").code, None);
}

#[test]
fn whatever_the_provider_answers_is_not_repeated() {
    let (_podman, _proxy, mut world) = set_up();
    let serve = world.serve();
    world.setup(&[]).ended(0);
    let marked = world.value("what a bad answer has in it");
    let quoted = Value::from(marked.as_str()).to_string();
    let list = Route::ListOf("/app");
    let secrets = |secrets: &str| answer(200, format!("{{\"secrets\":{secrets}"));
    let complaint = |status, error: &str| {
        let body = json!({"error": error, "message": marked});
        answer(status, body.to_string())
    };
    let entry = format!("\"secretKey\":\"A\",\"secretValue\":{quoted}");
    for fault in [
        answer(200, format!("<html><body>{marked}</body></html>")),
        secrets(&format!("[{{{entry}")),
        secrets(&format!("{quoted}}}")),
        secrets(&format!(
            "[{{\"secretKey\":\"A\",\"secretValue\":[{quoted}]}}]}}"
        )),
        secrets(&format!("[{{{entry},\"secretValue\":{quoted}}}]}}")),
        secrets(&format!("[{{{entry}}}]}} {quoted}")),
        complaint(400, "BadRequest"),
        complaint(403, "PermissionDenied"),
        complaint(404, "NotFound"),
        answer(418, marked.clone()),
        Fault::redirect("http://127.0.0.1:1/"),
        Fault::Endless {
            chunked: true,
            pause: Duration::from_millis(1),
        },
    ] {
        after(&mut world, list, fault);
    }
    let odd = world.marks.text(Kind::AccessToken, "an odd token");
    for body in [
        json!({"accessToken": odd, "expiresIn": 60}),
        json!({"accessToken": format!("{odd}\n"), "expiresIn": 60}),
        json!({"accessToken": [odd], "expiresIn": odd}),
    ] {
        after(&mut world, Route::Login, answer(200, body.to_string()));
    }
    // Tried again, with success.
    for status in [429, 500, 503] {
        let fault = answer(status, json!({"message": marked}).to_string());
        world.infisical.fault(list, Times::Next(1), fault);
        world.setup(&[]).ended(0);
    }
    serve.sigterm();
    world.keeps_its_secrets();
}

#[test]
fn values_that_are_refused_are_not_shown() {
    let (_podman, _proxy, mut world) = set_up();
    let serve = world.serve();
    world.setup(&[]).ended(0);
    let marked = world.value("a value that is refused");
    for bad in [
        format!("{marked}\0"),
        format!("{marked}{}", "x".repeat(140_000)),
        format!("{marked}{}", "x".repeat(600_000)),
        format!("{marked} ${{GONE}}"),
    ] {
        world.set("/app", "A", &bad);
        world.setup(&[]).ended(1);
    }
    world.set("/app", "A", &marked);
    let twice = world.value("a second value of one key");
    world
        .infisical
        .add_duplicate(PROJECT, "prod", "/app", "A", &twice);
    world.setup(&[]).ended(1);
    world.infisical.remove(PROJECT, "prod", "/app", "A");
    world.setup(&[]).ended(1);
    for name in ["A b", "LD_PRELOAD\n", "a=b"] {
        world.set("/app", name, &marked);
    }
    world.setup(&[]).ended(1);
    let listing = Identity::new("my-id", &world.secrets.client_secret).may_list(PROJECT, "/app");
    world.infisical.add_identity(listing);
    world.setup(&[]).ended(1);
    let other = Identity::new("my-id", "another client secret").may_read(PROJECT, "/");
    world.infisical.add_identity(other);
    world.setup(&[]).ended(1);
    serve.sigterm();
    world.keeps_its_secrets();
}

#[test]
fn a_configuration_that_can_not_be_read_is_not_quoted() {
    let mut world = World::new();
    let good = world.common() + WORKLOADS;
    let secret = Value::from(world.secrets.client_secret.as_str()).to_string();
    let pin = Value::from(world.secrets.pin.as_str()).to_string();
    let token = world.secrets.socket_token.clone();
    for (from, to) in [
        (
            format!("client_secret: {secret}"),
            format!("client_secret: {{{secret}}}"),
        ),
        (
            format!("client_secret: {secret}"),
            format!("client_secret: {secret} {secret}"),
        ),
        (
            format!("client_secret: {secret}"),
            format!("client_secret {secret}"),
        ),
        (
            format!("client_secret: {secret}"),
            format!("client_secret: !x [{secret}"),
        ),
        (
            format!("client_secret: {secret}"),
            format!("client_secret: *{secret}"),
        ),
        (format!("client_secret: {secret}"), format!("{secret}: x")),
        (format!("pin: {pin}"), format!("pin: {pin}\n   x: {{")),
        (format!("pin: {pin}"), format!("slot: {pin}")),
        (
            format!("socket_token: {token}"),
            format!("socket_token: {token}\nsocket_token: {token}"),
        ),
        (
            format!("socket_token: {token}"),
            format!("socket_token: [{token}]"),
        ),
        (
            format!("socket_token: {token}"),
            format!("lookup_timeout: {token}"),
        ),
        (
            format!("socket_token: {token}"),
            format!("\tsocket_token: {token}"),
        ),
    ] {
        assert!(good.contains(&from));
        let bad = good.replacen(&from, &to, 1);
        world.host.write_config(&bad);
        let serve = world.traced("psi-serve", crate::world::SERVE);
        let running = world.start("psi-serve", &serve, &["--strict"]);
        running.end(b"").ended(78);
        world.setup(&["--strict"]).ended(78);
        world.cachectl(&["--strict", "status"], b"").ended(78);
        // A key that is unknown is told of without it.
        world.cachectl(&["status"], b"");
    }
    world.keeps_its_secrets();
}

/// The longest waits there are, all at once.
#[test]
fn what_is_not_there_is_waited_for_and_given_up() {
    let (mut podman, _proxy, mut world) = set_up();
    let serve = world.serve();
    world.setup(&[]).ended(0);
    podman.stop_service();
    world.setup(&[]).ended(69);
    podman.start_service();
    world.infisical.stop();
    world.setup(&[]).ended(75);
    serve.sigterm();
    let token = world.host.path("token").display().to_string();
    let lookup = ["lookup", "--token-file", &token];
    let mut waiting = Vec::new();
    for (called, program, arguments, code) in [
        ("psi-setup", SETUP, &[][..], 69),
        ("psi-cachectl", crate::world::CACHECTL, &["refresh"], 69),
        ("psi-secret", crate::world::SECRET, &lookup, 1),
        ("psi-serve", crate::world::SERVE, &["--check-health"], 69),
    ] {
        let program = world.traced(called, program);
        let mut running = world.start(called, Path::new(&program), arguments);
        running.command.env("SECRET_ID", format!("{:025x}", 0));
        let child = running.spawn();
        waiting.push((running, child, code));
    }
    for (running, child, code) in waiting {
        running.finish(child, b"").ended(code);
    }
    world.keeps_its_secrets();
}
