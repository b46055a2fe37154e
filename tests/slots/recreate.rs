//! `on_unseal_failure: recreate`: a new cache in the place of one that no slot opens, and when not.

use std::fs;

use psi::wire::WorkloadEntries;
use psi_test_support::swtpm::Swtpm;

use crate::fixture::{INIT, INIT_RECOVERY, LIVE, Machine, SEALED, VERIFY};

const RECREATE: &str = "on_unseal_failure: recreate";
const WILL: &str = "the first hand-over puts it aside and starts a new one";
const WILL_NOT: &str = "it is kept, though `on_unseal_failure` is `recreate`: ";

/// A cache with a value, and a TPM that no longer opens it.
fn locked(init: &[&str]) -> Machine {
    let mut m = Machine::with_cache(RECREATE);
    m.filled(init);
    m.tpm.restart_with("an update");
    m
}

/// A hand-over leaves the file as it is, and `why` is told.
#[track_caller]
fn is_kept(m: &Machine, why: &str) {
    let before = m.cache_bytes();
    let serve = m.serve();
    let error = m.try_to_fill().unwrap_err().to_string();
    let status = m.run(&["status"]).ended(0).stdout;
    for said in [error, status, serve.log()] {
        assert!(said.contains(WILL_NOT), "{said}");
        assert!(said.contains(why), "{why}: {said}");
    }
    assert_eq!(m.cache_bytes(), before);
    assert!(m.aside().is_empty());
    assert_eq!(m.value(), LIVE);
}

#[test]
fn the_first_values_that_come_replace_it_and_it_stays_under_another_name() {
    // A recovery key that nobody has entered does not count.
    for init in [INIT.as_slice(), &INIT_RECOVERY] {
        let m = locked(init);
        let old = m.cache_bytes();
        let serve = m.serve();
        assert!(m.run(&["status"]).ended(0).stdout.contains(WILL));
        assert!(serve.log().contains(WILL), "{}", serve.log());
        assert_eq!(m.value(), LIVE, "until then lookups are live");
        let nothing = m.hand_over(WorkloadEntries::default());
        assert!(nothing.is_err(), "an empty hand-over replaces nothing");
        assert_eq!(m.cache_bytes(), old);
        assert!(m.aside().is_empty());

        m.fill();
        assert_eq!(m.value(), SEALED);
        let aside = m.aside();
        assert_eq!(aside.len(), 1, "{aside:?}");
        assert!(
            aside[0]
                .display()
                .to_string()
                .contains("cache.enc.unopened-")
        );
        assert_eq!(fs::read(&aside[0]).unwrap(), old);
        assert!(serve.log().contains(&aside[0].display().to_string()));
        serve.sigterm();
        m.run(&VERIFY).ended(0);
        assert_eq!(m.slots(), [(1, "tpm2".to_owned())]);
    }
}

#[test]
fn another_tpm_is_reason_enough() {
    let mut m = Machine::with_cache(RECREATE);
    m.filled(&INIT);
    m.tpm = Swtpm::start();
    m.configure(RECREATE);
    let _serve = m.serve();
    m.fill();
    assert_eq!((m.value(), m.aside().len()), (SEALED.into(), 1));
}

#[test]
fn a_tpm_that_is_merely_away_is_waited_for() {
    let mut m = Machine::with_cache(RECREATE);
    m.filled(&INIT);
    m.tpm.stop();
    is_kept(&m, "slot 1 (tpm2) may open it again");
}

#[test]
fn a_credential_that_is_merely_not_delivered_is_waited_for() {
    let mut m = Machine::with_cache(RECREATE);
    m.filled(&INIT);
    m.host.set_credential("psi-cache-key", &[7; 32]);
    m.run(&["slots", "add", "credential"]).ended(0);
    m.host.remove_credential("psi-cache-key");
    m.tpm.restart_with("an update");
    is_kept(&m, "slot 2 (credential) may open it again");
}

#[test]
fn values_that_are_nowhere_else_are_never_put_aside_unasked() {
    let mut m = Machine::with_cache(RECREATE);
    m.filled(&INIT);
    m.run_with(&["put", "ONLY_HERE"], "precious").ended(0);
    m.tpm.restart_with("an update");
    is_kept(&m, "it holds 1 values that are kept nowhere else");
}

#[test]
fn a_new_cache_that_can_not_be_written_leaves_the_old_one_in_its_place() {
    let m = locked(&INIT);
    let old = m.cache_bytes();
    let _serve = m.serve();
    // A directory in the temporary file's place can neither be removed nor replaced by a file.
    let obstacle = m.host.state_dir().join(".cache.enc.new");
    fs::create_dir(&obstacle).unwrap();
    let error = m.try_to_fill().unwrap_err();
    assert!(error.to_string().contains("cache.enc"), "{error}");
    assert_eq!(m.cache_bytes(), old);
    assert!(m.aside().is_empty());
    fs::remove_dir(&obstacle).unwrap();
    m.fill();
    assert_eq!((m.value(), m.aside().len()), (SEALED.into(), 1));
}

#[test]
fn psi_cachectl_recreates_nothing() {
    let m = locked(&INIT);
    let old = m.cache_bytes();
    m.run(&VERIFY).ended(69);
    m.run(&["slots", "reseal"]).ended(69);
    m.run(&INIT).ended(1).says(&["1 values", "--force"]);
    assert_eq!(m.cache_bytes(), old);
    assert!(m.aside().is_empty());
}
