//! A psi-serve for each test: its own directories, socket, credential and configuration.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::ops::Deref;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_psi-serve");

/// The key that systemd delivers in these tests.
pub const KEY: [u8; 32] = [7; 32];

/// Far longer than anything here takes.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Nothing listens on port 1 of the loopback.
const PROVIDERS: &str = "
providers:
  infisical:
    api_url: http://127.0.0.1:1
    auth: {method: universal-auth, client_id: c, client_secret: s}
    projects: {p: {id: i}}
lookup_timeout: 1s
";

/// One host: what psi-serve finds when it starts, and what it leaves behind.
pub struct Host {
    dir: TempDir,
}

impl Host {
    /// With a cache, its key delivered, and a provider that is down.
    pub fn new() -> Self {
        let host = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(host.path("credentials")).unwrap();
        host.deliver("psi-cache-key", &KEY);
        host.configure("cache: {backend: tpm}");
        host
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn socket(&self) -> PathBuf {
        self.path("s")
    }

    pub fn state(&self, file: &str) -> PathBuf {
        self.path("state").join(file)
    }

    pub fn cache_file(&self) -> PathBuf {
        self.state("cache.enc")
    }

    /// The configuration: what all tests share, and `more`.
    pub fn configure(&self, more: &str) {
        let dir = self.dir.path().display();
        let own = format!("state_dir: {dir}/state\nsocket: {dir}/s\n");
        fs::write(self.path("config.yaml"), own + PROVIDERS + more).unwrap();
    }

    pub fn deliver(&self, credential: &str, bytes: &[u8]) {
        fs::write(self.path("credentials").join(credential), bytes).unwrap();
    }

    /// A mapping in the state directory, put there before psi-serve runs or behind its back.
    pub fn write_state(&self, file: &str, bytes: &[u8]) {
        fs::create_dir_all(self.path("state")).unwrap();
        fs::write(self.state(file), bytes).unwrap();
    }

    /// Every file in the state directory with its contents.
    pub fn state_files(&self) -> Vec<(String, Vec<u8>)> {
        let mut files: Vec<_> = fs::read_dir(self.path("state"))
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                (name, fs::read(entry.path()).unwrap())
            })
            .collect();
        files.sort();
        files
    }

    /// psi-serve's command line and environment, and nothing of ours.
    pub fn command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("--config").arg(self.path("config.yaml"));
        self.environment(&mut command);
        command
    }

    pub fn environment(&self, command: &mut Command) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.path("log"))
            .unwrap();
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("CREDENTIALS_DIRECTORY", self.path("credentials"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    pub fn wait_for_log(&self, text: &str) {
        wait_until(text, || self.log().contains(text));
    }

    /// A running psi-serve whose cache is open or has been given up.
    pub fn start(&self) -> Serve {
        let serve = self.start_with(&mut self.command());
        let settled = || {
            let answer = serve.try_get("/status");
            answer.is_some_and(|a| a.json()["cache"]["state"] != "opening")
        };
        wait_until("a settled cache", settled);
        serve
    }

    /// A running psi-serve that answers.
    pub fn start_with(&self, command: &mut Command) -> Serve {
        let mut serve = Serve {
            caller: self.caller(),
            child: command.spawn().unwrap(),
        };
        wait_until("an answer", || {
            let ended = serve.child.try_wait().unwrap();
            assert!(ended.is_none(), "psi-serve ended: {}", self.log());
            serve.try_get("/healthz").is_some()
        });
        serve
    }

    /// Asks whoever listens on the socket.
    pub fn caller(&self) -> Caller {
        Caller {
            socket: self.socket(),
        }
    }

    /// What psi-serve says and ends with when it cannot start.
    pub fn fail_to_start(&self) -> (i32, String) {
        let before = self.path("log").exists().then(|| self.log());
        let mut child = self.command().spawn().unwrap();
        let code = wait(&mut child).code().unwrap();
        let log = self.log();
        (code, log[before.map_or(0, |b| b.len())..].to_owned())
    }
}

/// A running psi-serve; killed with its handle.
pub struct Serve {
    caller: Caller,
    pub child: Child,
}

impl Deref for Serve {
    type Target = Caller;
    fn deref(&self) -> &Caller {
        &self.caller
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The asking side of a socket.
pub struct Caller {
    socket: PathBuf,
}

impl Caller {
    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// The answer to a request as it is. Whatever comes must be HTTP with a true length.
    pub fn raw(&self, request: &[u8]) -> Answer {
        let mut stream = self.connect();
        // It may be answered, and closed, before it is read to its end.
        let _ = stream.write_all(request);
        Answer::read(&mut stream)
    }

    pub fn get(&self, path: &str) -> Answer {
        self.request("GET", path, b"")
    }

    pub fn post(&self, path: &str, body: &[u8]) -> Answer {
        self.request("POST", path, body)
    }

    pub fn request(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        self.request_with(method, path, "", body)
    }

    pub fn request_with(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: psi\r\n{headers}Content-Length: {length}\r\n\r\n"
        );
        self.raw(&[head.as_bytes(), body].concat())
    }

    pub fn try_get(&self, path: &str) -> Option<Answer> {
        let mut stream = UnixStream::connect(&self.socket).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: psi\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        Answer::try_read(&mut stream)
    }

    pub fn lookup(&self, name: &str) -> Answer {
        self.get(&format!("/lookup/{name}"))
    }

    /// Stores the mapping of `key` under the id of `n`, which is returned.
    pub fn store(&self, n: u32, key: &str) -> String {
        let id = id(n);
        let answer = self.post(&format!("/store/{id}"), mapping(key).to_string().as_bytes());
        assert_eq!(answer.ok(), b"ok");
        id
    }

    pub fn hand_over(&self, workloads: &[Workload<'_>]) -> Answer {
        self.post("/cache/infisical", &hand_over(workloads))
    }

    pub fn check(&self, body: &Value) -> Value {
        let answer = self.post("/cache/check", body.to_string().as_bytes());
        assert_eq!(answer.status, 200);
        answer.json()
    }

    pub fn status(&self) -> Value {
        let answer = self.get("/status");
        assert_eq!(answer.status, 200);
        answer.json()
    }

    pub fn generation(&self) -> u64 {
        self.status()["cache"]["generation"].as_u64().unwrap()
    }
}

impl Serve {
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// As a power cut would end it.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn wait(&mut self) -> ExitStatus {
        wait(&mut self.child)
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

/// A workload's name, and its keys with their values.
pub type Workload<'a> = (&'a str, &'a [(&'a str, &'a [u8])]);

pub fn id(n: u32) -> String {
    format!("{n:025x}")
}

pub fn mapping(key: &str) -> Value {
    json!({"provider": "infisical", "project": "p", "path": "/", "key": key})
}

pub fn hand_over(workloads: &[Workload<'_>]) -> Vec<u8> {
    let entry = |(key, value): &(&str, &[u8])| json!({"mapping": mapping(key), "value": BASE64.encode(value)});
    let workload = |(name, entries): &Workload<'_>| {
        let entries: Vec<Value> = entries.iter().map(entry).collect();
        ((*name).to_owned(), json!({"entries": entries}))
    };
    let workloads: serde_json::Map<String, Value> = workloads.iter().map(workload).collect();
    json!({"workloads": workloads}).to_string().into_bytes()
}

/// One answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn read(stream: &mut UnixStream) -> Self {
        Self::try_read(stream).unwrap()
    }

    /// Nothing if there is no answer at all. One that is not whole fails the test.
    pub fn try_read(stream: &mut UnixStream) -> Option<Self> {
        let bytes = read_to_end(stream);
        if bytes.is_empty() {
            return None;
        }
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let answer = Self {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            body: bytes[end + 4..].to_vec(),
            head: head.to_lowercase(),
        };
        let length: usize = answer.header("content-length").parse().unwrap();
        assert_eq!(length, answer.body.len(), "{}", answer.head);
        Some(answer)
    }

    pub fn header(&self, name: &str) -> &str {
        let mut lines = self.head.lines();
        let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        assert!(line.is_some(), "no {name} in {}", self.head);
        line.unwrap()
    }

    /// The body of an answer that is none of an error.
    pub fn ok(self) -> Vec<u8> {
        assert_eq!(self.status, 200, "{}", self.text());
        self.body
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// An error answer: `status`, `code`, and something to read and to do.
    pub fn fails(&self, status: u16, code: &str) {
        let text = self.text();
        assert_eq!(self.status, status, "{text}");
        let json = self.json();
        assert_eq!(json["error"], code, "{text}");
        for field in ["detail", "hint"] {
            assert!(
                json[field].as_str().is_some_and(|t| !t.is_empty()),
                "{text}"
            );
        }
        assert_eq!(self.header("content-type"), "application/json");
    }

    pub fn detail(&self) -> String {
        self.json()["detail"].as_str().unwrap().to_owned()
    }

    /// The provider was asked, and has no answer: never a value.
    pub fn asked_the_dead_provider(&self) {
        assert_eq!(self.status, 502, "{}", self.text());
        assert_eq!(self.json()["error"], "provider_failed");
    }
}

/// Everything until the other end closes; a reset after that is an end as well.
pub fn read_to_end(stream: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let outcome = stream.read_to_end(&mut bytes);
    if !matches!(&outcome, Err(e) if e.kind() == ErrorKind::ConnectionReset) {
        outcome.unwrap();
    }
    bytes
}

/// Says that no more is to come.
pub fn finish(stream: &UnixStream) {
    stream.shutdown(Shutdown::Write).unwrap();
}

pub fn wait(child: &mut Child) -> ExitStatus {
    wait_until("the end of a process", || {
        child.try_wait().unwrap().is_some()
    });
    child.wait().unwrap()
}

pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Contents and time of change: equal only if nothing was written.
pub fn fingerprint(file: &Path) -> (Vec<u8>, std::time::SystemTime) {
    (
        fs::read(file).unwrap(),
        file.metadata().unwrap().modified().unwrap(),
    )
}
