//! A machine that the Python program has set up, and docs/migrating.md followed on it.

use psi_test_support::vectors::version1;

use crate::machine::Machine;
use crate::readme;
use crate::story::{add_workload, set_secrets, setup_ended, variable};

/// The value in the old cache.
pub const OLD_HOST: &str = "db.example.com";

const OLD_PASSWORD: &[u8] = b"\x00not text\xff\n";

/// What the provider has by now.
pub const NEW_HOST: &str = "marked-new-host";
const NEW_PASSWORD: &[u8] = b"marked-new-password";

/// As the Python program's documentation has it, with one secret of its own in clear, and for a
/// software TPM.
const CONFIGURATION: &str = "scope: system
state_dir: /var/lib/psi
systemd_dir: /etc/containers/systemd
providers:
  infisical:
    api_url: http://127.0.0.1:8080
    verify_ssl: true
    token: {ttl: 300}
    auth:
      method: universal-auth
      client_id: 00000000-0000-0000-0000-000000000000
      client_secret: marked-client-secret
    projects:
      myproject: {id: 11111111-1111-1111-1111-111111111111, environment: prod}
workloads:
  myapp:
    provider: infisical
    unit: myapp.container
    secrets:
      - {project: myproject, path: /myapp, recursive: false}
cache:
  enabled: true
  backend: tpm
  tpm: {tcti: 'swtpm:host=127.0.0.1,port=2321'}
  path: /var/lib/psi/cache.enc
  refresh_interval: 1h
  refresh_randomized_delay: 5m
";

/// Its units, each with what it runs here: only their names and lines about keys matter.
const UNITS: [(&str, &str); 4] = [
    (
        "psi-secrets.service",
        "[Service]
ExecStart=sleep infinity
LoadCredentialEncrypted=psi-cache-key:/etc/psi/cache.key
[Install]
WantedBy=multi-user.target
",
    ),
    (
        "psi-infisical-setup.service",
        "[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=true
[Install]
WantedBy=multi-user.target
",
    ),
    (
        "psi-infisical-refresh.service",
        "[Service]
Type=oneshot
ExecStart=true
",
    ),
    (
        "psi-infisical-refresh.timer",
        "[Timer]
OnActiveSec=1h
[Install]
WantedBy=timers.target
",
    ),
];

/// What each secret's commands did. The machine has no curl: socat asks as that did, which means that it
/// keeps its side of the connection open until there is an answer.
const DRIVER: &str = r#"#!/bin/bash
set -euo pipefail
case $1 in
store) cat >"/var/lib/psi/$SECRET_ID" ;;
lookup)
    printf 'GET /lookup/%s HTTP/1.1\r\nHost: psi\r\nConnection: close\r\n\r\n' "$SECRET_ID" |
        socat -T 60 -,ignoreeof UNIX-CONNECT:/run/psi/psi.sock | sed '1,/^\r$/d'
    ;;
delete) rm "/var/lib/psi/$SECRET_ID" ;;
list) ls /var/lib/psi ;;
esac
"#;

/// Its configuration, state, cache, key, units, and two secrets of Podman's; the provider is down.
pub fn the_python_program_was_here(machine: &mut Machine) {
    let root_only = "install -d -m 0700 /etc/psi /var/lib/psi";
    machine.run(root_only);
    machine.write("/etc/psi/config.yaml", CONFIGURATION);
    machine.write("/var/lib/psi/cache.enc", &version1("tpm_file"));
    machine.write("/run/plain", &version1("credential"));
    machine.run(
        "chmod 0600 /etc/psi/config.yaml /var/lib/psi/cache.enc
        systemd-creds encrypt --with-key=tpm2 --tpm2-pcrs=7 --name=psi-cache-key /run/plain /etc/psi/cache.key
        rm /run/plain",
    );
    for (name, text) in UNITS {
        machine.write(&format!("/etc/systemd/system/{name}"), text);
    }
    machine.write_program("/usr/local/bin/old-driver", DRIVER);
    let options = ["store", "lookup", "delete", "list"];
    let options = options.map(|verb| format!("{verb}=/usr/local/bin/old-driver {verb}"));
    let options = options.join(",");
    for key in ["DB_HOST", "DB_PASSWORD"] {
        machine.write(
            "/run/mapping",
            &format!(
                r#"{{"provider": "infisical", "project": "myproject", "path": "/myapp", "key": "{key}"}}"#
            ),
        );
        machine.run(&format!(
            "podman secret create --driver shell --driver-opts '{options}' myapp--{key} /run/mapping"
        ));
    }
    add_workload(machine, "myapp", "");
    machine.write(
        "/etc/containers/systemd/myapp.container.d/50-secrets.conf",
        "[Container]\nSecret=myapp--DB_HOST,type=env,target=DB_HOST\n",
    );
    machine.run(
        "systemctl daemon-reload
        systemctl enable --now --quiet psi-secrets.service psi-infisical-setup.service psi-infisical-refresh.timer",
    );
    let new_password = String::from_utf8_lossy(NEW_PASSWORD);
    let secrets = [
        ("/myapp", "DB_HOST", NEW_HOST),
        ("/myapp", "DB_PASSWORD", &new_password),
    ];
    set_secrets(machine, &secrets);
}

pub fn every_secret_has_its_old_value(machine: &mut Machine) {
    is_served(machine, OLD_HOST.as_bytes(), OLD_PASSWORD);
}

pub fn every_secret_has_its_new_value_and_one_registration(machine: &mut Machine) {
    is_served(machine, NEW_HOST.as_bytes(), NEW_PASSWORD);
}

/// Expects that Podman has the two secrets and no other, and that they are these.
fn is_served(machine: &Machine, host: &[u8], password: &[u8]) {
    let names = machine.run("podman secret ls --noheading --format '{{.Name}}' | sort");
    let names: Vec<&str> = names.split_whitespace().collect();
    assert_eq!(names, ["myapp--DB_HOST", "myapp--DB_PASSWORD"]);
    for (name, value) in names.into_iter().zip([host, password]) {
        let found = machine.run(&format!(
            "SECRET_ID=$(podman secret inspect --format '{{{{.ID}}}}' {name}) psi-secret lookup | od -An -v -tx1"
        ));
        let found: String = found.split_whitespace().collect();
        let value: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(found, value, "{name}");
    }
}

/// The page's commands up to the start of psi-serve; the old secret is answered from the old cache.
pub fn the_page_brings_the_old_values_back_while_the_provider_is_down(machine: &mut Machine) {
    let blocks = steps();
    assert_eq!(blocks.len(), 7, "{blocks:?}");
    for block in &blocks[..5] {
        follow(machine, block);
    }
    let owners = machine.run("find /var/lib/psi ! -user psi -o ! -group psi");
    assert_eq!(owners, "");
    machine.run("systemctl start myapp.service");
    assert_eq!(variable(machine, "myapp", "DB_HOST"), OLD_HOST);
    machine.run("systemctl stop myapp.service");
}

pub fn the_page_registers_everything_anew_and_a_reboot_has_it_all(machine: &mut Machine) {
    machine.run("systemctl enable --now --quiet infisical.service");
    follow(machine, &steps()[5]);
    assert_eq!(setup_ended(machine), ("active".into(), "0".into()));
    let driver =
        machine.run("podman secret inspect --format '{{.Spec.Driver.Options}}' myapp--DB_HOST");
    assert!(
        driver.contains("psi-secret") && !driver.contains("old-driver"),
        "{driver}"
    );
    machine.reboot();
    machine.run("systemctl start myapp.service");
    assert_eq!(variable(machine, "myapp", "DB_HOST"), NEW_HOST);
    let slots = machine.run("psi-cachectl slots test; ls /var/lib/psi");
    assert!(
        slots.contains("tpm2") && !slots.contains("credential"),
        "{slots}"
    );
    assert!(!slots.contains("cache.enc.v1"), "{slots}");
}

/// The last step, and another boot without what it has removed. What it removed is brought back then, for
/// the way back.
pub fn nothing_needs_what_the_page_removes_at_last(machine: &mut Machine) {
    machine.run(
        "mkdir /root/kept
        cp -a --parents /etc/psi.before /var/lib/psi.before /etc/psi/cache.key /root/kept",
    );
    follow(machine, &steps()[6]);
    let units = machine.run("ls -R /etc/systemd/system");
    assert!(!units.contains("psi-cache-key.socket"), "{units}");
    machine.reboot();
    machine.run("psi-cachectl slots test && systemctl start myapp.service");
    assert_eq!(variable(machine, "myapp", "DB_HOST"), NEW_HOST);
    machine.run("cp -a /root/kept/. / && rm -r /root/kept");
}

pub fn the_way_back_leaves_what_the_python_program_had(machine: &mut Machine) {
    for (_, block) in blocks("And back") {
        follow(machine, &block);
    }
    let cache = machine.read_bytes("/var/lib/psi/cache.enc");
    assert_eq!(cache, version1("tpm_file"));
    assert_eq!(machine.read("/etc/psi/config.yaml"), CONFIGURATION);
    let unit = machine.property("psi-secrets.service", "FragmentPath");
    assert_eq!(unit, "/etc/systemd/system/psi-secrets.service");
    assert_eq!(
        machine.property("psi-secrets.service", "ActiveState"),
        "active"
    );
    let mapping =
        machine.run("cat /var/lib/psi/$(podman secret inspect --format {{.ID}} myapp--DB_HOST)");
    assert!(mapping.contains("\"key\":\"DB_HOST\""), "{mapping}");
}

pub fn steps() -> Vec<String> {
    blocks("Step by step")
        .into_iter()
        .map(|(_, block)| block)
        .collect()
}

pub fn blocks(section: &str) -> Vec<(String, String)> {
    readme::blocks_of("docs/migrating.md", section)
}

/// Does what a block says. The machine lacks what PSI is built from: that line is done from here.
pub fn follow(machine: &Machine, block: &str) {
    let steps: Vec<&str> = block
        .lines()
        .filter(|line| *line != "make install")
        .collect();
    if block.lines().any(|line| line == "make install") {
        machine.install("/usr");
    }
    machine.run(&steps.join("\n"));
}
