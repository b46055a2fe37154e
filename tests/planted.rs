//! Root's tools in a directory that psi-serve's user may write: whatever that user has planted at
//! a name they touch, nothing outside changes and nothing hangs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use psi_test_support::psi::Host;
use psi_test_support::token::Module;

const CACHECTL: &str = env!("CARGO_BIN_EXE_psi-cachectl");
const HSM: &str = env!("CARGO_BIN_EXE_psi-hsm");
const PIN: &str = "31415926";
/// psi-serve's user, which owns the state directory.
const NOBODY: u32 = 65534;
/// In seconds; far longer than any command takes, those that wait for a lock included.
const HANGS: &str = "60";
/// What takes its number from the clock may be planted for this many seconds ahead.
const AHEAD: u64 = 90;
/// How `timeout` ends if the command did not end by itself.
const HUNG: i32 = 124;

const COMMANDS: [(&str, &[&str]); 16] = [
    (CACHECTL, &["init", "--backend", "credential"]),
    (CACHECTL, &["init", "--backend", "credential", "--force"]),
    (CACHECTL, &["put", "A"]),
    (CACHECTL, &["rm", "A"]),
    (CACHECTL, &["invalidate", "by-name"]),
    (CACHECTL, &["status"]),
    (CACHECTL, &["status", "--verify"]),
    (CACHECTL, &["refresh"]),
    (CACHECTL, &["slots", "list"]),
    (CACHECTL, &["slots", "test"]),
    (CACHECTL, &["slots", "add", "recovery"]),
    (CACHECTL, &["slots", "reseal"]),
    (CACHECTL, &["adopt-v1", "--key", "/nonexistent"]),
    (HSM, &["init"]),
    (HSM, &["store", "stored"]),
    (HSM, &["list"]),
];

struct Machine {
    host: Host,
    /// The token that psi-hsm has to do with.
    _module: Module,
    /// A good state directory's files.
    good: Vec<(PathBuf, Vec<u8>)>,
}

impl Machine {
    /// With a cache that has a local value, a mapping, and something stored for a token.
    fn new() -> Self {
        let host = Host::new();
        let module = Module::with_key("psi", PIN);
        host.set_credential("hsm-pin", PIN.as_bytes());
        host.write_config(&format!(
            "providers: {{local: {{}}, nitrokeyhsm: {{pkcs11_module: {}}}}}\ncache: {{backend: tpm}}\n",
            module.library().display()
        ));
        let mapping = br#"{"key":"B","provider":"infisical"}"#;
        fs::write(host.state_dir().join("by-name"), mapping).unwrap();
        let mut machine = Self {
            host,
            _module: module,
            good: Vec::new(),
        };
        for (program, arguments) in [
            (CACHECTL, ["put", "A"].as_slice()),
            (HSM, &["init"]),
            (HSM, &["store", "stored"]),
        ] {
            let done = machine.run(program, arguments, &mut machine.bounded());
            assert!(done.status.success(), "{done:?}");
        }
        let files = fs::read_dir(machine.host.state_dir()).unwrap();
        let files = files.map(|entry| entry.unwrap().path());
        machine.good = files
            .map(|path| (path.clone(), fs::read(path).unwrap()))
            .collect();
        machine
    }

    /// The state directory as it was, with an owner who is not root.
    fn reset(&self) {
        fs::remove_dir_all(self.host.state_dir()).unwrap();
        fs::create_dir(self.host.state_dir()).unwrap();
        for (path, bytes) in &self.good {
            fs::write(path, bytes).unwrap();
            chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        chown(self.host.state_dir(), Some(NOBODY), Some(NOBODY)).unwrap();
    }

    fn bounded(&self) -> Command {
        let mut command = self.host.command("timeout");
        command.arg(HANGS);
        command
    }

    /// Runs `program` by way of `command`.
    fn run(&self, program: &str, arguments: &[&str], command: &mut Command) -> Output {
        command.arg(program);
        if program == CACHECTL {
            command.arg("--sealed-key").arg(self.host.path("none"));
        }
        command.args(arguments).stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // Most commands read nothing.
        let _ = child.stdin.take().unwrap().write_all(b"a value");
        child.wait_with_output().unwrap()
    }

    /// Every name in the state directory that the command touches in any way.
    fn touched(&self, program: &str, arguments: &[&str]) -> BTreeSet<String> {
        self.reset();
        let trace = self.host.path("trace");
        let mut strace = self.host.command("strace");
        strace.args([
            "-f",
            "-y",
            "-s",
            "4096",
            "-e",
            "trace=%file,renameat2,linkat",
        ]);
        strace.arg("-o").arg(&trace);
        self.run(program, arguments, &mut strace);
        names_in(&fs::read_to_string(trace).unwrap(), &self.host.state_dir())
    }
}

/// As strace shows them: `5</state>, "NAME"` and `"/state/NAME"`.
fn names_in(trace: &str, directory: &Path) -> BTreeSet<String> {
    let directory = directory.display();
    let mut names = BTreeSet::new();
    for before in [format!("<{directory}>, \""), format!("\"{directory}/")] {
        for part in trace.split(before.as_str()).skip(1) {
            names.insert(part.split('"').next().unwrap().to_owned());
        }
    }
    // The directory itself.
    names.remove("");
    names.remove(".");
    names
}

/// A name that ends in the time stands for itself in the next while.
fn names_now(name: &str) -> Vec<String> {
    let is_time = |s: &str| s.len() == 10 && s.bytes().all(|b| b.is_ascii_digit());
    match name.rsplit_once('-') {
        Some((stem, number)) if is_time(number) => {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap()
                .as_secs();
            (now..now + AHEAD)
                .map(|at| format!("{stem}-{at}"))
                .collect()
        }
        _ => vec![name.to_owned()],
    }
}

/// What may be in the place of a file.
#[derive(Clone, Copy, Debug)]
enum Planted {
    LinkToFile,
    LinkToNothing,
    Pipe,
    Directory,
}

const KINDS: [Planted; 4] = [
    Planted::LinkToFile,
    Planted::LinkToNothing,
    Planted::Pipe,
    Planted::Directory,
];

impl Planted {
    fn plant(self, at: &Path, root_file: &Path) {
        let _ = fs::remove_file(at);
        match self {
            Planted::LinkToFile => symlink(root_file, at).unwrap(),
            Planted::LinkToNothing => symlink(root_file.with_extension("new"), at).unwrap(),
            Planted::Directory => fs::create_dir(at).unwrap(),
            Planted::Pipe => {
                let made = Command::new("mkfifo").arg(at).status();
                assert!(made.unwrap().success());
            }
        }
    }
}

#[test]
fn nothing_that_is_planted_in_the_state_directory_leads_root_out_of_it_or_hangs_it() {
    let m = Machine::new();
    let root_file = m.host.path("root-file");
    fs::write(&root_file, b"precious").unwrap();
    fs::set_permissions(&root_file, fs::Permissions::from_mode(0o640)).unwrap();
    let meta = |path: &Path| {
        let meta = path.metadata().unwrap();
        let times = (
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec(),
        );
        (meta.ino(), meta.uid(), meta.gid(), meta.mode(), times)
    };
    let before = meta(&root_file);
    let mut all = BTreeSet::new();
    for (program, arguments) in COMMANDS {
        for name in m.touched(program, arguments) {
            for kind in KINDS {
                m.reset();
                for name in names_now(&name) {
                    kind.plant(&m.host.state_dir().join(name), &root_file);
                }
                let output = m.run(program, arguments, &mut m.bounded());
                let case = format!("{arguments:?} with {kind:?} as {name}: {output:?}");
                assert_ne!(output.status.code(), Some(HUNG), "{case}");
                assert!(output.status.code().is_some(), "{case}");
                assert_eq!(fs::read(&root_file).unwrap(), b"precious", "{case}");
                assert_eq!(meta(&root_file), before, "{case}");
                assert!(!root_file.with_extension("new").exists(), "{case}");
            }
            all.insert(name);
        }
    }
    for expected in [
        ".lock",
        "cache.enc",
        ".cache.enc.new",
        "by-name",
        "nitrokeyhsm-pubkey.der",
        ".nitrokeyhsm-pubkey.der.new",
        "stored",
        ".stored.new",
    ] {
        assert!(all.contains(expected), "{expected} is not in {all:?}");
    }
    let is_aside = |name: &String| name.starts_with("cache.enc.replaced-");
    assert!(all.iter().any(is_aside), "{all:?}");
}
