//! A machine that is in use while PSI is restarted, killed and upgraded, and while values change.

use psi_test_support::wait;

use crate::machine::Machine;
use crate::{lookups, readme, story};

/// The secret that everything here is about.
const SECRET: &str = "myapp--DB_PASSWORD";

/// A workload is unhealthy at the first check that fails. Each check is a process in its container,
/// for which Podman looks the secrets up.
const HEALTH_CHECK: &str = "[Container]
HealthCmd=test $$DB_PASSWORD
HealthInterval=1s
HealthRetries=1
";

/// The kill waits for the start after it: a TPM without a kernel before it keeps what a process that
/// is killed has put there, and is full after three.
pub const RESTART_AND_KILL: &str = "
    systemctl restart psi-secrets.service
    systemctl kill --signal=KILL psi-secrets.service
    systemctl start psi-secrets.service";

/// Two workloads, one of them with a value that is in the cache alone; and the timer.
pub fn all_of_it_is_enabled(machine: &mut Machine) {
    for name in ["myapp", "backup"] {
        story::add_workload(machine, name, story::AFTER_SETUP);
    }
    let drop_in = "/etc/containers/systemd/myapp.container.d/60-health.conf";
    machine.write(drop_in, HEALTH_CHECK);
    let configuration = machine
        .read("/etc/psi/config.yaml")
        .replace("providers:\n", "providers:\n  local: {}\n")
        .replace(
            "workloads:\n",
            "workloads:\n  backup: {provider: local, secrets: [{key: KEY, as: DB_PASSWORD}]}\n",
        );
    machine.rewrite("/etc/psi/config.yaml", &configuration);
    machine.write("/root/key", "marked-key");
    machine.run(
        "systemctl daemon-reload
        systemctl restart psi-secrets.service
        psi-cachectl put KEY </root/key
        systemctl enable --now --quiet psi-local-setup.service psi-infisical-refresh.timer
        systemctl restart myapp.service backup.service",
    );
    assert_eq!(
        story::variable(machine, "backup", "DB_PASSWORD"),
        "marked-key"
    );
}

/// The upgrade is docs/deployment.md's. The provider is down all the while: every value is from memory,
/// which is filled from the cache at each start.
pub fn restarts_kills_and_upgrades_fail_none_of_a_thousand_lookups(machine: &mut Machine) {
    machine.run("systemctl stop infisical.service");
    let upgrade = &readme::deployment("Upgrade")[0];
    let after_make = upgrade.strip_prefix("make install\n").expect("its start");
    lookups::begin(machine);
    for _ in 0..5 {
        machine.run(RESTART_AND_KILL);
        machine.install("/usr");
        machine.run(after_make);
    }
    lookups::none_failed(machine, 1000);

    let pid = machine.property("psi-secrets.service", "MainPID");
    let runs = machine.run(&format!("readlink /proc/{pid}/exe"));
    assert_eq!(runs, "/usr/bin/psi-serve\n", "not what the upgrade brought");
    machine.run("systemctl start infisical.service");
}

/// A check fails if its lookup does. Each refresh brings another value.
pub fn twenty_refreshes_change_neither_a_workloads_health_nor_a_secrets_id(machine: &mut Machine) {
    check_without_a_limit(machine);
    let ids = || machine.run("podman secret ls --format '{{.ID}} {{.Name}}' | sort");
    let before = ids();
    let since = machine.run("date +%s");
    for number in 1..=20 {
        rotate(machine, &format!("marked-{number}"));
        machine.run("systemctl start psi-infisical-refresh.service");
    }
    assert_eq!(ids(), before);
    assert_eq!(story::lookup(machine, SECRET), "marked-20");
    let checks = machine.run(&format!(
        "podman events --stream=false --since {} --filter event=health_status \
            --filter container=myapp --format '{{{{.HealthStatus}}}}'",
        since.trim()
    ));
    assert!(checks.lines().count() > 2, "{checks}");
    assert!(checks.lines().all(|check| check == "healthy"), "{checks}");
}

/// systemd starts no service more than 5 times in 10 s unless it is told to. Podman's own for the check
/// of a container begins with the container's id.
fn check_without_a_limit(machine: &Machine) {
    let id = machine.run("podman inspect --format {{.Id}} myapp");
    let drop_in = format!("/run/systemd/system/{}-.service.d/limit.conf", id.trim());
    machine.write(&drop_in, "[Unit]\nStartLimitIntervalSec=0\n");
    machine.run("systemctl daemon-reload");
}

/// Its interval is the configuration's, by psi-install alone.
pub fn the_timer_brings_one_rotated_value_after_the_other_into_memory(machine: &mut Machine) {
    let configuration = machine.read("/etc/psi/config.yaml");
    let often = "cache:\n  refresh_interval: 2s\n  refresh_randomized_delay: 0s\n";
    let often = configuration.replace("cache:\n", often);
    machine.rewrite("/etc/psi/config.yaml", &often);
    machine.run("psi-install units --mode native");
    let pid = machine.property("psi-secrets.service", "MainPID");
    for value in ["marked-spring", "marked-summer", "marked-autumn"] {
        rotate(machine, value);
        wait::until(value, || story::lookup(machine, SECRET) == value);
    }
    assert_eq!(machine.property("psi-secrets.service", "MainPID"), pid);
    machine.rewrite("/etc/psi/config.yaml", &configuration);
    machine.run("psi-install units --mode native");
}

/// Infisical has another value from now on, however often it had to be started for that.
fn rotate(machine: &Machine, value: &str) {
    story::set_secrets(machine, &[("/myapp", "DB_PASSWORD", value)]);
    machine.run("systemctl reset-failed infisical.service; systemctl restart infisical.service");
}
