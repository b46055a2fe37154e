//! A machine with a systemd of its own, which lives as long as the test.

mod container;
mod emulated;

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use psi_test_support::wait;

use container::Container;
use emulated::Emulated;

/// How long a shutdown and a boot may take, each: a processor in software is slow.
const BOOT: Duration = Duration::from_secs(300);

/// Everything of it goes when it is dropped, and when the test is killed.
pub struct Machine {
    inside: Box<dyn Inside>,
}

/// The way into a machine of one kind.
trait Inside {
    /// Runs a command as root, with something on its standard input.
    fn enter(&self, command: &[&str], input: &[u8]) -> Output;

    /// As [`Inside::enter`], while the machine boots: nothing if it is not up to that yet.
    ///
    /// # Panics
    /// If it ended instead.
    fn try_enter(&mut self, command: &[&str]) -> Option<Output>;

    /// Asks it to shut down and boot again, and returns once it is no longer what it was.
    fn restart(&mut self);

    /// `make install` into it, of the programs that the tests are run with; and the stand-in for
    /// Infisical.
    fn install(&self, prefix: &str);
}

impl Machine {
    /// One that shares this kernel, with a software TPM that is no device. It boots in seconds.
    pub fn boot() -> Self {
        need(&["mmdebstrap", "systemd-nspawn", "nsenter", "pgrep"]);
        Self::booted(Container::start())
    }

    /// One with a kernel of its own, `/dev/tpmrm0`, and limits that hold. Its processor is software,
    /// so all of it is slow.
    pub fn emulate() -> Self {
        need(&["mmdebstrap", "qemu-system-x86_64", "swtpm", "mke2fs"]);
        Self::booted(Emulated::start())
    }

    fn booted(inside: impl Inside + 'static) -> Self {
        let mut machine = Self {
            inside: Box::new(inside),
        };
        machine.wait_until_up();
        machine
    }

    /// Shuts down and boots again, with the same disk.
    ///
    /// # Panics
    /// If a unit failed then.
    pub fn reboot(&mut self) {
        self.inside.restart();
        self.wait_until_up();
    }

    fn wait_until_up(&mut self) {
        let mut state = String::new();
        wait::until_within(BOOT, "boot", || {
            let is_up = ["systemctl", "is-system-running", "--wait"];
            let Some(asked) = self.inside.try_enter(&is_up) else {
                return false;
            };
            state = text(&asked.stdout);
            ["running", "degraded"].contains(&state.trim())
        });
        if state.trim() == "degraded" {
            let failed = self.enter(&["systemctl", "--failed", "--no-legend", "--plain"]);
            panic!("failed at boot: {}", text(&failed.stdout));
        }
    }

    /// `make install` into it, and the stand-in for Infisical.
    pub fn install(&self, prefix: &str) {
        self.inside.install(prefix);
    }

    /// The text of a file there.
    pub fn read(&self, path: &str) -> String {
        text(&self.read_bytes(path))
    }

    pub fn read_bytes(&self, path: &str) -> Vec<u8> {
        let read = self.enter(&["cat", path]);
        assert!(read.status.success(), "{}", text(&read.stderr));
        read.stdout
    }

    pub fn has(&self, path: &str) -> bool {
        self.enter(&["test", "-e", path]).status.success()
    }

    /// Puts a file there, for everybody to read. Nothing of it gets into the machine's journal.
    pub fn write(&self, path: &str, contents: &(impl AsRef<[u8]> + ?Sized)) {
        self.write_with_mode(path, contents, "0644");
    }

    /// Puts other words into a file that keeps its owner and its mode.
    pub fn rewrite(&self, path: &str, contents: &(impl AsRef<[u8]> + ?Sized)) {
        self.put(contents, &["dd", "status=none", &format!("of={path}")]);
    }

    /// Puts a file there that everybody may run.
    pub fn write_program(&self, path: &str, contents: &str) {
        self.write_with_mode(path, contents, "0755");
    }

    fn write_with_mode(&self, path: &str, contents: &(impl AsRef<[u8]> + ?Sized), mode: &str) {
        self.put(contents, &["install", "-D", "-m", mode, "/dev/stdin", path]);
    }

    fn put(&self, contents: &(impl AsRef<[u8]> + ?Sized), command: &[&str]) {
        let put = self.inside.enter(command, contents.as_ref());
        assert!(put.status.success(), "{command:?}: {}", text(&put.stderr));
    }

    /// Runs a shell script there, as root and as a unit of its own. The journal has the script.
    pub fn try_run(&self, script: &str) -> Output {
        let unit = ["systemd-run", "--quiet", "--pipe", "--wait", "--collect"];
        let shell = ["bash", "-euo", "pipefail", "-c", script];
        self.enter(&[unit.as_slice(), &shell].concat())
    }

    /// Runs a shell script that must succeed, and returns what it wrote.
    ///
    /// # Panics
    /// If it fails.
    pub fn run(&self, script: &str) -> String {
        let output = self.try_run(script);
        assert!(
            output.status.success(),
            "{script}\n{}: {}{}",
            output.status,
            text(&output.stdout),
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// A property of a unit, as `systemctl show` has it.
    pub fn property(&self, unit: &str, property: &str) -> String {
        let value = self.run(&format!(
            "systemctl show --property={property} --value {unit}"
        ));
        value.trim().to_owned()
    }

    /// All that the journal has, of every boot.
    pub fn journal(&self) -> String {
        self.run("journalctl --sync && journalctl --output=export")
    }

    fn enter(&self, command: &[&str]) -> Output {
        self.inside.enter(command, &[])
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let journal = ["journalctl", "--no-pager", "--lines=200", "--output=cat"];
            if let Some(journal) = self.inside.try_enter(&journal) {
                eprintln!("the machine's journal ends:\n{}", text(&journal.stdout));
            }
        }
    }
}

/// # Panics
/// If one of the tools is missing.
fn need(tools: &[&str]) {
    for tool in tools {
        let found = Command::new("which").arg(tool).output().expect("which");
        assert!(
            found.status.success(),
            "no {tool}: run scripts/install-test-tools"
        );
    }
}

/// `make install` below a directory; then the stand-in for Infisical.
fn install_below(root: &str, prefix: &str) {
    let programs = PathBuf::from(env!("CARGO_BIN_EXE_psi-serve"));
    let programs = programs.parent().expect("the programs' directory");
    let output = Command::new("make")
        .args(["--old-file=build", "install"])
        .arg(format!("PROGRAMS={}", programs.display()))
        .arg(format!("DESTDIR={root}"))
        .arg(format!("PREFIX={prefix}"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("make is installed");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let stand_in = programs.join("stand-in-infisical");
    let there = PathBuf::from(format!("{root}/usr/local/bin"));
    std::fs::create_dir_all(&there).expect("the directory for it");
    let there = there.join("stand-in-infisical");
    // A program that runs can't be written to.
    let _ = std::fs::remove_file(&there);
    std::fs::copy(&stand_in, there)
        .unwrap_or_else(|e| panic!("{}: {e}: run `cargo build --workspace`", stand_in.display()));
}

/// A command that ends with the test, however that ends.
fn tied_to_us(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", program]);
    command
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
