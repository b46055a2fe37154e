//! What psi-install gives a user with a Podman of their own, as the image's systemd sees it.

use psi_test_support::done::Done;

use crate::installed::Installed;

/// A user with a configuration, who runs commands by `as_user`. The programs are root's; units of a
/// package's are not there, so each one is the user's own.
const USER: &str = "
    export HOME=/home/somebody XDG_RUNTIME_DIR=/run/user/1000
    mkdir -p $HOME/.config/psi $XDG_RUNTIME_DIR
    cat >$HOME/.config/psi/config.yaml <<'END'
providers:
  local: {}
  nitrokeyhsm: {}
  infisical:
    auth: {method: universal-auth, client_id: 00000000-0000-0000-0000-000000000000, client_secret: x}
    projects: {p: {id: 11111111-1111-1111-1111-111111111111}}
cache: {refresh_interval: 15min}
END
    chmod 0600 $HOME/.config/psi/config.yaml
    chown -R 1000:1000 $HOME $XDG_RUNTIME_DIR
    rm -r /usr/lib/systemd/user/psi-*
    as_user() { setpriv --reuid 1000 --regid 1000 --clear-groups \"$@\"; }
";

fn run(script: &str) -> Done {
    Installed::new().run(&format!("{USER}{script}")).ended(0)
}

#[test]
fn a_dry_run_shows_every_unit_of_a_user_and_writes_nothing() {
    let mut done = run("as_user psi-install units --mode native --dry-run; find $HOME -type f");
    for unit in [
        "psi-secrets.socket",
        "psi-secrets.service",
        "psi-local-setup.service",
        "psi-nitrokeyhsm-setup.service",
        "psi-infisical-setup.service",
        "psi-infisical-refresh.service",
        "psi-infisical-refresh.timer",
        "psi-infisical-refresh.timer.d/10-interval.conf",
    ] {
        let line = format!("# write /home/somebody/.config/systemd/user/{unit} (0644)");
        done = done.says(&[&line]);
    }
    let files = done.stdout.lines().filter(|line| line.starts_with("/home"));
    assert_eq!(
        files.collect::<Vec<_>>(),
        ["/home/somebody/.config/psi/config.yaml"]
    );
}

#[test]
fn systemd_has_nothing_to_say_about_what_a_user_has_installed() {
    let done = run("as_user psi-install units --mode native >/tmp/said 2>&1
        as_user systemd-analyze --user verify --man=no $HOME/.config/systemd/user/psi-*.*[et]");
    assert_eq!(done.stdout + &done.stderr, "");
}
