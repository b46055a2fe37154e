//! The order at boot, which docs/units.md shows: pcscd, psi-secrets, the setup of what is on this machine,
//! that of Infisical, the workloads.

use std::collections::{BTreeMap, BTreeSet};

use crate::installed::Installed;

/// Each line: a unit, how, the units that it waits for. `Wants`: and that it has started.
const ORDER: &str = "
psi-secrets.service After psi-secrets.socket pcscd.service
psi-local-setup.service After psi-secrets.socket psi-secrets.service podman.socket
psi-local-setup.service Wants psi-secrets.socket podman.socket
psi-nitrokeyhsm-setup.service After psi-secrets.socket psi-secrets.service podman.socket
psi-nitrokeyhsm-setup.service Wants psi-secrets.socket podman.socket
psi-infisical-setup.service After psi-secrets.socket psi-secrets.service podman.socket
psi-infisical-setup.service After psi-local-setup.service psi-nitrokeyhsm-setup.service
psi-infisical-setup.service Wants psi-secrets.socket podman.socket
psi-infisical-refresh.service After psi-infisical-setup.service
psi-infisical-refresh.service Wants psi-secrets.socket podman.socket
";

const OF_SYSTEM: &str = "
psi-secrets.service Requires psi-secrets.socket
psi-infisical-setup.service After network-online.target
psi-infisical-setup.service Wants network-online.target
psi-infisical-refresh.service After network-online.target
";

const OF_WORKLOADS: &str = "
myapp.service After psi-infisical-setup.service
myapp.service Wants psi-infisical-setup.service
myapp-files.service After psi-infisical-setup.service
myapp-files.service Wants psi-infisical-setup.service
";

/// Units by name: the text of each, with its drop-ins.
type Units = BTreeMap<String, String>;

fn units(prepare: &str, directory: &str) -> Units {
    let show = format!(
        "{prepare}\ncd {directory}
        for unit in *.service; do echo \"UNIT $unit\"; cat $unit $unit.d/*.conf 2>/dev/null || true; done"
    );
    let said = Installed::new().run(&show).ended(0).stdout;
    let units = said.split("UNIT ").skip(1);
    let unit = |text: &str| Some((text.split_once('\n')?.0.to_owned(), text.to_owned()));
    units.filter_map(unit).collect()
}

/// All that a unit says under a key.
fn values<'a>(unit: &'a str, key: &str) -> BTreeSet<&'a str> {
    let lines = unit
        .lines()
        .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    lines.flat_map(str::split_whitespace).collect()
}

#[track_caller]
fn assert_order(units: &Units, order: &str) {
    for line in order.lines().filter(|line| !line.is_empty()) {
        let mut words = line.split(' ');
        let (unit, key) = (words.next().unwrap(), words.next().unwrap());
        let said = values(&units[unit], key);
        let wanted: BTreeSet<&str> = words.collect();
        assert!(wanted.is_subset(&said), "{line}: {said:?}");
    }
}

/// Else one unit that fails takes all after it along.
#[track_caller]
fn assert_nothing_else_is_required(units: &Units) {
    for (name, unit) in units {
        let required = values(unit, "Requires");
        let known = match name.as_str() {
            "psi-secrets.service" => BTreeSet::from(["psi-secrets.socket"]),
            "pcscd.service" => BTreeSet::from(["pcscd-socket-volume.service"]),
            _ => BTreeSet::new(),
        };
        assert_eq!(required, known, "{name}");
    }
}

#[test]
fn the_system_s_units_are_in_order() {
    let prepare = "cp -r /usr/share/psi/units/hsm/*.d /usr/lib/systemd/system
        rm /usr/lib/systemd/system/[!p]* -rf";
    let units = units(prepare, "/usr/lib/systemd/system/");
    assert_order(&units, ORDER);
    assert_order(&units, OF_SYSTEM);
}

#[test]
fn a_user_s_units_are_in_order() {
    let units = units("rm -f /usr/lib/systemd/user/[!p]*", "/usr/lib/systemd/user");
    assert_order(&units, &ORDER.replace(" pcscd.service", ""));
}

#[test]
fn the_quadlets_are_in_the_same_order_and_workloads_come_last() {
    let prepare = "cd /usr/share/psi/quadlets
        cp -r *.container *.volume examples/. hsm/. ids/. tpm/. /etc/containers/systemd
        mkdir -p /run/systemd/generator
        /usr/lib/systemd/system-generators/podman-system-generator /run/systemd/generator /tmp /tmp";
    let units = units(prepare, "/run/systemd/generator");
    assert_order(&units, ORDER);
    assert_order(&units, OF_SYSTEM);
    assert_order(&units, OF_WORKLOADS);
    assert_nothing_else_is_required(&units);
}
