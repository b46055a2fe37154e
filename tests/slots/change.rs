//! `psi-cachectl slots`: each change with psi-serve and without.

use std::fs;

use serde_json::Value;

use psi_test_support::done::Done;

use crate::fixture::{INIT, INIT_RECOVERY, Machine, SEALED, VERIFY};

#[test]
fn slots_are_listed_from_the_header_without_a_device() {
    let mut m = Machine::new();
    m.run(&["slots", "list"])
        .ended(66)
        .says(&["there is no ", "psi-cachectl init"]);
    m.filled(&INIT_RECOVERY);
    m.tpm.stop();
    m.run(&["slots", "list"]).ended(0).says(&[
        "SLOT  KIND      CREATED",
        "the TPM and PCR 7 (secure-boot-policy)",
        "its printed key",
    ]);
    let done = m.run(&["slots", "list", "--json"]).ended(0);
    let slots: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(slots[0]["pcrs"], serde_json::json!([7]));
    assert_eq!(slots[1]["kind"], "recovery");
    assert_eq!(slots[1]["pcrs"], Value::Null);
    assert!(!done.stdout.contains("wrapped"), "{done:?}");
}

#[test]
fn a_test_says_of_each_slot_whether_it_opens_and_fails_only_for_those_that_could_be_tried() {
    for runs in [false, true] {
        let m = Machine::new();
        let key = m.filled(&INIT_RECOVERY).recovery_key();
        let serve = runs.then(|| m.serve());
        let test = ["slots", "test"];
        m.run(&test).ended(0).says(&["  opens\n", "not tried"]);
        let with_key = ["slots", "test", "--recovery"];
        let done = m.run_with(&with_key, &key).ended(0);
        assert_eq!(done.stdout.matches("  opens\n").count(), 2, "{done:?}");
        m.run(&["slots", "test", "1"])
            .ended(0)
            .never_says("recovery");
        m.run(&["slots", "test", "7"])
            .ended(66)
            .says(&["no slot 7", "slots list"]);
        let before = m.cache_bytes();
        m.tpm.extend_pcr(7, "an update");
        m.run(&test).ended(69).says(&[
            "slot 1 (tpm2) does not open: ",
            "PCR 7",
            "next: ",
            "slots reseal",
        ]);
        m.run(&["slots", "test", "2"]).ended(0);
        assert_eq!(m.cache_bytes(), before);
        drop(serve);
    }
}

#[test]
fn an_added_recovery_slot_opens_when_the_tpm_does_not() {
    for runs in [false, true] {
        let mut m = Machine::new();
        m.filled(&INIT);
        let serve = runs.then(|| m.serve());
        let add = ["slots", "add", "recovery", "--label", "the safe"];
        let key = m.run(&add).ended(0).recovery_key();
        m.run(&["slots", "list"]).ended(0).says(&["the safe"]);
        m.tpm.restart_with("an update");
        let reseal = ["slots", "reseal", "--recovery"];
        if let Some(serve) = &serve {
            m.reboot(serve, |_| {});
        }
        m.run_with(&reseal, &key).ended(0);
        m.run(&VERIFY).ended(0);
    }
}

#[test]
fn a_credential_is_added_without_a_restart_and_opens_from_the_next_start_on() {
    let m = Machine::new();
    m.filled(&INIT);
    let serve = m.serve();
    let add = ["slots", "add", "credential", "--with-key", "tpm2"];
    m.run(&add).ended(0).says(&[
        "a new key is sealed in ",
        "slot 2 (credential) was added",
        "LoadCredentialEncrypted=psi-cache-key:",
        "systemctl restart psi-secrets.service",
    ]);
    m.tpm.flush();
    m.run(&add)
        .ended(1)
        .says(&["slot 2 is a credential already", "slots reseal 2"]);
    m.tpm.flush();
    serve.sigterm();
    let opened = std::process::Command::new("systemd-creds")
        .args(["decrypt", "--name=psi-cache-key"])
        .arg(m.sealed_key())
        .arg("-")
        .env("SYSTEMD_TPM2_DEVICE", m.tpm.tcti())
        .output()
        .unwrap();
    m.tpm.flush();
    m.host.set_credential("psi-cache-key", &opened.stdout);
    serve.restart();
    m.settle();
    assert_eq!((m.opened_by(), m.value()), (2, SEALED.into()));
}

/// systemd delivers the key from elsewhere, as after a migration, and root's shell has none.
#[test]
fn a_credential_is_sealed_anew_to_the_key_that_psi_serve_has_and_none_is_made() {
    let m = Machine::new();
    m.host.set_credential("psi-cache-key", &[1; 32]);
    let serve = m.serve();
    m.fill();
    let from_a_shell = || {
        let mut reseal = m.command(&["slots", "reseal", "1"]);
        Done::of(reseal.env_remove("CREDENTIALS_DIRECTORY").output().unwrap())
    };
    from_a_shell()
        .ended(0)
        .says(&["slot 1 (credential) is sealed anew"]);
    serve.sigterm();
    from_a_shell()
        .ended(69)
        .says(&["psi-cache-key", "systemctl restart psi-secrets.service"]);
    assert!(!m.sealed_key().exists());
    serve.restart();
    m.settle();
    assert_eq!((m.opened_by(), m.value()), (1, SEALED.into()));
}

#[test]
fn for_a_second_credential_no_key_is_sealed() {
    let m = Machine::new();
    m.host.set_credential("psi-cache-key", &[1; 32]);
    let _serve = m.serve();
    m.fill();
    m.host.remove_credential("psi-cache-key");
    m.run(&["slots", "add", "credential"])
        .ended(1)
        .says(&["slot 1 is a credential already"]);
    assert!(!m.sealed_key().exists());
}

#[test]
fn a_new_recovery_key_that_could_not_be_printed_is_said_to_be_lost() {
    let m = Machine::new();
    m.filled(&INIT_RECOVERY);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let full = std::fs::File::create("/dev/full").unwrap();
    for out in [std::process::Stdio::from(writer), full.into()] {
        let mut reseal = m.command(&["slots", "reseal", "2"]);
        let done = Done::of(reseal.stdout(out).output().unwrap());
        done.ended(74)
            .says(&["slot 2 (recovery) could not be printed", "slots reseal 2"]);
    }
    m.run(&["slots", "reseal", "2"]).ended(0).recovery_key();
}

#[test]
fn a_removed_slot_opens_nothing_any_more_and_the_recovery_key_is_a_new_one() {
    for runs in [false, true] {
        let m = Machine::new();
        let old_key = m.filled(&INIT_RECOVERY).recovery_key();
        m.run(&["slots", "add", "tpm2"]).ended(0);
        let serve = runs.then(|| m.serve());
        let done = m.run(&["slots", "remove", "1"]).ended(0);
        let key = done
            .says(&[
                "slot 1 was removed",
                "copies of the file",
                "slot 2 (recovery) that was printed before no longer opens it",
            ])
            .recovery_key();
        assert_ne!(key, old_key);
        let slots = [(2, "recovery".to_owned()), (3, "tpm2".to_owned())];
        assert_eq!(m.slots(), slots);
        drop(serve);
        m.run(&VERIFY).ended(0);
        m.tpm.extend_pcr(7, "an update");
        let reseal = ["slots", "reseal", "--recovery"];
        m.run_with(&reseal, &old_key)
            .ended(69)
            .says(&["the recovery key that was entered is not that of its slot"]);
        m.run_with(&reseal, &key).ended(0);
        let _serve = m.serve();
        assert_eq!((m.opened_by(), m.value()), (3, SEALED.into()));
    }
}

#[test]
fn the_last_slot_stays_and_none_goes_while_another_does_not_open() {
    for runs in [false, true] {
        let m = Machine::new();
        m.filled(&INIT);
        let serve = runs.then(|| m.serve());
        let before = m.cache_bytes();
        m.run(&["slots", "remove", "1"])
            .ended(1)
            .says(&["no slot would stay", "slots add"]);
        m.run(&["slots", "remove", "7"])
            .ended(66)
            .says(&["no slot 7"]);
        assert_eq!(m.cache_bytes(), before);
        let key = m.run(&["slots", "add", "recovery"]).ended(0).recovery_key();
        m.tpm.extend_pcr(7, "an update");
        let before = m.cache_bytes();
        let remove = ["slots", "remove", "2", "--recovery"];
        m.run_with(&remove, &key)
            .ended(if runs { 1 } else { 69 })
            .says(&[
                "nothing was removed: slot 1 (tpm2)",
                "PCR 7",
                "slots reseal 1",
            ]);
        assert_eq!(m.cache_bytes(), before);
        drop(serve);
    }
}

#[test]
fn slots_that_no_longer_open_are_removed_together() {
    for runs in [false, true] {
        let m = Machine::new();
        m.filled(&INIT);
        m.run(&["slots", "add", "tpm2"]).ended(0);
        let key = m.run(&["slots", "add", "recovery"]).ended(0).recovery_key();
        let serve = runs.then(|| m.serve());
        m.tpm.extend_pcr(7, "an update");
        m.run_with(&["slots", "remove", "1", "--recovery"], &key)
            .ended(if runs { 1 } else { 69 })
            .says(&[
                "slot 2 (tpm2), which stays",
                "`psi-cachectl slots remove 1 2`",
            ]);
        let key = m
            .run_with(&["slots", "remove", "1", "2", "--recovery"], &key)
            .ended(0)
            .says(&["slot 1 was removed", "slot 2 was removed"])
            .recovery_key();
        assert_eq!(m.slots(), [(3, "recovery".to_owned())]);
        m.run_with(&["slots", "test", "--recovery"], &key).ended(0);
        drop(serve);
    }
}

#[test]
fn one_slot_is_resealed_whether_it_opens_or_not_and_keeps_its_pcrs_unless_told_others() {
    for runs in [false, true] {
        let m = Machine::new();
        m.tpm.extend_pcr(14, "shim");
        m.filled(&[INIT.as_slice(), &["--pcrs", "7,14"]].concat());
        let serve = runs.then(|| m.serve());
        let before = m.cache_bytes();
        m.run(&["slots", "reseal", "1"]).ended(0).says(&[
            "slot 1 (tpm2) is sealed anew: the TPM and PCR 7 (secure-boot-policy), PCR 14",
            "`psi-cachectl slots reseal 1 --pcrs 7` binds it to those",
        ]);
        assert_ne!(m.cache_bytes(), before);
        m.run(&["slots", "reseal", "1", "--pcrs", "7"])
            .ended(0)
            .never_says("PCR 14");
        m.run(&["slots", "reseal", "1", "--pcrs", "8"])
            .ended(1)
            .says(&[
                "slot 1 (tpm2) was not sealed anew",
                "nothing has been measured into PCR 8",
            ]);
        m.run(&["slots", "reseal", "1", "--pcrs", "8", "--force"])
            .ended(0)
            .says(&["into which nothing has been measured"]);
        m.run(&["slots", "reseal", "9"])
            .ended(66)
            .says(&["no slot 9"]);
        drop(serve);
        m.run(&VERIFY).ended(0);
    }
}

#[test]
fn a_change_that_can_not_be_written_leaves_the_old_slots() {
    for runs in [false, true] {
        let m = Machine::new();
        m.filled(&INIT_RECOVERY);
        let serve = runs.then(|| m.serve());
        let before = m.cache_bytes();
        let obstacle = m.host.state_dir().join(".cache.enc.new");
        fs::create_dir(&obstacle).unwrap();
        for change in [
            ["slots", "add", "recovery"],
            ["slots", "remove", "2"],
            ["slots", "reseal", "1"],
            ["slots", "reseal", "2"],
        ] {
            let done = m
                .run(&change)
                .ended(74)
                .says(&["cannot write ", "cache.enc"]);
            assert!(done.recovery_keys().is_empty(), "no key that opens nothing");
        }
        assert_eq!(m.cache_bytes(), before);
        fs::remove_dir(&obstacle).unwrap();
        drop(serve);
        let _serve = m.serve();
        assert_eq!((m.opened_by(), m.value()), (1, SEALED.into()));
    }
}
