//! A directory in which PSI keeps files. Names in it are taken through its descriptor and never
//! followed: psi-serve's user may put anything there, and root reads and writes it too.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

/// An open directory.
pub struct Directory(OwnedFd);

impl Directory {
    /// Opens `path`, which the configuration names and is followed.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// Opens the directory of `file`; its name there comes with it.
    pub fn of(file: &Path) -> io::Result<(Self, &OsStr)> {
        match (file.parent(), file.file_name()) {
            (Some(parent), Some(name)) => Ok((Self::open(parent)?, name)),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Opens the file `name`; nothing if there is none. A link is an error.
    pub fn open_file(&self, name: &OsStr, access: OFlags) -> io::Result<Option<File>> {
        // Without NONBLOCK a pipe in the file's place would hold us up for ever.
        let flags = access | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        match rustix::fs::openat(&self.0, name, flags, Mode::empty()) {
            Ok(file) => Ok(Some(file.into())),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Makes the file `name`, which must not exist: `0600`, owned by whoever owns the directory
    /// if root makes it, since psi-serve must be able to read what a root tool wrote.
    pub fn create_file(&self, name: &OsStr) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.0, name, flags, Mode::RUSR | Mode::WUSR)?;
        if rustix::process::geteuid().is_root() {
            let owner = rustix::fs::fstat(&self.0)?;
            let (uid, gid) = (Uid::from_raw(owner.st_uid), Gid::from_raw(owner.st_gid));
            rustix::fs::fchown(&file, Some(uid), Some(gid))?;
        }
        Ok(file.into())
    }

    /// Whether anything has that name, a link that leads nowhere included.
    pub fn has(&self, name: &OsStr) -> io::Result<bool> {
        match rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Gives `name` a second name, which must not exist.
    pub fn link(&self, name: &OsStr, second: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::linkat(
            &self.0,
            name,
            &self.0,
            second,
            AtFlags::empty(),
        )?)
    }

    /// Puts `from` in the place of `to`.
    pub fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.0, from, &self.0, to)?)
    }

    /// Removes the file or the link `name`.
    pub fn remove(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::empty())?)
    }

    /// Makes what was renamed, linked or removed durable.
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.0)?)
    }
}
