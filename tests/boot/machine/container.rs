//! A machine in a container of systemd-nspawn.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use psi_test_support::wait;
use tempfile::TempDir;

use super::{Inside, install_below, text, tied_to_us};
use crate::image;

/// Mounts and boots.
const START: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/boot/start");

/// Where the host's second version of control groups is: alone, or beside the first.
const CGROUPS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

pub struct Container {
    name: String,
    files: TempDir,
    process: Child,
    /// Its process 1, as the host sees it.
    init: u32,
}

impl Container {
    pub fn start() -> Self {
        let files = tempfile::tempdir().expect("a temporary directory");
        let scratch = files.path().join("disk");
        fs::create_dir(&scratch).expect("the disk's directory");
        let name = format!("psi-{}", suffix(files.path()));
        let console = fs::File::create(files.path().join("console")).expect("the console");
        // It dies with us; with unshare, its namespace and all in it.
        let process = tied_to_us("unshare")
            .args(["--mount", "--pid", "--propagation", "private", "--fork"])
            .args(["--mount-proc", "--kill-child", START, &name])
            .args([&image::directory(), &scratch])
            .stdin(Stdio::null())
            .stdout(console.try_clone().expect("the console again"))
            .stderr(console)
            .spawn()
            .expect("setpriv and unshare are installed");
        Self {
            name,
            files,
            process,
            init: 0,
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
}

impl Inside for Container {
    fn enter(&self, command: &[&str], input: &[u8]) -> Output {
        let mut process = Command::new("nsenter")
            .args(["--all", "--target", &self.init.to_string()])
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("nsenter is installed");
        // Who does not read its input has no need of it.
        let _ = process.stdin.take().expect("its input").write_all(input);
        process.wait_with_output().expect("its end")
    }

    fn try_enter(&mut self, command: &[&str]) -> Option<Output> {
        let ended = self.process.try_wait().expect("its status");
        assert!(ended.is_none(), "no boot ({ended:?}): {}", self.console());
        self.init = self.find_init()?;
        Some(self.enter(command, &[]))
    }

    fn restart(&mut self) {
        let before = self.init;
        self.enter(&["systemctl", "reboot"], &[]);
        wait::until("shutdown", || self.find_init() != Some(before));
    }

    fn install(&self, prefix: &str) {
        install_below(&format!("/proc/{}/root", self.init), prefix);
    }
}

impl Drop for Container {
    fn drop(&mut self) {
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
