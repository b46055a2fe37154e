//! Do many containers that start at once all get their secrets, and what does it cost them?
//!
//! Forty containers with ten env secrets each are started together: with PSI, whose provider is
//! down by then, and with the same values in Podman's own file driver. Each side has a Podman of
//! its own with nothing else in it. The two take turns, and swap who is first from round to
//! round. Run it with `cargo bench --bench boot_storm`.

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use psi_test_support::goals::{Goals, median};
use psi_test_support::infisical::{Identity, StandIn};
use psi_test_support::podman::Podman;
use psi_test_support::psi::{Host, ask};

const DRIVER: &str = env!("CARGO_BIN_EXE_psi-secret");
const PROJECT: &str = "11111111-1111-1111-1111-111111111111";

const CONTAINERS: usize = 40;
const SECRETS: usize = 10;
const ROUNDS: usize = 5;

/// What all starts may take with PSI, as a multiple of the same with Podman's file driver.
const MAX_RATIO: f64 = 1.3;

fn main() -> ExitCode {
    let with_psi = Podman::start();
    let host = Host::new();
    let infisical = provider();
    configure(&host, &with_psi, &infisical);
    let _serve = host.serve(Path::new(env!("CARGO_BIN_EXE_psi-serve")));
    let mut setup = host.command(env!("CARGO_BIN_EXE_psi-setup"));
    let output = setup.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    drop(infisical);

    let with_files = Podman::start();
    for (container, n) in all_secrets() {
        create_file_secret(&with_files, container, n);
    }

    let mut ratios = Vec::new();
    let mut failed = 0;
    for round in 0..ROUNDS {
        let (psi, files) = if round % 2 == 0 {
            let psi = Storm::raise(&with_psi);
            (psi, Storm::raise(&with_files))
        } else {
            let files = Storm::raise(&with_files);
            (Storm::raise(&with_psi), files)
        };
        let ratio = psi.took.as_secs_f64() / files.took.as_secs_f64();
        println!(
            "{CONTAINERS} containers, {SECRETS} secrets each: PSI {:.2} s; file driver {:.2} s; ratio {ratio:.2}",
            psi.took.as_secs_f64(),
            files.took.as_secs_f64()
        );
        assert_eq!(files.failures, Vec::<String>::new(), "the floor is sound");
        psi.failures.iter().for_each(|why| println!("{why}"));
        failed += psi.failures.len();
        ratios.push(ratio);
    }
    let mut goals = Goals::default();
    goals.at_most("containers that failed with PSI", failed as f64, 0.0, "");
    goals.at_most("PSI, to the file driver", median(&ratios), MAX_RATIO, "");
    goals.exit()
}

/// One start of all containers at once; they are gone afterwards.
struct Storm {
    took: Duration,
    /// What went wrong, container by container.
    failures: Vec<String>,
}

impl Storm {
    fn raise(podman: &Podman) -> Self {
        let barrier = Barrier::new(CONTAINERS + 1);
        let start = |container: usize| {
            let name = workload(container);
            let secrets: Vec<String> = (0..SECRETS).map(|n| option(container, n)).collect();
            let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
            barrier.wait();
            let output = podman.start_container(&name, &secrets, None);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            (!output.status.success()).then(|| format!("{name}: {said}"))
        };
        let (took, failures) = thread::scope(|scope| {
            let starts = (0..CONTAINERS).map(|n| scope.spawn(move || start(n)));
            let starts: Vec<_> = starts.collect();
            let began = Instant::now();
            barrier.wait();
            let ends = starts.into_iter().map(|start| start.join().unwrap());
            let failures: Vec<String> = ends.flatten().collect();
            (began.elapsed(), failures)
        });
        let failures = [failures, lacking(podman)].concat();
        let removed = podman.run(&["rm", "--all", "--force", "--time", "0"]);
        assert!(removed.status.success());
        Self { took, failures }
    }
}

/// The containers that do not run with all of their secrets.
fn lacking(podman: &Podman) -> Vec<String> {
    let output = podman.run(&["ps", "--format", "{{.Names}} {{.Pid}}"]);
    let running = String::from_utf8(output.stdout).unwrap();
    let running: BTreeMap<&str, &str> = running.lines().filter_map(|l| l.split_once(' ')).collect();
    let lacks = |container: &usize| {
        let pid = running.get(&*workload(*container));
        let environment = pid.and_then(|pid| fs::read(format!("/proc/{pid}/environ")).ok());
        let environment = environment.unwrap_or_default();
        let variables: BTreeSet<&[u8]> = environment.split(|b| *b == 0).collect();
        let expected = |n| format!("{}={}", key(n), value(*container, n));
        !(0..SECRETS).all(|n| variables.contains(expected(n).as_bytes()))
    };
    let names = (0..CONTAINERS).filter(lacks);
    names
        .map(|n| format!("{} runs without a secret of its own", workload(n)))
        .collect()
}

fn workload(container: usize) -> String {
    format!("app{container}")
}

fn key(n: usize) -> String {
    format!("KEY_{n}")
}

fn value(container: usize, n: usize) -> String {
    format!("value {n} of container {container}")
}

fn secret_name(container: usize, n: usize) -> String {
    format!("{}--{}", workload(container), key(n))
}

/// As psi-setup writes it into a drop-in.
fn option(container: usize, n: usize) -> String {
    let key = key(n);
    format!("{},type=env,target={key}", secret_name(container, n))
}

fn all_secrets() -> impl Iterator<Item = (usize, usize)> {
    (0..CONTAINERS).flat_map(|container| (0..SECRETS).map(move |n| (container, n)))
}

/// Has a folder for each workload.
fn provider() -> StandIn {
    let infisical = StandIn::start();
    infisical.add_identity(Identity::new("id", "secret").may_read(PROJECT, "/"));
    for (container, n) in all_secrets() {
        let folder = format!("/{}", workload(container));
        infisical.set(PROJECT, "prod", &folder, &key(n), &value(container, n));
    }
    infisical
}

fn configure(host: &Host, podman: &Podman, infisical: &StandIn) {
    let workload = |n| {
        let name = workload(n);
        format!("  {name}: {{secrets: [{{project: myproject, path: /{name}}}]}}\n")
    };
    let workloads: String = (0..CONTAINERS).map(workload).collect();
    host.write_config(&format!(
        "podman_socket: {}
driver_path: {DRIVER}
providers:
  infisical:
    api_url: {}
    auth: {{method: universal-auth, client_id: id, client_secret: secret}}
    projects: {{myproject: {{id: {PROJECT}}}}}
cache: {{backend: tpm}}
workloads:
{workloads}",
        podman.socket().display(),
        infisical.url()
    ));
}

/// Keeps one secret with the driver that Podman has built in.
fn create_file_secret(podman: &Podman, container: usize, n: usize) {
    let (name, value) = (secret_name(container, n), value(container, n));
    let request = format!(
        "POST /v4.0.0/libpod/secrets/create?name={name}&driver=file HTTP/1.1\r\nHost: podman\r\n\
         Content-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n{value}",
        value.len()
    );
    let (status, _, answer) = ask(&podman.socket(), request.as_bytes());
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
}
