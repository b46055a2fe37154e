//! A host with a token.

use std::fs;
use std::path::Path;

use psi_test_support::done::Done;
use psi_test_support::psi::{Host, Service};
use psi_test_support::token::Module;
use serde_json::Value;

pub const HSM: &str = env!("CARGO_BIN_EXE_psi-hsm");
pub const SERVE: &str = env!("CARGO_BIN_EXE_psi-serve");
pub const DRIVER: &str = env!("CARGO_BIN_EXE_psi-secret");
pub const SETUP: &str = env!("CARGO_BIN_EXE_psi-setup");

/// The token's PIN, which nothing may show.
pub const PIN: &str = "canary-pin-7c41";

pub struct Machine {
    pub host: Host,
    pub module: Module,
}

impl Machine {
    /// A token with a key, and its PIN as a credential.
    pub fn new() -> Self {
        Self::with(Module::with_key("psi", PIN))
    }

    /// A token with a PIN and nothing else.
    pub fn without_key() -> Self {
        let module = Module::with_tokens(&["psi"]);
        module.set_pin(0, PIN);
        module.forget_calls();
        Self::with(module)
    }

    pub fn with(module: Module) -> Self {
        let host = Host::new();
        host.set_credential("hsm-pin", PIN.as_bytes());
        let machine = Self { host, module };
        machine.configure("", "");
        machine
    }

    /// The token, more of its keys, and more at the top level.
    pub fn configure(&self, hsm: &str, more: &str) {
        self.host.write_config(&format!(
            "driver_path: {DRIVER}\nproviders:\n  nitrokeyhsm:\n    pkcs11_module: {}\n{hsm}\n{more}\n",
            self.module.library().display(),
        ));
    }

    pub fn run(&self, arguments: &[&str]) -> Done {
        self.run_with(arguments, b"")
    }

    /// What it says never has the PIN in it.
    pub fn run_with(&self, arguments: &[&str], stdin: &[u8]) -> Done {
        let mut command = self.host.command(HSM);
        command.args(arguments);
        Done::run(command, stdin).never_says(PIN)
    }

    pub fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.run(arguments).stdout).unwrap()
    }

    pub fn serve(&self) -> Service {
        self.host.serve(Path::new(SERVE))
    }

    /// Stores a value for the key that `psi-hsm init` has found.
    pub fn store(&self, name: &str, value: &str) {
        self.run_with(&["store", name], value.as_bytes()).ended(0);
    }

    /// What Podman's driver gets for an id or a name.
    pub fn lookup(&self, name: &str) -> Done {
        let mut command = self.host.command(DRIVER);
        command.env("PSI_SOCKET", self.host.socket());
        command.env("SECRET_ID", name).arg("lookup");
        Done::of(command.output().unwrap())
    }

    /// The files in the state directory.
    pub fn state_files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.host.state_dir()).unwrap();
        let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }
}
