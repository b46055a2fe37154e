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
    let preset = "/etc/systemd/system-preset/90-psi.preset";
    root.write(preset, "enable psi-*\n");
    let done = root.install(&NATIVE).ended(1);
    done.says(&["kept", preset, "did not write it"]);
    assert_eq!(root.read(preset), "enable psi-*\n");
    assert!(root.has(SERVICE));
    root.install(&["uninstall"]).ended(0);
    assert!(root.has(preset));
}

/// Drop-ins of ours beside it would have it run in our image, as our user, with our credentials.
#[test]
fn with_a_unit_of_somebody_elses_in_the_place_of_ours_nothing_is_written() {
    let quadlets = "/etc/containers/systemd";
    for (unit, mode) in [
        (SERVICE.to_owned(), "native"),
        (SERVICE.to_owned(), "container"),
        (SOCKET.to_owned(), "container"),
        (format!("{quadlets}/psi-secrets.container"), "container"),
        (format!("{quadlets}/psi-secrets.container"), "native"),
        (
            format!("{quadlets}/psi-infisical-setup.container"),
            "container",
        ),
    ] {
        let root = Root::booted(&format!(
            "driver_path: /usr/local/bin/psi-secret\n{INFISICAL}cache: {{backend: tpm}}\n"
        ));
        if mode == "native" {
            root.write("usr/local/bin/psi-secret", "");
        }
        root.write(&unit, "[Service]\nExecStart=/opt/psi serve\n");
        let before = root.tree();
        for more in [&["--enable"][..], &["--dry-run"], &[]] {
            let arguments = [&["units", "--mode", mode], more].concat();
            root.install(&arguments).ended(1).says(&[
                &unit,
                "did not write",
                "docs/migrating.md",
                "`mv /etc/",
            ]);
        }
        assert_eq!(root.tree(), before, "{unit}");
        assert_eq!(root.commands(), [""; 0], "{unit}");

        // As it says.
        std::fs::rename(root.path(&unit), root.path("etc/before")).unwrap();
        root.install(&["units", "--mode", mode]).ended(0);
    }
}

/// What somebody has copied by hand, as docs/units.md says, is no obstacle.
#[test]
fn a_unit_that_is_ours_word_for_word_is_taken_for_ours() {
    let root = Root::new(INFISICAL);
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/units/psi-secrets.service");
    root.write(SERVICE, &std::fs::read_to_string(shipped).unwrap());
    root.install(&NATIVE).ended(0);
    root.install(&["uninstall"]).ended(0);
    assert!(!root.has(SERVICE));
}

#[test]
fn what_renewed_certificates_is_left_alone_and_told() {
    let root = Root::booted(INFISICAL);
    let note = "note     /etc/systemd/system/psi-tls-renew.timer is left alone";
    root.install(&NATIVE).ended(0).never_says("psi-tls-renew");
    let units = ["psi-tls-renew.service", "psi-tls-renew.timer"];
    for unit in units {
        root.write(&format!("etc/systemd/system/{unit}"), "[Unit]\n");
    }
    root.commands();
    let done = root.install(&NATIVE).ended(0);
    done.says(&[note, "`systemctl disable --now psi-tls-renew.timer`"]);
    root.install(&["uninstall"]).ended(0);
    assert!(!root.commands().concat().contains("psi-tls-renew"));
    for unit in units {
        assert!(root.has(&format!("etc/systemd/system/{unit}")));
    }
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

/// Else the check of the list fails for ever, and the list outlives what it is about.
#[test]
fn a_file_that_somebody_has_removed_is_no_longer_in_the_list() {
    let root = Root::new(&format!("{INFISICAL}cache: {{backend: tpm}}\n"));
    root.install(&["driver-conf"]).ended(0);
    root.install(&NATIVE).ended(0);
    let gone = [
        "/etc/containers/containers.conf.d/psi.conf",
        "/etc/systemd/system/psi-secrets.service.d/10-tpm.conf",
    ];
    for path in gone {
        assert!(root.read("etc/psi/installed").contains(path));
        std::fs::remove_file(root.path(path)).unwrap();
    }
    root.write("etc/psi/config.yaml", INFISICAL);
    root.install(&NATIVE).ended(0);
    for path in gone {
        assert!(!root.read("etc/psi/installed").contains(path), "{path}");
    }
    std::fs::remove_file(root.path(SOCKET)).unwrap();
    root.install(&["uninstall"]).ended(0);
    assert!(!root.has("etc/psi/installed"));
}
