//! The same where the Python program ran in containers: docs/migrating.md, "In containers".

use psi_test_support::vectors::version1;

use crate::machine::Machine;
use crate::migration::{self, NEW_HOST, OLD_HOST, blocks, follow};
use crate::story::{setup_ended, variable};

/// Its quadlets; what they run does not matter here.
const QUADLETS: [(&str, &str); 2] = [
    (
        "psi-secrets",
        "[Container]
ContainerName=old-psi-secrets
Rootfs=/srv/myapp
Network=none
Exec=sleep infinity
StopTimeout=1
[Install]
WantedBy=multi-user.target
",
    ),
    (
        "psi-infisical-setup",
        "[Container]
Rootfs=/srv/myapp
Network=none
Exec=sleep 0
[Service]
Type=oneshot
RemainAfterExit=yes
[Install]
WantedBy=multi-user.target
",
    ),
];

/// In the place of its native units.
pub fn it_ran_in_containers(machine: &mut Machine) {
    machine.run(
        "systemctl disable --now --quiet psi-secrets.service psi-infisical-setup.service
        rm /etc/systemd/system/psi-secrets.service /etc/systemd/system/psi-infisical-setup.service",
    );
    for (name, text) in QUADLETS {
        machine.write(&format!("/etc/containers/systemd/{name}.container"), text);
    }
    machine.run("systemctl daemon-reload && systemctl start psi-secrets.service psi-infisical-setup.service");
}

/// Beside the old quadlets psi-install does nothing, whatever the page says comes first.
pub fn psi_install_refuses_to_go_on_beside_its_quadlets(machine: &mut Machine) {
    let before = machine.run("ls -R /etc/containers /etc/systemd /etc/psi");
    let [_, install, ..] = &steps()[..] else {
        panic!("the page's steps");
    };
    let install = install.lines().nth(1).expect("psi-install's line");
    let driver = "PSI_DRIVER_PATH=/usr/local/bin/psi-secret";
    let refused = machine.try_run(&install.replace("--rm", &format!("--rm --env {driver}")));
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let after = machine.run("ls -R /etc/containers /etc/systemd /etc/psi");
    assert_eq!(after, before);
}

pub fn the_page_brings_the_old_values_back(machine: &mut Machine) {
    follow(machine, &migration::steps()[0]);
    for step in &steps()[..4] {
        follow(machine, step);
    }
    machine.run("systemctl start myapp.service");
    assert_eq!(variable(machine, "myapp", "DB_HOST"), OLD_HOST);
    machine.run("systemctl stop myapp.service");
}

pub fn the_page_registers_everything_anew(machine: &mut Machine) {
    machine.run("systemctl enable --now --quiet infisical.service");
    follow(machine, &steps()[4]);
    assert_eq!(setup_ended(machine), ("active".into(), "0".into()));
    machine.reboot();
    machine.run("systemctl start myapp.service");
    assert_eq!(variable(machine, "myapp", "DB_HOST"), NEW_HOST);
    let slots = machine.run("podman exec psi-secrets psi-cachectl slots test");
    assert!(
        slots.contains("tpm2") && !slots.contains("credential"),
        "{slots}"
    );
}

/// Copies of what its last step removes make the way back possible still.
pub fn nothing_needs_what_the_page_removes(machine: &mut Machine) {
    machine.run(
        "mkdir /root/kept
        cp -a --parents /etc/psi.before /var/lib/psi.before /etc/psi/cache.key /root/kept",
    );
    follow(machine, &steps()[5]);
    let units = machine.run("ls -R /etc/systemd/system /etc/containers/systemd");
    assert!(
        !units.contains("cache-key") && !units.contains("migrated"),
        "{units}"
    );
    machine.run(
        "systemctl restart psi-secrets.service && podman exec psi-secrets psi-cachectl slots test",
    );
    machine.run("cp -a /root/kept/. / && rm -r /root/kept");
}

pub fn the_way_back_has_the_old_quadlets(machine: &mut Machine) {
    follow(machine, &steps()[6]);
    assert_eq!(
        machine.read_bytes("/var/lib/psi/cache.enc"),
        version1("tpm_file")
    );
    assert!(
        machine
            .read("/etc/containers/systemd/psi-secrets.container")
            .contains("old-psi-secrets")
    );
    machine.run("podman container exists old-psi-secrets && test -x /usr/local/bin/psi-secret");
    let left = machine.run("ls /etc/containers/systemd /etc/systemd/system");
    assert!(
        !left.contains("psi-secrets.socket") && !left.contains("10-ids"),
        "{left}"
    );
}

/// Steps 2 to 7, and the way back.
fn steps() -> Vec<String> {
    let steps: Vec<String> = blocks("In containers")
        .into_iter()
        .map(|(_, block)| block)
        .collect();
    assert_eq!(steps.len(), 7, "{steps:?}");
    steps
}
