//! Locks that are files: one holder at a time, on one host.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::directory::{Directory, Owner};
use crate::error::{Error, Kind, Result};

/// How long to wait between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// A held lock. Released when dropped, and by the kernel when the process ends in any way.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "closing it releases the lock")] File);

impl Lock {
    /// Takes the lock that is the file `path`, made if it is missing, waiting up to `patience`
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
        let file = open_or_create(path).map_err(|e| cannot_open(path, e))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let what = format!("another process holds {}", path.display());
                Err(Error::new(Kind::Unreachable, what).hint(holder))
            }
            Err(e) => Err(cannot_open(path, e.into())),
        }
    }

    /// Whether another process has the lock now. Changes nothing, so it may be asked at any time.
    ///
    /// # Errors
    /// [`Kind::Io`] if it may not be asked.
    pub fn is_held(path: &Path) -> Result<bool> {
        let file = match Directory::of(path) {
            Ok((directory, name)) => directory.open_file(name, OFlags::RDONLY),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => Err(e),
        };
        let Some(file) = file.map_err(|e| cannot_open(path, e))? else {
            return Ok(false);
        };
        // A shared lock, so that two who ask do not take each other for the holder.
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
            Err(e) => Err(cannot_open(path, e.into())),
        }
    }
}

fn cannot_open(path: &Path, error: io::Error) -> Error {
    Error::io(format!("cannot lock {}", path.display()), error)
        .hint("its directory must be there, and the command be run as root or as its owner")
}

/// The lock's file. The directory's owner must be able to open it too, whoever made it: root gives
/// it away, but only if it is new, since another file may have been linked in its place.
fn open_or_create(path: &Path) -> io::Result<File> {
    let (directory, name) = Directory::of(path)?;
    // To read only: on a disk that has become read-only the lock can be taken all the same.
    if let Some(file) = directory.open_file(name, OFlags::RDONLY)? {
        return Ok(file);
    }
    match directory.create_file(name, Mode::RUSR | Mode::WUSR, Owner::OfDirectory) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let file = directory.open_file(name, OFlags::RDONLY)?;
    file.ok_or_else(|| io::ErrorKind::NotFound.into())
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
