//! Workloads with `provider: nitrokeyhsm`: their values were sealed for a token and lie in the state
//! directory. psi-setup registers them without the token.

use std::fs;
use std::os::unix::fs::symlink;

use crate::adopt::register_as_before;
use crate::fixture::{Fixture, workload};

fn token(name: &str, secrets: &str) -> String {
    format!("  {name}: {{provider: nitrokeyhsm, secrets: [{secrets}]}}\n")
}

/// With a token in the configuration that is not there.
fn fixture(workloads: &str) -> Fixture {
    let f = Fixture::new("");
    set_workloads(&f, workloads);
    f
}

fn set_workloads(f: &Fixture, workloads: &str) {
    f.set_workloads(workloads);
    let config = fs::read_to_string(f.host.config_file()).unwrap();
    let config = config.replace("providers:\n", "providers:\n  nitrokeyhsm: {}\n");
    fs::write(f.host.config_file(), config).unwrap();
}

fn store(f: &Fixture, name: &str, blob: &str) {
    let mapping = format!(r#"{{"provider": "nitrokeyhsm", "blob": "{blob}"}}"#);
    fs::write(f.host.state_dir().join(name), mapping).unwrap();
}

/// The blob that a registered secret stands for.
fn blob(f: &Fixture, secret: &str) -> String {
    let id = &f.registered()[secret];
    let mapping = fs::read(f.host.state_dir().join(id)).unwrap();
    let mapping: serde_json::Value = serde_json::from_slice(&mapping).unwrap();
    assert_eq!(mapping["provider"], "nitrokeyhsm");
    mapping["blob"].as_str().unwrap().to_owned()
}

#[test]
fn stored_secrets_that_a_workload_lists_are_registered_without_the_token() {
    let f = fixture(
        &(token("infisical", "{key: db, as: DB_PASSWORD}, {key: KEY}") + &workload("myapp")),
    );
    f.set("/myapp", "A", "1");
    store(&f, "db", "QUFB");
    store(&f, "KEY", "QkJC");
    let text = f.setup_exits(0, &[]);
    assert!(!text.contains("QUFB"), "{text}");
    assert_eq!(
        f.drop_in_secrets("infisical"),
        [
            "infisical--DB_PASSWORD,type=env,target=DB_PASSWORD",
            "infisical--KEY,type=env,target=KEY"
        ]
    );
    assert_eq!(blob(&f, "infisical--DB_PASSWORD"), "QUFB");
    assert_eq!(blob(&f, "infisical--KEY"), "QkJC");
    assert_eq!(f.cached(), 1, "only what Infisical has is in the cache");
    let before = f.registered();
    f.setup_exits(0, &[]);
    assert_eq!(f.registered(), before, "a second run registers nothing");
}

#[test]
fn a_value_that_was_stored_anew_is_registered_anew() {
    let f = fixture(&token("infisical", "{key: db}, {key: other}"));
    store(&f, "db", "QUFB");
    store(&f, "other", "QkJC");
    f.setup_exits(0, &[]);
    let before = f.registered();
    store(&f, "db", "Q0ND");
    f.setup_exits(0, &[]);
    assert_eq!(blob(&f, "infisical--db"), "Q0ND");
    assert_eq!(
        f.registered()["infisical--other"],
        before["infisical--other"]
    );
}

#[test]
fn a_secret_that_was_never_stored_fails_its_workload_alone_and_names_the_command() {
    let f = fixture(&(token("infisical", "{key: A}, {key: B, as: C}") + &workload("myapp")));
    f.set("/myapp", "A", "1");
    store(&f, "A", "QUFB");
    for arguments in [&["--dry-run"] as &[&str], &[]] {
        let text = f.setup_exits(1, arguments);
        for words in ["nothing is stored for infisical--C", "`psi-hsm store B`"] {
            assert!(text.contains(words), "{text}");
        }
        assert!(!text.contains("store A"), "{text}");
    }
    assert!(!f.drop_in("infisical").exists());
    assert!(!f.registered().contains_key("infisical--A"));
    assert_eq!(f.container_env("myapp")["A"], "1");
}

#[test]
fn what_lies_in_the_place_of_a_stored_secret_is_not_taken_for_one() {
    let f = fixture(&(token("infisical", "{key: A}") + &workload("myapp")));
    f.set("/myapp", "A", "1");
    let file = f.host.state_dir().join("A");
    let outside = f.host.path("outside");
    fs::write(&outside, r#"{"provider": "nitrokeyhsm", "blob": "QUFB"}"#).unwrap();
    let plant: [(&str, &dyn Fn()); 4] = [
        ("is one of provider infisical", &|| {
            fs::write(&file, r#"{"provider": "infisical", "key": "A"}"#).unwrap();
        }),
        ("not a mapping", &|| fs::write(&file, "canary").unwrap()),
        ("cannot read", &|| symlink(&outside, &file).unwrap()),
        ("cannot read", &|| fs::create_dir(&file).unwrap()),
    ];
    for (why, plant) in plant {
        let _ = fs::remove_file(&file);
        plant();
        let output = f.setup(&[]);
        let text = crate::fixture::both(&output);
        assert!(
            !output.status.success() && text.contains(why),
            "{why}: {text}"
        );
        assert!(!text.contains("canary"), "{text}");
        assert!(!f.registered().contains_key("infisical--A"), "{why}");
        assert_eq!(f.container_env("myapp")["A"], "1");
    }
}

#[test]
fn stored_secrets_that_neither_a_workload_nor_podman_knows_are_reported() {
    let f = fixture("  token: {provider: nitrokeyhsm, depends_on: [pcscd.service]}\n");
    store(&f, "lost", "QUFB");
    store(&f, "by-hand", "QkJC");
    register_as_before(
        &f,
        "by-hand",
        r#"{"provider": "nitrokeyhsm", "blob": "QkJC"}"#,
    );
    let text = f.setup_exits(0, &[]);
    assert!(
        text.contains("the stored secret lost reaches no container"),
        "{text}"
    );
    assert!(!text.contains("by-hand"), "{text}");
    set_workloads(&f, &token("token", "{key: lost}"));
    let text = f.setup_exits(0, &[]);
    assert!(!text.contains("reaches no container"), "{text}");
}

#[test]
fn without_a_state_directory_the_service_that_makes_it_is_named() {
    let f = fixture(&token("infisical", "{key: A}"));
    fs::remove_dir_all(f.host.state_dir()).unwrap();
    let text = f.setup_exits(66, &[]);
    for words in ["no state directory", "systemctl start psi-secrets.socket"] {
        assert!(text.contains(words), "{text}");
    }
    assert!(!f.host.state_dir().exists());
}

#[test]
fn secrets_of_a_token_that_are_not_listed_stay_in_podman_and_in_the_drop_in() {
    let token = "  token: {provider: nitrokeyhsm, depends_on: [pcscd.service]}\n";
    let f = fixture(token);
    let sealed = r#"{"provider": "nitrokeyhsm", "blob": "AAAA"}"#;
    register_as_before(&f, "token--A", sealed);
    register_as_before(&f, "token--B", sealed);
    let line = "token--A,type=mount,target=/run/a";
    fs::create_dir(f.drop_in("token").parent().unwrap()).unwrap();
    fs::write(f.drop_in("token"), format!("[Container]\nSecret={line}\n")).unwrap();
    let before = f.registered();
    for arguments in [&["--dry-run"] as &[&str], &[], &[], &["--prune-now"]] {
        let text = f.setup_exits(0, arguments);
        assert!(!text.contains("token--"), "{text}");
        assert_eq!(f.registered(), before);
        assert_eq!(f.drop_in_secrets("token"), [line]);
    }
    let drop_in = fs::read_to_string(f.drop_in("token")).unwrap();
    assert!(drop_in.contains("After=pcscd.service"), "{drop_in}");
}
