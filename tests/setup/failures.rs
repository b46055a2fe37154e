//! What goes wrong for one workload, or for all.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use psi_test_support::infisical::Identity;

use crate::fixture::{DRIVER, Fixture, PROJECT, both, workload};

#[test]
fn a_workload_that_fails_keeps_what_it_has_and_holds_up_nobody() {
    let f = Fixture::new(&(workload("bad") + &workload("good")));
    f.set("/bad", "A", "old");
    f.set("/good", "A", "old");
    f.setup_exits(0, &[]);
    let ids = f.registered();
    f.set("/bad", "A", "new");
    f.set("/good", "A", "new");
    let only_good = Identity::new("myapp-id", "myapp-secret").may_read(PROJECT, "/good");
    f.infisical.add_identity(only_good);
    let text = f.setup_exits(1, &[]);
    assert!(text.contains("workload bad keeps what it has"), "{text}");
    assert!(text.contains("/bad"), "it names the folder: {text}");
    assert!(text.contains("next: "), "{text}");
    assert_eq!(f.lookup(&ids["good--A"]).stdout, b"new");
    assert_eq!(f.lookup(&ids["bad--A"]).stdout, b"old");
    assert_eq!(f.drop_in_secrets("bad"), ["bad--A,type=env,target=A"]);
}

#[test]
fn a_name_that_podman_has_from_somebody_else_is_refused_for_that_workload_only() {
    let f = Fixture::new(&(workload("bad") + &workload("good")));
    f.set("/bad", "A", "1");
    f.set("/good", "A", "2");
    let file = f.host.path("mine");
    std::fs::write(&file, "mine").unwrap();
    let mine = ["secret", "create", "bad--A", file.to_str().unwrap()];
    assert!(f.podman.run(&mine).status.success());
    let id = f.registered()["bad--A"].clone();
    let text = f.setup_exits(1, &[]);
    assert!(
        text.contains("a secret bad--A that PSI did not make"),
        "{text}"
    );
    assert_eq!(f.registered()["bad--A"], id);
    assert!(!f.drop_in("bad").exists());
    assert_eq!(f.container_env("good")["A"], "2");
}

#[test]
fn a_drop_in_that_can_not_be_read_fails_its_workload_only() {
    let f = Fixture::new(&(workload("bad") + &workload("good")));
    f.set("/bad", "A", "1");
    f.set("/good", "A", "2");
    f.setup_exits(0, &[]);
    let before = f.registered();
    std::fs::remove_file(f.drop_in("bad")).unwrap();
    std::fs::create_dir(f.drop_in("bad")).unwrap();
    f.set("/good", "B", "3");
    let text = f.setup_exits(1, &[]);
    let file = f.drop_in("bad").display().to_string();
    let said = [
        "workload bad keeps what it has",
        &file,
        "next: move it away",
    ];
    let in_one = text
        .lines()
        .any(|line| said.iter().all(|words| line.contains(words)));
    assert!(in_one, "{text}");
    assert_eq!(f.registered()["bad--A"], before["bad--A"]);
    assert_eq!(f.container_env("good")["B"], "3");
}

#[test]
fn a_wrong_client_secret_is_told_without_showing_it() {
    let f = Fixture::new(&workload("myapp"));
    f.infisical
        .add_identity(Identity::new("myapp-id", "another-one").may_read(PROJECT, "/"));
    let text = f.setup_exits(1, &[]);
    assert!(
        text.contains("myproject") || text.contains("login"),
        "{text}"
    );
    assert!(!text.contains("myapp-secret"), "{text}");
}

#[test]
fn without_psi_serve_or_podman_nothing_is_changed_and_the_unit_is_named() {
    let mut f = Fixture::new(&workload("myapp"));
    f.set("/myapp", "A", "1");
    f.podman.stop_service();
    let text = f.setup_exits(69, &[]);
    assert!(text.contains("podman.socket"), "{text}");
    f.podman.start_service();
    assert!(f.serve.sigterm().success());
    let text = f.setup_exits(69, &[]);
    assert!(text.contains("psi-secrets.socket"), "{text}");
    assert!(f.registered().is_empty());
    assert!(!f.drop_in("myapp").exists());
}

#[test]
fn a_driver_that_is_not_there_registers_nothing_and_names_the_key() {
    let f = Fixture::new(&workload("myapp"));
    f.set("/myapp", "A", "1");
    let config = std::fs::read_to_string(f.host.config_file()).unwrap();
    let config = config.replace(DRIVER, "/nowhere/psi-secret");
    std::fs::write(f.host.config_file(), config).unwrap();
    let text = f.setup_exits(78, &[]);
    assert!(text.contains("driver_path"), "{text}");
    assert!(f.registered().is_empty());
    assert!(!f.drop_in("myapp").exists());
}

/// What a provider's outage leaves running is gone here, so it is no outage to sit out.
#[test]
fn a_driver_that_fails_is_no_outage_of_the_provider() {
    let f = Fixture::new("  myapp: {secrets: [{project: myproject, path: /, recursive: true}]}\n");
    f.set("/one", "A", "1");
    f.set("/one", "B", "2");
    let driver = f.host.path("driver");
    let failing = f.host.path("failing");
    let script = format!(
        "#!/bin/sh\n[ \"$1\" != \"$(cat {} 2>/dev/null)\" ] || exit 1\nexec {DRIVER} \"$@\"\n",
        failing.display()
    );
    std::fs::write(&driver, script).unwrap();
    std::fs::set_permissions(&driver, std::fs::Permissions::from_mode(0o755)).unwrap();
    let config = std::fs::read_to_string(f.host.config_file()).unwrap();
    let config = config.replace(DRIVER, driver.to_str().unwrap());
    std::fs::write(f.host.config_file(), config).unwrap();
    f.setup_exits(0, &[]);

    f.infisical.remove(PROJECT, "prod", "/one", "B");
    std::fs::write(&failing, "delete").unwrap();
    let text = f.setup_exits(69, &["--prune-now"]);
    assert!(text.contains("its driver failed"), "{text}");

    f.infisical.remove(PROJECT, "prod", "/one", "A");
    f.set("/two", "A", "1");
    std::fs::write(&failing, "store").unwrap();
    let text = f.setup_exits(69, &[]);
    assert!(text.contains("its driver failed"), "{text}");
    std::fs::remove_file(&failing).unwrap();
    f.setup_exits(0, &[]);
    assert_eq!(f.container_env("myapp")["A"], "1");
}

#[test]
fn a_quadlet_directory_that_is_missing_fails_with_its_name() {
    let f = Fixture::new(&workload("myapp"));
    f.set("/myapp", "A", "1");
    std::fs::remove_dir(f.host.systemd_dir()).unwrap();
    let text = f.setup_exits(1, &[]);
    assert!(
        text.contains(f.host.systemd_dir().to_str().unwrap()),
        "{text}"
    );
    std::fs::create_dir(f.host.systemd_dir()).unwrap();
    f.setup_exits(0, &[]);
    assert_eq!(f.container_env("myapp")["A"], "1");
}

#[test]
fn logins_that_are_not_built_yet_say_so_and_exit_78() {
    let f = Fixture::new(&workload("myapp"));
    let config = std::fs::read_to_string(f.host.config_file()).unwrap();
    for method in ["aws-iam", "gcp", "azure"] {
        let auth = format!("auth: {{method: {method}, identity_id: abc}}");
        let from = config.find("auth: {").unwrap();
        let to = from + config[from..].find('}').unwrap() + 1;
        let config = format!("{}{auth}{}", &config[..from], &config[to..]);
        std::fs::write(f.host.config_file(), config).unwrap();
        let text = f.setup_exits(78, &[]);
        assert!(text.contains(method), "{text}");
    }
}

#[test]
fn a_provider_or_workload_that_is_not_there_is_named_with_those_that_are() {
    let f = Fixture::new(&workload("myapp"));
    let text = f.setup_exits(78, &["--provider", "nitrokeyhsm"]);
    assert!(text.contains("providers.nitrokeyhsm"), "{text}");
    let text = f.setup_exits(64, &["--provider", "vault"]);
    assert!(text.contains("infisical"), "{text}");
    let text = f.setup_exits(64, &["--accept-removals", "mypap"]);
    assert!(
        text.contains("mypap") && text.contains("configured: myapp"),
        "{text}"
    );
}

#[test]
fn a_report_that_nobody_reads_is_a_failure() {
    let f = Fixture::new(&workload("myapp"));
    f.set("/myapp", "A", "1");
    let full = std::fs::File::create(Path::new("/dev/full")).unwrap();
    let mut command = f.host.command(crate::fixture::SETUP);
    let output = command.stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(74), "{}", both(&output));
}

#[test]
fn no_file_that_psi_serve_could_have_planted_is_touched() {
    let f = Fixture::new(&workload("myapp"));
    f.set("/myapp", "A", "1");
    let trace = f.host.path("trace");
    let mut strace = f.host.command("strace");
    strace.args([
        "-f",
        "-y",
        "-s",
        "4096",
        "-e",
        "trace=%file,renameat2,linkat",
        "-o",
    ]);
    let output = strace
        .arg(&trace)
        .arg(crate::fixture::SETUP)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", both(&output));
    let trace = std::fs::read_to_string(trace).unwrap();
    let state_dir = f.host.state_dir().display().to_string();
    assert!(trace.contains("50-secrets.conf"), "it was traced");
    assert!(!trace.contains(&state_dir), "{trace}");
}

#[test]
fn links_beside_the_socket_leave_their_targets_alone() {
    let f = Fixture::new(&workload("myapp"));
    f.set("/myapp", "A", "1");
    let target = f.host.path("target");
    for (planted, code) in [("setup.reload", 0), ("setup.lock", 74)] {
        let link = f.host.socket().with_file_name(planted);
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let text = f.setup_exits(code, &[]);
        assert!(code == 0 || text.contains(planted), "{text}");
        assert!(!target.exists(), "{planted}");
    }
}
