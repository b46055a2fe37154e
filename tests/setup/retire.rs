//! Keys that are gone upstream: what stays for running containers, and what goes when.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use psi_test_support::podman::Podman;
use psi_test_support::proxy::Step;
use psi_test_support::psi::ask;
use psi_test_support::wait;
use serde_json::{Value, json};

use crate::fixture::{CACHECTL, Fixture, PROJECT, both, workload};

const LIST: &str = "GET /v4.0.0/libpod/secrets/json";

/// A and B are set up and the unit's container runs with them; then A is gone upstream, and a
/// run has seen it.
fn with_a_gone() -> (Fixture, BTreeMap<String, String>) {
    let f = Fixture::new(&workload("myapp"));
    f.set("/myapp", "A", "1");
    f.set("/myapp", "B", "2");
    f.setup_exits(0, &[]);
    let ids = f.registered();
    start_unit(&f, "myapp", "myapp.service");
    f.infisical.remove(PROJECT, "prod", "/myapp", "A");
    f.setup_exits(0, &[]);
    (f, ids)
}

/// Starts a container as quadlet's unit does, with what the drop-in has now.
fn start_unit(f: &Fixture, name: &str, unit: &str) {
    let label = format!("--label=PODMAN_SYSTEMD_UNIT={unit}");
    let mut command = f.podman.command();
    command.args(["run", "--detach", "--replace", "--name", name, &label]);
    command.args(["--health-cmd", "true", "--health-interval=disable"]);
    for secret in f.drop_in_secrets("myapp") {
        command.args(["--secret", &secret]);
    }
    command.arg("--rootfs").arg(f.podman.rootfs());
    let output = command.args(["sleep", "600"]).output().unwrap();
    assert!(output.status.success(), "{}", both(&output));
}

fn stop(f: &Fixture, name: &str) {
    let output = f.podman.run(&["rm", "--force", "--time", "0", name]);
    assert!(output.status.success(), "{}", both(&output));
}

fn report(f: &Fixture, arguments: &[&str]) -> Value {
    let output = f.setup(&[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{}", both(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn names(f: &Fixture) -> Vec<String> {
    f.registered().into_keys().collect()
}

/// Runs the container's health check again and again while `what` goes on; each is to succeed.
fn never_unhealthy(podman: &Podman, name: &str, what: impl FnOnce()) {
    let (checks, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    let until = |n: usize| {
        wait::until("health checks", || checks.load(Ordering::SeqCst) >= n);
    };
    thread::scope(|scope| {
        let checking = scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                let output = podman.healthcheck(name);
                checks.fetch_add(1, Ordering::SeqCst);
                assert!(output.status.success(), "{}", both(&output));
            }
        });
        until(1);
        what();
        until(checks.load(Ordering::SeqCst) + 2);
        done.store(true, Ordering::SeqCst);
        checking.join().unwrap();
    });
}

#[test]
fn a_key_gone_upstream_stays_until_its_container_restarts() {
    let f = Fixture::new(&workload("myapp"));
    f.set("/myapp", "A", "1");
    f.set("/myapp", "B", "2");
    f.setup_exits(0, &[]);
    start_unit(&f, "web", "myapp.service");
    never_unhealthy(&f.podman, "web", || {
        f.infisical.remove(PROJECT, "prod", "/myapp", "A");
        let text = f.setup_exits(0, &[]);
        assert!(
            text.contains("gone at the provider and out of the drop-in: myapp--A"),
            "{text}"
        );
        let text = f.setup_exits(0, &[]);
        assert!(text.contains("kept: myapp--A: used by web"), "{text}");
    });
    assert_eq!(f.drop_in_secrets("myapp"), ["myapp--B,type=env,target=B"]);
    assert_eq!((names(&f).len(), f.cached()), (2, 2));

    start_unit(&f, "web", "myapp.service");
    never_unhealthy(&f.podman, "web", || {
        let text = f.setup_exits(0, &[]);
        assert!(
            text.contains("removed, no container uses it: myapp--A"),
            "{text}"
        );
    });
    assert_eq!(names(&f), ["myapp--B"]);
    assert_eq!(f.cached(), 1);
    let mappings = fs::read_dir(f.host.state_dir()).unwrap();
    let ids = mappings.filter(|e| e.as_ref().unwrap().file_name().len() == 25);
    assert_eq!(ids.count(), 1, "the mapping is gone too");

    f.proxy.clear();
    f.setup_exits(0, &[]);
    assert_eq!(f.proxy.requests(), [LIST], "and it costs nothing any more");
}

#[test]
fn a_key_without_a_container_goes_with_the_run_after_the_one_that_saw_it() {
    let f = Fixture::new(&workload("myapp"));
    f.set("/myapp", "A", "1");
    f.set("/myapp", "B", "2");
    f.setup_exits(0, &[]);
    f.infisical.remove(PROJECT, "prod", "/myapp", "A");
    f.setup_exits(0, &[]);
    assert_eq!(names(&f), ["myapp--A", "myapp--B"]);
    f.setup_exits(0, &[]);
    assert_eq!(names(&f), ["myapp--B"]);
    assert_eq!(f.cached(), 1);
}

#[test]
fn a_key_that_comes_back_upstream_is_as_if_it_had_never_been_gone() {
    let (f, ids) = with_a_gone();
    f.set("/myapp", "A", "new");
    let report = report(&f, &[]);
    assert_eq!(report["workloads"][0]["gone"], json!([]));
    assert_eq!(f.registered(), ids, "nothing was registered anew");
    stop(&f, "myapp");
    f.setup_exits(0, &[]);
    assert_eq!(f.container_env("myapp")["A"], "new");
}

#[test]
fn prune_now_removes_at_once_and_names_the_containers_that_will_fail() {
    let f = Fixture::new(&workload("myapp"));
    f.set("/myapp", "A", "1");
    f.set("/myapp", "B", "2");
    f.setup_exits(0, &[]);
    start_unit(&f, "web", "myapp.service");
    f.infisical.remove(PROJECT, "prod", "/myapp", "A");
    let text = f.setup_exits(0, &["--dry-run", "--prune-now"]);
    assert!(text.contains("remove: myapp--A, used by web"), "{text}");
    assert_eq!((names(&f).len(), f.cached()), (2, 2));

    let text = f.setup_exits(0, &["--prune-now"]);
    assert!(
        text.contains("removed: myapp--A, which containers still use"),
        "{text}"
    );
    assert!(text.contains("restart of web fails"), "{text}");
    assert_eq!(names(&f), ["myapp--B"]);
    assert_eq!(f.cached(), 1);
    assert!(!f.podman.exec("web", "true").status.success());
    start_unit(&f, "web", "myapp.service");
    assert!(f.podman.exec("web", "true").status.success());
}

/// Registers, with commands of its own and no labels, what somebody else keeps under our prefix.
fn register_foreign(f: &Fixture, name: &str) {
    let store = f.host.path("foreign");
    fs::create_dir(&store).unwrap();
    let file = f.host.path("value");
    fs::write(&file, "mine").unwrap();
    let file = file.to_str().unwrap();
    let at = store.display();
    let options = format!(
        "store=cat >{at}/$SECRET_ID,lookup=cat {at}/$SECRET_ID,delete=rm {at}/$SECRET_ID,list=ls {at}"
    );
    let create = ["secret", "create", "--driver", "shell", "--driver-opts"];
    let output = f
        .podman
        .run(&[&create[..], &[&options, name, file]].concat());
    assert!(output.status.success(), "{}", both(&output));
}

#[test]
fn what_psi_did_not_register_is_reported_and_never_removed() {
    let f = Fixture::new(&workload("myapp"));
    f.set("/myapp", "A", "1");
    f.setup_exits(0, &[]);
    register_foreign(&f, "myapp--TLS_KEY");
    for arguments in [&["--prune-now", "--dry-run"][..], &["--prune-now"], &[]] {
        let text = f.setup_exits(1, arguments);
        assert!(
            text.contains("PSI did not register: myapp--TLS_KEY"),
            "{text}"
        );
        assert!(text.contains("podman secret rm"), "{text}");
        assert_eq!(names(&f), ["myapp--A", "myapp--TLS_KEY"]);
    }
}

#[test]
fn a_dry_run_announces_no_removal_that_the_run_would_not_do() {
    let f = Fixture::new(&workload("myapp"));
    f.set("/myapp", "A", "1");
    f.set("/myapp", "B", "2");
    f.setup_exits(0, &[]);
    f.infisical.remove(PROJECT, "prod", "/myapp", "A");
    let dry = report(&f, &["--dry-run"]);
    let real = report(&f, &[]);
    let stays = |report: &Value| report["workloads"][0]["gone"][0]["stays"].clone();
    assert_eq!(stays(&dry), stays(&real));
    assert!(stays(&dry).is_string(), "{dry}");
    let dry = report(&f, &["--dry-run"]);
    assert_eq!(stays(&dry), stays(&report(&f, &[])));
    assert!(stays(&dry).is_null(), "{dry}");
}

/// `workloads` are the configuration's from the second run on.
fn values_that_nobody_refers_to_go(workloads: &str) {
    let f = Fixture::new(&(workload("myapp") + &workload("other")));
    f.set("/myapp", "A", "1");
    f.set("/other", "A", "2");
    f.setup_exits(0, &[]);
    let ids = f.registered();
    f.set_workloads(&(workloads.to_owned() + &workload("other")));
    f.setup_exits(0, &["--provider", "infisical"]);
    assert_eq!(f.cached(), 2, "Podman's secret still needs its value");
    assert_eq!(f.lookup(&ids["myapp--A"]).stdout, b"1");

    assert!(f.podman.run(&["secret", "rm", "myapp--A"]).status.success());
    f.setup_exits(0, &["--provider", "infisical", "--dry-run"]);
    assert_eq!(f.cached(), 2);
    let text = f.setup_exits(0, &["--provider", "infisical"]);
    assert!(
        text.contains("values of workload myapp leave the cache"),
        "{text}"
    );
    assert_eq!(f.cached(), 1);
    assert_eq!(f.lookup(&ids["other--A"]).stdout, b"2");
    let text = f.setup_exits(0, &["--provider", "infisical"]);
    assert!(!text.contains("leave the cache"), "{text}");
}

#[test]
fn values_of_a_removed_workload_leave_the_cache_once_no_secret_refers_to_them() {
    values_that_nobody_refers_to_go("");
}

#[test]
fn values_of_a_workload_with_another_provider_leave_the_cache_once_no_secret_refers_to_them() {
    values_that_nobody_refers_to_go("  myapp: {provider: local, secrets: []}\n");
}

#[test]
fn secrets_of_a_removed_workload_stay_and_the_way_to_remove_them_is_told() {
    let f = Fixture::new(&(workload("myapp") + &workload("other")));
    f.set("/myapp", "A", "1");
    f.set("/other", "A", "2");
    f.setup_exits(0, &[]);
    f.set_workloads(&workload("other"));
    let text = f.setup_exits(0, &[]);
    assert!(text.contains("`podman secret rm myapp--A`"), "{text}");
    assert_eq!(names(&f), ["myapp--A", "other--A"]);
}

#[test]
fn refresh_prunes_as_psi_setup_does() {
    let (f, _) = with_a_gone();
    let mut refresh = f.host.command(CACHECTL);
    let output = refresh.args(["refresh", "--prune-now"]).output().unwrap();
    assert!(output.status.success(), "{}", both(&output));
    assert_eq!((names(&f).len(), f.cached()), (1, 1));
}

#[test]
fn a_container_started_by_hand_keeps_what_it_names() {
    let (f, ids) = with_a_gone();
    stop(&f, "myapp");
    let by_id = format!("{},type=env,target=X", ids["myapp--A"]);
    for secret in ["myapp--A,type=env,target=X", &by_id] {
        let output = f.podman.start_container("mine", &[secret], None);
        assert!(output.status.success(), "{}", both(&output));
        let report = report(&f, &[]);
        let gone = &report["workloads"][0]["gone"][0];
        assert_eq!(gone["name"], "myapp--A");
        assert_eq!(gone["used_by"], json!(["mine"]));
        assert_eq!(gone["stays"], "used by mine");
        assert!(f.podman.exec("mine", "true").status.success());
        stop(&f, "mine");
    }
    f.setup_exits(0, &[]);
    assert_eq!(names(&f), ["myapp--B"]);
}

#[test]
fn once_prune_after_has_passed_it_goes_although_a_container_uses_it() {
    let (f, _) = with_a_gone();
    f.setup_exits(0, &[]);
    assert_eq!(names(&f), ["myapp--A", "myapp--B"]);
    let config = fs::read_to_string(f.host.config_file()).unwrap();
    fs::write(f.host.config_file(), format!("prune_after: 1s\n{config}")).unwrap();
    wait::until("the removal", || {
        let text = f.setup_exits(0, &[]);
        text.contains("removed: myapp--A, which containers still use")
    });
    assert_eq!(names(&f), ["myapp--B"]);
    assert_eq!(f.cached(), 1);
}

/// A container's systemctl does not reach the host's systemd, whose units name what they named.
#[test]
fn where_systemd_is_not_reached_nothing_is_removed_until_it_is() {
    let f = Fixture::new(&workload("myapp"));
    f.set("/myapp", "A", "1");
    f.set("/myapp", "B", "2");
    f.setup_exits(0, &[]);
    f.infisical.remove(PROJECT, "prod", "/myapp", "A");
    f.host.set_systemctl(false);
    for arguments in [&[][..], &[], &["--prune-now"]] {
        let text = both(&f.setup(arguments));
        let stays = "kept: myapp--A: systemd has not loaded the new drop-in yet";
        assert!(text.contains(stays), "{text}");
        assert_eq!((names(&f).len(), f.cached()), (2, 2));
    }
    f.host.set_systemctl(true);
    f.setup_exits(0, &[]);
    assert_eq!((names(&f).len(), f.cached()), (1, 1));
}

#[test]
fn a_value_whose_secret_somebody_removed_by_hand_leaves_the_cache_too() {
    let (f, _) = with_a_gone();
    assert!(f.podman.run(&["secret", "rm", "myapp--A"]).status.success());
    assert_eq!(f.cached(), 2);
    f.proxy.clear();
    f.setup_exits(0, &[]);
    assert_eq!(f.cached(), 1);
    assert_eq!(f.proxy.requests(), [LIST], "Podman has nothing to tell");
}

#[test]
fn a_key_that_moved_to_another_folder_leaves_nothing_of_the_old_one() {
    let f = Fixture::new("  myapp: {secrets: [{project: myproject, path: /, recursive: true}]}\n");
    f.set("/one", "A", "1");
    f.setup_exits(0, &[]);
    f.infisical.remove(PROJECT, "prod", "/one", "A");
    f.set("/two", "A", "2");
    f.setup_exits(0, &[]);
    assert_eq!((names(&f).len(), f.cached()), (1, 1));
    assert_eq!(f.container_env("myapp")["A"], "2");
}

#[test]
fn where_podman_does_not_tell_its_containers_nothing_is_removed() {
    let (f, _) = with_a_gone();
    stop(&f, "myapp");
    let podman = f.podman.socket();
    let hidden = podman.with_extension("hidden");
    let (from, to) = (podman.clone(), hidden.clone());
    let hide = move || fs::rename(&from, &to).unwrap();
    // The secrets are the first thing that is asked, the containers the second.
    f.proxy.on(1, Step::Delivered, hide);
    let text = f.setup_exits(0, &[]);
    fs::rename(&hidden, &podman).unwrap();
    assert!(text.contains("nothing that is gone was removed"), "{text}");
    assert_eq!((names(&f).len(), f.cached()), (2, 2));
    f.setup_exits(0, &[]);
    assert_eq!((names(&f).len(), f.cached()), (1, 1));
}

#[test]
fn without_a_cache_a_key_goes_once_no_container_uses_it() {
    let f = Fixture::with_cache(&workload("myapp"), "cache: {enabled: false}");
    f.set("/myapp", "A", "1");
    f.set("/myapp", "B", "2");
    f.setup_exits(0, &[]);
    start_unit(&f, "web", "myapp.service");
    f.infisical.remove(PROJECT, "prod", "/myapp", "A");
    f.setup_exits(0, &[]);
    f.setup_exits(0, &[]);
    assert_eq!(names(&f), ["myapp--A", "myapp--B"]);
    stop(&f, "web");
    f.setup_exits(0, &[]);
    assert_eq!(names(&f), ["myapp--B"]);
}

/// Makes a container over the API, which leaves no command line to go by.
fn create_over_api(f: &Fixture, name: &str, labels: &Value) {
    let body = json!({
        "name": name,
        "rootfs": f.podman.rootfs(),
        "command": ["sleep", "600"],
        "labels": labels,
    })
    .to_string();
    let head = "POST /v4.0.0/libpod/containers/create HTTP/1.1\r\nHost: podman\r\n\
                Content-Type: application/json\r\nConnection: close";
    let request = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let (status, _, answer) = ask(&f.podman.socket(), request.as_bytes());
    assert_eq!(status, 201, "{}", String::from_utf8_lossy(&answer));
}

#[test]
fn a_container_made_over_the_api_counts_by_its_unit_or_else_by_its_age() {
    let f = Fixture::new(&workload("myapp"));
    f.set("/myapp", "A", "1");
    f.set("/myapp", "B", "2");
    f.setup_exits(0, &[]);
    create_over_api(&f, "older", &json!({}));
    create_over_api(
        &f,
        "other",
        &json!({"PODMAN_SYSTEMD_UNIT": "myapp2.service"}),
    );
    // The drop-in's change must be of a later second than the container.
    wait::until("the next second", {
        let start = seconds();
        move || seconds() > start
    });
    f.infisical.remove(PROJECT, "prod", "/myapp", "A");
    f.setup_exits(0, &[]);
    wait::until("the next second", {
        let start = seconds();
        move || seconds() > start
    });
    create_over_api(&f, "younger", &json!({}));
    create_over_api(&f, "unit", &json!({"PODMAN_SYSTEMD_UNIT": "myapp.service"}));
    let report = report(&f, &[]);
    let mut users = report["workloads"][0]["gone"][0]["used_by"].clone();
    users.as_array_mut().unwrap().sort_by_key(Value::to_string);
    assert_eq!(users, json!(["older", "unit"]));
    stop(&f, "older");
    stop(&f, "unit");
    f.setup_exits(0, &[]);
    assert_eq!(names(&f), ["myapp--B"]);
}

fn seconds() -> u64 {
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}
