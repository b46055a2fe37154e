//! Values that were put by hand: the cache has their only copy.

use crate::cache::draft::Draft;
use crate::cache::owners::Owners;
use crate::cache::staging::Staging;
use crate::cache::{Cache, EntryKey, Saved};
use crate::error::{Error, Kind, Result};
use crate::wire::{PutLocal, RemovedLocal};

/// Largest local value, in bytes: the largest secret that Podman's own drivers keep
/// (its `secrets.go`).
pub const MAX_LOCAL: usize = 511_999;

impl Cache {
    /// Keeps `value` as the local value `key`, in the place of the one before. The answer means
    /// that it is on disk and served. No hand-over retires or drops it.
    ///
    /// # Errors
    /// As [`check_local`], and [`Kind::Io`] if it cannot be written; what was there before is then
    /// still there.
    pub fn put(&self, key: EntryKey, value: &[u8]) -> Result<PutLocal> {
        check_local(value)?;
        let _writing = self.start_writing();
        let before = self.current();
        let stored = !is_by_hand(&before, &key)? || before.table.get(&key) != Some(value);
        let generation = if stored {
            let mut staging = Staging::default();
            staging.add(key, value)?;
            let mut draft = Draft::of(&before.table, staging)?;
            if let Some(place) = draft.place(&key) {
                draft.owners.put_by_hand(place);
            }
            self.save(&before, draft)?
        } else {
            before.header.generation
        };
        Ok(PutLocal {
            stored,
            generation,
            slots: before.header.slots.len(),
        })
    }

    /// Removes the local value `key`, on disk and in memory. Says whether there was one.
    ///
    /// # Errors
    /// [`Kind::Io`] if it cannot be written; the value is then still there.
    pub fn remove_local(&self, key: &EntryKey) -> Result<RemovedLocal> {
        let _writing = self.start_writing();
        let before = self.current();
        let mut owners = before.owners()?;
        let place = before.table.place(key).filter(|p| owners.is_by_hand(*p));
        if let Some(place) = place {
            owners.forget(place);
            self.save(&before, Draft::owned_by(&before.table, owners))?;
        }
        Ok(RemovedLocal {
            removed: place.is_some(),
        })
    }
}

fn is_by_hand(saved: &Saved, key: &EntryKey) -> Result<bool> {
    let place = saved.table.place(key);
    let owners = saved.owners()?;
    Ok(place.is_some_and(|place| owners.is_by_hand(place)))
}

/// Whether `value` can be a local value at all.
///
/// # Errors
/// [`Kind::Refused`] if it is empty, which is a failed command in front of the pipe far more
/// often than it is meant, or larger than [`MAX_LOCAL`].
pub fn check_local(value: &[u8]) -> Result<()> {
    if value.is_empty() {
        let what = "an empty value is not kept: whatever was to print it has printed nothing";
        return Err(Error::new(Kind::Refused, what)
            .hint("look at the command in front of the pipe; nothing was changed"));
    }
    if value.len() > MAX_LOCAL {
        let what = format!("the value is larger than {MAX_LOCAL} bytes");
        return Err(Error::new(Kind::Refused, what)
            .hint("no secret of Podman's can be larger; nothing was changed"));
    }
    Ok(())
}

/// Lets everything be dropped but what was put by hand.
pub(super) fn keep(owners: &Owners, place: u32) -> Result<()> {
    if !owners.is_by_hand(place) {
        return Ok(());
    }
    let what = "it is a local value: the cache has its only copy, and no provider has it";
    Err(Error::new(Kind::Refused, what).hint(
        "`psi-cachectl put NAME` gives it another value, `psi-cachectl rm NAME` removes it for good",
    ))
}

/// Why a local value can't be kept where no cache is.
pub fn no_place_for_local() -> Error {
    let what = "no cache is kept, and local values are kept nowhere else";
    Error::new(Kind::Refused, what).hint(
        "set `cache.backend` in config.yaml, without `enabled: false`, then `systemctl restart psi-secrets.service`",
    )
}
