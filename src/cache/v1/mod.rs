//! Caches of version 1: carried over into version 2 when they are first opened, and kept beside it
//! until the new file has proved itself.
//!
//! Their values have no owner, since version 1 did not know of any. Those that a mapping in the
//! state directory names are still somebody's, the others go once the providers have handed over
//! everything.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cache::draft::Draft;
use crate::cache::staging::Staging;
use crate::cache::{Cache, envelope, file, now};
use crate::error::{Error, Kind, Result};
use crate::locked::Locked;
use crate::mapping::Mapping;
use crate::protector::{Key, Protector, SlotFields, SlotKind, encrypted_key_fields};

pub mod format;

use format::{Contents, KeyIn};

pub use format::{Sealed, VERSION};

/// What the old file is called besides the name of the new one.
const SUFFIX: &str = "v1";

/// Enough of a file's start to tell its version, in bytes.
const START: u64 = 8;

/// How long the old file is kept at most.
const KEPT_FOR: Duration = Duration::from_secs(7 * 24 * 3600);

/// A cache of version 1 that is one of version 2 now.
#[derive(Debug)]
pub struct CarriedOver {
    /// How many values; nothing if they could not be found again and were left behind.
    pub values: Option<usize>,
    /// Where the old file is.
    pub old_file: PathBuf,
}

impl fmt::Display for CarriedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.values {
            Some(values) => write!(f, "{values} values were carried over from a cache of version 1")?,
            None => f.write_str(
                "a cache of version 1 was replaced by an empty one: its contents are of version 1 \
                 too, by ids of Podman's that have changed since, so that none could be found again",
            )?,
        }
        write!(f, "; the old file is {}", self.old_file.display())
    }
}

/// Makes a cache of version 2 of the file at `path`, if that has version 1. It opens with what
/// opened the old one: the credential or the token.
///
/// # Errors
/// What the protector says, and as [`format::open`]; [`Kind::Config`] if nothing is configured that
/// could open it, [`Kind::Io`] if the new file can't be written. The file is then as it was.
pub fn carry_over(path: &Path, protectors: &[Box<dyn Protector>]) -> Result<Option<CarriedOver>> {
    let Some(bytes) = read(path)? else {
        return Ok(None);
    };
    let mut opener = Default::default();
    let contents = format::open(bytes, |key_in| {
        let key;
        (opener, key) = find_key(key_in, protectors)?;
        Ok(key)
    })?;
    let cache = match &contents {
        Some(contents) => Cache::keyed(path, opener, &contents.hmac_key)?,
        None => Cache::unsaved(path, opener)?,
    };
    cache.take_the_place(contents.as_ref()).map(Some)
}

/// Makes a cache of version 2 of the file at `path`, which the credential `key` opens, with other
/// slots than that credential. Each of them has opened before anything is written.
///
/// # Errors
/// [`Kind::NotFound`] if there is no file of version 1; as [`format::open`]; [`Kind::Config`] if a
/// token seals it; [`Kind::Refused`] if nothing in it could be found again; what a protector says;
/// [`Kind::Io`] if the new file can't be written. The file is then as it was.
pub fn adopt(
    path: &Path,
    key: impl FnOnce() -> Result<Key>,
    protectors: &[Box<dyn Protector>],
) -> Result<CarriedOver> {
    let bytes = read(path)?.ok_or_else(|| {
        let what = format!("{} is no cache of version 1", path.display());
        Error::new(Kind::NotFound, what).hint("`psi-cachectl status` describes it")
    })?;
    let contents = format::open(bytes, |key_in| match key_in {
        KeyIn::Credential => key(),
        KeyIn::Token(_) => Err(not_by_credential()),
    })?;
    let contents = contents.ok_or_else(|| nothing_to_find(path))?;
    let cache = Cache::keyed(path, protectors, &contents.hmac_key)?;
    cache.check_slots(protectors)?;
    cache.take_the_place(Some(&contents))
}

fn not_by_credential() -> Error {
    let what =
        "the cache of version 1 is sealed by a PKCS#11 token (tag 2, HSM), not by a credential";
    Error::new(Kind::Config, what).hint(
        "there is nothing to adopt: with `cache.backend: hsm` psi-serve carries it over when it opens it; \
         nothing was changed",
    )
}

fn nothing_to_find(path: &Path) -> Error {
    let what = format!(
        "the contents of {} are of version 1 too, by ids of Podman's that have changed since: none of \
         its values could be found again",
        path.display()
    );
    Error::new(Kind::Refused, what).hint(
        "nothing was changed; `psi-cachectl init --backend tpm --force` puts it aside and starts anew, \
         `systemctl restart 'psi-*-setup.service'` fills that",
    )
}

/// The file at `path`, if it has version 1.
fn read(path: &Path) -> Result<Option<Locked>> {
    let start = file::read_start(path, START)?;
    if start.and_then(|(bytes, _)| envelope::version(&bytes)) != Some(VERSION) {
        return Ok(None);
    }
    file::read(path)
}

/// The key of a file, and the one protector that had it.
fn find_key<'a>(
    key_in: KeyIn<'_>,
    protectors: &'a [Box<dyn Protector>],
) -> Result<(&'a [Box<dyn Protector>], Key)> {
    let (kind, fields, hint) = match key_in {
        KeyIn::Credential => (
            SlotKind::Credential,
            SlotFields::new(),
            "give psi-secrets.service `LoadCredentialEncrypted=psi-cache-key:/etc/psi/cache.key` and restart it",
        ),
        KeyIn::Token(encrypted) => (
            SlotKind::Pkcs11,
            encrypted_key_fields(encrypted),
            "add `nitrokeyhsm:` under `providers:` in config.yaml, with the module and the key that the Python program used, then `systemctl restart psi-secrets.service`",
        ),
    };
    let sealed_by = match kind {
        SlotKind::Credential => "the credential psi-cache-key (tag 1, TPM)",
        _ => "a PKCS#11 token (tag 2, HSM)",
    };
    let what = format!("the cache of version 1 is sealed by {sealed_by}");
    let Some(protector) = protectors.iter().find(|p| p.kind() == kind) else {
        let what = format!("{what}, and nothing of that kind is configured");
        return Err(Error::new(Kind::Config, what).hint(hint));
    };
    match protector.unseal(&fields) {
        Ok(key) => Ok((std::slice::from_ref(protector), key)),
        Err(error) => {
            // Who has no credential yet needs to know where the Python program had it.
            let no_credential = kind == SlotKind::Credential && error.kind() == Kind::Unreachable;
            let hint = match error.next_step() {
                Some(next) if !no_credential => next.to_owned(),
                _ => hint.to_owned(),
            };
            Err(Error::new(error.kind(), what).because(error).hint(hint))
        }
    }
}

impl Cache {
    /// Takes the place of the file that has `contents`, which is kept beside it.
    fn take_the_place(&self, contents: Option<&Contents>) -> Result<CarriedOver> {
        let old_file = old_file(&self.path);
        keep(&self.path)?;
        self.save_carried(contents)
            .inspect_err(|_| file::restore(&self.path, &old_file))?;
        Ok(CarriedOver {
            values: contents.map(|c| c.entries.len()),
            old_file,
        })
    }

    /// The first save of what was carried over.
    fn save_carried(&self, contents: Option<&Contents>) -> Result<()> {
        let mut staging = Staging::default();
        for (key, value) in contents.iter().flat_map(|contents| &contents.entries) {
            staging.add(*key, value.expose())?;
        }
        let _writing = self.start_writing();
        let before = self.current();
        let mut draft = Draft::of(&before.table, staging)?;
        let places: Vec<u32> = draft.sources().map(|(place, _)| place).collect();
        draft.owners.carry(places);
        self.save(&before, draft)?;
        Ok(())
    }

    /// Whether any value was carried over and is nobody's.
    ///
    /// # Errors
    /// [`Kind::Damaged`] if the list of owners is not readable.
    pub fn has_carried(&self) -> Result<bool> {
        Ok(self.current().owners()?.has_carried())
    }

    /// Drops the values that were carried over, but those that one of `mapped` names. To be called
    /// once the providers have handed over everything. Returns how many were dropped.
    ///
    /// # Errors
    /// [`Kind::Io`] if it cannot be written; everything is then still there.
    pub fn settle_carried(&self, mapped: &[Mapping]) -> Result<usize> {
        let _writing = self.start_writing();
        let before = self.current();
        let place = |mapping| before.table.place(&self.keyer().entry_key(mapping));
        let claimed: BTreeSet<u32> = mapped.iter().filter_map(place).collect();
        let mut owners = before.owners()?;
        let owned = owners.owned().len();
        if !owners.settle_carried(&claimed) {
            return Ok(0);
        }
        let dropped = owned - owners.owned().len();
        self.save(&before, Draft::owned_by(&before.table, owners))?;
        Ok(dropped)
    }

    /// Removes the file that this cache was carried over from, once it is not needed: this cache
    /// was `reopened` from disk after a hand-over, or it is as old as it may get. Returns its path
    /// if it was there and is gone.
    ///
    /// # Errors
    /// [`Kind::Io`] if it can't be removed, [`Kind::Damaged`] if the list of owners is not readable.
    pub fn let_go_of_version_1(&self, reopened: bool) -> Result<Option<PathBuf>> {
        self.let_go_of_version_1_at(reopened, now())
    }

    fn let_go_of_version_1_at(&self, reopened: bool, now: u64) -> Result<Option<PathBuf>> {
        let Some(kept) = kept(&self.path)? else {
            return Ok(None);
        };
        let proved = reopened && self.current().owners()?.workloads().next().is_some();
        if !proved && now < kept.until {
            return Ok(None);
        }
        file::try_remove(&kept.path)?;
        Ok(Some(kept.path))
    }
}

/// A file of version 1 that was carried over.
#[derive(Debug)]
pub struct Kept {
    /// Where it is.
    pub path: PathBuf,
    /// In bytes.
    pub size: u64,
    /// When it goes at the latest, in seconds since 1970.
    pub until: u64,
}

/// The file that the cache at `path` was carried over from, while it is kept.
///
/// # Errors
/// [`Kind::Io`] if that can't be told.
pub fn kept(path: &Path) -> Result<Option<Kept>> {
    let path = old_file(path);
    let stat = file::stat(&path)?;
    Ok(stat.map(|stat| Kept {
        size: stat.size,
        // Nothing changes it but being given its second name.
        until: stat.changed.saturating_add(KEPT_FOR.as_secs()),
        path,
    }))
}

/// Gives the file at `path` its second name. One that a crash or an earlier migration left makes
/// room: what is carried over now is at least as new.
fn keep(path: &Path) -> Result<()> {
    let old = old_file(path);
    let (now, before) = (file::stat(path)?, file::stat(&old)?);
    let is_same = |a: &file::Found, b: &file::Found| a.identity == b.identity;
    if now.zip(before).is_some_and(|(a, b)| is_same(&a, &b)) {
        return Ok(());
    }
    file::try_remove(&old)?;
    file::keep_as(path, SUFFIX).map(|_| ())
}

fn old_file(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(SUFFIX);
    name.into()
}

#[cfg(test)]
mod tests;
