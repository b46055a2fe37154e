//! What Podman runs for a secret of ours: psi-secret, on the host.

use std::collections::BTreeMap;
use std::path::Path;

use crate::config::{self, Config, Environment};
use crate::error::{Error, Kind, Result};
use crate::setup::plan::Driver;

/// The commands that a secret of ours is registered with, by what they are for. They go through a shell: plain
/// words only.
///
/// # Errors
/// [`Kind::Config`] if the socket's path can't go into them.
pub fn commands(config: &Config) -> Result<BTreeMap<String, String>> {
    let default = Environment::current().default_socket();
    let socket = match config.socket == default {
        true => String::new(),
        false if config::is_plain(&config.socket) => {
            format!(" --socket {}", config.socket.display())
        }
        false => {
            let what = format!("socket {} can't go into a command", config.socket.display());
            return Err(Error::new(Kind::Config, what)
                .hint("`socket` may have letters, digits and `/._-+` only"));
        }
    };
    let program = config.driver_path.display();
    let command = |verb: &str| (verb.to_owned(), format!("exec {program} {verb}{socket}"));
    Ok(["list", "lookup", "store", "delete"].map(command).into())
}

/// The same for secrets that are registered now.
///
/// # Errors
/// [`Kind::Config`] as [`commands`], and if the program is not there.
pub fn checked(config: &Config) -> Result<Driver> {
    check(&config.driver_path)?;
    let options = commands(config)?;
    Ok(Driver { options })
}

/// Podman says no more of a driver that is gone than that there is no such secret, and only when a
/// container starts.
fn check(program: &Path) -> Result<()> {
    // The host has its own files.
    if Path::new("/run/.containerenv").exists() || program.is_file() {
        return Ok(());
    }
    let what = format!(
        "there is no {}: no container that starts gets its secrets",
        program.display()
    );
    Err(Error::new(Kind::Config, what).hint(
        "`make install` puts psi-secret there, for containers the `podman run … psi-install units … --root /host` \
         of docs/deployment.md; if it is elsewhere, `driver_path` in config.yaml says where; then `systemctl \
         restart 'psi-*-setup.service'`",
    ))
}
