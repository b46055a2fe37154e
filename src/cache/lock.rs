//! The lock on the state directory: the cache has one owner at a time.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags};

use crate::cache::directory::Directory;
use crate::error::{Error, Kind, Result};

/// The lock's file in the state directory.
const NAME: &str = ".lock";

/// Held by psi-serve for life, by psi-cachectl for one operation. Released when dropped, and by
/// the kernel when the process ends in any way.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "closing it releases the lock")] File);

impl Lock {
    /// Takes the lock, waiting up to `patience` for whoever has it, e.g. one psi-cachectl command.
    ///
    /// # Errors
    /// As [`Lock::acquire`].
    pub fn acquire_within(state_dir: &Path, patience: Duration) -> Result<Self> {
        let start = Instant::now();
        loop {
            match Self::acquire(state_dir) {
                Err(e) if e.kind() == Kind::Unreachable && start.elapsed() < patience => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                outcome => return outcome,
            }
        }
    }

    /// Takes the lock, without waiting.
    ///
    /// # Errors
    /// [`Kind::Unreachable`] if another process has it, [`Kind::Io`] if the directory is not
    /// there or not ours to write.
    pub fn acquire(state_dir: &Path) -> Result<Self> {
        let path = state_dir.join(NAME);
        let file = open_or_create(state_dir).map_err(|e| {
            Error::io(format!("cannot open {}", path.display()), e)
                .hint("`state_dir` must be there, and the command be run as root or as its owner")
        })?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::new(
                Kind::Unreachable,
                format!("another process holds {}", path.display()),
            )
            .hint("psi-serve holds it while it runs: `systemctl status psi-secrets.service`")),
            Err(e) => Err(Error::io(
                format!("cannot lock {}", path.display()),
                e.into(),
            )),
        }
    }

    /// Whether another process has the lock now. Changes nothing, so it may be asked at any time.
    ///
    /// # Errors
    /// [`Kind::Io`] if it may not be asked.
    pub fn is_held(state_dir: &Path) -> Result<bool> {
        let path = state_dir.join(NAME);
        let failed = |e| {
            Error::io(format!("cannot open {}", path.display()), e)
                .hint("run the command as root or as the owner of `state_dir`")
        };
        let file = match Directory::open(state_dir) {
            Ok(directory) => directory.open_file(NAME.as_ref(), OFlags::RDONLY),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(e) => Err(e),
        };
        let Some(file) = file.map_err(failed)? else {
            return Ok(false);
        };
        // A shared lock, so that two who ask do not take each other for the holder.
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
            Err(e) => Err(failed(e.into())),
        }
    }
}

/// The lock's file. psi-serve must be able to open it too, whoever made it: root gives it away,
/// but only if it is new, since another file may have been linked in its place.
fn open_or_create(state_dir: &Path) -> std::io::Result<File> {
    let directory = Directory::open(state_dir)?;
    if let Some(file) = directory.open_file(NAME.as_ref(), OFlags::RDWR)? {
        return Ok(file);
    }
    match directory.create_file(NAME.as_ref()) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            let file = directory.open_file(NAME.as_ref(), OFlags::RDWR)?;
            file.ok_or(e)
        }
        created => created,
    }
}
