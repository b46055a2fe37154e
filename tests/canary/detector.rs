//! A leak is found, wherever it is: each is made once, on purpose.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;

use psi_test_support::wait;

use crate::dumps::dump_while_it_has;
use crate::world::{SECRET, World};

/// Has a program that is called like one of ours leak a value in its own way, and expects that it
/// is found in `place`.
fn finds(place: &str, leak: impl FnOnce(&mut World, &str)) {
    let mut world = World::new();
    let value = world.value("the value");
    leak(&mut world, &value);
    let leaks = world.leaks();
    let is_it = |leak: &String| leak.starts_with("the value") && leak.contains(place);
    assert!(leaks.iter().any(is_it), "{place}: {leaks:?}");
}

/// Runs a script that has the value on its standard input.
fn script(world: &mut World, value: &str, script: &str) {
    let shell = world.traced("psi-setup", "/bin/bash");
    let running = world.start(
        "psi-setup",
        &shell,
        &["-c", &format!("IFS= read -r V\n{script}")],
    );
    let line = value.to_owned() + "\n";
    running.end(line.as_bytes());
}

#[test]
fn in_a_file_in_every_encoding() {
    for encode in [
        "cat",
        "od -An -v -tx1 | tr -d ' \\n'",
        "base64 -w 0",
        "base64 -w 0 | tr +/ -_",
        r#"perl -pe 's|(["\\/])|\\$1|g'"#,
        r#"perl -pe 's/(.)/sprintf "\\u%04x", ord $1/ge'"#,
        r#"perl -pe 's/(\W)/sprintf "%%%02X", ord $1/ge'"#,
        r#"perl -pe 's/(.)/sprintf "%%%02x", ord $1/ge'"#,
        "tr a-z A-Z",
        "cut -c 1-20",
    ] {
        finds("state/leaked", |world, value| {
            let file = world.host.state_dir().join("leaked");
            let write = format!("printf %s \"$V\" | {encode} >'{}'", file.display());
            script(world, value, &write);
        });
    }
}

#[test]
fn in_a_file_that_is_gone_again() {
    finds("state/gone\"), written by psi-setup", |world, value| {
        let file = world.host.state_dir().join("gone").display().to_string();
        script(
            world,
            value,
            &format!("printf %s \"$V\" >'{file}'; rm '{file}'"),
        );
    });
}

#[test]
fn in_an_argument() {
    finds("an argument of psi-setup", |world, value| {
        script(world, value, "/bin/true \"$V\"");
    });
}

#[test]
fn in_a_variable() {
    finds("a variable of psi-setup", |world, value| {
        script(world, value, "V=$V /bin/true");
    });
}

#[test]
fn in_the_environment_of_a_process_that_runs() {
    let mut world = World::new();
    let value = world.value("the value");
    let mut running = world.start("psi-setup", Path::new("/bin/sleep"), &["60"]);
    let mut child = running.command.env("V", value).spawn().unwrap();
    // In the middle of execve(2) it has neither.
    let of_it = |file: &str| fs::read(format!("/proc/{}/{file}", child.id())).unwrap_or_default();
    wait::until("start of the program", || {
        of_it("cmdline").starts_with(b"/bin/sleep") && !of_it("environ").is_empty()
    });
    world.look_at("psi-setup", child.id());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(world.leaks().concat().contains("environ of psi-setup"));
}

#[test]
fn in_the_log() {
    finds("stderr\"), written by psi-setup", |world, value| {
        script(world, value, "printf '%s\\n' \"$V\" >&2");
    });
}

#[test]
fn in_the_journal() {
    finds("journal/received", |world, value| {
        let send = r#"socket(S, AF_UNIX, SOCK_DGRAM, 0);
            send(S, "MESSAGE=" . <STDIN>, 0, sockaddr_un("/run/systemd/journal/socket"))"#;
        let pipe = format!("printf '%s\\n' \"$V\" | perl -MSocket -e '{send}'");
        script(world, value, &pipe);
    });
}

#[test]
fn on_standard_output() {
    finds("stdout\"), written by psi-setup", |world, value| {
        script(world, value, "printf '%s\\n' \"$V\"");
    });
}

#[test]
fn in_a_core_dump() {
    finds("cores/core", |world, value| {
        let shell = world.traced("psi-setup", "/bin/bash");
        let wait = "IFS= read -r V; read -r W";
        let mut running = world.start("psi-setup", &shell, &["-c", wait]);
        let mut child = running.spawn();
        let line = value.to_owned() + "\n";
        let stdin = child.stdin.as_mut().unwrap();
        stdin.write_all(line.as_bytes()).unwrap();
        dump_while_it_has(world, "the value", child.id());
        assert_eq!(running.finish(child, b"").code, None);
    });
}

#[test]
fn at_a_port_that_is_not_the_provider() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    finds(&format!("Port({port})"), |world, value| {
        script(
            world,
            value,
            &format!("printf %s \"$V\" >/dev/tcp/127.0.0.1/{port}"),
        );
    });
}

#[test]
fn at_the_provider_that_has_no_use_for_it() {
    finds("Port(", |world, value| {
        let port = world.infisical.address().port();
        script(
            world,
            value,
            &format!("printf %s \"$V\" >/dev/tcp/127.0.0.1/{port}"),
        );
    });
}

#[test]
fn at_a_unix_socket_that_is_not_psi_serves() {
    let mut world = World::new();
    let socket = world.host.path("another.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let reader = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read(&mut [0; 16]).unwrap()
    });
    let program = world.traced("psi-secret", SECRET);
    let token = world.host.path("token").display().to_string();
    let mut running = world.start("psi-secret", &program, &["list", "--token-file", &token]);
    running.command.env("PSI_SOCKET", &socket);
    let mut child = running.spawn();
    reader.join().unwrap();
    std::fs::remove_file(&socket).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let leaks = world.leaks().concat();
    assert!(
        leaks.contains("the delivered socket token (raw)") && leaks.contains("another.sock"),
        "{leaks}"
    );
}

#[test]
fn in_an_answer_that_is_none_to_a_lookup() {
    let mut world = World::new();
    let value = world.value("the value");
    let socket = world.host.socket();
    let listener = UnixListener::bind(&socket).unwrap();
    let reader = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
    });
    let perl = world.traced("psi-serve", "/usr/bin/perl");
    let send = format!(
        "use Socket; $v = <STDIN>; socket(S, AF_UNIX, SOCK_STREAM, 0); \
         connect(S, sockaddr_un('{}')); send(S, \"HTTP/1.1 200 OK\\r\\n\\r\\n$v\", 0)",
        socket.display()
    );
    let running = world.start("psi-serve", &perl, &["-e", &send]);
    running.end(value.as_bytes()).ended(0);
    reader.join().unwrap();
    let leaks = world.leaks().concat();
    assert!(
        leaks.contains("the value (raw)") && leaks.contains("psi.sock"),
        "{leaks}"
    );
}
