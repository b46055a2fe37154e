//! Asking the providers: each folder is listed once, however many workloads use it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::config::{Config, Workload, WorkloadSecrets};
use crate::error::{Error, Kind, Result};
use crate::mapping::{Mapping, ProviderName};
use crate::provider::{Discovered, Provider, Source};
use crate::secret::{SecretValue, has_reference};
use crate::setup::local::LocalValues;
use crate::setup::token::TokenSecrets;
use crate::wire::{Entry, WorkloadEntries};

/// Listings that are asked for at once.
const MAX_LISTINGS: usize = 4;

/// Opens a configured provider.
pub type OpenProvider<'a> = &'a dyn Fn(&Config, ProviderName) -> Result<Box<dyn Provider>>;

type Listing = Result<Arc<Vec<Discovered>>, Arc<Error>>;

/// What the providers have for the folders that were asked for, and what was put or stored by hand.
pub struct Listings {
    folders: BTreeMap<Source, Listing>,
    local: LocalValues,
    token: TokenSecrets,
}

/// What a workload is to have, by the name of the variable.
#[derive(Default)]
pub struct Found {
    /// Where each value is.
    pub mappings: BTreeMap<String, Mapping>,
    /// The values, to be handed over.
    pub entries: WorkloadEntries,
    /// Its folders that have nothing.
    pub empty: Vec<Source>,
}

impl Listings {
    /// Lists every folder of `workloads`, until `until` at most.
    pub async fn fetch(
        config: &Config,
        workloads: &BTreeMap<&str, &Workload>,
        (local, token): (LocalValues, TokenSecrets),
        open: OpenProvider<'_>,
        until: Instant,
    ) -> Self {
        let mut folders = BTreeMap::new();
        let mut wanted: BTreeMap<ProviderName, BTreeSet<&Source>> = BTreeMap::new();
        for workload in workloads.values() {
            if let WorkloadSecrets::Sources(sources) = &workload.secrets {
                wanted.entry(workload.provider).or_default().extend(sources);
            }
        }
        for (name, sources) in wanted {
            match open(config, name) {
                Ok(provider) => folders.extend(list(provider.into(), sources, until).await),
                Err(error) => {
                    let error = Arc::new(error);
                    let failed = |s: &Source| (s.clone(), Err(Arc::clone(&error)));
                    folders.extend(sources.into_iter().map(failed));
                }
            }
        }
        Self {
            folders,
            local,
            token,
        }
    }

    /// Where each value is that has a reference `${…}` in it.
    pub fn with_references(&self) -> Vec<Mapping> {
        let listed = self.folders.values().flatten().flat_map(|l| l.iter());
        let found = listed.filter(|found| has_reference(found.value.expose()));
        found.map(|found| found.mapping.clone()).collect()
    }

    /// What `workload` is to have: a later folder wins over an earlier one.
    ///
    /// # Errors
    /// Why one of its folders could not be listed, or that its provider can't be used.
    pub fn of(&self, name: &str, workload: &Workload) -> Result<Found> {
        let sources = match &workload.secrets {
            WorkloadSecrets::Sources(sources) => sources,
            WorkloadSecrets::Keys(keys) if keys.is_empty() => return Ok(Found::default()),
            WorkloadSecrets::Keys(keys) if workload.provider == ProviderName::Local => {
                return self.local.of(name, keys);
            }
            WorkloadSecrets::Keys(keys) => return self.token.of(name, workload, keys),
        };
        let mut merged: BTreeMap<&str, &Discovered> = BTreeMap::new();
        let mut empty = Vec::new();
        for source in sources {
            let listing = match self.folders.get(source) {
                Some(Ok(listing)) => listing,
                Some(Err(error)) => return Err(error.again()),
                None => return Err(Error::new(Kind::Internal, "a listing broke off")),
            };
            if listing.is_empty() {
                empty.push(source.clone());
            }
            merged.extend(listing.iter().map(|found| (found.key.as_str(), found)));
        }
        Ok(Found {
            empty,
            ..Found::of(merged)
        })
    }
}

impl Found {
    fn of(merged: BTreeMap<&str, &Discovered>) -> Self {
        let mut found = Self::default();
        for (key, secret) in merged {
            let mapping = secret.mapping.clone();
            found.mappings.insert(key.to_owned(), mapping.clone());
            let value = secret.value.copy();
            found.entries.entries.push(Entry { mapping, value });
        }
        found
    }
}

async fn list(
    provider: Arc<dyn Provider>,
    sources: BTreeSet<&Source>,
    until: Instant,
) -> Vec<(Source, Listing)> {
    let places = Arc::new(Semaphore::new(MAX_LISTINGS));
    let mut asking = JoinSet::new();
    for source in sources {
        let (provider, places) = (Arc::clone(&provider), Arc::clone(&places));
        let source = source.clone();
        asking.spawn(async move {
            let _place = places.acquire().await;
            let listing = provider.discover(&source, until).await;
            (source, listing)
        });
    }
    let mut listings: Vec<(Source, Result<Vec<Discovered>>)> = Vec::new();
    while let Some(listed) = asking.join_next().await {
        // A listing that broke off is missing, which `of` takes for a failure.
        listings.extend(listed.ok());
    }
    agree_on_values(listings.iter_mut().filter_map(|(_, l)| l.as_mut().ok()));
    let shared = |listing: Result<_>| listing.map(Arc::new).map_err(Arc::new);
    let listings = listings.into_iter();
    listings.map(|(source, l)| (source, shared(l))).collect()
}

/// A folder may be in several listings, as itself and below another one. A value that was changed
/// between them gets that of the last one everywhere: nothing can have two.
fn agree_on_values<'a>(listings: impl DoubleEndedIterator<Item = &'a mut Vec<Discovered>>) {
    let mut values: BTreeMap<Mapping, SecretValue> = BTreeMap::new();
    for found in listings.rev().flatten() {
        match values.get(&found.mapping) {
            Some(value) => found.value = value.copy(),
            None => {
                values.insert(found.mapping.clone(), found.value.copy());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(key: &str, value: &str) -> Discovered {
        Discovered {
            key: key.to_owned(),
            mapping: Mapping::new(ProviderName::Infisical, [("key", key)]),
            value: SecretValue::new(value.into()),
        }
    }

    #[test]
    fn of_a_value_that_two_listings_have_the_last_one_counts() {
        let first = vec![found("A", "old"), found("B", "b")];
        let mut listings = [first, vec![found("A", "new"), found("C", "c")]];
        agree_on_values(listings.iter_mut());
        let values = |listing: &[Discovered]| -> Vec<Vec<u8>> {
            let values = listing.iter().map(|found| found.value.expose().to_vec());
            values.collect()
        };
        assert_eq!(values(&listings[0]), [b"new".to_vec(), b"b".to_vec()]);
        assert_eq!(values(&listings[1]), [b"new".to_vec(), b"c".to_vec()]);
    }
}
