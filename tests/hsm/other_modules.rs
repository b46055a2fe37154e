//! A second kind of module, SoftHSM: what is the same, and what it can't do.

use std::fs;
use std::process::Command;

use psi_test_support::done::Done;
use psi_test_support::psi::Host;

use crate::fixture::{HSM, PIN};

/// SoftHSM as Debian packages it, with a token of the test's own.
struct SoftHsm {
    host: Host,
}

impl SoftHsm {
    fn new() -> Self {
        let host = Host::new();
        fs::create_dir(host.path("tokens")).unwrap();
        let conf = format!("directories.tokendir = {}\n", host.path("tokens").display());
        fs::write(host.path("softhsm2.conf"), conf).unwrap();
        host.set_credential("hsm-pin", PIN.as_bytes());
        host.write_config(
            "providers: {pkcs11: {pkcs11_module: /usr/lib/softhsm/libsofthsm2.so, token_label: psi}}\n",
        );
        let machine = Self { host };
        let mut tool = machine.command("softhsm2-util");
        tool.args(["--init-token", "--free", "--label", "psi"]);
        tool.args(["--so-pin", "12345678", "--pin", PIN]);
        Done::run(tool, b"").ended(0);
        machine
    }

    fn command(&self, program: &str) -> Command {
        let mut command = self.host.command(program);
        command.env("SOFTHSM2_CONF", self.host.path("softhsm2.conf"));
        command
    }

    fn run(&self, arguments: &[&str]) -> Done {
        let mut command = self.command(HSM);
        command.args(arguments);
        Done::run(command, b"").never_says(PIN)
    }
}

#[test]
fn softhsm_is_logged_in_and_its_key_made_and_what_it_lacks_is_named() {
    let m = SoftHsm::new();
    m.run(&["test-pin"]).ended(0).says(&["takes the PIN"]);
    m.run(&["status"]).ended(0).says(&["psi", "SoftHSM"]);
    let missing = ["SHA-1 only", "SHA-256", "SoftHSM 2.6"];
    m.run(&["init"]).ended(78).says(&missing);
    let file = m.host.state_dir().join("nitrokeyhsm-pubkey.der");
    assert!(
        !file.exists(),
        "nothing may be stored for a key that opens nothing"
    );
    m.run(&["preflight"])
        .ended(1)
        .says(&["PASS  key", "FAIL  decryption"])
        .says(&missing);
}

#[test]
fn a_wrong_pin_was_tried_is_told_until_the_right_one_is() {
    let m = SoftHsm::new();
    m.host.set_credential("hsm-pin", b"a wrong one");
    m.run(&["test-pin"]).ended(78).says(&["rejected the PIN"]);
    m.host.set_credential("hsm-pin", PIN.as_bytes());
    m.run(&["status"]).ended(0).says(&["a wrong one was tried"]);
    let warning = [
        "WARN  PIN tries",
        "a wrong one was tried",
        "psi-hsm test-pin",
    ];
    m.run(&["preflight", "--no-login"]).says(&warning);
    m.run(&["test-pin"]).ended(0);
    m.run(&["preflight", "--no-login"])
        .says(&["PASS  PIN tries", "all tries left"]);
}
