//! Opening a cache file: which slots were tried, and what may be done if none opens.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cache::envelope::{self, Header, Keyslot};
use crate::cache::{Cache, file, v1};
use crate::error::{Error, Kind, Result};
use crate::locked::Locked;
use crate::protector::{Key, Protector, SlotKind};

/// One try to open or to seal one slot.
#[derive(Debug)]
pub struct Attempt {
    /// The slot's number.
    pub slot: u32,
    /// The slot's kind.
    pub kind: SlotKind,
    /// How long it took.
    pub took: Duration,
    /// Why it did not work; nothing if it did.
    pub failure: Option<Error>,
}

impl Attempt {
    /// Runs `work` on `slot`.
    pub(super) fn run<T>(slot: &Keyslot, work: impl FnOnce() -> Result<T>) -> (Option<T>, Self) {
        let start = Instant::now();
        let outcome = work();
        let took = start.elapsed();
        let (done, failure) = match outcome {
            Ok(done) => (Some(done), None),
            Err(error) => (None, Some(error)),
        };
        let attempt = Self {
            slot: slot.id,
            kind: slot.kind,
            took,
            failure,
        };
        (done, attempt)
    }

    /// Whether there was anything to try it with: a recovery slot waits for somebody to enter its
    /// key.
    pub fn was_made(&self) -> bool {
        let failed = self.failure.as_ref().map(Error::kind);
        self.kind != SlotKind::Recovery || failed != Some(Kind::Unreachable)
    }

    /// The slot as messages name it, e.g. `slot 1 (tpm2)`.
    pub fn name(&self) -> String {
        format!("slot {} ({})", self.slot, self.kind)
    }
}

/// What became of opening a cache file.
pub enum Opening {
    /// There is no file yet.
    Absent,
    /// It is open; the last attempt is the one that opened it.
    Opened(Arc<Cache>, Vec<Attempt>),
    /// It is intact as far as can be seen, but none of its slots opens.
    NoSlot(Unopened),
}

/// A cache file that no slot opens.
#[derive(Debug)]
pub struct Unopened {
    /// What it says of itself; nothing vouches for that.
    pub header: Header,
    /// Each slot, and why it does not open.
    pub attempts: Vec<Attempt>,
}

impl Unopened {
    /// Why none of the slots opens the cache, with the next step that leads out of it.
    pub fn error(&self) -> Error {
        self.error_and("")
    }

    /// The same, saying first what is to become of it, e.g. `; it is kept`.
    pub fn error_and(&self, prospect: &str) -> Error {
        let tried: Vec<String> = self
            .attempts
            .iter()
            .filter_map(|a| Some(format!("{}: {}", a.name(), a.failure.as_ref()?)))
            .collect();
        let what = match tried.is_empty() {
            true => format!("no slot opens the cache{prospect}; its header names none"),
            false => format!(
                "no slot opens the cache{prospect}; tried {}",
                tried.join("; ")
            ),
        };
        Error::new(Kind::Unreachable, what).hint(self.remedy())
    }

    fn remedy(&self) -> String {
        if self.attempts.iter().any(|a| !a.was_made()) {
            return "enter the printed recovery key: `psi-cachectl slots reseal --recovery` serves \
                    the values at once and seals the other slots anew"
                .to_owned();
        }
        let mut refused = self.attempts.iter().filter(|a| a.failure.is_some());
        if refused.any(|a| a.kind == SlotKind::Recovery) {
            return "the recovery key that was entered is not that of its slot: `psi-cachectl slots \
                    list` shows when that one was made, and its key printed"
                .to_owned();
        }
        let failures = || self.attempts.iter().filter_map(|a| a.failure.as_ref());
        // What is absent may come back; what is denied or damaged stays so.
        let absent = failures().find(|e| !matches!(e.kind(), Kind::Denied | Kind::Damaged));
        if let Some(hint) = absent.and_then(Error::next_step) {
            return hint.to_owned();
        }
        let only_here = match self.header.local {
            0 => "`systemctl restart 'psi-*-setup.service'` fetches the values again".to_owned(),
            local => format!("{local} values that are kept nowhere else stay in the old file"),
        };
        let is_of_token = |slot: &Keyslot| slot.kind == SlotKind::Pkcs11;
        let backend = match self.header.slots.iter().any(is_of_token) {
            true => "hsm",
            false => "tpm",
        };
        format!(
            "undo what has changed and `systemctl restart psi-secrets.service`; or start anew with \
             `psi-cachectl init --backend {backend} --force`, which puts the file aside: {only_here}"
        )
    }

    /// Whether a new cache may take its place unasked: every slot that could be tried refused, and
    /// nothing is in it that could not be fetched again.
    ///
    /// # Errors
    /// [`Kind::Refused`] saying what speaks against it.
    pub fn may_be_recreated(&self) -> Result<()> {
        let refused = |why: String| Err(Error::new(Kind::Refused, why));
        if self.header.local > 0 {
            let local = self.header.local;
            return refused(format!(
                "it holds {local} values that are kept nowhere else"
            ));
        }
        let mut made = self.attempts.iter().filter(|a| a.was_made()).peekable();
        if made.peek().is_none() {
            return refused("none of its slots could be tried".to_owned());
        }
        let denied = |a: &Attempt| a.failure.as_ref().is_some_and(|e| e.kind() == Kind::Denied);
        match made.find(|attempt| !denied(attempt)) {
            Some(other) => refused(format!("{} may open it again", other.name())),
            None => Ok(()),
        }
    }
}

/// What a cache file says of itself. Nothing vouches for it until the file was opened.
#[derive(Debug)]
pub struct Outline {
    /// In bytes.
    pub size: u64,
    /// The format's version, if the file begins as a cache does.
    pub version: Option<u8>,
    /// What seals it, if it has version 1.
    pub sealed_by: Option<v1::Sealed>,
    /// The header, or why it can't be read.
    pub header: Result<Header>,
}

/// What the file at `path` says of itself, from its first bytes and without a device; nothing if
/// there is none.
///
/// # Errors
/// [`Kind::Io`] if it cannot be read.
pub fn outline(path: &Path) -> Result<Option<Outline>> {
    let start = file::read_start(path, envelope::MAX_START)?;
    Ok(start.map(|(bytes, size)| Outline {
        size,
        version: envelope::version(&bytes),
        sealed_by: v1::Sealed::of(&bytes),
        header: envelope::read_header(&bytes),
    }))
}

impl Cache {
    /// Opens the file at `path` with the first slot that gives its key.
    ///
    /// # Errors
    /// [`Kind::Io`] if it cannot be read, [`Kind::Damaged`] if it is not what was saved.
    pub fn open(path: &Path, protectors: &[Box<dyn Protector>]) -> Result<Opening> {
        Self::open_watched(path, protectors, |_| {})
    }

    /// [`Cache::open`], which tells `tries` of each slot before that is tried.
    ///
    /// # Errors
    /// As [`Cache::open`].
    pub fn open_watched(
        path: &Path,
        protectors: &[Box<dyn Protector>],
        tries: impl Fn(&Keyslot),
    ) -> Result<Opening> {
        let Some(bytes) = file::read(path)? else {
            return Ok(Opening::Absent);
        };
        let header = envelope::read_header(&bytes)?;
        let mut attempts = Vec::new();
        let mut data_key = None;
        for slot in in_order(&header) {
            tries(slot);
            let (key, attempt) = Attempt::run(slot, || open_slot(&header, slot, protectors));
            attempts.push(attempt);
            data_key = key;
            if data_key.is_some() {
                break;
            }
        }
        let Some(data_key) = data_key else {
            return Ok(Opening::NoSlot(Unopened { header, attempts }));
        };
        let (header, table) = envelope::open(bytes, &data_key)?;
        table.owners()?;
        let cache = Self::from_parts(path, data_key, header, table)?;
        Ok(Opening::Opened(Arc::new(cache), attempts))
    }
}

/// Tries every slot of the file at `path`, each by itself; nothing if there is no file.
///
/// # Errors
/// [`Kind::Io`] if it cannot be read, [`Kind::Damaged`] if its header is not readable or if what a
/// slot opens is not what was saved.
pub fn try_slots(path: &Path, protectors: &[Box<dyn Protector>]) -> Result<Option<Vec<Attempt>>> {
    let Some(bytes) = file::read(path)? else {
        return Ok(None);
    };
    let header = envelope::read_header(&bytes)?;
    let mut attempts = Vec::new();
    for slot in in_order(&header) {
        let (key, attempt) = Attempt::run(slot, || open_slot(&header, slot, protectors));
        if let Some(key) = key {
            envelope::open(Locked::copy_of(&bytes), &key)?;
        }
        attempts.push(attempt);
    }
    Ok(Some(attempts))
}

/// The slots in the order of their kinds.
fn in_order(header: &Header) -> Vec<&Keyslot> {
    let mut slots: Vec<&Keyslot> = header.slots.iter().collect();
    slots.sort_by_key(|slot| (slot.kind, slot.id));
    slots
}

fn open_slot(header: &Header, slot: &Keyslot, protectors: &[Box<dyn Protector>]) -> Result<Key> {
    slot.unwrap(&header.key_id, &slot_key(slot, protectors)?)
}

/// What `slot` is wrapped under.
///
/// # Errors
/// [`Kind::Unreachable`] if none of `protectors` is of its kind, else what that one says.
pub(super) fn slot_key(slot: &Keyslot, protectors: &[Box<dyn Protector>]) -> Result<Key> {
    let protector = protectors.iter().find(|p| p.kind() == slot.kind);
    let protector = protector.ok_or_else(|| {
        let what = format!("nothing is configured for slots of kind {}", slot.kind);
        Error::new(Kind::Unreachable, what).hint("see `cache:` in config.yaml")
    })?;
    protector.unseal(&slot.fields)
}
