//! The lock on the state directory: the cache has one owner at a time.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::error::{Error, Kind, Result};

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
        let path = state_dir.join(".lock");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| Error::io(format!("cannot open {}", path.display()), e.into()))?;
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
}
