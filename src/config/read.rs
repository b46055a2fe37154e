//! From the tree of a file to a validated [`Config`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::config::node::{At, Node, Value};
use crate::config::section::{File, Section, absolute, nearest};
use crate::config::{
    Auth, Backend, CacheConfig, Config, Environment, Infisical, KeyRef, NitrokeyHsm,
    OnUnsealFailure, Project, Providers, Scope, TpmConfig, Workload, WorkloadSecrets,
};
use crate::error::{Error, Result};
use crate::mapping::ProviderName;
use crate::provider::{self, Source};
use crate::secret::{LocalName, SecretName, SecretValue, quote_name};

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

fn providers(top: &Section<'_>, state_dir: &Path, environment: &Environment) -> Result<Providers> {
    let Some(section) = top.section("providers")? else {
        return Ok(Providers::default());
    };
    let infisical = section.section("infisical")?.map(infisical).transpose()?;
    let by_name = section.section("nitrokeyhsm")?;
    let by_alias = section.section("pkcs11")?;
    let hsm = match (by_name, by_alias) {
        (Some(_), Some(second)) => {
            return Err(second
                .error("providers.pkcs11 and providers.nitrokeyhsm are the same provider")
                .hint("keep one of them"));
        }
        (one, other) => one.or(other),
    };
    let pin = environment.get("PSI_NITROKEYHSM_PIN");
    let pin = pin.map(|pin| SecretValue::new(pin.into()));
    let nitrokeyhsm = hsm.map(|hsm| nitrokeyhsm(hsm, state_dir, pin));
    let nitrokeyhsm = nitrokeyhsm.transpose()?;
    let local = section.has("local");
    section.finish()?;
    Ok(Providers {
        infisical,
        nitrokeyhsm,
        local,
    })
}

fn infisical(section: Section<'_>) -> Result<Infisical> {
    if section.has("tls") {
        let what =
            "`providers.infisical.tls` is accepted and without effect: PSI issues no certificates";
        section.file.warn(section.at, what);
    }
    let auth = section
        .section("auth")?
        .map(|s| auth(s, None))
        .transpose()?;
    let auth = auth.map(Arc::new);
    let mut projects = BTreeMap::new();
    if let Some(named) = section.section("projects")? {
        for (key, node) in named.named() {
            let name = named.full(&key.name);
            let project = Section::open(&section.file, name, node)?;
            projects.insert(
                key.name.clone(),
                self::project(project, &key.name, auth.as_ref())?,
            );
        }
    }
    let token_ttl = match section.section("token")? {
        Some(token) => {
            let ttl = token.number("ttl", 300)?;
            token.finish()?;
            ttl
        }
        None => 300,
    };
    let verify_ssl = section.flag("verify_ssl", true)?;
    if !verify_ssl {
        let what =
            "verify_ssl is false: whoever is on the way to the server reads and changes secrets";
        section.file.warn(section.at, what);
    }
    let settings = Infisical {
        api_url: api_url(&section)?,
        verify_ssl,
        ca_cert: section.path("ca_cert")?,
        token_ttl: Duration::from_secs(token_ttl),
        projects,
    };
    section.finish()?;
    Ok(settings)
}

fn api_url(section: &Section<'_>) -> Result<String> {
    let Some((at, url)) = section.text("api_url")? else {
        return Ok("https://app.infisical.com".to_owned());
    };
    let wrong = |why: &str| {
        let what = format!("{} {why}", section.full("api_url"));
        section
            .file
            .error(at, what)
            .hint("e.g. https://infisical.example.com")
    };
    let url = url.trim_end_matches('/');
    let (scheme, rest) = url
        .split_once("://")
        .filter(|(scheme, _)| matches!(*scheme, "https" | "http"))
        .ok_or_else(|| wrong("must begin with https:// or http://"))?;
    let plain = |c: char| c.is_ascii_graphic() && !"?#@\\\"<>".contains(c);
    let host = rest.split('/').next().unwrap_or_default();
    if host.is_empty() || !rest.chars().all(plain) {
        return Err(wrong(
            "must have a host, and neither user, query nor blanks",
        ));
    }
    if scheme == "http" && !is_loopback(host) {
        let what = "api_url is http: secrets travel in clear, use https";
        section.file.warn(at, what);
    }
    Ok(url.to_owned())
}

/// Whether `host`, with or without a port, is this machine.
fn is_loopback(host: &str) -> bool {
    let without_port = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let address = without_port.trim_matches(['[', ']']);
    let is_loopback = |ip: IpAddr| ip.is_loopback();
    address == "localhost" || address.parse().is_ok_and(is_loopback)
}

fn auth(section: Section<'_>, project: Option<&str>) -> Result<Auth> {
    let method = section.choice(
        "method",
        &[
            ("universal-auth", "universal-auth"),
            ("aws-iam", "aws-iam"),
            ("gcp", "gcp"),
            ("azure", "azure"),
        ],
    )?;
    let missing = || {
        let what = format!("{} is missing", section.full("method"));
        section
            .error(what)
            .hint("method: universal-auth, with a client_id")
    };
    let auth = match method.ok_or_else(missing)? {
        "universal-auth" => Auth::Universal {
            client_id: section.required_text("client_id")?.1.trim().to_owned(),
            client_secret: section.secret("client_secret")?,
            credentials: vec![match project {
                Some(project) => format!("infisical-client-secret.{project}"),
                None => "infisical-client-secret".to_owned(),
            }],
        },
        method => {
            section.required_text("identity_id")?;
            Auth::NotBuilt {
                method: method.to_owned(),
            }
        }
    };
    section.finish()?;
    Ok(auth)
}

fn project(section: Section<'_>, name: &str, global: Option<&Arc<Auth>>) -> Result<Project> {
    let own = section
        .section("auth")?
        .map(|s| auth(s, Some(name)))
        .transpose()?;
    let auth = own
        .map(Arc::new)
        .or_else(|| global.cloned())
        .ok_or_else(|| {
            let what = format!("project {} has no auth", quote_name(name));
            section.error(what).hint(
                "give it `auth:` of its own, or add providers.infisical.auth for all projects",
            )
        })?;
    let environment = section.text("environment")?;
    let project = Project {
        id: section.required_text("id")?.1.to_owned(),
        environment: environment.map_or("prod", |(_, slug)| slug).to_owned(),
        auth,
    };
    section.finish()?;
    Ok(project)
}

/// `pin` is what a variable has, which goes last.
fn nitrokeyhsm(
    section: Section<'_>,
    state_dir: &Path,
    pin: Option<SecretValue>,
) -> Result<NitrokeyHsm> {
    let text = |key, default: &str| -> Result<String> {
        Ok(section
            .text(key)?
            .map_or(default, |(_, text)| text)
            .to_owned())
    };
    let (at, key_id) = section.text("key_id")?.unwrap_or((section.at, "02"));
    let key_id = hex(key_id).ok_or_else(|| {
        let what = format!(
            "{} must be hexadecimal digits in pairs",
            section.full("key_id")
        );
        section
            .file
            .error(at, what)
            .hint("as CKA_ID is shown: key_id: \"02\"")
    })?;
    let hsm = NitrokeyHsm {
        pkcs11_module: section
            .path("pkcs11_module")?
            .unwrap_or_else(|| "/usr/lib64/pkcs11/opensc-pkcs11.so".into()),
        slot: usize::try_from(section.number("slot", 0)?).unwrap_or(usize::MAX),
        token_label: section.text("token_label")?.map(|(_, t)| t.to_owned()),
        token_serial: section.text("token_serial")?.map(|(_, t)| t.to_owned()),
        key_label: text("key_label", "podman-secrets")?,
        key_id,
        pin: section.secret("pin")?.or(pin),
        public_key_cache: section
            .path("public_key_cache")?
            .unwrap_or_else(|| state_dir.join("nitrokeyhsm-pubkey.der")),
        pcscd_volume: text("pcscd_volume", "pcscd-socket")?,
    };
    section.finish()?;
    Ok(hsm)
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if digits.is_empty() || !digits.len().is_multiple_of(2) {
        return None;
    }
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.chunks(2).map(pair).collect()
}

fn workloads(top: &Section<'_>, providers: &Providers) -> Result<BTreeMap<String, Workload>> {
    let mut workloads = BTreeMap::new();
    let Some(named) = top.section("workloads")? else {
        return Ok(workloads);
    };
    for (key, node) in named.named() {
        let name = &key.name;
        if !is_workload_name(name) {
            let what = format!("{} is not the name of a workload", quote_name(name));
            return Err(named.file.error(key.at, what)
                .hint("letters, digits, `_`, `.`, `-` and `@`, at most 100, beginning with a letter, digit or `_`, without `--`"));
        }
        let section = Section::open(&named.file, named.full(name), node)?;
        let workload = workload(section, name, providers)?;
        if let Some(other) = of_unit(&workloads, &workload.unit) {
            return Err(shared_unit(&named, key.at, &workload.unit, [other, name]));
        }
        workloads.insert(name.clone(), workload);
    }
    Ok(workloads)
}

/// The workload that writes the drop-in of `unit`: each unit has one, of one workload.
fn of_unit<'a>(workloads: &'a BTreeMap<String, Workload>, unit: &str) -> Option<&'a str> {
    let mut named = workloads.iter();
    let (name, _) = named.find(|(_, workload)| workload.unit == unit)?;
    Some(name)
}

fn shared_unit(section: &Section<'_>, at: At, unit: &str, names: [&str; 2]) -> Error {
    let [first, second] = names;
    let what = format!("workloads {first} and {second} have the same unit {unit}");
    section.file.error(at, what).hint(format!(
        "list all in one workload; of two providers: give {second} a `unit` of its own and write `Secret={second}--KEY,type=env,target=KEY` into {unit} for each of its keys"
    ))
}

fn is_workload_name(name: &str) -> bool {
    let first = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
    let rest = |b: &u8| first(b) || b".-@".contains(b);
    name.len() <= 100
        && name.as_bytes().first().is_some_and(first)
        && name.as_bytes().iter().all(rest)
        && !name.contains("--")
}

fn workload(section: Section<'_>, name: &str, providers: &Providers) -> Result<Workload> {
    let provider = section
        .choice(
            "provider",
            &[
                ("infisical", ProviderName::Infisical),
                ("nitrokeyhsm", ProviderName::NitrokeyHsm),
                ("pkcs11", ProviderName::NitrokeyHsm),
                ("local", ProviderName::Local),
            ],
        )?
        .unwrap_or(ProviderName::Infisical);
    if !providers.has(provider) {
        let what = format!("workload {name} needs provider {provider}, which is not configured");
        return Err(section.error(what).hint(format!(
            "add providers.{provider}; configured: {}",
            configured(providers)
        )));
    }
    let workload = Workload {
        provider,
        unit: unit(&section, name)?,
        depends_on: depends_on(&section)?,
        secrets: match provider {
            ProviderName::Infisical => sources(&section, name, providers)?,
            ProviderName::NitrokeyHsm | ProviderName::Local => keys(&section, provider)?,
        },
        cache: provider == ProviderName::NitrokeyHsm && section.flag("cache", false)?,
    };
    section.finish()?;
    Ok(workload)
}

fn configured(providers: &Providers) -> String {
    let names = ProviderName::ALL.into_iter().filter(|p| providers.has(*p));
    let names: Vec<&str> = names.map(ProviderName::as_str).collect();
    if names.is_empty() {
        return "none".to_owned();
    }
    names.join(", ")
}

fn unit(section: &Section<'_>, name: &str) -> Result<String> {
    let Some((at, unit)) = section.text("unit")? else {
        return Ok(format!("{name}.container"));
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.-@".contains(c);
    let stem = unit.strip_suffix(".container").unwrap_or_default();
    if stem.is_empty() || stem.starts_with(['.', '-']) || !unit.chars().all(plain) {
        let what = format!("{} must name a quadlet file", section.full("unit"));
        return Err(section
            .file
            .error(at, what)
            .hint(format!("e.g. {name}.container")));
    }
    Ok(unit.to_owned())
}

fn depends_on(section: &Section<'_>) -> Result<Vec<String>> {
    let Some((_, nodes)) = section.list("depends_on")? else {
        return Ok(Vec::new());
    };
    let unit = |node: &Node| match &node.value {
        Value::Text(name) if is_unit_name(name) => Ok(name.to_string()),
        _ => {
            let what = format!("{} must list units", section.full("depends_on"));
            Err(section
                .file
                .error(node.at, what)
                .hint("e.g. psi-infisical-setup.service"))
        }
    };
    nodes.iter().map(unit).collect()
}

/// A name as systemd has them, with its type. A backslash at its end would join the drop-in's next
/// line to this one.
fn is_unit_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.-@:\\".contains(c);
    name.rsplit_once('.').is_some_and(|(stem, kind)| {
        let is_kind = !kind.is_empty() && kind.bytes().all(|b| b.is_ascii_lowercase());
        is_kind && !stem.is_empty() && stem.chars().all(plain)
    })
}

fn sources(
    section: &Section<'_>,
    workload: &str,
    providers: &Providers,
) -> Result<WorkloadSecrets> {
    let none = || {
        let what = format!("workload {workload} lists no folders in `secrets`");
        section
            .error(what)
            .hint("secrets: [{project: myproject, path: /myapp}]")
    };
    let (_, nodes) = section
        .list("secrets")?
        .filter(|(_, n)| !n.is_empty())
        .ok_or_else(none)?;
    let projects = providers.infisical.as_ref().map(|i| &i.projects);
    let mut sources = Vec::new();
    for (i, node) in nodes.iter().enumerate() {
        let source = Section::open(&section.file, section.full(&format!("secrets[{i}]")), node)?;
        let (at, project) = source.required_text("project")?;
        if !projects.is_some_and(|p| p.contains_key(project)) {
            let names: Vec<&str> = projects
                .iter()
                .flat_map(|p| p.keys())
                .map(String::as_str)
                .collect();
            return Err(unknown_project(&source, at, workload, project, &names));
        }
        let (at, path) = source.text("path")?.unwrap_or((source.at, "/"));
        let path = provider::normalise_path(path).ok_or_else(|| {
            let what = format!("{} is no folder", source.full("path"));
            source
                .file
                .error(at, what)
                .hint("e.g. /myapp; neither `..` nor control characters")
        })?;
        sources.push(Source {
            project: project.to_owned(),
            path,
            recursive: source.flag("recursive", false)?,
        });
        source.finish()?;
    }
    Ok(WorkloadSecrets::Sources(sources))
}

fn unknown_project(
    source: &Section<'_>,
    at: At,
    workload: &str,
    project: &str,
    names: &[&str],
) -> Error {
    let what = format!(
        "workload {workload} names project {}, which is not configured",
        quote_name(project)
    );
    source
        .file
        .error(at, what)
        .hint(match nearest(project, names) {
            Some(name) => format!("did you mean `{name}`?"),
            None => format!("configured: {}", names.join(", ")),
        })
}

fn keys(section: &Section<'_>, provider: ProviderName) -> Result<WorkloadSecrets> {
    let Some((_, nodes)) = section.list("secrets")? else {
        return Ok(WorkloadSecrets::Keys(Vec::new()));
    };
    let mut keys: Vec<KeyRef> = Vec::new();
    for (i, node) in nodes.iter().enumerate() {
        let entry = Section::open(&section.file, section.full(&format!("secrets[{i}]")), node)?;
        let (at, key) = entry.required_text("key")?;
        let named = match provider {
            ProviderName::Local => LocalName::parse(key).map(drop),
            _ => SecretName::parse(key).map(drop),
        };
        if let Err(error) = named {
            let what = format!("{}: {error}", entry.full("key"));
            let hint = error.next_step().unwrap_or_default();
            return Err(entry.file.error(at, what).hint(hint));
        }
        let target = entry.text("as")?.map_or(key, |(_, target)| target);
        if keys.iter().any(|k| k.target == target) {
            let what = format!(
                "{} lists {} twice",
                section.full("secrets"),
                quote_name(target)
            );
            return Err(entry
                .error(what)
                .hint("give one of them another name with `as:`"));
        }
        keys.push(KeyRef {
            key: key.to_owned(),
            target: target.to_owned(),
        });
        entry.finish()?;
    }
    Ok(WorkloadSecrets::Keys(keys))
}

fn cache(top: &Section<'_>, state_dir: &Path) -> Result<CacheConfig> {
    let nothing = Node {
        at: top.at,
        value: Value::Null,
    };
    let section = match top.get("cache") {
        Some(node) => Section::open(&top.file, "cache", node)?,
        None => Section::open(&top.file, "cache", &nothing)?,
    };
    let cache = CacheConfig {
        enabled: section.flag("enabled", true)?,
        backend: section.choice("backend", &[("tpm", Backend::Tpm), ("hsm", Backend::Hsm)])?,
        path: section
            .path("path")?
            .unwrap_or_else(|| state_dir.join("cache.enc")),
        refresh_interval: section.span_text("refresh_interval", "1h")?,
        refresh_randomized_delay: section.span_text("refresh_randomized_delay", "5m")?,
        tpm: tpm(&section)?,
        on_unseal_failure: section
            .choice(
                "on_unseal_failure",
                &[
                    ("keep", OnUnsealFailure::Keep),
                    ("recreate", OnUnsealFailure::Recreate),
                ],
            )?
            .unwrap_or(OnUnsealFailure::Keep),
        auto_reseal: section.flag("auto_reseal", false)?,
    };
    if cache.enabled && cache.backend.is_none() {
        let what = "no cache.backend is set: nothing is cached, every lookup asks the provider";
        section.file.warn(section.at, what);
    }
    section.finish()?;
    Ok(cache)
}

fn tpm(cache: &Section<'_>) -> Result<TpmConfig> {
    let default = TpmConfig {
        tcti: "device:/dev/tpmrm0".to_owned(),
        pcrs: vec![7],
    };
    let Some(section) = cache.section("tpm")? else {
        return Ok(default);
    };
    let tcti = match section.text("tcti")? {
        Some((at, tcti)) if tcti.starts_with("swtpm:") && tcti.contains("path=") => {
            let what = format!(
                "{}: a swtpm is reached by host and port only",
                section.full("tcti")
            );
            return Err(section
                .file
                .error(at, what)
                .hint("swtpm:host=127.0.0.1,port=2321"));
        }
        Some((_, tcti)) => tcti.to_owned(),
        None => default.tcti,
    };
    let pcrs = match section.list("pcrs")? {
        None => default.pcrs,
        Some((_, nodes)) => nodes
            .iter()
            .map(|node| {
                match node.value {
                    Value::Integer(n) => u8::try_from(n).ok().filter(|n| *n < 24),
                    _ => None,
                }
                .ok_or_else(|| {
                    section
                        .file
                        .error(node.at, "cache.tpm.pcrs must list numbers from 0 to 23")
                })
            })
            .collect::<Result<_>>()?,
    };
    section.finish()?;
    Ok(TpmConfig { tcti, pcrs })
}
