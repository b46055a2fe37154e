//! A software TPM of a test's own, on the loopback, which ends with it.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use tss_esapi::Context;
use tss_esapi::handles::PcrHandle;
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{Digest, DigestValues};
use tss_esapi::tcti_ldr::TctiNameConf;

use crate::protector::Tpm2;

/// How long swtpm may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Swtpm {
    port: u16,
    /// Held, so that no other test takes the two ports before it.
    _reserved: TcpListener,
    state: tempfile::TempDir,
    process: Option<Child>,
}

impl Swtpm {
    /// A new TPM, with something measured into PCR 7.
    pub fn booted() -> Self {
        let swtpm = Self::blank();
        swtpm.extend(7);
        swtpm
    }

    /// A new TPM into which nothing has been measured.
    pub fn blank() -> Self {
        let (port, reserved) = reserve_ports();
        let mut swtpm = Self {
            port,
            _reserved: reserved,
            state: tempfile::tempdir().unwrap(),
            process: None,
        };
        swtpm.switch_on();
        swtpm
    }

    /// Starts it, with its PCRs reset.
    pub fn switch_on(&mut self) {
        let port = |n| format!("type=tcp,port={n},bindaddr=127.0.0.1");
        let process = Command::new("swtpm")
            .args(["socket", "--tpm2", "--tpmstate"])
            .arg(format!("dir={}", self.state.path().display()))
            .args(["--server", &port(self.port), "--ctrl", &port(self.port + 1)])
            .args(["--flags", "not-need-init,startup-clear"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("swtpm is installed");
        self.process = Some(process);
        let deadline = Instant::now() + PATIENCE;
        while Context::new(self.tcti_conf()).is_err() {
            assert!(Instant::now() < deadline, "swtpm does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Stops it; its keys are on disk.
    pub fn switch_off(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn tcti(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.port)
    }

    fn tcti_conf(&self) -> TctiNameConf {
        TctiNameConf::from_str(&self.tcti()).unwrap()
    }

    /// Measures something into a PCR, as a boot does.
    pub fn extend(&self, pcr: u8) {
        let handle = match pcr {
            4 => PcrHandle::Pcr4,
            7 => PcrHandle::Pcr7,
            other => panic!("no test needs PCR {other}"),
        };
        let mut digests = DigestValues::new();
        let measured = Digest::try_from(vec![1; 32]).unwrap();
        digests.set(HashingAlgorithm::Sha256, measured);
        Context::new(self.tcti_conf())
            .unwrap()
            .execute_with_session(Some(AuthSession::Password), |tpm| {
                tpm.pcr_extend(handle, digests)
            })
            .unwrap();
    }

    /// A protector that seals to it and `pcrs`.
    pub fn protector(&self, pcrs: &[u8]) -> Tpm2 {
        Tpm2 {
            tcti: self.tcti(),
            pcrs: pcrs.to_vec(),
            allow_zero_pcrs: false,
        }
    }

    /// Runs a shell script of tpm2-tools against it; what it printed, on both streams.
    pub fn tools(&self, script: &str) -> String {
        let output = Command::new("sh")
            .args(["-ec", &format!("exec 2>&1\n{script}")])
            .current_dir(self.state.path())
            .env("TPM2TOOLS_TCTI", self.tcti())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}");
        said
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        self.switch_off();
    }
}

/// Two free ports in a row, which libtss2 wants, and the one after them as the reservation. They
/// are below those that the system hands out by itself.
fn reserve_ports() -> (u16, TcpListener) {
    let bind = |port| TcpListener::bind(("127.0.0.1", port)).ok();
    let first = 20_000 + u16::try_from(std::process::id() % 1000).unwrap() * 4;
    let candidates = (first..30_000).chain(20_000..first).step_by(4);
    candidates
        .filter_map(|port| {
            let reserved = bind(port + 2)?;
            (bind(port).is_some() && bind(port + 1).is_some()).then_some((port, reserved))
        })
        .next()
        .expect("three free ports in a row")
}
