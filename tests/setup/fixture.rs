//! A host with everything that psi-setup talks to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Output;

use psi_test_support::infisical::{Identity, StandIn};
use psi_test_support::podman::Podman;
use psi_test_support::proxy::Proxy;
use psi_test_support::psi::{Host, Service};

pub const SETUP: &str = env!("CARGO_BIN_EXE_psi-setup");
pub const SERVE: &str = env!("CARGO_BIN_EXE_psi-serve");
pub const DRIVER: &str = env!("CARGO_BIN_EXE_psi-secret");

pub const CACHECTL: &str = env!("CARGO_BIN_EXE_psi-cachectl");

pub const PROJECT: &str = "11111111-1111-1111-1111-111111111111";

pub struct Fixture {
    pub infisical: StandIn,
    pub serve: Service,
    pub podman: Podman,
    /// In front of Podman's socket: psi-setup asks through it.
    pub proxy: Proxy,
    pub host: Host,
}

impl Fixture {
    /// Infisical has one project that the client `myapp-id` may read; nothing has been set up.
    pub fn new(workloads: &str) -> Self {
        Self::with_cache(workloads, "cache: {backend: tpm}")
    }

    pub fn with_cache(workloads: &str, cache: &str) -> Self {
        let host = Host::new();
        let podman = Podman::start();
        let proxy = Proxy::start(&podman.socket(), &host.path("podman.sock"));
        let infisical = StandIn::start();
        infisical.add_project(PROJECT, "prod");
        infisical.add_identity(Identity::new("myapp-id", "myapp-secret").may_read(PROJECT, "/"));
        write_config(&host, &proxy, &infisical, workloads, cache);
        let serve = host.serve(Path::new(SERVE));
        Self {
            infisical,
            serve,
            podman,
            proxy,
            host,
        }
    }

    /// Gives the host other workloads.
    pub fn set_workloads(&self, workloads: &str) {
        let cache = "cache: {backend: tpm}";
        write_config(&self.host, &self.proxy, &self.infisical, workloads, cache);
    }

    /// Sets a secret of the project.
    pub fn set(&self, path: &str, key: &str, value: &str) {
        self.infisical.set(PROJECT, "prod", path, key, value);
    }

    pub fn setup(&self, arguments: &[&str]) -> Output {
        let mut command = self.host.command(SETUP);
        command.args(arguments).output().unwrap()
    }

    /// Runs psi-setup and expects this exit status; stdout and stderr are returned in one text.
    pub fn setup_exits(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.setup(arguments);
        let text = both(&output);
        assert_eq!(output.status.code(), Some(code), "{text}");
        text
    }

    pub fn drop_in(&self, workload: &str) -> PathBuf {
        let folder = format!("{workload}.container.d");
        self.host.systemd_dir().join(folder).join("50-secrets.conf")
    }

    /// The drop-in's `Secret=` options.
    pub fn drop_in_secrets(&self, workload: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.drop_in(workload)).unwrap_or_default();
        let options = text.lines().filter_map(|line| line.strip_prefix("Secret="));
        options.map(str::to_owned).collect()
    }

    /// The variables of a new container that has all secrets of the drop-in.
    pub fn container_env(&self, workload: &str) -> BTreeMap<String, String> {
        let secrets = self.drop_in_secrets(workload);
        let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
        let output = self.podman.run_container(&secrets, "env");
        assert!(output.status.success(), "{}", both(&output));
        let text = String::from_utf8(output.stdout).unwrap();
        let split = |line: &str| line.split_once('=').map(|(k, v)| (k.into(), v.into()));
        text.lines().filter_map(split).collect()
    }

    /// Podman's secrets: each name with its id.
    pub fn registered(&self) -> BTreeMap<String, String> {
        let output = self
            .podman
            .run(&["secret", "ls", "--format", "{{.Name}} {{.ID}}"]);
        let text = String::from_utf8(output.stdout).unwrap();
        let split = |line: &str| {
            line.split_once(' ')
                .map(|(k, v)| (k.into(), v.trim().into()))
        };
        text.lines().filter_map(split).collect()
    }

    /// How many values the cache has on disk.
    pub fn cached(&self) -> usize {
        let mut command = self.host.command(CACHECTL);
        let output = command.args(["status", "--json"]).output().unwrap();
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let entries = status["file"]["entries"].as_u64();
        entries.unwrap_or_else(|| unreachable!("{}", both(&output))) as usize
    }

    /// What Podman's driver answers for an id.
    pub fn lookup(&self, id: &str) -> Output {
        let mut command = self.host.command(DRIVER);
        command.env("PSI_SOCKET", self.host.socket());
        command.env("SECRET_ID", id).arg("lookup").output().unwrap()
    }
}

fn write_config(host: &Host, proxy: &Proxy, infisical: &StandIn, workloads: &str, cache: &str) {
    host.write_config(&format!(
        "podman_socket: {}
driver_path: {DRIVER}
providers:
  infisical:
    api_url: {}
    auth: {{method: universal-auth, client_id: myapp-id, client_secret: myapp-secret}}
    projects:
      myproject: {{id: {PROJECT}}}
  local: {{}}
{cache}
workloads:
{workloads}
",
        proxy.socket().display(),
        infisical.url(),
    ));
}

/// A workload that gets the folder of its own name.
pub fn workload(name: &str) -> String {
    format!("  {name}: {{secrets: [{{project: myproject, path: /{name}}}]}}\n")
}

pub fn both(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}
