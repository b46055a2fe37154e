//! `psi-hsm preflight` and `test-pin`: each thing that may be wrong, with what mends it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use psi_test_support::done::Done;
use psi_test_support::token::{KEY_ID, Module, TRIES};
use serde_json::Value;

use crate::fixture::{HSM, Machine, PIN};

/// Where everything is as it should be.
fn ready() -> Machine {
    let m = Machine::new();
    m.run(&["init"]).ended(0);
    m.module.forget_calls();
    m
}

fn check(m: &Machine, name: &str) -> (String, String) {
    let preflight = m.json(&["preflight", "--json"]);
    of(&preflight, name)
}

/// A check's result, and all that it says.
fn of(preflight: &Value, name: &str) -> (String, String) {
    let checks = preflight["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["check"] == name).unwrap();
    let fix = check["fix"].as_str().unwrap_or_default();
    let says = format!("{} {fix}", check["says"].as_str().unwrap());
    (check["result"].as_str().unwrap().to_owned(), says)
}

#[track_caller]
fn is(m: &Machine, name: &str, result: &str, words: &[&str]) {
    let (is, says) = check(m, name);
    assert_eq!(is, result, "{name}: {says}");
    for word in words {
        assert!(says.contains(word), "{word:?} is not in {says}");
    }
}

#[test]
fn where_all_is_well_every_check_passes_with_one_login() {
    let m = ready();
    let _serve = m.serve();
    let done = m.run(&["preflight"]).ended(0);
    assert!(
        !done.stdout.contains("FAIL") && !done.stdout.contains("WARN"),
        "{done:?}"
    );
    for check in [
        "module",
        "pcscd",
        "token",
        "PIN source",
        "PIN tries",
        "login",
        "key",
        "decryption",
        "public key",
        "state directory",
        "psi-serve",
    ] {
        assert!(
            done.stdout.contains(&format!("PASS  {check}")),
            "{check}: {done:?}"
        );
    }
    assert_eq!(m.module.calls("C_Login"), 1);
    m.module.forget_calls();
    m.run(&["preflight", "--no-login"])
        .ended(0)
        .says(&["SKIP  login"]);
    assert_eq!(m.module.calls("C_Login"), 0);
}

#[test]
fn a_module_that_is_missing_or_none_is_told() {
    let m = ready();
    for (module, why) in [
        ("/nowhere/p11.so", "no such file"),
        ("/etc/hostname", "no library"),
    ] {
        m.host.write_config(&format!(
            "providers: {{nitrokeyhsm: {{pkcs11_module: {module}}}}}\n"
        ));
        m.run(&["preflight"])
            .ended(1)
            .says(&["FAIL  module", why, "pkcs11_module", "SKIP  token"]);
    }
}

#[test]
fn opensc_without_pcscd_is_told_and_with_it_passes() {
    let m = ready();
    let module = m.host.path("opensc-pkcs11.so");
    fs::copy(m.module.library(), &module).unwrap();
    let conf = m.module.library().with_file_name("kryoptic.conf");
    fs::copy(conf, m.host.path("kryoptic.conf")).unwrap();
    m.host.write_config(&format!(
        "providers: {{nitrokeyhsm: {{pkcs11_module: {}}}}}\n",
        module.display()
    ));
    let socket = m.host.path("pcscd.comm");
    let run = || {
        let mut command = m.host.command(HSM);
        command.arg("preflight").env("PCSCLITE_CSOCK_NAME", &socket);
        Done::run(command, b"")
    };
    run().ended(1).says(&[
        "FAIL  pcscd",
        "pcscd.comm",
        "systemctl enable --now pcscd.socket",
        "psi-hsm setup-pcscd",
    ]);
    let _listener = UnixListener::bind(&socket).unwrap();
    run().ended(0).says(&["PASS  pcscd"]);
}

#[test]
fn a_token_that_is_not_there_is_told() {
    let m = ready();
    m.module.pull();
    m.run(&["preflight"]).ended(1);
    is(&m, "token", "FAIL", &["not there", "plug it in"]);
    is(&m, "key", "SKIP", &[]);
}

#[test]
fn a_pin_that_is_missing_or_lies_in_the_open_is_told() {
    let m = ready();
    m.host.remove_credential("hsm-pin");
    m.run(&["preflight"]).ended(1);
    is(
        &m,
        "PIN source",
        "FAIL",
        &["there is no PIN", "systemd-creds encrypt", "hsm-pin"],
    );
    is(&m, "login", "SKIP", &[]);
    assert_eq!(m.module.calls("C_Login"), 0);
    m.configure(&format!("    pin: {PIN}"), "");
    m.run(&["preflight"]).ended(0);
    is(
        &m,
        "PIN source",
        "WARN",
        &["whoever reads that has it", "systemd-creds encrypt"],
    );
    is(&m, "login", "PASS", &[]);
}

#[test]
fn a_wrong_pin_costs_one_try_of_each_run_and_never_the_last() {
    let m = ready();
    m.host.set_credential("hsm-pin", b"a wrong one");
    let done = m.run(&["preflight"]).ended(1).never_says("a wrong one");
    assert!(
        done.stdout.contains("FAIL  login") && done.stdout.contains("rejected the PIN"),
        "{done:?}"
    );
    assert_eq!(m.module.calls("C_Login"), 1);
    m.run(&["test-pin"]).ended(78).says(&["rejected the PIN"]);
    assert_eq!(m.module.calls("C_Login"), 2);
    m.module.enter_wrong_pins(0, TRIES - 3);
    m.module.forget_calls();
    for _ in 0..3 {
        m.run(&["preflight"])
            .ended(1)
            .says(&["FAIL  PIN tries", "one try left", "SKIP  login"]);
        m.run(&["test-pin"]).ended(78).says(&["one try left"]);
    }
    m.run(&["status"]).ended(0).says(&["one try left"]);
    assert_eq!(m.module.calls("C_Login"), 0);
    m.module.enter_wrong_pins(0, 1);
    m.module.forget_calls();
    m.run(&["preflight"])
        .ended(1)
        .says(&["FAIL  PIN tries", "locked", "--init-pin"]);
    m.run(&["test-pin"]).ended(78).says(&["locked"]);
    assert_eq!(m.module.calls("C_Login"), 0);
    m.module.set_pin(0, PIN);
    m.host.set_credential("hsm-pin", PIN.as_bytes());
    m.run(&["test-pin"]).ended(0).says(&["takes the PIN"]);
    m.run(&["preflight"]).ended(0);
}

#[test]
fn a_token_without_a_pin_of_its_own_is_told() {
    let m = Machine::with(Module::with_tokens(&["psi"]));
    m.run(&["preflight"])
        .ended(1)
        .says(&["FAIL  PIN tries", "no user PIN yet", "--init-pin"]);
    m.run(&["test-pin"]).ended(78);
    assert_eq!(m.module.calls("C_Login"), 0);
}

#[test]
fn a_missing_key_and_one_too_many_are_told() {
    let m = Machine::without_key();
    m.run(&["preflight"]).ended(1);
    is(&m, "key", "FAIL", &["no RSA key", "psi-hsm init"]);
    is(&m, "public key", "WARN", &["psi-hsm init"]);
    m.run(&["test-pin"]).ended(0);
    for label in ["one", "two"] {
        m.module.generate_key(0, PIN, KEY_ID, label);
    }
    is(&m, "key", "FAIL", &["2 RSA keys with id 02", "key_id"]);
}

#[test]
fn a_key_that_can_not_decrypt_is_told() {
    let m = ready();
    m.module.control("fail.C_Decrypt", "48");
    m.run(&["preflight"]).ended(1);
    is(&m, "key", "PASS", &[]);
    is(&m, "decryption", "FAIL", &["CKR_DEVICE_ERROR"]);
}

#[test]
fn the_public_key_of_another_token_is_told_and_one_that_is_none() {
    let m = ready();
    let file = m.host.state_dir().join("nitrokeyhsm-pubkey.der");
    let other = ready();
    fs::copy(other.host.state_dir().join("nitrokeyhsm-pubkey.der"), &file).unwrap();
    m.run(&["preflight"]).ended(1);
    is(
        &m,
        "public key",
        "FAIL",
        &["not that of the key on the token", "psi-hsm init --force"],
    );
    fs::write(&file, "nonsense").unwrap();
    is(
        &m,
        "public key",
        "FAIL",
        &["nitrokeyhsm-pubkey.der", "psi-hsm init"],
    );
    fs::remove_file(&file).unwrap();
    is(&m, "public key", "WARN", &["psi-hsm init"]);
}

#[test]
fn the_state_directory_and_psi_serve_are_looked_at() {
    let m = ready();
    is(
        &m,
        "psi-serve",
        "WARN",
        &["systemctl start psi-secrets.socket"],
    );
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(m.host.state_dir(), open).unwrap();
    is(&m, "state directory", "WARN", &["mode 755", "chmod 0700"]);
    fs::remove_dir_all(m.host.state_dir()).unwrap();
    is(
        &m,
        "state directory",
        "FAIL",
        &["systemctl start psi-secrets.socket"],
    );
}

#[test]
fn what_psi_serve_could_not_do_is_told_though_root_can() {
    let m = ready();
    m.store("db", "value");
    let _serve = m.serve();
    m.module.pull();
    assert_ne!(m.lookup("db").code, Some(0));
    m.module.plug_in();
    m.run(&["preflight"]).ended(0);
    is(
        &m,
        "psi-serve",
        "WARN",
        &["failed", "journalctl -u psi-secrets.service"],
    );
}

#[test]
fn a_tokens_own_words_do_not_move_the_cursor() {
    let m = Machine::with(Module::with_tokens(&["a\u{1b}[2Jb"]));
    for command in ["preflight", "status", "init"] {
        m.run(&[command]).never_says("\u{1b}");
    }
}
