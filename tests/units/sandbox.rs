//! How much power the units have, as `systemd-analyze security` counts it: 0 is none, 10 is all.

use crate::installed::Installed;

/// Largest exposure, in tenths.
struct Threshold(u32);

const SERVE: Threshold = Threshold(15);
const SERVE_WITH_DEVICES: Threshold = Threshold(25);
const SETUP: Threshold = Threshold(40);

fn check(units: &[&str], threshold: &Threshold) -> String {
    let check = |unit: &&str| {
        format!(
            "systemd-analyze security --offline=true --threshold={} {unit} >/dev/null\n",
            threshold.0
        )
    };
    units.iter().map(check).collect()
}

#[test]
fn psi_serve_alone_has_little() {
    let script = check(&["/usr/lib/systemd/system/psi-secrets.service"], &SERVE);
    Installed::new().run(&script).ended(0);
}

#[test]
fn psi_serve_with_every_device_has_not_much_more() {
    let copy = "for set in tpm hsm migrated-key; do cp -r /usr/share/psi/units/$set/. /etc/systemd/system; done\n";
    let key = "/etc/systemd/system/psi-cache-key@.service";
    let units = ["/usr/lib/systemd/system/psi-secrets.service", key];
    let script = copy.to_owned() + &check(&units, &SERVE_WITH_DEVICES);
    Installed::new().run(&script).ended(0);
}

#[test]
fn psi_setup_has_what_it_writes() {
    let script = "for unit in /usr/lib/systemd/system/psi-*-{setup,refresh}.service; do\n"
        .to_owned()
        + &check(&["$unit"], &SETUP)
        + "done\n";
    Installed::new().run(&script).ended(0);
}

/// The thresholds are none if a unit without a sandbox stays below them.
#[test]
fn a_unit_without_its_sandbox_is_above_the_threshold() {
    let script = "unit=/etc/systemd/system/psi-secrets.service
        sed '/^Protect/d;/^Private/d;/^SystemCall/d' /usr/lib/systemd/system/psi-secrets.service >$unit\n"
        .to_owned()
        + &check(&["$unit"], &SETUP);
    assert_ne!(Installed::new().run(&script).code, Some(0));
}
