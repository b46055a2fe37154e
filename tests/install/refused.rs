//! What can't be done is said before anything changes.

use std::process::Command;

use crate::fixture::{INFISICAL, Root};

const NATIVE: [&str; 3] = ["units", "--mode", "native"];
const LOCAL_DRIVER: &str = "driver_path: /usr/local/bin/psi-secret\nproviders: {local: {}}\n";
const CONTAINER: [&str; 3] = ["units", "--mode", "container"];

#[track_caller]
fn refused(root: &Root, arguments: &[&str], code: i32, words: &[&str]) {
    let before = root.tree();
    root.install(arguments).ended(code).says(words);
    assert_eq!(root.tree(), before);
    assert_eq!(root.commands(), [""; 0]);
}

#[test]
fn without_a_configuration_nothing_is_installed() {
    let root = Root::new("");
    std::fs::remove_file(root.path("etc/psi/config.yaml")).unwrap();
    refused(
        &root,
        &NATIVE,
        78,
        &["cannot read /etc/psi/config.yaml", "next: write it"],
    );
}

#[test]
fn a_wrong_configuration_is_named_with_its_place() {
    let root = Root::new("workloads: {a: {provider: vault, secrets: []}}\n");
    refused(&root, &NATIVE, 78, &["/etc/psi/config.yaml:1:", "provider"]);
}

#[test]
fn without_the_programs_no_unit_is_installed() {
    let root = Root::new(INFISICAL);
    std::fs::remove_file(root.path("usr/bin/psi-serve")).unwrap();
    refused(
        &root,
        &NATIVE,
        66,
        &[
            "no psi-serve in /usr/bin or /usr/local/bin",
            "`make install`",
        ],
    );
}

#[test]
fn a_driver_that_podman_would_not_find_is_refused() {
    let root = Root::new(INFISICAL);
    std::fs::remove_file(root.path("usr/bin/psi-secret")).unwrap();
    let words = [
        "no /usr/bin/psi-secret",
        "`driver_path: /usr/local/bin/psi-secret`",
    ];
    refused(&root, &NATIVE, 78, &words);
}

#[test]
fn the_driver_is_put_into_no_directory_of_the_distributions() {
    let root = Root::new(INFISICAL);
    let words = [
        "/usr/bin/psi-secret",
        "`driver_path: /usr/local/bin/psi-secret`",
    ];
    refused(&root, &CONTAINER, 78, &words);
}

#[test]
fn an_image_is_an_images_name_and_for_containers() {
    let root = Root::new(INFISICAL);
    for image in ["psi:1\nExec=/bin/sh", "psi %n", "-psi", "", "psi:$X"] {
        let option = format!("--image={image}");
        let arguments = [&CONTAINER[..], &[&option]].concat();
        refused(
            &root,
            &arguments,
            64,
            &["no image's name", "registry.example.com/psi:1"],
        );
    }
    let arguments = [&NATIVE[..], &["--image", "psi:1"]].concat();
    refused(&root, &arguments, 64, &["--mode container"]);
}

/// Its quadlets would start and have nothing.
#[test]
fn a_systemd_without_credentials_for_containers_is_refused() {
    let root = Root::new(LOCAL_DRIVER);
    for version in ["252 (252.39-1~deb12u2)", "253 (253.5)"] {
        root.program("systemctl", &format!("echo 'systemd {version}'"));
        let words = [
            &version[..3],
            "254 or later",
            "`psi-install units --mode native`",
        ];
        refused(&root, &CONTAINER, 1, &words);
    }
    root.program("systemctl", "echo 'systemd 254 (254.1)'");
    root.install(&CONTAINER).ended(0);
}

#[test]
fn a_podman_that_does_not_know_the_quadlets_is_refused() {
    let root = Root::new(LOCAL_DRIVER);
    for version in ["4.3.1", "5.2.5"] {
        root.program("podman", &format!("echo 'podman version {version}'"));
        let words = [
            &version[..3],
            "5.3 or later",
            "`psi-install units --mode native`",
        ];
        refused(&root, &CONTAINER, 1, &words);
    }
    for version in ["5.3.0", "5.10.0-dev", "6.0.0-rc1"] {
        root.program("podman", &format!("echo 'podman version {version}'"));
        root.install(&CONTAINER)
            .ended(0)
            .never_says("`podman --version`");
    }
}

#[test]
fn a_podman_whose_version_is_unknown_is_told() {
    let root = Root::new(LOCAL_DRIVER);
    std::fs::remove_file(root.path("usr/bin/podman")).unwrap();
    let done = root.install(&CONTAINER).ended(0);
    done.says(&["note", "`podman --version`", "5.3 or later"]);
}

#[test]
fn a_volume_is_a_volumes_name() {
    let root = Root::new(
        "driver_path: /usr/local/bin/psi-secret\nproviders: {nitrokeyhsm: {pcscd_volume: 'a:b'}}\n",
    );
    let words = ["pcscd_volume", "letters, digits"];
    refused(&root, &CONTAINER, 78, &words);
}

#[test]
fn an_unknown_mode_is_wrong_usage() {
    let root = Root::new(INFISICAL);
    refused(
        &root,
        &["units", "--mode", "vm"],
        64,
        &["native", "container"],
    );
    refused(&root, &["units"], 64, &["--mode"]);
}

#[test]
fn a_root_that_is_not_there_is_named() {
    let mut command = Command::new(crate::fixture::PSI_INSTALL);
    command.args(NATIVE).args(["--root", "/no/such/root"]);
    let done = psi_test_support::done::Done::run(command, b"").ended(66);
    done.says(&["/no/such/root", "name the directory"]);
}

#[test]
fn a_read_only_root_is_named_with_what_may_help() {
    let root = Root::new(INFISICAL);
    let before = root.tree();
    let inside = root.path("");
    let script = format!(
        "mount --bind {0} {0} && mount -o remount,bind,ro {0} && exec {1} units --mode native --root {0}",
        inside.display(),
        crate::fixture::PSI_INSTALL
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
    let done = psi_test_support::done::Done::run(command, b"").ended(74);
    done.says(&[
        "cannot write /etc/sysusers.d/psi.conf",
        "read-only",
        "--root /host",
    ]);
    assert_eq!(root.tree(), before);
}

#[test]
fn a_command_that_fails_is_named_with_what_it_said() {
    let root = Root::booted(INFISICAL);
    root.program(
        "systemctl",
        "[ \"$1\" != daemon-reload ] || { echo no bus >&2; exit 1; }",
    );
    let done = root.install(&NATIVE).ended(74);
    done.says(&[
        "`systemctl daemon-reload` failed: no bus",
        "podman run --pid host",
        "by hand",
    ]);
}
