//! What the opening of the cache is busy with, for whoever waits for it.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::cache::Keyslot;

/// What is being done now.
#[derive(Default)]
pub struct Progress(Mutex<Option<Step>>);

struct Step {
    what: String,
    since: Instant,
}

impl Progress {
    /// The file is looked at, no slot is tried yet.
    pub fn starts(&self) {
        self.set("opening the cache".to_owned());
    }

    /// `slot` is tried.
    pub fn tries(&self, slot: &Keyslot) {
        let Keyslot { id, kind, .. } = slot;
        self.set(format!("opening the cache: slot {id} ({kind})"));
    }

    /// It is open, or it is not.
    pub fn ends(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// One line, e.g. `opening the cache: slot 2 (pkcs11) for 12 s`; nothing if nothing is opened.
    pub fn line(&self) -> Option<String> {
        let step = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Step { what, since } = step.as_ref()?;
        Some(format!("{what} for {} s", since.elapsed().as_secs()))
    }

    fn set(&self, what: String) {
        let since = Instant::now();
        let step = Step { what, since };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(step);
    }
}
