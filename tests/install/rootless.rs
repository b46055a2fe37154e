//! psi-install as a user with a Podman of their own.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};

use crate::fixture::{INFISICAL, Root, is_question};

const USER: u32 = 1000;
const HOME: &str = "/home/somebody";

/// With a home for the user, who may note commands as well.
fn machine(config: &str) -> Root {
    let root = Root::booted("");
    fs::remove_file(root.path("etc/psi/config.yaml")).unwrap();
    root.write(&format!("{HOME}/.config/psi/config.yaml"), config);
    root.write("commands", "");
    for path in ["", "/.config", "/.config/psi", "/.config/psi/config.yaml"] {
        chown(root.path(&format!("{HOME}{path}")), Some(USER), Some(USER)).unwrap();
    }
    chown(root.path("commands"), Some(USER), Some(USER)).unwrap();
    fs::set_permissions(root.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    root
}

#[test]
fn a_user_gets_units_of_their_own_and_loses_them_again() {
    let root = machine(INFISICAL);
    let system = root.tree();
    root.install_as(USER, HOME, &["units", "--mode", "native", "--enable"])
        .ended(0);
    let units = format!("{HOME}/.config/systemd/user");
    for unit in [
        "psi-secrets.socket",
        "psi-secrets.service",
        "psi-infisical-refresh.timer",
    ] {
        assert!(root.has(&format!("{units}/{unit}")), "{unit}");
    }
    assert_eq!(root.tree(), system);
    let expected = [
        "systemctl --user daemon-reload",
        "systemctl --user enable --now psi-secrets.socket psi-secrets.service",
        "systemctl --user enable --now psi-infisical-setup.service psi-infisical-refresh.timer",
    ];
    let noted = root.read("commands");
    let noted: Vec<&str> = noted.lines().filter(|line| !is_question(line)).collect();
    assert_eq!(noted, expected);

    root.install_as(USER, HOME, &["uninstall"])
        .ended(0)
        .says(&["stays    /home/somebody/.config/psi, /home/somebody/.local/share/psi, "]);
    assert_eq!(fs::read_dir(root.path(&units)).unwrap().count(), 0);
}

/// A copy would win over the unit that the next `make install` brings.
#[test]
fn what_make_install_has_put_there_for_all_users_needs_no_copy() {
    let root = machine(INFISICAL);
    for unit in ["psi-secrets.socket", "psi-secrets.service"] {
        let shipped = format!("{}/units/user/{unit}", env!("CARGO_MANIFEST_DIR"));
        let text = fs::read_to_string(shipped).unwrap();
        root.write(&format!("usr/lib/systemd/user/{unit}"), &text);
    }
    // An older one is no obstacle.
    root.write("usr/lib/systemd/user/psi-secrets.socket", "[Socket]\n");
    root.install_as(USER, HOME, &["units", "--mode", "native"])
        .ended(0);
    let has = |unit: &str| root.has(&format!("{HOME}/.config/systemd/user/{unit}"));
    assert!(!has("psi-secrets.service"));
    assert!(has("psi-secrets.socket"));
    assert!(has("psi-infisical-setup.service"));
}

#[test]
fn a_user_has_no_quadlets_of_psis() {
    let root = machine(INFISICAL);
    let arguments = ["units", "--mode", "container"];
    let done = root.install_as(USER, HOME, &arguments).ended(64);
    done.says(&["rootless Podman", "`psi-install units --mode native`"]);
}
