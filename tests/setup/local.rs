//! Workloads with `provider: local`: their values were put by hand and are in the cache only.

use std::fs;
use std::io::Write;
use std::process::{Output, Stdio};

use crate::fixture::{CACHECTL, Fixture, both, workload};

const CANARY: &str = "canary-3f9c-local-value";

fn local(name: &str, secrets: &str) -> String {
    format!("  {name}: {{provider: local, secrets: [{secrets}]}}\n")
}

fn cachectl(f: &Fixture, arguments: &[&str], stdin: &[u8]) -> Output {
    let mut command = f.host.command(CACHECTL);
    command.args(arguments).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(stdin).unwrap();
    child.wait_with_output().unwrap()
}

fn put(f: &Fixture, name: &str, value: &[u8]) {
    let output = cachectl(f, &["put", name], value);
    assert!(output.status.success(), "{}", both(&output));
}

#[test]
fn a_value_that_was_put_reaches_the_container_and_no_refresh_touches_it() {
    let mut f = Fixture::new(
        &(local("bootstrap", "{key: DB_PASSWORD, as: POSTGRES_PASSWORD}") + &workload("myapp")),
    );
    f.set("/myapp", "A", "1");
    f.set("/myapp", "B", "2");
    put(&f, "DB_PASSWORD", CANARY.as_bytes());
    let mut said = f.setup_exits(0, &[]);
    assert_eq!(
        f.drop_in_secrets("bootstrap"),
        ["bootstrap--POSTGRES_PASSWORD,type=env,target=POSTGRES_PASSWORD"]
    );
    assert_eq!(f.container_env("bootstrap")["POSTGRES_PASSWORD"], CANARY);

    f.infisical
        .remove(crate::fixture::PROJECT, "prod", "/myapp", "B");
    said += &f.setup_exits(0, &[]);
    said += &f.setup_exits(0, &["--provider", "infisical"]);
    said += &both(&cachectl(&f, &["refresh"], b""));
    f.serve.kill9();
    f.infisical.stop();
    f.serve.restart();
    assert_eq!(f.container_env("bootstrap")["POSTGRES_PASSWORD"], CANARY);

    put(&f, "DB_PASSWORD", b"rotated");
    assert_eq!(f.container_env("bootstrap")["POSTGRES_PASSWORD"], "rotated");
    assert!(f.serve.sigterm().success());
    said += &f.serve.log();
    said += &f.podman.service_log();
    assert!(!said.contains(CANARY), "{said}");
    let clear = files_with(f.host.path(""), CANARY);
    assert!(clear.is_empty(), "{clear:?}");
}

/// Every file below `folder` that has `text` in it.
fn files_with(folder: std::path::PathBuf, text: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(files_with(entry.path(), text));
        } else if kind.is_file() {
            let bytes = fs::read(entry.path()).unwrap();
            if bytes.windows(text.len()).any(|w| w == text.as_bytes()) {
                found.push(entry.path());
            }
        }
    }
    found
}

#[test]
fn two_workloads_have_one_local_value_under_names_of_their_own() {
    let f = Fixture::new(
        &(local("one", "{key: TOKEN}") + &local("two", "{key: TOKEN, as: API_TOKEN}")),
    );
    put(&f, "TOKEN", b"shared");
    f.setup_exits(0, &[]);
    assert_eq!(f.container_env("one")["TOKEN"], "shared");
    assert_eq!(f.container_env("two")["API_TOKEN"], "shared");
    let ids = f.registered();
    f.setup_exits(0, &[]);
    assert_eq!(f.registered(), ids, "a second run registers nothing");
}

#[test]
fn a_value_that_was_never_put_fails_its_workload_alone_and_names_the_command() {
    let f = Fixture::new(&(local("bootstrap", "{key: A}, {key: B, as: C}") + &workload("myapp")));
    f.set("/myapp", "A", "1");
    put(&f, "A", b"there");
    for arguments in [&["--dry-run"] as &[&str], &[]] {
        let text = f.setup_exits(1, arguments);
        for words in ["no value for bootstrap--C", "`psi-cachectl put B`"] {
            assert!(text.contains(words), "{text}");
        }
        assert!(!text.contains("put A"), "{text}");
    }
    assert!(!f.drop_in("bootstrap").exists());
    assert!(!f.registered().contains_key("bootstrap--A"));
    assert_eq!(f.container_env("myapp")["A"], "1");
    put(&f, "B", b"now");
    f.setup_exits(0, &[]);
    assert_eq!(f.container_env("bootstrap")["C"], "now");
}

#[test]
fn a_value_that_is_gone_leaves_the_workload_with_what_it_has() {
    let f = Fixture::new(&local("bootstrap", "{key: A}"));
    put(&f, "A", b"v");
    f.setup_exits(0, &[]);
    let (drop_in, ids) = (f.drop_in_secrets("bootstrap"), f.registered());
    let text = both(&cachectl(&f, &["rm", "--force", "A"], b""));
    assert!(text.contains("removed the local value A"), "{text}");
    let lookup = f.lookup(&ids["bootstrap--A"]);
    assert!(!lookup.status.success() && lookup.stdout.is_empty());
    assert!(
        both(&lookup).contains("psi-cachectl put A"),
        "{}",
        both(&lookup)
    );
    f.setup_exits(1, &[]);
    assert_eq!(
        (f.drop_in_secrets("bootstrap"), f.registered()),
        (drop_in, ids.clone())
    );
    put(&f, "A", b"w");
    assert_eq!(f.lookup(&ids["bootstrap--A"]).stdout, b"w");
}

#[test]
fn a_value_that_no_variable_can_hold_is_kept_and_not_registered() {
    let f = Fixture::new(&local("bootstrap", "{key: KEYTAB}"));
    for unfit in [b"a\0b".to_vec(), vec![b'x'; 200_000]] {
        let output = cachectl(&f, &["put", "KEYTAB"], &unfit);
        assert!(output.status.success(), "{}", both(&output));
        assert!(
            both(&output).contains("no variable can hold"),
            "{}",
            both(&output)
        );
        let text = f.setup_exits(1, &[]);
        assert!(
            text.contains("no variable can hold the value of bootstrap--KEYTAB"),
            "{text}"
        );
        assert!(text.contains("psi-cachectl put KEYTAB"), "{text}");
        assert!(!f.drop_in("bootstrap").exists());
    }
    put(&f, "KEYTAB", b"fits");
    f.setup_exits(0, &[]);
    assert_eq!(f.container_env("bootstrap")["KEYTAB"], "fits");
}

#[test]
fn without_a_cache_a_local_workload_fails_and_names_the_command() {
    let f = Fixture::with_cache(&local("bootstrap", "{key: A}"), "cache: {enabled: false}");
    let text = f.setup_exits(1, &[]);
    assert!(text.contains("psi-cachectl put A"), "{text}");
    assert!(!f.drop_in("bootstrap").exists() && f.registered().is_empty());
    let output = cachectl(&f, &["put", "A"], b"v");
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    assert!(
        both(&output).contains("set `cache.backend`"),
        "{}",
        both(&output)
    );
}

#[test]
fn a_key_that_config_yaml_no_longer_lists_leaves_the_drop_in_and_its_value_stays() {
    let f = Fixture::new(&local(
        "bootstrap",
        "{key: A}, {key: B}, {key: C}, {key: D}",
    ));
    for name in ["A", "B", "C", "D"] {
        put(&f, name, b"v");
    }
    f.setup_exits(0, &[]);
    f.set_workloads(&local("bootstrap", "{key: A}"));
    f.setup_exits(0, &[]);
    assert_eq!(
        f.drop_in_secrets("bootstrap"),
        ["bootstrap--A,type=env,target=A"]
    );
    f.set_workloads(&local("bootstrap", "{key: A}, {key: B}"));
    f.setup_exits(0, &[]);
    assert_eq!(f.container_env("bootstrap")["B"], "v");
}

#[test]
fn while_the_cache_is_closed_no_value_is_said_to_be_missing() {
    let f = Fixture::new(&local("bootstrap", "{key: DB_PASSWORD}"));
    put(&f, "DB_PASSWORD", b"here");
    f.setup_exits(0, &[]);
    let key = fs::read(f.host.credentials_dir().join("psi-cache-key")).unwrap();
    f.host.remove_credential("psi-cache-key");
    assert!(f.serve.sigterm().success());
    f.serve.restart();
    let said = f.setup_exits(69, &[]);
    for word in [
        "whether there is a value for bootstrap--DB_PASSWORD can't be known",
        "the cache is closed: no slot opens the cache",
        "systemctl restart psi-secrets.service",
    ] {
        assert!(said.contains(word), "{word:?} is not in {said}");
    }
    assert!(!said.contains("psi-cachectl put"), "{said}");
    f.host.set_credential("psi-cache-key", &key);
    assert!(f.serve.sigterm().success());
    f.serve.restart();
    f.setup_exits(0, &[]);
    assert_eq!(f.container_env("bootstrap")["DB_PASSWORD"], "here");
}

#[test]
fn a_list_that_has_become_empty_changes_nothing_unless_that_is_accepted() {
    let f = Fixture::new(&local("bootstrap", "{key: A}"));
    put(&f, "A", b"v");
    f.setup_exits(0, &[]);
    let before = (f.drop_in_secrets("bootstrap"), f.registered());
    f.set_workloads(&local("bootstrap", ""));
    let text = f.setup_exits(1, &[]);
    for words in [
        "where 1 keys were",
        "--accept-removals bootstrap",
        "`secrets:`",
    ] {
        assert!(text.contains(words), "{text}");
    }
    assert_eq!((f.drop_in_secrets("bootstrap"), f.registered()), before);
    f.setup_exits(0, &["--accept-removals", "bootstrap"]);
    assert!(f.drop_in_secrets("bootstrap").is_empty());
}
