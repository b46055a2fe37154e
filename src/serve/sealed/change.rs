//! Changes of a cache's values: hand-overs and local values, and which cache each is made in.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use zeroize::Zeroizing;

use super::state::State;
use super::{Sealed, blocking};
use crate::cache::{self, Cache, Keyer, Offer};
use crate::error::Result;
use crate::events;
use crate::mapping::{Mapping, ProviderName};
use crate::protector::Key;
use crate::wire::{HandedOver, PutLocal, RemovedLocal};

impl Sealed {
    /// Takes over what `provider` has, from the JSON text of a [`HandOver`](crate::wire::HandOver),
    /// which is read as it comes. A closed cache is tried again first, an absent one is created, and
    /// one that no slot opens is replaced if the configuration says so.
    ///
    /// # Errors
    /// [`Kind::Usage`] if it is no hand-over or breaks off, what [`Cache::commit`] says, and why the
    /// cache is closed. Nothing is changed then.
    pub async fn hand_over(
        &self,
        provider: ProviderName,
        json: impl io::Read + Send + 'static,
    ) -> Result<HandedOver> {
        let keyer = self.keyer().await?;
        // Whoever is slow to send it keeps nobody else from making changes.
        let offer = blocking(move || Offer::read(&keyer, provider, json)).await?;
        self.change(true, move |change| {
            let has_values = offer.has_values();
            change.commit(has_values, |cache| cache.commit(offer))
        })
        .await
    }

    /// What names the entries of the cache that a hand-over is for: the open one, or the one that
    /// the next change makes.
    async fn keyer(&self) -> Result<Keyer> {
        let _turn = self.turn().await?;
        self.open_now().await;
        match self.state() {
            State::Open(cache) => Ok(cache.keyer().clone()),
            _ => Ok(Keyer::new(self.key_of_next()?.as_ref())),
        }
    }

    /// Under what the entries of a cache will be named that a change makes. All changes that wait
    /// have the same.
    fn key_of_next(&self) -> Result<Arc<Key>> {
        let mut key = self
            .key_of_next
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = &*key {
            return Ok(Arc::clone(key));
        }
        Ok(Arc::clone(key.insert(Arc::new(Key::generate()?))))
    }

    /// Keeps `value` as the local value that `mapping` names. A closed cache is tried again first,
    /// an absent one is created.
    ///
    /// # Errors
    /// What [`Cache::put`] says, and why the cache is closed. Nothing is changed then.
    pub async fn put_local(&self, mapping: Mapping, value: Zeroizing<Vec<u8>>) -> Result<PutLocal> {
        self.change(false, move |change| {
            change.commit(false, |cache| {
                cache.put(cache.keyer().entry_key(&mapping), &value)
            })
        })
        .await
    }

    /// Removes the local value that `mapping` names. A closed cache is tried again first; one that
    /// is not there has none.
    ///
    /// # Errors
    /// What [`Cache::remove_local`] says, and why the cache is closed. Nothing is changed then.
    pub async fn remove_local(&self, mapping: Mapping) -> Result<RemovedLocal> {
        let _turn = self.turn().await?;
        self.open_now().await;
        if matches!(self.state(), State::Absent) {
            return Ok(RemovedLocal { removed: false });
        }
        let cache = self.open_cache()?;
        blocking(move || cache.remove_local(&cache.keyer().entry_key(&mapping))).await
    }

    /// Makes a change. A closed cache is tried again first, an absent one is created, and one that
    /// is to be replaced is if this change `may_replace` it; a new cache's first save is part of
    /// the change.
    async fn change<T: Send + 'static>(
        &self,
        may_replace: bool,
        make: impl FnOnce(&Change) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let _turn = self.turn().await?;
        self.open_now().await;
        let (state, path, devices) = (self.state(), self.path.clone(), self.devices()?);
        let key = self.key_of_next()?;
        let (cache, changed) = blocking(move || {
            let change = Change::of(state, path, may_replace, |path| {
                Cache::keyed(path, &[devices.to_create()], &key)
            })?;
            let changed = make(&change)?;
            Ok((change.cache, changed))
        })
        .await?;
        self.state.send_replace(State::Open(cache));
        Ok(changed)
    }
}

/// A change that is being made.
struct Change {
    /// The open cache, or a new one that is not on disk yet.
    cache: Arc<Cache>,
    /// The cache that no slot opens, if a new one takes its place.
    replaced: Option<(State, PathBuf)>,
}

impl Change {
    /// In the open cache, in a new one that `create` makes if there is none, or in one that takes the place of one that
    /// no slot opens, if the configuration and the change allow that.
    ///
    /// # Errors
    /// Why the cache is closed, and what keeps a new one from being made.
    fn of(
        state: State,
        path: PathBuf,
        may_replace: bool,
        create: impl FnOnce(&Path) -> Result<Cache>,
    ) -> Result<Self> {
        let is_replaced = match &state {
            State::Open(cache) => {
                return Ok(Self {
                    cache: Arc::clone(cache),
                    replaced: None,
                });
            }
            State::Absent => false,
            State::Closed(closed) if closed.is_replaceable && may_replace => true,
            other => return Err(other.not_open()),
        };
        Ok(Self {
            cache: Arc::new(create(&path)?),
            replaced: is_replaced.then_some((state, path)),
        })
    }

    /// Saves what `commit` saves. A file that no slot opens is put aside for it, but only if there
    /// is anything to put in its place.
    ///
    /// # Errors
    /// What `commit` says, and why the old cache is closed if it stays. Everything is then as it
    /// was.
    fn commit<T>(&self, has_values: bool, commit: impl FnOnce(&Cache) -> Result<T>) -> Result<T> {
        let Some((state, path)) = &self.replaced else {
            return commit(&self.cache);
        };
        if !has_values {
            return Err(state.not_open());
        }
        let (committed, aside) = cache::keeping_old(path, "unopened", || commit(&self.cache))?;
        let aside = aside.display();
        events::CACHE_REPLACED.say(format_args!(
            "no slot opened the old cache, which is now {aside}; a new one is in its place"
        ));
        Ok(committed)
    }
}
