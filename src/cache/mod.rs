//! The sealed cache: values on disk, opened once at start, answered from memory.
//!
//! The file and its key have one owner at a time, the holder of [`lock`]'s. It knows neither
//! where values come from nor who asks for them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::error::{Error, Kind, Result};
use crate::lock::Lock;
use crate::protector::{Key, Protector};

mod draft;
pub mod envelope;
mod file;
mod hand_over;
mod local;
mod opening;
mod owners;
mod retired;
mod slots;
mod staging;
mod table;
pub mod v1;

pub use envelope::{Header, Keyslot};
pub use hand_over::Offer;
pub use local::{MAX_LOCAL, check_local, no_place_for_local};
pub use opening::{Attempt, Opening, Outline, Unopened, outline, try_slots};
pub use owners::Owners;
pub use slots::{Anew, no_such_slot};
pub use table::{EntryKey, Extent, Keyer, Table};

use draft::Draft;
use staging::Staging;

/// The lock's file in the state directory.
const LOCK: &str = ".lock";

/// An opened cache. Lookups and commits may come from any thread.
pub struct Cache {
    path: PathBuf,
    keyer: Keyer,
    current: RwLock<Arc<Saved>>,
    writing: Mutex<()>,
}

/// What is on disk and served: always the same.
pub struct Saved {
    /// What the file says of itself.
    pub header: Header,
    /// Its contents.
    pub table: Table,
    data_key: Arc<Key>,
}

impl Cache {
    /// Starts an empty cache at `path`. A file that is there already is put aside, as
    /// `cache.enc.replaced-<time>`, and only if `force` is given; its new path is returned.
    ///
    /// # Errors
    /// [`Kind::Refused`] if there is one and no `force`, and as [`Cache::create`]. Everything is
    /// then as it was.
    pub fn init(
        path: &Path,
        protectors: &[Box<dyn Protector>],
        force: bool,
    ) -> Result<(Self, Option<PathBuf>)> {
        if !file::exists(path)? {
            return Ok((Self::create(path, protectors)?, None));
        }
        if !force {
            let what = format!("{} exists already", path.display());
            return Err(Error::new(Kind::Refused, what).hint(
                "`psi-cachectl status` describes it; `--force` puts it aside and starts anew",
            ));
        }
        let create = || Self::create(path, protectors);
        let (cache, aside) = keeping_old(path, "replaced", create)?;
        Ok((cache, Some(aside)))
    }

    /// Starts an empty cache with one slot per protector, and saves it at `path`.
    ///
    /// # Errors
    /// What a protector says, or [`Kind::Io`] if it cannot be written.
    pub fn create(path: &Path, protectors: &[Box<dyn Protector>]) -> Result<Self> {
        let cache = Self::unsaved(path, protectors)?;
        let before = cache.current();
        cache.save(&before, Draft::of(&before.table, Staging::default())?)?;
        Ok(cache)
    }

    /// An empty cache that the first [`Cache::commit`] puts on disk: one that is refused leaves
    /// no file behind.
    ///
    /// # Errors
    /// What a protector says.
    pub fn unsaved(path: &Path, protectors: &[Box<dyn Protector>]) -> Result<Self> {
        Self::keyed(path, protectors, &Key::generate()?)
    }

    /// The same, with entries that are named under `hmac_key`.
    ///
    /// # Errors
    /// What a protector says.
    pub fn keyed(path: &Path, protectors: &[Box<dyn Protector>], hmac_key: &Key) -> Result<Self> {
        let data_key = Key::generate()?;
        let mut header = Header {
            key_id: random_key_id()?,
            generation: 0,
            written_at: 0,
            entries: 0,
            local: 0,
            slots: Vec::new(),
            next_slot: 1,
        };
        for (id, protector) in (1..).zip(protectors) {
            let slot = slots::seal(&header.key_id, id, "", protector.as_ref(), &data_key)?;
            header.slots.push(slot);
            header.next_slot = id + 1;
        }
        let table = Table::build(hmac_key.expose(), std::iter::empty())?;
        Self::from_parts(path, data_key, header, table)
    }

    fn from_parts(path: &Path, data_key: Key, header: Header, table: Table) -> Result<Self> {
        let hmac_key = Key::from_bytes(table.hmac_key())
            .ok_or_else(|| Error::new(Kind::Internal, "the cache's HMAC key is not 32 bytes"))?;
        let saved = Saved {
            header,
            table,
            data_key: Arc::new(data_key),
        };
        Ok(Self {
            path: path.to_owned(),
            keyer: Keyer::new(&hmac_key),
            current: RwLock::new(Arc::new(saved)),
            writing: Mutex::new(()),
        })
    }

    /// What is on disk and served now. It stays valid, and unchanged, while it is held.
    pub fn current(&self) -> Arc<Saved> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&current)
    }

    /// What names this cache's entries.
    pub fn keyer(&self) -> &Keyer {
        &self.keyer
    }

    /// Drops one value, on disk and in memory. Says whether there was one.
    ///
    /// # Errors
    /// [`Kind::Refused`] for a local value, which is its only copy, [`Kind::Io`] if it cannot be
    /// written; the value is then still there.
    pub fn invalidate(&self, key: &EntryKey) -> Result<bool> {
        let _writing = self.start_writing();
        let before = self.current();
        let Some(place) = before.table.place(key) else {
            return Ok(false);
        };
        let mut owners = before.owners()?;
        local::keep(&owners, place)?;
        owners.forget(place);
        self.save(&before, Draft::owned_by(&before.table, owners))?;
        Ok(true)
    }

    /// Reads the file again and authenticates all of it, as a start would. One that is not what was
    /// saved is written anew from memory, which has everything.
    ///
    /// # Errors
    /// [`Kind::Damaged`] if it was gone or not what was saved, with what became of it; [`Kind::Io`]
    /// if it cannot be read.
    pub fn verify(&self) -> Result<Header> {
        let _writing = self.start_writing();
        let current = self.current();
        self.check_file(&current)
            .map_err(|error| match error.kind() {
                Kind::Damaged => self.mend(&current, error),
                _ => error,
            })
    }

    fn mend(&self, current: &Arc<Saved>, damage: Error) -> Error {
        let what = |outcome: &str| Error::new(Kind::Damaged, format!("{damage}; {outcome}"));
        let again = Saved {
            header: current.header.clone(),
            table: current.table.copy(),
            data_key: Arc::clone(&current.data_key),
        };
        match self.replace(current, again) {
            Ok(_) => what("it was written anew from memory, which has everything")
                .hint("look for the reason: `journalctl -k` shows trouble with the disk"),
            Err(error) => what("memory has everything, but it could not be written").because(error).hint(
                "do not stop psi-serve: mend the disk first, then `psi-cachectl status --verify` writes the file anew",
            ),
        }
    }

    fn check_file(&self, current: &Saved) -> Result<Header> {
        let bytes = file::read(&self.path)?
            .ok_or_else(|| envelope::damaged(&format!("{} is gone", self.path.display())))?;
        let (header, _) = envelope::open(bytes, &current.data_key)?;
        if header.generation != current.header.generation {
            return Err(envelope::damaged("it is not the one that was saved last"));
        }
        Ok(header)
    }

    fn start_writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Saves `draft` in the place of `before`, which it was made of, and serves it once it is on
    /// disk. The new generation is returned.
    fn save(&self, before: &Arc<Saved>, draft: Draft<'_>) -> Result<u64> {
        let local = draft.owners.by_hand() as u64;
        let table = draft.build()?;
        let new = Saved {
            header: Header {
                // All but the list of owners.
                entries: table.len() as u64 - 1,
                local,
                ..before.header.clone()
            },
            table,
            data_key: Arc::clone(&before.data_key),
        };
        self.replace(before, new)
    }

    /// Puts `new` in the place of `before`: on disk as the next generation, and served once it is
    /// there.
    ///
    /// # Errors
    /// [`Kind::Io`]; what was there before is then still there.
    fn replace(&self, before: &Arc<Saved>, mut new: Saved) -> Result<u64> {
        new.header.generation += 1;
        new.header.written_at = now();
        let generation = new.header.generation;
        envelope::seal(&new.header, &new.data_key, &mut new.table, |parts| {
            file::replace(&self.path, parts)
        })?;
        file::make_durable(&self.path).inspect_err(|_| self.take_back())?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
        await_readers(before);
        Ok(generation)
    }

    /// Puts what is served back in the place of what may not outlive a power cut. A disk that
    /// refuses this as well has said so already.
    fn take_back(&self) {
        let before = self.current();
        if before.header.generation == 0 {
            return file::remove(&self.path);
        }
        let mut table = before.table.copy();
        let _ = envelope::seal(&before.header, &before.data_key, &mut table, |parts| {
            file::replace(&self.path, parts)
        });
    }
}

/// Waits until nobody but us has `old`. Whoever drops it last wipes what may be many megabytes: a
/// writer, who has the time, and no lookup, unless its caller is very slow to read.
fn await_readers(old: &Arc<Saved>) {
    let patience = Instant::now() + Duration::from_secs(1);
    while Arc::strong_count(old) > 1 && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Has `make` put a new file in the place of the one at `path`, which stays as
/// `<path>.<why>-<time>`; that path is returned too.
///
/// # Errors
/// [`Kind::Io`] if the old file can't be kept, and what `make` says. Everything is then as it was.
pub fn keeping_old<T>(
    path: &Path,
    why: &str,
    make: impl FnOnce() -> Result<T>,
) -> Result<(T, PathBuf)> {
    // A second name, not a rename: at no moment is there no cache.
    let aside = file::keep_as(path, &format!("{why}-{}", now()))?;
    match make() {
        Ok(made) => Ok((made, aside)),
        Err(error) => {
            file::restore(path, &aside);
            Err(error)
        }
    }
}

/// Takes the lock that makes this process the owner of the cache, waiting up to `patience` for
/// whoever has it: psi-serve holds it for life, psi-cachectl for one operation.
///
/// # Errors
/// As [`Lock::acquire`].
pub fn lock(state_dir: &Path, patience: Duration) -> Result<Lock> {
    let holder = "psi-serve holds it while it runs: `systemctl status psi-secrets.service`";
    Lock::acquire(&state_dir.join(LOCK), patience, holder)
}

/// Whether another process owns the cache now.
///
/// # Errors
/// As [`Lock::is_held`].
pub fn is_owned(state_dir: &Path) -> Result<bool> {
    Lock::is_held(&state_dir.join(LOCK))
}

fn random_key_id() -> Result<String> {
    let bytes = Key::generate()?;
    Ok(bytes.expose()[..8]
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect())
}

fn now() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    since_1970.map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests;
