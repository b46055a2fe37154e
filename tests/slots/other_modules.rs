//! Modules of other makes: one that can do what PSI needs, tpm2-pkcs11, and one that can't, SoftHSM 2.6.

use std::fs;

use psi_test_support::done::Done;
use psi_test_support::psi::Host;
use psi_test_support::swtpm::Swtpm;

use crate::fixture::{CACHECTL, PIN};

const SO_PIN: &str = "27182818";

/// A host that is configured for a module, wherever the distribution has put it.
struct Machine {
    host: Host,
    library: &'static str,
    variables: Vec<(&'static str, String)>,
}

impl Machine {
    fn with(places: &[&'static str]) -> Self {
        let mut there = places.iter().filter(|file| fs::exists(file).unwrap());
        let library = *there.next().unwrap();
        let host = Host::new();
        host.remove_credential("psi-cache-key");
        host.set_credential("hsm-pin", PIN.as_bytes());
        host.write_config(&format!(
            "providers: {{nitrokeyhsm: {{pkcs11_module: {library}, token_label: psi}}}}\ncache: {{backend: hsm}}\n"
        ));
        Self {
            host,
            library,
            variables: Vec::new(),
        }
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Done {
        let mut command = self.host.command(program);
        let variables = self.variables.iter().map(|(name, value)| (name, value));
        command.envs(variables).args(arguments);
        Done::run(command, b"")
    }

    /// Makes a token with a key, calling `between` after each step.
    fn make_token(&self, between: impl Fn()) {
        let so = ["--so-pin", SO_PIN];
        let token = ["--token-label", "psi", "--login"];
        let pair = ["--keypairgen", "--key-type", "rsa:2048", "--id", "02"];
        let steps = [
            [
                &["--slot-index", "0", "--init-token", "--label", "psi"][..],
                &so,
            ]
            .concat(),
            [
                &token[..],
                &["--login-type", "so"],
                &so,
                &["--init-pin", "--new-pin", PIN],
            ]
            .concat(),
            [&token[..], &["--pin", PIN], &pair].concat(),
        ];
        for step in steps {
            let arguments = [&["--module", self.library][..], &step].concat();
            self.run("pkcs11-tool", &arguments).ended(0);
            between();
        }
    }
}

#[test]
fn a_module_that_does_oaep_with_sha_1_only_is_told_as_such() {
    let mut m = Machine::with(&[
        "/usr/lib/softhsm/libsofthsm2.so",
        "/usr/lib64/softhsm/libsofthsm.so",
    ]);
    let (conf, tokens) = (m.host.path("softhsm2.conf"), m.host.path("tokens"));
    fs::create_dir(&tokens).unwrap();
    fs::write(
        &conf,
        format!("directories.tokendir = {}\n", tokens.display()),
    )
    .unwrap();
    m.variables = vec![("SOFTHSM2_CONF", conf.display().to_string())];
    m.make_token(|| {});
    m.run(CACHECTL, &["init", "--backend", "hsm"]).ended(0);
    m.run(CACHECTL, &["slots", "test"]).ended(69).says(&[
        "RSA-OAEP with SHA-1 only",
        "C_DecryptInit said CKR_ARGUMENTS_BAD",
        "SoftHSM 2.6",
    ]);
}

#[test]
fn keys_that_a_tpm_keeps_behind_pkcs_11_open_the_cache_too() {
    let tpm = Swtpm::start();
    let mut m = Machine::with(&[
        "/usr/lib/x86_64-linux-gnu/pkcs11/libtpm2_pkcs11.so",
        "/usr/lib/aarch64-linux-gnu/pkcs11/libtpm2_pkcs11.so",
        "/usr/lib64/pkcs11/libtpm2_pkcs11.so",
    ]);
    let store = m.host.path("store");
    fs::create_dir(&store).unwrap();
    m.variables = vec![
        ("TPM2_PKCS11_STORE", store.display().to_string()),
        ("TPM2_PKCS11_TCTI", tpm.tcti()),
    ];
    m.make_token(|| tpm.flush());
    m.run(CACHECTL, &["init", "--backend", "hsm"]).ended(0);
    for _ in 0..2 {
        tpm.flush();
        m.run(CACHECTL, &["slots", "test"])
            .ended(0)
            .says(&["opens"]);
    }
}
