//! What a run still owes: once a drop-in was written, systemd has to read its units again. A marker
//! is there from before the first drop-in until then, so that a crash in between is made good.

use std::io;
use std::path::PathBuf;

use rustix::fs::Mode;

use crate::config::{Config, Scope};
use crate::directory::{Directory, Owner};
use crate::error::{Error, Kind, Result};
use crate::systemd;

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
                    "no drop-in was written; see `df` and `mount` for a full or read-only disk, then `systemctl restart 'psi-*-setup.service'`",
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

    /// Has systemd read its units again and notes that it was done. Where systemd can't be reached,
    /// as in a container, its units on the host still are those of before: the reload stays due.
    ///
    /// # Errors
    /// As [`systemd::daemon_reload`].
    pub fn make_good(&self, scope: Scope) -> Result<()> {
        let reloaded = systemd::daemon_reload(scope);
        reloaded.map_err(|e| match e.kind() {
            Kind::Unreachable => e.hint(self.by_hand(scope)),
            _ => e,
        })?;
        let _ = Directory::of(&self.0).and_then(|(directory, name)| directory.remove(name));
        Ok(())
    }

    /// The marker goes first: what is written after that is noted anew.
    fn by_hand(&self, scope: Scope) -> String {
        let user = match scope {
            Scope::System => "",
            Scope::User => " --user",
        };
        format!(
            "on the host, `rm {} && systemctl{user} daemon-reload`; until then nothing that is gone is removed",
            self.0.display()
        )
    }
}
