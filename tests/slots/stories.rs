//! A TPM in its life: it opens the cache, until something in the boot has changed, it is another
//! one, or it is not there.

use psi_test_support::swtpm::Swtpm;
use psi_test_support::wait;
use serde_json::Value;

use crate::fixture::{INIT, INIT_RECOVERY, LIVE, Machine, RESEAL, SEALED, VERIFY};

/// What a changed PCR 7 is called everywhere.
const CHANGED: &str = "no longer what the slot was sealed to: PCR 7 (secure-boot-policy)";

/// psi-serve's cache is closed: looked up values are live, the file is `before`, and `why` is told
/// with the thing, the cause and `next` wherever somebody may look.
#[track_caller]
fn stays_closed(m: &Machine, log: &str, before: &[u8], why: &str, next: &str) {
    assert_eq!(m.value(), LIVE);
    assert_eq!(m.cache_bytes(), before, "the file is kept");
    assert!(m.aside().is_empty(), "{:?}", m.aside());
    let status = m.status();
    assert_eq!(status["cache"]["state"], "closed", "{status}");
    let attempts = status["cache"]["attempts"].as_array().unwrap();
    let of_tpm = attempts.iter().find(|a| a["kind"] == "tpm2").unwrap();
    let failure = &of_tpm["failure"];
    assert!(failure["what"].as_str().unwrap().contains(why), "{status}");
    assert!(failure["next"].as_str().unwrap().contains('`'), "{status}");
    assert!(of_tpm["took_ms"].is_u64(), "{status}");
    for said in [
        m.run(&["status"]).ended(0).stdout,
        m.run(&VERIFY).ended(69).stderr,
        log.to_owned(),
    ] {
        assert!(said.contains("slot 1 (tpm2)"), "{said}");
        assert!(said.contains(why), "{why}: {said}");
        assert!(said.contains(next), "{next}: {said}");
    }
    m.run(&["slots", "test"]).ended(69).says(&[why, "next: "]);
}

#[test]
fn after_a_changed_boot_the_recovery_key_serves_the_values_at_once_and_the_tpm_opens_again() {
    let mut m = Machine::new();
    let key = m.filled(&INIT_RECOVERY).recovery_key();
    let serve = m.serve();
    assert_eq!((m.opened_by(), m.value()), (1, SEALED.into()));
    let before = m.cache_bytes();
    m.reboot(&serve, |m| m.tpm.restart_with("an update"));
    stays_closed(
        &m,
        &serve.log(),
        &before,
        CHANGED,
        "slots reseal --recovery",
    );

    m.run_with(&RESEAL, &key).ended(0).says(&[
        "slot 2 (recovery) opened the cache",
        "slot 1 (tpm2) is sealed anew: the TPM and PCR 7 (secure-boot-policy)",
    ]);
    assert_eq!((m.opened_by(), m.value()), (2, SEALED.into()));
    m.reboot(&serve, |_| {});
    assert_eq!((m.opened_by(), m.value()), (1, SEALED.into()));
    m.run(&["slots", "reseal"])
        .ended(0)
        .says(&["nothing to do: every slot opens"]);
}

#[test]
fn after_a_changed_boot_the_recovery_key_does_the_same_while_psi_serve_is_down() {
    let mut m = Machine::new();
    let key = m.filled(&INIT_RECOVERY).recovery_key();
    let before = m.cache_bytes();
    m.tpm.restart_with("an update");
    m.run(&["slots", "reseal"])
        .ended(69)
        .says(&[CHANGED, "slots reseal --recovery"]);
    m.run(&["slots", "test"]).ended(69).says(&[CHANGED]);
    assert_eq!(m.cache_bytes(), before);
    m.run_with(&RESEAL, &key)
        .ended(0)
        .says(&["slot 2 (recovery) opened the cache", "sealed anew"]);
    m.run(&VERIFY).ended(0);
    let _serve = m.serve();
    assert_eq!((m.opened_by(), m.value()), (1, SEALED.into()));
}

#[test]
fn after_a_changed_boot_without_another_slot_lookups_are_live_and_the_file_is_kept() {
    let mut m = Machine::new();
    m.filled(&INIT);
    let before = m.cache_bytes();
    let serve = m.serve();
    m.reboot(&serve, |m| m.tpm.restart_with("an update"));
    let next = "`psi-cachectl init --backend tpm --force`";
    stays_closed(&m, &serve.log(), &before, CHANGED, next);
    let error = m.try_to_fill().unwrap_err();
    assert!(error.to_string().contains(CHANGED), "{error}");
    assert_eq!(m.cache_bytes(), before, "a hand-over does not replace it");

    // What had changed is undone.
    m.reboot(&serve, |m| m.tpm.restart());
    assert_eq!((m.opened_by(), m.value()), (1, SEALED.into()));
}

#[test]
fn another_tpm_is_named_as_such_and_can_be_sealed_to() {
    let mut m = Machine::new();
    let key = m.filled(&INIT_RECOVERY).recovery_key();
    let before = m.cache_bytes();
    let serve = m.serve();
    m.reboot(&serve, |m| {
        m.tpm = Swtpm::start();
        m.configure("");
    });
    let another = "the slot was sealed by another TPM than";
    stays_closed(
        &m,
        &serve.log(),
        &before,
        another,
        "slots reseal --recovery",
    );
    m.run_with(&RESEAL, &key).ended(0).says(&["sealed anew"]);
    m.reboot(&serve, |_| {});
    assert_eq!((m.opened_by(), m.value()), (1, SEALED.into()));
}

#[test]
fn a_tpm_that_is_away_is_tried_again_at_a_reload_and_at_the_next_hand_over() {
    let mut m = Machine::new();
    m.filled(&INIT);
    let before = m.cache_bytes();
    let serve = m.serve();
    m.reboot(&serve, |m| m.tpm.stop());
    stays_closed(
        &m,
        &serve.log(),
        &before,
        "cannot open the TPM",
        "tpm2_getcap",
    );

    m.tpm.restart();
    serve.signal("HUP");
    wait::until("reload", || m.status()["cache"]["state"] == "open");
    assert_eq!(m.value(), SEALED);

    m.reboot(&serve, |m| m.tpm.stop());
    assert_eq!(m.value(), LIVE);
    m.tpm.restart();
    m.fill();
    assert_eq!((m.opened_by(), m.value()), (1, SEALED.into()));
}

/// Whoever alters the header can make the cache unusable, and nothing more.
#[test]
fn an_altered_slot_keeps_the_cache_closed_even_for_the_recovery_key_and_the_file_stays() {
    let m = Machine::with_cache("on_unseal_failure: recreate");
    let key = m.filled(&INIT_RECOVERY).recovery_key();
    let mut altered = m.cache_bytes();
    let at = find(&altered, b"\"private\":\"") + 60;
    altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
    std::fs::write(m.host.cache_file(), &altered).unwrap();
    let serve = m.serve();
    let log = serve.log();
    let why = "the tpm2 slot is not what the TPM sealed";
    stays_closed(&m, &log, &altered, why, "slots reseal --recovery");
    assert!(m.try_to_fill().is_err());
    m.run_with(&RESEAL, &key).ended(65).says(&[
        "its contents are not what was saved",
        "restore it from a backup",
    ]);
    serve.sigterm();
    m.run_with(&RESEAL, &key)
        .ended(65)
        .says(&["its contents are not what was saved"]);
    assert_eq!(m.cache_bytes(), altered);
    assert!(m.aside().is_empty());
}

fn find(bytes: &[u8], text: &[u8]) -> usize {
    let mut windows = bytes.windows(text.len());
    windows.position(|window| window == text).unwrap()
}

#[test]
fn values_are_back_before_the_hardware_is() {
    let mut m = Machine::new();
    let key = m.filled(&INIT_RECOVERY).recovery_key();
    let serve = m.serve();
    m.reboot(&serve, |m| m.tpm.stop());
    let before = m.cache_bytes();
    m.run_with(&RESEAL, &key).ended(69).says(&[
        "slot 2 (recovery) opened the cache, and it is served from now on",
        "slot 1 (tpm2) was not sealed anew",
        "cannot open the TPM",
        "next: ",
    ]);
    assert_eq!((m.opened_by(), m.value()), (2, SEALED.into()));
    assert_eq!(m.cache_bytes(), before);
    serve.sigterm();
    m.run_with(&RESEAL, &key)
        .ended(69)
        .says(&["slot 2 (recovery) opened the cache", "cannot open the TPM"]);
}

#[test]
fn status_and_log_say_which_slot_opened_and_why_others_did_not() {
    let mut m = Machine::new();
    m.filled(&INIT);
    m.host.set_credential("psi-cache-key", &[7; 32]);
    m.run(&["slots", "add", "credential"]).ended(0);
    m.host.set_credential("psi-cache-key", &[8; 32]);
    let serve = m.serve();
    assert_eq!(m.opened_by(), 1);
    m.run(&["status"]).ended(0).says(&[
        "LAST OPENING",
        "opened the cache in ",
        "the key of slot 2 (credential) is another one",
        "next, slot 2 (credential): ",
    ]);
    let attempts = &m.status()["cache"]["attempts"];
    assert_eq!(attempts[0]["kind"], "credential");
    assert_eq!(attempts[0]["tried"], true);
    assert_eq!(attempts[1]["failure"], Value::Null);
    let log = serve.log();
    let said = "slot 2 (credential) did not open in ";
    assert_eq!(log.matches(said).count(), 1, "{log}");
    assert_eq!(
        log.matches("slot 1 (tpm2) opened the cache in ").count(),
        2,
        "{log}"
    );
    m.reboot(&serve, |m| m.host.set_credential("psi-cache-key", &[7; 32]));
    assert_eq!(m.opened_by(), 2);
    m.run(&["status"]).ended(0).says(&["not tried"]);
}
