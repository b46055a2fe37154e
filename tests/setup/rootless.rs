//! psi-setup as a user, for the Podman of that user.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use psi_test_support::done::Done;
use psi_test_support::infisical::{Identity, StandIn};

use crate::fixture::{DRIVER, PROJECT, SERVE, SETUP};

const INSIDE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/setup/as_a_user");

/// Everybody has that user, nobody, and it has no power and no range of others' ids.
const USER: &str = "65534";

/// There wherever a user has a quadlet.
const QUADLETS: &str = "home/.config/containers/systemd";

const VALUE: &str = "canary-of-a-user";

/// A home, programs that the user can reach, and a root directory for a container.
fn write_files(directory: &Path, infisical: &StandIn) {
    for name in ["bin", "home/.config/psi", QUADLETS, "run", "rootfs/bin"] {
        fs::create_dir_all(directory.join(name)).unwrap();
    }
    for name in ["proc", "sys", "dev", "etc", "tmp", "run"] {
        fs::create_dir(directory.join("rootfs").join(name)).unwrap();
    }
    for program in [DRIVER, SERVE, SETUP, INSIDE] {
        let name = Path::new(program).file_name().unwrap();
        fs::copy(program, directory.join("bin").join(name)).unwrap();
    }
    fs::copy("/usr/bin/busybox", directory.join("rootfs/bin/sh")).unwrap();
    let config = format!(
        "driver_path: {}/bin/psi-secret
providers:
  infisical:
    api_url: {}
    auth: {{method: universal-auth, client_id: myapp-id, client_secret: myapp-secret}}
    projects: {{myproject: {{id: {PROJECT}, environment: prod}}}}
workloads:
  myapp: {{secrets: [{{project: myproject, path: /myapp}}]}}
",
        directory.display(),
        infisical.url()
    );
    let file = directory.join("home/.config/psi/config.yaml");
    fs::write(&file, config).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let mut chown = Command::new("chown");
    chown.args(["-R", &format!("{USER}:{USER}")]).arg(directory);
    Done::run(chown, b"").ended(0);
}

#[test]
fn a_user_s_container_gets_its_value_through_a_rootless_podman() {
    let infisical = StandIn::start();
    infisical.add_project(PROJECT, "prod");
    infisical.add_identity(Identity::new("myapp-id", "myapp-secret").may_read(PROJECT, "/"));
    infisical.set(PROJECT, "prod", "/myapp", "DB_PASSWORD", VALUE);
    let directory = tempfile::tempdir().unwrap();
    write_files(directory.path(), &infisical);

    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "--pid", "--fork"])
        .args(["--mount-proc", "--kill-child", "timeout", "120"])
        .args([
            "setpriv",
            "--reuid",
            USER,
            "--regid",
            USER,
            "--clear-groups",
        ])
        .arg(directory.path().join("bin/as_a_user"))
        .arg(directory.path());
    let done = Done::run(command, b"").ended(0);
    assert!(
        done.stdout
            .ends_with(&format!("in the container: {VALUE}\n")),
        "{done:?}"
    );
    assert!(!done.stderr.contains(VALUE), "{done:?}");
    let quadlets = directory.path().join(QUADLETS);
    let drop_in = quadlets.join("myapp.container.d/50-secrets.conf");
    let drop_in = fs::read_to_string(drop_in).unwrap();
    assert!(drop_in.contains("Secret=myapp--DB_PASSWORD,"), "{drop_in}");
    for log in ["serve.log", "podman.log"] {
        let log = fs::read_to_string(directory.path().join(log)).unwrap();
        assert!(!log.contains(VALUE), "{log}");
    }
}
