//! psi-install in a container of its own image, with the host's root mounted: a one-shot `podman run`.

use std::fs;
use std::process::Command;

use psi_test_support::done::Done;
use psi_test_support::podman::Podman;

use crate::fixture::{READING, Root, STARTING_CONTAINERS, UID, beside, copy_libraries};

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
    let programs = podman.rootfs().join("usr/bin");
    fs::create_dir_all(&programs).unwrap();
    for name in ["psi-install", "psi-secret", "psi-hsm"] {
        let program = beside(name);
        copy_libraries(&program, podman.rootfs());
        fs::copy(&program, programs.join(name)).unwrap();
    }
    podman
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
    let ours = fs::read(beside("psi-secret")).unwrap();
    assert!(brought == ours);
    assert_eq!(host.owner("/usr/local/bin/psi-secret").2, 0o755);
    let ids = host.read("/etc/containers/systemd/psi-secrets.container.d/10-ids.conf");
    assert!(ids.contains(&format!("User={UID}:")), "{ids}");
    // The host's own systemctl, which the image has none of.
    assert_eq!(
        host.commands(),
        [&READING[..], &STARTING_CONTAINERS].concat()
    );
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

/// The host has no psi-hsm: what it is told to do is done from the image.
#[test]
fn a_host_of_containers_is_told_how_it_gets_pcscd_and_that_works() {
    let config = "driver_path: /usr/local/bin/psi-secret\nproviders: {nitrokeyhsm: {}}\n";
    let podman = image();
    let host = Root::booted(config);
    let told = run(&podman, &host, &UNITS[..5]).ended(0).stdout;
    let commands: Vec<&str> = told
        .lines()
        .filter_map(|line| line.strip_prefix("next     podman "))
        .collect();
    let [write, build, ..] = commands[..] else {
        panic!("{told}");
    };
    let (print, build) = build.split_once(" | ").unwrap();

    run_on_host(&podman, &host, write)
        .ended(69)
        .says(&["wrote /etc/containers/systemd/pcscd.container", "systemctl"]);
    assert!(host.has("/etc/containers/systemd/pcscd-socket.volume"));
    let printed = run_on_host(&podman, &host, print).ended(0).stdout;
    let (cut, build) = build.split_once(" | ").unwrap();
    assert!(build.starts_with("podman build "), "{build}");
    let mut shell = Command::new("sh");
    shell.args(["-c", cut]);
    let containerfile = Done::run(shell, printed.as_bytes()).ended(0).stdout;
    let ours = include_str!("../../quadlets/pcscd.Containerfile");
    assert_eq!(containerfile.trim_end(), ours.trim_end());

    run(&podman, &host, &UNITS[..5])
        .ended(0)
        .never_says("setup-pcscd");
}

/// Does what the host's Podman was to do, for that root directory and with our image.
fn run_on_host(podman: &Podman, host: &Root, command: &str) -> Done {
    let rootfs = format!("--rootfs {}", podman.rootfs().display());
    let volume = format!("--volume {}/", host.path("").display());
    let command = command
        .replace("--volume /", &volume)
        .replace(UNITS[4], &rootfs);
    let mut run = podman.command();
    run.args(command.replace('\'', "").split(' '));
    Done::run(run, b"")
}
