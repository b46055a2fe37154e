//! The recovery key as people handle it: typed with mistakes, on a terminal, lost.

use std::fs::File;
use std::io::{Read, Write};
use std::process::Stdio;

use psi_test_support::wait;
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

use psi_test_support::done::Done;

use crate::fixture::{INIT_RECOVERY, Machine, RESEAL, SEALED, VERIFY};

#[test]
fn a_mistyped_key_is_named_by_its_group_and_changes_nothing() {
    for runs in [false, true] {
        let m = Machine::new();
        let key = m.filled(&INIT_RECOVERY).recovery_key();
        let serve = runs.then(|| m.serve());
        let before = m.cache_bytes();
        let other = if key.starts_with('A') { "B" } else { "A" };
        let typo = format!("{other}{}", &key[1..]);
        let short = key.lines().take(2).collect::<Vec<_>>().join("\n");
        for (typed, why) in [
            (typo.as_str(), "group 1 of the recovery key has a typo"),
            (&short, "a recovery key has 72 symbols in 9 groups, not 48"),
            ("", "a recovery key has 72 symbols in 9 groups, not 0"),
            (
                &key[9..],
                "a recovery key has 72 symbols in 9 groups, not 64",
            ),
        ] {
            m.run_with(&RESEAL, typed)
                .ended(64)
                .says(&[why, "type it again as it was printed"])
                .never_says(&key[9..17]);
        }
        assert_eq!(m.cache_bytes(), before);
        let sloppy = key.to_lowercase().replace('-', " ").replace('0', "o");
        m.run_with(&["slots", "test", "--recovery"], &sloppy)
            .ended(0);
        drop(serve);
    }
}

#[test]
fn a_key_of_another_cache_opens_nothing() {
    let (mut m, other) = (Machine::new(), Machine::new());
    m.filled(&INIT_RECOVERY);
    let key = other.run(&INIT_RECOVERY).ended(0).recovery_key();
    m.tpm.restart_with("an update");
    let before = m.cache_bytes();
    let expected = ["slot 2 (recovery)", "is not that of its slot", "slots list"];
    m.run_with(&RESEAL, &key).ended(69).says(&expected);
    m.run_with(&["slots", "test", "--recovery"], &key).ended(69);
    let serve = m.serve();
    m.run_with(&RESEAL, &key).ended(69).says(&expected);
    assert_eq!(m.cache_bytes(), before);
    assert!(!serve.log().contains(&key[..8]), "{}", serve.log());
}

#[test]
fn a_lost_key_is_replaced_and_opens_nothing_more() {
    for runs in [false, true] {
        let m = Machine::new();
        let lost = m.filled(&INIT_RECOVERY).recovery_key();
        let serve = runs.then(|| m.serve());
        let key = m.run(&["slots", "reseal", "2"]).ended(0).recovery_key();
        let test = ["slots", "test", "2", "--recovery"];
        m.run_with(&test, &lost).ended(69).says(&["is another one"]);
        m.run_with(&test, &key).ended(0).says(&["opens"]);
        drop(serve);
    }
}

#[test]
fn one_of_two_recovery_keys_is_enough() {
    let mut m = Machine::new();
    let first = m.filled(&INIT_RECOVERY).recovery_key();
    let second = m.run(&["slots", "add", "recovery"]).ended(0).recovery_key();
    m.tpm.restart_with("an update");
    for key in [&first, &second] {
        m.run_with(&["slots", "test", "2", "--recovery"], key)
            .ended(0);
        m.run_with(&["slots", "test", "3", "--recovery"], key)
            .ended(0);
    }
    m.run_with(&RESEAL, &second)
        .ended(0)
        .says(&["slot 3 (recovery) opened the cache"]);
    m.run(&VERIFY).ended(0);
}

#[test]
fn on_a_terminal_the_key_is_asked_for_and_not_shown() {
    let mut m = Machine::new();
    let key = m.filled(&INIT_RECOVERY).recovery_key();
    m.tpm.restart_with("an update");
    let _serve = m.serve();
    // With psi-serve running nothing but the prompt is between the start and the key.
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap();
    let open = || {
        let path = name.to_str().unwrap();
        File::options().read(true).write(true).open(path).unwrap()
    };
    let mut command = m.command(&RESEAL);
    command.stdin(open()).stderr(open()).stdout(Stdio::piped());
    let child = command.spawn().unwrap();
    drop(command);
    let mut terminal = File::from(terminal);
    let echoes = || {
        let modes = tcgetattr(&terminal).unwrap().local_modes;
        modes.contains(LocalModes::ECHO)
    };
    wait::until("prompt", || !echoes());
    terminal.write_all(key.as_bytes()).unwrap();
    let done = Done::of(child.wait_with_output().unwrap()).ended(0);
    done.says(&["slot 2 (recovery) opened the cache"]);
    assert_eq!(m.value(), SEALED);
    fcntl_setfl(&terminal, OFlags::NONBLOCK).unwrap();
    let mut shown = Vec::new();
    let _ = terminal.read_to_end(&mut shown);
    let shown = String::from_utf8_lossy(&shown).into_owned();
    assert!(shown.contains("Recovery key"), "{shown:?}");
    assert!(!shown.contains(&key[..8]), "{shown:?}");
}
