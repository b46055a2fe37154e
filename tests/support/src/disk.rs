//! Disks that fail: a small one that can be filled or made read-only, and calls that fail in a
//! process that runs.

use std::fs;
use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};

/// A file system of 1 MiB in memory, mounted until it is dropped.
pub struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    /// Mounts it over the empty directory `at`, whose owner and mode it takes over.
    pub fn mount(at: &Path) -> Self {
        run(
            "mount",
            &["-t", "tmpfs", "-o", "size=1m,mode=0700", "none"],
            at,
        );
        Self { at: at.to_owned() }
    }

    /// Leaves no byte of room.
    pub fn fill(&self) {
        let error = fs::write(self.filler(), vec![0; 2 << 20]).expect_err("it is small");
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    }

    /// Makes room again.
    pub fn free(&self) {
        fs::remove_file(self.filler()).expect("it was full");
    }

    fn filler(&self) -> PathBuf {
        self.at.join(".filler")
    }

    /// As after an error of the disk.
    pub fn make_read_only(&self) {
        run("mount", &["-o", "remount,ro"], &self.at);
    }

    /// As after a repair.
    pub fn make_writable(&self) {
        run("mount", &["-o", "remount,rw"], &self.at);
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).status();
    }
}

fn run(program: &str, arguments: &[&str], at: &Path) {
    let status = Command::new(program).args(arguments).arg(at).status();
    assert!(
        status.expect("it can be run").success(),
        "{program} {arguments:?}"
    );
}

/// Which calls fail, how, and on which file or directory.
#[derive(Clone, Debug)]
pub struct Fault {
    /// strace's names of the calls, e.g. `fsync` or `renameat,renameat2`.
    pub calls: &'static str,
    /// The error's name, e.g. `EIO`.
    pub error: &'static str,
    /// The file or directory, by its path or by a descriptor of it.
    pub path: PathBuf,
}

impl Fault {
    /// `calls` on `path` fail with `error`.
    pub fn new(calls: &'static str, error: &'static str, path: PathBuf) -> Self {
        Self { calls, error, path }
    }

    /// Lets a running process meet the fault, in all of its threads, until it is dropped.
    pub fn strike(&self, pid: u32) -> Struck {
        let mut command = self.strace();
        command.arg("-p").arg(pid.to_string());
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        let mut strace = command.spawn().expect("strace can be run");
        let stderr = strace.stderr.take().expect("its messages");
        let mut messages = BufReader::new(stderr).lines();
        let attached = messages.find(|line| line.as_ref().is_ok_and(|l| l.contains("attached")));
        assert!(attached.is_some(), "strace may trace processes");
        Struck {
            strace,
            _messages: messages,
        }
    }

    /// The start of a command line for a process that meets the fault all its life.
    pub fn strace(&self) -> Command {
        let mut command = Command::new("strace");
        command
            .args(["-f", "-o", "/dev/null", "-P"])
            .arg(&self.path);
        command.arg(format!("--trace={}", self.calls));
        command.arg(format!("--inject={}:error={}", self.calls, self.error));
        command
    }
}

/// A fault that lasts until this is dropped.
pub struct Struck {
    strace: Child,
    /// It says more with each new thread, and ends if nobody could read that.
    _messages: Lines<BufReader<ChildStderr>>,
}

impl Drop for Struck {
    /// Ended by a signal that it can handle, strace lets go of the process.
    fn drop(&mut self) {
        let kill = format!("kill -s INT {}", self.strace.id());
        let _ = Command::new("/bin/sh").args(["-c", &kill]).status();
        let _ = self.strace.wait();
    }
}
