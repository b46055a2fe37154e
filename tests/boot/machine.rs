//! A machine with a systemd of its own, which lives as long as the test.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use psi_test_support::wait;
use tempfile::TempDir;

use crate::image;

/// Mounts and boots.
const START: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/boot/start");

/// Where the host's second version of control groups is: alone, or beside the first.
const CGROUPS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// Everything of it goes when it is dropped, and when the test is killed.
pub struct Machine {
    name: String,
    files: TempDir,
    process: Child,
    /// Its process 1, as the host sees it.
    init: u32,
}

impl Machine {
    /// Boots the image, and waits until systemd has started it all.
    ///
    /// # Panics
    /// If a unit failed.
    pub fn boot() -> Self {
        for tool in ["mmdebstrap", "systemd-nspawn", "nsenter", "pgrep"] {
            let found = Command::new("which").arg(tool).output().expect("which");
            assert!(
                found.status.success(),
                "no {tool}: run scripts/install-test-tools"
            );
        }
        let files = tempfile::tempdir().expect("a temporary directory");
        let scratch = files.path().join("disk");
        fs::create_dir(&scratch).expect("the disk's directory");
        let name = format!("psi-{}", suffix(files.path()));
        let console = fs::File::create(files.path().join("console")).expect("the console");
        // It dies with us; with unshare, its namespace and all in it.
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--mount", "--pid"])
            .args(["--propagation", "private", "--fork", "--mount-proc"])
            .args(["--kill-child", START, &name])
            .args([&image::directory(), &scratch])
            .stdin(Stdio::null())
            .stdout(console.try_clone().expect("the console again"))
            .stderr(console)
            .spawn()
            .expect("setpriv and unshare are installed");
        let mut machine = Self {
            name,
            files,
            process,
            init: 0,
        };
        machine.wait_until_up();
        machine
    }

    /// Shuts down and boots again, with the same disk.
    pub fn reboot(&mut self) {
        let before = self.init;
        self.enter(&["systemctl", "reboot"]);
        wait::until("shutdown", || self.find_init() != Some(before));
        self.wait_until_up();
    }

    fn wait_until_up(&mut self) {
        let mut state = String::new();
        wait::until("boot", || {
            let ended = self.process.try_wait().expect("its status");
            assert!(ended.is_none(), "no boot ({ended:?}): {}", self.console());
            let Some(init) = self.find_init() else {
                return false;
            };
            self.init = init;
            let asked = self.enter(&["systemctl", "is-system-running", "--wait"]);
            state = text(&asked.stdout);
            ["running", "degraded"].contains(&state.trim())
        });
        if state.trim() == "degraded" {
            let failed = self.enter(&["systemctl", "--failed", "--no-legend", "--plain"]);
            panic!("failed at boot: {}", text(&failed.stdout));
        }
    }

    /// The process below unshare, start and systemd-nspawn.
    fn find_init(&self) -> Option<u32> {
        let child = |pid: u32| {
            let parent = pid.to_string();
            let found = Command::new("pgrep").args(["-P", &parent]).output();
            text(&found.expect("pgrep").stdout)
                .lines()
                .next()?
                .parse()
                .ok()
        };
        child(self.process.id()).and_then(child).and_then(child)
    }

    fn console(&self) -> String {
        let console = fs::read(self.files.path().join("console")).unwrap_or_default();
        text(&console)
    }

    /// A path inside, from outside.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.init))
    }

    /// The text of a file there.
    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).expect("the file")
    }

    /// Puts a file there, for everybody to read. Nothing of it gets into the machine's journal.
    pub fn write(&self, path: &str, contents: &str) {
        self.write_with_mode(path, contents, 0o644);
    }

    /// Puts other words into a file that keeps its owner and its mode.
    pub fn rewrite(&self, path: &str, contents: &str) {
        fs::write(self.path(path), contents).expect("the file");
    }

    /// Puts a file there that everybody may run.
    pub fn write_program(&self, path: &str, contents: &str) {
        self.write_with_mode(path, contents, 0o755);
    }

    fn write_with_mode(&self, path: &str, contents: &str, mode: u32) {
        let path = self.path(path);
        let directory = path.parent().expect("a file's path");
        fs::create_dir_all(directory).expect("its directory");
        fs::write(&path, contents).expect("the file");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("its mode");
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
        Command::new("nsenter")
            .args(["--all", "--target", &self.init.to_string()])
            .args(command)
            .stdin(Stdio::null())
            .output()
            .expect("nsenter is installed")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let journal = self.enter(&["journalctl", "--no-pager", "--lines=200", "--output=cat"]);
            eprintln!("the machine's journal ends:\n{}", text(&journal.stdout));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        for cgroups in CGROUPS {
            remove_cgroup(&Path::new(cgroups).join(&self.name));
        }
    }
}

/// Control groups go one by one, the innermost first, once their last process is gone.
fn remove_cgroup(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroup(&entry.path());
        }
    }
    for _ in 0..100 {
        match fs::remove_dir(cgroup) {
            Err(e) if e.kind() == std::io::ErrorKind::ResourceBusy => {
                std::thread::sleep(Duration::from_millis(50));
            }
            _ => return,
        }
    }
}

/// What tells one temporary directory from another.
fn suffix(directory: &Path) -> String {
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    name.trim_start_matches('.').to_lowercase()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
