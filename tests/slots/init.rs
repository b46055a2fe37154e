//! `psi-cachectl init --backend tpm`, and the cache that the first hand-over makes.

use std::fs;

use serde_json::Value;

use crate::fixture::{INIT, INIT_RECOVERY, Machine, SEALED, VERIFY};

const FORCE: [&str; 4] = ["init", "--backend", "tpm", "--force"];

fn pcrs(m: &Machine) -> Value {
    let done = m.run(&["slots", "list", "--json"]).ended(0);
    serde_json::from_str::<Value>(&done.stdout).unwrap()[0]["pcrs"].take()
}

#[test]
fn init_seals_to_the_tpm_with_psi_serve_and_without_and_says_what_that_means() {
    for runs in [false, true] {
        let m = Machine::new();
        let serve = runs.then(|| m.serve());
        m.run(&INIT).ended(0).says(&[
            &format!("created {}, empty", m.host.cache_file().display()),
            "slot 1 (tpm2) opens it: the TPM and PCR 7 (secure-boot-policy)",
            "`psi-cachectl slots add recovery` makes one",
            "next: ",
        ]);
        assert!(!m.sealed_key().exists(), "no credential is made");
        m.run(&VERIFY).ended(0);
        let _serve = serve.unwrap_or_else(|| m.serve());
        m.fill();
        assert_eq!(m.value(), SEALED);
    }
}

#[test]
fn a_recovery_key_is_printed_once_and_lies_nowhere() {
    for runs in [false, true] {
        let m = Machine::new();
        let serve = runs.then(|| m.serve());
        let done = m.run(&INIT_RECOVERY).ended(0);
        let key = done.recovery_key();
        done.says(&["slot 2 (recovery)", "shown this once"])
            .never_says("slots add recovery");
        let serve = serve.unwrap_or_else(|| m.serve());
        m.run(&["slots", "test"]).ended(0);
        let group = key.split('-').next().unwrap();
        let said = [m.run(&["status"]).stdout, serve.log()].concat();
        assert!(!said.contains(group), "{said}");
        for entry in fs::read_dir(m.host.state_dir()).unwrap() {
            let bytes = fs::read(entry.unwrap().path()).unwrap();
            assert!(!bytes.windows(8).any(|w| w == group.as_bytes()));
        }
    }
}

#[test]
fn pcrs_that_nothing_was_measured_into_are_refused_unless_forced() {
    for runs in [false, true] {
        let m = Machine::new();
        let _serve = runs.then(|| m.serve());
        let unmeasured = [INIT.as_slice(), &["--pcrs", "8,9"]].concat();
        m.run(&unmeasured).ended(1).says(&[
            "nothing has been measured into PCR 8, PCR 9 (kernel-initrd)",
            "`--force`",
        ]);
        assert!(!m.host.cache_file().exists());
        let forced = [unmeasured.as_slice(), &["--force"]].concat();
        m.run(&forced).ended(0).says(&[
            "the TPM and PCR 8, PCR 9 (kernel-initrd), into which nothing has been measured",
        ]);
        assert_eq!(pcrs(&m), serde_json::json!([8, 9]));
        m.run(&VERIFY).ended(0);
    }
}

#[test]
fn the_option_wins_over_the_configured_pcrs() {
    let m = Machine::new();
    m.tpm.extend_pcr(14, "shim");
    let init = [INIT.as_slice(), &["--pcrs", "7,14"]].concat();
    m.run(&init)
        .ended(0)
        .says(&["PCR 7 (secure-boot-policy), PCR 14 (shim-policy)"]);
    assert_eq!(pcrs(&m), serde_json::json!([7, 14]));
    m.tpm.extend_pcr(14, "another shim");
    m.run(&VERIFY)
        .ended(69)
        .says(&["no longer what the slot was sealed to: PCR 14 (shim-policy)"]);
}

#[test]
fn wrong_usage_is_found_before_anything_is_done() {
    let m = Machine::new();
    for (more, word) in [
        (["--pcrs", "24"], "PCRs go from 0 to 23"),
        (["--pcrs", "7 14"], "is not a list of PCRs"),
        (["--with-key", "tpm2"], "--with-key is for a credential"),
    ] {
        let init = [INIT.as_slice(), &more].concat();
        m.run(&init).ended(64).says(&[word]);
    }
    for (arguments, word) in [
        (
            ["slots", "add", "recovery", "--pcrs", "7"],
            "--pcrs is for slots of the TPM only",
        ),
        (
            ["slots", "add", "tpm2", "--with-key", "tpm2"],
            "--with-key is for a credential",
        ),
        (
            ["slots", "reseal", "1", "--pcrs", "x"],
            "is not a list of PCRs",
        ),
    ] {
        m.run(&arguments).ended(64).says(&[word]);
    }
    assert!(!m.host.cache_file().exists());
}

#[test]
fn an_existing_cache_is_kept_with_what_it_holds_unless_forced() {
    for runs in [false, true] {
        let m = Machine::new();
        m.filled(&INIT);
        let old = m.cache_bytes();
        let _serve = runs.then(|| m.serve());
        m.run(&INIT).ended(1).says(&[
            "exists already",
            "1 values, 0 of them kept nowhere else",
            "--force",
        ]);
        assert_eq!(m.cache_bytes(), old);
        m.run(&FORCE)
            .ended(0)
            .says(&["it is put aside, not removed", "the old cache is now "]);
        assert_eq!(fs::read(&m.aside()[0]).unwrap(), old);
        m.run(&VERIFY).ended(0);
    }
}

#[test]
fn a_forced_init_without_a_tpm_changes_nothing_and_says_what_is_missing() {
    for runs in [false, true] {
        let mut m = Machine::new();
        m.filled(&INIT);
        let old = m.cache_bytes();
        let _serve = runs.then(|| m.serve());
        m.tpm.stop();
        m.run(&FORCE).ended(69).says(&[
            "cannot open the TPM (swtpm:host=127.0.0.1,port=",
            "next: is what `cache.tpm.tcti`",
        ]);
        assert_eq!(m.cache_bytes(), old);
        assert!(m.aside().is_empty());
    }
}

#[test]
fn without_a_state_directory_or_a_cache_to_keep_the_tpm_is_left_alone() {
    let m = Machine::new();
    let state_dir = m.host.state_dir();
    fs::remove_dir_all(&state_dir).unwrap();
    m.run(&INIT).ended(69).says(&[
        "psi-serve has not made ",
        "systemctl start psi-secrets.service",
        "then run this again",
    ]);
    assert!(!state_dir.exists());

    let m = Machine::new();
    m.host.write_config("providers: {local: {}}\n");
    let _serve = m
        .host
        .serve(std::path::Path::new(env!("CARGO_BIN_EXE_psi-serve")));
    m.run(&INIT).ended(69).says(&[
        "started without `cache.backend`",
        "set `cache.backend: tpm`",
    ]);
    m.run(&["slots", "add", "recovery"])
        .ended(66)
        .says(&["there is no "]);
}

#[test]
fn the_first_hand_over_seals_to_the_credential_if_there_is_one_else_to_the_tpm() {
    let m = Machine::new();
    let serve = m.serve();
    m.fill();
    assert_eq!(m.slots(), [(1, "tpm2".to_owned())]);
    serve.sigterm();
    serve.restart();
    m.settle();
    assert_eq!((m.opened_by(), m.value()), (1, SEALED.into()));

    let m = Machine::new();
    m.host.set_credential("psi-cache-key", &[7; 32]);
    let _serve = m.serve();
    m.fill();
    assert_eq!(m.slots(), [(1, "credential".to_owned())]);
}

#[test]
fn the_first_hand_over_makes_nothing_that_opens_after_any_boot_or_by_nothing() {
    let mut m = Machine::new();
    let unmeasured = format!("tpm: {{tcti: \"{}\", pcrs: [8]}}", m.tpm.tcti());
    m.host.write_config(&format!(
        "providers: {{infisical: {{projects: {{}}}}}}\ncache: {{backend: tpm, {unmeasured}}}\n"
    ));
    let serve = m.serve();
    let error = m.try_to_fill().unwrap_err();
    assert!(
        error
            .to_string()
            .contains("nothing has been measured into PCR 8"),
        "{error}"
    );
    assert!(!m.host.cache_file().exists());
    serve.sigterm();

    m.configure("");
    m.tpm.stop();
    serve.restart();
    m.settle();
    let error = m.try_to_fill().unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains("there is no credential psi-cache-key and no TPM"),
        "{said}"
    );
    assert!(
        error
            .next_step()
            .unwrap()
            .contains("psi-cachectl init --backend credential")
    );
    assert!(!m.host.cache_file().exists());
}
