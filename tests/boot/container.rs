//! The same from an image: built as the Containerfile says, over a Debian that was imported, and run by
//! the shipped quadlets and the example workloads.

use std::fs;

use crate::machine::Machine;
use crate::story::{self, PASSWORD};

/// What `make image` hands to podman: the programs as they are installed, and the recipe.
const CONTEXT: &str = "/srv/psi-image";

/// Debian, but for what neither the programs nor a shell load. The C library finds the TPM's driver by
/// its name only, and the certificates are asked for by all that speaks TLS; the last libraries are those
/// of the module for PKCS#11 that the tests have.
const IMPORT_DEBIAN: &str = r#"
    base=$(mktemp -d)
    cd "$base"
    mkdir -p dev etc/ssl/certs proc run sys tmp usr/bin usr/lib usr/lib64
    ln -s usr/bin usr/lib usr/lib64 .
    libraries=$(ldd /usr/bin/psi-serve /usr/bin/dash | grep -o '/[^ :]*' | grep lib | sort -u)
    for file in $libraries /usr/lib/*/libtss2-tcti-{device,swtpm}.so.0 /etc/ssl/certs/ca-certificates.crt \
        /usr/lib/*/lib{crypto.so.3,gcc_s.so.1,m.so.6,sqlite3.so.0}; do
        mkdir -p ".$(dirname "$file")"
        cp -L "$file" ".$file"
    done
    cp /usr/bin/dash usr/bin/sh
    tar -c . | podman import --quiet - localhost/debian:13
"#;

/// podman build needs both where a machine is a container itself.
const BUILD: &str = "cd /srv/psi-image && podman build --quiet --isolation=chroot \
    --ulimit nofile=1024:1024 --ulimit nproc=4096:4096 \
    --build-arg BASE=localhost/debian:13 --tag localhost/psi:1 .";

/// As docs/units.md says: the quadlets, the ids of this machine in them, and the TPM.
const INSTALL_QUADLETS: &str = "
    systemd-sysusers
    systemd-tmpfiles --create psi.conf
    cd /usr/share/psi/quadlets
    cp -r psi-secrets.container psi-infisical-*.container ids/. tpm/. /etc/containers/systemd
    cd /etc/containers/systemd/psi-secrets.container.d
    sed -i \"s/999/$(id -u psi)/g\" 10-ids.conf
    sed -i \"s/=102/=$(getent group tss | cut -d: -f3)/\" 10-tpm.conf
    systemctl daemon-reload
    systemctl enable --now --quiet psi-secrets.socket
    systemctl start psi-secrets.service
    podman exec psi-secrets psi-cachectl init --backend tpm
    systemctl start psi-infisical-setup.service
    systemctl start myapp.service myapp-files.service";

pub fn the_image_is_built_over_an_imported_debian(machine: &mut Machine) {
    let recipe = concat!(env!("CARGO_MANIFEST_DIR"), "/Containerfile");
    let recipe = fs::read_to_string(recipe).expect("the Containerfile");
    machine.write(&format!("{CONTEXT}/Containerfile"), &recipe);
    machine.install("/usr");
    machine.run(&format!(
        "mkdir -p {CONTEXT}/target/image/usr/bin && cp /usr/bin/psi-* {CONTEXT}/target/image/usr/bin"
    ));
    machine.run(IMPORT_DEBIAN);
    machine.run(BUILD);
}

/// Neither workload says anything of PSI but which secret is a file, and when it starts.
pub fn the_quadlets_give_the_example_workloads_their_secrets(machine: &mut Machine) {
    story::set_secrets(
        machine,
        &[
            ("/myapp", "DB_PASSWORD", PASSWORD),
            ("/tls", "TLS_KEY", "marked-key"),
        ],
    );
    machine.run("systemctl enable --now --quiet infisical.service");
    let (_, readme) = crate::readme::blocks("Set it up")
        .into_iter()
        .find(|(language, _)| language == "yaml")
        .expect("the configuration");
    let tls = "workloads:\n  myapp-tls: {secrets: [{project: myproject, path: /tls}]}";
    let configuration = story::configuration(machine, &readme).replace("workloads:", tls);
    machine.write("/etc/psi/config.yaml", &configuration);
    machine.write("/root/client-secret", "marked-client-secret");
    machine.run(
        "install -d -m 0700 /etc/credstore.encrypted
        systemd-creds encrypt --with-key=tpm2 --tpm2-pcrs= --name=infisical-client-secret \
            /root/client-secret /etc/credstore.encrypted/infisical-client-secret",
    );
    for name in ["myapp", "myapp-files"] {
        machine.run(&format!(
            "sed 's|^Image=.*|ContainerName={name}\\nRootfs=/srv/myapp\\nNetwork=none\\nExec=sleep infinity\\nStopTimeout=1|' \
                /usr/share/psi/quadlets/examples/{name}.container >/etc/containers/systemd/{name}.container"
        ));
    }
    machine.run(INSTALL_QUADLETS);
    has_its_secrets(machine);
}

fn has_its_secrets(machine: &Machine) {
    assert_eq!(story::variable(machine, "myapp", "DB_PASSWORD"), PASSWORD);
    let file = machine.run("podman exec myapp-files cat /run/secrets/tls.key");
    assert_eq!(file, "marked-key");
}

/// Not root, no capability, and its own health check reaches it.
pub fn psi_serve_has_no_more_power_than_without_a_container(machine: &mut Machine) {
    let payload = machine.run("podman inspect --format {{.State.Pid}} psi-secrets");
    let status = machine.read(&format!("/proc/{}/status", payload.trim()));
    let id = machine.run("id -u psi");
    assert!(
        status.contains(&format!("Uid:\t{}\t", id.trim())),
        "{status}"
    );
    assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    machine.run("podman healthcheck run psi-secrets");
    machine.run("podman exec psi-secrets psi-cachectl status --verify");
    let changed = machine.try_run("podman exec psi-secrets sh -c ': >/usr/bin/psi-serve'");
    assert!(!changed.status.success());
}

pub fn a_reload_is_waited_for_and_keeps_the_process(machine: &mut Machine) {
    let payload = || machine.run("podman inspect --format {{.State.Pid}} psi-secrets");
    let before = payload();
    machine.run("systemctl reload psi-secrets.service && journalctl --sync");
    assert_eq!(payload(), before);
    assert!(
        machine
            .journal()
            .contains("the configuration was read again")
    );
}

/// The container goes and comes back, by hand and by force, and a lookup in between waits.
pub fn a_restart_and_a_kill_lose_no_lookup(machine: &mut Machine) {
    for command in [
        "systemctl restart --no-block psi-secrets.service",
        "systemctl kill --signal=KILL psi-secrets.service",
    ] {
        machine.run(command);
        assert_eq!(story::lookup(machine, "myapp--DB_PASSWORD"), PASSWORD);
    }
}

/// What the timer starts, whatever became of it before.
pub fn a_refresh_brings_another_value_into_memory(machine: &mut Machine) {
    story::set_secrets(
        machine,
        &[
            ("/myapp", "DB_PASSWORD", "marked-rotated"),
            ("/tls", "TLS_KEY", "marked-key"),
        ],
    );
    machine.run(
        "systemctl restart infisical.service && systemctl start psi-infisical-refresh.service",
    );
    assert_eq!(
        story::lookup(machine, "myapp--DB_PASSWORD"),
        "marked-rotated"
    );
    machine.run("systemctl restart myapp.service");
    assert_eq!(
        story::variable(machine, "myapp", "DB_PASSWORD"),
        "marked-rotated"
    );
}

/// In one go, and with the provider away.
pub fn a_reboot_in_an_outage_brings_everything_back(machine: &mut Machine) {
    machine.run("systemctl disable --quiet infisical.service");
    machine.reboot();
    assert_eq!(story::setup_ended(machine), ("active".into(), "75".into()));
    assert_eq!(
        story::variable(machine, "myapp", "DB_PASSWORD"),
        "marked-rotated"
    );
}
