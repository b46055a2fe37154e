//! A cache made, and what opens it changed: by psi-serve for who asks, or by psi-cachectl itself
//! under the lock.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::cache::v1::{self, CarriedOver};
use crate::cache::{self, Anew, Attempt, Cache, Header, Keyslot};
use crate::error::{Error, Kind, Result};
use crate::protector::{
    Binding, Devices, Hsm, Key, NewCredential, Protector, Recovery, RecoveryKey, SlotKind,
    token_serial,
};
use crate::wire::{
    AddSlot, Attempted, Init, Initialised, NewRecoveryKey, RecoveryText, ResealSlots, SlotChange,
    SlotKey, Slots, SlotsChanged, Verified,
};

/// Starts an empty cache at `path`, as [`Cache::init`].
///
/// # Errors
/// As [`Cache::init`], and [`Kind::Config`] for a kind of slot that this version can't make.
pub fn init(path: &Path, devices: &Devices, asked: &Init) -> Result<(Cache, Initialised)> {
    let recovery = asked.recovery.then(NewRecovery::make).transpose()?;
    let protectors = first_slots(devices, asked, recovery.as_ref())?;
    let (cache, replaced) = Cache::init(path, &protectors, asked.force)?;
    let header = &cache.current().header;
    let last = header.slots.last().map_or(0, |slot| slot.id);
    let made = Initialised {
        cache: Verified::from(header),
        replaced: replaced.map(|path| path.display().to_string()),
        recovery_key: recovery.map(|key| key.told(last)),
    };
    Ok((cache, made))
}

/// Carries over the cache of version 1 at `path`, which the credential `key` opens, into one with
/// the slots that [`init`] would make.
///
/// # Errors
/// As [`v1::adopt`], and [`Kind::Config`] for a kind of slot that this version can't make.
pub fn adopt(
    path: &Path,
    devices: &Devices,
    key: impl FnOnce() -> Result<Key>,
    asked: &Init,
) -> Result<(CarriedOver, Option<NewRecoveryKey>)> {
    let recovery = asked.recovery.then(NewRecovery::make).transpose()?;
    let protectors = first_slots(devices, asked, recovery.as_ref())?;
    let carried_over = v1::adopt(path, key, &protectors)?;
    // Slots are numbered from 1, the recovery slot last.
    let last = u32::try_from(protectors.len()).unwrap_or_default();
    Ok((carried_over, recovery.map(|key| key.told(last))))
}

fn first_slots(
    devices: &Devices,
    asked: &Init,
    recovery: Option<&NewRecovery>,
) -> Result<Vec<Box<dyn Protector>>> {
    let mut protectors = vec![match asked.kind {
        None => devices.to_create(),
        Some(kind) => devices.of_kind(kind, asked.pcrs.as_deref(), asked.force)?,
    }];
    protectors.extend(recovery.map(NewRecovery::protector));
    Ok(protectors)
}

/// Does what `asked` says to the opened cache at `path`, in one save.
///
/// # Errors
/// Why it was not done; the slots are then the old ones.
pub fn change(
    cache: &Cache,
    path: &Path,
    devices: &Devices,
    asked: &Slots,
) -> Result<SlotsChanged> {
    let job = Job {
        cache,
        path,
        devices,
        recovery: entered(asked),
    };
    match &asked.change {
        SlotChange::Add(slot) => job.add(slot),
        SlotChange::Remove { ids } => job.remove(ids),
        SlotChange::Reseal(slots) => job.reseal(slots),
        SlotChange::Test => test(path, devices, asked),
    }
}

/// Tries every slot of the file at `path`, opened or not. Nothing is changed.
///
/// # Errors
/// [`Kind::NotFound`] if there is no file, else as [`cache::try_slots`].
pub fn test(path: &Path, devices: &Devices, asked: &Slots) -> Result<SlotsChanged> {
    let attempts = try_slots(path, devices, entered(asked))?;
    let mut attempts: Vec<Attempted> = attempts.iter().map(Attempted::from).collect();
    let is_recovery = |a: &Attempted| a.kind == SlotKind::Recovery;
    if attempts
        .iter()
        .any(|a| is_recovery(a) && a.failure.is_none())
    {
        // Each recovery slot has a key of its own, and one was entered.
        let others = attempts.iter_mut().filter(|a| a.failure.is_some());
        others
            .filter(|a| is_recovery(a))
            .for_each(|a| a.tried = false);
    }
    Ok(SlotsChanged {
        attempts,
        ..SlotsChanged::default()
    })
}

/// A slot that was closed to the boot that runs now, and how its sealing to it went.
pub struct Blessed {
    /// How it went.
    pub attempt: Attempt,
    /// What it is bound to.
    pub binding: Binding,
}

/// Seals those of the slots `closed` to the boot that runs now that are closed for no other reason
/// than that it is another one: not for damage, another TPM, or one that does not answer.
///
/// # Errors
/// [`Kind::Io`] if it can't be written. The slots are then the old ones.
pub fn bless_boot(cache: &Cache, devices: &Devices, closed: &[u32]) -> Result<Vec<Blessed>> {
    let mut anew: Vec<Anew> = Vec::new();
    let mut bindings = Vec::new();
    for slot in &cache.current().header.slots {
        let is_closed = slot.kind == SlotKind::Tpm2 && closed.contains(&slot.id);
        let Some(binding) = Binding::of(&slot.fields).filter(|_| is_closed) else {
            continue;
        };
        let tpm = devices.tpm2(Some(&binding.pcrs), false);
        if tpm.has_drifted(&slot.fields).unwrap_or(false) {
            anew.push((slot.id, Box::new(tpm)));
            bindings.push(binding);
        }
    }
    let attempts = cache.reseal_slots(&anew)?.into_iter();
    Ok(attempts
        .zip(bindings)
        .map(|(attempt, binding)| Blessed { attempt, binding })
        .collect())
}

/// The recovery key that came with the request, to open slots with.
pub fn entered(asked: &Slots) -> Recovery {
    match &asked.recovery {
        Some(RecoveryText(key)) => Recovery::entered(Arc::clone(key)),
        None => Recovery::not_entered(),
    }
}

/// `error` ended a change after slot `opened_by` had opened a cache that was closed; `so` says what
/// that is worth.
pub fn opened_nonetheless(opened_by: &Attempted, so: &str, error: Error) -> Error {
    let what = format!("{} opened the cache{so}, but then", opened_by.name());
    let hint = error.next_step().unwrap_or("see `psi-cachectl slots test`");
    let hint = hint.to_owned();
    Error::new(Kind::Unreachable, what)
        .because(error)
        .hint(hint)
}

fn try_slots(path: &Path, devices: &Devices, recovery: Recovery) -> Result<Vec<Attempt>> {
    let protectors = devices.to_open(recovery);
    cache::try_slots(path, &protectors)?.ok_or_else(|| no_file(path))
}

/// systemd delivers one key, so a second slot would open with the first one's.
///
/// # Errors
/// [`Kind::Refused`] if there is a slot of kind `credential`.
pub fn refuse_second_credential(header: &Header) -> Result<()> {
    let mut slots = header.slots.iter();
    let Some(slot) = slots.find(|slot| slot.kind == SlotKind::Credential) else {
        return Ok(());
    };
    let what = format!("slot {} is a credential already", slot.id);
    Err(Error::new(Kind::Refused, what).hint(format!(
        "`psi-cachectl slots reseal {}` gives it the key that systemd delivers now",
        slot.id
    )))
}

/// There is nothing to change.
pub fn no_file(path: &Path) -> Error {
    Error::new(Kind::NotFound, format!("there is no {}", path.display()))
        .hint("`psi-cachectl init --backend tpm` makes one, or the first run of psi-setup")
}

struct Job<'a> {
    cache: &'a Cache,
    path: &'a Path,
    devices: &'a Devices,
    recovery: Recovery,
}

impl Job<'_> {
    fn add(&self, asked: &AddSlot) -> Result<SlotsChanged> {
        let start = Instant::now();
        let mut recovery = None;
        let protector = match asked.kind {
            SlotKind::Recovery => recovery.insert(NewRecovery::make()?).protector(),
            SlotKind::Credential => {
                refuse_second_credential(&self.cache.current().header)?;
                self.credential(asked.slot_key.as_ref())
            }
            SlotKind::Pkcs11 => Box::new(self.devices.hsm(asked.token.as_deref())),
            kind => self
                .devices
                .of_kind(kind, asked.pcrs.as_deref(), asked.force)?,
        };
        let slot = self.cache.add_slot(protector.as_ref(), &asked.label)?;
        let attempt = Attempt {
            slot,
            kind: asked.kind,
            took: start.elapsed(),
            failure: None,
        };
        Ok(SlotsChanged {
            attempts: vec![Attempted::from(&attempt)],
            recovery_keys: recovery.map(|key| key.told(slot)).into_iter().collect(),
            ..SlotsChanged::default()
        })
    }

    fn remove(&self, ids: &[u32]) -> Result<SlotsChanged> {
        let current = self.cache.current();
        let slots = current.header.slots.iter();
        let mut stay = slots.filter(|slot| !ids.contains(&slot.id));
        let recovery = new_recovery_keys(&mut stay)?;
        let protectors = self.devices.to_open(self.recovery.clone());
        let anew: Vec<Anew> = recovery
            .iter()
            .map(|(slot, key)| (*slot, key.protector()))
            .collect();
        self.cache.remove_slots(ids, &protectors, &anew)?;
        Ok(SlotsChanged {
            recovery_keys: recovery
                .into_iter()
                .map(|(slot, key)| key.told(slot))
                .collect(),
            ..SlotsChanged::default()
        })
    }

    fn reseal(&self, asked: &ResealSlots) -> Result<SlotsChanged> {
        let slots = self.to_reseal(asked.id)?;
        let recovery = new_recovery_keys(&mut slots.iter())?;
        let mut anew: Vec<Anew> = Vec::new();
        for slot in &slots {
            let new_key = recovery.iter().find(|(id, _)| *id == slot.id);
            let protector = match (slot.kind, new_key) {
                (_, Some((_, key))) => key.protector(),
                (SlotKind::Credential, _) => self.credential(asked.slot_key.as_ref()),
                (SlotKind::Pkcs11, _) => Box::new(self.token_of(slot, asked)),
                (kind, _) => {
                    let pcrs = asked.pcrs.clone().or_else(|| own_pcrs(slot));
                    self.devices.of_kind(kind, pcrs.as_deref(), asked.force)?
                }
            };
            anew.push((slot.id, protector));
        }
        let mut attempts = self.cache.reseal_slots(&anew)?;
        if !attempts.is_empty() && attempts.iter().all(|a| a.failure.is_some()) {
            let first = attempts.swap_remove(0);
            let what = format!("{} was not sealed anew", first.name());
            return Err(match first.failure {
                Some(error) => error.during(what),
                None => Error::new(Kind::Internal, what),
            });
        }
        Ok(SlotsChanged {
            attempts: attempts.iter().map(Attempted::from).collect(),
            recovery_keys: recovery
                .into_iter()
                .map(|(slot, key)| key.told(slot))
                .collect(),
            ..SlotsChanged::default()
        })
    }

    /// The slot `id`, or those that do not open now; a recovery key waits to be entered and is
    /// none of those.
    fn to_reseal(&self, id: Option<u32>) -> Result<Vec<Keyslot>> {
        let current = self.cache.current();
        let slots = || current.header.slots.iter();
        if let Some(id) = id {
            let slot = slots().find(|slot| slot.id == id);
            return Ok(vec![slot.ok_or_else(|| cache::no_such_slot(id))?.clone()]);
        }
        let attempts = try_slots(self.path, self.devices, self.recovery.clone())?;
        let is_closed = |slot: &&Keyslot| {
            let mut closed = attempts.iter().filter(|a| a.failure.is_some());
            slot.kind != SlotKind::Recovery && closed.any(|a| a.slot == slot.id)
        };
        Ok(slots().filter(is_closed).cloned().collect())
    }

    /// A slot stays with its token. Only one that was named may go to another that has taken its
    /// place: else two slots would end up with the token that is there.
    fn token_of(&self, slot: &Keyslot, asked: &ResealSlots) -> Hsm {
        match (&asked.token, token_serial(&slot.fields)) {
            (Some(serial), _) => self.devices.hsm(Some(serial)),
            (None, Some(serial)) if asked.id.is_none() => self.devices.hsm(Some(serial)),
            (None, _) => self.devices.hsm(None).preferring(&slot.fields),
        }
    }

    fn credential(&self, given: Option<&SlotKey>) -> Box<dyn Protector> {
        match given {
            Some(SlotKey(key)) => Box::new(NewCredential(key.copy())),
            None => Box::new(self.devices.credential.clone()),
        }
    }
}

fn own_pcrs(slot: &Keyslot) -> Option<Vec<u8>> {
    Binding::of(&slot.fields).map(|binding| binding.pcrs)
}

/// A recovery key that was made just now.
struct NewRecovery(Arc<RecoveryKey>);

impl NewRecovery {
    fn make() -> Result<Self> {
        Ok(Self(Arc::new(RecoveryKey::generate()?)))
    }

    fn protector(&self) -> Box<dyn Protector> {
        Box::new(Recovery::entered(Arc::clone(&self.0)))
    }

    fn told(self, slot: u32) -> NewRecoveryKey {
        let key = RecoveryText(self.0);
        NewRecoveryKey { slot, key }
    }
}

/// A new key for each recovery slot of these.
fn new_recovery_keys<'a>(
    slots: &mut impl Iterator<Item = &'a Keyslot>,
) -> Result<Vec<(u32, NewRecovery)>> {
    slots
        .filter(|slot| slot.kind == SlotKind::Recovery)
        .map(|slot| Ok((slot.id, NewRecovery::make()?)))
        .collect()
}
