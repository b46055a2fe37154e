//! Quadlet makes a unit of each file, has nothing to say about any, and nothing of ours is missing in it.

use psi_test_support::done::Done;

use crate::installed::Installed;

/// Every quadlet and every set of drop-ins, as psi-install puts them where Podman looks.
const COPY: &str = "cd /usr/share/psi/quadlets
    cp -r $(find . -maxdepth 1 -type f) examples/. ids/. tpm/. hsm/. migrated-key/. /etc/containers/systemd
    cd /
";

const GENERATOR: &str = "/usr/lib/systemd/system-generators/podman-system-generator";

/// What quadlet makes of them, and what it says, less what it reads.
fn dry_run(more: &str) -> Done {
    let script = format!(
        "{COPY}{more}\n{GENERATOR} --dryrun 2>/tmp/said || echo failed >>/tmp/said
        grep -v ': Loading source ' /tmp/said >&2 || true"
    );
    Installed::new().run(&script).ended(0)
}

/// The arguments of `podman run` in a unit.
#[track_caller]
fn arguments(units: &str, unit: &str) -> String {
    let (_, rest) = units
        .split_once(&format!("---{unit}---"))
        .expect("the unit");
    let unit = rest.split("\n---").next().unwrap();
    let line = unit.lines().find(|line| line.starts_with("ExecStart="));
    line.expect("what it starts").to_owned()
}

#[test]
fn quadlet_has_nothing_to_say_and_makes_a_unit_of_each() {
    let done = dry_run("ls /etc/containers/systemd/*.container | wc -l");
    assert_eq!(done.stderr, "");
    let (files, units) = done.stdout.split_once('\n').unwrap();
    assert_eq!(
        files.trim(),
        units.matches("\n[X-Container]").count().to_string()
    );
}

/// The check above would be none if mistakes went unsaid.
#[test]
fn quadlet_speaks_up_about_a_key_that_it_does_not_know() {
    let more = "sed -i 's/^Image=/Colour=red\\n&/' /etc/containers/systemd/myapp.container";
    dry_run(more).says(&["unsupported key 'Colour'"]);
}

#[test]
fn systemd_has_nothing_to_say_about_what_quadlet_made() {
    let script = format!(
        "{COPY}
        cp -r /usr/share/psi/units/migrated-key/psi-cache-key* /etc/systemd/system
        mkdir -p /run/systemd/generator
        {GENERATOR} /run/systemd/generator /tmp /tmp
        systemd-analyze verify --man=no /run/systemd/generator/*.service"
    );
    let done = Installed::new().run(&script).ended(0);
    assert_eq!(done.stdout + &done.stderr, "");
}

#[test]
fn psi_serve_has_no_capability_and_a_root_file_system_that_it_can_t_change() {
    let units = dry_run("").stdout;
    let run = arguments(&units, "psi-secrets.service");
    for wanted in [
        "--name psi-secrets ",
        "--sdnotify=container",
        "--read-only ",
        "--cap-drop all ",
        "--security-opt=no-new-privileges ",
        "--security-opt label=type:container_runtime_t ",
        "--health-cmd \"/usr/bin/psi-serve --check-health\"",
        "-v %d:/run/credentials:ro,idmap=uids=0-999-1;gids=0-999-1 ",
        "--user 999:999 ",
        "--group-add 102 ",
        "-v /run/systemd/journal/socket:/run/systemd/journal/socket ",
    ] {
        assert!(run.contains(wanted), "{wanted}: {run}");
    }
    assert!(!run.contains("--cap-add"), "{run}");
}

/// Without the drop-in of the ids it is nobody, who can read no configuration and no state.
#[test]
fn psi_serve_is_nobody_until_it_is_told_who_it_is() {
    let units = dry_run("rm /etc/containers/systemd/psi-secrets.container.d/10-ids.conf").stdout;
    let run = arguments(&units, "psi-secrets.service");
    assert!(run.contains("--user 65534:65534 "), "{run}");
    assert!(!run.contains("%d"), "{run}");
}

#[test]
fn psi_setup_has_one_capability_and_the_network_only_for_infisical() {
    let units = dry_run("").stdout;
    for (unit, network) in [
        ("psi-infisical-setup.service", "host"),
        ("psi-infisical-refresh.service", "host"),
        ("psi-local-setup.service", "none"),
        ("psi-nitrokeyhsm-setup.service", "none"),
    ] {
        let run = arguments(&units, unit);
        assert_eq!(run.matches("--cap-add").count(), 1, "{run}");
        for wanted in [
            "--read-only ",
            "--cap-drop all --cap-add cap_dac_override ",
            // What it says has levels and fields, as docs/journal.md promises.
            "-v /run/systemd/journal/socket:/run/systemd/journal/socket ",
            "--security-opt=no-new-privileges ",
            &format!("--network {network} "),
        ] {
            assert!(run.contains(wanted), "{wanted}: {run}");
        }
    }
}

/// `Wants=` and `After=` let it start after a setup that failed, too.
#[test]
fn the_example_workload_does_not_start_before_it_has_its_variables() {
    let script = format!(
        "{COPY}
        mkdir -p /run/systemd/generator
        {GENERATOR} /run/systemd/generator /tmp /tmp
        assertion=$(grep ^Assert /run/systemd/generator/myapp.service)
        ! systemd-analyze condition \"$assertion\"
        mkdir /etc/containers/systemd/myapp.container.d
        touch /etc/containers/systemd/myapp.container.d/50-secrets.conf
        systemd-analyze condition \"$assertion\""
    );
    Installed::new().run(&script).ended(0);
}

/// docs/units.md, "Quadlets": the generator runs before a module has made the device.
#[test]
fn a_tpm_that_comes_late_is_given_if_a_drop_in_says_that_it_comes() {
    let page = include_str!("../../docs/units.md");
    let (_, drop_in) = page
        .split_once("psi-secrets.container.d/20-tpm.conf\n")
        .unwrap();
    let drop_in = drop_in.split("```").next().unwrap();
    let write = format!(
        "cat >/etc/containers/systemd/psi-secrets.container.d/20-tpm.conf <<'END'\n{drop_in}END"
    );
    let run = arguments(&dry_run(&write).stdout, "psi-secrets.service");
    assert_eq!(run.matches("--device /dev/tpmrm0 ").count(), 1, "{run}");
}
