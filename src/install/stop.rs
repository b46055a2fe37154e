//! Stops the units of files that go away.

use std::path::PathBuf;

use crate::error::Result;
use crate::install::work::Work;

/// Stops the units of these files, if they are any.
pub fn stop<'p>(work: &Work, files: impl Iterator<Item = &'p PathBuf>) -> Result<()> {
    let names = files.filter_map(|path| path.file_name()?.to_str());
    let (mut quadlets, mut units) = (Vec::new(), Vec::new());
    for name in names {
        match name.rsplit_once('.') {
            Some((name, "container")) => quadlets.push(format!("{name}.service")),
            // Templates have no instance of that name.
            Some((stem, "service" | "socket" | "timer")) if !stem.ends_with('@') => {
                units.push(name.to_owned());
            }
            _ => {}
        }
    }
    // A socket that is stopped last would start its service again.
    units.sort();
    units.dedup();
    units.sort_by_key(|name| name.ends_with(".service"));
    let all = |words: &[&str], names: &[String]| {
        let mut command = work.host.systemctl(words);
        command.extend_from_slice(names);
        command
    };
    if !units.is_empty() {
        match work.host.is_up {
            true => work.command(&all(&["disable", "--now"], &units))?,
            false => work.command(&all(&["disable"], &units))?,
        }
    }
    // Before systemd has read a new quadlet there is no unit of it, which `systemctl stop` takes for an error.
    quadlets.retain(|name| !work.host.is_up || work.host.has_unit(name));
    if !quadlets.is_empty() {
        work.command_if_up(&all(&["stop"], &quadlets))?;
    }
    Ok(())
}
