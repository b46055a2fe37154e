//! A cache made by command, and what opens it changed.

use std::sync::Arc;

use tracing::info;

use super::state::{State, already_open};
use super::{Sealed, blocking};
use crate::cache::Opening;
use crate::error::Result;
use crate::events;
use crate::protector::Recovery;
use crate::slots;
use crate::wire::{Attempted, Init, Initialised, SlotChange, Slots, SlotsChanged};

impl Sealed {
    /// Starts an empty cache. An existing file is put aside, as `cache.enc.replaced-<time>`, and
    /// only if that is asked for.
    ///
    /// # Errors
    /// [`Kind::Refused`] if a cache is open or a file is there and no `force`, or the cache is
    /// off; [`Kind::Unreachable`] if there is no key to seal it with; what [`Cache::create`] says.
    pub async fn init(&self, asked: Init) -> Result<Initialised> {
        let _turn = self.turn().await?;
        let devices = self.devices()?;
        if matches!(self.state(), State::Open(_)) && !asked.force {
            return Err(already_open(&self.path));
        }
        let (state, path) = (self.state(), self.path.clone());
        let (cache, made) = blocking(move || {
            if let State::Open(cache) = state {
                // What is put aside has to be whole: a damaged file is mended by the first try.
                cache.verify().or_else(|_| cache.verify())?;
            }
            let (cache, made) = slots::init(&path, &devices, &asked)?;
            info!("{} was created", path.display());
            if let Some(aside) = &made.replaced {
                info!("the old cache is now {aside}");
            }
            Ok((Arc::new(cache), made))
        })
        .await?;
        self.state.send_replace(State::Open(cache));
        Ok(made)
    }

    /// Changes what opens the cache, or tries it. A closed cache is tried again first, with the
    /// recovery key if one came along: what that opens is served, whatever becomes of the change.
    ///
    /// # Errors
    /// Why it was not done; the slots are then the old ones.
    pub async fn change_slots(&self, asked: Slots) -> Result<SlotsChanged> {
        let _turn = self.turn().await?;
        let devices = self.devices()?;
        let opened_by = self.open_with(slots::entered(&asked)).await?;
        let (state, path) = (self.state(), self.path.clone());
        let changed = blocking(move || {
            let changed = match &state {
                State::Open(cache) => slots::change(cache, &path, &devices, &asked)?,
                State::Closed(_) if matches!(asked.change, SlotChange::Test) => {
                    slots::test(&path, &devices, &asked)?
                }
                other => return Err(other.not_open()),
            };
            log_change(&asked.change, &changed);
            Ok(changed)
        })
        .await;
        match (changed, opened_by) {
            (Ok(changed), opened_by) => Ok(SlotsChanged {
                opened_by,
                ..changed
            }),
            (Err(error), Some(slot)) => Err(slots::opened_nonetheless(
                &slot,
                ", and it is served from now on",
                error,
            )),
            (Err(error), None) => Err(error),
        }
    }

    /// Opens a cache that is closed; the slot that did it is returned.
    async fn open_with(&self, recovery: Recovery) -> Result<Option<Attempted>> {
        let was_open = matches!(self.state(), State::Open(_));
        self.open_now().await;
        if matches!(self.state(), State::Closed(_)) && recovery.key.is_some() {
            match self.try_to_open(recovery).await {
                Ok(Opening::NoSlot(unopened)) => return Err(unopened.error()),
                opening => {
                    let state = self.outcome(opening);
                    self.state.send_replace(state);
                }
            }
        }
        let is_open = matches!(self.state(), State::Open(_));
        Ok(self.attempts().pop().filter(|_| is_open && !was_open))
    }
}

fn log_change(change: &SlotChange, changed: &SlotsChanged) {
    let done = match change {
        SlotChange::Test => return,
        SlotChange::Remove { ids } => {
            let gone = |id| info!("slot {id} was removed; the cache has a new data key");
            return ids.iter().for_each(gone);
        }
        SlotChange::Add(_) => "was added",
        SlotChange::Reseal(_) => "was sealed anew",
    };
    for attempt in &changed.attempts {
        match &attempt.failure {
            None => info!("{} {done}", attempt.name()),
            Some(trouble) => events::SLOT_NOT_RESEALED.say(format_args!(
                "{} was not sealed anew: {}",
                attempt.name(),
                trouble.what
            )),
        }
    }
}
