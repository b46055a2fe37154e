//! Those who ask: a connection a request, one after the other, as Podman's lookups come.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

/// The request for a value.
pub fn request(id: &str) -> Vec<u8> {
    format!("GET /lookup/{id} HTTP/1.1\r\nHost: psi\r\n\r\n").into_bytes()
}

/// The answer to `request`, byte for byte, and how long it took from connecting to the end.
pub fn ask(socket: &Path, request: &[u8]) -> (Vec<u8>, Duration) {
    let start = Instant::now();
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = Vec::with_capacity(512);
    stream.read_to_end(&mut answer).unwrap();
    (answer, start.elapsed())
}

/// `count` lookups by one caller, taking its requests in turn: how long each took.
pub fn one(socket: &Path, requests: &[Vec<u8>], count: usize) -> Vec<Duration> {
    let turns = requests.iter().cycle().take(count);
    let lookup = |request: &Vec<u8>| {
        let (answer, took) = ask(socket, request);
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "a value");
        took
    };
    turns.map(lookup).collect()
}

/// The same by `callers` at once, `count` each.
pub fn many(socket: &Path, requests: &[Vec<u8>], callers: usize, count: usize) -> Vec<Duration> {
    let together = Barrier::new(callers);
    thread::scope(|scope| {
        let caller = || {
            together.wait();
            one(socket, requests, count)
        };
        let callers: Vec<_> = (0..callers).map(|_| scope.spawn(caller)).collect();
        callers
            .into_iter()
            .flat_map(|c| c.join().unwrap())
            .collect()
    })
}

/// The time that `per_mille` of 1000 stay within.
pub fn percentile(times: &[Duration], per_mille: usize) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    sorted[(sorted.len() - 1) * per_mille / 1000]
}
