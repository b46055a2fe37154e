//! Answers of the provider that look like a mistake: each changes nothing of its workload, says why
//! and what to do, and holds up nobody else.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use psi_test_support::infisical::{Fault, Identity, Route, Times};

use crate::fixture::{Fixture, PROJECT, workload};

/// The workload that gets the bad answer has four keys; the other one has one.
fn set_up() -> Fixture {
    let f = Fixture::new(&(workload("bad") + &workload("good")));
    for key in ["A", "B", "C", "D"] {
        f.set("/bad", key, "old");
    }
    f.set("/good", "A", "old");
    f.setup_exits(0, &[]);
    f
}

/// All that a run could change: the cache file, Podman's secrets and the drop-ins.
#[derive(Debug, PartialEq)]
struct Kept {
    cache: Vec<u8>,
    secrets: BTreeMap<String, String>,
    drop_ins: [String; 2],
}

impl Kept {
    fn of(f: &Fixture) -> Self {
        let drop_in = |workload| fs::read_to_string(f.drop_in(workload)).unwrap();
        Self {
            cache: fs::read(f.host.cache_file()).unwrap(),
            secrets: f.registered(),
            drop_ins: [drop_in("bad"), drop_in("good")],
        }
    }
}

/// Expects that a run after `answer` ends with `code`, keeps all there is, and has one line for the
/// workload with all of `said`; and that the other workload gets what is new for it.
fn changes_nothing(answer: impl FnOnce(&Fixture), code: i32, said: &[&str]) {
    let f = set_up();
    answer(&f);
    let before = Kept::of(&f);
    let text = f.setup_exits(code, &[]);
    assert_eq!(Kept::of(&f), before, "{text}");
    let mut lines = text.lines();
    let line = lines.find(|line| said.iter().all(|word| line.contains(word)));
    assert!(line.is_some(), "no line with {said:?} in: {text}");

    f.set("/good", "A", "new");
    f.setup_exits(code, &[]);
    assert_eq!(f.lookup(&before.secrets["good--A"]).stdout, b"new");
    assert_eq!(f.lookup(&before.secrets["bad--A"]).stdout, b"old");
    assert_eq!(Kept::of(&f).drop_ins, before.drop_ins);
}

#[test]
fn an_empty_listing() {
    let empty = |f: &Fixture| {
        for key in ["A", "B", "C", "D"] {
            f.infisical.remove(PROJECT, "prod", "/bad", key);
        }
    };
    changes_nothing(empty, 1, &["nothing", "4 keys", "--accept-removals bad"]);
}

#[test]
fn more_than_half_of_the_keys_gone() {
    let gone = |f: &Fixture| {
        for key in ["A", "B", "C"] {
            f.infisical.remove(PROJECT, "prod", "/bad", key);
        }
    };
    changes_nothing(gone, 1, &["3 of 4 keys are gone", "--accept-removals bad"]);
}

#[test]
fn hidden_values() {
    let hide = |f: &Fixture| {
        let identity = Identity::new("myapp-id", "myapp-secret")
            .may_read(PROJECT, "/")
            .may_list(PROJECT, "/bad");
        f.infisical.add_identity(identity);
    };
    changes_nothing(hide, 1, &["workload bad", "hidden", "next: "]);
}

#[test]
fn a_page_with_status_200() {
    let page = |f: &Fixture| {
        f.infisical
            .fault(Route::ListOf("/bad"), Times::Always, Fault::page());
    };
    changes_nothing(page, 1, &["workload bad", "not a JSON object", "api_url"]);
}

#[test]
fn half_a_json_text() {
    let half = |f: &Fixture| {
        let half = Fault::Answer {
            status: 200,
            headers: vec![("content-type", "application/json".into())],
            body: r#"{"secrets":[{"secretKey":"A","secretVal"#.into(),
        };
        f.infisical
            .fault(Route::ListOf("/bad"), Times::Always, half);
    };
    changes_nothing(half, 1, &["workload bad", "JSON", "next: "]);
}

#[test]
fn one_key_with_two_values() {
    let twice = |f: &Fixture| {
        f.infisical
            .add_duplicate(PROJECT, "prod", "/bad", "A", "another");
    };
    changes_nothing(twice, 1, &["workload bad", "A", "twice", "next: "]);
}

#[test]
fn a_reference_where_a_value_was() {
    let unresolved = |f: &Fixture| f.set("/bad", "A", "${GONE}");
    changes_nothing(unresolved, 1, &["bad--A", "${", "--accept-removals bad"]);
}

#[test]
fn a_value_that_no_variable_can_hold() {
    let large = |f: &Fixture| f.set("/bad", "A", &"x".repeat(600 * 1024));
    changes_nothing(large, 1, &["A is too large for a variable", "next: "]);
}

#[test]
fn an_answer_without_an_end() {
    let endless = |f: &Fixture| {
        let endless = Fault::Endless {
            chunked: true,
            pause: Duration::from_millis(1),
        };
        f.infisical
            .fault(Route::ListOf("/bad"), Times::Always, endless);
    };
    changes_nothing(endless, 1, &["workload bad", "16 MiB", "next: "]);
}

/// 8 MB within the time that an attempt is given. It can't be told from a server that is slow.
#[test]
fn an_answer_that_drips() {
    let drip = |f: &Fixture| {
        let drip = Fault::Endless {
            chunked: true,
            pause: Duration::from_millis(80),
        };
        f.infisical
            .fault(Route::ListOf("/bad"), Times::Always, drip);
    };
    let said = ["workload bad", "no answer in the time there was", "next: "];
    changes_nothing(drip, 75, &said);
}

const MERGED: &str = "  merged: {secrets: [{project: myproject, path: /own}, {project: myproject, path: /shared, recursive: true}]}\n";

#[test]
fn a_folder_that_is_gone_among_others_changes_nothing_unless_that_is_accepted() {
    let f = Fixture::new(MERGED);
    for key in ["A", "B", "C", "D", "E"] {
        f.set("/own", key, "own");
    }
    f.set("/shared/deep", "F", "shared");
    f.setup_exits(0, &[]);
    let before = f.drop_in_secrets("merged");
    f.infisical.remove(PROJECT, "prod", "/shared/deep", "F");
    let text = f.setup_exits(1, &[]);
    for words in [
        "/shared of myproject",
        "merged--F",
        "--accept-removals merged",
    ] {
        assert!(text.contains(words), "{text}");
    }
    assert_eq!(f.drop_in_secrets("merged"), before);
    f.setup_exits(0, &["--accept-removals", "merged"]);
    assert_eq!(f.drop_in_secrets("merged").len(), 5);
    f.setup_exits(0, &[]);
}

#[test]
fn no_other_folder_s_value_takes_the_place_of_one_whose_folder_is_gone() {
    let f = Fixture::new(MERGED);
    f.set("/own", "A", "own");
    f.set("/shared", "A", "shared");
    f.setup_exits(0, &[]);
    f.infisical.remove(PROJECT, "prod", "/shared", "A");
    let text = f.setup_exits(1, &[]);
    assert!(text.contains("/shared of myproject"), "{text}");
    assert_eq!(f.container_env("merged")["A"], "shared");
    f.setup_exits(0, &["--accept-removals", "merged"]);
    assert_eq!(f.container_env("merged")["A"], "own");
}

#[test]
fn a_reference_that_one_workload_refuses_does_not_come_in_by_another() {
    let of_a_folder =
        |name: &str| format!("  {name}: {{secrets: [{{project: myproject, path: /shared}}]}}\n");
    let f = Fixture::new(&of_a_folder("first"));
    f.set("/shared", "A", "resolved");
    f.setup_exits(0, &[]);
    f.set("/shared", "A", "${GONE}");
    f.set_workloads(&(of_a_folder("first") + &of_a_folder("second")));
    let text = f.setup_exits(1, &[]);
    assert!(text.contains("--accept-removals second"), "{text}");
    assert_eq!(f.container_env("first")["A"], "resolved");
    assert!(!f.drop_in("second").exists());
    let both = ["--accept-removals", "first", "--accept-removals", "second"];
    f.setup_exits(0, &both);
    assert_eq!(f.container_env("second")["A"], "${GONE}");
}
