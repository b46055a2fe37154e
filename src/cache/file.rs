//! Reading and replacing `cache.enc`, so that a crash at any moment leaves the old or the new one.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::directory::{Directory, Owner};
use crate::error::{Error, Kind, Result};
use crate::locked::Locked;

/// Largest cache file: far beyond what one hand-over can fill, well within memory.
const MAX_FILE: u64 = 1 << 30;

/// The whole file, in memory that it can be decrypted in; nothing if there is none.
///
/// # Errors
/// [`Kind::Io`] if it cannot be read, is no plain file, or is a link.
pub fn read(path: &Path) -> Result<Option<Locked>> {
    let failed = |e| cannot_read(path, e);
    let Some((mut file, size)) = open_plain(path)? else {
        return Ok(None);
    };
    let mut bytes = Locked::zeroed(size as usize);
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read(&mut bytes[filled..]).map_err(failed)? {
            0 => break,
            read => filled += read,
        }
    }
    match filled < bytes.len() {
        true => Ok(Some(Locked::copy_of(&bytes[..filled]))),
        false => Ok(Some(bytes)),
    }
}

/// The file's first bytes, at most `limit`, and its size; nothing if there is none.
///
/// # Errors
/// As [`read`].
pub fn read_start(path: &Path, limit: u64) -> Result<Option<(Vec<u8>, u64)>> {
    let Some((file, size)) = open_plain(path)? else {
        return Ok(None);
    };
    let mut bytes = Vec::with_capacity(size.min(limit) as usize);
    let read = file.take(limit).read_to_end(&mut bytes);
    read.map_err(|e| cannot_read(path, e))?;
    Ok(Some((bytes, size)))
}

/// The file, if there is one, and its size.
fn open_plain(path: &Path) -> Result<Option<(File, u64)>> {
    let failed = |e| cannot_read(path, e);
    let Some(file) = open(path).map_err(failed)? else {
        return Ok(None);
    };
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() || meta.len() > MAX_FILE {
        return Err(Error::new(
            Kind::Io,
            format!("{} is no plain file of at most 1 GiB", path.display()),
        )
        .hint("`cache.path` must name a file that PSI wrote, or none"));
    }
    Ok(Some((file, meta.len())))
}

fn cannot_read(path: &Path, error: std::io::Error) -> Error {
    let path = path.display();
    Error::io(format!("cannot read {path}"), error)
        .hint(format!("`ls -l {path}` shows what is there"))
}

fn open(path: &Path) -> std::io::Result<Option<File>> {
    match Directory::of(path) {
        Ok((directory, name)) => directory.open_file(name, OFlags::RDONLY),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Whether anything is in the file's place.
///
/// # Errors
/// [`Kind::Io`] naming the path.
pub fn exists(path: &Path) -> Result<bool> {
    Ok(stat(path)?.is_some())
}

/// What is in a file's place.
pub struct Found {
    /// The same for all names of one file: its device and inode.
    pub identity: (u64, u64),
    /// In bytes.
    pub size: u64,
    /// When it or one of its names was last changed, in seconds since 1970.
    pub changed: u64,
}

/// What is in the file's place, if anything is.
///
/// # Errors
/// [`Kind::Io`] naming the path.
#[allow(
    clippy::unnecessary_cast,
    reason = "the fields' types differ between architectures"
)]
pub fn stat(path: &Path) -> Result<Option<Found>> {
    let stat = match Directory::of(path) {
        Ok((directory, name)) => directory.stat(name),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    };
    let stat = stat.map_err(|e| Error::io(format!("cannot read {}", path.display()), e))?;
    Ok(stat.map(|stat| Found {
        identity: (stat.st_dev as u64, stat.st_ino as u64),
        size: u64::try_from(stat.st_size).unwrap_or_default(),
        changed: u64::try_from(stat.st_ctime).unwrap_or_default(),
    }))
}

/// Puts `parts`, one after the other, in the place of the file: readable by its owner alone, owned by whoever owns the
/// directory if root writes it. [`make_durable`] is the step that is left.
///
/// # Errors
/// [`Kind::Io`] naming the path. The file is then the old one.
pub fn replace(path: &Path, parts: &[&[u8]]) -> Result<()> {
    let mode = Mode::RUSR | Mode::WUSR;
    Directory::of(path)
        .and_then(|(directory, name)| directory.replace(name, parts, mode, Owner::OfDirectory))
        .map_err(|e| cannot_write(path, e))
}

/// Makes sure that the file that is in place is there after a power cut as well.
///
/// # Errors
/// [`Kind::Io`] naming the path.
pub fn make_durable(path: &Path) -> Result<()> {
    Directory::of(path)
        .and_then(|(directory, _)| directory.sync())
        .map_err(|e| cannot_write(path, e))
}

fn cannot_write(path: &Path, error: std::io::Error) -> Error {
    let remedy = match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            "`systemctl restart psi-secrets.service` makes the directory psi's again"
        }
        _ => "see `df` and `mount` for a full or read-only disk",
    };
    Error::io(format!("cannot write {}", path.display()), error)
        .hint(format!("the last good cache is kept; {remedy}"))
}

/// Gives the file the second name `<name>.<suffix>`, under which it survives [`replace`].
///
/// # Errors
/// [`Kind::Io`] if that name is taken or can't be given.
pub fn keep_as(path: &Path, suffix: &str) -> Result<PathBuf> {
    let mut second = path.as_os_str().to_owned();
    second.push(".");
    second.push(suffix);
    let second = PathBuf::from(second);
    let kept = Directory::of(path).and_then(|(directory, name)| {
        let second = second.file_name().unwrap_or_default();
        directory.link(name, second)?;
        directory.sync().inspect_err(|_| {
            let _ = directory.remove(second);
        })
    });
    match kept {
        Ok(()) => Ok(second),
        Err(e) => {
            let what = format!("cannot keep {} as {}", path.display(), second.display());
            Err(Error::io(what, e).hint("nothing was changed; see `df` and `mount` for a full or read-only disk, then try again"))
        }
    }
}

/// Takes back what was done since [`keep_as`] gave the file the name `kept`, which is gone then.
pub fn restore(path: &Path, kept: &Path) {
    let _ = Directory::of(path).and_then(|(directory, name)| {
        let kept = kept.file_name().unwrap_or_default();
        let inode = |name| Ok::<_, std::io::Error>(directory.stat(name)?.map(|s| s.st_ino));
        match inode(name)? == inode(kept)? {
            true => directory.remove(kept),
            false => directory.rename(kept, name),
        }
    });
}

/// Removes the file, if it is there.
pub fn remove(path: &Path) {
    let _ = Directory::of(path).and_then(|(directory, name)| directory.remove(name));
}

/// Removes the file, if it is there.
///
/// # Errors
/// [`Kind::Io`] naming the path.
pub fn try_remove(path: &Path) -> Result<()> {
    let removed = Directory::of(path).and_then(|(directory, name)| match directory.remove(name) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
        Ok(()) => directory.sync(),
    });
    removed.map_err(|e| {
        Error::io(format!("cannot remove {}", path.display()), e).hint(format!(
            "`rm {}` as root; the cache is not affected",
            path.display()
        ))
    })
}
