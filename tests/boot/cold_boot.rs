//! How a machine with all of PSI enabled comes up: in one go, and hardly later in an outage.

use std::time::Duration;

use crate::machine::Machine;
use crate::story::{self, setup_ended};

/// What has to be active after a boot, in the order in which it starts.
const IN_ORDER: [&str; 5] = [
    "psi-secrets.socket",
    "psi-secrets.service",
    "psi-local-setup.service",
    "psi-infisical-setup.service",
    "myapp.service",
];

/// How much later than usual a workload may be while the provider is down.
const DELAY: Duration = Duration::from_secs(15);

/// No unit fails, which `reboot` sees to, none is tried twice, and each waits for the one before.
pub fn a_cold_boot_reaches_the_workloads_in_one_go(machine: &mut Machine) {
    machine.reboot();
    for unit in IN_ORDER.iter().chain(&["backup.service"]) {
        assert_eq!(machine.property(unit, "ActiveState"), "active", "{unit}");
        if unit.ends_with(".service") {
            assert_eq!(machine.property(unit, "NRestarts"), "0", "{unit}");
        }
    }
    assert_eq!(setup_ended(machine), ("active".into(), "0".into()));
    let timer = machine.property("psi-infisical-refresh.timer", "ActiveState");
    assert_eq!(timer, "active");

    let chain = machine.run("systemd-analyze critical-chain --no-pager myapp.service");
    println!("{chain}");
    let places = IN_ORDER.map(|unit| {
        chain
            .find(unit)
            .unwrap_or_else(|| panic!("{unit}: {chain}"))
    });
    assert!(
        places.is_sorted_by(|earlier, later| earlier > later),
        "{chain}"
    );
}

/// The worst of outages: the provider takes the connection, and never says a word. Compared with the
/// boot before, on the same machine.
pub fn an_outage_makes_the_workloads_15_s_later_at_most(machine: &mut Machine) {
    let usual = ["myapp", "backup"].map(|name| time_of_start(machine, name));
    let drop_in = "/etc/systemd/system/infisical.service.d/silent.conf";
    machine.write(
        drop_in,
        "[Service]
ExecStart=
ExecStart=socat -u TCP-LISTEN:8080,bind=127.0.0.1,fork,reuseaddr OPEN:/dev/null
",
    );
    machine.reboot();
    assert_eq!(setup_ended(machine), ("active".into(), "75".into()));
    for (name, usual) in ["myapp", "backup"].into_iter().zip(usual) {
        assert_ne!(story::variable(machine, name, "DB_PASSWORD"), "");
        let now = time_of_start(machine, name);
        assert!(now < usual + DELAY, "{name}: {now:?} instead of {usual:?}");
        let restarts = machine.property(&format!("{name}.service"), "NRestarts");
        assert_eq!(restarts, "0", "{name}");
    }
    machine.run(&format!("rm {drop_in}; systemctl daemon-reload"));
    machine.run("systemctl restart infisical.service psi-infisical-setup.service");
}

/// From when systemd began until a workload was up.
fn time_of_start(machine: &Machine, workload: &str) -> Duration {
    let stamp = |unit: &str, name| {
        let microseconds = machine.property(unit, name);
        Duration::from_micros(microseconds.parse().unwrap())
    };
    let workload = format!("{workload}.service");
    stamp(&workload, "ActiveEnterTimestampMonotonic") - stamp("", "UserspaceTimestampMonotonic")
}
