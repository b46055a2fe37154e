//! A module of another make, which can't do what PSI needs: SoftHSM 2.6.

use std::fs;

use psi_test_support::done::Done;
use psi_test_support::psi::Host;

use crate::fixture::{CACHECTL, PIN};

/// Where Debian and Fedora put it.
const LIBRARIES: [&str; 3] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm.so",
];

#[test]
fn a_module_that_does_oaep_with_sha_1_only_is_told_as_such() {
    let library = LIBRARIES.iter().find(|file| fs::exists(file).unwrap());
    let library = library.expect("SoftHSM is installed");
    let host = Host::new();
    host.remove_credential("psi-cache-key");
    host.set_credential("hsm-pin", PIN.as_bytes());
    let conf = host.path("softhsm2.conf");
    fs::create_dir(host.path("tokens")).unwrap();
    let tokens = host.path("tokens").display().to_string();
    fs::write(&conf, format!("directories.tokendir = {tokens}\n")).unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let mut command = host.command(program);
        command.env("SOFTHSM2_CONF", &conf).args(arguments);
        Done::run(command, b"")
    };
    let pins = ["--so-pin", "12345678", "--pin", PIN];
    let make = ["--init-token", "--free", "--label", "psi"];
    run("softhsm2-util", &[&make[..], &pins].concat()).ended(0);
    let pair = ["--keypairgen", "--key-type", "rsa:2048", "--id", "02"];
    let module = [
        "--module",
        library,
        "--token-label",
        "psi",
        "--login",
        "--pin",
        PIN,
    ];
    run("pkcs11-tool", &[&module[..], &pair].concat()).ended(0);
    host.write_config(&format!(
        "providers: {{nitrokeyhsm: {{pkcs11_module: {library}, token_label: psi}}}}\ncache: {{backend: hsm}}\n"
    ));
    run(CACHECTL, &["init", "--backend", "hsm"]).ended(0);
    run(CACHECTL, &["slots", "test"]).ended(69).says(&[
        "RSA-OAEP with SHA-1 only",
        "C_DecryptInit said CKR_ARGUMENTS_BAD",
        "SoftHSM 2.6",
    ]);
}
