//! `psi-cachectl put` and `rm`: values that are kept in the cache and nowhere else.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use psi_test_support::done::Done;
use psi_test_support::psi::{Host, Service, ask};
use psi_test_support::wait;
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use serde_json::Value;

const CACHECTL: &str = env!("CARGO_BIN_EXE_psi-cachectl");
const SERVE: &str = env!("CARGO_BIN_EXE_psi-serve");
const CANARY: &str = "canary-7d1e-local-value";
const CACHE: &str = "providers: {local: {}}\ncache: {backend: tpm}\n";
const WORKLOAD: &str = "workloads:
  bootstrap: {provider: local, secrets: [{key: DB_PASSWORD, as: POSTGRES_PASSWORD}]}
";
/// Largest value, in bytes, as the documentation has it.
const LARGEST: usize = 511_999;

struct Machine {
    host: Host,
}

impl Machine {
    fn new() -> Self {
        Self::with_config(CACHE)
    }

    fn with_config(config: &str) -> Self {
        let host = Host::new();
        host.write_config(config);
        Self { host }
    }

    fn serve(&self) -> Service {
        self.host.serve(Path::new(SERVE))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.host.command(CACHECTL);
        // Never the machine's own.
        command.arg("--sealed-key").arg(self.host.path("none"));
        command.args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Done {
        self.run_with(arguments, b"")
    }

    fn run_with(&self, arguments: &[&str], stdin: &[u8]) -> Done {
        Done::run(self.command(arguments), stdin)
    }

    fn put(&self, name: &str, value: &[u8]) -> Done {
        self.run_with(&["put", name], value)
    }

    /// Maps the name to the local value `key`, as a Podman secret's id is.
    fn map(&self, name: &str, key: &str) {
        let mapping = format!(r#"{{"key":"{key}","provider":"local"}}"#);
        fs::write(self.host.state_dir().join(name), mapping).unwrap();
    }

    fn lookup(&self, name: &str) -> (u16, Vec<u8>) {
        let request = format!("GET /lookup/{name} HTTP/1.1\r\nHost: psi\r\n\r\n");
        let (status, _, body) = ask(&self.host.socket(), request.as_bytes());
        (status, body)
    }

    fn header(&self) -> Value {
        let done = self.run(&["status", "--json"]);
        serde_json::from_str::<Value>(&done.stdout).unwrap()["file"].take()
    }

    fn cache_bytes(&self) -> Vec<u8> {
        fs::read(self.host.cache_file()).unwrap()
    }
}

/// Every file below `folder` that has `text` in it.
fn files_with(folder: PathBuf, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(files_with(entry.path(), text));
        } else if kind.is_file() {
            let bytes = fs::read(entry.path()).unwrap();
            if bytes.windows(text.len()).any(|w| w == text.as_bytes()) {
                found.push(entry.path());
            }
        }
    }
    found
}

// ---- put

#[test]
fn a_value_is_served_as_it_was_put_and_after_a_restart() {
    let m = Machine::new();
    m.map("db", "DB_PASSWORD");
    let serve = m.serve();
    assert_eq!(m.lookup("db").0, 502);
    m.put("DB_PASSWORD", b"v\0\xff")
        .ended(0)
        .says(&["stored the local value DB_PASSWORD; generation 1"]);
    assert_eq!(m.lookup("db"), (200, b"v\0\xff".to_vec()));
    m.put("DB_PASSWORD", b"v\0\xff")
        .ended(0)
        .says(&["the one that was there already"]);
    assert_eq!(m.header()["generation"], 1);
    m.put("DB_PASSWORD", b"two")
        .ended(0)
        .says(&["generation 2"]);
    serve.kill9();
    serve.restart();
    assert_eq!(m.lookup("db"), (200, b"two".to_vec()));
    assert_eq!(
        (&m.header()["entries"], &m.header()["local"]),
        (&1.into(), &1.into())
    );
    m.run(&["status", "--verify"])
        .ended(0)
        .says(&["1, 1 of them kept nowhere else"]);
}

#[test]
fn a_value_is_put_and_removed_while_psi_serve_is_down() {
    let m = Machine::new();
    m.map("db", "DB_PASSWORD");
    m.map("token", "TOKEN");
    m.put("DB_PASSWORD", b"one")
        .ended(0)
        .says(&["generation 1"]);
    m.put("DB_PASSWORD", b"one")
        .ended(0)
        .says(&["there already"]);
    m.put("TOKEN", b"t").ended(0).says(&["generation 2"]);
    let serve = m.serve();
    assert_eq!(m.lookup("db"), (200, b"one".to_vec()));
    serve.sigterm();
    m.run(&["rm", "DB_PASSWORD"])
        .ended(0)
        .says(&["removed the local value DB_PASSWORD"]);
    m.run(&["rm", "DB_PASSWORD"])
        .ended(0)
        .says(&["nothing was removed"]);
    serve.restart();
    assert_eq!(m.lookup("db").0, 502);
    assert_eq!(m.lookup("token"), (200, b"t".to_vec()));
}

#[test]
fn what_root_puts_belongs_to_the_owner_of_the_state_directory() {
    use std::os::unix::fs::{MetadataExt, chown};
    let m = Machine::new();
    chown(m.host.state_dir(), Some(65534), Some(65534)).unwrap();
    m.put("A", b"v").ended(0);
    for name in ["cache.enc", ".lock"] {
        let meta = fs::metadata(m.host.state_dir().join(name)).unwrap();
        assert_eq!((meta.uid(), meta.mode() & 0o777), (65534, 0o600), "{name}");
    }
}

#[test]
fn every_byte_of_a_pipe_counts_and_a_newline_at_the_end_is_pointed_out() {
    let m = Machine::new();
    m.map("a", "A");
    let _serve = m.serve();
    m.put("A", b"line\n").ended(0).says(&[
        "ends with a newline, which is kept",
        "printf %s VALUE | psi-cachectl put A",
    ]);
    assert_eq!(m.lookup("a"), (200, b"line\n".to_vec()));
    m.put("A", b"a\nb").ended(0).never_says("newline");
    let largest = vec![b'x'; LARGEST];
    m.put("A", &largest)
        .ended(0)
        .says(&["no variable can hold"]);
    assert_eq!(m.lookup("a"), (200, largest));
}

#[test]
fn empty_and_oversized_values_are_refused_and_the_one_before_stays() {
    for runs in [true, false] {
        let m = Machine::new();
        m.map("a", "A");
        m.put("A", b"good").ended(0);
        let before = m.cache_bytes();
        let serve = runs.then(|| m.serve());
        m.put("A", b"")
            .ended(1)
            .says(&["an empty value is not kept", "next: "]);
        m.put("A", &vec![b'x'; LARGEST + 1])
            .ended(1)
            .says(&["larger than 511999 bytes"]);
        assert_eq!(m.cache_bytes(), before);
        let _serve = serve.unwrap_or_else(|| m.serve());
        assert_eq!(m.lookup("a"), (200, b"good".to_vec()));
    }
}

#[test]
fn a_name_that_could_be_anything_else_is_wrong_usage() {
    let m = Machine::new();
    let too_long = "a".repeat(254);
    for name in ["", ".a", "-a", "a/b", "../a", "a b", "a\n", "é", &too_long] {
        for command in ["put", "rm"] {
            m.run_with(&[command, "--", name], b"v").ended(64);
        }
    }
    assert!(!m.host.cache_file().exists());
    m.put(&"a".repeat(253), b"v").ended(0);
}

#[test]
fn the_one_slot_that_all_depends_on_is_pointed_out() {
    let m = Machine::new();
    for _ in 0..2 {
        m.put("A", b"v").ended(0).says(&[
            "one slot only",
            "every local value is lost",
            "`psi-cachectl slots add recovery`",
        ]);
    }
}

#[test]
fn the_next_step_names_the_workloads_that_list_the_value() {
    let m = Machine::with_config(&format!("{CACHE}{WORKLOAD}"));
    m.put("DB_PASSWORD", b"v")
        .ended(0)
        .says(&["registers it for bootstrap"]);
    m.put("OTHER", b"v")
        .ended(0)
        .says(&["list it in a workload with `provider: local`"]);
}

#[test]
fn where_no_cache_is_kept_nothing_is_put_or_removed() {
    for config in [
        "providers: {local: {}}\n",
        "providers: {local: {}}\ncache: {backend: tpm, enabled: false}\n",
    ] {
        for runs in [true, false] {
            let m = Machine::with_config(config);
            m.map("a", "A");
            let _serve = runs.then(|| m.serve());
            m.put("A", b"v")
                .ended(1)
                .says(&["no cache is kept", "set `cache.backend`"]);
            m.run(&["rm", "A"]).ended(1).says(&["no cache is kept"]);
            assert!(!m.host.cache_file().exists());
            if runs {
                let (status, body) = m.lookup("a");
                let text = String::from_utf8(body).unwrap();
                assert!(
                    status == 502 && text.contains("set `cache.backend`"),
                    "{status} {text}"
                );
            }
        }
    }
}

#[test]
fn a_cache_that_does_not_open_says_why_and_is_left_as_it_is() {
    for runs in [true, false] {
        let m = Machine::new();
        m.map("a", "A");
        m.put("A", b"good").ended(0);
        let before = m.cache_bytes();
        m.host.set_credential("psi-cache-key", &[1; 32]);
        let _serve = runs.then(|| m.serve());
        for arguments in [["put", "A"], ["put", "B"], ["rm", "A"]] {
            m.run_with(&arguments, b"v").ended(69).says(&[
                "no slot opens the cache",
                "slot 1 (credential)",
                "next: ",
            ]);
        }
        if runs {
            let (status, body) = m.lookup("a");
            let text = String::from_utf8(body).unwrap();
            assert!(
                status == 502 && text.contains("no slot opens"),
                "{status} {text}"
            );
            assert!(!text.contains("psi-cachectl put"), "it was put: {text}");
        }
        assert_eq!(m.cache_bytes(), before);
    }
}

#[test]
fn a_damaged_cache_is_not_put_into() {
    let m = Machine::new();
    m.put("A", b"good").ended(0);
    let mut bytes = m.cache_bytes();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(m.host.cache_file(), &bytes).unwrap();
    let _serve = m.serve();
    m.put("A", b"v").ended(65).says(&["damaged"]);
    assert_eq!(m.cache_bytes(), bytes);
}

#[test]
fn the_value_is_in_no_output_argument_log_or_file_in_clear() {
    let m = Machine::new();
    m.map("a", "A");
    let mut serve = None;
    for _ in 0..2 {
        let trace = m.host.path("trace");
        let mut command = m.host.command("strace");
        command.args(["-f", "-s", "4096", "-e", "trace=execve,openat,mkdir", "-o"]);
        command.arg(&trace).arg(CACHECTL).args(["put", "A"]);
        command.env("PSI_LOG", "debug");
        Done::run(command, CANARY.as_bytes())
            .ended(0)
            .never_says(CANARY);
        assert!(!fs::read_to_string(&trace).unwrap().contains(CANARY));
        serve.get_or_insert_with(|| m.serve());
        m.put("A", &[CANARY.as_bytes(), b"\0\n"].concat())
            .ended(0)
            .never_says(CANARY);
        m.run(&["rm", "A"]).ended(0).never_says(CANARY);
    }
    m.put("A", CANARY.as_bytes()).ended(0);
    assert_eq!(m.lookup("a").1, CANARY.as_bytes());
    let clear = files_with(m.host.path(""), CANARY);
    assert!(clear.is_empty(), "{clear:?}");
}

// ---- put, typed

/// A terminal: what is typed goes into `keyboard`, which is also where its screen is read.
struct Terminal {
    keyboard: File,
    line: File,
}

impl Terminal {
    fn new() -> Self {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let name = ptsname(&keyboard, Vec::new()).unwrap();
        let mut line = File::options();
        line.read(true).write(true);
        let line = line.open(name.to_str().unwrap()).unwrap();
        Self {
            keyboard: keyboard.into(),
            line,
        }
    }

    fn type_in(&mut self, text: &[u8]) {
        self.keyboard.write_all(text).unwrap();
    }

    /// Everything that was shown so far.
    fn screen(&mut self) -> String {
        fcntl_setfl(&self.keyboard, OFlags::NONBLOCK).unwrap();
        let mut shown = Vec::new();
        // Ends with an error once there is no more.
        let _ = self.keyboard.read_to_end(&mut shown);
        String::from_utf8(shown).unwrap()
    }

    fn shows_what_is_typed(&self) -> bool {
        let modes = tcgetattr(&self.line).unwrap().local_modes;
        modes.contains(LocalModes::ECHO)
    }

    /// Starts `psi-cachectl put A` here and waits until it has asked.
    fn put(&self, m: &Machine) -> Child {
        let mut command = m.host.command("setsid");
        command.args(["--ctty", CACHECTL, "put", "A"]);
        command.stdin(self.line.try_clone().unwrap());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stderr = child.stderr.as_mut().unwrap();
        let mut prompt = [0; b"value of A: ".len()];
        stderr.read_exact(&mut prompt).unwrap();
        assert_eq!(&prompt, b"value of A: ");
        wait::until("a silent terminal", || !self.shows_what_is_typed());
        child
    }
}

#[test]
fn what_is_typed_is_not_shown_and_its_newline_is_no_part_of_it() {
    let m = Machine::new();
    m.map("a", "A");
    let _serve = m.serve();
    let mut terminal = Terminal::new();
    let child = terminal.put(&m);
    terminal.type_in(format!("{CANARY}\n").as_bytes());
    Done::of(child.wait_with_output().unwrap())
        .ended(0)
        .says(&["stored the local value A"])
        .never_says("newline");
    assert_eq!(m.lookup("a"), (200, CANARY.as_bytes().to_vec()));
    assert!(terminal.shows_what_is_typed());
    let screen = terminal.screen();
    assert!(!screen.contains("canary"), "{screen:?}");
}

#[test]
fn an_interrupted_prompt_changes_nothing_and_leaves_the_terminal_as_it_was() {
    let m = Machine::new();
    m.put("A", b"good").ended(0);
    let before = m.cache_bytes();
    let mut terminal = Terminal::new();
    for (keys, says) in [
        (b"half\x03".as_slice(), "interrupted: nothing was changed"),
        (b"\x04", "an empty value is not kept"),
        (b"\n", "an empty value is not kept"),
        (b"one\ntwo\nthree\n", "more was entered than one line"),
        (
            &[&[b'x'; 5000] as &[u8], b"\n"].concat(),
            "more was entered than one line",
        ),
    ] {
        let child = terminal.put(&m);
        terminal.type_in(keys);
        Done::of(child.wait_with_output().unwrap())
            .ended(1)
            .says(&[says]);
        assert!(terminal.shows_what_is_typed(), "{says}");
        assert_eq!(m.cache_bytes(), before);
    }
    assert!(!terminal.screen().contains("half"));
}

// ---- rm, invalidate

#[test]
fn a_value_that_a_workload_lists_is_removed_by_force_only() {
    for runs in [true, false] {
        let m = Machine::with_config(&format!("{CACHE}{WORKLOAD}"));
        m.put("DB_PASSWORD", b"v").ended(0);
        m.put("POSTGRES_PASSWORD", b"v").ended(0);
        let _serve = runs.then(|| m.serve());
        m.run(&["rm", "DB_PASSWORD"])
            .ended(1)
            .says(&["listed by bootstrap", "rm --force DB_PASSWORD"]);
        assert_eq!(m.header()["local"], 2);
        m.run(&["rm", "POSTGRES_PASSWORD"])
            .ended(0)
            .says(&["removed"]);
        m.run(&["rm", "--force", "DB_PASSWORD"])
            .ended(0)
            .says(&["removed", "containers of bootstrap do not start"]);
        assert_eq!(m.header()["local"], 0);
    }
}

#[test]
fn what_was_never_put_is_not_removed_and_nothing_is_made_for_it() {
    let m = Machine::new();
    m.run(&["rm", "A"])
        .ended(0)
        .says(&["there is no local value A"]);
    let _serve = m.serve();
    m.run(&["rm", "A"])
        .ended(0)
        .says(&["there is no local value A"]);
    assert!(!m.host.cache_file().exists());
}

#[test]
fn invalidate_refuses_the_only_copy() {
    for runs in [true, false] {
        let m = Machine::new();
        m.map("a", "A");
        m.put("A", b"v").ended(0);
        let before = m.cache_bytes();
        let _serve = runs.then(|| m.serve());
        m.run(&["invalidate", "a"])
            .ended(1)
            .says(&["its only copy", "psi-cachectl rm NAME"]);
        assert_eq!(m.cache_bytes(), before);
    }
}
