//! The main job: the first run, the runs after it, rotation, an outage.

use std::fs;

use psi_test_support::infisical::{Fault, Route, Times};

use crate::fixture::{CACHECTL, Fixture, PROJECT, both, workload};

const LIST: &str = "GET /v4.0.0/libpod/secrets/json";

#[test]
fn the_first_run_makes_containers_start_with_their_values() {
    let workloads = "  myapp:
    depends_on: [psi-infisical-setup.service]
    secrets:
      - {project: myproject, path: /myapp}
      - {project: myproject, path: /shared}
";
    let f = Fixture::new(workloads);
    f.set("/myapp", "DB_HOST", "db.example.com");
    f.set("/myapp", "LEVEL", "from myapp");
    f.set("/shared", "LEVEL", "from shared");
    let text = f.setup_exits(0, &[]);
    assert!(text.contains("myapp"), "{text}");

    let drop_in = fs::read_to_string(f.drop_in("myapp")).unwrap();
    assert!(
        drop_in.contains("\nAfter=psi-infisical-setup.service\n"),
        "{drop_in}"
    );
    assert_eq!(
        f.drop_in_secrets("myapp"),
        [
            "myapp--DB_HOST,type=env,target=DB_HOST",
            "myapp--LEVEL,type=env,target=LEVEL"
        ]
    );
    let variables = f.container_env("myapp");
    assert_eq!(variables["DB_HOST"], "db.example.com");
    assert_eq!(variables["LEVEL"], "from shared", "later sources win");
    let id = &f.registered()["myapp--DB_HOST"];
    let mapping = fs::read_to_string(f.host.state_dir().join(id)).unwrap();
    assert_eq!(
        mapping,
        r#"{"key":"DB_HOST","path":"/myapp","project":"myproject","provider":"infisical"}"#
    );
}

#[test]
fn a_run_with_nothing_changed_asks_podman_once_and_writes_nothing() {
    let f = Fixture::new(&workload("myapp"));
    for n in 0..200 {
        f.set("/myapp", &format!("KEY_{n}"), &format!("value {n}"));
    }
    f.setup_exits(0, &[]);
    let before = (
        f.registered(),
        fs::metadata(f.drop_in("myapp"))
            .unwrap()
            .modified()
            .unwrap(),
        fs::read(f.host.cache_file()).unwrap(),
    );
    f.proxy.clear();
    f.infisical.clear_requests();
    f.setup_exits(0, &[]);
    assert_eq!(f.proxy.requests(), [LIST]);
    let asked: Vec<String> = f
        .infisical
        .requests()
        .iter()
        .map(|r| r.path.clone())
        .collect();
    assert_eq!(
        asked,
        ["/api/v1/auth/universal-auth/login", "/api/v4/secrets"]
    );
    let after = (
        f.registered(),
        fs::metadata(f.drop_in("myapp"))
            .unwrap()
            .modified()
            .unwrap(),
        fs::read(f.host.cache_file()).unwrap(),
    );
    assert!(before == after);
}

#[test]
fn a_rotated_value_is_served_at_once_and_costs_podman_nothing() {
    let f = Fixture::new(&workload("myapp"));
    for n in 0..200 {
        f.set("/myapp", &format!("KEY_{n}"), &format!("value {n}"));
    }
    f.setup_exits(0, &[]);
    let ids = f.registered();
    f.set("/myapp", "KEY_7", "rotated");
    f.proxy.clear();
    f.setup_exits(0, &[]);
    assert_eq!(f.proxy.requests(), [LIST]);
    assert_eq!(f.registered(), ids);
    assert_eq!(f.lookup(&ids["myapp--KEY_7"]).stdout, b"rotated");
    assert_eq!(f.lookup(&ids["myapp--KEY_8"]).stdout, b"value 8");
}

#[test]
fn a_new_key_is_registered_without_touching_the_others() {
    let f = Fixture::new(&workload("myapp"));
    f.set("/myapp", "A", "1");
    f.setup_exits(0, &[]);
    let before = f.registered();
    f.set("/myapp", "B", "2");
    f.proxy.clear();
    f.setup_exits(0, &[]);
    assert_eq!(
        f.proxy.requests(),
        [LIST, "POST /v4.0.0/libpod/secrets/create"]
    );
    assert_eq!(f.registered()["myapp--A"], before["myapp--A"]);
    assert_eq!(f.container_env("myapp")["B"], "2");
}

#[test]
fn a_key_that_is_gone_upstream_leaves_the_drop_in_and_still_serves_running_containers() {
    let f = Fixture::new(&workload("myapp"));
    f.set("/myapp", "A", "1");
    f.set("/myapp", "B", "2");
    f.setup_exits(0, &[]);
    let ids = f.registered();
    f.infisical.remove(PROJECT, "prod", "/myapp", "A");
    let text = f.setup_exits(0, &[]);
    assert!(text.contains("myapp--A"), "it is named: {text}");
    assert_eq!(f.drop_in_secrets("myapp"), ["myapp--B,type=env,target=B"]);
    assert_eq!(f.lookup(&ids["myapp--A"]).stdout, b"1");
    assert_eq!(f.registered(), ids);
}

#[test]
fn an_outage_with_a_restart_in_the_middle_stops_no_container() {
    let mut f = Fixture::new(&workload("myapp"));
    f.set("/myapp", "A", "before the outage");
    f.setup_exits(0, &[]);
    f.infisical.stop();
    f.serve.kill9();
    f.serve.restart();
    assert_eq!(f.container_env("myapp")["A"], "before the outage");

    f.proxy.clear();
    let text = f.setup_exits(75, &[]);
    assert!(text.contains("served from the cache"), "{text}");
    assert_eq!(f.proxy.requests(), [LIST]);
    assert_eq!(f.container_env("myapp")["A"], "before the outage");

    f.infisical.restart();
    f.set("/myapp", "A", "after it");
    f.setup_exits(0, &[]);
    assert_eq!(f.container_env("myapp")["A"], "after it");
}

#[test]
fn a_proxy_whose_infisical_is_not_up_yet_is_waited_for_like_an_outage() {
    let f = Fixture::new(&workload("myapp"));
    f.set("/myapp", "A", "1");
    let not_up = || Fault::status(404);
    f.infisical.fault(Route::Any, Times::Next(1), not_up());
    f.setup_exits(0, &[]);
    f.infisical.fault(Route::Any, Times::Always, not_up());
    let text = f.setup_exits(75, &[]);
    assert!(text.contains("in front of it"), "{text}");
}

#[test]
fn an_outage_with_something_missing_is_a_failure_that_says_so() {
    let mut f = Fixture::new(&workload("myapp"));
    f.infisical.stop();
    let text = f.setup_exits(69, &[]);
    assert!(
        text.contains("myapp") && text.contains("127.0.0.1"),
        "{text}"
    );
    assert!(!f.drop_in("myapp").exists());
}

#[test]
fn what_is_registered_and_no_longer_cached_counts_as_missing_in_an_outage() {
    let f = Fixture::new(&workload("myapp"));
    f.set("/myapp", "A", "1");
    f.setup_exits(0, &[]);
    assert!(f.serve.sigterm().success());
    fs::remove_file(f.host.cache_file()).unwrap();
    f.serve.restart();
    f.infisical
        .fault(Route::Any, Times::Always, Fault::status(503));
    f.setup_exits(69, &[]);
}

#[test]
fn a_dry_run_says_what_would_change_and_changes_nothing() {
    let f = Fixture::new(&workload("myapp"));
    f.set("/myapp", "A", "the-value");
    let text = f.setup_exits(0, &["--dry-run"]);
    assert!(text.contains("create: myapp--A"), "{text}");
    assert!(!text.contains("the-value"), "{text}");
    assert!(f.registered().is_empty());
    assert!(!f.drop_in("myapp").exists() && !f.host.cache_file().exists());
    assert_eq!(f.proxy.requests(), [LIST]);

    let output = f.setup(&["--dry-run", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["dry_run"], true);
    assert_eq!(report["workloads"][0]["created"][0], "myapp--A");
    assert_eq!(report["workloads"][0]["drop_in_changes"], true);
}

#[test]
fn without_a_cache_setup_registers_and_lookups_are_live() {
    let f = Fixture::with_cache(&workload("myapp"), "cache: {enabled: false}");
    f.set("/myapp", "A", "live");
    let text = f.setup_exits(0, &[]);
    assert!(text.contains("no cache"), "{text}");
    assert_eq!(f.container_env("myapp")["A"], "live");
    assert!(!f.host.cache_file().exists());
}

#[test]
fn two_runs_at_once_lose_nothing() {
    let f = Fixture::new(&(workload("one") + &workload("two")));
    for n in 0..20 {
        f.set("/one", &format!("KEY_{n}"), "1");
        f.set("/two", &format!("KEY_{n}"), "2");
    }
    let outputs = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..2).map(|_| scope.spawn(|| f.setup(&[]))).collect();
        let joined = runs.into_iter().map(|run| run.join().unwrap());
        joined.collect::<Vec<_>>()
    });
    for output in &outputs {
        assert!(output.status.success(), "{}", both(output));
    }
    assert_eq!(f.registered().len(), 40);
    let creates = f
        .proxy
        .requests()
        .iter()
        .filter(|r| r.starts_with("POST"))
        .count();
    assert_eq!(creates, 40, "the second run found everything registered");
    for (name, id) in f.registered() {
        let expected = if name.starts_with("one") { b"1" } else { b"2" };
        assert_eq!(f.lookup(&id).stdout, expected);
    }
}

#[test]
fn refresh_is_the_same_run_with_the_same_exit_codes() {
    let mut f = Fixture::new(&workload("myapp"));
    let refresh = |f: &Fixture| {
        let output = f.host.command(CACHECTL).arg("refresh").output().unwrap();
        (output.status.code(), both(&output))
    };
    f.set("/myapp", "A", "1");
    assert_eq!(refresh(&f).0, Some(0));
    assert_eq!(f.container_env("myapp")["A"], "1");
    f.infisical.stop();
    let (code, text) = refresh(&f);
    assert_eq!(code, Some(75), "{text}");
    assert!(f.serve.sigterm().success());
    let (code, text) = refresh(&f);
    assert_eq!(code, Some(69), "{text}");
    assert!(text.contains("psi-secrets.service"), "{text}");
}

#[test]
fn a_value_that_changes_between_two_listings_of_its_folder_is_the_same_for_all() {
    let f = Fixture::new(
        "  all: {secrets: [{project: myproject, path: /app, recursive: true}]}
  sub: {secrets: [{project: myproject, path: /app/sub}]}
",
    );
    f.set("/app/sub", "A", "old");
    let changed = Fault::Answer {
        status: 200,
        headers: vec![("content-type", "application/json".into())],
        body: r#"{"secrets":[{"secretKey":"A","secretValue":"new","secretPath":"/app/sub"}]}"#
            .into(),
    };
    f.infisical
        .fault(Route::ListOf("/app/sub"), Times::Next(1), changed);
    f.setup_exits(0, &[]);
    let value = |workload| f.container_env(workload)["A"].clone();
    assert_eq!(value("all"), value("sub"));
    f.setup_exits(0, &[]);
    assert_eq!([value("all"), value("sub")], ["old", "old"]);
}
