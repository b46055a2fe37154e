//! From the tree of a file to a validated [`Config`].

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use crate::config::node::{At, Node, Value};
use crate::config::section::{File, Section, absolute};
use crate::config::{Config, Environment, Scope};
use crate::error::Result;
use crate::secret::SecretValue;

mod cache;
mod providers;
mod workloads;

use cache::cache;
use providers::providers;
use workloads::workloads;

/// The defaults that depend on who runs PSI.
struct Defaults {
    state_dir: PathBuf,
    socket: PathBuf,
    systemd_dir: PathBuf,
    podman_socket: PathBuf,
}

impl Defaults {
    fn of(environment: &Environment) -> Self {
        let home = PathBuf::from(environment.get("HOME").unwrap_or("/"));
        let runtime = environment.get("XDG_RUNTIME_DIR").map_or_else(
            || PathBuf::from(format!("/run/user/{}", environment.uid)),
            PathBuf::from,
        );
        match environment.scope() {
            Scope::System => Self {
                state_dir: "/var/lib/psi".into(),
                socket: "/run/psi/psi.sock".into(),
                systemd_dir: "/etc/containers/systemd".into(),
                podman_socket: "/run/podman/podman.sock".into(),
            },
            Scope::User => Self {
                state_dir: home.join(".local/share/psi"),
                socket: runtime.join("psi/psi.sock"),
                systemd_dir: home.join(".config/containers/systemd"),
                podman_socket: runtime.join("podman/podman.sock"),
            },
        }
    }
}

/// psi-serve's socket where the configuration names none.
pub fn default_socket(environment: &Environment) -> PathBuf {
    Defaults::of(environment).socket
}

/// Reads the whole file.
pub fn config(file: &Rc<File>, root: &Node, environment: &Environment) -> Result<Config> {
    let top = Section::open(file, "", root)?;
    let defaults = Defaults::of(environment);
    if top.has("scope") {
        file.warn(
            top.at,
            "`scope` is accepted and without effect: who runs PSI decides",
        );
    }
    let podman = container_host(file, environment)?;
    let state_dir = top.path("state_dir")?.unwrap_or(defaults.state_dir);
    let providers = providers(&top, &state_dir, environment)?;
    let workloads = workloads(&top, &providers)?;
    let config = Config {
        file: file.path.clone(),
        scope: environment.scope(),
        socket: top.path("socket")?.unwrap_or(defaults.socket),
        systemd_dir: top.path("systemd_dir")?.unwrap_or(defaults.systemd_dir),
        podman_socket: top
            .path("podman_socket")?
            .or(podman)
            .unwrap_or(defaults.podman_socket),
        driver_path: driver_path(&top)?,
        ca_cert: top.path("ca_cert")?,
        socket_token: socket_token(&top)?,
        allowed_uids: allowed_uids(&top)?,
        lookup_timeout: top.span("lookup_timeout", Duration::from_secs(2))?,
        prune_after: top.span("prune_after", Duration::from_secs(7 * 24 * 3600))?,
        cache: cache(&top, &state_dir)?,
        state_dir,
        providers,
        workloads,
        warnings: Vec::new(),
    };
    top.finish()?;
    Ok(config)
}

/// Podman's own variable for where its API is.
fn container_host(file: &File, environment: &Environment) -> Result<Option<PathBuf>> {
    const NAME: &str = "CONTAINER_HOST";
    let Some(host) = environment.get(NAME) else {
        return Ok(None);
    };
    let at = At::Variable(NAME);
    match host.strip_prefix("unix://") {
        Some(path) => absolute(path).map(Some).map_err(|why| {
            file.error(at, format!("the path {why}"))
                .hint("unix:///run/podman/podman.sock")
        }),
        None => {
            file.warn(
                at,
                "not unix://…, so without effect: PSI registers secrets with this host's Podman",
            );
            Ok(None)
        }
    }
}

fn driver_path(top: &Section<'_>) -> Result<PathBuf> {
    let Some((at, text)) = top.text("driver_path")? else {
        return Ok("/usr/bin/psi-secret".into());
    };
    let path = absolute(text).map_err(|why| top.file.error(at, format!("driver_path {why}")))?;
    if is_plain(&path) {
        return Ok(path);
    }
    let what = "driver_path may have letters, digits and `/._-+` only";
    Err(top
        .file
        .error(at, what)
        .hint("it is written into a command that a shell runs"))
}

/// Whether `path` means the same to a shell as to us.
pub fn is_plain(path: &Path) -> bool {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"/._-+".contains(b);
    path.to_str()
        .is_some_and(|p| p.as_bytes().iter().all(plain))
}

fn socket_token(top: &Section<'_>) -> Result<Option<SecretValue>> {
    let Some((at, token)) = top.text("socket_token")? else {
        return Ok(None);
    };
    let token = token.strip_suffix('\n').unwrap_or(token);
    if !is_socket_token(token.as_bytes()) {
        let what = "socket_token must have at least 8 of the characters A-Za-z0-9._~+/=-";
        return Err(top.file.error(at, what));
    }
    Ok(Some(SecretValue::new(token.into())))
}

/// Whether `token` can be the socket's: at least 8 characters that HTTP takes as they are.
pub fn is_socket_token(token: &[u8]) -> bool {
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || b"._~+/=-".contains(b);
    token.len() >= 8 && token.iter().all(allowed)
}

/// The user id that the kernel shows in the place of every one that a user namespace has no number for:
/// user_namespaces(7).
const OVERFLOW_UID: u32 = 65534;

/// How many user ids `PrivateUsers=identity` keeps, from 0 on: systemd.exec(5).
const IDENTITY_UIDS: u32 = 65536;

fn allowed_uids(top: &Section<'_>) -> Result<Vec<u32>> {
    let Some((_, nodes)) = top.list("allowed_uids")? else {
        return Ok(Vec::new());
    };
    nodes.iter().map(|node| allowed_uid(top, node)).collect()
}

fn allowed_uid(top: &Section<'_>, node: &Node) -> Result<u32> {
    let uid = match node.value {
        Value::Integer(n) => u32::try_from(n).ok(),
        _ => None,
    };
    match uid {
        None => Err(top
            .file
            .error(node.at, "allowed_uids must list user ids, as numbers")),
        Some(OVERFLOW_UID) => Err(top.file.error(
            node.at,
            "allowed_uids has 65534, which stands for every user that psi-serve has no number for: all of them could look up",
        )),
        Some(uid) => {
            if uid >= IDENTITY_UIDS {
                top.file.warn(
                    node.at,
                    "allowed_uids has a user id above 65535, which psi-serve's sandbox hides: see \"Other callers\" in docs/configuration.md for the drop-in that shows it",
                );
            }
            Ok(uid)
        }
    }
}
