//! Does one slow provider call hold up those whose values are cached?
//!
//! Cached values are looked up 200 times a second, first alone and then while one lookup of an
//! unknown value waits 5 s for its provider. Prints the hits' p50 and p99 of both, and the ratio.
//! Run it with `cargo bench --bench slow_provider`.

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]

use std::path::Path;
use std::time::{Duration, Instant};

use psi_test_support::infisical::{Fault, Identity, Route, StandIn, Times};
use psi_test_support::psi::{Host, ask};

const PROJECT: &str = "11111111-1111-1111-1111-111111111111";
const KNOWN: &str = "aaaaaaaaaaaaaaaaaaaaaaaaa";
const UNKNOWN: &str = "bbbbbbbbbbbbbbbbbbbbbbbbb";
const SLOW: Duration = Duration::from_secs(5);
const EVERY: Duration = Duration::from_millis(5);

fn main() {
    let infisical = StandIn::start();
    infisical.set(PROJECT, "prod", "/myapp", "UNKNOWN", "late");
    infisical.add_identity(Identity::new("id", "secret").may_read(PROJECT, "/"));
    infisical.fault(Route::Secret, Times::Always, Fault::Delay(SLOW));
    let host = Host::new();
    host.write_config(&config(&infisical.url()));
    let _serve = host.serve(Path::new(env!("CARGO_BIN_EXE_psi-serve")));
    let socket = host.socket();
    store(&socket, KNOWN, "KNOWN");
    store(&socket, UNKNOWN, "UNKNOWN");
    let entry = format!(r#"{{"mapping":{},"value":"djE="}}"#, mapping("KNOWN"));
    let bundle = format!(r#"{{"workloads":{{"myapp":{{"entries":[{entry}]}}}}}}"#);
    assert_eq!(post(&socket, "/cache/infisical", &bundle), 200);

    hits(&socket, Duration::from_secs(1));
    let alone = hits(&socket, SLOW);
    let beside = std::thread::scope(|scope| {
        let slow = scope.spawn(|| lookup(&socket, UNKNOWN));
        let beside = hits(&socket, SLOW - Duration::from_millis(500));
        assert!(
            !slow.is_finished(),
            "the slow call was in flight all the time"
        );
        assert_eq!(slow.join().unwrap(), b"late");
        beside
    });
    report("alone", &alone);
    report("beside a slow call", &beside);
    let ratio = percentile(&beside, 99).as_secs_f64() / percentile(&alone, 99).as_secs_f64();
    println!("p99 ratio: {ratio:.2} (to be at most 2)");
}

fn config(url: &str) -> String {
    format!(
        "lookup_timeout: 20s
providers:
  infisical:
    api_url: {url}
    auth: {{method: universal-auth, client_id: id, client_secret: secret}}
    projects: {{myproject: {{id: {PROJECT}}}}}
cache: {{backend: tpm}}
"
    )
}

fn mapping(key: &str) -> String {
    format!(r#"{{"provider":"infisical","project":"myproject","path":"/myapp","key":"{key}"}}"#)
}

fn store(socket: &Path, id: &str, key: &str) {
    assert_eq!(post(socket, &format!("/store/{id}"), &mapping(key)), 200);
}

fn post(socket: &Path, path: &str, body: &str) -> u16 {
    let length = body.len();
    let request =
        format!("POST {path} HTTP/1.1\r\nHost: psi\r\nContent-Length: {length}\r\n\r\n{body}");
    ask(socket, request.as_bytes()).0
}

fn lookup(socket: &Path, id: &str) -> Vec<u8> {
    let request = format!("GET /lookup/{id} HTTP/1.1\r\nHost: psi\r\n\r\n");
    let (status, _, value) = ask(socket, request.as_bytes());
    assert_eq!(status, 200);
    value
}

/// How long each hit took, sorted.
fn hits(socket: &Path, during: Duration) -> Vec<Duration> {
    let start = Instant::now();
    let mut times = Vec::new();
    while start.elapsed() < during {
        let asked = Instant::now();
        assert_eq!(lookup(socket, KNOWN), b"v1");
        times.push(asked.elapsed());
        std::thread::sleep(EVERY.saturating_sub(asked.elapsed()));
    }
    times.sort();
    times
}

fn percentile(times: &[Duration], percent: usize) -> Duration {
    times[(times.len() - 1) * percent / 100]
}

fn report(name: &str, times: &[Duration]) {
    let (p50, p99) = (percentile(times, 50), percentile(times, 99));
    println!("{name}: {} hits, p50 {p50:?}, p99 {p99:?}", times.len());
}
