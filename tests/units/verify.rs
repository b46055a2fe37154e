//! `systemd-analyze verify` has nothing to say. An unknown key is no error to it, so every word counts.

use crate::installed::Installed;

const SYSTEM: &str = "systemd-analyze verify --man=no /usr/lib/systemd/system/psi-*";

#[track_caller]
fn is_silent(script: &str) {
    let done = Installed::new().run(script).ended(0);
    assert_eq!(done.stdout + &done.stderr, "");
}

#[test]
fn nothing_to_say_of_the_units() {
    is_silent(SYSTEM);
}

#[test]
fn nothing_to_say_of_the_units_of_a_user() {
    is_silent(
        "export XDG_RUNTIME_DIR=/run/user
        mkdir $XDG_RUNTIME_DIR
        systemd-analyze --user verify --man=no /usr/lib/systemd/user/psi-*",
    );
}

#[test]
fn nothing_to_say_of_any_set_of_drop_ins() {
    for set in ["tpm", "hsm", "migrated-key", "before-254"] {
        is_silent(&format!(
            "cp -r /usr/share/psi/units/{set}/. /etc/systemd/system
            rm -f /etc/systemd/system/psi.rules
            {SYSTEM} $(ls /etc/systemd/system/psi-*.s[eo]*[et] 2>/dev/null)"
        ));
    }
}

/// A drop-in without its unit would be read by nobody.
#[test]
fn every_drop_in_belongs_to_a_unit() {
    Installed::new()
        .run(
            "cd /usr/share/psi/units
            for drop_in in */*.d; do
                unit=$(basename $drop_in .d)
                test -e /usr/lib/systemd/system/$unit || { echo no $unit; exit 1; }
            done
            cd /usr/share/psi/quadlets
            for drop_in in */*.d; do
                unit=$(basename $drop_in .d)
                test -e $unit || { echo no $unit; exit 1; }
            done",
        )
        .ended(0);
}

#[test]
fn the_user_and_the_directories_are_made_as_the_units_expect_them() {
    let done = Installed::new().run(
        "mkdir -p /etc/psi && echo 'providers: {}' >/etc/psi/config.yaml
        systemd-sysusers psi.conf
        systemd-tmpfiles --create psi.conf
        stat --format '%n %U:%G %a' /etc/psi /etc/psi/config.yaml /etc/credstore.encrypted \
            /etc/containers/systemd /run/psi /var/lib/psi",
    );
    assert_eq!(
        done.ended(0).stdout,
        "/etc/psi root:root 755
/etc/psi/config.yaml root:psi 640
/etc/credstore.encrypted root:root 700
/etc/containers/systemd root:root 755
/run/psi root:root 755
/var/lib/psi psi:psi 700
"
    );
}

/// Else a distribution that enables whatever is installed would start psi-serve without a configuration.
#[test]
fn a_preset_enables_nothing() {
    let done = Installed::new().run(
        "systemctl --root=/ preset-all 2>/dev/null
        systemctl --root=/ list-unit-files --no-legend 'psi-*'",
    );
    let done = done.ended(0).never_says("enabled ");
    assert_eq!(done.stdout.matches(" disabled ").count(), 6, "{done:?}");
}

/// A mapping that was given to Podman without naming a driver lies where psi-serve keeps it.
#[test]
fn containers_conf_makes_podman_use_psi_secret() {
    let script =
        "cp /usr/share/psi/units/containers.conf.d/psi.conf /etc/containers/containers.conf.d
        mkdir -p /etc/psi /run/psi /var/lib/psi
        echo 'providers: {local: {}}' >/etc/psi/config.yaml
        psi-serve & serve=$!
        podman='timeout 60 podman --root /tmp/root --runroot /tmp/run --storage-driver vfs'
        echo '{\"provider\": \"local\", \"key\": \"A\"}' | $podman secret create by-hand -
        ls /var/lib/psi
        $podman secret rm by-hand
        kill $serve
        wait $serve";
    let done = Installed::new().run(script).ended(0);
    let mut lines = done.stdout.lines();
    let id = lines.next().unwrap();
    assert_eq!(lines.collect::<Vec<_>>(), [id, id], "{done:?}");
}
