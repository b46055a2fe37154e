//! Caches of version 1 that a token sealed: its key is that of the vectors, made by another program.

use std::fs;

use psi_test_support::token::{KEY_ID, KEY_LABEL, Module};
use psi_test_support::vectors::version1;

use crate::fixture::{ID, LIVE, Machine, PIN};

/// A token with the key that sealed the vectors, and the file in the cache's place.
fn migrated(file: &[u8]) -> Machine {
    let module = Module::with_tokens(&["psi"]);
    module.set_pin(0, PIN);
    let key = version1("rsa_private_key_pkcs8");
    module.import_key(0, PIN, KEY_ID, KEY_LABEL, &key);
    module.forget_calls();
    with_file(module, file)
}

fn with_file(module: Module, file: &[u8]) -> Machine {
    let m = Machine::with_module("hsm", module);
    fs::write(m.host.cache_file(), file).unwrap();
    m
}

#[test]
fn its_values_are_served_and_carried_over_into_a_slot_of_the_same_token() {
    let mut m = migrated(&version1("hsm_file"));
    let serve = m.serve();
    assert_eq!(m.module().calls("C_Login"), 1);
    let value = b"\0not text\xff\n".to_vec();
    assert_eq!(m.get(&format!("/lookup/{ID}")), (200, value.clone()));
    let log = serve.log();
    assert!(
        log.contains("3 values were carried over from a cache of version 1"),
        "{log}"
    );
    assert_eq!(m.slots(), [(1, "pkcs11".to_owned())]);
    let old = m.host.state_dir().join("cache.enc.v1");
    assert_eq!(fs::read(old).unwrap(), version1("hsm_file"));
    m.reboot(&serve, |m| m.module().forget_calls());
    assert_eq!(
        (m.opened_by(), m.get(&format!("/lookup/{ID}"))),
        (1, (200, value))
    );
    assert_eq!(m.module().calls("C_Decrypt"), 1);
}

#[test]
fn contents_by_podmans_ids_are_left_behind() {
    let m = migrated(&version1("hsm_file_older_contents"));
    let serve = m.serve();
    assert_eq!(m.value(), LIVE);
    let log = serve.log();
    assert!(
        log.contains("a cache of version 1 was replaced by an empty one"),
        "{log}"
    );
}

/// Expects that the file stays as it is and psi-serve says `words`.
#[track_caller]
fn is_kept(m: &Machine, words: &[&str]) {
    let before = m.cache_bytes();
    let serve = m.serve();
    assert_eq!(m.value(), LIVE);
    let why = m.status()["why"].to_string();
    let log = serve.log();
    for word in words {
        assert!(why.contains(word), "{word:?} is not in {why}");
        assert!(log.contains(word), "{word:?} is not in {log}");
    }
    assert!(!log.contains(PIN), "{log}");
    assert_eq!(m.cache_bytes(), before);
    assert!(m.aside().is_empty(), "{:?}", m.aside());
}

#[test]
fn another_key_opens_nothing_and_the_file_is_kept() {
    let m = with_file(Module::with_key("another", PIN), &version1("hsm_file"));
    is_kept(
        &m,
        &[
            "sealed by a PKCS#11 token (tag 2, HSM)",
            "encrypted for another key",
        ],
    );
}

#[test]
fn a_token_that_is_away_is_waited_for() {
    let m = migrated(&version1("hsm_file"));
    m.module().pull();
    is_kept(&m, &["tag 2, HSM", "the PKCS#11 token is not there"]);
    m.module().plug_in();
    let _serve = m.serve();
    assert_eq!(m.get(&format!("/lookup/{ID}")).0, 200);
    assert_ne!(m.cache_bytes(), version1("hsm_file"));
}

#[test]
fn what_is_cut_altered_or_has_another_tag_is_named_and_kept() {
    let good = version1("hsm_file");
    let with = |at: usize, byte: u8| {
        let mut file = good.clone();
        file[at] = byte;
        file
    };
    let last = good.len() - 1;
    for (file, words) in [
        (good[..100].to_vec(), "is damaged"),
        (good[..last].to_vec(), "is damaged"),
        (with(last, !good[last]), "is damaged"),
        (with(300, !good[300]), "is damaged"),
        (with(50, !good[50]), "encrypted for another key"),
        (with(5, 3), "its tag is 3, neither 1 (TPM) nor 2 (HSM)"),
        (
            with(5, 1),
            "sealed by the credential psi-cache-key (tag 1, TPM)",
        ),
    ] {
        is_kept(&migrated(&file), &[words]);
    }
}
