//! From programs of the host to containers, and back.

use crate::fixture::{READING, Root, STARTING_CONTAINERS};

const LOCAL_DRIVER: &str = "driver_path: /usr/local/bin/psi-secret\nproviders: {local: {}}\n";

const CONTAINER: [&str; 5] = [
    "units",
    "--mode",
    "container",
    "--image",
    "registry.example.com/psi:1",
];

#[test]
fn a_change_of_the_mode_takes_the_other_modes_units_away() {
    let root = Root::booted(LOCAL_DRIVER);
    root.write("usr/local/bin/psi-secret", "");
    root.install(&["units", "--mode", "native"]).ended(0);
    let tree = root.tree();
    let refused = root.install(&CONTAINER).ended(1);
    refused.says(&["the units of --mode native", "`--enable`"]);
    assert_eq!(root.tree(), tree);
    root.commands();

    // An administrator's; it would be kept, and that would be told.
    std::fs::remove_file(root.path("usr/local/bin/psi-secret")).unwrap();
    root.install(&[&CONTAINER[..], &["--enable"]].concat())
        .ended(0);
    assert!(!root.has("/etc/systemd/system/psi-secrets.service"));
    assert!(root.has("/etc/systemd/system/psi-secrets.socket"));
    let stopped = "systemctl disable --now psi-local-setup.service psi-secrets.service";
    let expected = [&[stopped], &READING[..], &STARTING_CONTAINERS].concat();
    assert_eq!(root.commands(), expected);

    root.install(&["units", "--mode", "native", "--enable"])
        .ended(0);
    assert!(!root.has("/etc/containers/systemd/psi-secrets.container"));
    assert!(!root.has("/etc/containers/systemd/psi-secrets.container.d"));
    let stopped = "systemctl stop psi-local-setup.service psi-secrets.service";
    assert_eq!(root.commands()[0], stopped);
}

#[test]
fn a_packages_service_is_stopped_before_a_container_takes_its_place() {
    let root = Root::booted(LOCAL_DRIVER);
    let service = "usr/lib/systemd/system/psi-secrets.service";
    root.write(service, "[Service]\n");
    let wants = root.path("etc/systemd/system/multi-user.target.wants");
    std::fs::create_dir_all(&wants).unwrap();
    let link = wants.join("psi-secrets.service");
    std::os::unix::fs::symlink(format!("/{service}"), link).unwrap();
    root.install(&CONTAINER).ended(1).says(&["`--enable`"]);
    assert_eq!(root.commands(), [""; 0]);
    root.install(&[&CONTAINER[..], &["--enable"]].concat())
        .ended(0);
    let commands = root.commands();
    assert_eq!(commands[0], "systemctl disable --now psi-secrets.service");
    assert!(commands.contains(&"systemctl start psi-secrets.service".to_owned()));
}
