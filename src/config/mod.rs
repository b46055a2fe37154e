//! `config.yaml`: YAML in, a validated [`Config`] out. Plain data that knows none of its readers.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::error::{Error, Kind, Result};
use crate::mapping::ProviderName;
use crate::secret::SecretValue;

mod node;
mod read;
mod section;
mod span;

pub use read::is_socket_token;

use node::{At, Key, Node, Value};
pub use read::is_plain;
use section::File;

/// Largest configuration, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// The largest id of a user that is no person, as systemd and shadow have it.
const MAX_SYSTEM_UID: u32 = 999;

/// Whose machine-wide defaults apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// root and system users: `/etc`, `/var/lib`, `/run`.
    System,
    /// People: the XDG directories.
    User,
}

/// What the process was started with: who it is, and its variables.
#[derive(Clone, Default)]
pub struct Environment {
    /// The effective user id.
    pub uid: u32,
    /// The variables.
    pub variables: BTreeMap<String, String>,
}

/// The variables' names only: `PSI_SOCKET_TOKEN` may be among them.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment")
            .field("uid", &self.uid)
            .field("variables", &self.variables.keys())
            .finish()
    }
}

impl Environment {
    /// That of this process; variables that are not UTF-8 are left out.
    pub fn current() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self {
            uid: rustix::process::geteuid().as_raw(),
            variables: std::env::vars_os().filter_map(text).collect(),
        }
    }

    /// Whose defaults apply.
    pub fn scope(&self) -> Scope {
        match self.uid {
            0..=MAX_SYSTEM_UID => Scope::System,
            _ => Scope::User,
        }
    }

    /// A variable; an empty one counts as absent.
    pub fn get(&self, name: &str) -> Option<&str> {
        let value = self.variables.get(name)?;
        (!value.is_empty()).then_some(value.as_str())
    }

    /// psi-serve's socket where neither the configuration nor a variable names one.
    pub fn default_socket(&self) -> PathBuf {
        read::default_socket(self)
    }

    fn default_file(&self) -> PathBuf {
        match self.scope() {
            Scope::System => "/etc/psi/config.yaml".into(),
            Scope::User => {
                let home = self.get("HOME").unwrap_or("/");
                Path::new(home).join(".config/psi/config.yaml")
            }
        }
    }
}

/// The variables that override a top-level key, with the key.
const OVERRIDES: [(&str, &str); 9] = [
    ("PSI_STATE_DIR", "state_dir"),
    ("PSI_SOCKET", "socket"),
    ("PSI_SYSTEMD_DIR", "systemd_dir"),
    ("PSI_PODMAN_SOCKET", "podman_socket"),
    ("PSI_DRIVER_PATH", "driver_path"),
    ("PSI_CA_CERT", "ca_cert"),
    ("PSI_SOCKET_TOKEN", "socket_token"),
    ("PSI_LOOKUP_TIMEOUT", "lookup_timeout"),
    ("PSI_PRUNE_AFTER", "prune_after"),
];

impl Config {
    /// Reads the configuration: `file`, else `PSI_CONFIG`, else the scope's own path. With
    /// `strict`, unknown nested keys are errors as well.
    ///
    /// # Errors
    /// [`Kind::Config`] with `file:line:column`, the key and the next step. No value of the file
    /// is ever quoted.
    pub fn load(file: Option<&Path>, strict: bool, environment: &Environment) -> Result<Self> {
        let path = match file {
            Some(file) => file.to_owned(),
            None => environment
                .get("PSI_CONFIG")
                .map_or_else(|| environment.default_file(), PathBuf::from),
        };
        let text = read_file(&path)?;
        Self::parse(&path, &text, strict, environment)
    }

    /// The configuration that `text` is. It reads no file: `path` is what messages name.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(path: &Path, text: &str, strict: bool, environment: &Environment) -> Result<Self> {
        let file = Rc::new(File {
            path: path.to_owned(),
            strict,
            warnings: RefCell::default(),
        });
        let mut root = Node::parse(text).map_err(|e| {
            let start = At::Line { line: 1, column: 1 };
            file.error(e.at.unwrap_or(start), e.why).hint(e.hint)
        })?;
        override_scalars(&mut root, environment);
        let mut config = read::config(&file, &root, environment)?;
        config.warnings = file.warnings.take();
        Ok(config)
    }
}

/// Puts each `PSI_*` variable in the place of its key.
fn override_scalars(root: &mut Node, environment: &Environment) {
    if matches!(root.value, Value::Null) {
        root.value = Value::Map(Vec::new());
    }
    let Value::Map(entries) = &mut root.value else {
        return;
    };
    for (variable, key) in OVERRIDES {
        let Some(text) = environment.get(variable) else {
            continue;
        };
        entries.retain(|(k, _)| k.name != key);
        let at = At::Variable(variable);
        let key = Key {
            at,
            name: key.to_owned(),
        };
        let value = Value::Text(Zeroizing::new(text.to_owned()));
        entries.push((key, Node { at, value }));
    }
}

fn read_file(path: &Path) -> Result<Zeroizing<String>> {
    let unreadable = |e: std::io::Error| {
        Error::new(Kind::Config, format!("cannot read {}", path.display()))
            .because(e)
            .hint("write it, or name another with `--config FILE` or PSI_CONFIG")
    };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let size = file.metadata().map_err(unreadable)?.len();
    let mut bytes = Zeroizing::new(Vec::with_capacity(size.min(MAX_FILE) as usize + 1));
    file.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    let wrong = |why: &str, hint: &str| {
        Error::new(Kind::Config, format!("{} {why}", path.display())).hint(hint)
    };
    if bytes.len() as u64 > MAX_FILE {
        let hint = "is it the right file? `--config FILE` or PSI_CONFIG names another";
        return Err(wrong("is larger than 1 MiB", hint));
    }
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| wrong("is not UTF-8", "save it as UTF-8; `file` tells what it is"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// Everything that `config.yaml` and the `PSI_*` variables say, with every default filled in.
#[derive(Debug)]
pub struct Config {
    /// The file it was read from; messages name it.
    pub file: PathBuf,
    /// Whose defaults were used.
    pub scope: Scope,
    /// Mappings and the sealed cache.
    pub state_dir: PathBuf,
    /// psi-serve's socket.
    pub socket: PathBuf,
    /// Quadlets and their drop-ins.
    pub systemd_dir: PathBuf,
    /// Podman's API.
    pub podman_socket: PathBuf,
    /// The driver's command as it is written into each registered secret.
    pub driver_path: PathBuf,
    /// An extra trust root for provider TLS.
    pub ca_cert: Option<PathBuf>,
    /// The token that callers of the socket must send; a credential or a variable goes first.
    pub socket_token: Option<SecretValue>,
    /// User ids that may look up, besides root and psi-serve's own.
    pub allowed_uids: Vec<u32>,
    /// How long one provider call on behalf of a lookup may take.
    pub lookup_timeout: Duration,
    /// How long a secret that is gone upstream stays for running containers.
    pub prune_after: Duration,
    /// The configured providers.
    pub providers: Providers,
    /// The workloads by name.
    pub workloads: BTreeMap<String, Workload>,
    /// The sealed cache.
    pub cache: CacheConfig,
    /// What was accepted but is probably a mistake, one line each, with its position.
    pub warnings: Vec<String>,
}

/// The `providers:` section.
#[derive(Debug, Default)]
pub struct Providers {
    /// `infisical:`
    pub infisical: Option<Infisical>,
    /// `nitrokeyhsm:`, also spelled `pkcs11:`
    pub nitrokeyhsm: Option<NitrokeyHsm>,
    /// `local:` is present.
    pub local: bool,
}

impl Providers {
    /// Whether `name` is configured.
    pub fn has(&self, name: ProviderName) -> bool {
        match name {
            ProviderName::Infisical => self.infisical.is_some(),
            ProviderName::NitrokeyHsm => self.nitrokeyhsm.is_some(),
            ProviderName::Local => self.local,
        }
    }
}

/// `providers.infisical`
#[derive(Debug)]
pub struct Infisical {
    /// The server's address, without a trailing slash.
    pub api_url: String,
    /// Whether its certificate is checked.
    pub verify_ssl: bool,
    /// An extra trust root; wins over the global one.
    pub ca_cert: Option<PathBuf>,
    /// How long an access token is reused at most.
    pub token_ttl: Duration,
    /// Projects by the name that workloads use.
    pub projects: BTreeMap<String, Project>,
}

/// `providers.infisical.projects.<name>`
#[derive(Debug)]
pub struct Project {
    /// The project's id at the server.
    pub id: String,
    /// The environment's slug.
    pub environment: String,
    /// The project's own login, or the global one.
    pub auth: Arc<Auth>,
}

/// How to log in.
#[derive(Debug)]
pub enum Auth {
    /// A client id and secret.
    Universal {
        /// The client id.
        client_id: String,
        /// The client secret, if the configuration has it; a credential goes first.
        client_secret: Option<SecretValue>,
        /// The systemd credentials that may hold the client secret, first found wins.
        credentials: Vec<String>,
    },
    /// A login that the schema has and this version can't do yet: `aws-iam`, `gcp`, `azure`.
    NotBuilt {
        /// The method's name.
        method: String,
    },
}

/// `providers.nitrokeyhsm`
#[derive(Debug)]
pub struct NitrokeyHsm {
    /// The PKCS#11 module.
    pub pkcs11_module: PathBuf,
    /// Index into the slots that hold a token.
    pub slot: usize,
    /// Finds the token by its label instead.
    pub token_label: Option<String>,
    /// Finds the token by its serial number instead.
    pub token_serial: Option<String>,
    /// The key's label.
    pub key_label: String,
    /// CKA_ID.
    pub key_id: Vec<u8>,
    /// Discouraged: a credential goes first.
    pub pin: Option<SecretValue>,
    /// Where the public key is kept, `<state dir>/nitrokeyhsm-pubkey.der` by default.
    pub public_key_cache: PathBuf,
    /// The volume that holds pcscd's socket.
    pub pcscd_volume: String,
}

/// `workloads.<name>`
#[derive(Debug)]
pub struct Workload {
    /// Where its secrets come from.
    pub provider: ProviderName,
    /// The quadlet file, e.g. `myapp.container`.
    pub unit: String,
    /// Units that the drop-in puts into `After=` and `Wants=`.
    pub depends_on: Vec<String>,
    /// What it gets.
    pub secrets: WorkloadSecrets,
    /// Whether what a token has opened is sealed in the cache too, for starts without the token.
    pub cache: bool,
}

impl Workload {
    /// Whether psi-setup hands its values over to be sealed in the cache. Local ones are in there
    /// and nowhere else; those of a token stay out of it, unless it says otherwise.
    pub fn is_handed_over(&self) -> bool {
        matches!(self.secrets, WorkloadSecrets::Sources(_)) || self.cache
    }
}

/// `workloads.<name>.secrets`
#[derive(Clone, Debug)]
pub enum WorkloadSecrets {
    /// Folders of an Infisical project; later ones win for the same key.
    Sources(Vec<crate::provider::Source>),
    /// Single keys of the other providers.
    Keys(Vec<KeyRef>),
}

/// `{key: DB_PASSWORD, as: POSTGRES_PASSWORD}`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRef {
    /// The name at the provider; of a local value, one that [`crate::secret::LocalName`] takes.
    pub key: String,
    /// The name in the container, `key` by default.
    pub target: String,
}

/// The `cache:` section.
#[derive(Debug)]
pub struct CacheConfig {
    /// Off: every lookup is live.
    pub enabled: bool,
    /// What seals it; unset: every lookup is live.
    pub backend: Option<Backend>,
    /// The sealed file.
    pub path: PathBuf,
    /// The refresh timer's interval, as systemd writes it.
    pub refresh_interval: String,
    /// The refresh timer's random delay, as systemd writes it.
    pub refresh_randomized_delay: String,
    /// `cache.tpm`
    pub tpm: TpmConfig,
    /// What to do when no slot opens.
    pub on_unseal_failure: OnUnsealFailure,
    /// Seal to the running boot chain when another slot had to open the cache.
    pub auto_reseal: bool,
}

/// `cache.backend`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// `tpm`: the native TPM slot, or a credential where that is what the file has.
    Tpm,
    /// `hsm`: the PKCS#11 slot.
    Hsm,
}

impl Backend {
    /// The name as configuration spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Backend::Tpm => "tpm",
            Backend::Hsm => "hsm",
        }
    }
}

/// `cache.tpm`
#[derive(Clone, Debug)]
pub struct TpmConfig {
    /// libtss2's name of the device.
    pub tcti: String,
    /// The PCRs that the slot is bound to.
    pub pcrs: Vec<u8>,
}

/// `cache.on_unseal_failure`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUnsealFailure {
    /// Keep the file, serve live lookups.
    Keep,
    /// Put the file aside and start a new one, within limits.
    Recreate,
}
