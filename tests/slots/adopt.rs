//! `psi-cachectl adopt-v1`: the Python program's cache, whose key systemd-creds sealed to PCR 7.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use psi_test_support::done::Done;
use psi_test_support::token::Module;
use psi_test_support::vectors::version1;

use crate::crash::contents;
use crate::fixture::{CACHECTL, ID, LIVE, Machine, PIN, RESEAL, SEALED};

/// What the old cache has for the secret [`ID`].
const OLD_VALUE: &[u8] = b"\0not text\xff\n";

const ADOPT: [&str; 1] = ["adopt-v1"];
const ADOPT_RECOVERY: [&str; 2] = ["adopt-v1", "--recovery"];

/// The file `name` of the vectors in the cache's place, and its key sealed as the Python program's
/// documentation has it.
fn old_machine(name: &str) -> Machine {
    furnished(Machine::new(), name)
}

fn furnished(m: Machine, name: &str) -> Machine {
    fs::write(m.host.cache_file(), version1(name)).unwrap();
    seal(&m, &version1("credential"));
    m
}

fn old_key(m: &Machine) -> PathBuf {
    m.host.path("cache.key")
}

fn seal(m: &Machine, key: &[u8]) {
    // What systemd-creds leaves: a software TPM has no resource manager.
    m.tpm.flush();
    let plain = m.host.path("plain");
    fs::write(&plain, key).unwrap();
    let mut seal = Command::new("systemd-creds");
    seal.args([
        "encrypt",
        "--name=psi-cache-key",
        "--with-key=tpm2",
        "--tpm2-pcrs=7",
    ]);
    seal.arg(format!("--tpm2-device={}", m.tpm.tcti()));
    seal.arg(&plain).arg(old_key(m));
    Done::run(seal, b"").ended(0);
    fs::remove_file(plain).unwrap();
}

fn command(m: &Machine, arguments: &[&str]) -> Command {
    let mut command = m.command(arguments);
    command.arg("--key").arg(old_key(m));
    command
}

fn adopt(m: &Machine, arguments: &[&str]) -> Done {
    Done::run(command(m, arguments), b"")
}

fn served(m: &Machine) -> Vec<u8> {
    let (status, body) = m.get(&format!("/lookup/{ID}"));
    assert_eq!(status, 200);
    body
}

fn files(m: &Machine) -> BTreeSet<String> {
    let files = fs::read_dir(m.host.state_dir()).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name != ".lock").collect()
}

#[test]
fn its_values_are_served_by_the_tpms_slot_and_after_a_changed_boot_by_the_printed_key() {
    let mut m = old_machine("tpm_file");
    let done = adopt(&m, &ADOPT_RECOVERY).ended(0).says(&[
        "3 values were carried over from a cache of version 1; the old file is ",
        "slot 1 (tpm2) opens it: the TPM and PCR 7 (secure-boot-policy)",
        "slot 2 (recovery) opens with this key",
        "`systemctl start psi-secrets.socket psi-secrets.service`",
    ]);
    let key = done.recovery_key();
    let old = m.host.state_dir().join("cache.enc.v1");
    assert_eq!(fs::read(&old).unwrap(), version1("tpm_file"));
    let serve = m.serve();
    assert_eq!((m.opened_by(), served(&m)), (1, OLD_VALUE.to_vec()));
    assert_eq!(m.status()["cache"]["entries"], 3);

    m.reboot(&serve, |m| m.tpm.restart_with("an update"));
    assert_eq!(served(&m), LIVE.as_bytes());
    m.run_with(&RESEAL, &key).ended(0).says(&["sealed anew"]);
    assert_eq!(served(&m), OLD_VALUE);
    m.reboot(&serve, |_| {});
    assert_eq!((m.opened_by(), served(&m)), (1, OLD_VALUE.to_vec()));

    m.fill();
    m.reboot(&serve, |_| {});
    assert_eq!(m.value(), SEALED);
    assert!(!old.exists(), "the new cache has proved itself");
}

#[test]
fn the_slot_is_bound_to_the_pcrs_that_are_asked_for() {
    let m = old_machine("tpm_file");
    m.tpm.extend_pcr(14, "shim");
    adopt(&m, &["adopt-v1", "--pcrs", "7,14"])
        .ended(0)
        .says(&["PCR 7 (secure-boot-policy), PCR 14 (shim-policy)"])
        .says(&["`psi-cachectl slots add recovery` makes one"]);
    adopt(&m, &["adopt-v1", "--pcrs", "seven"]).ended(64);
}

#[test]
fn a_psi_serve_without_the_key_has_to_make_way_first() {
    let m = old_machine("tpm_file");
    let serve = m.serve();
    let before = files(&m);
    adopt(&m, &ADOPT).ended(1).says(&[
        "psi-serve runs and has not opened",
        "`systemctl stop psi-secrets.socket psi-secrets.service`",
        "`systemctl start psi-secrets.socket psi-secrets.service`",
    ]);
    assert_eq!(files(&m), before);
    assert_eq!(m.cache_bytes(), version1("tpm_file"));
    serve.sigterm();
    adopt(&m, &ADOPT).ended(0);
    serve.restart();
    m.settle();
    assert_eq!((m.opened_by(), served(&m)), (1, OLD_VALUE.to_vec()));
}

/// `m`'s cache is not adopted, for a reason and with a next step, and everything is as it was.
#[track_caller]
fn refuses(m: &Machine, code: i32, words: &[&str]) {
    let before = (files(m), fs::read(m.host.cache_file()).ok());
    adopt(m, &ADOPT).ended(code).says(words).says(&["next: "]);
    assert_eq!((files(m), fs::read(m.host.cache_file()).ok()), before);
}

#[test]
fn what_can_not_be_adopted_is_named_and_stays_as_it_was() {
    let token = old_machine("hsm_file");
    let words = [
        "sealed by a PKCS#11 token (tag 2, HSM)",
        "`cache.backend: hsm`",
    ];
    refuses(&token, 78, &words);

    let by_ids = old_machine("tpm_file_older_contents");
    refuses(
        &by_ids,
        1,
        &["by ids of Podman's", "init --backend tpm --force"],
    );

    let m = old_machine("tpm_file");
    let whole = m.cache_bytes();
    seal(&m, &[9; 32]);
    refuses(
        &m,
        77,
        &["it is another key, or the file is damaged", "`--key FILE`"],
    );
    seal(&m, &[9; 31]);
    refuses(&m, 65, &["has 31 bytes, not 32"]);
    fs::write(old_key(&m), "nonsense").unwrap();
    refuses(&m, 74, &["systemd-creds could not open"]);
    fs::remove_file(old_key(&m)).unwrap();
    refuses(
        &m,
        66,
        &["there is no ", "LoadCredentialEncrypted=psi-cache-key:"],
    );

    seal(&m, &version1("credential"));
    for length in [6, 20, 33] {
        fs::write(m.host.cache_file(), &whole[..length]).unwrap();
        refuses(&m, 65, &["is damaged: it is cut short"]);
    }
    let mut flipped = whole.clone();
    flipped[40] ^= 1;
    fs::write(m.host.cache_file(), &flipped).unwrap();
    refuses(&m, 77, &["it is another key, or the file is damaged"]);
    flipped[5] = 9;
    fs::write(m.host.cache_file(), &flipped).unwrap();
    refuses(&m, 65, &["its tag is 9"]);
    fs::write(m.host.cache_file(), b"nonsense").unwrap();
    refuses(&m, 65, &[]);
    fs::remove_file(m.host.cache_file()).unwrap();
    refuses(&m, 66, &["there is no "]);
}

#[test]
fn a_key_that_was_sealed_to_another_boot_says_so() {
    let mut m = old_machine("tpm_file");
    m.tpm.restart_with("an update");
    refuses(
        &m,
        74,
        &[
            "systemd-creds could not open",
            "boot chain (PCR 7)",
            "`systemctl restart 'psi-*-setup.service'` fetches",
        ],
    );
    m.tpm.restart();
    adopt(&m, &ADOPT).ended(0);
}

#[test]
fn without_a_tpm_to_seal_to_the_old_cache_stays() {
    let mut m = old_machine("tpm_file");
    // The key opens nonetheless, as systemd has delivered it.
    m.host
        .set_credential("psi-cache-key", &version1("credential"));
    m.tpm.stop();
    refuses(&m, 69, &["cannot open the TPM"]);
}

#[test]
fn with_the_backend_hsm_the_token_opens_it_and_has_to_be_there() {
    let module = Module::with_key("psi", PIN);
    let m = furnished(Machine::with_module("hsm", module), "tpm_file");
    m.module().pull();
    refuses(&m, 69, &["the PKCS#11 token is not there"]);
    m.module().plug_in();
    adopt(&m, &ADOPT)
        .ended(0)
        .says(&["slot 1 (pkcs11) opens it"]);
    let _serve = m.serve();
    assert_eq!((m.opened_by(), served(&m)), (1, OLD_VALUE.to_vec()));
}

/// psi-serve was started with the old unit's key, and has carried the cache over by itself.
fn carried_over(m: &Machine) {
    m.host
        .set_credential("psi-cache-key", &version1("credential"));
    let serve = m.serve();
    assert_eq!(m.slots(), [(1, "credential".to_owned())]);
    serve.sigterm();
}

#[test]
fn a_cache_that_was_carried_over_with_the_key_changes_its_slot_whoever_owns_it() {
    for is_running in [true, false] {
        let mut m = old_machine("tpm_file");
        carried_over(&m);
        let serve = m.serve();
        if !is_running {
            serve.sigterm();
            m.host.remove_credential("psi-cache-key");
        }
        let done = adopt(&m, &ADOPT_RECOVERY)
            .ended(0)
            .says(&["slot 1 (credential) was removed", "slot 2 (tpm2) opens it"]);
        done.recovery_key();
        let both = [(2, "tpm2".to_owned()), (3, "recovery".to_owned())];
        assert_eq!(m.slots(), both);
        if is_running {
            m.host.remove_credential("psi-cache-key");
            m.reboot(&serve, |_| {});
        } else {
            serve.restart();
            m.settle();
        }
        assert_eq!((m.opened_by(), served(&m)), (2, OLD_VALUE.to_vec()));
        adopt(&m, &ADOPT_RECOVERY)
            .ended(0)
            .says(&["there is nothing to adopt"]);
        assert_eq!(m.slots(), both);
    }
}

#[test]
fn what_was_left_half_done_is_finished() {
    let m = old_machine("tpm_file");
    carried_over(&m);
    m.run(&["slots", "add", "tpm2"]).ended(0);
    m.run(&["slots", "add", "recovery"]).ended(0);
    m.host.remove_credential("psi-cache-key");
    // The recovery slot that stays has a new key, which must not get lost.
    adopt(&m, &ADOPT).ended(0).recovery_key();
    let left = [(2, "tpm2".to_owned()), (3, "recovery".to_owned())];
    assert_eq!(m.slots(), left);
}

/// The calls that change what is on disk under a name; nothing is in place before one of them.
const STEPS: [&str; 6] = [
    "fsync", "fchmod", "fchown", "renameat", "linkat", "unlinkat",
];

/// Kills psi-cachectl, or a systemd-creds that it runs, before its `n`th `call`. Says whether it was
/// killed.
fn killed_at(m: &Machine, call: &str, n: usize) -> bool {
    m.tpm.flush();
    let mut strace = m.host.command("strace");
    strace.env("SYSTEMD_TPM2_DEVICE", m.tpm.tcti());
    strace.args(["--quiet=all", "-f", "-o", "/dev/null"]);
    strace.arg(format!("--trace={call}"));
    strace.arg(format!("--inject={call}:signal=KILL:when={n}"));
    strace.arg(CACHECTL).arg("--sealed-key").arg(m.sealed_key());
    strace.args(ADOPT).arg("--key").arg(old_key(m));
    let done = Done::run(strace, b"");
    m.tpm.flush();
    match done.code {
        None | Some(137) => true,
        Some(0) => false,
        // systemd-creds was killed.
        _ => !done
            .says(&["systemd-creds could not open"])
            .stderr
            .is_empty(),
    }
}

/// Kills the command at each of its steps, each time from `start`. What is there then opens, and the
/// same command once more finishes the work.
fn crash_everywhere(m: &Machine, start: &[u8]) {
    let mut outcomes = BTreeSet::new();
    let mut killed = 0;
    for call in STEPS {
        for n in 1.. {
            let _ = fs::remove_file(m.host.state_dir().join("cache.enc.v1"));
            fs::write(m.host.cache_file(), start).unwrap();
            let was_killed = killed_at(m, call, n);
            let is_old = m.cache_bytes() == start;
            outcomes.insert(is_old);
            let value = || contents(m, &m.host.cache_file()).0;
            assert!(
                is_old || value().as_deref() == Some(OLD_VALUE),
                "{call} {n}"
            );
            adopt(m, &ADOPT).ended(0);
            assert_eq!(value().as_deref(), Some(OLD_VALUE), "{call} {n}");
            assert_eq!(m.slots().len(), 1, "{call} {n}");
            if !was_killed {
                break;
            }
            killed += 1;
        }
    }
    assert!(killed > 5, "{killed} steps");
    assert_eq!(outcomes, BTreeSet::from([false, true]));
    assert!(!files(m).contains(".cache.enc.new"), "{:?}", files(m));
}

#[test]
fn a_crash_at_any_step_leaves_a_cache_that_opens() {
    let m = old_machine("tpm_file");
    crash_everywhere(&m, &version1("tpm_file"));
}

#[test]
fn a_crash_at_any_step_of_the_slots_exchange_leaves_a_cache_that_opens() {
    let m = old_machine("tpm_file");
    carried_over(&m);
    m.host.remove_credential("psi-cache-key");
    crash_everywhere(&m, &m.cache_bytes());
}
