//! The hot path: from an id to a value.
//!
//! A value in memory is answered without a provider, a device or a wait. Any other is asked for
//! once, however many want it, within a deadline; a failure is remembered for a moment, since
//! Podman holds a host-wide lock while it waits for us.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::cache::{Cache, Extent, Saved};
use crate::error::{Error, Kind, Result};
use crate::heap;
use crate::locked::Locked;
use crate::mapping::{Mapping, ProviderName, Store};
use crate::secret::{IdText, SecretName};
use crate::serve::known::Known;
use crate::serve::providers::Providers;
use crate::serve::sealed::{Sealed, State};

/// How long a failed provider call answers further lookups of the same value.
const FAILURE_MEMORY: Duration = Duration::from_secs(2);

/// A value, still where it lies.
pub enum Found {
    /// In the opened cache.
    Sealed(Arc<Saved>, Extent),
    /// In the memory of this process only.
    Learned(Arc<Locked>),
    /// The same; its provider has given it just now.
    Live(Arc<Locked>),
}

impl AsRef<[u8]> for Found {
    fn as_ref(&self) -> &[u8] {
        match self {
            Found::Sealed(saved, extent) => saved.table.value(*extent),
            Found::Learned(value) | Found::Live(value) => value,
        }
    }
}

/// Why there is no value.
#[derive(Debug)]
pub enum Missing {
    /// No mapping has that name.
    NoMapping,
    /// The state directory's file cannot be used.
    Unusable(Error),
    /// The provider did not give it.
    Provider(Arc<Error>),
}

/// How lookups went since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Answered from memory.
    pub hits: AtomicU64,
    /// Answered by a provider.
    pub live: AtomicU64,
    /// Not answered.
    pub failed: AtomicU64,
}

/// Answers lookups.
pub struct Lookups {
    store: Arc<Store>,
    pub(super) sealed: Arc<Sealed>,
    providers: RwLock<Arc<Providers>>,
    known: Known,
    memory: Arc<Mutex<Memory>>,
    /// How they went.
    pub counters: Counters,
}

type Outcome = Result<Arc<Locked>, Arc<Error>>;

/// What providers said, beside the cache.
#[derive(Default)]
struct Memory {
    learned: HashMap<Arc<Mapping>, Arc<Locked>>,
    failed: HashMap<Arc<Mapping>, (Instant, Arc<Error>)>,
    flights: HashMap<Arc<Mapping>, watch::Receiver<Option<Outcome>>>,
    /// Counts each provider's hand-overs and invalidations: what was asked for before one is not
    /// remembered after it.
    epochs: HashMap<ProviderName, u64>,
}

impl Memory {
    fn epoch(&self, provider: ProviderName) -> u64 {
        self.epochs.get(&provider).copied().unwrap_or_default()
    }

    /// What is in flight is waited for by those who asked before, and by nobody else.
    fn begin_epoch(&mut self, provider: ProviderName) {
        *self.epochs.entry(provider).or_default() += 1;
        self.flights.retain(|m, _| m.provider() != provider);
    }

    /// Notes what the provider said, within the epoch in which it was asked.
    fn land(&mut self, mapping: Arc<Mapping>, outcome: &Outcome, remember: bool) {
        self.flights.remove(&mapping);
        match outcome {
            Ok(value) if remember => {
                self.learned.insert(mapping, Arc::clone(value));
            }
            Ok(_) => {}
            Err(error) => {
                let failure = (Instant::now(), Arc::clone(error));
                self.failed.insert(mapping, failure);
            }
        }
    }

    fn recent_failure(&mut self, mapping: &Mapping) -> Option<Arc<Error>> {
        self.failed
            .retain(|_, (since, _)| since.elapsed() < FAILURE_MEMORY);
        self.failed.get(mapping).map(|(_, error)| Arc::clone(error))
    }
}

/// The provider has no part in it, but the caller is told in the same way.
fn unavailable(error: Error) -> Missing {
    Missing::Provider(Arc::new(error))
}

impl Lookups {
    /// Lookups of what `store` maps, from `sealed` and, failing that, from `providers`.
    pub fn new(store: Arc<Store>, sealed: Arc<Sealed>, providers: Providers) -> Self {
        Self {
            known: Known::new(&store),
            store,
            sealed,
            providers: RwLock::new(Arc::new(providers)),
            memory: Arc::default(),
            counters: Counters::default(),
        }
    }

    /// The providers in use.
    pub fn providers(&self) -> Arc<Providers> {
        Arc::clone(
            &self
                .providers
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Uses other providers from now on. What failed with those before is tried again.
    pub fn use_providers(&self, providers: Providers) {
        let mut current = self
            .providers
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(providers);
        self.memory().failed.clear();
    }

    /// The value that `id` stands for, if it is in memory: no provider or device is asked, and nothing
    /// is waited for.
    pub fn hit(&self, id: IdText<'_>) -> Option<Found> {
        let found = match self.sealed.state() {
            State::Open(cache) => self.sealed_or_learned(id, &cache)?,
            _ => self.learned_value(&self.mapping(&id.to_name()).ok()?)?,
        };
        self.counters.hits.fetch_add(1, Ordering::Relaxed);
        Some(found)
    }

    /// The value that `name` stands for, wherever it is.
    ///
    /// # Errors
    /// Why there is none; never a value in its place.
    pub async fn lookup(&self, name: &SecretName) -> Result<Found, Missing> {
        let found = self.find(name).await;
        let counter = match &found {
            Ok((_, counter)) => counter,
            Err(_) => &self.counters.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        found.map(|(found, _)| found)
    }

    async fn find(&self, name: &SecretName) -> Result<(Found, &AtomicU64), Missing> {
        // What has no mapping waits for nothing; what has one may have another after the wait.
        self.mapping(name)?;
        let state = self.sealed.settled().await;
        let mapping = Arc::new(self.mapping(name)?);
        if let Some(found) = self.in_memory(&mapping, &state) {
            return Ok((found, &self.counters.hits));
        }
        if mapping.provider() == ProviderName::Local {
            self.sealed.may_have_local().map_err(unavailable)?;
        }
        // What a token has opened is that for ever: its mapping is the sealed value itself.
        let is_sealed_in_itself = mapping.provider() == ProviderName::NitrokeyHsm;
        let remember = is_sealed_in_itself || !matches!(state, State::Off);
        match self.live(mapping, remember).await {
            Ok(value) => Ok((Found::Live(value), &self.counters.live)),
            Err(error) => Err(Missing::Provider(error)),
        }
    }

    /// The value of `id`, from the opened `cache` or from what was learned live. Its mapping is read if
    /// that or the cache has changed since the last time, or the cache does not have the value.
    fn sealed_or_learned(&self, id: IdText<'_>, cache: &Cache) -> Option<Found> {
        let saved = cache.current();
        let mut mapping = None;
        let extent = self.known.extent(&saved, id, || {
            let read = mapping.insert(self.mapping(&id.to_name()).ok()?);
            saved.table.find(&cache.keyer().entry_key(read))
        });
        match extent {
            Some(extent) => Some(Found::Sealed(saved, extent)),
            None => self.learned_value(&mapping?),
        }
    }

    /// The value of `mapping`, from the opened cache or from what was learned live.
    fn in_memory(&self, mapping: &Mapping, state: &State) -> Option<Found> {
        if let State::Open(cache) = state {
            let saved = cache.current();
            if let Some(extent) = saved.table.find(&cache.keyer().entry_key(mapping)) {
                return Some(Found::Sealed(saved, extent));
            }
        }
        self.learned_value(mapping)
    }

    /// The value of `mapping`, if it was learned live.
    fn learned_value(&self, mapping: &Mapping) -> Option<Found> {
        let learned = self.memory().learned.get(mapping).map(Arc::clone);
        learned.map(Found::Learned)
    }

    /// The mapping called `name`.
    pub(super) fn mapping(&self, name: &SecretName) -> Result<Mapping, Missing> {
        let found = self.store.get(name).map_err(Missing::Unusable)?;
        found.ok_or(Missing::NoMapping)
    }

    /// Makes room for a hand-over, which needs as much memory as all values once more.
    pub fn make_room(&self) {
        self.known.clear();
        heap::give_back();
    }

    /// Asks the provider, or joins whoever is asking for the same already.
    async fn live(&self, mapping: Arc<Mapping>, remember: bool) -> Outcome {
        let mut flight = {
            let mut memory = self.memory();
            if let Some(error) = memory.recent_failure(&mapping) {
                return Err(error);
            }
            match memory.flights.get(&mapping) {
                Some(flight) => flight.clone(),
                None => self.take_off(&mut memory, &mapping, remember),
            }
        };
        match flight.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(outcome)) => outcome.clone(),
            _ => Err(Arc::new(Error::new(
                Kind::Internal,
                "the provider call broke off",
            ))),
        }
    }

    /// Starts the call as a task of its own: it ends even if all who wait for it go away.
    fn take_off(
        &self,
        memory: &mut Memory,
        mapping: &Arc<Mapping>,
        remember: bool,
    ) -> watch::Receiver<Option<Outcome>> {
        let (landed, flight) = watch::channel(None);
        memory.flights.insert(Arc::clone(mapping), flight.clone());
        let epoch = memory.epoch(mapping.provider());
        let providers = self.providers();
        let shared = Arc::clone(&self.memory);
        let mapping = Arc::clone(mapping);
        tokio::spawn(async move {
            let outcome = match providers.lookup(&mapping).await {
                Ok(value) => Ok(Arc::new(Locked::copy_of(value.expose()))),
                Err(error) => Err(Arc::new(error)),
            };
            let mut memory = shared.lock().unwrap_or_else(PoisonError::into_inner);
            if memory.epoch(mapping.provider()) == epoch {
                memory.land(mapping, &outcome, remember);
            }
            drop(memory);
            landed.send_replace(Some(outcome));
        });
        flight
    }

    /// Forgets what was learned live from `provider`: what it hands over is newer, whether or not it
    /// can be kept. What a token has opened can't be any newer.
    pub fn forget_provider(&self, provider: ProviderName) {
        let mut memory = self.memory();
        memory.failed.retain(|m, _| m.provider() != provider);
        if provider != ProviderName::NitrokeyHsm {
            memory.begin_epoch(provider);
            memory.learned.retain(|m, _| m.provider() != provider);
        }
    }

    /// Drops the value of `name` from the cache and from memory. Says whether there was one.
    ///
    /// # Errors
    /// [`Missing`] if nothing has that name, else what [`Sealed::invalidate`] says.
    pub async fn invalidate(&self, name: &SecretName) -> Result<Result<bool>, Missing> {
        let mapping = self.mapping(name)?;
        let learned = self.forget(&mapping);
        let sealed = self.sealed.invalidate(&mapping).await;
        // What was asked for meanwhile is forgotten as well.
        let learned = self.forget(&mapping) || learned;
        Ok(sealed.map(|sealed| sealed || learned))
    }

    /// Forgets what was learned of one value. Says whether there was anything.
    fn forget(&self, mapping: &Mapping) -> bool {
        let mut memory = self.memory();
        memory.begin_epoch(mapping.provider());
        memory.failed.remove(mapping);
        memory.learned.remove(mapping).is_some()
    }

    /// How many values are in memory only.
    pub fn learned(&self) -> usize {
        self.memory().learned.len()
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
