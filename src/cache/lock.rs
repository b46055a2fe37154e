//! The lock on the state directory: the cache has one owner at a time.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::cache::file::give_to_owner_of;
use crate::error::{Error, Kind, Result};

const NAME: &str = ".lock";

/// Held by psi-serve for life, by psi-cachectl for one operation. Released when dropped, and by
/// the kernel when the process ends in any way.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "closing it releases the lock")] OwnedFd);

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
        let file =
            open(state_dir).map_err(|e| Error::io(format!("cannot open {}", path.display()), e))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self(file)),
            Err(Errno::WOULDBLOCK) => Err(Error::new(
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
}

/// Whoever makes the file, psi-serve must be able to open it: root gives it away, but only if it
/// is new, since another file may have been linked in its place.
fn open(state_dir: &Path) -> std::io::Result<OwnedFd> {
    let directory_flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(state_dir, directory_flags, Mode::empty())?;
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    match rustix::fs::openat(&directory, NAME, flags, Mode::empty()) {
        Err(Errno::NOENT) => {}
        outcome => return Ok(outcome?),
    }
    let new = flags | OFlags::CREATE | OFlags::EXCL;
    match rustix::fs::openat(&directory, NAME, new, Mode::RUSR | Mode::WUSR) {
        Err(Errno::EXIST) => Ok(rustix::fs::openat(&directory, NAME, flags, Mode::empty())?),
        outcome => {
            let file = outcome?;
            give_to_owner_of(&directory, &file)?;
            Ok(file)
        }
    }
}
