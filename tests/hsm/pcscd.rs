//! `psi-hsm setup-pcscd`, with programs that only note what they were told: nothing here may ask a
//! registry.

use std::fs;

use psi_test_support::done::Done;
use psi_test_support::podman::write_program;

use crate::fixture::Machine;

/// `podman build` notes its arguments and its input, and ends with `status`.
fn machine(status: u8) -> Machine {
    let m = Machine::new();
    let bin = m.host.path("bin");
    let noted = m.host.path("podman");
    let script = format!(
        "#!/bin/sh\nprintf '%s\\n' \"$@\" >{0}.args\ncat >{0}.stdin\necho building\nexit {status}\n",
        noted.display()
    );
    write_program(&bin.join("podman"), &script);
    m
}

fn noted(m: &Machine, what: &str) -> String {
    fs::read_to_string(m.host.path(&format!("podman.{what}"))).unwrap_or_default()
}

fn quadlet(m: &Machine, name: &str) -> String {
    fs::read_to_string(m.host.systemd_dir().join(name)).unwrap_or_default()
}

fn setup(m: &Machine, more: &[&str]) -> Done {
    m.run(&[&["setup-pcscd"], more].concat())
}

#[test]
fn quadlets_are_written_the_image_is_built_and_units_are_read_again() {
    let m = machine(0);
    let done = setup(&m, &[]).ended(0).says(&[
        "built localhost/psi-pcscd:latest",
        "systemctl start pcscd.service",
    ]);
    assert!(!done.stdout.contains("building"), "{done:?}");
    assert!(quadlet(&m, "pcscd.container").contains("Image=localhost/psi-pcscd:latest"));
    assert!(quadlet(&m, "pcscd.container").contains("Volume=pcscd-socket.volume:/run/pcscd"));
    assert!(quadlet(&m, "pcscd-socket.volume").contains("VolumeName=pcscd-socket"));
    assert_eq!(
        noted(&m, "args"),
        "build\n--tag\nlocalhost/psi-pcscd:latest\n--file\n-\n"
    );
    assert!(noted(&m, "stdin").contains("FROM $BASE"));
    setup(&m, &["--base", "docker.io/library/debian:bookworm-slim"])
        .ended(0)
        .says(&["as it should be"]);
    assert!(noted(&m, "args").contains("--build-arg=BASE=docker.io/library/debian:bookworm-slim"));
}

#[test]
fn the_volume_has_the_name_that_is_configured() {
    let m = machine(0);
    m.configure("    pcscd_volume: token-socket", "");
    setup(&m, &["--no-build"]).ended(0);
    assert!(quadlet(&m, "pcscd.container").contains("Volume=token-socket.volume:/run/pcscd"));
    assert!(quadlet(&m, "token-socket.volume").contains("VolumeName=token-socket"));
    assert!(noted(&m, "args").is_empty());
    for name in ["'../x'", "'a b'", "'%n'", "''"] {
        m.configure(&format!("    pcscd_volume: {name}"), "");
        setup(&m, &["--no-build"]).ended(78).says(&["pcscd_volume"]);
    }
}

#[test]
fn print_shows_all_and_changes_nothing() {
    let m = machine(0);
    setup(&m, &["--print"])
        .ended(0)
        .says(&["==> pcscd.container <==", "[Volume]", "FROM $BASE"]);
    assert!(quadlet(&m, "pcscd.container").is_empty());
    assert!(noted(&m, "args").is_empty());
}

#[test]
fn what_somebody_has_changed_is_not_overwritten() {
    let m = machine(0);
    let file = m.host.systemd_dir().join("pcscd.container");
    fs::write(&file, "[Container]\nImage=mine\n").unwrap();
    setup(&m, &[])
        .ended(1)
        .says(&["differs from what PSI ships", "--print", "drop-in"]);
    assert_eq!(
        fs::read_to_string(file).unwrap(),
        "[Container]\nImage=mine\n"
    );
    assert!(noted(&m, "args").is_empty());
}

#[test]
fn a_build_that_fails_and_a_missing_directory_are_told() {
    let m = machine(125);
    setup(&m, &[])
        .ended(69)
        .says(&["podman build", "125", "--base"]);
    let m = machine(0);
    fs::remove_dir(m.host.systemd_dir()).unwrap();
    setup(&m, &[])
        .ended(74)
        .says(&["pcscd.container", "systemd_dir"]);
    let m = machine(0);
    m.host.set_systemctl(false);
    let unread = setup(&m, &[]).says(&["wrote ", "pcscd.container", "daemon-reload"]);
    assert_ne!(unread.code, Some(0));
    assert!(!unread.stdout.contains("next:"), "{unread:?}");
}

#[test]
fn selinuxs_boolean_is_named_if_it_is_off() {
    let m = machine(0);
    let getsebool = m.host.path("bin").join("getsebool");
    write_program(&getsebool, "#!/bin/sh\necho \"$1 --> off\"\n");
    setup(&m, &[])
        .ended(0)
        .says(&["setsebool -P container_use_devices on"]);
    write_program(&getsebool, "#!/bin/sh\necho \"$1 --> on\"\n");
    setup(&m, &[]).ended(0).never_says("setsebool");
}
