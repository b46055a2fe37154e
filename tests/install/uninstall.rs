//! `psi-install uninstall`.

use std::fs;
use std::path::Path;

use psi_test_support::podman::Podman;

use crate::fixture::{INFISICAL, Root};

#[test]
fn nothing_of_psis_units_is_left_and_secrets_and_state_are() {
    for mode in ["native", "container"] {
        let config =
            format!("driver_path: /usr/local/bin/psi-secret\n{INFISICAL}cache: {{backend: tpm}}\n");
        let root = Root::booted(&config);
        root.write("usr/local/bin/psi-secret", "");
        root.write("var/lib/psi/cache.enc", "sealed");
        root.write("etc/credstore.encrypted/infisical-client-secret", "sealed");
        let drop_in = "/etc/containers/systemd/myapp.container.d/50-secrets.conf";
        root.write(
            drop_in,
            "# Written by psi-setup for workload myapp; changes are overwritten.\n",
        );
        std::fs::remove_file(root.path("usr/local/bin/psi-secret")).unwrap();
        if mode == "native" {
            root.write("usr/local/bin/psi-secret", "");
        }
        let before: Vec<String> = root.tree().into_keys().collect();
        root.install(&["units", "--mode", mode]).ended(0);
        root.commands();

        let shown = root.install(&["uninstall", "--dry-run"]).ended(0);
        shown.says(&["# remove /etc/systemd/system/psi-secrets.socket"]);
        assert_eq!(root.commands(), [""; 0]);
        let done = root.install(&["uninstall"]).ended(0);
        done.says(&["stays", "/var/lib/psi", "Podman's secrets"]);
        let left: Vec<String> = root.tree().into_keys().collect();
        assert_eq!(left, before, "{mode}");
        assert!(root.has("var/lib/psi/cache.enc"));

        let commands = root.commands();
        let last = "systemctl daemon-reload";
        assert_eq!(commands.last().map(String::as_str), Some(last));
        assert!(commands.concat().contains("psi-secrets.socket"));
        assert!(commands.concat().contains("psi-secrets.service"));
        root.install(&["uninstall"]).ended(0).never_says("removed");
    }
}

#[test]
fn a_machine_on_which_nothing_was_installed_stays_as_it_is() {
    let root = Root::booted("");
    let before = root.tree();
    root.install(&["uninstall"]).ended(0).never_says("removed");
    assert_eq!(root.tree(), before);
    assert_eq!(root.commands(), [""; 0]);
}

#[test]
fn a_broken_configuration_is_no_obstacle() {
    let root = Root::new(INFISICAL);
    root.install(&["units", "--mode", "native"]).ended(0);
    root.write("etc/psi/config.yaml", "{");
    root.install(&["uninstall"]).ended(0);
    assert!(!root.has("/etc/systemd/system/psi-secrets.socket"));
}

#[test]
fn an_edited_file_is_kept_and_told() {
    let root = Root::new(INFISICAL);
    root.install(&["units", "--mode", "native"]).ended(0);
    let socket = "/etc/systemd/system/psi-secrets.socket";
    root.write(socket, "[Socket]\n");
    root.install(&["uninstall"])
        .ended(1)
        .says(&["kept", socket, "edited since"]);
    assert_eq!(root.read(socket), "[Socket]\n");
}

#[test]
fn state_is_not_purged_while_podman_can_not_be_asked() {
    let root = Root::new(INFISICAL);
    root.write("var/lib/psi/cache.enc", "sealed");
    root.install(&["units", "--mode", "native"]).ended(0);
    let before = root.tree();
    root.install(&["uninstall", "--purge-state"])
        .ended(69)
        .says(&["podman.sock", "next: "]);
    assert_eq!(root.tree(), before);
    assert!(root.has("var/lib/psi/cache.enc"));
}

#[test]
fn what_a_package_has_put_there_is_stopped_and_stays() {
    let root = Root::booted(INFISICAL);
    let packaged = "/usr/lib/systemd/system/psi-secrets.service";
    root.write(packaged, "[Service]\n");
    root.install(&["uninstall"])
        .ended(0)
        .says(&["stays", packaged]);
    let expected = "systemctl disable --now psi-secrets.service";
    assert_eq!(root.commands(), [expected]);
    assert!(root.has(packaged));
}

/// `psi-` is how the names of others begin, too.
#[test]
fn a_packages_unit_that_is_none_of_psis_is_not_stopped() {
    let root = Root::booted(INFISICAL);
    for unit in ["psi-notify.service", "psi-tls-renew.timer"] {
        root.write(&format!("usr/lib/systemd/system/{unit}"), "[Unit]\n");
    }
    root.install(&["uninstall"])
        .ended(0)
        .never_says("psi-notify");
    assert_eq!(root.commands(), [""; 0]);
}

/// systemctl takes it for an error if there is nothing to stop.
#[test]
fn a_quadlet_that_systemd_has_not_read_yet_is_no_obstacle() {
    let root = Root::booted("driver_path: /usr/local/bin/psi-secret\nproviders: {local: {}}\n");
    root.install(&["units", "--mode", "container"]).ended(0);
    root.program(
        "systemctl",
        "case \"$*\" in
        show*psi-local-setup.service) echo not-found ;;
        show*) echo loaded ;;
        stop*psi-local-setup.service*) echo 'Unit psi-local-setup.service not loaded.' >&2; exit 5 ;;
        esac",
    );
    root.commands();
    root.install(&["uninstall"]).ended(0);
    let commands = root.commands();
    assert!(
        commands.contains(&"systemctl stop psi-secrets.service".to_owned()),
        "{commands:?}"
    );
    assert!(!root.has("/etc/containers/systemd/psi-local-setup.container"));
}

#[test]
fn a_pcscd_that_runs_on_is_named_with_what_removes_it() {
    let hsm = "providers: {nitrokeyhsm: {pcscd_volume: readers}}\n";
    let root = Root::booted(hsm);
    let container = "/etc/containers/systemd/pcscd.container";
    root.install(&["uninstall"]).ended(0).never_says("pcscd");
    let shipped = include_str!("../../quadlets/pcscd.container");
    root.write(container, &shipped.replace("pcscd-socket", "readers"));
    let words = [
        container,
        "`systemctl stop pcscd.service; rm /etc/containers/systemd/pcscd.container /etc/containers/systemd/readers.volume;",
        "podman volume rm readers",
    ];
    root.install(&["uninstall"]).ended(0).says(&words);
    root.write("etc/psi/config.yaml", "{");
    root.install(&["uninstall"]).ended(0).says(&words);
    assert!(root.has(container));
}

#[test]
fn what_stays_is_named_where_it_is() {
    let root = Root::new(
        "state_dir: /srv/psi\nproviders: {local: {}}\ncache: {path: /srv/sealed/cache.enc}\n",
    );
    root.install(&["uninstall"])
        .ended(0)
        .says(&["stays    /etc/psi, /srv/psi, /srv/sealed/cache.enc, "]);
}

/// Podman's secrets of two drivers, of which one is the machine's.
fn register(podman: &Podman, driver: &Path, names: &[&str]) {
    let payload = podman.dir().join("payload");
    fs::write(&payload, "{}").unwrap();
    for name in names {
        let mut create = podman.command();
        create.args(["secret", "create", "--driver", "shell"]);
        for (option, command) in Podman::driver_options(driver) {
            create.arg(format!("--driver-opts={option}={command}"));
        }
        let output = create.arg(name).arg(&payload).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

fn registered(podman: &Podman) -> String {
    let listed = podman.run(&["secret", "ls", "--format", "{{.Name}}"]);
    String::from_utf8(listed.stdout).unwrap()
}

#[test]
fn a_purge_leaves_nothing_but_what_is_somebody_elses() {
    let podman = Podman::start();
    let (ours, theirs) = (podman.file_driver(), podman.file_driver());
    register(&podman, &ours, &["myapp--A", "myapp--B"]);
    register(&podman, &theirs, &["other"]);
    let root = Root::new("");
    // The same socket, within the root directory.
    fs::hard_link(podman.socket(), root.path("run/podman.sock")).unwrap();
    let paths = format!(
        "driver_path: {}\npodman_socket: /run/podman.sock\ncache: {{path: /srv/cache.enc}}\n",
        ours.display()
    );
    root.write("etc/psi/config.yaml", &format!("{paths}{INFISICAL}"));
    root.write("var/lib/psi/mapping", "{}");
    for file in ["cache.enc", "cache.enc.v1", "cache.enc-notes"] {
        root.write(&format!("srv/{file}"), "sealed");
    }
    let quadlets = "/etc/containers/systemd";
    let drop_in = |name: &str| format!("{quadlets}/{name}.container.d/50-secrets.conf");
    root.write(
        &drop_in("myapp"),
        "# Written by psi-setup for workload myapp; changes are overwritten.\n",
    );
    root.write(&drop_in("another"), "[Container]\n");
    let assertion = format!("AssertPathExists={}", drop_in("myapp"));
    root.write(
        &format!("{quadlets}/myapp.container"),
        &format!("[Unit]\n{assertion}\n"),
    );

    let dry_run = root
        .install(&["uninstall", "--purge-state", "--dry-run"])
        .ended(0);
    dry_run.says(&[
        "# remove Podman's secret myapp--A",
        "# remove /var/lib/psi",
        "# remove /srv/cache.enc\n",
        "# note /etc/containers/systemd/myapp.container starts nothing any more until its line `AssertPathExists=/",
    ]);
    assert_eq!(registered(&podman).lines().count(), 3);

    root.install(&["uninstall", "--purge-state"]).ended(0);
    assert_eq!(registered(&podman), "other\n");
    assert!(!root.has(&drop_in("myapp")));
    assert!(!root.has("var/lib/psi"));
    assert!(!root.has("srv/cache.enc") && !root.has("srv/cache.enc.v1"));
    assert!(root.has("srv/cache.enc-notes"));
    assert!(root.has(&drop_in("another")));
}
