//! `psi-hsm init`: the key on the token, and its public half.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown, symlink};

use psi_test_support::token::{KEY_ID, KEY_LABEL, Module};

use crate::fixture::{Machine, PIN};

const FILE: &str = "nitrokeyhsm-pubkey.der";

fn public_key(m: &Machine) -> Vec<u8> {
    fs::read(m.host.state_dir().join(FILE)).unwrap()
}

#[test]
fn a_key_is_made_on_an_empty_token_once_and_what_is_sealed_for_it_opens() {
    let m = Machine::without_key();
    m.run(&["init"])
        .ended(0)
        .says(&["made the key: 2048 bits", "psi-hsm store NAME"]);
    assert_eq!(m.module.calls("C_Login"), 1);
    assert_eq!(m.module.calls("C_GenerateKeyPair"), 1);
    let first = public_key(&m);
    m.run(&["init"]).ended(0).says(&["found the key"]);
    assert_eq!(m.module.calls("C_GenerateKeyPair"), 1);
    assert_eq!(public_key(&m), first);
    let objects = m
        .module
        .tool(0, &["--login", "--pin", PIN, "--list-objects"]);
    for said in [
        "ID:         02",
        KEY_LABEL,
        "sensitive",
        "never extractable",
    ] {
        assert!(objects.contains(said), "{said} is not in {objects}");
    }
    m.store("db", "the value");
    let serve = m.serve();
    assert_eq!(m.lookup("db").ended(0).stdout, "the value");
    drop(serve);
}

#[test]
fn a_longer_key_is_made_where_that_is_asked_for() {
    let m = Machine::without_key();
    m.run(&["init", "--bits", "3072"])
        .ended(0)
        .says(&["3072 bits"]);
    m.run(&["init", "--bits", "1024"]).ended(64);
}

#[test]
fn a_key_that_is_there_is_used_and_none_is_made() {
    let m = Machine::new();
    m.run(&["init"]).ended(0).says(&["found the key"]);
    assert_eq!(m.module.calls("C_GenerateKeyPair"), 0);
}

#[test]
fn two_keys_with_one_id_are_told_and_none_is_chosen() {
    let m = Machine::new();
    m.module.generate_key(0, PIN, KEY_ID, "another");
    m.run(&["init"])
        .ended(78)
        .says(&["2 RSA keys with id 02", "key_id"]);
    assert!(!m.host.state_dir().join(FILE).exists());
}

#[test]
fn another_key_than_the_one_that_is_kept_is_refused_unless_it_is_forced() {
    let m = Machine::new();
    m.run(&["init"]).ended(0);
    let before = public_key(&m);
    let calls = || m.module.calls("C_GenerateKeyPair");
    m.module.delete_key(0, PIN, KEY_ID);
    let made = calls();
    m.run(&["init"]).ended(1).says(&[
        "is not that of the key on the token",
        "psi-hsm init --force",
    ]);
    assert_eq!(
        calls(),
        made,
        "no key is made on what may be the wrong token"
    );
    m.module.generate_key(0, PIN, KEY_ID, KEY_LABEL);
    m.run(&["init"])
        .ended(1)
        .says(&["is not that of the key on the token"]);
    assert_eq!(public_key(&m), before);
    m.run(&["init", "--force"])
        .ended(0)
        .says(&["found the key"]);
    assert_ne!(public_key(&m), before);
}

#[test]
fn before_psi_serves_first_start_nothing_is_made() {
    let m = Machine::without_key();
    fs::remove_dir(m.host.state_dir()).unwrap();
    for command in [&["init"] as &[&str], &["store", "db"], &["list"]] {
        m.run_with(command, b"value").ended(66).says(&[
            "there is no state directory",
            "systemctl start psi-secrets.socket psi-secrets.service",
        ]);
    }
    assert!(!m.host.state_dir().exists());
    assert!(!m.module.was_started());
}

#[test]
fn files_belong_to_the_owner_of_the_state_directory_and_links_are_not_followed() {
    const NOBODY: u32 = 65534;
    let m = Machine::new();
    chown(m.host.state_dir(), Some(NOBODY), Some(NOBODY)).unwrap();
    m.run(&["init"]).ended(0);
    m.store("db", "value");
    for (file, mode) in [(FILE, 0o644), ("db", 0o600)] {
        let meta = m.host.state_dir().join(file).metadata().unwrap();
        assert_eq!((meta.uid(), meta.gid()), (NOBODY, NOBODY), "{file}");
        assert_eq!(meta.mode() & 0o7777, mode, "{file}");
    }
    let outside = m.host.path("outside");
    fs::write(&outside, "precious").unwrap();
    for file in [FILE, "db", ".db.new"] {
        let planted = m.host.state_dir().join(file);
        let _ = fs::remove_file(&planted);
        symlink(&outside, &planted).unwrap();
        let _ = m.run(&["init"]);
        let _ = m.run_with(&["store", "db"], b"value");
        let _ = m.run(&["list"]);
        let _ = m.run(&["status"]);
        let _ = m.run(&["preflight"]);
        assert_eq!(fs::read(&outside).unwrap(), b"precious", "{file}");
        assert_eq!(outside.metadata().unwrap().uid(), 0, "{file}");
        let _ = fs::remove_file(&planted);
        m.run(&["init"]).ended(0);
    }
}

#[test]
fn the_right_one_of_two_tokens_is_used() {
    let module = Module::with_tokens(&["first", "second"]);
    for slot in [0, 1] {
        module.set_pin(slot, PIN);
    }
    module.generate_key(1, PIN, KEY_ID, KEY_LABEL);
    module.forget_calls();
    let m = Machine::with(module);
    m.configure("    token_label: second", "");
    m.run(&["init"]).ended(0).says(&["found the key", "second"]);
    let serial = m.module.serial(1);
    m.configure(&format!("    token_serial: \"{serial}\""), "");
    m.run(&["init"]).ended(0).says(&["found the key", "second"]);
    m.configure("    token_label: third", "");
    m.run(&["init"])
        .ended(69)
        .says(&["the PKCS#11 token is not there", "first", "second"]);
}
