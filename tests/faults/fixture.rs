//! A host whose psi-serve has a good state to lose.

use std::fs;
use std::path::{Path, PathBuf};

use psi_test_support::disk::Fault;
use psi_test_support::done::Answer;
use psi_test_support::psi::{Host, Service, ask};
use psi_test_support::wait;
use serde_json::json;

pub const CACHECTL: &str = env!("CARGO_BIN_EXE_psi-cachectl");
pub const SERVE: &str = env!("CARGO_BIN_EXE_psi-serve");
pub const ID: &str = "0123456789abcdef012345678";

pub struct Machine {
    pub host: Host,
}

impl Machine {
    pub fn new() -> Self {
        let host = Host::new();
        host.write_config("providers: {local: {}}\ncache: {backend: tpm}\n");
        Self { host }
    }

    /// A psi-serve whose cache is open or has been given up: no fault is to meet that.
    pub fn serve(&self) -> Service {
        let serve = self.host.serve(Path::new(SERVE));
        wait::until("a settled cache", || self.state() != "opening");
        serve
    }

    /// How psi-serve's cache is.
    pub fn state(&self) -> String {
        let status = self.ask("GET", "/status", b"").json();
        status["cache"]["state"].as_str().unwrap().to_owned()
    }

    pub fn cache(&self) -> PathBuf {
        self.host.cache_file()
    }

    /// Every call by which the file `name` of the state directory is replaced, failing.
    pub fn replacing(&self, name: &str) -> Vec<Fault> {
        let directory = self.host.state_dir();
        let temporary = format!(".{name}.new");
        // As the name is given to openat(2), beside the directory's descriptor.
        let opened = PathBuf::from(&temporary);
        let temporary = directory.join(temporary);
        vec![
            Fault::new("openat", "ENOSPC", opened.clone()),
            Fault::new("openat", "EROFS", opened),
            Fault::new("fchmod", "EIO", temporary.clone()),
            Fault::new("write", "ENOSPC", temporary.clone()),
            Fault::new("write", "EIO", temporary.clone()),
            Fault::new("fsync", "EIO", temporary),
            Fault::new("renameat,renameat2", "EROFS", directory),
        ]
    }

    /// The step after which a replaced file outlives a power cut, failing.
    pub fn making_durable(&self) -> Fault {
        Fault::new("fsync", "EIO", self.host.state_dir())
    }

    pub fn ask(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: psi\r\nContent-Length: {length}");
        let request = [head.as_bytes(), b"\r\n\r\n", body].concat();
        let (status, _, body) = ask(&self.host.socket(), &request);
        Answer { status, body }
    }

    pub fn put(&self, value: &str) -> Answer {
        self.ask("PUT", "/local/A", value.as_bytes())
    }

    pub fn hand_over(&self, value_in_base64: &str) -> Answer {
        let mapping = json!({"provider": "infisical", "key": "B"});
        let entry = json!({"mapping": mapping, "value": value_in_base64});
        let body = json!({"workloads": {"app": {"entries": [entry]}}});
        self.ask("POST", "/cache/infisical", body.to_string().as_bytes())
    }

    /// Maps `a` to the local value A, and `b` to what is handed over.
    pub fn map(&self) {
        for (name, mapping) in [
            ("a", r#"{"provider":"local","key":"A"}"#),
            ("b", r#"{"provider":"infisical","key":"B"}"#),
        ] {
            fs::write(self.host.state_dir().join(name), mapping).unwrap();
        }
    }

    pub fn lookup(&self, name: &str) -> Answer {
        self.ask("GET", &format!("/lookup/{name}"), b"")
    }

    pub fn verify(&self) -> Answer {
        self.ask("POST", "/cache/verify", b"")
    }

    pub fn temporary_files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.host.state_dir()).unwrap();
        let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".new")).collect()
    }
}
