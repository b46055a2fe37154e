//! `providers`: where values come from.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::config::section::Section;
use crate::config::{Auth, Environment, Infisical, NitrokeyHsm, Project, Providers};
use crate::error::Result;
use crate::secret::{SecretValue, quote_name};

pub fn providers(
    top: &Section<'_>,
    state_dir: &Path,
    environment: &Environment,
) -> Result<Providers> {
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
