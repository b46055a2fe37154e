//! Paths that the units and quadlets don't know.

use crate::fixture::Root;

const ELSEWHERE: &str = "driver_path: /usr/local/bin/psi-secret
state_dir: /srv/state
socket: /run/other/psi.sock
systemd_dir: /srv/quadlets
podman_socket: /run/other/podman.sock
ca_cert: /etc/pki/ca.pem
providers: {local: {}}
cache: {path: /srv/cache/cache.enc}
";

fn note(key: &str) -> String {
    format!("note     `{key}` is ")
}

#[test]
fn a_path_that_a_sandbox_keeps_away_is_named_until_a_drop_in_has_it() {
    let root = Root::new(ELSEWHERE);
    root.write("usr/local/bin/psi-secret", "");
    let native = ["units", "--mode", "native"];
    let keys = ["state_dir", "socket", "systemd_dir", "cache.path"];
    let mut done = root.install(&native).ended(0);
    for key in keys {
        done = done.says(&[&note(key), "\"Other paths\""]);
    }
    done.never_says(&note("ca_cert"))
        .never_says(&note("podman_socket"));

    root.write(
        "etc/systemd/system/psi-secrets.service.d/paths.conf",
        "[Service]\nReadWritePaths=/srv/state\nReadWritePaths=/srv/cache\n",
    );
    root.write(
        "etc/systemd/system/psi-secrets.socket.d/paths.conf",
        "[Socket]\nListenStream=\nListenStream=/run/other/psi.sock\n",
    );
    root.write(
        "etc/systemd/system/psi-local-setup.service.d/paths.conf",
        "[Service]\nReadWritePaths=/srv/quadlets\n",
    );
    let mut done = root.install(&native).ended(0);
    for key in keys {
        done = done.never_says(&note(key));
    }
}

#[test]
fn a_container_has_to_have_certificates_and_podmans_socket_mounted_as_well() {
    let root = Root::new(ELSEWHERE);
    let mut done = root.install(&["units", "--mode", "container"]).ended(0);
    for key in [
        "state_dir",
        "socket",
        "cache.path",
        "podman_socket",
        "ca_cert",
    ] {
        done = done.says(&[&note(key), "mounts it"]);
    }
}

#[test]
fn the_defaults_need_no_word() {
    let root = Root::new("ca_cert: /etc/psi/ca.pem\nproviders: {local: {}}\n");
    root.install(&["units", "--mode", "native"])
        .ended(0)
        .never_says("Other paths");
}
