//! What `psi-install uninstall` leaves of a machine.

use crate::machine::Machine;
use crate::story::variable;

/// Nothing of PSI's runs or starts any more. What containers need is kept, and the same program
/// brings the rest back.
pub fn uninstalled_it_is_stopped_and_keeps_secrets_and_state(machine: &mut Machine) {
    let secrets = || machine.run("podman secret ls --format '{{.ID}} {{.Name}}' | sort");
    let before = secrets();
    machine.run("psi-install uninstall");
    let running = "systemctl list-units --no-legend --plain 'psi-*'";
    assert_eq!(machine.run(running), "");
    let files = "find /etc/systemd/system -name 'psi-*' -o -path '*/psi-*'";
    assert_eq!(machine.run(files), "");
    assert_eq!(secrets(), before);
    machine.run("test -e /var/lib/psi/cache.enc && test -e /etc/psi/config.yaml");

    machine.run("psi-install units --mode native --enable && systemctl restart backup.service");
    assert_eq!(variable(machine, "backup", "DB_PASSWORD"), "marked-key");
}
