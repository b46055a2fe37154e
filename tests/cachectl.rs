//! `psi-cachectl` with a real psi-serve, systemd-creds and a software TPM.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use psi::cli::block_on;
use psi::client::Client;
use psi::mapping::{Mapping, ProviderName};
use psi::podman::NewSecret;
use psi::secret::SecretValue;
use psi::wire::{Check, Entry, HandOver, WorkloadEntries};
use psi_test_support::done::Done;
use psi_test_support::podman::Podman;
use psi_test_support::psi::{Host, Service};
use psi_test_support::swtpm::Swtpm;
use serde_json::Value;

const CACHECTL: &str = env!("CARGO_BIN_EXE_psi-cachectl");
const DRIVER: &str = env!("CARGO_BIN_EXE_psi-secret");
const SERVE: &str = env!("CARGO_BIN_EXE_psi-serve");
const INIT: [&str; 3] = ["init", "--backend", "credential"];
const FORCE: [&str; 4] = ["init", "--backend", "credential", "--force"];
const VERIFY: [&str; 2] = ["status", "--verify"];
const ID: &str = "0123456789abcdef012345678";

/// A host that has the key as a credential, unless it is taken away.
struct Machine {
    host: Host,
}

impl Machine {
    fn new() -> Self {
        let host = Host::new();
        host.write_config("providers: {local: {}}\ncache: {backend: tpm}\n");
        Self { host }
    }

    fn with_podman(podman: &Podman) -> Self {
        let m = Self::new();
        m.host.write_config(&format!(
            "podman_socket: {}\nproviders: {{local: {{}}}}\ncache: {{backend: tpm}}\n",
            podman.socket().display()
        ));
        m
    }

    fn serve(&self) -> Service {
        self.host.serve(Path::new(SERVE))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.host.command(CACHECTL);
        // Never the machine's own.
        command.arg("--sealed-key").arg(self.sealed_key());
        command.args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Done {
        Done::of(self.command(arguments).output().unwrap())
    }

    fn sealed_key(&self) -> PathBuf {
        self.host.path("credstore").join("psi-cache-key")
    }

    fn cache(&self) -> PathBuf {
        self.host.cache_file()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let done = self.run(arguments);
        serde_json::from_str(&done.stdout).unwrap()
    }

    fn header(&self) -> Value {
        self.json(&["status", "--json"])["file"].take()
    }

    fn client(&self) -> Client {
        Client::new(&self.host.socket(), None).unwrap()
    }

    /// Gives psi-serve two values, and the state directory their mappings.
    fn fill(&self) {
        let entries = [("A", "hunter2-a"), ("B", "hunter2-b")].map(|(key, value)| Entry {
            mapping: mapping(key),
            value: SecretValue::new(value.as_bytes().to_vec()),
        });
        let entries = Vec::from(entries);
        let workloads = BTreeMap::from([("myapp".to_owned(), WorkloadEntries { entries })]);
        let hand_over = HandOver { workloads };
        let answer = block_on(self.client().hand_over(ProviderName::Infisical, &hand_over));
        assert!(answer.unwrap().is_some());
        self.map(ID, "A");
        self.map("by-name", "B");
    }

    fn map(&self, name: &str, key: &str) {
        let file = self.host.state_dir().join(name);
        fs::write(file, mapping(key).canonical()).unwrap();
    }

    /// Registers a secret with Podman, which hands its mapping to psi-serve.
    fn register(&self, podman: &Podman, name: &str, key: &str) {
        let socket = self.host.socket().display().to_string();
        let option = |verb: &str| {
            let command = format!("exec {DRIVER} {verb} --socket {socket}");
            (verb.to_owned(), command)
        };
        let options = ["list", "lookup", "store", "delete"].map(option).into();
        let new = NewSecret {
            name,
            payload: &mapping(key).canonical(),
            options: &options,
            labels: &BTreeMap::new(),
        };
        let client = psi::podman::Podman::new(&podman.socket()).unwrap();
        block_on(client.create(&new)).unwrap();
    }

    /// Which of the two values psi-serve has.
    fn sealed_values(&self) -> Vec<bool> {
        let check = Check {
            mappings: vec![mapping("A"), mapping("B")],
            ids: Vec::new(),
        };
        block_on(self.client().check(&check)).unwrap().mappings
    }
}

fn mapping(key: &str) -> Mapping {
    Mapping::new(ProviderName::Infisical, [("key", key)])
}

/// A host with a TPM and no key yet.
struct TpmMachine {
    machine: Machine,
    tpm: Swtpm,
}

impl TpmMachine {
    fn new() -> Self {
        let machine = Machine::new();
        machine.host.remove_credential("psi-cache-key");
        let tpm = Swtpm::start();
        Self { machine, tpm }
    }

    /// Not with `auto`, which would make a host key on the machine that runs the test.
    fn init(&self, more: &[&str]) -> Done {
        let arguments = [&INIT, ["--with-key", "tpm2"].as_slice(), more].concat();
        self.run(&arguments)
    }

    fn run(&self, arguments: &[&str]) -> Done {
        let mut command = self.machine.command(arguments);
        command.env("SYSTEMD_TPM2_DEVICE", self.tpm.tcti());
        let done = Done::of(command.output().unwrap());
        self.tpm.flush();
        done
    }

    /// The key, as systemd decrypts it before a start.
    fn key(&self) -> Vec<u8> {
        let opened = Command::new("systemd-creds")
            .args(["decrypt", "--name=psi-cache-key"])
            .arg(self.machine.sealed_key())
            .arg("-")
            .env("SYSTEMD_TPM2_DEVICE", self.tpm.tcti())
            .output()
            .unwrap();
        self.tpm.flush();
        assert!(opened.status.success(), "{opened:?}");
        opened.stdout
    }

    fn deliver(&self) {
        self.machine
            .host
            .set_credential("psi-cache-key", &self.key());
    }
}

// ---- init: usage

#[test]
fn init_without_a_backend_lists_the_backends_and_fails() {
    let output = Command::new(CACHECTL)
        .args(["init", "--config", "/nowhere"])
        .output()
        .unwrap();
    Done::of(output).ended(64).says(&[
        "`credential`",
        "`tpm`",
        "`hsm`",
        "psi-cachectl init --backend tpm",
        "--backend credential",
    ]);
}

#[test]
fn a_backend_without_a_device_or_of_another_name_makes_no_cache() {
    let m = Machine::new();
    m.run(&["init", "--backend", "hsm"])
        .ended(78)
        .says(&["no PKCS#11 token is configured", "pkcs11_module"]);
    m.run(&["init", "--backend", "rot13"]).ended(64);
    assert!(!m.cache().exists());
}

#[test]
fn pcrs_that_might_not_be_bound_are_wrong_usage() {
    let m = Machine::new();
    for key in ["auto", "host"] {
        let more = ["--with-key", key, "--pcrs", "7"];
        m.run(&[INIT.as_slice(), &more].concat())
            .ended(64)
            .says(&["--with-key tpm2"]);
    }
    m.run(&[INIT.as_slice(), &["--pcrs", "7; reboot"]].concat())
        .ended(64);
    assert!(!m.sealed_key().exists());
}

// ---- init: psi-serve does not run

#[test]
fn init_seals_a_key_and_makes_an_empty_cache_that_opens_with_it() {
    let t = TpmMachine::new();
    let m = &t.machine;
    let done = t.init(&[]).ended(0);
    let (sealed, cache) = (m.sealed_key(), m.cache());
    let done = done.says(&[
        &format!("a new key is sealed in {}", sealed.display()),
        &format!("created {}", cache.display()),
        "next: ",
        "LoadCredentialEncrypted=psi-cache-key:",
    ]);
    assert_eq!(
        fs::metadata(&sealed).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let key = t.key();
    assert_eq!(key.len(), 32);
    let hex: String = key.iter().map(|b| format!("{b:02x}")).collect();
    done.never_says(&hex).never_says(&hex[..16]);
    for file in [&sealed, &cache] {
        let bytes = fs::read(file).unwrap();
        assert!(!bytes.windows(8).any(|w| w == &key[..8]), "{file:?}");
    }
    t.run(&VERIFY)
        .ended(0)
        .says(&["verified", "yes", "credential"]);
    t.deliver();
    let _serve = m.serve();
    m.run(&["status"]).ended(0).says(&["runs, cache open"]);
}

#[test]
fn a_second_init_uses_the_key_that_is_sealed_already() {
    let t = TpmMachine::new();
    let m = &t.machine;
    t.init(&[]).ended(0);
    let sealed = fs::read(m.sealed_key()).unwrap();
    fs::remove_file(m.cache()).unwrap();
    t.run(&INIT).ended(0).says(&["the key is the one in"]);
    assert_eq!(fs::read(m.sealed_key()).unwrap(), sealed);
    t.run(&VERIFY).ended(0);
    fs::remove_file(m.cache()).unwrap();
    t.init(&["--pcrs", "7"])
        .ended(0)
        .says(&["change nothing: there is a key already"]);
}

#[test]
fn an_init_that_is_killed_at_any_step_is_completed_by_the_next() {
    for step in ["linkat", "?renameat,renameat2"] {
        let t = TpmMachine::new();
        let m = &t.machine;
        let mut command = Command::new("strace");
        command
            .args(["-qq", "-e", &format!("trace={step}")])
            .args(["-e", &format!("inject={step}:signal=KILL:when=1")])
            .arg(CACHECTL)
            .arg("--sealed-key")
            .arg(m.sealed_key())
            .args(INIT)
            .args(["--with-key", "tpm2"])
            .env("PSI_CONFIG", m.host.config_file())
            .env("SYSTEMD_TPM2_DEVICE", t.tpm.tcti());
        let killed = command.output().unwrap();
        assert!(!killed.status.success(), "{step}: {killed:?}");
        assert_eq!(m.sealed_key().exists(), step != "linkat");
        assert!(!m.cache().exists(), "{step}");
        t.tpm.flush();
        t.init(&[]).ended(0);
        t.run(&VERIFY).ended(0);
        let left = fs::read_dir(m.host.state_dir()).unwrap();
        let left: Vec<_> = left.map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }
}

#[test]
fn a_key_of_another_tpm_is_named_and_nothing_is_made() {
    let mut t = TpmMachine::new();
    t.init(&[]).ended(0);
    let sealed = fs::read(t.machine.sealed_key()).unwrap();
    fs::remove_file(t.machine.cache()).unwrap();
    t.tpm = Swtpm::start();
    let file = t.machine.sealed_key().display().to_string();
    t.run(&INIT)
        .ended(74)
        .says(&[&file, "move it away", "another TPM"]);
    assert!(!t.machine.cache().exists());
    assert_eq!(fs::read(t.machine.sealed_key()).unwrap(), sealed);
}

#[test]
fn a_key_is_bound_to_pcrs_only_if_asked_and_never_without_a_warning() {
    let t = TpmMachine::new();
    let free = t.init(&[]).ended(0);
    free.never_says("243/CREDENTIALS");
    t.tpm.extend_pcr(7, "a firmware update");
    t.run(&VERIFY).ended(0);

    let t = TpmMachine::new();
    t.init(&["--pcrs", "7"])
        .ended(0)
        .says(&["243/CREDENTIALS", "PCRs 7"]);
    t.run(&VERIFY).ended(0);
    t.tpm.extend_pcr(7, "a firmware update");
    t.run(&VERIFY).ended(69).says(&["slot 1 (credential)"]);
}

#[test]
fn where_there_is_no_systemd_creds_the_command_for_the_host_is_printed() {
    let m = Machine::new();
    m.host.remove_credential("psi-cache-key");
    let mut command = m.command(&INIT);
    command.env("PATH", m.host.path("run"));
    Done::of(command.output().unwrap()).ended(69).says(&[
        "on the host, run: ",
        "systemd-creds encrypt --name=psi-cache-key --tpm2-pcrs= - ",
        &m.sealed_key().display().to_string(),
    ]);
    assert!(!m.sealed_key().exists() && !m.cache().exists());
}

#[test]
fn without_a_tpm_the_key_is_sealed_to_the_host() {
    let m = Machine::new();
    m.host.remove_credential("psi-cache-key");
    let run = |secret: &str, arguments: &[&str]| {
        let mut command = m.command(arguments);
        // The host's key, but not that of the machine that runs the test.
        command.env("SYSTEMD_CREDENTIAL_SECRET", m.host.path(secret));
        Done::of(command.output().unwrap())
    };
    let init = [INIT.as_slice(), &["--with-key", "host"]].concat();
    run("host.secret", &init)
        .ended(0)
        .says(&["a new key is sealed"]);
    assert!(m.host.path("host.secret").exists());
    run("host.secret", &VERIFY).ended(0);
    run("another-host.secret", &VERIFY)
        .ended(69)
        .says(&["slot 1 (credential)", "another TPM, host key"]);
}

#[test]
fn a_delivered_key_is_used_and_a_wrong_one_is_damage() {
    let m = Machine::new();
    m.run(&INIT)
        .ended(0)
        .says(&["the credential that systemd delivered"]);
    assert!(!m.sealed_key().exists());
    m.run(&VERIFY).ended(0);
    fs::remove_file(m.cache()).unwrap();
    m.host.set_credential("psi-cache-key", &[7; 31]);
    m.run(&INIT).ended(65).says(&["31 bytes, not 32"]);
    assert!(!m.cache().exists());
}

/// Root may lock as much as it likes, unless that right is taken away too.
#[test]
fn memory_that_can_not_be_locked_is_said_once_and_holds_up_nothing() {
    let m = Machine::new();
    m.run(&INIT).ended(0).never_says("could not be locked");
    let mut limited = m.host.command("setpriv");
    limited.args(["--bounding-set", "-ipc_lock", "prlimit", "--memlock=0:0"]);
    limited
        .arg(CACHECTL)
        .arg("--sealed-key")
        .arg(m.sealed_key());
    let done = Done::of(limited.args(FORCE).output().unwrap()).ended(0);
    assert_eq!(done.stderr.matches("could not be locked").count(), 1);
    done.says(&["LimitMEMLOCK=256M", "systemctl edit psi-secrets.service"]);
    m.run(&VERIFY).ended(0);
}

#[test]
fn an_existing_cache_is_refused_with_what_would_be_lost_and_put_aside_by_force() {
    let m = Machine::new();
    let serve = m.serve();
    m.fill();
    serve.sigterm();
    let old = fs::read(m.cache()).unwrap();
    m.run(&INIT)
        .ended(1)
        .says(&["2 values, 0 of them kept nowhere else", "--force"]);
    assert_eq!(fs::read(m.cache()).unwrap(), old);
    let done = m.run(&FORCE).ended(0).says(&["2 values", "put aside"]);
    assert_eq!(fs::read(aside(&done)).unwrap(), old);
    m.run(&VERIFY).ended(0);
    assert_eq!(m.header()["entries"], 0);
}

/// Where `init --force` says that the old cache is.
fn aside(done: &Done) -> PathBuf {
    let line = done
        .stdout
        .lines()
        .find_map(|l| l.strip_prefix("the old cache is now "));
    PathBuf::from(line.unwrap())
}

#[test]
fn a_damaged_cache_and_an_older_one_are_refused_and_put_aside_by_force() {
    for (bytes, word) in [
        (
            b"this is not a cache".as_slice(),
            "does not begin with PSIC",
        ),
        (b"PSIC\x01\x01aaaaaaaaaaaaaaaaaaaa", "version 1"),
    ] {
        let m = Machine::new();
        fs::write(m.cache(), bytes).unwrap();
        m.run(&INIT).ended(1).says(&[word, "--force"]);
        assert_eq!(fs::read(m.cache()).unwrap(), bytes);
        let done = m.run(&FORCE).ended(0);
        assert_eq!(fs::read(aside(&done)).unwrap(), bytes);
        m.run(&VERIFY).ended(0);
    }
}

#[test]
fn a_forced_init_without_a_key_changes_nothing() {
    let m = Machine::new();
    m.run(&INIT).ended(0);
    let old = fs::read(m.cache()).unwrap();
    m.host.set_credential("psi-cache-key", b"short");
    m.run(&FORCE).ended(65);
    assert_eq!(fs::read(m.cache()).unwrap(), old);
    assert_eq!(fs::read_dir(m.host.state_dir()).unwrap().count(), 2);
}

#[test]
fn before_psi_serve_has_made_its_directory_init_sees_to_the_key_only() {
    let t = TpmMachine::new();
    let state_dir = t.machine.host.state_dir();
    fs::remove_dir(&state_dir).unwrap();
    t.init(&[]).ended(0).says(&[
        "a new key is sealed",
        "systemctl restart psi-secrets.service",
    ]);
    assert!(t.machine.sealed_key().exists() && !state_dir.exists());
}

#[test]
fn without_a_configured_backend_init_says_what_is_missing() {
    let m = Machine::new();
    m.host.write_config("providers: {local: {}}\n");
    m.run(&INIT)
        .ended(0)
        .says(&["set `cache.backend: tpm` in ", "config.yaml"]);
    assert!(m.cache().exists());
}

#[test]
fn what_root_makes_belongs_to_the_owner_of_the_state_directory() {
    let m = Machine::new();
    chown(m.host.state_dir(), Some(65534), Some(65534)).unwrap();
    m.run(&INIT).ended(0);
    for name in ["cache.enc", ".lock"] {
        let meta = fs::metadata(m.host.state_dir().join(name)).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (65534, 65534), "{name}");
        assert_eq!(meta.mode() & 0o777, 0o600, "{name}");
    }
}

#[test]
fn a_link_in_the_place_of_the_cache_is_an_error_that_names_it() {
    let m = Machine::new();
    symlink("/etc/hostname", m.cache()).unwrap();
    for command in [INIT.as_slice(), &FORCE, &VERIFY, &["status"]] {
        m.run(command).ended(74).says(&["cache.enc", "`ls -l "]);
    }
}

// ---- init: psi-serve runs

#[test]
fn a_running_psi_serve_makes_the_cache_with_its_own_key() {
    let m = Machine::new();
    let _serve = m.serve();
    m.run(&["status"])
        .ended(0)
        .says(&["no cache yet", "runs, cache absent"]);
    m.run(&INIT).ended(0).says(&[
        "the key is the one that psi-serve has",
        "created ",
        "-setup.service` fills it",
    ]);
    m.run(&["status"])
        .ended(0)
        .says(&["runs, cache open, healthy"]);
    assert!(!m.sealed_key().exists());
}

#[test]
fn an_open_cache_is_kept_by_a_running_psi_serve_unless_forced() {
    let m = Machine::new();
    let _serve = m.serve();
    m.fill();
    let old = fs::read(m.cache()).unwrap();
    m.run(&INIT).ended(1).says(&["2 values", "--force"]);
    assert_eq!(m.sealed_values(), [true, true]);
    let done = m.run(&FORCE).ended(0);
    assert_eq!(fs::read(aside(&done)).unwrap(), old);
    assert_eq!(m.sealed_values(), [false, false]);
    m.run(&VERIFY).ended(0);
}

#[test]
fn a_cache_that_psi_serve_has_open_is_not_lost_when_its_file_is_gone() {
    let m = Machine::new();
    let _serve = m.serve();
    m.fill();
    fs::remove_file(m.cache()).unwrap();
    m.run(&INIT).ended(1).says(&["open and in use"]);
    assert_eq!(m.sealed_values(), [true, true]);
    m.run(&FORCE).ended(0);
    assert_eq!(m.sealed_values(), [false, false]);
}

#[test]
fn a_psi_serve_without_a_key_gets_it_by_a_restart() {
    let t = TpmMachine::new();
    let m = &t.machine;
    let serve = m.serve();
    t.init(&[]).ended(0).says(&[
        "a new key is sealed",
        "psi-serve has no key yet",
        "systemctl restart psi-secrets.service",
        "-setup.service` makes the cache",
    ]);
    assert!(!m.cache().exists());
    t.run(&INIT).ended(0).says(&["the key is the one in"]);
    t.deliver();
    serve.sigterm();
    serve.restart();
    m.fill();
    t.run(&VERIFY)
        .ended(0)
        .says(&["2, 0 of them kept nowhere else"]);
    serve.sigterm();
    m.host.remove_credential("psi-cache-key");
    t.run(&VERIFY).ended(0);
}

#[test]
fn a_psi_serve_without_the_key_of_the_cache_keeps_it_even_by_force() {
    let t = TpmMachine::new();
    let m = &t.machine;
    t.init(&[]).ended(0);
    let old = fs::read(m.cache()).unwrap();
    let _serve = m.serve();
    t.run(&FORCE).ended(69).says(&[
        "psi-serve has no key yet",
        "systemctl restart psi-secrets.service",
    ]);
    assert_eq!(fs::read(m.cache()).unwrap(), old);
    assert_eq!(fs::read_dir(m.host.state_dir()).unwrap().count(), 2);
}

#[test]
fn a_key_that_the_next_start_will_not_have_is_found_out() {
    let t = TpmMachine::new();
    let m = &t.machine;
    t.init(&[]).ended(0);
    fs::remove_file(m.cache()).unwrap();
    m.host.set_credential("psi-cache-key", &[7; 32]);
    let _serve = m.serve();
    t.run(&INIT)
        .ended(1)
        .says(&["does not open it", "systemctl restart psi-secrets.service"]);
}

#[test]
fn a_psi_serve_that_keeps_no_cache_is_not_asked_for_one() {
    let m = Machine::new();
    m.host.write_config("providers: {local: {}}\n");
    let _serve = m.serve();
    m.run(&INIT).ended(0).says(&[
        "started without `cache.backend`",
        "set `cache.backend: tpm`",
    ]);
    assert!(!m.cache().exists());
}

// ---- status

#[test]
fn status_without_a_cache_is_no_error_but_there_is_nothing_to_verify() {
    let m = Machine::new();
    m.run(&["status"])
        .ended(0)
        .says(&["no cache yet", "does not run"]);
    assert!(!m.host.state_dir().join(".lock").exists(), "it only looks");
    m.run(&VERIFY)
        .ended(66)
        .says(&["no cache yet", "there is no "]);
    let json = m.json(&["status", "--json"]);
    assert_eq!(json["file"], Value::Null);
    assert_eq!(json["psi_serve"]["running"], false);
    assert_eq!(json["trouble"], Value::Null);
}

#[test]
fn status_says_what_the_header_says_and_that_it_is_not_verified() {
    let m = Machine::new();
    let serve = m.serve();
    m.fill();
    serve.sigterm();
    m.host.remove_credential("psi-cache-key");
    m.run(&["status"])
        .ended(0)
        .says(&[
            "backend     tpm",
            "version     2",
            "generation  1",
            "2, 0 of them kept nowhere else; so the header says, not verified",
            "UTC, ",
            "SLOT  KIND        CREATED",
            "does not run",
        ])
        .never_says("hunter2")
        .never_says("myapp");
    let json = m.json(&["status", "--json"]);
    assert_eq!(json["path"], m.cache().display().to_string());
    assert_eq!(
        (&json["enabled"], &json["backend"]),
        (&true.into(), &"tpm".into())
    );
    let file = &json["file"];
    assert_eq!(file["size"], fs::metadata(m.cache()).unwrap().len());
    assert_eq!((&file["version"], &file["entries"]), (&2.into(), &2.into()));
    assert_eq!(file["key_id"].as_str().unwrap().len(), 16);
    assert_eq!(file["slots"][0]["kind"], "credential");
    assert_eq!(json["verified"], Value::Null);
}

#[test]
fn verify_tells_good_damaged_and_locked_apart_while_psi_serve_is_down() {
    let m = Machine::new();
    let serve = m.serve();
    m.fill();
    serve.sigterm();
    let done = m.run(&VERIFY).ended(0);
    assert!(!done.stdout.contains("not verified"), "{done:?}");
    assert_eq!(m.json(&["status", "--verify", "--json"])["verified"], true);
    damage(&m.cache());
    m.run(&["status"]).ended(0);
    m.run(&VERIFY).ended(65).says(&["not what was saved"]);
    let json = m.json(&["status", "--verify", "--json"]);
    assert_eq!(json["verified"], false);
    assert!(
        json["trouble"]["what"]
            .as_str()
            .unwrap()
            .contains("damaged")
    );
    damage(&m.cache());
    m.host.set_credential("psi-cache-key", &[1; 32]);
    m.run(&VERIFY).ended(69).says(&["slot 1 (credential)"]);
    m.host.remove_credential("psi-cache-key");
    m.run(&VERIFY).ended(69).says(&["there is no credential"]);
}

/// Flips one bit of the contents. Doing it again repairs the file.
fn damage(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(file, bytes).unwrap();
}

#[test]
fn verify_tells_good_damaged_and_locked_apart_while_psi_serve_runs() {
    let m = Machine::new();
    let serve = m.serve();
    m.fill();
    m.run(&VERIFY).ended(0);
    damage(&m.cache());
    m.run(&VERIFY).ended(65).says(&["written anew from memory"]);
    m.run(&VERIFY).ended(0);
    m.host.set_credential("psi-cache-key", &[1; 32]);
    serve.sigterm();
    serve.restart();
    m.run(&VERIFY)
        .ended(69)
        .says(&["runs, cache closed", "no slot opens"]);
}

#[test]
fn a_cut_header_is_damage_without_opening_anything() {
    let m = Machine::new();
    m.run(&INIT).ended(0);
    let bytes = fs::read(m.cache()).unwrap();
    fs::write(m.cache(), &bytes[..40]).unwrap();
    for command in [["status"].as_slice(), &VERIFY] {
        m.run(command).ended(65).says(&["not counted", "cut short"]);
    }
    let json = m.json(&["status", "--json"]);
    assert_eq!(
        (&json["file"]["version"], &json["file"]["slots"]),
        (&2.into(), &Value::Null)
    );
}

#[test]
fn an_older_version_is_named_and_only_verify_takes_it_for_a_failure() {
    let m = Machine::new();
    fs::write(m.cache(), b"PSIC\x01\x01aaaaaaaaaaaaaaaaaaaa").unwrap();
    m.run(&["status"])
        .ended(0)
        .says(&["version     1, sealed by: tpm; carried over when psi-serve opens it"]);
    m.run(&VERIFY).ended(65).says(&["version 1"]);
    let header = m.header();
    assert_eq!(header["version"], 1);
    assert_eq!(header["sealed_by"], "tpm");
}

#[test]
fn status_shows_the_file_that_a_cache_was_carried_over_from() {
    let m = Machine::new();
    let old = m.cache().with_file_name("cache.enc.v1");
    m.run(&INIT).ended(0);
    let json: Value = serde_json::from_str(&m.run(&["status", "--json"]).ended(0).stdout).unwrap();
    assert_eq!(json["old_file"], Value::Null);
    fs::write(&old, b"PSIC\x01\x01aaaa").unwrap();
    m.run(&["status"])
        .ended(0)
        .says(&["old file    ", "cache.enc.v1, of version 1, until"]);
    let json: Value = serde_json::from_str(&m.run(&["status", "--json"]).ended(0).stdout).unwrap();
    assert_eq!(json["old_file"]["path"], old.to_str().unwrap());
    assert_eq!(json["old_file"]["size"], 10);
    let until = json["old_file"]["kept_until"].as_u64().unwrap();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    assert!((now.as_secs() + 6 * 86_400..=now.as_secs() + 7 * 86_400).contains(&until));
}

#[test]
fn status_shows_how_a_running_psi_serve_is() {
    let m = Machine::new();
    let _serve = m.serve();
    m.fill();
    let json = m.json(&["status", "--json"]);
    assert_eq!(json["psi_serve"]["running"], true);
    assert_eq!(json["psi_serve"]["status"]["cache"]["state"], "open");
    assert_eq!(json["psi_serve"]["status"]["cache"]["entries"], 2);
}

#[test]
fn status_does_not_wake_a_psi_serve_whose_socket_systemd_holds() {
    let m = Machine::new();
    let listener = UnixListener::bind(m.host.socket()).unwrap();
    listener.set_nonblocking(true).unwrap();
    m.run(&["status"]).ended(0).says(&["does not run"]);
    m.run(&INIT).ended(0);
    assert!(listener.accept().is_err(), "nobody connected");
}

#[test]
fn a_header_that_nobody_vouches_for_does_not_move_the_cursor() {
    let m = Machine::new();
    let slot = r#"{"id":1,"kind":"credential","label":"\u001b[2J","created_at":18446744073709551615,"wrapped_key":""}"#;
    let header = format!(
        r#"{{"key_id":"0011223344556677","generation":1,"written_at":18446744073709551615,"entries":1,"local":0,"slots":[{slot}]}}"#
    );
    let length = u32::try_from(header.len()).unwrap().to_le_bytes();
    let file = [b"PSIC\x02\0\0\0", length.as_slice(), header.as_bytes()].concat();
    fs::write(m.cache(), file).unwrap();
    m.run(&["status"])
        .ended(0)
        .never_says("\x1b")
        .says(&["in the future"]);
}

// ---- invalidate

#[test]
fn a_value_is_dropped_by_a_running_psi_serve() {
    let m = Machine::new();
    let serve = m.serve();
    m.fill();
    m.run(&["invalidate", ID])
        .ended(0)
        .says(&["dropped the value"]);
    assert_eq!(m.sealed_values(), [false, true]);
    m.run(&["invalidate", ID])
        .ended(0)
        .says(&["nothing was dropped"]);
    m.run(&["invalidate", "by-name"])
        .ended(0)
        .says(&["dropped the value"]);
    assert_eq!(m.sealed_values(), [false, false]);
    serve.sigterm();
    assert_eq!(m.header()["entries"], 0, "on disk as well");
}

#[test]
fn a_value_is_dropped_while_psi_serve_is_down_and_stays_dropped() {
    let m = Machine::new();
    let serve = m.serve();
    m.fill();
    serve.sigterm();
    m.run(&["invalidate", ID])
        .ended(0)
        .says(&["dropped the value"]);
    m.run(&["invalidate", ID])
        .ended(0)
        .says(&["nothing was dropped"]);
    assert_eq!(m.header()["entries"], 1);
    serve.restart();
    assert_eq!(m.sealed_values(), [false, true]);
}

#[test]
fn an_unknown_name_is_not_found_and_drops_nothing() {
    let podman = Podman::start();
    let m = Machine::with_podman(&podman);
    let serve = m.serve();
    m.fill();
    let unknown = [
        "myapp--NOTHING",
        "ffffffffffffffffffffffff0",
        "../cache.enc",
        "cache.enc",
    ];
    for name in unknown {
        m.run(&["invalidate", name])
            .ended(66)
            .says(&["podman secret ls"]);
    }
    serve.sigterm();
    for name in unknown {
        m.run(&["invalidate", name])
            .ended(66)
            .says(&["podman secret ls"]);
    }
    assert_eq!(m.header()["entries"], 2);
}

#[test]
fn the_name_that_podman_knows_a_secret_by_is_found_whether_psi_serve_runs_or_not() {
    let podman = Podman::start();
    let m = Machine::with_podman(&podman);
    let serve = m.serve();
    m.fill();
    m.register(&podman, "myapp--A", "A");
    m.register(&podman, "myapp--B", "B");
    m.run(&["invalidate", "myapp--A"])
        .ended(0)
        .says(&["dropped the value of \"myapp--A\""]);
    assert_eq!(m.sealed_values(), [false, true]);
    serve.sigterm();
    m.run(&["invalidate", "myapp--B"]).ended(0);
    assert_eq!(m.header()["entries"], 0);
}

#[test]
fn a_podman_that_is_away_is_named_and_ids_still_work() {
    let mut podman = Podman::start();
    let m = Machine::with_podman(&podman);
    let _serve = m.serve();
    m.fill();
    podman.stop_service();
    m.run(&["invalidate", "myapp--A"])
        .ended(69)
        .says(&["has no mapping \"myapp--A\"", "podman.sock"]);
    m.run(&["invalidate", ID]).ended(0).says(&["dropped"]);
}

#[test]
fn a_value_in_a_cache_that_does_not_open_is_not_called_dropped() {
    let m = Machine::new();
    let serve = m.serve();
    m.fill();
    serve.sigterm();
    m.host.set_credential("psi-cache-key", &[1; 32]);
    m.run(&["invalidate", ID])
        .ended(69)
        .says(&["no slot opens"]);
    serve.restart();
    m.run(&["invalidate", ID])
        .ended(69)
        .says(&["no slot opens"]);
    assert_eq!(m.header()["entries"], 2);
}

#[test]
fn without_a_cache_there_is_nothing_to_drop() {
    let m = Machine::new();
    m.map(ID, "A");
    m.run(&["invalidate", ID])
        .ended(0)
        .says(&["nothing was dropped"]);
    let _serve = m.serve();
    m.run(&["invalidate", ID])
        .ended(0)
        .says(&["nothing was dropped"]);
}

#[test]
fn a_damaged_mapping_is_named_and_nothing_is_dropped() {
    let m = Machine::new();
    fs::write(m.host.state_dir().join(ID), b"hunter2").unwrap();
    m.run(&["invalidate", ID])
        .ended(65)
        .says(&[ID])
        .never_says("hunter2");
    let _serve = m.serve();
    m.run(&["invalidate", ID])
        .ended(65)
        .says(&[ID])
        .never_says("hunter2");
}

// ---- refresh, and who has the lock

#[test]
fn a_refresh_without_psi_serve_names_the_unit_to_start() {
    let m = Machine::new();
    m.run(&["refresh"])
        .ended(69)
        .says(&["systemctl start psi-secrets.service"]);
    m.run(&["refresh", "--provider", "nobody"]).ended(64);
}

#[test]
fn a_lock_whose_holder_does_not_answer_is_reported_after_a_while() {
    let m = Machine::new();
    m.run(&INIT).ended(0);
    let lock = fs::File::open(m.host.state_dir().join(".lock")).unwrap();
    lock.lock().unwrap();
    m.run(&["status"])
        .ended(0)
        .says(&["holds the lock; psi-serve does not answer"]);
    m.run(&VERIFY)
        .ended(69)
        .says(&["psi-serve does not answer"]);
    lock.unlock().unwrap();
    m.run(&VERIFY).ended(0);
}

#[test]
fn the_configuration_is_needed_and_named_when_it_is_missing() {
    let m = Machine::new();
    fs::remove_file(m.host.config_file()).unwrap();
    for command in [
        INIT.as_slice(),
        &["status"],
        &["invalidate", ID],
        &["refresh"],
    ] {
        m.run(command).ended(78).says(&["config.yaml"]);
    }
}
