//! What a run still owes: once a drop-in was written, systemd has to read its units again. A marker
//! is there from before the first drop-in until then, so that a crash in between is made good.

use std::io;
use std::path::PathBuf;

use rustix::fs::Mode;

use crate::config::Config;
use crate::directory::{Directory, Owner};
use crate::error::{Error, Result};

/// The marker's file.
pub struct PendingReload(PathBuf);

impl PendingReload {
    /// Beside the lock: at a reboot systemd reads all units anyway.
    pub fn of(config: &Config) -> Self {
        Self(config.socket.with_file_name("setup.reload"))
    }

    /// Notes that a reload is due, before a drop-in is written.
    ///
    /// # Errors
    /// [`crate::Kind::Io`] naming the marker.
    pub fn note(&self) -> Result<()> {
        let made = Directory::of(&self.0)
            .and_then(|(directory, name)| directory.create_file(name, Mode::RUSR, Owner::Maker));
        match made {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                let what = format!("cannot write {}", self.0.display());
                Err(Error::io(what, e).hint(
                    "no drop-in was written; see `df` and `mount` for a full or read-only disk, then `psi-setup`",
                ))
            }
            _ => Ok(()),
        }
    }

    /// Whether this run or one before it has noted a reload that was not done.
    pub fn is_due(&self) -> bool {
        let found = Directory::of(&self.0).and_then(|(directory, name)| directory.stat(name));
        matches!(found, Ok(Some(_)))
    }

    /// Notes that it was done.
    pub fn done(&self) {
        let _ = Directory::of(&self.0).and_then(|(directory, name)| directory.remove(name));
    }
}
