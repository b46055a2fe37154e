//! A host whose secrets are all marked and whose programs are all traced, and the search for what
//! leaked.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use psi_test_support::done::{Answer, Done};
use psi_test_support::infisical::{Identity, StandIn};
use psi_test_support::journal::Journal;
use psi_test_support::marks::{Detector, Found, Kind, Marks};
use psi_test_support::podman::write_program;
use psi_test_support::psi::{Host, Service, ask};
use psi_test_support::trace::{Target, Traced, Traces};
use psi_test_support::wait;
use serde_json::{Value, json};
use tempfile::TempDir;

pub const SERVE: &str = env!("CARGO_BIN_EXE_psi-serve");
pub const SETUP: &str = env!("CARGO_BIN_EXE_psi-setup");
pub const CACHECTL: &str = env!("CARGO_BIN_EXE_psi-cachectl");
pub const SECRET: &str = env!("CARGO_BIN_EXE_psi-secret");
pub const HSM: &str = env!("CARGO_BIN_EXE_psi-hsm");

pub const PROJECT: &str = "11111111-1111-1111-1111-111111111111";
pub const OTHER: &str = "22222222-2222-2222-2222-222222222222";

/// Longer than any program waits for another.
pub const PATIENCE: Duration = Duration::from_secs(45);

pub struct World {
    pub host: Host,
    pub infisical: StandIn,
    pub marks: Marks,
    /// As psi-serve takes it.
    pub token: String,
    /// What is configured, for a configuration of another kind.
    pub secrets: Secrets,
    pub cores: PathBuf,
    /// What services log; it is below the host's root.
    pub journal: Journal,
    traces: Traces,
    /// Outside of what is searched: standard output is where some secrets go.
    outputs: TempDir,
    /// What the test itself wrote secrets into.
    own: BTreeSet<PathBuf>,
    /// What was looked at while it was there.
    seen: Vec<(String, Vec<u8>)>,
    runs: usize,
}

/// What is configured by plain value.
pub struct Secrets {
    pub client_secret: String,
    pub other_client_secret: String,
    pub socket_token: String,
    pub pin: String,
}

impl World {
    /// A cache that a delivered key seals, and two projects at the provider. Nothing runs.
    pub fn new() -> Self {
        let host = Host::new();
        let mut marks = Marks::default();
        let cores = host.path("cores");
        fs::create_dir(&cores).unwrap();
        let secrets = Secrets {
            client_secret: marks.text(Kind::ClientSecret, "the configured client secret"),
            other_client_secret: marks.text(Kind::ClientSecret, "the delivered client secret"),
            socket_token: marks.word(Kind::SocketToken, "the configured socket token"),
            pin: marks.text(Kind::Pin, "the PIN"),
        };
        let token = marks.word(Kind::SocketToken, "the delivered socket token");
        let key = fs::read(host.credentials_dir().join("psi-cache-key")).unwrap();
        marks.add(Kind::CacheKey, "the cache key", &[&key[..16], &key[16..]]);
        let infisical = StandIn::start();
        for (project, id, secret) in [
            (PROJECT, "my-id", &secrets.client_secret),
            (OTHER, "other-id", &secrets.other_client_secret),
        ] {
            infisical.add_project(project, "prod");
            infisical.add_identity(Identity::new(id, secret).may_read(project, "/"));
        }
        let traces = Traces::new(&host.path("traces"));
        let journal = Journal::new(&host.path("journal"));
        let mut world = Self {
            journal,
            host,
            infisical,
            marks,
            token,
            secrets,
            cores,
            traces,
            outputs: tempfile::tempdir().unwrap(),
            own: BTreeSet::new(),
            seen: Vec::new(),
            runs: 0,
        };
        world.deliver("psi-cache-key", &key);
        world.deliver("psi-socket-token", &world.token.clone().into_bytes());
        let other = world.secrets.other_client_secret.clone().into_bytes();
        world.deliver("infisical-client-secret.other", &other);
        world.own_file("token", &world.token.clone().into_bytes());
        world.configure("cache: {backend: tpm}\n");
        world
    }

    /// A credential, put in place by the test.
    pub fn deliver(&mut self, name: &str, value: &[u8]) {
        self.host.set_credential(name, value);
        self.own.insert(self.host.credentials_dir().join(name));
    }

    /// A file below the root that the test itself writes a secret into.
    pub fn own_file(&mut self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.host.path(name);
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        self.own.insert(path.clone());
        path
    }

    /// The configuration: what all tests share, and `more`.
    pub fn configure(&mut self, more: &str) {
        let common = self.common();
        self.host.write_config(&format!("{common}{more}"));
        self.own.insert(self.host.config_file());
    }

    pub fn common(&self) -> String {
        let quoted = |text: &str| Value::from(text).to_string();
        format!(
            "podman_socket: {podman}
driver_path: {driver}
socket_token: {token}
lookup_timeout: 1s
providers:
  local: {{}}
  nitrokeyhsm: {{pin: {pin}, pkcs11_module: {module}}}
  infisical:
    api_url: {url}
    auth: {{method: universal-auth, client_id: my-id, client_secret: {secret}}}
    projects:
      myproject: {{id: {PROJECT}}}
      other: {{id: {OTHER}, auth: {{method: universal-auth, client_id: other-id}}}}
",
            podman = self.host.path("podman.sock").display(),
            driver = self.driver().display(),
            token = self.secrets.socket_token,
            pin = quoted(&self.secrets.pin),
            module = self.module().display(),
            url = self.infisical.url(),
            secret = quoted(&self.secrets.client_secret),
        )
    }

    /// Where the token's module is, if there is one.
    pub fn module(&self) -> PathBuf {
        self.host.path("module.so")
    }

    /// Sets a secret of the first project.
    pub fn set(&self, path: &str, key: &str, value: &str) {
        self.infisical.set(PROJECT, "prod", path, key, value);
    }

    /// A new marked value.
    pub fn value(&mut self, name: &str) -> String {
        self.marks.text(Kind::Value, name)
    }

    /// The program with a trace of its own; `called` decides where its secrets may go. What is a
    /// service has the journal as its standard error.
    pub fn traced(&self, called: &str, program: &str) -> PathBuf {
        let traced = self.traces.program(called, Path::new(program), &self.cores);
        match called {
            "psi-serve" | "psi-setup" => self.journal.program(&traced),
            _ => traced,
        }
    }

    /// psi-secret as Podman runs it.
    pub fn driver(&self) -> PathBuf {
        let program = self.traced("psi-secret", SECRET);
        let driver = self.host.path("driver");
        let token = self.host.path("token");
        let text = format!(
            "#!/bin/sh\nexec '{}' \"$@\" --token-file '{}'\n",
            program.display(),
            token.display()
        );
        write_program(&driver, &text);
        driver
    }

    /// A psi-serve whose cache was opened, or was not.
    pub fn serve(&mut self) -> Service {
        let program = self.traced("psi-serve", SERVE);
        let service = self.host.serve(&program);
        self.settle();
        self.look_at("psi-serve", service.pid());
        service
    }

    pub fn settle(&self) {
        let state = || self.ask("GET", "/status", b"").json()["cache"]["state"].take();
        wait::until("a settled cache", || state() != "opening");
    }

    /// Keeps what the kernel tells of a process.
    pub fn look_at(&mut self, called: &str, pid: u32) {
        for file in ["cmdline", "environ"] {
            let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap();
            self.seen.push((format!("{file} of {called}"), bytes));
        }
    }

    pub fn start(&mut self, called: &str, program: &Path, arguments: &[&str]) -> Running {
        self.runs += 1;
        let output = |what: &str| self.outputs.path().join(format!("{}.{what}", self.runs));
        let (stdout, stderr) = (output("stdout"), output("stderr"));
        let mut command = self.host.command(program);
        command.env("PSI_SOCKET", self.host.socket());
        command.args(arguments).stdin(Stdio::piped());
        command.stdout(File::create(&stdout).unwrap());
        command.stderr(File::create(&stderr).unwrap());
        Running {
            called: called.to_owned(),
            stdout,
            stderr,
            command,
        }
    }

    pub fn setup(&mut self, arguments: &[&str]) -> Done {
        let program = self.traced("psi-setup", SETUP);
        self.start("psi-setup", &program, arguments).end(b"")
    }

    pub fn cachectl(&mut self, arguments: &[&str], stdin: &[u8]) -> Done {
        let program = self.traced("psi-cachectl", CACHECTL);
        // Never the machine's own.
        let sealed_key = self.host.path("none").display().to_string();
        let arguments = [&["--sealed-key", &sealed_key], arguments].concat();
        self.start("psi-cachectl", &program, &arguments).end(stdin)
    }

    pub fn hsm(&mut self, arguments: &[&str], stdin: &[u8]) -> Done {
        let program = self.traced("psi-hsm", HSM);
        self.start("psi-hsm", &program, arguments).end(stdin)
    }

    /// psi-secret for one id, with the token in that file.
    pub fn secret_with(&mut self, token: &Path, verb: &str, id: &str, stdin: &[u8]) -> Done {
        let program = self.traced("psi-secret", SECRET);
        let token = token.display().to_string();
        let mut running = self.start("psi-secret", &program, &[verb, "--token-file", &token]);
        running.command.env("SECRET_ID", id);
        running.end(stdin)
    }

    pub fn secret(&mut self, verb: &str, id: &str, stdin: &[u8]) -> Done {
        self.secret_with(&self.host.path("token"), verb, id, stdin)
    }

    /// Asks psi-serve, as a test.
    pub fn ask(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: psi\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n",
            self.token,
            body.len()
        );
        let request = [head.as_bytes(), body].concat();
        let (status, _, body) = ask(&self.host.socket(), &request);
        Answer { status, body }
    }

    /// Hands values over, as psi-setup does; their keys are mapped by ids, which are returned.
    pub fn hand_over(&self, values: &[(&str, &str)]) -> Vec<String> {
        use base64::Engine as _;
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let entry =
            |(key, value): &(&str, &str)| json!({"mapping": mapping(key), "value": encode(value)});
        let entries: Vec<Value> = values.iter().map(entry).collect();
        let body = json!({"workloads": {"app": {"entries": entries}}}).to_string();
        self.ask("POST", "/cache/infisical", body.as_bytes()).ok();
        let store = |(n, (key, _)): (usize, &(&str, &str))| {
            let id = format!("{n:025x}");
            let mapping = mapping(key).to_string();
            self.ask("POST", &format!("/store/{id}"), mapping.as_bytes())
                .ok();
            id
        };
        values.iter().enumerate().map(store).collect()
    }

    /// A recovery key that was printed is a secret from now on.
    pub fn mark_recovery_key(&mut self, printed: &Done) -> String {
        let key = printed.recovery_key();
        let groups = key.split(['-', '\n']).filter(|group| !group.is_empty());
        let pieces: Vec<&[u8]> = groups.map(str::as_bytes).collect();
        self.marks
            .add(Kind::RecoveryKey, "the recovery key", &pieces);
        key
    }

    /// Every secret that is where it must not be, in words. All programs must have ended.
    pub fn leaks(&mut self) -> Vec<String> {
        self.journal.sync();
        let processes = self.traces.read();
        self.mark_access_tokens(&processes);
        let detector = Detector::new(&self.marks);
        let mut leaks = BTreeSet::new();
        for process in &processes {
            let called = &process.called;
            let mut search = |place: &str, bytes: &[u8]| {
                let found = detector.find(bytes);
                leaks.extend(
                    found
                        .iter()
                        .map(|f| tell(f, &format!("{place} of {called}"))),
                );
            };
            search("an argument", &process.arguments);
            search("a variable", &process.environment);
            for (target, bytes) in &process.written {
                for found in detector.find(bytes) {
                    if !self.may_write(called, &found, target, bytes) {
                        leaks.insert(tell(&found, &format!("{target:?}, written by {called}")));
                    }
                }
            }
        }
        for path in files_below(&self.host.path(".")) {
            if self.own.contains(&path) || self.traces.has(&path) {
                continue;
            }
            let found = detector.find(&fs::read(&path).unwrap());
            leaks.extend(found.iter().map(|f| tell(f, &path.display().to_string())));
        }
        for (place, bytes) in &self.seen {
            leaks.extend(detector.find(bytes).iter().map(|f| tell(f, place)));
        }
        leaks.into_iter().collect()
    }

    /// Whether a traced process told the kernel to make no core dumps of it.
    pub fn forbids_dumps(&self, pid: u32) -> bool {
        let processes = self.traces.read_so_far();
        processes.iter().any(|p| p.pid == pid && p.forbids_dumps)
    }

    /// Marks the access tokens that were used up to now.
    pub fn mark_access_tokens_so_far(&mut self) {
        let processes = self.traces.read_so_far();
        self.mark_access_tokens(&processes);
        assert!(self.marks.count(Kind::AccessToken) > 0);
    }

    /// Expects that nothing leaked, of programs that had something to leak.
    #[track_caller]
    pub fn keeps_its_secrets(&mut self) {
        let leaks = self.leaks();
        assert!(leaks.is_empty(), "{}", leaks.join("\n"));
    }

    /// What programs showed to the provider is a secret wherever else it is.
    fn mark_access_tokens(&mut self, processes: &[Traced]) {
        let provider = Target::Port(self.infisical.address().port());
        let before = b"authorization: Bearer ";
        for bytes in processes.iter().filter_map(|p| p.written.get(&provider)) {
            let starts = bytes.windows(before.len()).enumerate();
            let starts = starts.filter(|(_, text)| text.eq_ignore_ascii_case(before));
            let tokens: BTreeSet<&[u8]> = starts
                .map(|(at, _)| &bytes[at + before.len()..])
                .filter_map(|rest| rest.split(|b| *b == b'\r').next())
                .collect();
            for token in tokens {
                // The signature: the rest is not the token's own.
                let signature = &token[token.len() - 32..];
                let name = "an access token";
                self.marks.add(
                    Kind::AccessToken,
                    name,
                    &[&signature[..16], &signature[16..]],
                );
            }
        }
    }

    /// Where a secret must go to be of any use.
    fn may_write(&self, called: &str, found: &Found, target: &Target, written: &[u8]) -> bool {
        let is_output = matches!(target, Target::File(path)
            if path.starts_with(self.outputs.path()) && path.extension().unwrap() == "stdout");
        let is_psi = matches!(target, Target::Unix { path, .. } if *path == self.host.socket());
        let is_provider = *target == Target::Port(self.infisical.address().port());
        let answers = |what: &[u8]| is_psi && contains(written, what);
        match (called, found.kind) {
            // `psi-cachectl refresh` is psi-setup.
            (
                "psi-setup" | "psi-serve" | "psi-cachectl",
                Kind::ClientSecret | Kind::AccessToken,
            ) => is_provider,
            ("psi-setup" | "psi-cachectl" | "psi-hsm" | "psi-secret", Kind::SocketToken) => is_psi,
            ("psi-setup", Kind::Value) => is_psi,
            // The answer to a lookup, and no other.
            ("psi-serve", Kind::Value) => answers(b"content-type: application/octet-stream"),
            ("psi-serve", Kind::RecoveryKey) => answers(b"HTTP/1.1 200 OK"),
            // A lookup, and what was given to `store`.
            ("psi-secret", Kind::Value) => is_output || is_psi || *target == Target::Pipe,
            // `put`, and a recovery key that was typed.
            ("psi-cachectl", Kind::Value) => is_psi,
            ("psi-cachectl", Kind::RecoveryKey) => is_psi || is_output,
            _ => false,
        }
    }
}

fn tell(found: &Found, place: &str) -> String {
    format!("{} ({}) in {place}", found.name, found.encoding)
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Every file, links not followed.
fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory.canonicalize().unwrap()).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            files.extend(files_below(&entry.path()));
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    files
}

pub fn mapping(key: &str) -> Value {
    json!({"provider": "infisical", "project": "myproject", "path": "/app", "key": key})
}

/// A command that may be started.
pub struct Running {
    pub called: String,
    pub command: Command,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Running {
    pub fn spawn(&mut self) -> Child {
        self.command.spawn().unwrap()
    }

    /// Runs to its end.
    pub fn end(mut self, stdin: &[u8]) -> Done {
        let child = self.spawn();
        self.finish(child, stdin)
    }

    pub fn finish(self, mut child: Child, stdin: &[u8]) -> Done {
        // It may have ended before it reads.
        let _ = child.stdin.take().unwrap().write_all(stdin);
        let status = end_of(&mut child, &self.called);
        let text = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
        Done {
            code: status.code(),
            stdout: text(&self.stdout),
            stderr: text(&self.stderr),
        }
    }
}

/// Waits for its end, and makes one if it does not come.
fn end_of(child: &mut Child, called: &str) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if start.elapsed() > PATIENCE {
            child.kill().unwrap();
            child.wait().unwrap();
            unreachable!("{called} did not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
