//! How long does psi-setup take beyond what its provider and Podman take?
//!
//! First with 200 secrets and nothing to change: the floor is the provider's login and listing
//! and one list of Podman's secrets, asked for by hand. Then with 2,000 new ones: the floor is
//! the same creates over the same API, with the same driver, on an empty store. Psi-setup and its
//! floor take turns. Run it with `cargo bench --bench setup`.

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]

use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use psi::mapping::{Mapping, ProviderName};
use psi_test_support::goals::{Goals, median, ms};
use psi_test_support::http::Message;
use psi_test_support::infisical::{Identity, Logged, StandIn};
use psi_test_support::podman::Podman;
use psi_test_support::psi::{Host, Service, ask};
use reqwest::Url;

const DRIVER: &str = env!("CARGO_BIN_EXE_psi-secret");
const PROJECT: &str = "11111111-1111-1111-1111-111111111111";

const KNOWN: usize = 200;
const STEADY_ROUNDS: usize = 15;

/// What a run that changes nothing may take beyond its floor.
const MAX_STEADY: f64 = 300.0;

const NEW: usize = 2000;
const NEW_ROUNDS: usize = 3;

/// What a run that registers everything may take, as a multiple of its floor.
const MAX_NEW: f64 = 1.2;

fn main() -> ExitCode {
    let mut goals = Goals::default();
    steady(&mut goals);
    new(&mut goals);
    goals.exit()
}

fn steady(goals: &mut Goals) {
    let infisical = provider(KNOWN);
    let machine = Machine::new(&infisical);
    machine.setup();
    infisical.clear_requests();
    machine.setup();
    let mut listings = infisical.requests();
    listings.retain(|request| request.method == "GET");
    let (mut runs, mut floors) = (Vec::new(), Vec::new());
    for _ in 0..STEADY_ROUNDS {
        let start = Instant::now();
        ask_provider(&infisical, &listings);
        machine.list();
        floors.push(start.elapsed());
        runs.push(machine.setup());
    }
    let (run, floor) = (median(&runs), median(&floors));
    println!(
        "{KNOWN} secrets, nothing changed: psi-setup {:.1} ms; provider and Podman alone {:.1} ms",
        ms(run),
        ms(floor)
    );
    let beyond = ms(run) - ms(floor);
    goals.at_most("beyond provider and Podman", beyond, MAX_STEADY, " ms");
}

fn new(goals: &mut Goals) {
    let infisical = provider(NEW);
    let (mut runs, mut floors) = (Vec::new(), Vec::new());
    for _ in 0..NEW_ROUNDS {
        let machine = Machine::new(&infisical);
        let run = machine.setup().as_secs_f64();
        assert_eq!(machine.registered(), NEW);
        let bare = Machine::new(&infisical);
        let floor = bare.create(NEW).as_secs_f64();
        assert_eq!(bare.registered(), NEW);
        println!("{NEW} new secrets: psi-setup {run:.1} s; Podman's creates alone {floor:.1} s");
        runs.push(run);
        floors.push(floor);
    }
    // So few and so long rounds have no typical one: the quickest was disturbed least.
    let quickest = |times: &[f64]| times.iter().copied().fold(f64::INFINITY, f64::min);
    let ratio = quickest(&runs) / quickest(&floors);
    goals.at_most("psi-setup, to the creates", ratio, MAX_NEW, "");
}

/// A provider that has `count` secrets for workload `myapp`.
fn provider(count: usize) -> StandIn {
    let infisical = StandIn::start();
    infisical.add_identity(Identity::new("id", "secret").may_read(PROJECT, "/"));
    for n in 0..count {
        let value = format!("the value of secret {n}");
        infisical.set(PROJECT, "prod", "/myapp", &key(n), &value);
    }
    infisical
}

fn key(n: usize) -> String {
    format!("SECRET_NUMBER_{n:04}")
}

/// A host with a psi-serve and a Podman, and nothing registered.
struct Machine {
    podman: Podman,
    _serve: Service,
    host: Host,
}

impl Machine {
    fn new(infisical: &StandIn) -> Self {
        let podman = Podman::start();
        let host = Host::new();
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
  myapp: {{secrets: [{{project: myproject, path: /myapp}}]}}
",
            podman.socket().display(),
            infisical.url()
        ));
        let _serve = host.serve(Path::new(env!("CARGO_BIN_EXE_psi-serve")));
        Self {
            podman,
            _serve,
            host,
        }
    }

    /// Runs psi-setup; how long it took, with its start.
    fn setup(&self) -> Duration {
        let mut command = self.host.command(env!("CARGO_BIN_EXE_psi-setup"));
        let start = Instant::now();
        let output = command.output().unwrap();
        let took = start.elapsed();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        took
    }

    /// What Podman has registered, as it lists it.
    fn list(&self) -> Vec<u8> {
        self.ask_podman("GET", "secrets/json", b"")
    }

    fn registered(&self) -> usize {
        let listed: Vec<serde_json::Value> = serde_json::from_slice(&self.list()).unwrap();
        listed.len()
    }

    /// Registers `count` secrets as psi-setup does, and with nothing but Podman's API. How long
    /// it took.
    fn create(&self, count: usize) -> Duration {
        let socket = self.host.socket();
        let command = |verb: &str| format!("exec {DRIVER} {verb} --socket {}", socket.display());
        let options = serde_json::json!({
            "list": command("list"), "lookup": command("lookup"),
            "store": command("store"), "delete": command("delete"),
        })
        .to_string();
        let secrets: Vec<_> = (0..count).map(|n| secret(&key(n), &options)).collect();
        let start = Instant::now();
        for (path, mapping) in &secrets {
            self.ask_podman("POST", path, mapping);
        }
        start.elapsed()
    }

    fn ask_podman(&self, method: &str, path: &str, body: &[u8]) -> Vec<u8> {
        let head = format!(
            "{method} /v4.0.0/libpod/{path} HTTP/1.1\r\nHost: podman\r\n\
             Content-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let request = [head.as_bytes(), body].concat();
        let (status, _, answer) = ask(&self.podman.socket(), &request);
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
        answer
    }
}

/// What registers one secret: the path with its query, and the mapping.
fn secret(key: &str, options: &str) -> (String, Vec<u8>) {
    let parts = [("project", "myproject"), ("path", "/myapp"), ("key", key)];
    let mapping = Mapping::new(ProviderName::Infisical, parts);
    let labels = serde_json::json!({
        "psi.workload": "myapp", "psi.provider": "infisical", "psi.digest": mapping.digest(),
    })
    .to_string();
    let name = format!("myapp--{key}");
    let query = [
        ("name", name.as_str()),
        ("driver", "shell"),
        ("driveropts", options),
        ("labels", &labels),
    ];
    let url = Url::parse_with_params("http://podman/secrets/create", query).unwrap();
    let path = format!("secrets/create?{}", url.query().unwrap());
    (path, mapping.canonical())
}

/// Logs in and asks for what `listings` asked for, without psi-setup.
fn ask_provider(infisical: &StandIn, listings: &[Logged]) {
    let login = r#"{"clientId":"id","clientSecret":"secret"}"#;
    let granted = post(infisical, "/api/v1/auth/universal-auth/login", login);
    let granted: serde_json::Value = serde_json::from_slice(&granted).unwrap();
    let token = granted["accessToken"].as_str().unwrap();
    for listing in listings {
        let Logged { path, query, .. } = listing;
        send(
            infisical,
            &format!(
                "GET {path}?{query} HTTP/1.1\r\nHost: infisical\r\nAuthorization: Bearer {token}\r\n\r\n"
            ),
        );
    }
}

fn post(infisical: &StandIn, path: &str, body: &str) -> Vec<u8> {
    send(
        infisical,
        &format!(
            "POST {path} HTTP/1.1\r\nHost: infisical\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        ),
    )
}

fn send(infisical: &StandIn, request: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(infisical.address()).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let answer = Message::read_response(&mut BufReader::new(stream), "GET").unwrap();
    let answer = answer.unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.head);
    answer.body
}
