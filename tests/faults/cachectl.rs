//! Faults under psi-cachectl while psi-serve is down.

use std::fs;
use std::process::Command;

use psi_test_support::disk::{Fault, SmallDisk};
use psi_test_support::done::Done;

use crate::fixture::{CACHECTL, Machine};

fn command(m: &Machine, arguments: &[&str]) -> Command {
    let mut command = m.host.command(CACHECTL);
    command.arg("--sealed-key").arg(m.host.path("none"));
    command.args(arguments);
    command
}

/// The command, with this fault all its life.
fn struck(m: &Machine, fault: &Fault, arguments: &[&str]) -> Command {
    let mut strace = fault.strace();
    strace
        .arg(CACHECTL)
        .arg("--sealed-key")
        .arg(m.host.path("none"));
    strace.args(arguments);
    strace.env("PSI_CONFIG", m.host.config_file());
    strace.env("CREDENTIALS_DIRECTORY", m.host.credentials_dir());
    strace
}

#[test]
fn what_can_not_be_put_leaves_the_value_before_and_the_next_try_works() {
    let m = Machine::new();
    m.map();
    let run = |arguments: &[&str], value: &[u8]| Done::run(command(&m, arguments), value);
    run(&["put", "A"], b"old").ended(0);
    let cache = m.cache().display().to_string();
    let mut faults = m.replacing("cache.enc");
    faults.push(m.making_durable());
    for fault in faults {
        for arguments in [["put", "A"], ["rm", "A"]] {
            Done::run(struck(&m, &fault, &arguments), b"new")
                .ended(74)
                .says(&[&cache, "next: "]);
        }
        assert!(m.temporary_files().is_empty(), "{fault:?}");
        run(&["put", "A"], b"old").ended(0).says(&["there already"]);
    }
    run(&["put", "A"], b"new").ended(0);
    let _serve = m.serve();
    assert_eq!(m.lookup("a").ok(), b"new");
}

#[test]
fn a_lock_that_can_not_be_made_names_its_path_and_nothing_is_done() {
    let m = Machine::new();
    let lock = m.host.state_dir().join(".lock").display().to_string();
    let fault = Fault::new("openat", "ENOSPC", m.host.state_dir());
    Done::run(struck(&m, &fault, &["put", "A"]), b"v")
        .ended(74)
        .says(&[&lock, "next: "]);
    assert_eq!(fs::read_dir(m.host.state_dir()).unwrap().count(), 0);
    Done::run(command(&m, &["put", "A"]), b"v").ended(0);
}

#[test]
fn an_init_that_fails_makes_nothing_and_the_next_one_works() {
    let m = Machine::new();
    let init = ["init", "--backend", "credential"];
    let mut faults = m.replacing("cache.enc");
    faults.push(m.making_durable());
    for fault in faults {
        Done::run(struck(&m, &fault, &init), b"")
            .ended(74)
            .says(&["cache.enc", "next: "]);
        assert!(!m.cache().exists(), "{fault:?}");
    }
    Done::run(command(&m, &init), b"").ended(0);
}

#[test]
fn a_key_that_can_not_be_sealed_leaves_no_file_and_the_next_init_works() {
    let m = Machine::new();
    m.host.remove_credential("psi-cache-key");
    let folder = m.host.path("credstore");
    let sealed = folder.join("psi-cache-key");
    let init = |mut command: Command| {
        command.arg("--sealed-key").arg(&sealed);
        command.args(["init", "--backend", "credential", "--with-key", "host"]);
        command.env("PSI_CONFIG", m.host.config_file());
        // The host's key, but not that of the machine that runs the test.
        command.env("SYSTEMD_CREDENTIAL_SECRET", m.host.path("host.secret"));
        Done::run(command, b"")
    };
    let path = sealed.display().to_string();
    let failing = |fault: Fault| {
        let mut strace = fault.strace();
        strace.arg(CACHECTL);
        init(strace).ended(74).says(&[&path, "next: "]);
        assert!(!sealed.exists() && !m.cache().exists(), "{fault:?}");
    };
    failing(Fault::new("mkdir", "EROFS", folder.clone()));
    fs::create_dir(&folder).unwrap();
    failing(Fault::new("linkat,link", "ENOSPC", sealed.clone()));
    let disk = SmallDisk::mount(&folder);
    disk.fill();
    init(Command::new(CACHECTL))
        .ended(74)
        .says(&[&path, "No space left", "next: "]);
    disk.free();
    disk.make_read_only();
    init(Command::new(CACHECTL))
        .ended(74)
        .says(&[&path, "Read-only", "next: "]);
    disk.make_writable();
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    init(Command::new(CACHECTL)).ended(0);
    assert!(sealed.exists() && m.cache().exists());
}
