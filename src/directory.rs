//! A directory in which PSI keeps files. Names in it are taken through its descriptor and never
//! followed: psi-serve's user may put anything there, and root reads and writes it too.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;

/// Who is to own a new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Whoever makes it.
    Maker,
    /// Whoever owns the directory, if root makes it: psi-serve must be able to read what a root
    /// tool wrote for it.
    OfDirectory,
}

/// An open directory.
#[derive(Debug)]
pub struct Directory(OwnedFd);

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

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

    /// Makes the file `name`, which must not exist.
    pub fn create_file(&self, name: &OsStr, mode: Mode, owner: Owner) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.0, name, flags, mode)?;
        // The umask may have taken some of it away.
        rustix::fs::fchmod(&file, mode)?;
        if owner == Owner::OfDirectory && rustix::process::geteuid().is_root() {
            self.give_to_owner(&file)?;
        }
        Ok(file.into())
    }

    /// A sandbox may forbid the call: it is made only if it would change anything.
    fn give_to_owner(&self, file: &OwnedFd) -> io::Result<()> {
        let (directory, made) = (rustix::fs::fstat(&self.0)?, rustix::fs::fstat(file)?);
        let owner = (directory.st_uid, directory.st_gid);
        if owner == (made.st_uid, made.st_gid) {
            return Ok(());
        }
        let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
        Ok(rustix::fs::fchown(file, Some(uid), Some(gid))?)
    }

    /// Puts `parts`, one after the other and on disk then, in the place of the file `name`.
    /// [`Directory::sync`] makes that durable. One process at a time may do this for a name.
    ///
    /// # Errors
    /// What the system says. The file is then the old one.
    pub fn replace(
        &self,
        name: &OsStr,
        parts: &[&[u8]],
        mode: Mode,
        owner: Owner,
    ) -> io::Result<()> {
        let mut temporary = OsString::from(".");
        temporary.push(name);
        temporary.push(".new");
        // What lies there was left by a crash.
        let _ = self.remove(&temporary);
        let written = self
            .write_new(&temporary, parts, mode, owner)
            .and_then(|()| self.rename(&temporary, name));
        if let Err(e) = written {
            let _ = self.remove(&temporary);
            return Err(e);
        }
        Ok(())
    }

    fn write_new(&self, name: &OsStr, parts: &[&[u8]], mode: Mode, owner: Owner) -> io::Result<()> {
        let mut file = self.create_file(name, mode, owner)?;
        for part in parts {
            file.write_all(part)?;
        }
        file.sync_all()
    }

    /// What `name` is, a link itself included; nothing if there is none.
    pub fn stat(&self, name: &OsStr) -> io::Result<Option<Stat>> {
        match rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// The names of all that is in it, in no order.
    pub fn entries(&self) -> io::Result<Vec<OsString>> {
        use std::os::unix::ffi::OsStrExt;
        let name = |entry: rustix::io::Result<rustix::fs::DirEntry>| {
            Ok(OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned())
        };
        Dir::read_from(&self.0)?.map(name).collect()
    }

    /// Gives `name` a second name, which must not exist.
    pub fn link(&self, name: &OsStr, second: &OsStr) -> io::Result<()> {
        let flags = AtFlags::empty();
        Ok(rustix::fs::linkat(&self.0, name, &self.0, second, flags)?)
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
