//! No core dump of any program has a secret in it, not even while the program needs one.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use psi_test_support::infisical::{Fault, Route, Times};
use psi_test_support::memory::{mappings, read};
use psi_test_support::podman::Podman;
use psi_test_support::wait;
use rustix::process::{Pid, Signal, kill_process};

use crate::memory::{anywhere, held};
use crate::world::{CACHECTL, SECRET, SETUP, World};

/// Waits until the process has `name` in its memory, then has it dump its core and end. Where dumps
/// go elsewhere than into its directory, what would be in one is written there in its stead.
pub fn dump_while_it_has(world: &World, name: &str, pid: u32) {
    wait::until(name, || {
        let held = held(pid, &world.marks, anywhere);
        held.iter().any(|held| held.words.starts_with(name))
    });
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    if pattern.starts_with(['|', '/']) && !world.forbids_dumps(pid) {
        let mappings = mappings(pid);
        let dumped = mappings.iter().filter(|mapping| mapping.is_dumped());
        let core: Vec<u8> = dumped.flat_map(|mapping| read(pid, mapping)).collect();
        fs::write(world.cores.join("core"), core).unwrap();
    }
    let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    kill_process(pid, Signal::ABORT).unwrap();
}

#[test]
fn of_psi_serve_with_its_cache() {
    let mut world = World::new();
    let value = world.value("a value");
    let serve = world.serve();
    let ids = world.hand_over(&[("A", &value)]);
    world.secret("lookup", &ids[0], b"").ended(0);
    let secret = "the configured client secret";
    dump_while_it_has(&world, secret, serve.pid());
    drop(serve);
    world.keeps_its_secrets();
}

#[test]
fn of_psi_setup_with_what_it_fetched() {
    let podman = Podman::start();
    let mut world = World::new();
    world.configure(
        "cache: {backend: tpm}\nworkloads:\n  \
         app: {secrets: [{project: myproject, path: /app}, {project: myproject, path: /slow}]}\n",
    );
    std::os::unix::fs::symlink(podman.socket(), world.host.path("podman.sock")).unwrap();
    let value = world.value("a value");
    world.set("/app", "A", &value);
    world.set("/slow", "B", "b");
    let delay = Fault::Delay(Duration::from_secs(60));
    world
        .infisical
        .fault(Route::ListOf("/slow"), Times::Always, delay);
    let serve = world.serve();
    let program = world.traced("psi-setup", SETUP);
    let mut running = world.start("psi-setup", &program, &[]);
    let child = running.spawn();
    dump_while_it_has(&world, "a value", child.id());
    assert_eq!(running.finish(child, b"").code, None);
    serve.sigterm();
    world.keeps_its_secrets();
}

#[test]
fn of_psi_cachectl_with_what_was_typed() {
    let mut world = World::new();
    let value = world.value("a value");
    let program = world.traced("psi-cachectl", CACHECTL);
    let mut running = world.start("psi-cachectl", &program, &["put", "A"]);
    let mut child = running.spawn();
    child
        .stdin
        .as_mut()
        .unwrap()
        .write_all(value.as_bytes())
        .unwrap();
    dump_while_it_has(&world, "a value", child.id());
    assert_eq!(running.finish(child, b"").code, None);
    world.keeps_its_secrets();
}

#[test]
fn of_psi_secret_with_an_answer() {
    let mut world = World::new();
    let value = world.value("a value");
    let listener = UnixListener::bind(world.host.socket()).unwrap();
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{value}");
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(answer.as_bytes()).unwrap();
        stream
    });
    let program = world.traced("psi-secret", SECRET);
    let token = world.host.path("token").display().to_string();
    let mut running = world.start("psi-secret", &program, &["lookup", "--token-file", &token]);
    running.command.env("SECRET_ID", format!("{:025x}", 0));
    let child = running.spawn();
    let stream = server.join().unwrap();
    dump_while_it_has(&world, "a value", child.id());
    assert_eq!(running.finish(child, b"").code, None);
    drop(stream);
    world.keeps_its_secrets();
}
