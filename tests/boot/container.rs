//! The same from an image: built as the Containerfile says, over a Debian that was imported, and run by
//! the shipped quadlets and the example workloads.

use std::fs;

use crate::machine::Machine;
use crate::story::{self, PASSWORD};
use crate::trouble::{fails, says};
use crate::{in_use, lookups, readme};

/// The part of docs/deployment.md.
pub const SECTION: &str = "In containers, with a TPM";

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

/// The shipped examples, each with the name of its workload.
const EXAMPLES: [(&str, &str); 2] = [
    (
        "myapp",
        include_str!("../../quadlets/examples/myapp.container"),
    ),
    (
        "myapp-files",
        include_str!("../../quadlets/examples/myapp-files.container"),
    ),
];

/// What they run here, in the place of an image.
const WORKLOAD: &str = "Rootfs=/srv/myapp\nNetwork=none\nExec=sleep infinity\nStopTimeout=1\n";

/// podman build needs the limits where a machine is a container itself.
const BUILD: &str = "cd /srv/psi-image && podman build --quiet --isolation=chroot \
    --ulimit nofile=1024:1024 --ulimit nproc=4096:4096 --build-arg BASE=localhost/debian:13";

/// An image whose psi-secret was linked on a later release than there is.
const BUILD_NEWER: &str = r"
    mkdir /srv/newer
    image=$(podman image mount localhost/psi:2)
    sed 's/GLIBC_2\.34/GLIBC_2.99/g' $image/usr/bin/psi-secret >/srv/newer/psi-secret
    chmod 0755 /srv/newer/psi-secret
    podman image unmount localhost/psi:2
    printf 'FROM localhost/psi:2\nCOPY psi-secret /usr/bin/\n' |
        podman build --quiet --isolation=chroot --tag localhost/psi:3 --file - /srv/newer";

/// A host of containers has no programs of PSI's; the image has.
const REMOVE_PROGRAMS: &str = "rm -r /usr/bin/psi-* /usr/share/psi /usr/lib/systemd/*/psi-* \
    /usr/lib/systemd/*-preset/90-psi.preset /usr/lib/sysusers.d/psi.conf /usr/lib/tmpfiles.d/psi.conf";

/// What Podman runs on the host, by `driver_path`.
pub const DRIVER: &str = "/usr/local/bin/psi-secret";

/// A mistake of an administrator's.
const WRONG_USAGE: (&str, &str) = (
    "/etc/containers/systemd/psi-secrets.container.d/wrong.conf",
    "[Container]\nExec=/usr/bin/psi-serve --no-such-option\n[Service]\nRestart=no\n",
);

/// What containers have said, each with its unit and some of the journal's fields.
const SAID: [(&str, &str, &str); 3] = [
    (
        "psi-secrets",
        "_TRANSPORT=journal PRIORITY=6 SYSLOG_IDENTIFIER=psi-serve",
        "the configuration was read again",
    ),
    (
        "psi-infisical-setup",
        "_TRANSPORT=journal PRIORITY=4 PSI_EVENT=WORKLOAD_DOUBTFUL",
        "workload myapp-tls: there is no myapp-tls.container beside \
            /etc/containers/systemd/myapp-tls.container.d/50-secrets.conf: it has no effect yet",
    ),
    (
        "psi-secrets",
        "_TRANSPORT=stdout",
        "error: unexpected argument '--no-such-option' found",
    ),
];

pub fn the_image_is_built_over_an_imported_debian(machine: &mut Machine) {
    let recipe = concat!(env!("CARGO_MANIFEST_DIR"), "/Containerfile");
    let recipe = fs::read_to_string(recipe).expect("the Containerfile");
    machine.write(&format!("{CONTEXT}/Containerfile"), &recipe);
    machine.install("/usr");
    machine.run(&format!(
        "mkdir -p {CONTEXT}/target/image/usr/bin && cp /usr/bin/psi-* {CONTEXT}/target/image/usr/bin"
    ));
    machine.run(IMPORT_DEBIAN);
    machine.run(&format!("{BUILD} --tag localhost/psi:1 ."));
    machine.run(REMOVE_PROGRAMS);
}

/// docs/deployment.md's commands, but for the first: the image is there. Neither workload says anything
/// of PSI but which secret is a file, and when it starts.
pub fn the_page_gives_the_example_workloads_their_secrets(machine: &mut Machine) {
    story::set_secrets(
        machine,
        &[
            ("/myapp", "DB_PASSWORD", PASSWORD),
            ("/tls", "TLS_KEY", "marked-key"),
        ],
    );
    machine.run("systemctl enable --now --quiet infisical.service");
    for (name, example) in EXAMPLES {
        let workload = format!("ContainerName={name}\n{WORKLOAD}");
        let example = example.replace("Image=registry.example.com/myapp:1\n", &workload);
        machine.write(
            &format!("/etc/containers/systemd/{name}.container"),
            &example,
        );
    }
    let tls = "workloads:\n  myapp-tls: {secrets: [{project: myproject, path: /tls}]}";
    let configuration = story::configuration(machine, &readme::configuration());
    let configuration = line_of_the_page() + &configuration.replace("workloads:", tls);
    machine.write("/etc/psi/config.yaml", &configuration);

    let commands = readme::deployment(SECTION);
    machine.run(&commands[1]);
    story::seal_the_client_secret(machine);
    machine.run(&commands[2]);
    machine.run("systemctl start myapp.service myapp-files.service");
    has_its_secrets(machine);
    brought_the_driver_of(machine, "localhost/psi:1");
}

/// What the page's configuration has, besides the README's.
fn line_of_the_page() -> String {
    let blocks = readme::blocks_of("docs/deployment.md", SECTION);
    let mut lines = blocks
        .into_iter()
        .filter(|(language, _)| language == "yaml");
    lines.next().expect("the line").1
}

/// It is the image's, byte for byte, and it runs outside of the image too.
fn brought_the_driver_of(machine: &Machine, image: &str) {
    let its_own = format!("podman run --rm --network none {image} psi-secret --version");
    assert_eq!(
        machine.run(&format!("{DRIVER} --version")),
        machine.run(&its_own)
    );
    machine.run(&format!(
        "image=$(podman image mount {image})
        cmp $image/usr/bin/psi-secret {DRIVER}
        podman image unmount {image}"
    ));
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

/// By the journal's own socket, which keeps fields and levels; what comes before there is a log, as wrong
/// usage, by stderr. It is the unit's, and as it was said.
pub fn what_it_says_is_in_the_hosts_journal_once(machine: &mut Machine) {
    machine.write(WRONG_USAGE.0, WRONG_USAGE.1);
    machine.run("systemctl daemon-reload");
    fails(machine, "systemctl restart psi-secrets.service");
    machine.run(&format!("rm {} && systemctl daemon-reload", WRONG_USAGE.0));
    machine.run("systemctl restart psi-secrets.service && journalctl --sync");
    for (unit, fields, message) in SAID {
        let times = |matches: &str| {
            let said = machine.run(&format!("journalctl --output=cat {matches}"));
            said.lines().filter(|line| *line == message).count()
        };
        let by_unit = format!("_SYSTEMD_UNIT={unit}.service {fields}");
        assert_eq!((times(&by_unit), times("")), (1, 1), "{message}");
    }
}

/// The other image has other programs, as an upgrade has, and comes and goes by docs/deployment.md's
/// commands. The container goes and comes back by hand and by force, too.
pub fn restarts_kills_and_other_images_fail_none_of_a_thousand_lookups(machine: &mut Machine) {
    machine.run(&format!(
        "cd {CONTEXT}/target/image/usr/bin
        for program in *; do echo 2 >>$program; done
        {BUILD} --tag localhost/psi:2 ."
    ));
    let upgrade = readme::deployment("Upgrade").swap_remove(1);
    machine.run("systemctl stop infisical.service");
    lookups::begin(machine);
    for image in ["psi:2", "psi:1", "psi:2"] {
        machine.run(in_use::RESTART_AND_KILL);
        machine.run(&upgrade.replace("psi:2", image));
        runs_from(machine, &format!("localhost/{image}"));
    }
    lookups::none_failed(machine, 1000);
    machine.run("systemctl start infisical.service");
}

fn runs_from(machine: &Machine, image: &str) {
    let running = machine.run("podman inspect --format {{.ImageName}} psi-secrets");
    assert_eq!(running.trim(), image);
    brought_the_driver_of(machine, image);
}

/// Its psi-secret wants another C library than the host has, and what is there goes on.
pub fn an_image_of_a_newer_release_is_refused_and_changes_nothing(machine: &mut Machine) {
    machine.run(BUILD_NEWER);
    let upgrade = readme::deployment("Upgrade").swap_remove(1);
    let install = upgrade.lines().next().expect("the first command");
    let refused = fails(machine, &install.replace("psi:2", "psi:3"));
    says(
        &refused,
        &[
            "the image's psi-secret does not run on this host",
            "version `GLIBC_2.99' not found",
            "build the image over the release that the host is of",
        ],
    );
    machine.run("systemctl restart psi-secrets.service");
    runs_from(machine, "localhost/psi:2");
    assert_eq!(story::lookup(machine, "myapp--DB_PASSWORD"), PASSWORD);
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
    let said = machine.run("journalctl --boot -q -o cat PSI_EVENT=WORKLOAD_SERVED_FROM_CACHE");
    assert!(said.contains("myapp"), "{said}");
    assert_eq!(
        story::variable(machine, "myapp", "DB_PASSWORD"),
        "marked-rotated"
    );
}
