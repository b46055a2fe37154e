//! A host for PSI's programs: directories, a configuration, credentials, and psi-serve running
//! with or without socket activation.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tempfile::TempDir;

use crate::http::Message;
use crate::wait;

/// The credential that seals the cache.
const CACHE_KEY: &str = "psi-cache-key";

/// How soon a service that ended is started again.
const RESTART_AFTER: Duration = Duration::from_millis(100);

/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(90);

/// The directories of one host; all of it goes when it is dropped.
pub struct Host {
    root: TempDir,
}

impl Host {
    /// Empty directories, a random credential `psi-cache-key`, and a `systemctl` that has nothing
    /// to do and succeeds.
    pub fn new() -> Self {
        let root = tempfile::tempdir().expect("a temporary directory");
        let host = Self { root };
        for directory in [
            host.state_dir(),
            host.path("run"),
            host.systemd_dir(),
            host.credentials_dir(),
            host.path("bin"),
        ] {
            fs::create_dir(&directory).expect("a directory");
            fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).expect("its mode");
        }
        host.set_credential(CACHE_KEY, &random_key());
        host.set_systemctl(true);
        host
    }

    /// Whether `systemctl` succeeds from now on.
    pub fn set_systemctl(&self, succeeds: bool) {
        let program = self.path("bin").join("systemctl");
        let code = u8::from(!succeeds);
        fs::write(&program, format!("#!/bin/sh\nexit {code}\n")).expect("systemctl");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("its mode");
    }

    /// `$PATH` of every program: the host's own `systemctl`, then the test's.
    pub fn search_path(&self) -> OsString {
        let mut path = self.path("bin").into_os_string();
        if let Some(rest) = std::env::var_os("PATH") {
            path.push(":");
            path.push(rest);
        }
        path
    }

    /// A path below the host's root.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// `state_dir`
    pub fn state_dir(&self) -> PathBuf {
        self.path("state")
    }

    /// `socket`
    pub fn socket(&self) -> PathBuf {
        self.path("run").join("psi.sock")
    }

    /// `systemd_dir`
    pub fn systemd_dir(&self) -> PathBuf {
        self.path("systemd")
    }

    /// `$CREDENTIALS_DIRECTORY` of every program.
    pub fn credentials_dir(&self) -> PathBuf {
        self.path("credentials")
    }

    /// `$PSI_CONFIG` of every program.
    pub fn config_file(&self) -> PathBuf {
        self.path("config.yaml")
    }

    /// The sealed cache.
    pub fn cache_file(&self) -> PathBuf {
        self.state_dir().join("cache.enc")
    }

    /// Puts a credential in place, as systemd does before a start.
    pub fn set_credential(&self, name: &str, value: &[u8]) {
        let file = self.credentials_dir().join(name);
        fs::write(&file, value).expect("a credential");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).expect("its mode");
    }

    /// Takes a credential away.
    pub fn remove_credential(&self, name: &str) {
        fs::remove_file(self.credentials_dir().join(name)).expect("the credential");
    }

    /// `$NOTIFY_SOCKET` of every program, if a test listens there.
    pub fn notify_socket(&self) -> PathBuf {
        self.path("notify")
    }

    /// Writes `config.yaml`: this host's directories, then `rest`.
    pub fn write_config(&self, rest: &str) {
        let text = format!(
            "state_dir: {}\nsocket: {}\nsystemd_dir: {}\n{rest}",
            self.state_dir().display(),
            self.socket().display(),
            self.systemd_dir().display(),
        );
        fs::write(self.config_file(), text).expect("config.yaml");
        fs::set_permissions(self.config_file(), fs::Permissions::from_mode(0o600))
            .expect("its mode");
    }

    /// A program as a unit would run it: this host's configuration and credentials, and nothing
    /// of the test's environment but PATH.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        self.furnish(&mut command);
        command
    }

    fn furnish(&self, command: &mut Command) {
        command
            .env_clear()
            .env("PATH", self.search_path())
            .env("PSI_CONFIG", self.config_file())
            .env("CREDENTIALS_DIRECTORY", self.credentials_dir())
            .stdin(Stdio::null());
        if self.notify_socket().exists() {
            command.env("NOTIFY_SOCKET", self.notify_socket());
        }
    }

    /// Starts psi-serve, which binds the socket itself, and waits until it answers.
    pub fn serve(&self, program: &Path) -> Service {
        let service = Service::start(self, program, None);
        service.wait_until_it_answers();
        service
    }

    /// Starts psi-serve behind a socket that is held for it from now on, as systemd does: it is
    /// started again whenever it ends, and clients queue meanwhile. Waits until it answers.
    pub fn serve_activated(&self, program: &Path) -> Service {
        let listener = UnixListener::bind(self.socket()).expect("the socket");
        fs::set_permissions(self.socket(), fs::Permissions::from_mode(0o600)).expect("its mode");
        let service = Service::start(self, program, Some(listener));
        service.wait_until_it_answers();
        service
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

fn random_key() -> [u8; 32] {
    let mut key = [0; 32];
    let mut source = fs::File::open("/dev/urandom").expect("/dev/urandom");
    source.read_exact(&mut key).expect("random bytes");
    key
}

/// A psi-serve. Killed when dropped.
pub struct Service {
    socket: PathBuf,
    log: PathBuf,
    process: Arc<Mutex<Process>>,
    supervisor: Option<JoinHandle<()>>,
}

/// How it is started, and what runs now.
struct Process {
    command: Command,
    child: Child,
    starts: usize,
    /// Whether it is to be started again when it ends.
    is_kept: bool,
}

impl Service {
    fn start(host: &Host, program: &Path, listener: Option<UnixListener>) -> Self {
        let log = host.path("psi-serve.log");
        let is_kept = listener.is_some();
        let mut command = match listener {
            None => host.command(program),
            Some(listener) => activated(host, program, listener),
        };
        let file = fs::File::options().create(true).append(true).open(&log);
        command.stdout(Stdio::null()).stderr(file.expect("the log"));
        let child = command.spawn().expect("the service can be run");
        let process = Arc::new(Mutex::new(Process {
            command,
            child,
            starts: 1,
            is_kept,
        }));
        let supervisor = is_kept.then(|| {
            let process = Arc::clone(&process);
            thread::spawn(move || supervise(&process))
        });
        Self {
            socket: host.socket(),
            log,
            process,
            supervisor,
        }
    }

    /// What it has said on stderr, over all its starts.
    pub fn log(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// The process that runs now.
    pub fn pid(&self) -> u32 {
        self.process.lock().unwrap().child.id()
    }

    /// How often it was started.
    pub fn starts(&self) -> usize {
        self.process.lock().unwrap().starts
    }

    /// Ends it without a warning. An activated one is started again.
    pub fn kill9(&self) {
        let mut process = self.process.lock().unwrap();
        process.child.kill().expect("it can be killed");
        process.child.wait().expect("its status");
    }

    /// Sends a signal, e.g. `HUP`.
    pub fn signal(&self, name: &str) {
        let mut process = self.process.lock().unwrap();
        let runs = process.child.try_wait().expect("its status").is_none();
        assert!(runs, "it runs: {}", self.log());
        // The shell's own `kill`: not every machine has the program.
        let kill = format!("kill -s {name} {}", process.child.id());
        let status = Command::new("/bin/sh").args(["-c", &kill]).status();
        assert!(status.expect("a shell").success());
    }

    /// Asks it to end and waits until it has. An activated one stays down from now on, and its
    /// socket queues.
    pub fn sigterm(&self) -> ExitStatus {
        self.process.lock().unwrap().is_kept = false;
        self.signal("TERM");
        let mut status = None;
        wait::until("end of the service", || {
            status = self
                .process
                .lock()
                .unwrap()
                .child
                .try_wait()
                .expect("its status");
            status.is_some()
        });
        status.expect("it has ended")
    }

    /// Starts it again after [`Service::kill9`] or [`Service::sigterm`], and waits until it
    /// answers. An activated one is kept up again.
    pub fn restart(&self) {
        {
            let mut process = self.process.lock().unwrap();
            process.is_kept = self.supervisor.is_some();
            process.start_if_ended();
        }
        self.wait_until_it_answers();
    }

    /// Waits until it answers `/healthz`, healthy or not.
    pub fn wait_until_it_answers(&self) {
        let is_activated = self.supervisor.is_some();
        wait::until(
            &format!("answer of psi-serve ({})", self.log.display()),
            || {
                let ended = {
                    let mut process = self.process.lock().unwrap();
                    process.child.try_wait().expect("its status").is_some()
                };
                assert!(is_activated || !ended, "it ended: {}", self.log());
                try_ask(&self.socket, b"GET /healthz HTTP/1.1\r\nHost: psi\r\n\r\n").is_ok()
            },
        );
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        {
            // A poisoned lock must not keep it alive: the test has failed already.
            let mut process = self.process.lock().unwrap_or_else(|e| e.into_inner());
            process.is_kept = false;
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
        // The supervisor ends when nobody else has the process.
        drop(self.supervisor.take());
        if thread::panicking() {
            eprintln!("psi-serve said:\n{}", self.log());
        }
    }
}

impl Process {
    fn start_if_ended(&mut self) {
        if self.child.try_wait().expect("its status").is_some() {
            self.child = self.command.spawn().expect("the service can be run");
            self.starts += 1;
        }
    }
}

/// Starts the process again whenever it has ended, until only the supervisor knows of it.
fn supervise(process: &Arc<Mutex<Process>>) {
    while Arc::strong_count(process) > 1 {
        thread::sleep(RESTART_AFTER);
        let Ok(mut process) = process.lock() else {
            return;
        };
        if process.is_kept {
            process.start_if_ended();
        }
    }
}

/// The program with the listening socket as its descriptor 3 and systemd's variables about it.
/// The socket goes through the shell's standard input, which needs no `unsafe`; the shell becomes
/// the program, so the process id is right.
fn activated(host: &Host, program: &Path, listener: UnixListener) -> Command {
    let mut command = Command::new("/bin/sh");
    host.furnish(&mut command);
    command
        .args(["-c", "exec 3<&0 </dev/null; LISTEN_PID=$$ exec \"$0\""])
        .arg(program)
        .env("LISTEN_FDS", "1")
        .env("LISTEN_FDNAMES", "psi")
        .stdin(OwnedFd::from(listener));
    command
}

/// One answer: the status, the headers, the body. `request` is sent as it is.
///
/// # Panics
/// If there is none.
pub fn ask(socket: &Path, request: &[u8]) -> (u16, String, Vec<u8>) {
    try_ask(socket, request).expect("an answer")
}

/// [`ask`] for a service that may be away.
///
/// # Errors
/// If it is.
pub fn try_ask(socket: &Path, request: &[u8]) -> std::io::Result<(u16, String, Vec<u8>)> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    stream.write_all(request)?;
    let method = request.split(|b| *b == b' ').next().unwrap_or_default();
    let method = String::from_utf8_lossy(method);
    let answer = Message::read_response(&mut BufReader::new(stream), &method)?;
    let answer = answer.ok_or(std::io::ErrorKind::UnexpectedEof)?;
    Ok((answer.status(), answer.head, answer.body))
}
