//! `workloads`: who gets which secrets.

use std::collections::BTreeMap;

use crate::config::node::{At, Node, Value};
use crate::config::section::{Section, nearest};
use crate::config::{KeyRef, Providers, Workload, WorkloadSecrets};
use crate::error::{Error, Result};
use crate::mapping::ProviderName;
use crate::provider::{self, Source};
use crate::secret::{LocalName, SecretName, quote_name};

pub fn workloads(top: &Section<'_>, providers: &Providers) -> Result<BTreeMap<String, Workload>> {
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
