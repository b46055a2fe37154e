//! What `psi-install uninstall` leaves of a machine: docs/deployment.md, "Uninstall".

use crate::machine::Machine;
use crate::story::variable;
use crate::{container, readme};

/// Somebody else's secret.
const THEIRS: &str = "printf theirs | podman secret create theirs -";

/// Prints what is left of PSI, but for what `make install` has put below `/usr`, and for what goes with the
/// next boot.
const PRINT_LEFT: &str = "
    find /etc /var/lib /usr/local -xdev '(' -name psi -o -name 'psi[-.]*' ')'
    {
        getent passwd psi
        getent group psi
        podman ps --all --format {{.Names}} | grep psi-
    } || true";

/// Nothing of PSI's runs or starts any more. What containers need is kept, and the same program
/// brings the rest back.
pub fn uninstalled_it_is_stopped_and_keeps_secrets_and_state(machine: &mut Machine) {
    let before = secrets(machine);
    machine.run(&page()[0]);
    is_stopped_and_keeps(machine, &before);

    machine.run("psi-install units --mode native --enable && systemctl restart backup.service");
    assert_eq!(variable(machine, "backup", "DB_PASSWORD"), "marked-key");
}

pub fn purged_it_has_neither_secrets_nor_state(machine: &mut Machine) {
    machine.run(THEIRS);
    machine.run(&page()[1]);
    is_gone(machine);
    machine.run("systemctl restart myapp.service backup.service");
}

/// The same from the image, psi-secret on the host included.
pub fn the_image_uninstalls_itself_and_keeps_secrets_and_state(machine: &mut Machine) {
    let before = secrets(machine);
    machine.run(&page()[2]);
    is_stopped_and_keeps(machine, &before);
    assert!(!machine.has(container::DRIVER));

    let install = &readme::deployment(container::SECTION)[1];
    machine.run(&format!("{} --enable", install.trim_end()));
    machine.run("systemctl restart myapp.service");
    assert_ne!(variable(machine, "myapp", "DB_PASSWORD"), "");
}

/// Nothing fails at the next boot. What of PSI stands in the quadlet of a workload is its administrator's
/// to take out: a `Secret=`, or that there is no start without psi-setup's drop-in.
pub fn purged_from_the_image_it_has_neither_secrets_nor_state(machine: &mut Machine) {
    machine.run(THEIRS);
    let from_image = format!("{} --purge-state", page()[2].trim_end());
    machine.run(&page()[1].replace("psi-install uninstall --purge-state", &from_image));
    is_gone(machine);
    machine.run(
        "systemctl stop myapp-files.service; rm /etc/containers/systemd/myapp-files.container",
    );
    machine.reboot();
    is_gone(machine);
    assert!(!machine.has("/run/psi"));
    assert_eq!(machine.property("myapp.service", "ActiveState"), "inactive");
    machine.run(
        "sed -i /^AssertPathExists=/d /etc/containers/systemd/myapp.container
        systemctl daemon-reload && systemctl start myapp.service",
    );
}

fn page() -> Vec<String> {
    readme::deployment("Uninstall")
}

/// Their names, and the ids that their drivers know them by.
fn secrets(machine: &Machine) -> String {
    machine.run("podman secret ls --format '{{.ID}} {{.Name}}' | sort")
}

fn is_stopped_and_keeps(machine: &Machine, secrets_before: &str) {
    has_no_units(machine);
    assert_eq!(secrets(machine), secrets_before);
    machine.run("test -e /var/lib/psi/cache.enc && test -e /etc/psi/config.yaml");
}

fn has_no_units(machine: &Machine) {
    let running = "systemctl list-units --no-legend --plain 'psi-*'";
    assert_eq!(machine.run(running), "");
    let files = "find /etc/systemd/system /etc/containers/systemd -name 'psi-*' -o -path '*/psi-*'";
    assert_eq!(machine.run(files), "");
}

fn is_gone(machine: &Machine) {
    has_no_units(machine);
    assert_eq!(machine.run(PRINT_LEFT), "");
    let names = machine.run("podman secret ls --format {{.Name}}");
    assert_eq!(names, "theirs\n");
}
