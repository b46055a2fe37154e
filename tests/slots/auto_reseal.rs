//! `cache.auto_reseal`: after a changed boot another slot opens the cache, and psi-serve seals the
//! TPM's slot to what runs now.

use psi_test_support::swtpm::Swtpm;

use crate::fixture::{INIT, LIVE, Machine, SEALED, VERIFY};

const AUTO: &str = "auto_reseal: true";

/// A slot that opens after any boot: nothing is ever measured into PCR 16.
const SPARE: [&str; 6] = ["slots", "add", "tpm2", "--pcrs", "16", "--force"];

/// A cache with the value, which PCR 7 opens, and after a changed boot the spare slot.
fn with_spare(configured: &str) -> Machine {
    let m = Machine::with_cache(configured);
    m.filled(&INIT);
    m.run(&SPARE).ended(0);
    m
}

#[test]
fn after_a_firmware_update_the_spare_slot_serves_and_the_next_start_has_the_first_again() {
    let mut m = with_spare(AUTO);
    let serve = m.serve();
    let before = m.cache_bytes();
    m.reboot(&serve, |m| m.tpm.restart_with("an update"));
    assert_eq!((m.opened_by(), m.value()), (2, SEALED.into()));
    m.wait_for_log(
        &serve,
        "slot 1 (tpm2) was sealed anew to the boot that runs now",
    );
    let log = serve.log();
    for said in [
        "`cache.auto_reseal` is true",
        "the TPM and PCR 7 (secure-boot-policy)",
        "if nobody changed the boot",
    ] {
        assert!(log.contains(said), "{said}: {log}");
    }
    assert_ne!(m.cache_bytes(), before);

    let resealed = m.cache_bytes();
    m.reboot(&serve, |_| {});
    assert_eq!((m.opened_by(), m.value()), (1, SEALED.into()));
    assert_eq!(m.cache_bytes(), resealed, "once is enough");
    m.run(&["slots", "test"]).ended(0);
}

#[test]
fn it_is_off_unless_it_is_asked_for() {
    let mut m = with_spare("");
    let serve = m.serve();
    let before = m.cache_bytes();
    for _ in 0..2 {
        m.reboot(&serve, |m| m.tpm.restart_with("an update"));
        assert_eq!((m.opened_by(), m.value()), (2, SEALED.into()));
    }
    assert_eq!(m.cache_bytes(), before);
    m.run(&["slots", "reseal"])
        .ended(0)
        .says(&["slot 1 (tpm2) is sealed anew"]);
}

#[test]
fn without_another_slot_the_file_is_kept_and_the_remedy_is_told() {
    let mut m = Machine::with_cache(AUTO);
    m.filled(&INIT);
    let serve = m.serve();
    let before = m.cache_bytes();
    m.reboot(&serve, |m| m.tpm.restart_with("an update"));
    assert_eq!(m.value(), LIVE);
    assert_eq!(m.cache_bytes(), before);
    m.run(&["status"]).ended(0).says(&[
        "no longer what the slot was sealed to: PCR 7 (secure-boot-policy)",
        "`psi-cachectl init --backend tpm --force`",
    ]);
    m.reboot(&serve, |m| m.tpm.restart());
    assert_eq!((m.opened_by(), m.value()), (1, SEALED.into()));
}

#[test]
fn a_boot_that_measures_nothing_is_not_sealed_to() {
    let mut m = with_spare(AUTO);
    let serve = m.serve();
    let before = m.cache_bytes();
    m.reboot(&serve, |m| m.tpm.restart_unmeasured());
    assert_eq!((m.opened_by(), m.value()), (2, SEALED.into()));
    m.wait_for_log(&serve, "slot 1 (tpm2) stays as it is");
    let log = serve.log();
    assert!(
        log.contains("nothing has been measured into PCR 7"),
        "{log}"
    );
    assert_eq!(m.cache_bytes(), before);
}

/// A cache with the value, which PCR 7 opens, and without it a token.
fn with_token() -> Machine {
    let m = Machine::with_token("tpm");
    m.configure(AUTO);
    m.filled(&INIT);
    m.run(&["slots", "add", "pkcs11"]).ended(0);
    m
}

#[test]
fn after_a_firmware_update_the_token_serves_and_is_not_needed_at_the_next_start() {
    let mut m = with_token();
    let serve = m.serve();
    m.reboot(&serve, |m| m.tpm.restart_with("an update"));
    assert_eq!((m.opened_by(), m.value()), (2, SEALED.into()));
    m.wait_for_log(
        &serve,
        "slot 1 (tpm2) was sealed anew to the boot that runs now",
    );
    m.reboot(&serve, |m| m.module().forget_calls());
    assert_eq!((m.opened_by(), m.value()), (1, SEALED.into()));
    assert!(!m.module().was_started());
}

#[test]
fn a_tpm_that_is_away_or_another_one_is_no_changed_boot() {
    let mut m = with_token();
    let serve = m.serve();
    let before = m.cache_bytes();
    m.reboot(&serve, |m| m.tpm.stop());
    assert_eq!((m.opened_by(), m.value()), (2, SEALED.into()));
    m.reboot(&serve, |m| {
        m.tpm = Swtpm::start();
        m.configure(AUTO);
    });
    assert_eq!((m.opened_by(), m.value()), (2, SEALED.into()));
    // The sealing is over when another change has had its turn.
    m.run(&VERIFY).ended(0);
    assert_eq!(m.cache_bytes(), before);
    assert!(!serve.log().contains("sealed anew"), "{}", serve.log());
}
