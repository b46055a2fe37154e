//! A host with a software TPM and an Infisical, where psi-cachectl is run by hand.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use psi::cli::block_on;
use psi::client::Client;
use psi::config::Config;
use psi::mapping::{Mapping, ProviderName};
use psi::pkcs11::Pin;
use psi::protector::{Credential, Devices};
use psi::secret::SecretValue;
use psi::systemd::Credentials;
use psi::wire::{Entry, HandOver, HandedOver, WorkloadEntries};
use psi_test_support::done::Done;
use psi_test_support::infisical::{Identity, StandIn};
use psi_test_support::psi::{Host, Service, ask};
use psi_test_support::swtpm::Swtpm;
use psi_test_support::token::Module;
use serde_json::Value;

pub const CACHECTL: &str = env!("CARGO_BIN_EXE_psi-cachectl");
pub const SERVE: &str = env!("CARGO_BIN_EXE_psi-serve");
const SECRET: &str = env!("CARGO_BIN_EXE_psi-secret");
const PROJECT: &str = "11111111-1111-1111-1111-111111111111";

/// The secret that the workload myapp gets, as psi-serve knows it.
pub const ID: &str = "0123456789abcdef012345678";

/// Its value in the cache.
pub const SEALED: &str = "canary-sealed-value";

/// Its value at the provider, which has changed since.
pub const LIVE: &str = "canary-live-value";

/// The PIN of every token.
pub const PIN: &str = "31415926";

/// Has the module hang in the first call that needs the token itself.
pub const HANG: &str = "hang.C_Decrypt";

pub const INIT: [&str; 3] = ["init", "--backend", "tpm"];
pub const INIT_RECOVERY: [&str; 4] = ["init", "--backend", "tpm", "--recovery"];
pub const INIT_HSM: [&str; 3] = ["init", "--backend", "hsm"];
pub const INIT_HSM_RECOVERY: [&str; 4] = ["init", "--backend", "hsm", "--recovery"];
pub const RESEAL: [&str; 3] = ["slots", "reseal", "--recovery"];
pub const VERIFY: [&str; 2] = ["status", "--verify"];

pub struct Machine {
    pub host: Host,
    pub tpm: Swtpm,
    pub infisical: StandIn,
    /// A PKCS#11 module that the configuration names, and the token's PIN.
    pub module: Option<Module>,
    backend: &'static str,
}

impl Machine {
    /// No cache, no credential; something has been measured into PCR 7.
    pub fn new() -> Self {
        Self::with_cache("")
    }

    /// With more in the configuration's section `cache`, e.g. `on_unseal_failure: recreate`.
    pub fn with_cache(more: &str) -> Self {
        Self::furnished(more, "tpm", None)
    }

    /// With `module`, whose token has the PIN that systemd delivers, and this backend.
    pub fn with_module(backend: &'static str, module: Module) -> Self {
        let machine = Self::furnished("", backend, Some(module));
        machine.host.set_credential("hsm-pin", PIN.as_bytes());
        machine
    }

    /// With a token that has a key, and this backend.
    pub fn with_token(backend: &'static str) -> Self {
        Self::with_module(backend, Module::with_key("psi", PIN))
    }

    /// With a cache that the token has opened for the psi-serve that runs.
    pub fn opened_by_token() -> (Self, Service) {
        let machine = Self::with_token("hsm");
        machine.filled(&INIT_HSM);
        let serve = machine.serve();
        (machine, serve)
    }

    fn furnished(more: &str, backend: &'static str, module: Option<Module>) -> Self {
        let host = Host::new();
        host.remove_credential("psi-cache-key");
        let infisical = StandIn::start();
        infisical.add_project(PROJECT, "prod");
        infisical.add_identity(Identity::new("myapp-id", "myapp-secret").may_read(PROJECT, "/"));
        infisical.set(PROJECT, "prod", "/myapp", "DB_PASSWORD", LIVE);
        let tpm = Swtpm::start();
        let machine = Self {
            host,
            tpm,
            infisical,
            module,
            backend,
        };
        machine.configure(more);
        fs::write(machine.host.state_dir().join(ID), mapping().canonical()).unwrap();
        machine
    }

    /// Writes the configuration for the TPM that is there now.
    pub fn configure(&self, more: &str) {
        let token = self.module.as_ref().map(|module| {
            let library = module.library();
            format!("nitrokeyhsm: {{pkcs11_module: {}}}", library.display())
        });
        self.host.write_config(&format!(
            "providers:
  {}
  local: {{}}
  infisical:
    api_url: {}
    auth: {{method: universal-auth, client_id: myapp-id, client_secret: myapp-secret}}
    projects: {{myproject: {{id: {PROJECT}}}}}
cache:
  backend: {}
  tpm: {{tcti: \"{}\"}}
  {more}
",
            token.unwrap_or_default(),
            self.infisical.url(),
            self.backend,
            self.tpm.tcti()
        ));
    }

    /// What opens and seals, without systemd's key.
    pub fn devices(&self) -> Devices {
        let environment = psi::config::Environment::default();
        let config = Config::load(Some(&self.host.config_file()), false, &environment).unwrap();
        let pin = SecretValue::new(PIN.as_bytes().to_vec());
        Devices::new(&config, Credential::delivered(None), |_| {
            Pin::delivered(Credentials::default(), Some(&pin))
        })
    }

    /// The module that the configuration names.
    pub fn module(&self) -> &Module {
        self.module.as_ref().unwrap()
    }

    /// A psi-serve that has tried to open the cache.
    pub fn serve(&self) -> Service {
        let serve = self.host.serve(Path::new(SERVE));
        self.settle();
        serve
    }

    /// Waits until the cache was opened, or was not.
    pub fn settle(&self) {
        let opened = || self.status()["cache"]["state"] != "opening";
        psi_test_support::wait::until("opening of the cache", opened);
    }

    /// Boots again: psi-serve ends, `meanwhile` happens, and psi-serve starts.
    pub fn reboot(&mut self, serve: &Service, meanwhile: impl FnOnce(&mut Self)) {
        serve.sigterm();
        meanwhile(self);
        serve.restart();
        self.settle();
    }

    /// Waits until `serve` has said `text` on its log.
    pub fn wait_for_log(&self, serve: &Service, text: &str) {
        psi_test_support::wait::until(text, || serve.log().contains(text));
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.host.command(CACHECTL);
        // Never the machine's own.
        command.arg("--sealed-key").arg(self.sealed_key());
        command.env("SYSTEMD_TPM2_DEVICE", self.tpm.tcti());
        command.args(arguments);
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Done {
        self.run_with(arguments, "")
    }

    /// With `stdin` for a recovery key.
    pub fn run_with(&self, arguments: &[&str], stdin: &str) -> Done {
        Done::run(self.command(arguments), stdin.as_bytes())
    }

    pub fn sealed_key(&self) -> PathBuf {
        self.host.path("credstore").join("psi-cache-key")
    }

    pub fn cache_bytes(&self) -> Vec<u8> {
        fs::read(self.host.cache_file()).unwrap()
    }

    /// The caches that were put aside.
    pub fn aside(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.host.state_dir()).unwrap();
        let paths = files.map(|entry| entry.unwrap().path());
        let is_aside = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.starts_with("cache.enc.")
        };
        paths.filter(is_aside).collect()
    }

    /// Hands one value over to psi-serve, as psi-setup does.
    pub fn fill(&self) {
        self.try_to_fill().unwrap();
    }

    pub fn try_to_fill(&self) -> psi::Result<Option<HandedOver>> {
        let value = SecretValue::new(SEALED.as_bytes().to_vec());
        let mapping = mapping();
        let entries = vec![Entry { mapping, value }];
        self.hand_over(WorkloadEntries { entries })
    }

    pub fn hand_over(&self, entries: WorkloadEntries) -> psi::Result<Option<HandedOver>> {
        let workloads = BTreeMap::from([("myapp".to_owned(), entries)]);
        let client = Client::new(&self.host.socket(), None).unwrap();
        let hand_over = HandOver { workloads };
        block_on(client.hand_over(ProviderName::Infisical, &hand_over))
    }

    /// A cache with the value, in the slots that `init` makes; psi-serve does not run.
    pub fn filled(&self, init: &[&str]) -> Done {
        let done = self.run(init).ended(0);
        let serve = self.serve();
        self.fill();
        serve.sigterm();
        done
    }

    pub fn get(&self, path: &str) -> (u16, Vec<u8>) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: psi\r\n\r\n");
        let (status, _, body) = ask(&self.host.socket(), request.as_bytes());
        (status, body)
    }

    /// What psi-serve gives a container.
    pub fn value(&self) -> String {
        let (status, body) = self.get(&format!("/lookup/{ID}"));
        let body = String::from_utf8(body).unwrap();
        assert_eq!(status, 200, "{body}");
        body
    }

    /// Podman's driver, which asks for an id or a name.
    pub fn lookup(&self, name: &str) -> Command {
        let mut lookup = self.host.command(SECRET);
        lookup.env("SECRET_ID", name).args(["lookup", "--socket"]);
        lookup.arg(self.host.socket());
        lookup
    }

    /// psi-serve's account of itself.
    pub fn status(&self) -> Value {
        serde_json::from_slice(&self.get("/status").1).unwrap()
    }

    /// The number of the slot that opened psi-serve's cache.
    pub fn opened_by(&self) -> u64 {
        let status = self.status();
        assert_eq!(status["cache"]["state"], "open", "{status}");
        let attempts = status["cache"]["attempts"].as_array().unwrap();
        let last = attempts.last().unwrap();
        assert_eq!(last["failure"], Value::Null, "{status}");
        last["slot"].as_u64().unwrap()
    }

    /// Ids and kinds of the slots on disk.
    pub fn slots(&self) -> Vec<(u64, String)> {
        let done = self.run(&["slots", "list", "--json"]).ended(0);
        let slots: Value = serde_json::from_str(&done.stdout).unwrap();
        let slot = |slot: &Value| {
            let kind = slot["kind"].as_str().unwrap().to_owned();
            (slot["id"].as_u64().unwrap(), kind)
        };
        slots.as_array().unwrap().iter().map(slot).collect()
    }
}

pub fn mapping() -> Mapping {
    let fields = [
        ("project", "myproject"),
        ("path", "/myapp"),
        ("key", "DB_PASSWORD"),
    ];
    Mapping::new(ProviderName::Infisical, fields)
}
