//! What the providers no longer have: kept while somebody needs it, then dropped.
//!
//! A hand-over retires what is missing in it, and never drops it: only psi-setup knows which
//! containers still use a secret, and tells by [`Cache::prune`] what may go.

use std::collections::{BTreeMap, BTreeSet};

use crate::cache::draft::Draft;
use crate::cache::{Cache, EntryKey, Owners, Saved};
use crate::error::Result;

impl Saved {
    /// Who owns what.
    ///
    /// # Errors
    /// [`crate::Kind::Damaged`] if that can't be read.
    pub fn owners(&self) -> Result<Owners> {
        self.table.owners()
    }
}

impl Cache {
    /// Takes from each workload in `keep` what is retired, but the entries named there, and all
    /// from those in `forget`. What nobody owns any more is gone from disk and memory. Returns how
    /// many entries were taken from their owners.
    ///
    /// # Errors
    /// [`crate::Kind::Io`] if it cannot be written; everything is then still there.
    pub fn prune(
        &self,
        keep: &BTreeMap<String, BTreeSet<EntryKey>>,
        forget: &[String],
    ) -> Result<usize> {
        let _writing = self.start_writing();
        let before = self.current();
        let mut owners = before.owners()?;
        let mut dropped = 0;
        for (name, keep) in keep {
            let keep = keep.iter().filter_map(|key| before.table.place(key));
            dropped += owners.prune(name, &keep.collect());
        }
        let forgotten = forget.iter().map(|name| owners.forget_workload(name));
        dropped += forgotten.sum::<usize>();
        if dropped > 0 {
            self.save(&before, Draft::owned_by(&before.table, owners))?;
        }
        Ok(dropped)
    }
}
