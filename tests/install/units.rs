//! `psi-install units`: which files a machine gets.

use std::collections::BTreeSet;

use crate::fixture::{GID, INFISICAL, Root, TSS, UID, shown};

const LOCAL: &str = "providers: {local: {}}\n";
const HSM: &str = "providers: {nitrokeyhsm: {}}\n";
const ALL: &str = "providers:
  local: {}
  nitrokeyhsm: {}
  infisical:
    auth: {method: universal-auth, client_id: 00000000-0000-0000-0000-000000000000}
    projects: {p: {id: 11111111-1111-1111-1111-111111111111}}
";

const LOCAL_DRIVER: &str = "driver_path: /usr/local/bin/psi-secret\nproviders: {local: {}}\n";

const NATIVE: [&str; 4] = ["units", "--mode", "native", "--dry-run"];
const CONTAINER: [&str; 6] = [
    "units",
    "--mode",
    "container",
    "--image",
    "registry.example.com/psi:1",
    "--dry-run",
];

/// Everything that only one part of a machine has.
const PARTS: [(&str, &str); 7] = [
    ("infisical", "psi-infisical-setup."),
    ("infisical", "psi-infisical-refresh.timer"),
    ("nitrokeyhsm", "psi-nitrokeyhsm-setup."),
    ("local", "psi-local-setup."),
    ("tpm", "10-tpm.conf"),
    ("hsm", "10-hsm.conf"),
    ("hsm or container", "50-psi.rules"),
];

fn configurations() -> Vec<String> {
    let mut all = Vec::new();
    for providers in [LOCAL, HSM, INFISICAL, ALL] {
        for cache in ["", "cache: {backend: tpm}\n", "cache: {backend: hsm}\n"] {
            all.push(format!(
                "driver_path: /usr/local/bin/psi-secret\n{providers}{cache}"
            ));
        }
    }
    all
}

/// A machine for that mode: in a container's, psi-install brings psi-secret.
fn machine(config: &str, arguments: &[&str]) -> Root {
    let root = Root::new(config);
    if arguments[2] == "native" {
        root.write("usr/local/bin/psi-secret", "");
    }
    root
}

#[test]
fn what_a_dry_run_shows_is_what_is_written_and_a_second_run_writes_nothing() {
    for config in configurations() {
        for arguments in [&NATIVE[..], &CONTAINER[..]] {
            let root = machine(&config, arguments);
            let before = root.tree();
            let dry_run = root.install(arguments).ended(0);
            assert_eq!(root.tree(), before, "{config}");
            assert_eq!(root.commands(), [""; 0]);

            let arguments = &arguments[..arguments.len() - 1];
            let done = root.install(arguments).ended(0);
            let mut written = root.tree();
            let mut shown = shown(&dry_run);
            written.remove("/etc/psi/installed").unwrap();
            // The program is the same in both, and is no text.
            for path in ["/usr/local/bin/psi-secret", "/etc/psi/config.yaml"] {
                written.remove(path).unwrap();
                shown.remove(path);
            }
            written.retain(|path, file| before.get(path) != Some(file));
            assert_eq!(written, shown, "{config}{done:?}");

            root.commands();
            let tree = root.tree();
            root.install(arguments).ended(0).never_says("wrote");
            assert_eq!(root.tree(), tree);
            assert_eq!(root.commands(), [""; 0]);
        }
    }
}

#[test]
fn a_machine_gets_what_its_providers_and_its_backend_need() {
    for config in configurations() {
        for arguments in [&NATIVE[..], &CONTAINER[..]] {
            let is_native = arguments == NATIVE;
            let files = shown(&machine(&config, arguments).install(arguments).ended(0));
            for (needs, name) in PARTS {
                let expected = match needs {
                    "tpm" => config.contains("backend: tpm"),
                    "hsm" => config.contains("backend: hsm") || config.contains("nitrokeyhsm"),
                    "hsm or container" => {
                        is_native
                            && (config.contains("backend: hsm") || config.contains("nitrokeyhsm"))
                    }
                    provider => config.contains(&format!("{provider}:")),
                };
                let found = files.keys().any(|path| path.contains(name));
                assert_eq!(found, expected, "{name} for {config}: {:?}", files.keys());
            }
            let has = |path: &str| files.contains_key(path);
            assert!(has("/etc/systemd/system/psi-secrets.socket"));
            assert_eq!(has("/etc/systemd/system/psi-secrets.service"), is_native);
            assert_eq!(
                has("/etc/containers/systemd/psi-secrets.container"),
                !is_native
            );
        }
    }
}

#[test]
fn a_container_gets_the_image_and_the_hosts_own_numbers() {
    let root = machine(
        &format!("{LOCAL_DRIVER}cache: {{backend: tpm}}\n"),
        &CONTAINER,
    );
    let files = shown(&root.install(&CONTAINER).ended(0));
    let quadlets = "/etc/containers/systemd";
    let text = |name: &str| &files[&format!("{quadlets}/{name}")].1;
    for quadlet in ["psi-secrets.container", "psi-local-setup.container"] {
        let image = text(&format!("{quadlet}.d/10-image.conf"));
        assert!(image.ends_with("[Container]\nImage=registry.example.com/psi:1\n"));
    }
    let ids = text("psi-secrets.container.d/10-ids.conf");
    assert!(ids.contains(&format!("\nUser={UID}:{GID}\n")), "{ids}");
    assert!(
        ids.contains(&format!("uids=0-{UID}-1;gids=0-{GID}-1")),
        "{ids}"
    );
    assert!(!ids.contains("999"), "{ids}");
    let tpm = text("psi-secrets.container.d/10-tpm.conf");
    assert!(tpm.contains(&format!("\nGroupAdd={TSS}\n")), "{tpm}");
    assert!(!tpm.contains("102"), "{tpm}");
}

/// It is the one that `psi-hsm setup-pcscd` makes.
#[test]
fn a_container_gets_the_volume_that_pcscd_is_in() {
    let hsm = |volume| format!("providers: {{nitrokeyhsm: {{{volume}}}}}\n");
    for (config, volume) in [
        (hsm(""), "pcscd-socket"),
        (hsm("pcscd_volume: readers"), "readers"),
    ] {
        let config = format!("driver_path: /usr/local/bin/psi-secret\n{config}");
        let root = machine(&config, &CONTAINER);
        let files = shown(&root.install(&CONTAINER).ended(0));
        let drop_in = "/etc/containers/systemd/psi-secrets.container.d/10-hsm.conf";
        let text = &files[drop_in].1;
        let line = format!("\nVolume={volume}:/run/pcscd\n");
        assert!(text.contains(&line), "{text}");
    }
}

#[test]
fn an_image_stays_until_another_one_is_named() {
    let root = machine(LOCAL_DRIVER, &CONTAINER);
    let file = "/etc/containers/systemd/psi-secrets.container.d/10-image.conf";
    let with_image = &CONTAINER[..5];
    root.install(with_image).ended(0);
    root.install(&with_image[..3]).ended(0);
    assert!(
        root.read(file)
            .contains("Image=registry.example.com/psi:1\n")
    );
    root.install(&["units", "--mode", "container", "--image", "localhost/psi:2"])
        .ended(0);
    assert!(root.read(file).contains("Image=localhost/psi:2\n"));
}

#[test]
fn the_refresh_interval_is_the_configurations() {
    let drop_in = "/etc/systemd/system/psi-infisical-refresh.timer.d/10-interval.conf";
    let root = Root::new(INFISICAL);
    root.install(&["units", "--mode", "native"]).ended(0);
    assert!(!root.has(drop_in), "the timer's own is the default's");
    let other = "cache: {refresh_interval: 15min, refresh_randomized_delay: 30s}\n";
    root.write("etc/psi/config.yaml", &format!("{INFISICAL}{other}"));
    root.install(&["units", "--mode", "native"]).ended(0);
    let text = root.read(drop_in);
    let expected =
        "[Timer]\nOnActiveSec=\nOnActiveSec=15min\nOnUnitActiveSec=15min\nRandomizedDelaySec=30s\n";
    assert!(text.ends_with(expected), "{text}");
    root.write("etc/psi/config.yaml", INFISICAL);
    root.install(&["units", "--mode", "native"])
        .ended(0)
        .says(&["removed", drop_in]);
    assert!(!root.path(drop_in).parent().unwrap().exists());
}

#[test]
fn programs_in_usr_local_are_what_the_units_start() {
    let root = machine(LOCAL_DRIVER, &NATIVE);
    for program in ["psi-serve", "psi-setup"] {
        std::fs::rename(
            root.path("usr/bin").join(program),
            root.path("usr/local/bin").join(program),
        )
        .unwrap();
    }
    root.install(&NATIVE[..3]).ended(0);
    for (unit, program) in [
        ("psi-secrets", "psi-serve"),
        ("psi-local-setup", "psi-setup"),
    ] {
        let text = root.read(&format!("/etc/systemd/system/{unit}.service"));
        assert!(
            text.contains(&format!("\nExecStart=/usr/local/bin/{program}")),
            "{text}"
        );
    }
}

#[test]
fn what_a_package_has_put_there_needs_no_copy() {
    let root = Root::new(INFISICAL);
    root.install(&NATIVE[..3]).ended(0);
    let names = [
        "sysusers.d/psi.conf",
        "systemd/system/psi-secrets.socket",
        "systemd/system/psi-secrets.service",
    ];
    for name in names {
        root.write(
            &format!("usr/lib/{name}"),
            &root.read(&format!("etc/{name}")),
        );
    }
    root.write(
        "usr/lib/systemd/system/psi-secrets.service",
        "# an older one\n",
    );
    root.install(&["uninstall"]).ended(0);
    let files = shown(&root.install(&NATIVE).ended(0));
    assert!(!files.contains_key("/etc/sysusers.d/psi.conf"));
    assert!(!files.contains_key("/etc/systemd/system/psi-secrets.socket"));
    assert!(files.contains_key("/etc/systemd/system/psi-secrets.service"));
    assert!(files.contains_key("/etc/systemd/system/psi-infisical-setup.service"));
}

#[test]
fn an_older_systemd_gets_what_it_lacks() {
    let root = Root::new("providers: {local: {}}\n");
    root.program("systemctl", "echo 'systemd 252 (252.39-1~deb12u2)'");
    let files: BTreeSet<String> = shown(&root.install(&NATIVE).ended(0)).into_keys().collect();
    let drop_in = |unit| format!("/etc/systemd/system/{unit}.service.d/10-before-254.conf");
    assert!(files.contains(&drop_in("psi-secrets")));
    assert!(files.contains(&drop_in("psi-local-setup")));
    assert!(
        !files.contains(&drop_in("psi-infisical-setup")),
        "that unit is not there"
    );
}

#[test]
fn the_python_programs_key_is_delivered_if_it_is_there() {
    let config = "providers: {local: {}}\ncache: {backend: tpm}\n";
    let root = Root::new(config);
    let socket = "/etc/systemd/system/psi-cache-key.socket";
    assert!(!shown(&root.install(&NATIVE).ended(0)).contains_key(socket));
    root.write("etc/psi/cache.key", "sealed");
    assert!(shown(&root.install(&NATIVE).ended(0)).contains_key(socket));
}

#[test]
fn a_machine_without_a_tpms_group_is_not_given_one_and_is_told() {
    let root = Root::new("providers: {local: {}}\ncache: {backend: tpm}\n");
    root.write("etc/group", &format!("psi:x:{GID}:\n"));
    let done = root.install(&["units", "--mode", "native"]).ended(0);
    done.says(&["no group tss", "tpm2-tss", "tpm-udev"]);
    assert!(!root.has("/etc/systemd/system/psi-secrets.service.d/10-tpm.conf"));
}

#[test]
fn accounts_of_an_image_based_system_are_found_too() {
    let root = Root::new("providers: {local: {}}\n");
    root.write("usr/lib/passwd", &root.read("etc/passwd"));
    root.write("usr/lib/group", &root.read("etc/group"));
    root.write("etc/passwd", "root:x:0:0::/:/bin/sh\n");
    root.write("etc/group", "");
    root.install(&["units", "--mode", "native"]).ended(0);
    assert_eq!(root.commands(), [""; 0]);
}

#[test]
fn the_user_is_made_before_its_numbers_are_filled_in() {
    let root = machine(LOCAL_DRIVER, &CONTAINER);
    let (passwd, group) = (root.read("etc/passwd"), root.read("etc/group"));
    root.write("etc/passwd", "root:x:0:0::/:/bin/sh\n");
    root.write("etc/group", "root:x:0:\n");
    root.write("etc/passwd.made", &passwd);
    root.write("etc/group.made", &group);
    root.install(&CONTAINER)
        .ended(0)
        .says(&["# run systemd-sysusers", "User=N:N"]);
    root.install(&CONTAINER[..5])
        .ended(66)
        .says(&["no user psi", "`systemd-sysusers psi.conf`"]);
    // The shell's own words only: there is no other program.
    root.program(
        "systemd-sysusers",
        "while read -r l; do echo \"$l\"; done </etc/passwd.made >/etc/passwd
         while read -r l; do echo \"$l\"; done </etc/group.made >/etc/group",
    );
    root.install(&CONTAINER[..5]).ended(0);
    let ids = root.read("/etc/containers/systemd/psi-secrets.container.d/10-ids.conf");
    assert!(ids.contains(&format!("User={UID}:{GID}")), "{ids}");
}

#[test]
fn the_configuration_is_closed_to_others() {
    let root = Root::new("providers: {local: {}}\n");
    root.install(&NATIVE)
        .ended(0)
        .says(&["# change /etc/psi/config.yaml: root:psi, 0640"]);
    assert_eq!(root.owner("etc/psi/config.yaml").2, 0o644);
    root.install(&NATIVE[..3]).ended(0);
    assert_eq!(root.owner("etc/psi/config.yaml"), (0, GID, 0o640));
}
