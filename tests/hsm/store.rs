//! `psi-hsm store`, `list` and `status`.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use psi_test_support::done::Done;
use psi_test_support::podman::Podman;

use crate::fixture::{HSM, Machine, PIN, SETUP};

const CANARY: &str = "canary-3f9c-stored-value";

fn ready() -> Machine {
    let m = Machine::new();
    m.run(&["init"]).ended(0);
    m.module.forget_calls();
    m
}

fn with_podman(m: &Machine, podman: &Podman, more: &str) {
    let socket = podman.socket();
    m.configure("", &format!("podman_socket: {}\n{more}", socket.display()));
}

#[test]
fn a_value_is_sealed_without_a_login_and_lies_nowhere_in_clear() {
    let m = ready();
    m.run_with(&["store", "db-password"], CANARY.as_bytes())
        .ended(0)
        .says(&[
            "stored db-password",
            "provider: nitrokeyhsm",
            "psi-nitrokeyhsm-setup.service",
        ])
        .never_says(CANARY);
    assert_eq!(m.module.calls("C_Login"), 0);
    let file = m.host.state_dir().join("db-password");
    let text = fs::read_to_string(file).unwrap();
    assert!(text.starts_with(r#"{"blob":""#), "{text}");
    assert!(!text.contains(CANARY));
    m.run_with(&["store", "db-password"], CANARY.as_bytes())
        .ended(0);
    let again = fs::read_to_string(m.host.state_dir().join("db-password")).unwrap();
    assert_ne!(again, text, "the same value is sealed anew");
}

#[test]
fn a_value_is_sealed_while_the_token_lies_in_a_drawer() {
    let m = ready();
    m.module.pull();
    m.run_with(&["store", "db"], b"value")
        .ended(0)
        .says(&["unchecked", "stored db"]);
    m.module.plug_in();
    let _serve = m.serve();
    assert_eq!(m.lookup("db").ended(0).stdout, "value");
}

#[test]
fn nothing_is_sealed_for_a_key_that_is_not_the_tokens() {
    let m = ready();
    m.store("db", "good");
    let good = fs::read(m.host.state_dir().join("db")).unwrap();
    let other = Machine::new();
    other.run(&["init"]).ended(0);
    let file = "nitrokeyhsm-pubkey.der";
    fs::copy(
        other.host.state_dir().join(file),
        m.host.state_dir().join(file),
    )
    .unwrap();
    m.run_with(&["store", "db"], b"lost").ended(1).says(&[
        "is not that of the key on the token",
        "psi-hsm init --force",
    ]);
    fs::write(m.host.state_dir().join(file), "nonsense").unwrap();
    m.run_with(&["store", "db"], b"lost")
        .ended(65)
        .says(&[file, "psi-hsm init"]);
    assert_eq!(fs::read(m.host.state_dir().join("db")).unwrap(), good);
}

#[test]
fn what_can_not_be_stored_is_refused_and_the_value_before_stays() {
    let m = ready();
    m.store("db", "good");
    let good = fs::read(m.host.state_dir().join("db")).unwrap();
    m.run_with(&["store", "db"], b"")
        .ended(1)
        .says(&["the value of db is empty"]);
    let large = vec![b'x'; 380_001];
    m.run_with(&["store", "db"], &large)
        .ended(1)
        .says(&["more than 380000 bytes"]);
    for name in ["0123456789abcdef012345678", "cache.enc", "../db", "a b", ""] {
        m.run_with(&["store", name], b"value").ended(64);
    }
    let theirs = r#"{"provider":"infisical","key":"A"}"#;
    fs::write(m.host.state_dir().join("theirs"), theirs).unwrap();
    m.run_with(&["store", "theirs"], b"value")
        .ended(1)
        .says(&["of provider infisical"]);
    assert_eq!(fs::read(m.host.state_dir().join("db")).unwrap(), good);
    assert_eq!(
        fs::read_to_string(m.host.state_dir().join("theirs")).unwrap(),
        theirs
    );
    assert_eq!(m.state_files(), ["db", "nitrokeyhsm-pubkey.der", "theirs"]);
}

#[test]
fn without_a_public_key_the_token_is_asked_and_else_the_command_is_named() {
    let m = Machine::new();
    m.run_with(&["store", "db"], b"value").ended(0);
    m.module.pull();
    m.run_with(&["store", "db"], b"value")
        .ended(66)
        .says(&["psi-hsm init"]);
}

#[test]
fn newlines_and_values_that_fit_no_variable_are_kept_and_said() {
    let m = ready();
    let value = b"a\0b\n";
    m.run_with(&["store", "keytab"], value).ended(0).says(&[
        "ends with a newline",
        "no variable can hold",
        "type=mount",
    ]);
    let _serve = m.serve();
    assert_eq!(m.lookup("keytab").ended(0).stdout.as_bytes(), value);
}

#[test]
fn a_registered_value_reaches_a_container_and_a_new_one_takes_its_place() {
    let m = ready();
    let podman = Podman::start();
    with_podman(&m, &podman, "");
    let serve = m.serve();
    let store = |value: &str| {
        m.run_with(&["store", "--register", "db"], value.as_bytes())
            .ended(0)
            .says(&["registered it with Podman: `Secret=db`"])
            .never_says(value)
    };
    let in_container = || {
        let output = podman.run_container(&["db,type=env,target=DB"], "printf %s \"$DB\"");
        Done::of(output).ended(0).stdout
    };
    store(CANARY);
    assert_eq!(in_container(), CANARY);
    store("another value");
    assert_eq!(in_container(), "another value");
    let listed = m.json(&["list", "--json"]);
    assert_eq!(listed["secrets"][0]["name"], "db");
    assert_eq!(listed["secrets"][0]["podman"][0], "db");
    assert!(!serve.log().contains(CANARY) && !serve.log().contains(PIN));
    m.run(&["list"]).ended(0).says(&["NAME", "db"]);
}

#[test]
fn a_name_that_podman_has_for_something_else_is_refused_before_anything_is_stored() {
    let m = ready();
    let podman = Podman::start();
    with_podman(&m, &podman, "");
    let _serve = m.serve();
    let file = m.host.path("file");
    fs::write(&file, "x").unwrap();
    let made = podman.run(&["secret", "create", "db", file.to_str().unwrap()]);
    Done::of(made).ended(0);
    m.run_with(&["store", "--register", "db"], b"value")
        .ended(1)
        .says(&[
            "Podman has a secret db that is no token's",
            "podman secret rm db",
        ]);
    assert!(!m.host.state_dir().join("db").exists());
}

#[test]
fn where_podman_does_not_answer_nothing_is_stored_for_register() {
    let m = ready();
    m.configure("", "podman_socket: /nowhere/podman.sock");
    m.run_with(&["store", "--register", "db"], b"value")
        .ended(69)
        .says(&["/nowhere/podman.sock"]);
    assert!(!m.host.state_dir().join("db").exists());
    m.store("db", "value");
    m.run(&["list"])
        .ended(0)
        .says(&["db", "?", "what is registered is not known"]);
}

#[test]
fn what_a_workload_lists_is_registered_by_psi_setup() {
    let m = ready();
    let podman = Podman::start();
    let workload = "workloads: {app: {provider: nitrokeyhsm, secrets: [{key: db, as: DB}]}}";
    with_podman(&m, &podman, workload);
    let _serve = m.serve();
    m.run_with(&["store", "db"], CANARY.as_bytes())
        .ended(0)
        .says(&["`systemctl restart psi-nitrokeyhsm-setup.service` registers it for app"]);
    Done::of(m.host.command(SETUP).output().unwrap())
        .ended(0)
        .never_says(CANARY);
    let output = podman.run_container(&["app--DB,type=env,target=DB"], "printf %s \"$DB\"");
    assert_eq!(Done::of(output).ended(0).stdout, CANARY);
    let listed = m.json(&["list", "--json"]);
    assert_eq!(listed["secrets"][0]["workloads"][0], "app");
    assert_eq!(listed["secrets"][0]["podman"][0], "app--DB");
}

/// Not even root's: without the capability root is anybody.
#[test]
fn what_can_t_be_read_is_left_out_of_the_list_and_said() {
    let m = ready();
    let listed = "workloads: {app: {provider: nitrokeyhsm, secrets: [{key: broken, as: DB}]}}";
    m.configure("", listed);
    for name in ["broken", "closed", "db"] {
        m.store(name, "value");
    }
    let file = |name: &str| m.host.state_dir().join(name);
    fs::write(file("broken"), "{").unwrap();
    fs::write(file("cache.enc"), "not a mapping, and none of the token's").unwrap();
    fs::set_permissions(file("closed"), fs::Permissions::from_mode(0o000)).unwrap();
    for (command, kept) in [(&["list"][..], "db"), (&["list", "--json"], "\"db\"")] {
        let mut limited = m.host.command("setpriv");
        limited.arg("--bounding-set=-dac_override,-dac_read_search");
        limited.arg(HSM).args(command);
        let done = Done::run(limited, b"").ended(65).never_says("cache.enc");
        assert!(done.stdout.contains(kept), "{done:?}");
        for left_out in ["broken", "closed"] {
            let file = file(left_out).display().to_string();
            assert!(!done.stdout.contains(left_out), "{done:?}");
            assert!(done.stderr.contains(&file), "{done:?}");
        }
    }
    m.run(&["status"]).ended(65).says(&["2 secrets", "broken"]);
}

#[test]
fn status_says_what_is_meant_without_a_login() {
    let m = ready();
    m.store("db", "value");
    m.run(&["status"]).ended(0).says(&[
        "psi",
        "all tries left",
        "credential hsm-pin",
        "2048 bits",
        "1 secrets",
    ]);
    let status = m.json(&["status", "--json"]);
    assert_eq!(status["token"]["label"], "psi");
    assert_eq!(status["stored"], 1);
    assert_eq!(status["trouble"], serde_json::Value::Null);
    assert_eq!(m.module.calls("C_Login"), 0);
    m.module.pull();
    m.run(&["status"])
        .ended(69)
        .says(&["not there", "2048 bits"]);
}

#[test]
fn a_host_without_a_token_in_its_configuration_is_told_the_key_to_add() {
    let m = Machine::new();
    m.host.write_config("providers: {local: {}}\n");
    for command in [
        "preflight",
        "init",
        "list",
        "test-pin",
        "status",
        "setup-pcscd",
    ] {
        m.run(&[command]).ended(78).says(&["providers.nitrokeyhsm"]);
    }
}
