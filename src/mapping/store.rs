//! The state directory's mappings: one file per secret id, `0600`, read, written and removed
//! through the directory's descriptor, so that no name can lead out of it.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::directory::{Directory, Owner};
use crate::error::{Error, Kind, Result};
use crate::mapping::{MAX_MAPPING, Mapping, Watch};
use crate::secret::{SecretId, SecretName};

/// The mappings in one state directory.
#[derive(Debug)]
pub struct Store {
    directory: Directory,
    path: PathBuf,
    /// A repeated request must not meet the first one's half-written file.
    writing: Mutex<()>,
}

impl Store {
    /// Opens `state_dir`, which is made with mode 0700 if it is missing.
    ///
    /// # Errors
    /// [`Kind::Io`] naming the directory.
    pub fn open(state_dir: &Path) -> Result<Self> {
        let failed = |e: io::Error| {
            Error::io(format!("cannot open {}", state_dir.display()), e)
                .hint("`state_dir` must be a directory that PSI's user may write")
        };
        match rustix::fs::mkdir(state_dir, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(failed(e.into())),
        }
        Self::at(state_dir).map_err(failed)
    }

    /// Opens `state_dir` for a tool of root's, which never makes it: it has to be psi-serve's own.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is none yet, [`Kind::Io`] naming it.
    pub fn open_existing(state_dir: &Path) -> Result<Self> {
        let shown = state_dir.display();
        Self::at(state_dir).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => {
                let what = format!("there is no state directory {shown} yet");
                Error::new(Kind::NotFound, what).hint(
                    "`systemctl start psi-secrets.socket psi-secrets.service` makes it, for psi-serve's user",
                )
            }
            _ => Error::io(format!("cannot open {shown}"), e).hint("run it as root"),
        })
    }

    fn at(state_dir: &Path) -> io::Result<Self> {
        Ok(Self {
            directory: Directory::open(state_dir)?,
            path: state_dir.to_owned(),
            writing: Mutex::new(()),
        })
    }

    /// Watches for changes of mappings from now on.
    ///
    /// # Errors
    /// As [`Watch::start`].
    pub fn watch(&self) -> io::Result<Watch> {
        Watch::start(&self.directory)
    }

    /// The mapping called `name`; nothing if there is no such file.
    ///
    /// # Errors
    /// [`Kind::Damaged`] if the file holds no mapping, [`Kind::Io`] if it cannot be read; both
    /// name it.
    pub fn get(&self, name: &SecretName) -> Result<Option<Mapping>> {
        let failed = |e: io::Error| self.failed("read", name.as_str(), e);
        let file = self
            .directory
            .open_file(name.as_str().as_ref(), OFlags::RDONLY);
        let Some(file) = file.map_err(failed)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        file.take(MAX_MAPPING as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        let mapping = Mapping::parse(&bytes).map_err(|e| self.corrupt(name, &e))?;
        Ok(Some(mapping))
    }

    /// Keeps `mapping`, the text of a mapping, under `id`; it is on disk when this returns.
    ///
    /// # Errors
    /// [`Kind::Damaged`] if it is not a mapping, [`Kind::Io`] if it cannot be written. What was
    /// there before is then still there, unless the disk failed in the very last step.
    pub fn put(&self, id: &SecretId, mapping: &[u8]) -> Result<()> {
        Mapping::parse(mapping)?;
        self.write(id.as_str(), mapping)
    }

    /// The same for a mapping that is kept by name.
    ///
    /// # Errors
    /// [`Kind::Io`] if it cannot be written.
    pub fn put_named(&self, name: &SecretName, mapping: &Mapping) -> Result<()> {
        self.write(name.as_str(), &mapping.canonical())
    }

    fn write(&self, name: &str, mapping: &[u8]) -> Result<()> {
        let _writing = self.start_writing();
        let mode = Mode::RUSR | Mode::WUSR;
        self.directory
            .replace(name.as_ref(), &[mapping], mode, Owner::OfDirectory)
            .and_then(|()| self.directory.sync())
            .map_err(|e| self.failed("write", name, e))
    }

    fn start_writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the mapping of `id`. Says whether there was one.
    ///
    /// # Errors
    /// [`Kind::Io`] naming the file.
    pub fn delete(&self, id: &SecretId) -> Result<bool> {
        let _writing = self.start_writing();
        let failed = |e| self.failed("remove", id.as_str(), e);
        match self.directory.remove(id.as_str().as_ref()) {
            Ok(()) => {
                // It is gone. Were this an error, Podman would keep a secret without a mapping; a
                // power cut may bring back no more than a mapping that nobody asks for.
                let _ = self.directory.sync();
                Ok(true)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(failed(e)),
        }
    }

    /// The ids and names that hold a mapping, sorted.
    ///
    /// # Errors
    /// [`Kind::Io`] if the directory cannot be read.
    pub fn list(&self) -> Result<Vec<SecretName>> {
        let mapped = self.files()?.filter(|(_, mapping)| mapping.is_ok());
        Ok(mapped.map(|(name, _)| name).collect())
    }

    /// Every file, sorted by name, with its mapping or why it has none. What is no file is left out.
    ///
    /// # Errors
    /// [`Kind::Io`] if the directory cannot be read.
    pub fn files(&self) -> Result<impl Iterator<Item = (SecretName, Result<Mapping>)>> {
        let entries = self.directory.entries();
        let entries = entries.map_err(|e| self.failed("read", "", e))?;
        let names = entries.iter().filter_map(|entry| entry.to_str());
        let names = names.filter_map(|name| SecretName::parse(name).ok());
        let mut names: Vec<SecretName> = names.collect();
        names.sort();
        Ok(names.into_iter().filter_map(|name| match self.get(&name) {
            Ok(found) => found.map(|mapping| (name, Ok(mapping))),
            Err(e) => self.is_file(&name).then_some((name, Err(e))),
        }))
    }

    /// Every mapping, whatever it is called. Files that hold none are passed over.
    ///
    /// # Errors
    /// [`Kind::Io`] if the directory or a file in it cannot be read: it may hold a mapping.
    pub fn mappings(&self) -> Result<Vec<Mapping>> {
        let holds_none = |e: &Error| e.kind() == Kind::Damaged;
        let mappings = self.files()?.map(|(_, mapping)| mapping);
        mappings
            .filter(|mapping| !mapping.as_ref().is_err_and(holds_none))
            .collect()
    }

    fn is_file(&self, name: &SecretName) -> bool {
        let stat = self.directory.stat(name.as_str().as_ref());
        stat.ok()
            .flatten()
            .is_some_and(|stat| FileType::from_raw_mode(stat.st_mode).is_file())
    }

    fn failed(&self, verb: &str, name: &str, e: io::Error) -> Error {
        Error::io(
            format!("cannot {verb} {}", self.path.join(name).display()),
            e,
        )
        .hint("`ls -l` shows what is there; see `df` and `mount` for a full or read-only disk")
    }

    fn corrupt(&self, name: &SecretName, why: &Error) -> Error {
        let file = self.path.join(name.as_str());
        let error = Error::new(Kind::Damaged, format!("{}: {why}", file.display()));
        if SecretId::parse(name.as_str()).is_ok() {
            return error
                .hint("remove the file and `systemctl restart 'psi-*-setup.service'`: it registers the secret again");
        }
        // What was sealed for a token under a name is nowhere else.
        error.hint(format!(
            "restore the file from a backup; or remove it, and `psi-hsm store {name}` seals the value anew"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::Change;
    use std::ffi::CString;
    use std::os::unix::fs::PermissionsExt;

    const ID: &str = "0123456789abcdef012345678";
    const MAPPING: &[u8] = br#"{"provider": "infisical", "key": "A"}"#;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        (dir, store)
    }

    fn id() -> SecretId {
        SecretId::parse(ID).unwrap()
    }

    fn name(text: &str) -> SecretName {
        SecretName::parse(text).unwrap()
    }

    #[test]
    fn what_was_put_is_there_private_and_byte_for_byte() {
        let (dir, store) = store();
        store.put(&id(), MAPPING).unwrap();
        let file = dir.path().join(ID);
        assert_eq!(std::fs::read(&file).unwrap(), MAPPING);
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let mapping = store.get(&name(ID)).unwrap().unwrap();
        assert_eq!(mapping.get("key"), Some("A"));
        assert!(store.delete(&id()).unwrap());
        assert!(!store.delete(&id()).unwrap());
        assert!(store.get(&name(ID)).unwrap().is_none());
    }

    #[test]
    fn what_is_put_and_deleted_is_seen_by_whoever_watches() {
        let (_dir, store) = store();
        let mut watch = store.watch().unwrap();
        let mut is_seen = || {
            let mut seen = false;
            let ours = CString::new(ID).unwrap();
            let changes = watch.changes(|change| seen |= change == Change::File(&ours));
            changes.unwrap();
            seen
        };
        store.put(&id(), MAPPING).unwrap();
        assert!(is_seen());
        store.put(&id(), MAPPING).unwrap();
        assert!(is_seen());
        assert!(!is_seen());
        store.delete(&id()).unwrap();
        assert!(is_seen());
    }

    #[test]
    fn what_is_no_mapping_is_not_kept_and_the_old_one_stays() {
        let (dir, store) = store();
        store.put(&id(), MAPPING).unwrap();
        for bad in [b"".as_slice(), b"null", b"7", b"{}"] {
            assert_eq!(store.put(&id(), bad).unwrap_err().kind(), Kind::Damaged);
        }
        assert_eq!(std::fs::read(dir.path().join(ID)).unwrap(), MAPPING);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn many_writers_of_one_id_leave_one_whole_mapping() {
        let (dir, store) = store();
        std::thread::scope(|scope| {
            for n in 0..8 {
                let store = &store;
                scope.spawn(move || {
                    let long = "x".repeat(n * 1000);
                    let mapping = format!("{{\"provider\":\"local\",\"key\":\"{long}\"}}");
                    for _ in 0..20 {
                        store.put(&id(), mapping.as_bytes()).unwrap();
                        store.get(&name(ID)).unwrap().unwrap();
                    }
                });
            }
        });
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn files_that_hold_no_mapping_are_errors_that_name_them_and_are_not_listed() {
        let (dir, store) = store();
        std::fs::write(dir.path().join("good"), MAPPING).unwrap();
        for (file, content) in [
            ("text", b"hunter2".as_slice()),
            ("latin1", b"{\"provider\":\"local\",\"k\":\"\xff\"}"),
            ("array", b"[]"),
            ("number", b"7"),
            ("null", b"null"),
            ("empty", b""),
        ] {
            std::fs::write(dir.path().join(file), content).unwrap();
            let error = store.get(&name(file)).unwrap_err();
            assert_eq!(error.kind(), Kind::Damaged, "{file}");
            assert!(error.to_string().contains(file), "{error}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
            let next = error.next_step().unwrap();
            assert!(next.contains(&format!("`psi-hsm store {file}`")), "{next}");
        }
        std::fs::write(dir.path().join(ID), b"[]").unwrap();
        let error = store.get(&name(ID)).unwrap_err();
        assert!(
            error
                .next_step()
                .unwrap()
                .contains("`systemctl restart 'psi-*-setup.service'`")
        );
        std::fs::remove_file(dir.path().join(ID)).unwrap();
        std::fs::write(dir.path().join("cache.enc"), b"PSIC").unwrap();
        std::fs::create_dir(dir.path().join("directory")).unwrap();
        assert_eq!(store.list().unwrap(), [name("good")]);
        assert_eq!(store.mappings().unwrap().len(), 1);
        assert!(store.get(&name("directory")).is_err());
    }

    #[test]
    fn links_and_pipes_in_the_place_of_a_mapping_are_not_followed() {
        let (dir, store) = store();
        std::fs::write(dir.path().join("good"), MAPPING).unwrap();
        std::os::unix::fs::symlink("good", dir.path().join("link")).unwrap();
        assert_eq!(store.mappings().unwrap().len(), 1);
        assert_eq!(store.get(&name("link")).unwrap_err().kind(), Kind::Io);
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )
        .unwrap();
        assert_eq!(store.get(&name("pipe")).unwrap_err().kind(), Kind::Damaged);
    }
}
