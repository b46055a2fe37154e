//! Files that are replaced whole: a crash at any moment leaves the old one or the new one.

use std::io::{self, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags};

/// Who is to own the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Whoever writes it.
    Caller,
    /// Whoever owns the directory, if root writes: a service must be able to read what a root
    /// tool wrote for it.
    OfDirectory,
}

/// Puts `bytes` in the place of the file `name` in `directory`; it is on disk when this returns.
/// No link is followed, and the file never has other permissions than `mode`.
///
/// # Errors
/// What the system says. The file is then the old one, unless the last step, making the rename
/// itself durable, was what failed.
pub fn replace(
    directory: &OwnedFd,
    name: &str,
    bytes: &[u8],
    mode: Mode,
    owner: Owner,
) -> io::Result<()> {
    let temporary = format!(".{name}.new");
    // One process writes here at a time: what lies there was left by a crash.
    let _ = rustix::fs::unlinkat(directory, &temporary, AtFlags::empty());
    let written = write_new(directory, &temporary, bytes, mode, owner).and_then(|()| {
        Ok(rustix::fs::renameat(
            directory, &temporary, directory, name,
        )?)
    });
    if let Err(e) = written {
        let _ = rustix::fs::unlinkat(directory, &temporary, AtFlags::empty());
        return Err(e);
    }
    Ok(rustix::fs::fsync(directory)?)
}

fn write_new(
    directory: &OwnedFd,
    name: &str,
    bytes: &[u8],
    mode: Mode,
    owner: Owner,
) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(directory, name, flags, mode)?;
    // The umask may have taken some of it away.
    rustix::fs::fchmod(&file, mode)?;
    if owner == Owner::OfDirectory && rustix::process::geteuid().is_root() {
        let owner = rustix::fs::fstat(directory)?;
        let uid = rustix::fs::Uid::from_raw(owner.st_uid);
        let gid = rustix::fs::Gid::from_raw(owner.st_gid);
        rustix::fs::fchown(&file, Some(uid), Some(gid))?;
    }
    let mut file = std::fs::File::from(file);
    file.write_all(bytes)?;
    file.sync_all()
}
