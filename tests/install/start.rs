//! `psi-install units`: what has systemd read what was written, what starts it, and what is told instead.

use crate::fixture::{INFISICAL, READING, Root};

const NATIVE: [&str; 3] = ["units", "--mode", "native"];

#[test]
fn a_running_systemd_reads_its_units_again_and_starts_them_if_asked() {
    let root = Root::booted(INFISICAL);
    root.install(&NATIVE).ended(0).says(&[
        "next     systemctl enable --now psi-secrets.socket psi-secrets.service\n",
        "next     systemctl enable --now psi-infisical-setup.service psi-infisical-refresh.timer\n",
    ]);
    assert_eq!(root.commands(), READING);
    root.install(&[&NATIVE[..], &["--enable"]].concat())
        .ended(0);
    let starting = [
        "systemctl enable --now psi-secrets.socket psi-secrets.service",
        "systemctl enable --now psi-infisical-setup.service psi-infisical-refresh.timer",
    ];
    assert_eq!(root.commands(), starting);
}

#[test]
fn a_cache_that_is_still_to_be_made_is_among_the_next_commands() {
    let config = "providers: {local: {}}\ncache: {backend: tpm}\n";
    let root = Root::booted(config);
    let init = "next     psi-cachectl init --backend tpm --recovery\n";
    root.install(&NATIVE).ended(0).says(&[init]);
    root.install(&["uninstall"]).ended(0);
    root.write("var/lib/psi/cache.enc", "sealed");
    root.install(&NATIVE).ended(0).never_says(init);
}

#[test]
fn a_system_that_does_not_run_is_enabled_for_its_next_boot() {
    let root = Root::new("providers: {local: {}}\n");
    let done = root
        .install(&[&NATIVE[..], &["--enable"]].concat())
        .ended(0);
    done.says(&["not run  systemctl daemon-reload: systemd does not run here"]);
    let expected = [
        "systemctl enable psi-secrets.socket psi-secrets.service",
        "systemctl enable psi-local-setup.service",
    ];
    assert_eq!(root.commands(), expected);
}

/// Nothing is written, and yet systemd has not read it; nor is anything enabled.
#[test]
fn what_a_package_has_put_there_is_read_and_can_be_enabled() {
    let root = Root::booted("providers: {local: {}}\n");
    root.install(&NATIVE).ended(0);
    for (path, (_, text)) in root.tree() {
        let packaged = path.replacen("/usr/local/lib/", "/usr/lib/", 1);
        root.write(&packaged.replacen("/etc/", "/usr/lib/", 1), &text);
    }
    root.install(&["uninstall"]).ended(0);
    root.commands();
    let done = root.install(&NATIVE).ended(0).never_says("wrote");
    done.says(&["next     systemctl enable --now psi-secrets.socket psi-secrets.service"]);
    assert_eq!(root.commands(), READING);
}

#[test]
fn until_it_is_enabled_the_next_commands_are_told() {
    let root = Root::new(INFISICAL);
    let next = "next     systemctl enable --now psi-secrets.socket";
    for _ in 0..2 {
        root.install(&NATIVE).ended(0).says(&[next]);
    }
    let wants = root.path("etc/systemd/system/sockets.target.wants");
    std::fs::create_dir(&wants).unwrap();
    std::os::unix::fs::symlink("/x", wants.join("psi-secrets.socket")).unwrap();
    root.install(&NATIVE).ended(0).never_says("next");
}
