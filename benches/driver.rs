//! What does Podman pay for one lookup through `psi-secret`?
//!
//! Podman runs a shell that becomes the driver, and holds its lock on all secrets meanwhile. The
//! floor is the same shell with nothing to do. Both, and curl in the driver's place, take turns
//! call by call. A round counts by the call at its lower quartile, as most of the slower ones
//! waited for other programs; the median of the rounds' ratios is the result. Run it with
//! `cargo bench --bench driver`.

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use psi_test_support::goals::{Goals, median, ms};
use psi_test_support::psi::{Host, ask};

const DRIVER: &str = env!("CARGO_BIN_EXE_psi-secret");
const ID: &str = "aaaaaaaaaaaaaaaaaaaaaaaaa";
const VALUE: &[u8] = b"a value of ordinary length";

const ROUNDS: usize = 15;
const CALLS: usize = 100;

/// What a lookup may cost, as a multiple of the shell alone.
const MAX_RATIO: f64 = 2.5;

/// Largest program, in KiB.
const MAX_SIZE: f64 = 600.0;

fn main() -> ExitCode {
    let host = Host::new();
    host.write_config("providers: {local: {}}\ncache: {backend: tpm}\n");
    let _serve = host.serve(Path::new(env!("CARGO_BIN_EXE_psi-serve")));
    let socket = host.socket();
    send(&socket, "PUT", "/local/KEY", VALUE);
    let mapping = br#"{"provider":"local","key":"KEY"}"#;
    send(&socket, "POST", &format!("/store/{ID}"), mapping);

    let socket = socket.display();
    let lines = [
        "true".to_owned(),
        format!("exec {DRIVER} lookup --socket {socket}"),
        format!("exec curl -sf --unix-socket {socket} http://psi/lookup/$SECRET_ID"),
    ];
    let expected = [&b""[..], VALUE, VALUE];
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let mut times = [const { Vec::new() }; 3];
        for _ in 0..CALLS {
            for (i, line) in lines.iter().enumerate() {
                times[i].push(call(line, expected[i]));
            }
        }
        rounds.push(times.map(lower_quartile));
    }

    let of = |i: usize| median(&rounds.iter().map(|round| round[i]).collect::<Vec<_>>());
    for (i, what) in ["sh -c true", "psi-secret", "curl"].iter().enumerate() {
        println!("{what}: {:.2} ms", ms(of(i)));
    }
    let ratio = |i: usize| {
        let ratios = rounds
            .iter()
            .map(|r| r[i].as_secs_f64() / r[0].as_secs_f64());
        median(&ratios.collect::<Vec<_>>())
    };
    println!("curl, to sh -c true: {:.2}", ratio(2));
    let mut goals = Goals::default();
    goals.at_most("psi-secret, to sh -c true", ratio(1), MAX_RATIO, "");
    let size = fs::metadata(DRIVER).unwrap().len() as f64 / 1024.0;
    goals.at_most("size of psi-secret", size, MAX_SIZE, " KiB");
    goals.exit()
}

fn lower_quartile(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 4]
}

/// How long a shell takes for `line`, run as Podman runs a driver's command: the id in the
/// environment, the value through a pipe.
fn call(line: &str, expected: &[u8]) -> Duration {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", line])
        .env("SECRET_ID", ID)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let start = Instant::now();
    let output = command.output().unwrap();
    let took = start.elapsed();
    assert!(output.status.success(), "{line}");
    assert_eq!(output.stdout, expected, "{line}");
    took
}

fn send(socket: &Path, method: &str, path: &str, body: &[u8]) {
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: psi\r\nContent-Length: {length}\r\n\r\n");
    let (status, _, answer) = ask(socket, &[head.as_bytes(), body].concat());
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
}
