//! The provider: from what was stored to what a lookup gets.

use std::fs;
use std::path::Path;
use std::thread;

use psi_test_support::done::Done;
use psi_test_support::podman::Podman;
use psi_test_support::token::TRIES;

use crate::fixture::{Machine, PIN, SETUP};

const CACHECTL: &str = env!("CARGO_BIN_EXE_psi-cachectl");
const CANARY: &str = "canary-3f9c-stored-value";
const SEALED: &str = "cache: {backend: tpm}";

/// With values stored as `names`, all of them [`CANARY`].
fn with_stored(names: &[&str], more: &str) -> Machine {
    let m = Machine::new();
    m.configure("", more);
    m.run(&["init"]).ended(0);
    for name in names {
        m.store(name, CANARY);
    }
    m.module.forget_calls();
    m
}

#[test]
fn however_many_ask_a_value_costs_one_login_and_one_operation() {
    for cache in ["", SEALED] {
        let m = with_stored(&["db", "key"], cache);
        let serve = m.serve();
        assert!(
            !m.module.was_started(),
            "nothing is loaded unless it is needed"
        );
        for _ in 0..2 {
            thread::scope(|scope| {
                for _ in 0..20 {
                    scope.spawn(|| assert_eq!(m.lookup("db").ended(0).stdout, CANARY));
                }
            });
        }
        assert_eq!(m.module.calls("C_Decrypt"), 1, "{cache}");
        m.lookup("key").ended(0);
        for (function, times) in [("C_Login", 1), ("C_FindObjectsInit", 1), ("C_Decrypt", 2)] {
            assert_eq!(m.module.calls(function), times, "{function} {cache}");
        }
        assert!(!m.host.cache_file().exists(), "values stay in memory");
        let log = serve.log();
        assert!(!log.contains(PIN) && !log.contains(CANARY), "{log}");
    }
}

#[test]
fn a_token_that_is_slow_to_open_is_waited_for() {
    let m = with_stored(&["db"], "");
    m.module.control("delay.C_Initialize", "4000");
    let _serve = m.serve();
    thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| assert_eq!(m.lookup("db").ended(0).stdout, CANARY));
        }
    });
    assert_eq!(m.module.calls("C_Decrypt"), 1);
}

#[test]
fn a_pulled_token_fails_what_is_not_known_yet_and_heals() {
    let m = with_stored(&["db", "key"], "");
    let serve = m.serve();
    m.lookup("db").ended(0);
    m.module.pull();
    m.lookup("db").ended(0);
    let lost = m.lookup("key");
    assert_ne!(lost.code, Some(0));
    assert!(lost.stdout.is_empty());
    lost.says(&["key", "not there"]);
    m.module.plug_in();
    // A failure is remembered for a moment; a reload ends that.
    serve.signal("HUP");
    psi_test_support::wait::until("the token again", || m.lookup("key").code == Some(0));
}

#[test]
fn a_wrong_pin_is_tried_once_and_the_last_try_never() {
    let m = with_stored(&["a", "b", "c"], "");
    m.host.set_credential("hsm-pin", b"a wrong one");
    let serve = m.serve();
    for name in ["a", "b", "c", "a"] {
        assert_ne!(m.lookup(name).code, Some(0));
    }
    assert_eq!(m.module.calls("C_Login"), 1);
    assert!(!serve.log().contains("a wrong one"));
    drop(serve);
    m.module.enter_wrong_pins(0, TRIES - 2);
    m.module.forget_calls();
    let serve = m.serve();
    m.lookup("a").says(&["one try left"]);
    assert_eq!(m.module.calls("C_Login"), 0);
    drop(serve);
}

#[test]
fn the_pin_comes_from_the_credential_then_the_configuration_then_the_variable() {
    let m = with_stored(&["db"], "");
    let wrong = "    pin: a wrong one";
    m.configure(wrong, "");
    let serve = m.serve();
    assert_eq!(m.lookup("db").ended(0).stdout, CANARY);
    drop(serve);
    m.host.remove_credential("hsm-pin");
    m.configure(&format!("    pin: {PIN}"), "");
    let serve = m.serve();
    assert_eq!(m.lookup("db").ended(0).stdout, CANARY);
    drop(serve);
    m.configure("", "");
    let mut command = m.host.command(crate::fixture::HSM);
    command.arg("test-pin").env("PSI_NITROKEYHSM_PIN", PIN);
    Done::run(command, b"").ended(0).never_says(PIN);
    m.run(&["test-pin"])
        .ended(78)
        .says(&["there is none", "hsm-pin"]);
}

#[test]
fn what_is_no_envelope_never_reaches_the_token_and_what_was_altered_is_told() {
    let m = with_stored(&["db"], "");
    let state = m.host.state_dir();
    let good = fs::read_to_string(state.join("db")).unwrap();
    let write = |name: &str, blob: &str| {
        let mapping = format!(r#"{{"provider":"nitrokeyhsm","blob":"{blob}"}}"#);
        fs::write(state.join(name), mapping).unwrap();
    };
    write("text", "not base64!");
    write("short", "QUFB");
    fs::write(state.join("none"), r#"{"provider":"nitrokeyhsm"}"#).unwrap();
    let altered = match good.replace("A\",", "B\",") {
        same if same == good => good.replace("==\"", "=A\""),
        other => other,
    };
    assert_ne!(altered, good);
    let _serve = m.serve();
    for name in ["text", "short", "none"] {
        let lost = m.lookup(name);
        assert!(lost.code != Some(0) && lost.stdout.is_empty(), "{lost:?}");
        assert!(lost.stderr.contains(name), "{lost:?}");
    }
    assert!(!m.module.was_started());
    m.lookup("db").ended(0);
}

fn registered_for_app(cache: bool) -> (Machine, Podman) {
    let m = with_stored(&["db"], "");
    let podman = Podman::start();
    configure_app(&m, &podman, cache);
    (m, podman)
}

fn configure_app(m: &Machine, podman: &Podman, cache: bool) {
    let workload =
        format!("{{provider: nitrokeyhsm, cache: {cache}, secrets: [{{key: db, as: DB}}]}}");
    let socket = podman.socket();
    let more = format!(
        "podman_socket: {}\n{SEALED}\nworkloads: {{app: {workload}}}",
        socket.display()
    );
    m.configure("", &more);
}

fn setup(m: &Machine) -> Done {
    Done::of(m.host.command(SETUP).output().unwrap()).never_says(CANARY)
}

fn entries(m: &Machine) -> u64 {
    let mut command = m.host.command(CACHECTL);
    let done = Done::of(command.args(["status", "--json"]).output().unwrap());
    let status: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    status["file"]["entries"].as_u64().unwrap_or_default()
}

fn in_container(podman: &Podman) -> Done {
    let script = "printf %s \"$DB\"";
    Done::of(podman.run_container(&["app--DB,type=env,target=DB"], script))
}

#[test]
fn psi_setup_needs_no_token_and_the_container_does() {
    let (m, podman) = registered_for_app(false);
    m.module.pull();
    let _serve = m.serve();
    setup(&m).ended(0);
    setup(&m).ended(0);
    assert!(!m.module.was_started());
    assert_eq!(entries(&m), 0);
    assert_ne!(in_container(&podman).code, Some(0));
    m.module.plug_in();
    psi_test_support::wait::until("the value", || in_container(&podman).code == Some(0));
    assert_eq!(in_container(&podman).stdout, CANARY);
    assert_eq!(entries(&m), 0, "it is in memory only");
    let files = m.state_files();
    for file in files {
        let bytes = fs::read(m.host.state_dir().join(file)).unwrap();
        let canary = CANARY.as_bytes();
        assert!(!bytes.windows(canary.len()).any(|part| part == canary));
    }
}

#[test]
fn with_cache_a_start_needs_no_token_and_without_it_again_the_value_leaves_the_cache() {
    let (m, podman) = registered_for_app(true);
    let serve = m.serve();
    setup(&m).ended(0);
    assert_eq!(entries(&m), 1);
    let decrypted = m.module.calls("C_Decrypt");
    setup(&m).ended(0);
    assert_eq!(
        m.module.calls("C_Decrypt"),
        decrypted,
        "it is sealed already"
    );
    assert!(serve.sigterm().success());
    m.module.pull();
    serve.restart();
    assert_eq!(in_container(&podman).ended(0).stdout, CANARY);
    setup(&m).ended(0);
    configure_app(&m, &podman, false);
    serve.signal("HUP");
    setup(&m)
        .ended(0)
        .says(&["the values of workload app leave the cache"]);
    assert_eq!(entries(&m), 0);
    m.module.plug_in();
    psi_test_support::wait::until("the value", || in_container(&podman).code == Some(0));
}

#[test]
fn with_cache_a_token_that_is_away_fails_its_workload_and_nothing_is_lost() {
    let (m, podman) = registered_for_app(true);
    m.module.pull();
    let _serve = m.serve();
    setup(&m).ended(69).says(&["app", "not there"]);
    let names = podman.run(&["secret", "ls", "--format", "{{.Name}}"]);
    assert!(!Done::of(names).stdout.contains("app--DB"));
    m.module.plug_in();
    psi_test_support::wait::until("the value", || setup(&m).code == Some(0));
    assert_eq!(in_container(&podman).ended(0).stdout, CANARY);
}

#[test]
fn what_the_python_program_has_stored_is_read_under_its_name() {
    let m = with_stored(&["db"], "");
    let text = fs::read_to_string(m.host.state_dir().join("db")).unwrap();
    let mapping: serde_json::Value = serde_json::from_str(&text).unwrap();
    let blob = mapping["blob"].as_str().unwrap();
    // As its json.dumps writes it.
    let theirs = format!(r#"{{"provider": "nitrokeyhsm", "blob": "{blob}"}}"#);
    fs::write(m.host.state_dir().join("by-python"), theirs).unwrap();
    let _serve = m.serve();
    assert_eq!(m.lookup("by-python").ended(0).stdout, CANARY);
    m.run(&["list"]).ended(0).says(&["by-python"]);
    assert!(Path::new(&m.host.state_dir()).join("by-python").exists());
}
