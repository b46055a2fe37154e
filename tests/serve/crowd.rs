//! Many callers at once, and those that never end what they began.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::fixture::{Answer, Host, PROGRAM, Serve, read_to_end};

const LARGE: usize = 1 << 20;

/// A host with a small value and a large one; their ids.
fn two_values(host: &Host) -> (Serve, String, String) {
    let serve = host.start();
    let large = vec![b'x'; LARGE];
    let values: [(&str, &[u8]); 2] = [("SMALL", b"v"), ("LARGE", &large)];
    assert_eq!(serve.hand_over(&[("app", &values)]).status, 200);
    let (small, large) = (serve.store(1, "SMALL"), serve.store(2, "LARGE"));
    (serve, small, large)
}

/// Each lookup is answered, and well within what a human would call at once.
fn lookups_are_fast(serve: &Serve, id: &str) {
    for _ in 0..100 {
        let start = Instant::now();
        assert_eq!(serve.lookup(id).ok(), b"v");
        assert!(start.elapsed() < Duration::from_secs(1));
    }
}

fn begin(serve: &Serve, count: usize, bytes: &[u8]) -> Vec<UnixStream> {
    let one = |_| {
        let mut stream = serve.connect();
        stream.write_all(bytes).unwrap();
        stream
    };
    (0..count).map(one).collect()
}

#[test]
fn callers_that_never_finish_hold_up_nobody_and_are_cut() {
    let host = Host::new();
    let (serve, small, large) = two_values(&host);
    let unread = format!("GET /lookup/{large} HTTP/1.1\r\nHost: psi\r\n\r\n");
    let silent = begin(&serve, 50, b"");
    let half = begin(&serve, 50, b"GET /lookup/");
    let unread = begin(&serve, 50, unread.as_bytes());
    let endless = begin(&serve, 50, b"GET /healthz HTTP/1.1\r\nX: ");
    lookups_are_fast(&serve, &small);
    let start = Instant::now();
    for mut stream in silent.into_iter().chain(half).chain(endless) {
        let last_words = read_to_end(&mut stream);
        assert!(last_words.is_empty() || last_words.starts_with(b"HTTP/1.1 408"));
    }
    assert!(start.elapsed() < Duration::from_secs(15));
    for mut stream in unread {
        assert_eq!(
            Answer::read(&mut stream).ok().len(),
            LARGE,
            "slow, not lost"
        );
    }
}

#[test]
fn a_head_without_end_is_cut_long_before_it_fills_the_memory() {
    let host = Host::new();
    let (serve, small, _) = two_values(&host);
    let mut stream = serve.connect();
    stream.write_all(b"GET /healthz HTTP/1.1\r\n").unwrap();
    let line = format!("X-Header: {}\r\n", "x".repeat(1000));
    let mut sent = 0;
    while sent < 16 << 20 && stream.write_all(line.as_bytes()).is_ok() {
        sent += line.len();
    }
    assert!(sent < 1 << 20, "{sent} bytes were taken");
    lookups_are_fast(&serve, &small);
}

#[test]
fn a_body_that_never_comes_holds_up_nobody() {
    let host = Host::new();
    let (serve, small, _) = two_values(&host);
    let head = b"POST /cache/infisical HTTP/1.1\r\nHost: psi\r\nContent-Length: 60000000\r\n\r\n{";
    let _waiting = begin(&serve, 50, head);
    lookups_are_fast(&serve, &small);
    assert_eq!(serve.hand_over(&[("app", &[("SMALL", b"v")])]).status, 200);
}

#[test]
fn two_hundred_callers_at_once_are_all_answered() {
    let host = Host::new();
    let (serve, small, large) = two_values(&host);
    let large_request = format!("GET /lookup/{large} HTTP/1.1\r\nHost: psi\r\n\r\n");
    let mut slow_readers = begin(&serve, 20, large_request.as_bytes());
    thread::scope(|scope| {
        let callers: Vec<_> = (0..200)
            .map(|_| scope.spawn(|| serve.lookup(&small)))
            .collect();
        for caller in callers {
            assert_eq!(caller.join().unwrap().ok(), b"v");
        }
    });
    for stream in &mut slow_readers {
        assert_eq!(Answer::read(stream).ok().len(), LARGE);
    }
}

#[test]
fn more_callers_than_places_are_answered_once_silent_ones_are_cut() {
    let host = Host::new();
    let (serve, small, _) = two_values(&host);
    let _silent = begin(&serve, 600, b"");
    assert_eq!(serve.lookup(&small).ok(), b"v");
}

#[test]
fn however_many_callers_there_are_descriptors_are_left_for_all_else() {
    let host = Host::new();
    drop(two_values(&host));
    let mut command = Command::new("/bin/sh");
    command.args([
        "-c",
        "ulimit -n 700 && exec \"$@\"",
        "sh",
        PROGRAM,
        "--config",
    ]);
    command.arg(host.path("config.yaml"));
    host.environment(&mut command);
    let serve = host.start_with(&mut command);
    let _silent = begin(&serve, 750, b"");
    // Its turn comes once silent ones are cut; by then it needs files of its own.
    let id = serve.store(3, "SMALL");
    assert_eq!(serve.lookup(&id).ok(), b"v");
    assert!(
        !host.log().contains("Too many open files"),
        "{}",
        host.log()
    );
}

#[test]
fn callers_that_find_no_descriptor_left_wait_and_are_answered() {
    let host = Host::new();
    let (serve, small, _) = two_values(&host);
    let few = Rlimit {
        current: Some(40),
        maximum: Some(40),
    };
    let pid = Pid::from_child(&serve.child);
    prlimit(Some(pid), Resource::Nofile, few).unwrap();
    let silent = begin(&serve, 60, b"");
    host.wait_for_log("cannot accept a connection");
    thread::scope(|scope| {
        let waiting = scope.spawn(|| serve.lookup(&small));
        drop(silent);
        assert_eq!(waiting.join().unwrap().ok(), b"v");
    });
    lookups_are_fast(&serve, &small);
    let said = host.log().matches("cannot accept a connection").count();
    assert!(said <= 3, "said {said} times");
}

#[test]
fn lookups_go_on_during_hand_overs_and_see_the_old_value_or_the_new_one() {
    let host = Host::new();
    let (serve, small, _) = two_values(&host);
    let values: [&[u8]; 2] = [b"one", b"two"];
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for n in 0..20 {
                let answer = serve.hand_over(&[("app", &[("SMALL", values[n % 2])])]);
                assert_eq!(answer.status, 200);
            }
        });
        while !writer.is_finished() {
            let value = serve.lookup(&small).ok();
            assert!(
                value == b"v" || values.contains(&value.as_slice()),
                "{value:?}"
            );
        }
    });
    assert_eq!(serve.generation(), 21);
    assert_eq!(serve.lookup(&small).ok(), b"two");
}
