//! A crash at any step of a run: the next run ends as if there had been none.

use std::fs;
use std::process::Command;

use crate::fixture::{Fixture, PROJECT, SETUP, both, workload};

/// The calls by which a run changes anything outside of itself, or asks for a change.
const STEPS: &str = "sendto,sendmsg,writev,write,mkdir,renameat,renameat2,fsync,fchmod,unlinkat";

/// More than a run has.
const MOST_STEPS: usize = 400;

/// More than a run has that registers nothing.
const REMOVALS: usize = 120;

/// Runs psi-setup and kills it when it is about to take step `n`. Says whether it was killed.
fn setup_killed_at(f: &Fixture, n: usize) -> bool {
    let mut command = f.host.command("strace");
    command.args(["--quiet=all", "-f", "-o", "/dev/null"]);
    command.arg(format!("--trace={STEPS}"));
    command.arg(format!("--inject={STEPS}:signal=KILL:when={n}"));
    let output = command.arg(SETUP).output().unwrap();
    let finished = output.status.code() == Some(0);
    assert!(
        finished || output.status.code() != Some(1),
        "{}",
        both(&output)
    );
    !finished
}

/// Every secret that the drop-in names can be looked up.
fn assert_drop_in_is_served(f: &Fixture, name: &str, step: usize) {
    let registered = f.registered();
    for secret in f.drop_in_secrets(name) {
        let name = secret.split(',').next().unwrap();
        let id = registered
            .get(name)
            .unwrap_or_else(|| unreachable!("step {step}: {name} is not registered"));
        let output = f.lookup(id);
        assert!(output.status.success(), "step {step}: {}", both(&output));
    }
}

#[test]
fn a_crash_at_any_step_is_made_good_by_the_next_run() {
    let f = Fixture::new(&workload("w0"));
    assert!(
        Command::new("strace")
            .arg("--version")
            .output()
            .unwrap()
            .status
            .success()
    );
    let reload = f.host.socket().with_file_name("setup.reload");
    let (mut killed, mut reloads_made_good) = (0, 0);
    for step in 1..MOST_STEPS {
        let name = format!("w{step}");
        f.set_workloads(&workload(&name));
        f.set(&format!("/{name}"), "A", "1");
        f.set(&format!("/{name}"), "B", "2");
        let was_killed = setup_killed_at(&f, step);
        assert_drop_in_is_served(&f, &name, step);
        if !was_killed {
            break;
        }
        killed += 1;
        let owes_a_reload = reload.exists();
        let output = f.setup(&["--json"]);
        assert!(output.status.success(), "step {step}: {}", both(&output));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        if owes_a_reload {
            assert!(!report["reloaded"].is_null(), "step {step}");
            reloads_made_good += usize::from(report["workloads"][0]["drop_in_changes"] == false);
        }
        assert!(!reload.exists(), "step {step}");
        assert_eq!(f.drop_in_secrets(&name).len(), 2, "step {step}");
        assert_drop_in_is_served(&f, &name, step);
        let ours = format!("{name}--");
        let registered = f.registered();
        assert_eq!(
            registered.keys().filter(|n| n.starts_with(&ours)).count(),
            2
        );
        let files = fs::read_dir(f.drop_in(&name).parent().unwrap()).unwrap();
        assert_eq!(files.count(), 1, "step {step} left a file behind");
        // Or else each run would have more to say of those before it.
        let secrets = registered.keys().filter(|n| n.starts_with(&ours));
        let remove: Vec<&str> = ["secret", "rm"]
            .into_iter()
            .chain(secrets.map(String::as_str))
            .collect();
        assert!(f.podman.run(&remove).status.success());
    }
    assert!(
        reloads_made_good > 0,
        "no crash fell between a drop-in and its reload"
    );
    assert!((10..MOST_STEPS - 1).contains(&killed), "{killed} steps");
}

#[test]
fn a_crash_at_any_step_of_a_removal_is_made_good_by_the_next_run() {
    let f = Fixture::new(&workload("w"));
    let key = |n: usize| format!("K{n:03}");
    for n in 0..REMOVALS {
        f.set("/w", &key(n), "value");
    }
    f.setup_exits(0, &[]);
    let ids = f.registered();
    let (mut killed, mut kept, mut removed) = (0, 0, 0);
    for step in 1..REMOVALS {
        let gone = format!("w--{}", key(step));
        f.infisical.remove(PROJECT, "prod", "/w", &key(step));
        f.setup_exits(0, &[]);
        assert!(f.registered().contains_key(&gone), "step {step}");
        let was_killed = setup_killed_at(&f, step);
        assert_drop_in_is_served(&f, "w", step);
        match f.registered().contains_key(&gone) {
            true => {
                kept += 1;
                let output = f.lookup(&ids[&gone]);
                assert_eq!(output.stdout, b"value", "step {step}: {}", both(&output));
            }
            false => removed += 1,
        }
        f.setup_exits(0, &[]);
        assert!(!f.registered().contains_key(&gone), "step {step}");
        assert_eq!(f.cached(), f.registered().len(), "step {step}");
        if !was_killed {
            break;
        }
        killed += 1;
    }
    assert!(kept > 0 && removed > 1, "{kept} kept, {removed} removed");
    assert!((10..REMOVALS - 2).contains(&killed), "{killed} steps");
}
