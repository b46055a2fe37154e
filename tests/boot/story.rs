//! What a machine lives through, step by step: its set-up, outages and reboots.

use psi_test_support::wait;
use std::collections::BTreeMap;

use crate::machine::{Machine, text};
use crate::readme;

/// Part of everything secret; the journal must never have it.
const MARK: &str = "marked";

/// The value of `DB_PASSWORD`.
pub const PASSWORD: &str = "marked-password";

/// What PSI needs itself.
const CLIENT_SECRET: &str = "marked-client-secret";

const PROJECT: &str = "11111111-1111-1111-1111-111111111111";

/// What makes a workload start once psi-setup has had its turn.
pub const AFTER_SETUP: &str = "[Unit]
Wants=psi-infisical-setup.service
After=psi-infisical-setup.service
";

pub fn the_readme_sets_it_up(machine: &mut Machine) {
    set_up(machine, str::to_owned);
}

/// docs/deployment.md for a machine without a TPM: another key for the client secret, and other commands in
/// the place of step 4.
pub fn the_page_sets_it_up_with_a_credential(machine: &mut Machine) {
    let page = readme::blocks_of("docs/deployment.md", "Native, with a TPM");
    let is_meant = |block: &str| block.contains("--backend credential");
    let mut blocks = page.into_iter().map(|(_, block)| block);
    let start = blocks.find(|block| is_meant(block)).expect("the commands");
    set_up(machine, |block| match block {
        "psi-install units --mode native --enable\n" => start.clone(),
        other => other.replace("--with-key=tpm2 --tpm2-pcrs=", "--with-key=host"),
    });
    let tested = machine.run("psi-cachectl slots test");
    assert!(
        tested.contains("credential") && !tested.contains("tpm2"),
        "{tested}"
    );
}

/// The README's steps, each as `change` has it.
fn set_up(machine: &Machine, change: impl Fn(&str) -> String) {
    set_secrets(machine, &[("/myapp", "DB_PASSWORD", PASSWORD)]);
    add_workload(machine, "myapp", "");
    answer(machine, CLIENT_SECRET);
    for (language, block) in readme::blocks("Set it up") {
        match language.as_str() {
            "yaml" => machine.write("/etc/psi/config.yaml", &configuration(machine, &block)),
            _ => follow(machine, &change(&block)),
        }
    }
    assert_eq!(setup_ended(machine), ("active".into(), "0".into()));
    assert_eq!(variable(machine, "myapp", "DB_PASSWORD"), PASSWORD);
}

/// Whoever asks for something secret is given that.
pub fn answer(machine: &Machine, secret: &str) {
    machine.write_program(
        "/usr/local/bin/systemd-ask-password",
        &format!("#!/bin/sh\nprintf %s {secret}\n"),
    );
}

/// The README's step 3.
pub fn seal_the_client_secret(machine: &Machine) {
    answer(machine, CLIENT_SECRET);
    let mut blocks = readme::blocks("Set it up").into_iter();
    let step = blocks.find(|(_, block)| block.contains("systemd-ask-password"));
    machine.run(&step.expect("the step").1);
}

/// By hand there are no credentials from systemd: the sealed ones are opened.
pub fn what_the_readme_says_to_run_by_hand_runs(machine: &mut Machine) {
    for (_, block) in readme::blocks("When something is wrong") {
        machine.run(&block);
    }
    machine.run("psi-cachectl refresh");
}

/// Does what a block says. The machine lacks what PSI is built from: that line is done from here.
fn follow(machine: &Machine, block: &str) {
    match block.strip_prefix("make install\n") {
        Some(rest) => {
            machine.install("/usr");
            machine.run("systemctl enable --now --quiet infisical.service");
            machine.run(rest);
        }
        None => drop(machine.run(block)),
    }
}

/// The README's, for a server on this machine, and for its TPM where that is no device.
pub fn configuration(machine: &Machine, readme: &str) -> String {
    let server = "https://infisical.example.com";
    assert!(readme.contains(server));
    let here = readme.replace(server, "http://127.0.0.1:8080");
    if machine.has("/dev/tpmrm0") {
        return here;
    }
    here + "  tpm: {tcti: 'swtpm:host=127.0.0.1,port=2321'}\n"
}

/// As docs/configuration.md has it for another `systemd_dir`.
pub fn the_setup_unit_writes_elsewhere_once_a_drop_in_says_so(machine: &mut Machine) {
    let configuration = machine.read("/etc/psi/config.yaml");
    let elsewhere = format!("systemd_dir: /srv/quadlets\n{configuration}");
    machine.rewrite("/etc/psi/config.yaml", &elsewhere);
    machine
        .run("systemctl cat psi-infisical-setup.service psi-secrets.service; mkdir /srv/quadlets");
    let refused = machine.try_run("systemctl restart psi-infisical-setup.service");
    assert!(!refused.status.success());
    assert!(machine.journal().contains("`ReadWritePaths=`"));
    let drop_in = "/etc/systemd/system/psi-infisical-setup.service.d/paths.conf";
    machine.write(drop_in, "[Service]\nReadWritePaths=/srv/quadlets\n");
    machine.run("systemctl daemon-reload && systemctl restart psi-infisical-setup.service");
    machine.run("test -e /srv/quadlets/myapp.container.d/50-secrets.conf");

    machine.rewrite("/etc/psi/config.yaml", &configuration);
    machine.run(&format!(
        "rm -r /srv/quadlets {drop_in} && systemctl daemon-reload"
    ));
    machine.run("systemctl restart psi-infisical-setup.service");
}

/// The directory and all in it is psi-serve's, though root's tools work there too.
pub fn psi_serve_runs_as_its_own_user_and_owns_its_files(machine: &mut Machine) {
    let pid = machine.property("psi-secrets.service", "MainPID");
    assert_eq!(
        machine.run(&format!("stat --format %U /proc/{pid}")),
        "psi\n"
    );
    machine.run("psi-cachectl status --verify");
    assert!(!machine.journal().contains("could not be locked"));
    let files = machine.run("stat --format '%U:%G %a' /var/lib/psi /run/psi/psi.sock");
    assert_eq!(files, "psi:psi 700\npsi:psi 600\n");
    let others = "find /var/lib/psi ! -user psi -o ! -group psi -o -type f ! -perm 600";
    assert_eq!(machine.run(others), "");
}

/// The unit's own list of devices lets it, and its limit on locked memory is the unit's.
pub fn the_tpm_is_opened_as_a_device_that_only_psi_serve_is_let_to(machine: &mut Machine) {
    let tested = machine.run("psi-cachectl slots test");
    assert!(tested.contains("tpm2"), "{tested}");
    let device = machine.run("stat --format '%U:%G %a' /dev/tpmrm0");
    assert_eq!(device, "tss:tss 660\n");
    let pid = machine.property("psi-secrets.service", "MainPID");
    let limits = machine.run(&format!("grep 'Max locked memory' /proc/{pid}/limits"));
    assert!(limits.contains("268435456"), "{limits}");
}

pub fn a_reboot_keeps_the_secrets(machine: &mut Machine) {
    machine.reboot();
    assert_eq!(setup_ended(machine), ("active".into(), "0".into()));
    assert_eq!(variable(machine, "myapp", "DB_PASSWORD"), PASSWORD);
}

pub fn a_reboot_in_an_outage_starts_the_workload_from_the_cache(machine: &mut Machine) {
    machine.run("systemctl disable --quiet infisical.service");
    machine.reboot();
    assert_eq!(setup_ended(machine), ("active".into(), "75".into()));
    assert_eq!(variable(machine, "myapp", "DB_PASSWORD"), PASSWORD);
}

/// The socket outlives the service, and whoever asks starts it again.
pub fn a_stopped_service_leaves_a_socket_that_works(machine: &mut Machine) {
    machine.run("systemctl stop psi-secrets.service");
    assert_eq!(state(machine, "psi-secrets.service"), "inactive");
    assert_eq!(state(machine, "psi-secrets.socket"), "active");
    assert_eq!(lookup(machine, "myapp--DB_PASSWORD"), PASSWORD);
    assert_eq!(state(machine, "psi-secrets.service"), "active");
}

/// The process stays the same one; a mistake leaves the configuration before in force.
pub fn a_reload_keeps_serving_even_if_the_new_configuration_is_wrong(machine: &mut Machine) {
    let pid = machine.property("psi-secrets.service", "MainPID");
    let configuration = machine.read("/etc/psi/config.yaml");
    machine.rewrite(
        "/etc/psi/config.yaml",
        &configuration.replace("providers:", "allowed_uids: [1234]\nproviders:"),
    );
    machine.run("systemctl reload psi-secrets.service");
    machine.rewrite(
        "/etc/psi/config.yaml",
        &configuration.replace("providers:", "providders:"),
    );
    machine.run("systemctl reload psi-secrets.service");
    let said = "the configuration stays as it was: /etc/psi/config.yaml:";
    assert!(machine.journal().contains(said));
    assert_eq!(lookup(machine, "myapp--DB_PASSWORD"), PASSWORD);
    machine.rewrite("/etc/psi/config.yaml", &configuration);
    machine.run("systemctl reload psi-secrets.service");
    assert_eq!(machine.property("psi-secrets.service", "MainPID"), pid);
}

/// As docs/configuration.md has it: a token, and another one while there are lookups.
pub fn a_new_socket_token_fails_no_lookup(machine: &mut Machine) {
    let blocks = readme::blocks_of("docs/configuration.md", "The socket token");
    let [(_, set), (_, replace)] = blocks.as_slice() else {
        panic!("{blocks:?}");
    };
    machine.run(set);
    let before = machine.read("/etc/psi/socket-token");
    let answers = machine.run(&format!(
        "export SECRET_ID=$(podman secret inspect --format {{{{.ID}}}} myapp--DB_PASSWORD)
        (until test -e /run/replaced; do psi-secret lookup || echo failed; echo; done
        psi-secret lookup || echo failed) >/run/answers &
        {replace}
        touch /run/replaced
        wait
        cat /run/answers"
    ));
    let wrong: Vec<&str> = answers.lines().filter(|line| *line != PASSWORD).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    let now = machine.read("/etc/psi/socket-token");
    assert!(now.ends_with(&before) && now.lines().count() == 2);
    machine.run("rm /etc/psi/socket-token /etc/credstore.encrypted/psi-socket-token /run/replaced");
    machine.run("systemctl restart psi-secrets.service");
}

/// As docs/journal.md has it.
pub fn the_journal_says_what_to_do_about_a_failed_lookup(machine: &mut Machine) {
    let id = "f".repeat(25);
    let failed = machine.try_run(&format!("SECRET_ID={id} psi-secret lookup"));
    assert!(!failed.status.success());
    let said = machine.run("journalctl --sync && journalctl -x -u psi-secrets");
    for part in [
        &format!("psi-serve has no file /var/lib/psi/ID for the id {id}:"),
        "What to do: `systemctl restart 'psi-*-setup.service'` registers what is missing.",
    ] {
        assert!(said.contains(part), "{said}");
    }
    let searched = machine.run("journalctl -o cat PSI_EVENT=SECRET_UNKNOWN");
    assert_eq!(searched.lines().count(), 1, "{searched}");
    for (_, block) in readme::blocks_of("docs/journal.md", "Searching") {
        machine.run(&block);
    }
}

/// The socket does not give up on a service that dies again and again, and no lookup fails. Only
/// the growing delay between restarts is left out here.
pub fn a_hundred_kills_stop_neither_the_socket_nor_a_lookup(machine: &mut Machine) {
    machine.write(
        "/run/systemd/system/psi-secrets.service.d/no-delay.conf",
        "[Service]\nRestartSteps=0\nRestartMaxDelaySec=infinity\n",
    );
    machine.run("systemctl daemon-reload");
    let answers = machine.run(
        "export SECRET_ID=$(podman secret inspect --format {{.ID}} myapp--DB_PASSWORD)
        for i in $(seq 100); do
            systemctl kill --signal=KILL psi-secrets.service
            psi-secret lookup
            echo
        done",
    );
    assert_eq!(answers, format!("{PASSWORD}\n").repeat(100));
    assert_eq!(state(machine, "psi-secrets.socket"), "active");
    assert_eq!(machine.property("psi-secrets.service", "NRestarts"), "100");
    machine.run(
        "rm -r /run/systemd/system/psi-secrets.service.d
        systemctl daemon-reload
        systemctl restart psi-secrets.service",
    );
}

/// The PCR that the TPM's slot is bound to is another one after the reboot. No credential is bound to
/// any, so every unit starts, and another slot opens the cache while the provider is down.
pub fn a_firmware_update_leaves_the_other_slot_and_the_tpm_is_sealed_to_again(
    machine: &mut Machine,
) {
    machine.run("psi-cachectl slots add credential");
    machine.write("/etc/firmware", "version 2\n");
    machine.reboot();
    assert_eq!(state(machine, "psi-secrets.service"), "active");
    assert_eq!(setup_ended(machine), ("active".into(), "75".into()));
    assert_eq!(variable(machine, "myapp", "DB_PASSWORD"), PASSWORD);
    let tested = machine.try_run("psi-cachectl slots test");
    assert_eq!(tested.status.code(), Some(69));
    assert!(text(&tested.stdout).contains("PCR 7"), "{tested:?}");

    machine.run("psi-cachectl slots reseal && systemctl restart psi-secrets.service");
    machine.run("psi-cachectl slots test");
    assert_eq!(lookup(machine, "myapp--DB_PASSWORD"), PASSWORD);
}

/// The setup unit fails for want of another workload's secrets. Who starts after it waits for that
/// one attempt; it is tried again until the provider is back.
pub fn what_an_outage_keeps_back_comes_by_itself_and_holds_up_nobody_else(machine: &mut Machine) {
    add_workload(machine, "myapp", AFTER_SETUP);
    add_workload(machine, "late", AFTER_SETUP);
    let configuration = machine.read("/etc/psi/config.yaml");
    let late = "workloads:\n  late: {secrets: [{project: myproject, path: /late}]}";
    machine.rewrite(
        "/etc/psi/config.yaml",
        &configuration.replace("workloads:", late),
    );
    machine.run("systemctl daemon-reload");
    machine.run(
        "systemctl stop myapp.service
        systemctl restart --no-block psi-infisical-setup.service
        systemctl start myapp.service",
    );
    assert_eq!(setup_ended(machine), ("activating".into(), "69".into()));
    assert_eq!(variable(machine, "myapp", "DB_PASSWORD"), PASSWORD);

    set_secrets(
        machine,
        &[
            ("/myapp", "DB_PASSWORD", PASSWORD),
            ("/late", "TOKEN", "marked-token"),
        ],
    );
    machine.run("systemctl enable --now --quiet infisical.service");
    wait::until("another attempt", || {
        setup_ended(machine) == ("active".into(), "0".into())
    });
    machine.run("systemctl start late.service");
    assert_eq!(variable(machine, "late", "TOKEN"), "marked-token");
}

/// Nothing secret is in the journal of all boots.
pub fn the_journal_has_no_secret(machine: &mut Machine) {
    let journal = machine.journal();
    assert!(journal.contains("psi-serve") && journal.contains("myapp--DB_"));
    let lines: Vec<&str> = journal.lines().filter(|line| line.contains(MARK)).collect();
    assert!(lines.is_empty(), "{lines:#?}");
}

fn state(machine: &Machine, unit: &str) -> String {
    machine.property(unit, "ActiveState")
}

/// What Podman's driver answers for a secret.
pub fn lookup(machine: &Machine, name: &str) -> String {
    machine.run(&format!(
        "SECRET_ID=$(podman secret inspect --format {{{{.ID}}}} {name}) psi-secret lookup"
    ))
}

/// The state of the setup unit and the exit status of its last run.
pub fn setup_ended(machine: &Machine) -> (String, String) {
    let property = |name| machine.property("psi-infisical-setup.service", name);
    (property("ActiveState"), property("ExecMainStatus"))
}

pub fn add_workload(machine: &Machine, name: &str, more: &str) {
    let unit = format!(
        "{more}[Container]
ContainerName={name}
Rootfs=/srv/myapp
Network=none
Exec=sleep infinity
[Service]
TimeoutStopSec=1
[Install]
WantedBy=multi-user.target
"
    );
    machine.write(&format!("/etc/containers/systemd/{name}.container"), &unit);
}

/// As somebody would in Infisical: folders, keys and their values.
pub fn set_secrets(machine: &Machine, secrets: &[(&str, &str, &str)]) {
    let mut folders: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (path, key, value) in secrets {
        let secret = format!(r#""{key}": "{value}""#);
        folders.entry(path).or_default().push(secret);
    }
    let folder = |(path, keys): (_, Vec<String>)| {
        format!(r#""{path}": {{"secrets": {{{}}}}}"#, keys.join(", "))
    };
    let folders: Vec<String> = folders.into_iter().map(folder).collect();
    let folders = folders.join(", ");
    machine.write(
        "/etc/infisical.json",
        &format!(
            r#"{{
  "projects": {{"{PROJECT}": {{"prod": {{{folders}}}}}}},
  "identities": [{{
    "client_id": "00000000-0000-0000-0000-000000000000",
    "client_secret": "{CLIENT_SECRET}",
    "may_read": [{{"project": "{PROJECT}"}}]
  }}]
}}"#
        ),
    );
}

/// A variable that a workload was started with. Asking for it looks nothing up.
///
/// # Panics
/// If it has none of that name.
pub fn variable(machine: &Machine, workload: &str, name: &str) -> String {
    let pid = machine.run(&format!(
        "podman inspect --format {{{{.State.Pid}}}} {workload}"
    ));
    let environment = || machine.run(&format!("cat /proc/{}/environ", pid.trim()));
    let value = |v: &str| v.strip_prefix(name)?.strip_prefix('=').map(str::to_owned);
    let mut found = None;
    // Podman has started it before the runtime has become the workload.
    wait::until(name, || {
        found = environment().split('\0').find_map(value);
        found.is_some()
    });
    found.unwrap_or_default()
}
