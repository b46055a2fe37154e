//! A software TPM of a test's own.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

use crate::wait;

/// What the firmware measures at each start. PCR 7 all zero would be no policy at all.
const FIRMWARE: &str = "firmware";

/// How often another pair of ports is tried when somebody took one meanwhile.
const TRIES: usize = 20;

/// Runs until it is dropped. It has no resource manager, so only one client at a time.
pub struct Swtpm {
    state: TempDir,
    port: u16,
    process: Option<Child>,
}

impl Swtpm {
    /// Makes a new TPM with the SHA-256 bank and starts it; PCR 7 is what a firmware leaves.
    pub fn start() -> Self {
        let state = tempfile::tempdir().expect("a temporary directory");
        let setup = Command::new("swtpm_setup")
            .args(["--tpm2", "--pcr-banks", "sha256", "--tpmstate"])
            .arg(state.path())
            .output()
            .expect("swtpm_setup is installed");
        succeeded("swtpm_setup", &setup);
        let mut tpm = Self {
            state,
            port: 0,
            process: None,
        };
        for _ in 0..TRIES {
            tpm.port = free_ports();
            if tpm.power_on() {
                tpm.extend_pcr(7, FIRMWARE);
                return tpm;
            }
        }
        panic!("no swtpm after {TRIES} tries: {}", tpm.log());
    }

    /// The TPM's port on 127.0.0.1; its control channel is on the next one.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The device's name for libtss2: for tpm2-tools, tss-esapi, systemd's `--tpm2-device=` and
    /// `SYSTEMD_TPM2_DEVICE`.
    pub fn tcti(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.port)
    }

    /// Extends a PCR by the hash of `text`, as a changed boot chain does.
    pub fn extend_pcr(&self, pcr: u8, text: &str) {
        let digest = self.state.path().join("event");
        std::fs::write(&digest, text).expect("the event's file");
        let event = digest.to_str().expect("a path of text");
        self.tool("tpm2_pcrevent", &[&pcr.to_string(), event]);
    }

    /// Runs one of tpm2-tools and returns what it wrote.
    ///
    /// # Panics
    /// If it fails.
    pub fn tool(&self, program: &str, arguments: &[&str]) -> String {
        let output = Command::new(program)
            .args(arguments)
            .env("TPM2TOOLS_TCTI", self.tcti())
            .output()
            .expect("tpm2-tools are installed");
        succeeded(program, &output);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Frees what a client left behind that failed half-way.
    pub fn flush(&self) {
        for kind in ["-t", "-l", "-s"] {
            self.tool("tpm2_flushcontext", &[kind]);
        }
    }

    /// Takes the device away, as if it were unplugged.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Has it answer nothing more, until [`Swtpm::thaw`].
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// Has it answer again, also what it was asked meanwhile.
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let id = self.process.as_ref().map_or(0, Child::id);
        assert_ne!(id, 0, "it runs");
        // The shell's own `kill`: not every machine has the program.
        let kill = format!("kill -s {name} {id}");
        let status = Command::new("/bin/sh").args(["-c", &kill]).status();
        assert!(status.expect("a shell").success());
    }

    /// Power off and on: the same TPM, the PCRs as the same firmware leaves them.
    pub fn restart(&mut self) {
        self.restart_with(FIRMWARE);
    }

    /// Power off and on with another firmware, so PCR 7 differs.
    pub fn restart_with(&mut self, firmware: &str) {
        self.restart_unmeasured();
        self.extend_pcr(7, firmware);
    }

    /// Power off and on with a firmware that measures nothing.
    pub fn restart_unmeasured(&mut self) {
        self.stop();
        for _ in 0..TRIES {
            if self.power_on() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("swtpm did not come back: {}", self.log());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.state.path().join("log")).unwrap_or_default()
    }

    /// Whether it came up.
    fn power_on(&mut self) -> bool {
        let state = self.state.path();
        let mut process = swtpm(state, self.port);
        let mut is_up = false;
        wait::until("software TPM", || {
            is_up = TcpStream::connect(("127.0.0.1", self.port + 1)).is_ok();
            is_up || process.try_wait().expect("its status").is_some()
        });
        // Whoever took the port first would have answered as well.
        let ended = process.try_wait().expect("its status").is_some();
        self.process = Some(process);
        if ended {
            self.stop();
        }
        is_up && !ended
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        self.stop();
    }
}

fn swtpm(state: &Path, port: u16) -> Child {
    Command::new("swtpm")
        .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
        .arg("--tpmstate")
        .arg(format!("dir={}", state.display()))
        .arg("--log")
        .arg(format!("file={},level=1", state.join("log").display()))
        .arg("--server")
        .arg(format!("type=tcp,bindaddr=127.0.0.1,port={port}"))
        .arg("--ctrl")
        .arg(format!("type=tcp,bindaddr=127.0.0.1,port={}", port + 1))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("swtpm is installed")
}

/// A port that is free, as is the next one, at this moment.
fn free_ports() -> u16 {
    for _ in 0..1000 {
        let first = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = first.local_addr().expect("its address").port();
        if port < u16::MAX && TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return port;
        }
    }
    panic!("no two free ports next to each other");
}

fn succeeded(program: &str, output: &Output) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {stderr}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pcr7(tpm: &Swtpm) -> String {
        tpm.tool("tpm2_pcrread", &["sha256:7"])
    }

    #[test]
    fn a_restart_brings_the_same_boot_chain_back_unless_the_firmware_changed() {
        let mut tpm = Swtpm::start();
        let before = pcr7(&tpm);
        assert!(before.contains("0x") && !before.contains(&"0".repeat(64)));
        tpm.extend_pcr(7, "drift");
        assert_ne!(pcr7(&tpm), before);
        tpm.restart();
        assert_eq!(pcr7(&tpm), before);
        tpm.restart_with("an update");
        assert_ne!(pcr7(&tpm), before);
    }

    #[test]
    fn what_systemd_sealed_opens_after_a_restart_and_not_after_drift() {
        let mut tpm = Swtpm::start();
        let creds = |command: &str, tpm: &Swtpm, input: &[u8]| {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("in");
            std::fs::write(&file, input).unwrap();
            let mut program = Command::new("systemd-creds");
            program.args([command, "--name=x"]);
            if command == "encrypt" {
                program.args(["--with-key=tpm2", "--tpm2-pcrs=7"]);
                program.arg(format!("--tpm2-device={}", tpm.tcti()));
            }
            program.env("SYSTEMD_TPM2_DEVICE", tpm.tcti());
            program.arg(file).arg("-").output().unwrap()
        };
        let sealed = creds("encrypt", &tpm, b"a key");
        succeeded("systemd-creds", &sealed);
        tpm.restart();
        assert_eq!(creds("decrypt", &tpm, &sealed.stdout).stdout, b"a key");
        tpm.extend_pcr(7, "drift");
        assert!(!creds("decrypt", &tpm, &sealed.stdout).status.success());
        tpm.flush();
    }
}
