//! What workloads with `provider: nitrokeyhsm` get: values that were sealed for a token. Each lies in
//! the state directory under its name; psi-setup registers it as it lies there, without the token.

use std::collections::{BTreeMap, BTreeSet};

use crate::client::Client;
use crate::config::{Config, KeyRef, Workload, WorkloadSecrets};
use crate::error::{Error, Kind, Result};
use crate::mapping::{Mapping, ProviderName, Store};
use crate::secret::{SecretId, SecretName, SecretValue, secret_name};
use crate::setup::discover::Found;
use crate::setup::plan::Actual;
use crate::wire::Entry;

/// The stored secrets that workloads of the token list, and those that none lists.
#[derive(Default)]
pub struct TokenSecrets {
    /// By name; nothing where none is stored.
    listed: BTreeMap<SecretName, Result<Option<Mapping>>>,
    unlisted: BTreeMap<SecretName, Mapping>,
    /// The values of those that are sealed in the cache as well.
    values: BTreeMap<SecretName, Result<SecretValue>>,
}

impl TokenSecrets {
    /// Reads what is stored, if one of `workloads` is the token's: nothing of the state directory
    /// concerns the others.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is no state directory, [`Kind::Io`] if it can't be read.
    pub fn read(config: &Config, workloads: &BTreeMap<&str, &Workload>) -> Result<Self> {
        let is_tokens = |w: &&Workload| w.provider == ProviderName::NitrokeyHsm;
        if !workloads.values().copied().any(|w| is_tokens(&w)) {
            return Ok(Self::default());
        }
        let store = Store::open_existing(&config.state_dir)?;
        let mut secrets = Self::default();
        for key in config.workloads.values().filter(is_tokens).flat_map(keys) {
            let name = SecretName::parse(&key.key)?;
            let stored = stored(&store, &name);
            secrets.listed.insert(name, stored);
        }
        for name in store.list()? {
            let is_id = SecretId::parse(name.as_str()).is_ok();
            if is_id || secrets.listed.contains_key(&name) {
                continue;
            }
            if let Ok(Some(mapping)) = stored(&store, &name) {
                secrets.unlisted.insert(name, mapping);
            }
        }
        Ok(secrets)
    }

    /// Asks psi-serve, which has the token, for the values that `workloads` keep in the cache.
    pub async fn fetch_values(&mut self, serve: &Client, workloads: &BTreeMap<&str, &Workload>) {
        let cached = workloads.values().filter(|w| w.cache);
        let names: BTreeSet<&str> = cached.flat_map(|w| keys(w)).map(|k| &*k.key).collect();
        for (name, stored) in &self.listed {
            if names.contains(name.as_str()) && matches!(stored, Ok(Some(_))) {
                let value = serve.lookup(name).await;
                self.values.insert(name.clone(), value);
            }
        }
    }

    /// What `workload`, which lists `keys`, is to have; with values if they go into the cache.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if a secret was never stored: a drop-in without it would start containers
    /// that lack it. [`Kind::Damaged`] if its file holds something else; what psi-serve says of the
    /// token.
    pub fn of(&self, name: &str, workload: &Workload, listed: &[KeyRef]) -> Result<Found> {
        let (mut found, mut missing) = (Found::default(), Vec::new());
        for key in listed {
            let secret = SecretName::parse(&key.key)?;
            match self.listed.get(&secret) {
                Some(Ok(Some(mapping))) => {
                    found.mappings.insert(key.target.clone(), mapping.clone());
                }
                Some(Err(error)) => return Err(error.again()),
                Some(Ok(None)) | None => missing.push(key),
            }
        }
        if !missing.is_empty() {
            return Err(not_stored(name, &missing));
        }
        if workload.cache {
            found.entries.entries = self.entries(listed, &found.mappings)?;
        }
        Ok(found)
    }

    /// In the order of `mappings`.
    fn entries(
        &self,
        listed: &[KeyRef],
        mappings: &BTreeMap<String, Mapping>,
    ) -> Result<Vec<Entry>> {
        let key = |target: &str| listed.iter().find(|key| key.target == target);
        let entry = |(target, mapping): (&String, &Mapping)| {
            let name = key(target).map(|key| SecretName::parse(&key.key));
            match name.and_then(|name| self.values.get(&name.ok()?)) {
                Some(Ok(value)) => Ok(Entry {
                    mapping: mapping.clone(),
                    value: value.copy(),
                }),
                Some(Err(error)) => Err(error.again()),
                None => Err(Error::new(
                    Kind::Internal,
                    "a value of the token was not asked for",
                )),
            }
        };
        mappings.iter().map(entry).collect()
    }

    /// The stored secrets that neither a workload nor Podman knows of.
    pub fn strangers(&self, actual: &Actual<'_>) -> Vec<String> {
        let known: BTreeSet<&String> = actual
            .ids
            .values()
            .filter_map(|id| id.digest.as_ref())
            .collect();
        let strange = self
            .unlisted
            .iter()
            .filter(|(_, mapping)| !known.contains(&mapping.digest()));
        let note = |(name, _): (&SecretName, &Mapping)| {
            format!(
                "the stored secret {name} reaches no container: list it in the `secrets:` of a workload with `provider: nitrokeyhsm`, or `psi-hsm store --register {name}` for one that names it itself"
            )
        };
        strange.map(note).collect()
    }
}

/// The keys that `workload` lists one by one.
fn keys(workload: &Workload) -> &[KeyRef] {
    match &workload.secrets {
        WorkloadSecrets::Keys(keys) => keys,
        WorkloadSecrets::Sources(_) => &[],
    }
}

/// What is stored as `name`, if that was sealed for a token.
fn stored(store: &Store, name: &SecretName) -> Result<Option<Mapping>> {
    match store.get(name)? {
        Some(mapping) if mapping.provider() == ProviderName::NitrokeyHsm => Ok(Some(mapping)),
        Some(mapping) => {
            let what = format!(
                "the stored secret {name} is one of provider {}, not of a token",
                mapping.provider()
            );
            Err(Error::new(Kind::Damaged, what)
                .hint("list another name, or move that file out of the state directory"))
        }
        None => Ok(None),
    }
}

fn not_stored(workload: &str, missing: &[&KeyRef]) -> Error {
    let names = missing.iter().map(|k| secret_name(workload, &k.target));
    let commands = missing.iter().map(|k| format!("`psi-hsm store {}`", k.key));
    let what = format!(
        "nothing is stored for {}",
        names.collect::<Vec<_>>().join(", ")
    );
    let commands = commands.collect::<Vec<_>>().join(", ");
    Error::new(Kind::NotFound, what).hint(format!(
        "{commands}, then `systemctl restart psi-nitrokeyhsm-setup.service`"
    ))
}
