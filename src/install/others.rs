//! Units of PSI's names that somebody else wrote, the Python program above all.

use std::fs;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::install::manifest::digest;
use crate::install::plan::File;
use crate::install::selection::Target;
use crate::install::tree;
use crate::install::work::Work;

/// What a unit's name ends with; drop-ins are no units.
const UNITS: [&str; 4] = ["container", "service", "socket", "timer"];

/// psi-serve's, of either mode: one that is there would start in the place of the other, or with drop-ins
/// that are none of its own.
const SERVE: [&str; 2] = ["psi-secrets.container", "psi-secrets.service"];

/// How the names of the Python program's units begin that renewed certificates.
const CERTIFICATES: &str = "psi-tls-renew.";

/// Refuses to go on if a unit is there under one of our names that is not ours: the drop-ins beside it would
/// become part of it, and its next start would be of another program, image and user.
///
/// # Errors
/// [`Kind::Refused`] naming all of them, [`Kind::Io`] one that can't be read.
pub fn refuse_units(work: &Work, target: &Target<'_>) -> Result<()> {
    let wanted = target.files();
    let directories = [&target.units, &target.config.systemd_dir];
    let serve = directories
        .iter()
        .flat_map(|directory| SERVE.map(|name| directory.join(name)));
    let mut paths: Vec<PathBuf> = wanted.iter().map(|file| file.path.clone()).collect();
    paths.extend(serve);
    paths.retain(|path| is_unit(path));
    paths.sort();
    paths.dedup();
    let mut foreign = Vec::new();
    for path in paths {
        let file = wanted.iter().find(|file| file.path == path);
        if work.manifest.digest(&path).is_none() && is_foreign(&path, file)? {
            foreign.push(path.display().to_string());
        }
    }
    if foreign.is_empty() {
        return Ok(());
    }
    let foreign = foreign.join(" ");
    let what = format!("psi-install did not write {foreign}, and its drop-ins would change that");
    Err(Error::new(Kind::Refused, what).hint(format!(
        "if it is the Python program's, docs/migrating.md stops it and moves it away in step 2; else `mv {foreign} /root/`, then run psi-install again"
    )))
}

fn is_unit(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default();
    UNITS.iter().any(|kind| extension == *kind)
}

/// A masked unit starts nothing, and what is ours word for word may be anybody's.
fn is_foreign(path: &Path, wanted: Option<&File>) -> Result<bool> {
    if fs::symlink_metadata(path).is_err() || is_masked(path) {
        return Ok(false);
    }
    let content =
        fs::read(path).map_err(|e| Error::io(format!("cannot read {}", path.display()), e))?;
    Ok(wanted.is_none_or(|file| digest(&file.content) != digest(&content)))
}

fn is_masked(path: &Path) -> bool {
    fs::read_link(path).is_ok_and(|target| target == Path::new("/dev/null"))
}

/// Says that units are there which renew certificates: PSI has none that would do that.
///
/// # Errors
/// [`Kind::Io`] if it can't be said.
pub fn note_certificates(work: &Work, config: &Config) -> Result<()> {
    let own = [work.layout.units.clone(), config.systemd_dir.clone()];
    let directories = own
        .into_iter()
        .chain(tree::packaged_directories(work.layout.scope));
    let mut paths: Vec<PathBuf> = directories.flat_map(tree::files_in).collect();
    paths.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(CERTIFICATES) && is_unit(path)
    });
    paths.sort();
    for path in paths {
        let disable = work
            .host
            .systemctl(&["disable", "--now", "psi-tls-renew.timer"]);
        work.say(
            "note",
            &format!(
                "{} is left alone: PSI renews no certificates. If nothing else needs it: `{}`",
                path.display(),
                disable.join(" ")
            ),
        )?;
    }
    Ok(())
}
