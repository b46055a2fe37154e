//! The target's files: what is there, and what becomes of it. All paths are from this process's
//! root, which [`enter`] has changed to the target's, so that no link of its leads elsewhere.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, OFlags, Uid};

use crate::config::Scope;
use crate::directory::{Directory, Owner};
use crate::error::{Error, Kind, Result};
use crate::install::manifest::{Manifest, digest};
use crate::install::plan::{File, Found};
use crate::install::shipped;

/// The root of the machine that this runs on.
pub const HERE: &str = "/";

/// Makes `root` the root of everything that is done from now on, commands included. Files that are
/// not below it are out of reach then.
///
/// # Errors
/// [`Kind::Denied`] without the right to do so, [`Kind::NotFound`] if there is no such directory.
pub fn enter(root: &Path) -> Result<()> {
    if root == Path::new(HERE) {
        return Ok(());
    }
    let entered = std::os::unix::fs::chroot(root).and_then(|()| std::env::set_current_dir("/"));
    entered.map_err(|e| {
        let (kind, hint) = match e.kind() {
            io::ErrorKind::PermissionDenied => (
                Kind::Denied,
                "run it as root; in a container it needs the capability SYS_CHROOT",
            ),
            _ => (
                Kind::NotFound,
                "name the directory that has its /etc and /usr",
            ),
        };
        let what = format!("cannot use {} as a root directory", root.display());
        Error::new(kind, what).because(e).hint(hint)
    })
}

/// What is at each of `paths`; nothing where nothing is.
///
/// # Errors
/// [`Kind::Io`] naming the path that can't be looked at.
pub fn look<'p>(paths: impl Iterator<Item = &'p PathBuf>) -> Result<BTreeMap<PathBuf, Found>> {
    let mut all = BTreeMap::new();
    for path in paths {
        let found = found(path);
        let found = found.map_err(|e| Error::io(format!("cannot read {}", path.display()), e))?;
        all.extend(found.map(|found| (path.clone(), found)));
    }
    Ok(all)
}

fn found(path: &Path) -> io::Result<Option<Found>> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(e) if is_absent(&e) => return Ok(None),
        Err(e) => return Err(e),
    };
    if !metadata.is_file() {
        return Ok(Some(Found::Other));
    }
    Ok(Some(Found::File {
        digest: digest(&fs::read(path)?),
        permissions: metadata.permissions().mode() & 0o7777,
    }))
}

/// A file in the place of a directory leaves nothing below it, too.
fn is_absent(error: &io::Error) -> bool {
    [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind())
}

/// Where `make install` and packages put what an administrator's file in /etc takes the place of.
const PACKAGED: [&str; 2] = ["/usr/lib", "/usr/local/lib"];

/// Whether the very same is there already as a packaged file, which needs no copy of ours in these `units` or
/// elsewhere.
pub fn is_packaged(file: &File, units: &Path, scope: Scope) -> bool {
    let below = |directory: &str| file.path.strip_prefix(directory).ok().map(Path::to_owned);
    let unit = file.path.strip_prefix(units).ok();
    let unit = unit.map(|unit| Path::new(units_of(scope)).join(unit));
    let Some(path) = unit
        .or_else(|| below("/etc"))
        .or_else(|| below("/usr/local/lib"))
    else {
        return false;
    };
    let places = PACKAGED.map(|directory| Path::new(directory).join(&path));
    let others = places.iter().filter(|place| **place != file.path);
    let is_same = |place| fs::read(place).is_ok_and(|content| content == *file.content);
    others.into_iter().any(is_same)
}

/// Where units are below a directory of libraries.
fn units_of(scope: Scope) -> &'static str {
    match scope {
        Scope::System => "systemd/system",
        Scope::User => "systemd/user",
    }
}

/// Where packages have their units.
pub fn packaged_directories(scope: Scope) -> impl Iterator<Item = PathBuf> {
    PACKAGED
        .iter()
        .map(move |lib| Path::new(lib).join(units_of(scope)))
}

/// All that a directory has; nothing if it can't be read.
pub fn files_in(directory: PathBuf) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

/// PSI's units that psi-install did not put there.
pub fn packaged_units(scope: Scope) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = packaged_directories(scope).flat_map(files_in).collect();
    paths.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        shipped::is_unit(&name)
    });
    paths.sort();
    paths
}

/// Puts the file in its place, whole or not at all; directories that are missing are made.
///
/// # Errors
/// [`Kind::Io`] naming the file.
pub fn write(file: &File) -> Result<()> {
    let failed = |e: io::Error| {
        let hint = match e.kind() {
            io::ErrorKind::ReadOnlyFilesystem => {
                "it is on a read-only file system: see `findmnt`; in a container, `podman run --volume /:/host …` mounts the host's root, and `--root /host` names it"
            }
            _ => "see `df` and `ls -ld` for its directory, then run it again",
        };
        Error::io(format!("cannot write {}", file.path.display()), e).hint(hint)
    };
    let parent = file.path.parent().unwrap_or(Path::new(HERE));
    let mut directories = fs::DirBuilder::new();
    directories.recursive(true).mode(0o755);
    directories.create(parent).map_err(failed)?;
    let mode = Mode::from_raw_mode(file.permissions);
    Directory::of(&file.path)
        .and_then(|(directory, name)| {
            directory.replace(name, &[&file.content], mode, Owner::Maker)?;
            directory.sync()
        })
        .map_err(failed)
}

/// Removes the file, and its directory if that was there for it alone.
///
/// # Errors
/// [`Kind::Io`] naming the file.
pub fn remove(path: &Path) -> Result<()> {
    Directory::of(path)
        .and_then(|(directory, name)| {
            directory.remove(name)?;
            directory.sync()
        })
        .map_err(|e| Error::io(format!("cannot remove {}", path.display()), e))?;
    if let Some(parent) = path.parent().filter(|parent| is_drop_in_directory(parent)) {
        // It stays if an administrator has something in it.
        let _ = fs::remove_dir(parent);
    }
    Ok(())
}

/// `psi-secrets.service.d`, and the like.
pub fn is_drop_in_directory(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with("psi-") && name.ends_with(".d")
}

/// What psi-install has written so far; nothing where it never ran.
///
/// # Errors
/// [`Kind::Damaged`] if somebody has changed it.
pub fn read_manifest(path: &Path) -> Result<Manifest> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if is_absent(&e) => return Ok(Manifest::default()),
        Err(e) => return Err(Error::io(format!("cannot read {}", path.display()), e)),
    };
    Manifest::parse(&text).ok_or_else(|| {
        let shown = path.display();
        let what = format!("{shown} is not what psi-install wrote");
        Error::new(Kind::Damaged, what).hint(format!(
            "`mv {shown} {shown}.old`, then run it again: files that differ from this version's then count as an administrator's"
        ))
    })
}

/// Writes it, or removes it if there is nothing in it.
///
/// # Errors
/// [`Kind::Io`] naming it.
pub fn write_manifest(path: &Path, manifest: &Manifest) -> Result<()> {
    if !manifest.is_empty() {
        return write(&File::text(path, manifest.text()));
    }
    match fs::symlink_metadata(path) {
        Ok(_) => remove(path),
        Err(_) => Ok(()),
    }
}

/// Who may read the configuration: root may write it, psi-serve's group may read it.
const CONFIG_PERMISSIONS: u32 = 0o640;

/// Whether the configuration is root's, and psi-serve can read it, and nobody else.
///
/// # Errors
/// [`Kind::Io`] naming it.
pub fn config_is_closed(path: &Path, group: u32) -> Result<bool> {
    let is =
        fs::metadata(path).map_err(|e| Error::io(format!("cannot read {}", path.display()), e))?;
    let permissions = is.permissions().mode() & 0o7777;
    Ok((is.uid(), is.gid(), permissions) == (0, group, CONFIG_PERMISSIONS))
}

/// Makes it so.
///
/// # Errors
/// [`Kind::Io`] naming it.
pub fn close_config(path: &Path, group: u32) -> Result<()> {
    let close = || {
        let (directory, name) = Directory::of(path)?;
        let file = directory.open_file(name, OFlags::RDONLY)?;
        let file = file.ok_or(io::ErrorKind::NotFound)?;
        rustix::fs::fchown(&file, Some(Uid::ROOT), Some(Gid::from_raw(group)))?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(CONFIG_PERMISSIONS))?;
        Ok(())
    };
    close().map_err(|e: io::Error| {
        let shown = path.display();
        Error::io(format!("cannot change the owner of {shown}"), e)
            .hint(format!("`chown root:psi {shown}; chmod 0640 {shown}`"))
    })
}

/// A program that lies beside this one.
///
/// # Errors
/// [`Kind::NotFound`] if it does not.
pub fn program_beside(name: &str) -> Result<Vec<u8>> {
    let missing = |e: io::Error| {
        let what = format!("cannot read {name}, which belongs beside psi-install");
        Error::new(Kind::NotFound, what)
            .because(e)
            .hint("run psi-install from PSI's image")
    };
    let path = std::env::current_exe().map_err(missing)?;
    let mut program = Vec::new();
    fs::File::open(path.with_file_name(name))
        .and_then(|mut file| file.read_to_end(&mut program))
        .map_err(missing)?;
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_with_its_directories_and_goes_with_its_own() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/psi-x.service.d/b.conf");
        let file = File::text(&path, "text");
        assert!(look([&path].into_iter()).unwrap().is_empty());
        write(&file).unwrap();
        let expected = Found::File {
            digest: digest(b"text"),
            permissions: 0o644,
        };
        assert_eq!(look([&path].into_iter()).unwrap()[&path], expected);

        remove(&path).unwrap();
        assert!(!root.path().join("a/psi-x.service.d").exists());
        assert!(root.path().join("a").exists());
    }

    #[test]
    fn a_directory_with_something_of_somebody_elses_stays() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("psi-x.service.d");
        write(&File::text(directory.join("ours.conf"), "")).unwrap();
        fs::write(directory.join("theirs.conf"), "").unwrap();
        remove(&directory.join("ours.conf")).unwrap();
        assert!(directory.join("theirs.conf").exists());
    }
}
