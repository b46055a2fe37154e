//! What opens a cache, changed: a slot added, removed, or sealed anew.
//!
//! Each change is one save, encrypted from memory: a crash or a full disk leaves the old slots.

use std::sync::Arc;

use crate::cache::envelope::{Header, Keyslot, NewSlot};
use crate::cache::opening::{Attempt, slot_key};
use crate::cache::{Cache, Saved, now, random_key_id};
use crate::error::{Error, Kind, Result};
use crate::protector::{Key, Protector, SlotFields, SlotKind};

/// Longest label, in bytes.
const MAX_LABEL: usize = 64;

/// A slot with what is to seal it anew.
pub type Anew = (u32, Box<dyn Protector>);

impl Cache {
    /// Adds a slot that `protector` seals. The contents and the other slots stay; the new slot's
    /// number is returned.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a label that is none; what the protector says; [`Kind::Io`] if it can't
    /// be written. The slots are then the old ones.
    pub fn add_slot(&self, protector: &dyn Protector, label: &str) -> Result<u32> {
        check_label(label)?;
        let _writing = self.start_writing();
        let before = self.current();
        let mut header = before.header.clone();
        let id = next_slot(&header);
        header.next_slot = id
            .checked_add(1)
            .ok_or_else(|| Error::new(Kind::Refused, "there is no number for another slot"))?;
        let slot = seal(&header.key_id, id, label, protector, &before.data_key)?;
        header.slots.push(slot);
        self.replace(&before, with_header(&before, header))?;
        Ok(id)
    }

    /// Gives slots new keys, those that can be sealed now: how it went is returned for each. The
    /// contents and all other slots stay. If none can be sealed, nothing is written.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is no such slot, [`Kind::Io`] if it can't be written. The slots
    /// are then the old ones.
    pub fn reseal_slots(&self, anew: &[Anew]) -> Result<Vec<Attempt>> {
        let _writing = self.start_writing();
        let before = self.current();
        let mut header = before.header.clone();
        let key_id = header.key_id.clone();
        let mut attempts = Vec::new();
        for (id, protector) in anew {
            let slot = find(&mut header.slots, *id)?;
            let (sealed, attempt) = Attempt::run(slot, || {
                let label = &slot.label;
                seal(&key_id, *id, label, protector.as_ref(), &before.data_key)
            });
            if let Some(sealed) = sealed {
                *slot = sealed;
            }
            attempts.push(attempt);
        }
        if attempts.iter().any(|a| a.failure.is_none()) {
            self.replace(&before, with_header(&before, header))?;
        }
        Ok(attempts)
    }

    /// Removes slots and encrypts everything under a new data key, which whoever has a removed
    /// slot's key and an old copy of the file does not have. The other slots keep their keys,
    /// which `protectors` give; those in `anew` get new ones.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is no such slot; [`Kind::Refused`] if none would stay or if one
    /// that stays does not open now; [`Kind::Io`] if it can't be written. The slots are then the
    /// old ones.
    pub fn remove_slots(
        &self,
        ids: &[u32],
        protectors: &[Box<dyn Protector>],
        anew: &[Anew],
    ) -> Result<()> {
        let _writing = self.start_writing();
        let before = self.current();
        let mut header = before.header.clone();
        for id in ids {
            find(&mut header.slots, *id)?;
        }
        header.next_slot = next_slot(&header);
        header.slots.retain(|slot| !ids.contains(&slot.id));
        if header.slots.is_empty() {
            let what = "nothing was removed: no slot would stay, and nothing would open the cache";
            return Err(Error::new(Kind::Refused, what)
                .hint("`psi-cachectl slots add` makes another one first"));
        }
        let old_key_id = std::mem::replace(&mut header.key_id, random_key_id()?);
        let data_key = Key::generate()?;
        let staying = header.slots.len();
        for slot in &mut header.slots {
            let protector = anew.iter().find(|(id, _)| *id == slot.id);
            *slot = match protector {
                Some((id, p)) => seal(&header.key_id, *id, &slot.label, p.as_ref(), &data_key)?,
                None => {
                    let slot_key = slot_key(slot, protectors)
                        .and_then(|key| slot.unwrap(&old_key_id, &key).map(|_| key))
                        .map_err(|e| has_to_open(slot, ids, staying, e))?;
                    Keyslot::wrap(same(slot, &header.key_id), &slot_key, &data_key)?
                }
            };
        }
        let new = Saved {
            header,
            table: before.table.copy(),
            data_key: Arc::new(data_key),
        };
        self.replace(&before, new)?;
        Ok(())
    }
}

impl Cache {
    /// Sees to it that every slot opens now.
    ///
    /// # Errors
    /// What the first that does not says.
    pub(super) fn check_slots(&self, protectors: &[Box<dyn Protector>]) -> Result<()> {
        let current = self.current();
        for slot in &current.header.slots {
            let Keyslot { id, kind, .. } = slot;
            slot_key(slot, protectors)
                .and_then(|key| slot.unwrap(&current.header.key_id, &key))
                .map_err(|e| e.during(format!("the new slot {id} ({kind}) does not open")))?;
        }
        Ok(())
    }
}

/// A slot that `protector` seals: a new key, and `data_key` wrapped under it.
pub(super) fn seal(
    key_id: &str,
    id: u32,
    label: &str,
    protector: &dyn Protector,
    data_key: &Key,
) -> Result<Keyslot> {
    let (slot_key, fields): (Key, SlotFields) = protector.seal()?;
    let slot = NewSlot {
        key_id,
        id,
        kind: protector.kind(),
        label,
        created_at: now(),
        fields,
    };
    Keyslot::wrap(slot, &slot_key, data_key)
}

/// The number of the next slot, which no slot had before.
fn next_slot(header: &Header) -> u32 {
    let ids = header.slots.iter().map(|slot| slot.id);
    let above = ids.max().unwrap_or(0).saturating_add(1);
    header.next_slot.max(above)
}

fn same<'a>(slot: &'a Keyslot, key_id: &'a str) -> NewSlot<'a> {
    NewSlot {
        key_id,
        id: slot.id,
        kind: slot.kind,
        label: &slot.label,
        created_at: slot.created_at,
        fields: slot.fields.clone(),
    }
}

fn with_header(before: &Saved, header: Header) -> Saved {
    Saved {
        header,
        table: before.table.copy(),
        data_key: Arc::clone(&before.data_key),
    }
}

fn find(slots: &mut [Keyslot], id: u32) -> Result<&mut Keyslot> {
    let slot = slots.iter_mut().find(|slot| slot.id == id);
    slot.ok_or_else(|| no_such_slot(id))
}

/// There is no slot `id`.
pub fn no_such_slot(id: u32) -> Error {
    Error::new(Kind::NotFound, format!("the cache has no slot {id}"))
        .hint("`psi-cachectl slots list` shows which there are; nothing was changed")
}

/// Every slot that stays gets a new data key; one that does not open now could only be sealed to
/// what runs now, which is for a person to decide. So many are `staying` once `ids` are gone.
fn has_to_open(slot: &Keyslot, ids: &[u32], staying: usize, error: Error) -> Error {
    let Keyslot { id, kind, .. } = slot;
    let repair = match kind {
        SlotKind::Credential => {
            "have the key delivered (`systemctl restart psi-secrets.service`)".to_owned()
        }
        _ => format!("`psi-cachectl slots reseal {id}` if its device is as it should be"),
    };
    let ids: Vec<String> = ids.iter().chain([id]).map(u32::to_string).collect();
    let first = match staying {
        1 => "add a slot with `psi-cachectl slots add`, then ",
        _ => "",
    };
    let what = format!("nothing was removed: slot {id} ({kind}), which stays, does not open now");
    Error::new(Kind::Refused, what).because(error).hint(format!(
        "{repair}; or {first}remove it as well: `psi-cachectl slots remove {}`",
        ids.join(" ")
    ))
}

fn check_label(label: &str) -> Result<()> {
    if label.len() <= MAX_LABEL && !label.chars().any(char::is_control) {
        return Ok(());
    }
    let what = format!("a label has at most {MAX_LABEL} bytes and no control characters");
    Err(Error::new(Kind::Usage, what).hint("choose a shorter one; nothing was changed"))
}
