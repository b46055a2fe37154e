//! What is in the memory of the programs when they have no use for it any more.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::mpsc::channel;

use psi_test_support::marks::{Detector, Kind, Marks};
use psi_test_support::memory::{Mapping, mappings, read};
use psi_test_support::podman::Podman;
use psi_test_support::proxy::{Proxy, Step};
use psi_test_support::swtpm::Swtpm;
use psi_test_support::wait;
use rustix::process::{Pid, Signal, kill_process};

use crate::world::{CACHECTL, PATIENCE, SECRET, SETUP, World};

/// How many values are handed over, and how often one is looked up.
const VALUES: usize = 200;
const LOOKUPS: usize = 1000;

/// Longer than any look at a process takes, in microseconds.
const HELD: u64 = 60_000_000;

/// Every copy of a marked secret in the mappings that `counts` takes, by where it is.
pub fn held(pid: u32, marks: &Marks, counts: impl Fn(&Mapping) -> bool) -> Vec<Held> {
    let detector = Detector::new(marks);
    let mut pieces: BTreeMap<_, usize> = BTreeMap::new();
    for mapping in mappings(pid).iter().filter(|mapping| counts(mapping)) {
        let place = match mapping.name.as_str() {
            "" => "an anonymous mapping",
            name => name,
        };
        for (_, found) in detector.find_all(&read(pid, mapping)) {
            *pieces.entry((found, place.to_owned())).or_default() += 1;
        }
    }
    let held = pieces.into_iter().map(|((found, place), pieces)| Held {
        kind: found.kind,
        pieces,
        words: format!("{} ({}) in {place}", found.name, found.encoding),
    });
    held.collect()
}

/// A secret in memory.
#[derive(Debug)]
pub struct Held {
    kind: Kind,
    /// Two make a whole copy.
    pieces: usize,
    pub words: String,
}

pub fn unprotected(mapping: &Mapping) -> bool {
    !mapping.is_protected()
}

pub fn anywhere(_: &Mapping) -> bool {
    true
}

/// Expects that what is held is what the configuration and the logins are kept in.
#[track_caller]
pub fn is_only_configuration(held: &[Held]) {
    let most_copies = |kind| match kind {
        Kind::ClientSecret | Kind::SocketToken | Kind::Pin => 1,
        // hyper's own is in the buffer of the connection that is kept to the provider.
        Kind::AccessToken => 2,
        _ => 0,
    };
    let is_leak = |held: &&Held| held.pieces > 2 * most_copies(held.kind);
    let leaks: Vec<_> = held.iter().filter(is_leak).collect();
    assert!(leaks.is_empty(), "{leaks:#?}");
}

#[test]
fn psi_serve_has_values_in_protected_memory_only_and_forgotten_ones_nowhere() {
    let mut world = World::new();
    let serve = world.serve();
    let new_value = |n: usize| {
        let value = world.marks.text(Kind::Value, "a sealed value");
        (format!("K{n}"), value)
    };
    let values: Vec<_> = (0..VALUES).map(new_value).collect();
    let borrowed: Vec<_> = values
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect();
    let ids = world.hand_over(&borrowed);
    let local = world.value("a local value");
    world.ask("PUT", "/local/L", local.as_bytes()).ok();
    let look_up = |world: &World, id: &str| world.ask("GET", &format!("/lookup/{id}"), b"").ok();
    for n in 0..LOOKUPS {
        let found = look_up(&world, &ids[n % VALUES]);
        assert_eq!(found, values[n % VALUES].1.as_bytes());
    }
    let live = world.value("a live value");
    world.set("/app", "LIVE", &live);
    let id = "1".repeat(25);
    let mapping = crate::world::mapping("LIVE").to_string();
    world
        .ask("POST", &format!("/store/{id}"), mapping.as_bytes())
        .ok();
    assert_eq!(look_up(&world, &id), live.as_bytes());
    world.mark_access_tokens_so_far();
    is_only_configuration(&held(serve.pid(), &world.marks, unprotected));

    let mut forgotten = Marks::default();
    for (id, value) in [(&ids[0], &values[0].1), (&id, &live)] {
        let (head, tail) = (
            &value.as_bytes()[..16],
            &value.as_bytes()[value.len() - 16..],
        );
        forgotten.add(Kind::Value, "a value that was dropped", &[head, tail]);
        world.cachectl(&["invalidate", id], b"").ended(0);
    }
    let left = held(serve.pid(), &forgotten, anywhere);
    assert!(left.is_empty(), "{left:#?}");
}

#[test]
fn psi_setup_has_no_value_once_it_has_handed_it_over() {
    let podman = Podman::start();
    let mut world = World::new();
    let proxy = Proxy::start(&podman.socket(), &world.host.path("podman.sock"));
    world.configure(
        "cache: {backend: tpm}\nworkloads:\n  app: {secrets: [{project: myproject, path: /app}]}\n",
    );
    for n in 0..VALUES {
        let value = world.marks.text(Kind::Value, "a value");
        world.set("/app", &format!("K{n}"), &value);
    }
    let serve = world.serve();
    let program = world.traced("psi-setup", SETUP);
    let mut running = world.start("psi-setup", &program, &[]);
    let (reached, registering) = channel();
    let (go_on, looked_at) = channel::<()>();
    // The first request lists what Podman has.
    proxy.on(2, Step::Asked, move || {
        reached.send(()).unwrap();
        let _ = looked_at.recv_timeout(PATIENCE);
    });
    let mut child = running.spawn();
    registering.recv_timeout(PATIENCE).unwrap();
    world.mark_access_tokens_so_far();
    let held = held(child.id(), &world.marks, anywhere);
    child.kill().unwrap();
    drop(go_on);
    running.finish(child, b"");
    drop(serve);
    is_only_configuration(&held);
}

/// Runs a program up to its last call, and tells what it holds there.
fn held_at_exit(world: &mut World, program: &str, arguments: &[&str], stdin: &[u8]) -> Vec<Held> {
    let trace = world.host.path("exit");
    let inject = format!("--inject=exit_group:delay_enter={HELD}");
    let path = trace.display().to_string();
    let strace = [
        "-D",
        "-f",
        "--quiet=attach",
        "--trace=exit_group",
        &inject,
        "-o",
        &path,
    ];
    let arguments = [&strace[..], &[program], arguments].concat();
    let mut running = world.start("at exit", Path::new("strace"), &arguments);
    running.command.env("SECRET_ID", format!("{:025x}", 0));
    let mut child = running.spawn();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), stdin).unwrap();
    wait::until(&format!("end of {program}"), || {
        let text = fs::read_to_string(&trace).unwrap_or_default();
        text.contains("exit_group(")
    });
    let text = fs::read_to_string(&trace).unwrap();
    let held = held(child.id(), &world.marks, anywhere);
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let tracer = status.lines().find_map(|l| l.strip_prefix("TracerPid:"));
    let tracer = tracer.unwrap().trim().parse().unwrap();
    // The process goes on to its end then.
    kill_process(Pid::from_raw(tracer).unwrap(), Signal::KILL).unwrap();
    child.wait().unwrap();
    fs::remove_file(&trace).unwrap();
    assert!(text.contains("exit_group(0"), "it succeeds: {text}");
    held
}

#[test]
fn no_program_leaves_a_value_or_a_key_in_its_memory_when_it_ends() {
    let tpm = Swtpm::start();
    let mut world = World::new();
    world.host.remove_credential("psi-cache-key");
    let tcti = tpm.tcti();
    world.configure(&format!(
        "cache: {{backend: tpm, tpm: {{tcti: \"{tcti}\"}}}}\n"
    ));
    let printed = world.cachectl(&["init", "--backend", "tpm", "--recovery"], b"");
    let key = world.mark_recovery_key(&printed.ended(0));
    let (a, b) = (world.value("a value"), world.value("a local value"));
    let no_key = world.host.path("none").display().to_string();
    let cachectl = |arguments: &[&'static str]| {
        let sealed_key = ["--sealed-key".to_owned(), no_key.clone()];
        let arguments = arguments.iter().map(|&argument| argument.to_owned());
        sealed_key.into_iter().chain(arguments).collect::<Vec<_>>()
    };
    let put = cachectl(&["put", "A"]);
    let test = cachectl(&["slots", "test", "--recovery"]);
    let mut leaks = Vec::new();
    for runs in [false, true] {
        let serve = runs.then(|| world.serve());
        for (arguments, stdin) in [(&put, &b), (&test, &key)] {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            leaks.extend(held_at_exit(
                &mut world,
                CACHECTL,
                &arguments,
                stdin.as_bytes(),
            ));
        }
        if runs {
            world.hand_over(&[("A", &a)]);
            let token = world.host.path("token").display().to_string();
            let lookup = ["lookup", "--token-file", &token];
            leaks.extend(held_at_exit(&mut world, SECRET, &lookup, b""));
        }
        drop(serve);
    }
    assert!(leaks.is_empty(), "{leaks:#?}");
}
