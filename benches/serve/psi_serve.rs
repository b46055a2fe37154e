//! A psi-serve with some number of values, all of which can be looked up by an id.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use psi_test_support::psi::{Host, ask};

use crate::callers;

const PROGRAM: &str = env!("CARGO_BIN_EXE_psi-serve");

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running psi-serve whose cache is open. Killed when dropped.
pub struct PsiServe {
    child: Child,
    pub socket: PathBuf,
    /// From before the process was made to READY=1.
    pub took: Duration,
}

impl PsiServe {
    /// Starts it as systemd does with `Type=notify`, and waits until it is ready.
    pub fn start(host: &Host) -> Self {
        let notify = host.path("notify");
        let _ = fs::remove_file(&notify);
        let ready = UnixDatagram::bind(&notify).unwrap();
        ready.set_read_timeout(Some(PATIENCE)).unwrap();
        let log = File::options()
            .create(true)
            .append(true)
            .open(host.path("log"));
        let mut command = host.command(PROGRAM);
        command
            .env("NOTIFY_SOCKET", &notify)
            .stdout(Stdio::null())
            .stderr(log.unwrap());
        let start = Instant::now();
        let child = command.spawn().unwrap();
        let mut message = [0; 4096];
        while !message.starts_with(b"READY=1") {
            ready.recv(&mut message).unwrap();
        }
        Self {
            child,
            socket: host.socket(),
            took: start.elapsed(),
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How long its slots took to open the cache, as it says itself.
    pub fn slots_took(&self) -> Duration {
        let (_, _, status) = ask(&self.socket, b"GET /status HTTP/1.1\r\nHost: psi\r\n\r\n");
        let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
        let attempts = status["cache"]["attempts"].as_array().unwrap();
        let took = attempts
            .iter()
            .map(|attempt| attempt["took_ms"].as_u64().unwrap());
        Duration::from_millis(took.sum())
    }

    /// Hands a [`body`] over.
    pub fn hand_over(&self, body: &str) {
        let length = body.len();
        let request = format!(
            "POST /cache/infisical HTTP/1.1\r\nHost: psi\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let (status, _, answer) = ask(&self.socket, request.as_bytes());
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
    }

    /// Looks up each of `count` values, in an order that is none.
    pub fn look_all_up(&self, count: usize) {
        let lookups: Vec<_> = (0..count)
            .map(|n| callers::request(&scattered(n, count)))
            .collect();
        callers::one(&self.socket, &lookups, count);
    }
}

impl Drop for PsiServe {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A host with `count` mappings and no cache yet, whose provider is at `url`.
pub fn host(count: usize, url: &str) -> Host {
    let host = Host::new();
    host.write_config(&format!(
        "lookup_timeout: 60s
providers:
  infisical:
    api_url: {url}
    auth: {{method: universal-auth, client_id: id, client_secret: secret}}
    projects: {{myproject: {{id: 11111111-1111-1111-1111-111111111111}}}}
cache: {{backend: tpm}}
"
    ));
    for n in 0..count {
        fs::write(host.state_dir().join(id(n)), mapping(&key(n))).unwrap();
    }
    host
}

/// Where nothing listens.
pub const NO_PROVIDER: &str = "http://127.0.0.1:1";

/// A host with `count` values in its cache, and the psi-serve that has them.
pub fn filled(count: usize) -> (Host, PsiServe) {
    let host = host(count, NO_PROVIDER);
    let serve = PsiServe::start(&host);
    serve.hand_over(&body(count, 1));
    (host, serve)
}

/// `POST /cache/infisical`: `count` values, other ones for another `version`.
pub fn body(count: usize, version: usize) -> String {
    let mut body = String::from(r#"{"workloads":{"myapp":{"entries":["#);
    for n in 0..count {
        let comma = if n > 0 { "," } else { "" };
        let value = BASE64.encode(format!("{version:032}{n:032}"));
        let mapping = mapping(&key(n));
        write!(body, r#"{comma}{{"mapping":{mapping},"value":"{value}"}}"#).unwrap();
    }
    body.push_str("]}}}");
    body
}

/// Podman's id of the secret `n`.
pub fn id(n: usize) -> String {
    format!("{n:025x}")
}

/// The id of one of `count` secrets, such that neighbours in `n` are none in the cache.
pub fn scattered(n: usize, count: usize) -> String {
    // A prime, so that every secret has its turn.
    id(n * 7_919 % count)
}

fn key(n: usize) -> String {
    format!("KEY_{n}")
}

/// The mapping of a key.
pub fn mapping(key: &str) -> String {
    format!(r#"{{"provider":"infisical","project":"myproject","path":"/myapp","key":"{key}"}}"#)
}
