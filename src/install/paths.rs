//! Paths of the configuration that the shipped units and quadlets don't know: their sandboxes keep PSI away from
//! them until an administrator's drop-in says otherwise.

use std::fs;
use std::path::Path;

use crate::config::{Config, Scope};
use crate::error::Result;
use crate::install::shipped::Mode;
use crate::install::tree;
use crate::install::work::Work;

/// Where the shipped files have them: the defaults of root.
const STATE: &str = "/var/lib/psi";
const SOCKET: &str = "/run/psi/psi.sock";
const QUADLETS: &str = "/etc/containers/systemd";
const PODMAN: &str = "/run/podman/podman.sock";
const CONFIGURATION: &str = "/etc/psi";

/// Names each path that is in no drop-in yet.
///
/// # Errors
/// [`crate::Kind::Io`] if that can't be said.
pub fn note(work: &Work, mode: Mode, config: &Config) -> Result<()> {
    // A user's units have no sandbox that knows paths.
    if config.scope == Scope::User {
        return Ok(());
    }
    for (key, path) in others(mode, config) {
        if is_in_a_drop_in(work, config, path) {
            continue;
        }
        let shown = path.display();
        let lacks = match mode {
            Mode::Native => "the units may not use until a drop-in says so",
            Mode::Container => "the containers don't have until a drop-in mounts it",
        };
        let said =
            format!("`{key}` is {shown}, which {lacks}: docs/configuration.md, \"Other paths\"");
        work.say("note", &said)?;
    }
    Ok(())
}

/// Those that are not where the shipped files have them, each with its key.
fn others(mode: Mode, config: &Config) -> Vec<(&'static str, &Path)> {
    let cache = config.cache.path.as_path();
    let mut others = vec![
        ("state_dir", config.state_dir.as_path(), STATE),
        ("socket", &config.socket, SOCKET),
        ("systemd_dir", &config.systemd_dir, QUADLETS),
    ];
    if !cache.starts_with(&config.state_dir) {
        others.push(("cache.path", cache, STATE));
    }
    if mode == Mode::Container {
        others.push(("podman_socket", &config.podman_socket, PODMAN));
        let infisical = config.providers.infisical.as_ref();
        let infisical = infisical.and_then(|infisical| infisical.ca_cert.as_deref());
        let certificates = [
            ("ca_cert", config.ca_cert.as_deref()),
            ("providers.infisical.ca_cert", infisical),
        ];
        let given = certificates
            .into_iter()
            .filter_map(|(key, path)| Some((key, path?, CONFIGURATION)));
        others.extend(given);
    }
    let elsewhere = others
        .into_iter()
        .filter(|(_, path, known)| !path.starts_with(known));
    elsewhere.map(|(key, path, _)| (key, path)).collect()
}

/// Whether some drop-in of a unit of PSI's has that path, or the directory that it is in.
fn is_in_a_drop_in(work: &Work, config: &Config, path: &Path) -> bool {
    let directories = [&work.layout.units, &config.systemd_dir].into_iter();
    let drop_ins = directories
        .flat_map(|directory| tree::files_in(directory.clone()))
        .filter(|path| tree::is_drop_in_directory(path))
        .flat_map(tree::files_in);
    let names = [Some(path), path.parent()].into_iter().flatten();
    let names: Vec<String> = names.map(|path| format!("={}", path.display())).collect();
    let has = |text: String| names.iter().any(|name| text.contains(name));
    drop_ins
        .map(|path| fs::read_to_string(path).unwrap_or_default())
        .any(has)
}
