//! What is sealed in the cache and who owns it, for psi-setup; and what of it may go.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cache::{Cache, Owners, Saved};
use crate::error::{Error, Result};
use crate::mapping::Mapping;
use crate::secret::{SecretName, fits_variable, has_reference};
use crate::serve::lookup::{Lookups, Missing};
use crate::serve::sealed::State;
use crate::wire::{Check, Checked, CheckedId, Folder, Prune, Trouble};

/// An open cache at one moment.
struct Inventory {
    cache: Arc<Cache>,
    saved: Arc<Saved>,
    owners: Owners,
}

impl Inventory {
    /// Nothing if the cache is not open.
    fn of(state: &State) -> Result<Option<Self>> {
        let State::Open(cache) = state else {
            return Ok(None);
        };
        let saved = cache.current();
        let owners = saved.owners()?;
        Ok(Some(Self {
            cache: Arc::clone(cache),
            saved,
            owners,
        }))
    }

    fn value(&self, mapping: &Mapping) -> Option<&[u8]> {
        self.saved.table.get(&self.cache.keyer().entry_key(mapping))
    }

    fn check(&self, mapping: &Mapping) -> CheckedId {
        let table = &self.saved.table;
        let place = table.place(&self.cache.keyer().entry_key(mapping));
        let value = self.value(mapping);
        CheckedId {
            digest: Some(mapping.digest()),
            folder: Folder::of(mapping),
            sealed: value.is_some(),
            unresolved: value.is_some_and(has_reference),
            owners: place.map(|p| self.owners.of(p)).unwrap_or_default(),
        }
    }
}

impl Lookups {
    /// What of it the sealed cache has. A cache that is not open has nothing; why it is closed is
    /// said.
    ///
    /// # Errors
    /// [`crate::Kind::Damaged`] if its list of owners is not readable.
    pub fn check(&self, asked: &Check) -> Result<Checked> {
        let state = self.sealed.state();
        let inventory = Inventory::of(&state)?;
        let is_closed = matches!(state, State::Opening | State::Closed(_));
        let sealed = |test: fn(&[u8]) -> bool| {
            let value = |mapping| inventory.as_ref().and_then(|i| i.value(mapping));
            let mappings = asked.mappings.iter();
            mappings.map(|m| value(m).is_some_and(test)).collect()
        };
        let check = |id: &String| {
            let mapping = SecretName::parse(id).ok().map(|name| self.mapping(&name));
            match (mapping, &inventory) {
                (Some(Ok(mapping)), Some(inventory)) => inventory.check(&mapping),
                (Some(Ok(mapping)), None) => CheckedId {
                    digest: Some(mapping.digest()),
                    folder: Folder::of(&mapping),
                    ..CheckedId::default()
                },
                _ => CheckedId::default(),
            }
        };
        let workloads = inventory.iter().flat_map(|i| i.owners.workloads());
        Ok(Checked {
            mappings: sealed(|_| true),
            variables: sealed(fits_variable),
            resolved: sealed(|value| !has_reference(value)),
            ids: asked.ids.iter().map(check).collect(),
            workloads: workloads.map(str::to_owned).collect(),
            closed: is_closed.then(|| Trouble::from(&state.not_open())),
        })
    }

    /// The mappings that are to be kept of each workload.
    ///
    /// # Errors
    /// [`crate::Kind::Usage`] for an id that is none, and what the state directory says of a mapping
    /// that can't be read.
    pub fn to_keep(&self, asked: &Prune) -> Result<BTreeMap<String, Vec<Mapping>>> {
        let of_workload = |(workload, ids): (&String, &Vec<String>)| {
            let mappings = ids.iter().filter_map(|id| self.kept(id).transpose());
            Ok((workload.clone(), mappings.collect::<Result<_>>()?))
        };
        asked.keep.iter().map(of_workload).collect()
    }

    /// The mapping of `id`; nothing if there is none, since then nobody can look it up.
    fn kept(&self, id: &str) -> Result<Option<Mapping>> {
        match self.mapping(&SecretName::parse(id)?) {
            Ok(mapping) => Ok(Some(mapping)),
            Err(Missing::NoMapping) => Ok(None),
            Err(Missing::Unusable(error)) => Err(error),
            Err(Missing::Provider(error)) => Err(Error::again(&error)),
        }
    }
}
