//! What a machine must have for the quadlets, which would start and get nothing else.

use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::hsm::pcscd;
use crate::install::host::Host;
use crate::install::shipped::Mode;
use crate::install::work::Work;
use crate::podman::Version;

/// The first systemd with `ImportCredential=`: what has no credentials has nothing to mount, either.
const SYSTEMD: u32 = 254;

/// The first Podman whose quadlets know `[Quadlet]`.
const PODMAN: Version = (5, 3);

/// Refuses what the quadlets can't run with, before anything is written.
///
/// # Errors
/// [`Kind::Refused`] naming what is too old, [`Kind::Config`] a volume whose name can't go into a quadlet.
pub fn check(work: &Work, mode: Mode, config: &Config) -> Result<()> {
    if mode == Mode::Native {
        return Ok(());
    }
    if let Some(hsm) = &config.providers.nitrokeyhsm {
        pcscd::check_volume(&hsm.pcscd_volume)?;
    }
    check_systemd(work.host)?;
    let Some(version) = work.host.podman_version() else {
        let (major, minor) = PODMAN;
        return work.say(
            "note",
            &format!("`podman --version` says nothing here: the quadlets need Podman {major}.{minor} or later"),
        );
    };
    check_podman(version)
}

fn check_systemd(host: Host) -> Result<()> {
    match host.systemd_version() {
        Some(version) if version < SYSTEMD => {
            let what = format!(
                "systemd {version} gives containers no credentials: --mode container needs {SYSTEMD} or later"
            );
            Err(Error::new(Kind::Refused, what).hint(
                "`make install` and `psi-install units --mode native`, which works with systemd 252, or a newer release of the host",
            ))
        }
        _ => Ok(()),
    }
}

fn check_podman((major, minor): Version) -> Result<()> {
    if (major, minor) >= PODMAN {
        return Ok(());
    }
    let what = format!(
        "Podman {major}.{minor} does not know all that the quadlets have: --mode container needs {}.{} or later",
        PODMAN.0, PODMAN.1
    );
    Err(Error::new(Kind::Refused, what).hint(
        "`make install` and `psi-install units --mode native`, which works with Podman 4.3, or a newer Podman: `podman --version`",
    ))
}
