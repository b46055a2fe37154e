//! Locks that are files: one holder at a time, on one host.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::error::{Error, Kind, Result};

/// How long to wait between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// A held lock. Released when dropped, and by the kernel when the process ends in any way.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "closing it releases the lock")] OwnedFd);

impl Lock {
    /// Takes the lock of the file `path`, which is made if it is missing, waiting up to `patience`
    /// for whoever has it. `holder` says who that may be and what to do about it.
    ///
    /// # Errors
    /// [`Kind::Unreachable`] if another process has it, [`Kind::Io`] if the file can't be opened
    /// or is a link.
    pub fn acquire(path: &Path, patience: Duration, holder: &str) -> Result<Self> {
        let start = Instant::now();
        loop {
            match Self::try_acquire(path, holder) {
                Err(e) if e.kind() == Kind::Unreachable && start.elapsed() < patience => {
                    std::thread::sleep(PAUSE);
                }
                outcome => return outcome,
            }
        }
    }

    fn try_acquire(path: &Path, holder: &str) -> Result<Self> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| Error::io(format!("cannot open {}", path.display()), e.into()))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let what = format!("another process holds {}", path.display());
                Err(Error::new(Kind::Unreachable, what).hint(holder))
            }
            Err(e) => {
                let what = format!("cannot lock {}", path.display());
                Err(Error::io(what, e.into()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_has_one_holder_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let lock = Lock::acquire(&path, Duration::ZERO, "wait").unwrap();
        let error = Lock::acquire(&path, Duration::ZERO, "wait").unwrap_err();
        assert_eq!(error.kind(), Kind::Unreachable);
        assert_eq!(error.next_step(), Some("wait"));
        let released = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            drop(lock);
        });
        assert!(Lock::acquire(&path, Duration::from_secs(30), "wait").is_ok());
        released.join().unwrap();
    }

    #[test]
    fn a_link_in_the_place_of_the_lock_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        std::os::unix::fs::symlink(dir.path().join("target"), &path).unwrap();
        let error = Lock::acquire(&path, Duration::ZERO, "wait").unwrap_err();
        assert_eq!(error.kind(), Kind::Io);
        assert!(!dir.path().join("target").exists());
    }
}
