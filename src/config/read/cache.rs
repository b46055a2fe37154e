//! `cache`: whether values are kept, and how they are sealed.

use std::path::Path;

use crate::config::node::{Node, Value};
use crate::config::section::Section;
use crate::config::{Backend, CacheConfig, OnUnsealFailure, TpmConfig};
use crate::error::Result;

pub fn cache(top: &Section<'_>, state_dir: &Path) -> Result<CacheConfig> {
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
