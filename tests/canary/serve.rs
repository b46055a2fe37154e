//! psi-serve and psi-secret: lookups of every kind, and all that goes wrong for them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use psi_test_support::disk::SmallDisk;
use psi_test_support::infisical::{Fault, Identity, Route, Times};
use serde_json::{Value, json};

use crate::world::{PROJECT, World, mapping};

const NOBODY: u32 = 65534;

fn answer(status: u16, body: String) -> Fault {
    Fault::Answer {
        status,
        headers: vec![("content-type", "application/json".into())],
        body,
    }
}

#[test]
fn a_lookup_is_answered_to_who_may_ask_and_told_to_nobody_else() {
    let mut world = World::new();
    let (a, b) = (world.value("a sealed value"), world.value("a local value"));
    let serve = world.serve();
    let ids = world.hand_over(&[("A", &a)]);
    world.ask("PUT", "/local/B", b.as_bytes()).ok();
    assert_eq!(world.secret("lookup", &ids[0], b"").ended(0).stdout, a);
    world.secret("list", &ids[0], b"").ended(0);

    let wrong = world.own_file("wrong-token", b"another-token.1");
    world
        .secret_with(&wrong, "lookup", &ids[0], b"")
        .ended(1)
        .says(&["401"]);
    for (bad, mode) in [
        (world.token.clone(), 0o644),
        ("\u{e9}".to_owned() + &world.token, 0o600),
    ] {
        let bad = world.own_file("bad-token", bad.as_bytes());
        fs::set_permissions(&bad, fs::Permissions::from_mode(mode)).unwrap();
        world
            .secret_with(&bad, "lookup", &ids[0], b"")
            .ended(1)
            .says(&["token file"]);
    }
    world
        .secret("lookup", &"f".repeat(25), b"")
        .ended(1)
        .says(&["404"]);
    // What somebody registers who takes a mapping for the value.
    let mistaken = world.value("a value instead of a mapping");
    world
        .secret("store", &"e".repeat(25), mistaken.as_bytes())
        .ended(1);
    world.own_file(&format!("state/{}", "d".repeat(25)), mistaken.as_bytes());
    world.secret("lookup", &"d".repeat(25), b"").ended(1);
    let quoted = Value::from(mistaken.as_str()).to_string();
    for body in [
        mistaken.clone(),
        format!("{{\"workloads\": {quoted}}}"),
        json!({"workloads": {"app": {"entries": [{"mapping": mapping("A"), "value": mistaken}]}}})
            .to_string(),
        json!({"workloads": {"app": {"entries": [{"mapping": mistaken, "value": "eA=="}]}}})
            .to_string(),
        json!({"workloads": {"app": {mistaken.as_str(): []}}}).to_string(),
    ] {
        assert_eq!(
            world
                .ask("POST", "/cache/infisical", body.as_bytes())
                .status,
            400
        );
    }
    for name in ["slots", "init", "invalidate", "prune", "check"] {
        let path = format!("/cache/{name}");
        assert_eq!(
            world.ask("POST", &path, quoted.as_bytes()).status,
            400,
            "{name}"
        );
    }
    assert_eq!(
        status_for_nobody(&world, &format!("/lookup/{}", ids[0])),
        403
    );

    serve.signal("HUP");
    serve.kill9();
    serve.restart();
    world.settle();
    assert_eq!(world.secret("lookup", &ids[0], b"").ended(0).stdout, a);
    serve.sigterm();
    world.keeps_its_secrets();
}

/// What another user gets; the socket is opened to all first.
fn status_for_nobody(world: &World, path: &str) -> u16 {
    let open = |path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    open(world.host.path("."), 0o711);
    open(world.host.path("run"), 0o711);
    open(world.host.socket(), 0o666);
    let output = Command::new("curl")
        .args(["--silent", "--max-time", "20", "--output", "/dev/null"])
        .args(["--write-out", "%{http_code}", "--unix-socket"])
        .arg(world.host.socket())
        .arg(format!("http://psi{path}"))
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().parse().unwrap()
}

#[test]
fn a_provider_that_fails_a_lookup_is_not_quoted() {
    let mut world = World::new();
    let serve = world.serve();
    let marked = world.value("what a bad answer has in it");
    let quoted = Value::from(marked.as_str()).to_string();
    let one = Route::Secret;
    let mut n = 0;
    let mut lookup = |world: &mut World| {
        n += 1;
        let id = format!("{n:025x}");
        world.set("/app", &format!("K{n}"), &marked);
        let mapping = mapping(&format!("K{n}")).to_string();
        world.secret("store", &id, mapping.as_bytes()).ended(0);
        world.secret("lookup", &id, b"")
    };
    assert_eq!(lookup(&mut world).ended(0).stdout, marked);
    for fault in [
        answer(200, marked.clone()),
        answer(
            200,
            format!("{{\"secret\":{{\"secretKey\":\"K\",\"secretValue\":{quoted}"),
        ),
        answer(200, format!("{{\"secret\":{quoted}}}")),
        answer(
            200,
            format!("{{\"secret\":{{\"secretKey\":{quoted},\"secretValue\":{quoted}}}}}"),
        ),
        answer(
            400,
            json!({"error": "BadRequest", "message": marked}).to_string(),
        ),
        answer(
            404,
            json!({"error": "NotFound", "message": marked}).to_string(),
        ),
        answer(500, marked.clone()),
        Fault::too_many_requests(60),
        Fault::Truncated,
        Fault::Closed,
        Fault::Delay(Duration::from_secs(3)),
        Fault::Endless {
            chunked: true,
            pause: Duration::from_millis(1),
        },
    ] {
        world.infisical.fault(one, Times::Always, fault);
        lookup(&mut world).ended(1);
        world.infisical.heal();
    }
    world.infisical.forget_tokens();
    assert_eq!(lookup(&mut world).ended(0).stdout, marked);
    let listing = Identity::new("my-id", &world.secrets.client_secret).may_list(PROJECT, "/");
    world.infisical.add_identity(listing);
    lookup(&mut world).ended(1).says(&["hidden"]);
    world
        .infisical
        .add_identity(Identity::new("my-id", "another").may_read(PROJECT, "/"));
    world.infisical.forget_tokens();
    lookup(&mut world).ended(1);
    world.infisical.stop();
    lookup(&mut world).ended(1);
    for event in ["LOOKUP_LIVE", "PROVIDER_UNREACHABLE", "PROVIDER_DENIES"] {
        assert!(!world.journal.of_event(event).is_empty(), "{event}");
    }
    serve.sigterm();
    world.keeps_its_secrets();
}

#[test]
fn a_disk_that_fails_and_a_cache_that_is_damaged_show_nothing() {
    let mut world = World::new();
    let disk = SmallDisk::mount(&world.host.state_dir());
    let (old, new) = (world.value("the old value"), world.value("the new value"));
    let serve = world.serve();
    let ids = world.hand_over(&[("A", &old)]);
    let body =
        json!({"workloads": {"app": {"entries": [{"mapping": mapping("A"), "value": "bmV3"}]}}});
    let fails = |world: &World| {
        assert_eq!(world.ask("PUT", "/local/A", new.as_bytes()).status, 500);
        let body = body.to_string();
        assert_eq!(
            world
                .ask("POST", "/cache/infisical", body.as_bytes())
                .status,
            500
        );
    };
    disk.fill();
    fails(&world);
    disk.free();
    disk.make_read_only();
    fails(&world);
    disk.make_writable();
    assert_eq!(world.secret("lookup", &ids[0], b"").ended(0).stdout, old);

    // A changed byte, a cut file, another key, no key.
    serve.sigterm();
    let good = fs::read(world.host.cache_file()).unwrap();
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for damaged in [&flipped[..], &good[..good.len() / 2], b"PSIC\x02", b""] {
        fs::write(world.host.cache_file(), damaged).unwrap();
        serve.restart();
        world.settle();
        world.cachectl(&["status", "--verify"], b"");
        world.secret("lookup", &ids[0], b"").ended(1);
        serve.sigterm();
    }
    fs::write(world.host.cache_file(), &good).unwrap();
    world.deliver("psi-cache-key", &[7; 32]);
    serve.restart();
    world.settle();
    world.secret("lookup", &ids[0], b"").ended(1);
    serve.sigterm();
    world.host.remove_credential("psi-cache-key");
    serve.restart();
    world.settle();
    world.secret("lookup", &ids[0], b"").ended(1);
    world.cachectl(&["status"], b"").ended(0);
    serve.sigterm();
    world.keeps_its_secrets();
}
