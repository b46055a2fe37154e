//! What is an administrator's stays as it is.

use std::os::unix::fs::symlink;

use crate::fixture::{INFISICAL, Root};

const NATIVE: [&str; 3] = ["units", "--mode", "native"];
const SERVICE: &str = "/etc/systemd/system/psi-secrets.service";
const SOCKET: &str = "/etc/systemd/system/psi-secrets.socket";

#[test]
fn an_edited_file_is_kept_and_everything_else_is_brought_up_to_date() {
    let root = Root::new(INFISICAL);
    root.install(&NATIVE).ended(0);
    let edited = format!("{}# mine\n", root.read(SERVICE));
    root.write(SERVICE, &edited);
    std::fs::remove_file(root.path(SOCKET)).unwrap();
    let done = root.install(&NATIVE).ended(1);
    done.says(&[
        "kept",
        SERVICE,
        "edited since",
        "wrote",
        SOCKET,
        "move away",
    ]);
    assert_eq!(root.read(SERVICE), edited);
    assert!(root.has(SOCKET));
    root.install(&NATIVE).ended(1).says(&["kept", SERVICE]);

    std::fs::rename(root.path(SERVICE), root.path("etc/mine")).unwrap();
    root.install(&NATIVE).ended(0).says(&["wrote", SERVICE]);
}

#[test]
fn a_file_of_somebody_elses_is_kept() {
    let root = Root::new(INFISICAL);
    root.write(SERVICE, "[Service]\nExecStart=/opt/psi serve\n");
    let done = root.install(&NATIVE).ended(1);
    done.says(&["kept", SERVICE, "did not write it"]);
    assert_eq!(root.read(SERVICE), "[Service]\nExecStart=/opt/psi serve\n");
    root.install(&["uninstall"]).ended(0);
    assert!(root.has(SERVICE));
}

#[test]
fn a_masked_unit_stays_masked() {
    let root = Root::new(INFISICAL);
    std::fs::create_dir_all(root.path("etc/systemd/system")).unwrap();
    symlink("/dev/null", root.path(SERVICE)).unwrap();
    root.install(&NATIVE)
        .ended(1)
        .says(&["kept", SERVICE, "a link"]);
    assert!(root.path(SERVICE).is_symlink());
}

#[test]
fn an_administrators_drop_ins_outlive_everything() {
    let root = Root::new(&format!("{INFISICAL}cache: {{backend: tpm}}\n"));
    let theirs = [
        "/etc/systemd/system/psi-secrets.service.d/override.conf",
        "/etc/systemd/system/psi-infisical-refresh.timer.d/50-often.conf",
        "/etc/containers/systemd/psi-secrets.container.d/override.conf",
    ];
    for path in theirs {
        root.write(path, "# mine\n");
    }
    root.install(&NATIVE).ended(0);
    root.install(&["uninstall"]).ended(0);
    for path in theirs {
        assert_eq!(root.read(path), "# mine\n");
    }
    assert!(!root.has("/etc/systemd/system/psi-secrets.service.d/10-tpm.conf"));
}

#[test]
fn the_list_of_its_own_files_is_what_sha256sum_checks() {
    let root = Root::new(INFISICAL);
    root.install(&NATIVE).ended(0);
    let list = root.read("etc/psi/installed");
    let relative = list.replace("  /", "  ");
    root.write("list", &relative);
    let check = || {
        let mut command = std::process::Command::new("sha256sum");
        command
            .args(["--check", "--strict", "list"])
            .current_dir(root.path("/"));
        psi_test_support::done::Done::run(command, b"")
    };
    check().ended(0).says(&["psi-secrets.service: OK"]);
    root.write(SERVICE, "");
    check().ended(1).says(&["psi-secrets.service: FAILED"]);
}

#[test]
fn a_damaged_list_of_its_own_files_changes_nothing() {
    let root = Root::new(INFISICAL);
    root.install(&NATIVE).ended(0);
    root.write("etc/psi/installed", "hello\n");
    let tree = root.tree();
    for command in [&NATIVE[..], &["uninstall"]] {
        let done = root.install(command).ended(65);
        done.says(&[
            "/etc/psi/installed",
            "`mv /etc/psi/installed /etc/psi/installed.old`",
        ]);
    }
    assert_eq!(root.tree(), tree);
    // As it says.
    std::fs::rename(
        root.path("etc/psi/installed"),
        root.path("etc/psi/installed.old"),
    )
    .unwrap();
    root.install(&NATIVE).ended(0);
}
