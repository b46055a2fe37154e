//! psi-install in a container of its own image, with the host's root mounted: a one-shot `podman run`.

use std::fs;
use std::path::Path;
use std::process::Command;

use psi_test_support::done::Done;
use psi_test_support::podman::Podman;

use crate::fixture::{PSI_INSTALL, Root, UID};

const CONFIG: &str = "driver_path: /usr/local/bin/psi-secret\nproviders: {local: {}}\n";
const UNITS: [&str; 6] = [
    "units",
    "--mode",
    "container",
    "--image",
    "registry.example.com/psi:1",
    "--enable",
];

/// An image: what is needed to run the programs, and no systemd.
fn image() -> Podman {
    let podman = Podman::start();
    let install = Path::new(PSI_INSTALL);
    for program in [install, &install.with_file_name("psi-secret")] {
        let ldd = Command::new("ldd").arg(program).output().unwrap();
        let listed = String::from_utf8(ldd.stdout).unwrap();
        let libraries = listed
            .split_whitespace()
            .filter(|word| word.starts_with('/'));
        for library in libraries {
            copy(Path::new(library), podman.rootfs(), &library[1..]);
        }
        let name = program.file_name().unwrap().to_str().unwrap();
        copy(program, podman.rootfs(), &format!("usr/bin/{name}"));
    }
    podman
}

fn copy(from: &Path, rootfs: &Path, to: &str) {
    let to = rootfs.join(to);
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::copy(from, to).unwrap();
}

fn run(podman: &Podman, host: &Root, arguments: &[&str]) -> Done {
    let mut command = podman.command();
    command.args(["run", "--rm", "--volume"]);
    command.arg(format!("{}:/host", host.path("").display()));
    command.arg("--rootfs").arg(podman.rootfs());
    command.arg("/usr/bin/psi-install").args(arguments);
    command.args(["--root", "/host"]);
    Done::run(command, b"")
}

#[test]
fn a_container_installs_itself_on_its_host() {
    let podman = image();
    let host = Root::booted(CONFIG);
    run(&podman, &host, &UNITS).ended(0);

    let brought = fs::read(host.path("/usr/local/bin/psi-secret")).unwrap();
    let ours = fs::read(Path::new(PSI_INSTALL).with_file_name("psi-secret")).unwrap();
    assert!(brought == ours);
    assert_eq!(host.owner("/usr/local/bin/psi-secret").2, 0o755);
    let ids = host.read("/etc/containers/systemd/psi-secrets.container.d/10-ids.conf");
    assert!(ids.contains(&format!("User={UID}:")), "{ids}");
    // The host's own systemctl, which the image has none of.
    let expected = [
        "systemd-tmpfiles --create psi.conf",
        "journalctl --update-catalog",
        "systemctl daemon-reload",
        "systemctl enable --now psi-secrets.socket",
        "systemctl start psi-secrets.service",
        "systemctl start psi-local-setup.service",
    ];
    assert_eq!(host.commands(), expected);
    run(&podman, &host, &UNITS[..5])
        .ended(0)
        .never_says("wrote");
}

#[test]
fn where_the_hosts_systemd_is_out_of_reach_the_commands_are_told() {
    let podman = image();
    let host = Root::new(CONFIG);
    let done = run(&podman, &host, &UNITS).ended(0);
    done.says(&[
        "not run  systemctl daemon-reload: systemd does not run here",
        "not run  systemctl start psi-secrets.service: systemd does not run here",
    ]);
}
