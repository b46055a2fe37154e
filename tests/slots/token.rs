//! A PKCS#11 token in its life: it opens the cache, a second one takes over, it dies and is replaced;
//! and what it is asked for meanwhile.

use psi_test_support::token::Module;
use serde_json::Value;

use crate::fixture::{
    HANG, INIT, INIT_HSM, INIT_HSM_RECOVERY, INIT_RECOVERY, LIVE, Machine, PIN, RESEAL, SEALED,
    VERIFY,
};

/// Two tokens, each with a key of its own.
fn two_tokens() -> Module {
    let module = Module::with_tokens(&["first", "second"]);
    for slot in [0, 1] {
        module.set_pin(slot, PIN);
        module.generate_key(slot, PIN, "02", "podman-secrets");
    }
    module
}

const CALLS: [&str; 3] = ["C_Login", "C_FindObjectsInit", "C_Decrypt"];

#[test]
fn a_start_costs_one_login_one_search_and_one_decryption_and_nothing_else_costs_any() {
    let (mut m, serve) = Machine::opened_by_token();
    let calls = |m: &Machine| CALLS.map(|name| m.module().calls(name));
    m.reboot(&serve, |m| m.module().forget_calls());
    assert_eq!((m.opened_by(), m.value()), (1, SEALED.into()));
    assert_eq!(calls(&m), [1, 1, 1]);
    for _ in 0..10 {
        assert_eq!(m.value(), SEALED);
    }
    m.run_with(&["put", "DB_PASSWORD"], "a local value")
        .ended(0);
    m.run(&VERIFY).ended(0);
    m.run(&["status"]).ended(0);
    m.run(&["slots", "list"])
        .ended(0)
        .says(&["a key on the token \"psi\""]);
    assert_eq!(calls(&m), [1, 1, 1]);
    assert!(serve.sigterm().success(), "{}", serve.log());
}

#[test]
fn a_slot_is_added_without_a_pin() {
    let m = Machine::with_token("hsm");
    m.host.remove_credential("hsm-pin");
    m.run(&INIT_HSM_RECOVERY).ended(0);
    assert_eq!(m.module().calls("C_Login"), 0);
    m.run(&["slots", "test"])
        .ended(69)
        .says(&["wants a PIN", "hsm-pin"]);
    m.host.set_credential("hsm-pin", PIN.as_bytes());
    m.run(&["slots", "test", "1"]).ended(0).says(&["opens"]);
}

#[test]
fn with_a_slot_of_the_tpm_that_opens_the_module_is_not_even_loaded() {
    let mut m = Machine::with_token("tpm");
    m.filled(&INIT);
    let serve = m.serve();
    m.run(&["slots", "add", "pkcs11"])
        .ended(0)
        .says(&["slot 2 (pkcs11) was added"]);
    m.reboot(&serve, |m| m.module().forget_calls());
    assert_eq!((m.opened_by(), m.value()), (1, SEALED.into()));
    assert!(!m.module().was_started());
    m.reboot(&serve, |m| m.tpm.restart_with("an update"));
    assert_eq!((m.opened_by(), m.value()), (2, SEALED.into()));
    m.run(&["slots", "reseal"])
        .ended(0)
        .says(&["slot 1 (tpm2) is sealed anew"]);
    m.reboot(&serve, |m| m.module().forget_calls());
    assert_eq!(m.opened_by(), 1);
    assert!(!m.module().was_started());
}

#[test]
fn a_second_token_opens_the_cache_once_the_first_is_dead_and_a_new_one_takes_its_place() {
    let mut m = Machine::with_module("hsm", two_tokens());
    let second = m.module().serial(1);
    m.filled(&INIT_HSM);
    let add = ["slots", "add", "pkcs11", "--token-serial", &second];
    m.run(&add)
        .ended(0)
        .says(&["slot 2 (pkcs11) was added", "\"second\"", &second]);
    m.run(&["slots", "test"]).ended(0);
    let serve = m.serve();
    assert_eq!(m.opened_by(), 1);
    // A new token is in the place of the first: the same names, another key.
    m.reboot(&serve, |m| {
        m.module().delete_key(0, PIN, "02");
        m.module().generate_key(0, PIN, "02", "podman-secrets");
    });
    assert_eq!((m.opened_by(), m.value()), (2, SEALED.into()));
    assert!(
        serve.log().contains("encrypted for another key"),
        "{}",
        serve.log()
    );
    m.run(&["slots", "reseal"])
        .ended(0)
        .says(&["slot 1 (pkcs11) is sealed anew", "\"first\""]);
    m.reboot(&serve, |_| {});
    assert_eq!((m.opened_by(), m.value()), (1, SEALED.into()));
}

#[test]
fn without_another_slot_a_dead_token_costs_no_value_and_the_remedy_is_said() {
    let (mut m, serve) = Machine::opened_by_token();
    let before = m.cache_bytes();
    m.reboot(&serve, |m| m.module().pull());
    assert_eq!(m.value(), LIVE);
    let status = m.status();
    assert_eq!(status["cache"]["state"], "closed", "{status}");
    for said in [
        m.run(&["status"]).ended(0).stdout,
        m.run(&VERIFY).ended(69).stderr,
        serve.log(),
    ] {
        assert!(said.contains("the PKCS#11 token is not there"), "{said}");
        assert!(said.contains("plug it in"), "{said}");
        assert!(!said.contains(PIN), "{said}");
    }
    assert!(m.try_to_fill().is_err(), "a hand-over does not replace it");
    assert_eq!(m.cache_bytes(), before);
    // It heals by itself: the next hand-over tries again.
    m.module().plug_in();
    m.fill();
    assert_eq!((m.opened_by(), m.value()), (1, SEALED.into()));
}

#[test]
fn the_printed_key_opens_the_cache_of_a_dead_token_and_seals_it_to_its_successor() {
    let mut m = Machine::with_token("hsm");
    let key = m.filled(&INIT_HSM_RECOVERY).recovery_key();
    let serve = m.serve();
    m.reboot(&serve, |m| {
        m.module = Some(Module::with_key("its successor", PIN));
        m.configure("");
    });
    assert_eq!(m.value(), LIVE);
    m.run_with(&RESEAL, &key)
        .ended(69)
        .says(&["slot 2 (recovery) opened the cache"]);
    assert_eq!(
        m.value(),
        SEALED,
        "it is served whatever became of the slot"
    );
    m.run(&["slots", "reseal", "1"])
        .ended(0)
        .says(&["slot 1 (pkcs11) is sealed anew", "its successor"]);
    m.reboot(&serve, |_| {});
    assert_eq!((m.opened_by(), m.value()), (1, SEALED.into()));
}

#[test]
fn a_firmware_update_leaves_the_token_to_open_the_cache() {
    let mut m = Machine::with_token("tpm");
    m.filled(&INIT_RECOVERY);
    m.run(&["slots", "add", "hsm"]).ended(0);
    let serve = m.serve();
    m.reboot(&serve, |m| m.tpm.restart_with("an update"));
    assert_eq!((m.opened_by(), m.value()), (3, SEALED.into()));
}

#[test]
fn a_wrong_pin_costs_one_try_however_often_the_cache_is_tried() {
    let (mut m, serve) = Machine::opened_by_token();
    m.reboot(&serve, |m| {
        m.host.remove_credential("hsm-pin");
        m.host.set_credential("hsm-pin", b"27182818");
        m.module().forget_calls();
    });
    for _ in 0..3 {
        assert!(m.try_to_fill().is_err());
        assert_eq!(m.value(), LIVE);
    }
    assert_eq!(m.module().calls("C_Login"), 1);
    let log = serve.log();
    assert!(
        log.contains("CKR_PIN_INCORRECT") && log.contains("hsm-pin"),
        "{log}"
    );
    assert!(!log.contains("27182818"), "{log}");
    assert!(serve.sigterm().success());
}

#[test]
fn while_the_module_hangs_lookups_go_on_and_the_end_is_in_time() {
    let (mut m, serve) = Machine::opened_by_token();
    serve.sigterm();
    m.module().forget_calls();
    m.module().control(HANG, "");
    serve.restart();
    psi_test_support::wait::until("decryption", || m.module().calls("C_Decrypt") == 1);
    let healthy = |m: &mut Machine| m.get("/status").0;
    assert_eq!(healthy(&mut m), 200);
    let status: Value = m.status();
    assert_eq!(status["cache"]["state"], "opening", "{status}");
    let end = serve.sigterm();
    assert!(end.success(), "{end:?}: {}", serve.log());
    m.module().release(HANG);
    serve.restart();
    m.settle();
    assert_eq!((m.opened_by(), m.value()), (1, SEALED.into()));
}

#[test]
fn a_module_that_cannot_be_loaded_changes_nothing() {
    let mut m = Machine::with_token("hsm");
    m.filled(&INIT_HSM);
    let before = m.cache_bytes();
    let module = m.module.take();
    m.configure("");
    m.run(&VERIFY)
        .ended(69)
        .says(&["no PKCS#11 token is configured", "pkcs11_module"]);
    m.run(&["slots", "add", "pkcs11"])
        .ended(69)
        .says(&["no PKCS#11 token is configured"]);
    m.module = module;
    m.configure("");
    m.run(&VERIFY).ended(0);
    assert_eq!(m.cache_bytes(), before);
}

#[test]
fn a_serial_number_is_for_slots_of_tokens_only() {
    let m = Machine::with_token("hsm");
    m.filled(&INIT_HSM_RECOVERY);
    for wrong in [["slots", "add", "recovery"], ["slots", "reseal", "2"]] {
        let arguments = [&wrong[..], &["--token-serial", "1"]].concat();
        m.run(&arguments)
            .ended(64)
            .says(&["--token-serial", "pkcs11"]);
    }
    m.run(&["slots", "add", "pkcs11", "--token-serial", "no such"])
        .ended(69)
        .says(&["serial \"no such\"", "\"psi\""]);
    m.run(&["init", "--backend", "hsm", "--pcrs", "7"])
        .ended(64);
}
