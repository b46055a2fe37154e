//! psi-secret on the host: Podman runs it there, also where all else of PSI's is in containers.

use std::path::Path;

use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::install::plan::{File, Step};
use crate::install::tree;
use crate::install::work::Work;

/// Its name while it is tried.
const TRIED: &str = ".psi-secret.tried";

/// Each secret that psi-setup registers names that program.
///
/// # Errors
/// [`Kind::Config`] if it is not there and not brought, or would be brought to where only the
/// distribution puts programs.
pub fn check_place(config: &Config, is_brought: bool) -> Result<()> {
    let path = &config.driver_path;
    let is_distributions = path.starts_with("/usr") && !path.starts_with("/usr/local");
    if is_brought && !is_distributions || !is_brought && path.exists() {
        return Ok(());
    }
    let shown = path.display();
    let what = match is_brought {
        true => format!("driver_path is {shown}, in a directory of the distribution's"),
        false => format!("there is no {shown}, which driver_path says Podman is to run"),
    };
    let file = config.file.display();
    Err(Error::new(Kind::Config, what).hint(format!(
        "write `driver_path: /usr/local/bin/psi-secret` to {file}, or where else it is to be"
    )))
}

/// Runs the program that is brought once, with the C library of the host: the image may be of a newer
/// release. One that is at `path` already is not asked about: it is the same, or an administrator's.
///
/// # Errors
/// [`Kind::Refused`] with what keeps it from running; what was there is still there then.
pub fn try_it(work: &Work, path: &Path, program: &[u8]) -> Result<()> {
    let wanted = vec![File::program(path, program.to_vec())];
    if !matches!(work.plan(wanted)?.first(), Some(Step::Write(_))) {
        return Ok(());
    }
    let tried = path.with_file_name(TRIED);
    if work.is_dry() {
        return work.say("ran", &format!("{} --version", tried.display()));
    }
    tree::write(&File::program(&tried, program.to_vec()))?;
    let why = work.host.why_not(&tried);
    tree::remove(&tried)?;
    let Some(why) = why else {
        return Ok(());
    };
    let shown = path.display();
    let what = format!("the image's psi-secret does not run on this host: {why}");
    Err(Error::new(Kind::Refused, what).hint(format!(
        "build the image over the release that the host is of, `make image BUILD_FLAGS='--build-arg BASE=IMAGE'`; \
         or put a psi-secret that was built for this host at {shown}: it is kept"
    )))
}
