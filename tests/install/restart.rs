//! What runs goes on as it was started: a change of its files needs a restart.

use crate::fixture::{INFISICAL, Root};

const ACTIVE: &str = "case \"$*\" in show*ActiveState*) echo active ;; esac";

/// Installs that image; `--enable` may follow.
fn install(root: &Root, image: &str, more: &[&str]) -> psi_test_support::done::Done {
    let arguments = ["units", "--mode", "container", "--image", image];
    root.install(&[&arguments, more].concat()).ended(0)
}

fn machine() -> Root {
    let root = Root::booted(&format!(
        "driver_path: /usr/local/bin/psi-secret\n{INFISICAL}"
    ));
    install(&root, "localhost/psi:1", &[]).never_says("restart");
    root.commands();
    root
}

#[test]
fn another_image_is_in_force_after_a_restart_which_is_said_or_done() {
    let root = machine();
    root.program("systemctl", ACTIVE);
    let next = "next     systemctl restart psi-secrets.service\n";
    install(&root, "localhost/psi:2", &["--dry-run"])
        .says(&["# next systemctl restart psi-secrets.service\n"]);
    install(&root, "localhost/psi:2", &[]).says(&[next]);
    assert!(!root.commands().concat().contains("restart"));
    // It has been said, and nothing is new.
    install(&root, "localhost/psi:2", &[]).never_says("restart");

    install(&root, "localhost/psi:3", &["--enable"])
        .says(&["ran      systemctl restart psi-secrets.service\n"]);
    let restart = "systemctl restart psi-secrets.service".to_owned();
    let commands = root.commands();
    let place = |command: &str| commands.iter().position(|ran| ran == command);
    assert!(
        place("systemctl daemon-reload") < place(&restart),
        "{commands:?}"
    );
    assert!(
        place(&restart) < place("systemctl start psi-infisical-setup.service"),
        "{commands:?}"
    );
}

#[test]
fn what_does_not_run_is_not_restarted() {
    let root = machine();
    install(&root, "localhost/psi:2", &["--enable"]).never_says("restart");
    assert!(!root.commands().concat().contains("restart"));
}

#[test]
fn another_interval_is_the_timers_after_a_restart_of_it_alone() {
    let root = Root::booted(INFISICAL);
    root.install(&["units", "--mode", "native"]).ended(0);
    root.program("systemctl", ACTIVE);
    let config = format!("{INFISICAL}cache: {{refresh_interval: 15min}}\n");
    root.write("etc/psi/config.yaml", &config);
    root.install(&["units", "--mode", "native"])
        .ended(0)
        .says(&["next     systemctl restart psi-infisical-refresh.timer\n"]);
}
