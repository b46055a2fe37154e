//! Reading and replacing `cache.enc`, so that a crash at any moment leaves the old or the new one.

use std::io::{Read, Write};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};
use zeroize::Zeroizing;

use crate::error::{Error, Kind, Result};

/// Largest cache file: far beyond what one hand-over can fill, well within memory.
const MAX_FILE: u64 = 1 << 30;

/// The whole file, or nothing if there is none.
///
/// # Errors
/// [`Kind::Io`] if it cannot be read, is no plain file, or is a link.
pub fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>> {
    let failed = |e: std::io::Error| Error::io(format!("cannot read {}", path.display()), e);
    // Without NONBLOCK a pipe in the file's place would hold us up for ever.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => std::fs::File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(e) => return Err(failed(e.into())),
    };
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() || meta.len() > MAX_FILE {
        return Err(Error::new(
            Kind::Io,
            format!("{} is no plain file of at most 1 GiB", path.display()),
        )
        .hint("`cache.path` must name a file that PSI wrote, or none"));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(meta.len() as usize + 1));
    file.take(MAX_FILE)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok(Some(bytes))
}

/// Puts `bytes` in the place of the file: readable by its owner alone, owned by whoever owns the
/// directory if root writes it, on disk when this returns.
///
/// # Errors
/// [`Kind::Io`] naming the path. The file is then the old one, unless the last step, making the
/// rename itself durable, was what failed.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |e: std::io::Error| {
        Error::io(format!("cannot write {}", path.display()), e)
            .hint("the last good cache is kept; see `df` and `mount` for a full or read-only disk")
    };
    let no_name = || std::io::Error::from(std::io::ErrorKind::InvalidInput);
    let name = path.file_name().ok_or_else(|| failed(no_name()))?;
    let parent = path.parent().ok_or_else(|| failed(no_name()))?;
    let directory = rustix::fs::open(
        parent,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|e| failed(e.into()))?;
    let temporary = format!(".{}.new", name.to_string_lossy());
    // Only the holder of the lock gets here: what lies there was left by a crash.
    let _ = rustix::fs::unlinkat(&directory, &temporary, AtFlags::empty());
    let written = write_new(&directory, &temporary, bytes).and_then(|()| {
        rustix::fs::renameat(&directory, &temporary, &directory, name).map_err(Into::into)
    });
    if let Err(e) = written {
        let _ = rustix::fs::unlinkat(&directory, &temporary, AtFlags::empty());
        return Err(failed(e));
    }
    rustix::fs::fsync(&directory).map_err(|e| failed(e.into()))
}

fn write_new(directory: &rustix::fd::OwnedFd, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR)?;
    give_to_owner_of(directory, &file)?;
    let mut file = std::fs::File::from(file);
    file.write_all(bytes)?;
    file.sync_all()
}

/// psi-serve must be able to read what a root tool wrote.
pub fn give_to_owner_of(
    directory: &rustix::fd::OwnedFd,
    file: &rustix::fd::OwnedFd,
) -> std::io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let owner = rustix::fs::fstat(directory)?;
    let uid = rustix::fs::Uid::from_raw(owner.st_uid);
    let gid = rustix::fs::Gid::from_raw(owner.st_gid);
    Ok(rustix::fs::fchown(file, Some(uid), Some(gid))?)
}
