//! The sealed cache as psi-serve keeps it: being opened, open, not there yet, off, or closed.
//!
//! Whatever touches the disk or a device runs on a thread of its own, one at a time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tracing::{info, warn};
use zeroize::Zeroizing;

use crate::cache::{Attempt, Cache, Header, Opening, no_place_for_local, no_slot_opens};
use crate::config::{Backend, CacheConfig, TpmConfig};
use crate::error::{Error, Kind, Result};
use crate::mapping::{Mapping, ProviderName};
use crate::protector::{self, Credential, Protector};
use crate::wire::{HandOver, HandedOver, PutLocal, RemovedLocal};

/// What can be asked of the sealed cache now.
#[derive(Clone)]
pub enum State {
    /// Its slots are being tried; callers wait.
    Opening,
    /// Lookups are answered from it.
    Open(Arc<Cache>),
    /// A backend is set and there is no file: the first hand-over creates it.
    Absent,
    /// No backend is set, or the cache is disabled: nothing is remembered.
    Off,
    /// The file is there and can't be used; it is left as it is.
    Closed(Arc<Error>),
}

impl State {
    /// The state's name, as `/status` has it.
    pub fn name(&self) -> &'static str {
        match self {
            State::Opening => "opening",
            State::Open(_) => "open",
            State::Absent => "absent",
            State::Off => "off",
            State::Closed(_) => "closed",
        }
    }

    /// What the open cache's file says of itself.
    pub fn header(&self) -> Option<Header> {
        match self {
            State::Open(cache) => Some(cache.current().header.clone()),
            _ => None,
        }
    }

    /// Why lookups can't be answered from it, if it is there to answer them.
    pub fn trouble(&self) -> Option<String> {
        match self {
            State::Open(_) | State::Off => None,
            other => Some(not_open(other).to_string()),
        }
    }
}

/// Owns the cache's file, for the holder of the state directory's lock.
pub struct Sealed {
    path: PathBuf,
    backend: Option<Backend>,
    credential: Credential,
    tpm: TpmConfig,
    state: watch::Sender<State>,
    changing: Mutex<()>,
}

impl Sealed {
    /// Before the first [`Sealed::open`], everyone who asks waits.
    pub fn new(settings: &CacheConfig, credential: Credential) -> Self {
        Self {
            path: settings.path.clone(),
            backend: settings.backend.filter(|_| settings.enabled),
            credential,
            tpm: settings.tpm.clone(),
            state: watch::Sender::new(State::Opening),
            changing: Mutex::new(()),
        }
    }

    /// Whether nothing is to be remembered.
    pub fn is_off(&self) -> bool {
        self.backend.is_none()
    }

    /// The state now.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// The state once it is no longer [`State::Opening`], or that after `patience`.
    pub async fn settled(&self, patience: Duration) -> State {
        let now = self.state();
        if !matches!(now, State::Opening) {
            return now;
        }
        let mut changes = self.state.subscribe();
        let settled = changes.wait_for(|state| !matches!(state, State::Opening));
        match tokio::time::timeout(patience, settled).await {
            Ok(Ok(state)) => state.clone(),
            _ => State::Opening,
        }
    }

    /// Opens the cache, unless it is open or off. Says in the log what was tried.
    pub async fn open(&self) {
        let _changing = self.changing.lock().await;
        self.open_now().await;
    }

    async fn open_now(&self) {
        if matches!(self.state(), State::Open(_)) {
            return;
        }
        if self.is_off() {
            self.state.send_replace(State::Off);
            return;
        }
        let (path, protectors) = (self.path.clone(), self.to_open());
        let opening = blocking(move || Cache::open(&path, &protectors()?)).await;
        self.state.send_replace(self.outcome(opening));
    }

    fn outcome(&self, opening: Result<Opening>) -> State {
        match opening {
            Ok(Opening::Absent) => State::Absent,
            Ok(Opening::Opened(cache, attempts)) => {
                attempts.iter().for_each(log_attempt);
                State::Open(cache)
            }
            Ok(Opening::NoSlot(attempts)) => {
                attempts.iter().for_each(log_attempt);
                self.closed(no_slot_opens(&attempts))
            }
            Err(error) => self.closed(error),
        }
    }

    fn closed(&self, error: Error) -> State {
        warn!(
            "{} stays closed, every lookup is live: {error}; next: {}",
            self.path.display(),
            error.next_step().unwrap_or("see `psi-cachectl status`"),
        );
        State::Closed(Arc::new(error))
    }

    /// Takes over what `provider` has, from the JSON text of a [`HandOver`]. A closed cache is
    /// tried again first, an absent one is created.
    ///
    /// # Errors
    /// [`Kind::Usage`] if it is no hand-over, what [`Cache::commit`] says, and why the cache is
    /// closed. Nothing is changed then.
    pub async fn hand_over(
        &self,
        provider: ProviderName,
        json: Zeroizing<Vec<u8>>,
    ) -> Result<HandedOver> {
        let hand_over = blocking(move || parse_hand_over(provider, &json)).await?;
        self.change(move |cache| cache.commit(provider, &hand_over))
            .await
    }

    /// Keeps `value` as the local value that `mapping` names. A closed cache is tried again first,
    /// an absent one is created.
    ///
    /// # Errors
    /// What [`Cache::put`] says, and why the cache is closed. Nothing is changed then.
    pub async fn put_local(&self, mapping: Mapping, value: Zeroizing<Vec<u8>>) -> Result<PutLocal> {
        self.change(move |cache| cache.put(cache.keyer().entry_key(&mapping), &value))
            .await
    }

    /// Removes the local value that `mapping` names. A closed cache is tried again first; one that
    /// is not there has none.
    ///
    /// # Errors
    /// What [`Cache::remove_local`] says, and why the cache is closed. Nothing is changed then.
    pub async fn remove_local(&self, mapping: Mapping) -> Result<RemovedLocal> {
        let _changing = self.changing.lock().await;
        self.open_now().await;
        if matches!(self.state(), State::Absent) {
            return Ok(RemovedLocal { removed: false });
        }
        let cache = self.open_cache()?;
        blocking(move || cache.remove_local(&cache.keyer().entry_key(&mapping))).await
    }

    /// Makes a change. A closed cache is tried again first, an absent one is created; its first
    /// save is part of the change.
    async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Cache) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let _changing = self.changing.lock().await;
        self.open_now().await;
        let cache = match self.state() {
            State::Open(cache) => Some(cache),
            State::Absent => None,
            other => return Err(not_open(&other)),
        };
        let create = self.creation();
        let (cache, changed) = blocking(move || {
            let cache = cache.map_or_else(create, Ok)?;
            let changed = change(&cache)?;
            Ok((cache, changed))
        })
        .await?;
        self.state.send_replace(State::Open(cache));
        Ok(changed)
    }

    /// Starts an empty cache. An existing file is put aside, as `cache.enc.replaced-<time>`, and
    /// only if `force` is given; its new path is returned with the new header.
    ///
    /// # Errors
    /// [`Kind::Refused`] if a cache is open or a file is there and no `force`, or the cache is
    /// off; [`Kind::Unreachable`] if there is no key to seal it with; what [`Cache::create`] says.
    pub async fn init(&self, force: bool) -> Result<(Header, Option<PathBuf>)> {
        let _changing = self.changing.lock().await;
        match self.state() {
            State::Off => return Err(not_open(&State::Off)),
            State::Open(_) if !force => return Err(already_open(&self.path)),
            _ => {}
        }
        let (path, protectors) = (self.path.clone(), self.to_create());
        let (cache, aside) = blocking(move || {
            let (cache, aside) = Cache::init(&path, &protectors()?, force)?;
            info!("{} was created", path.display());
            if let Some(aside) = &aside {
                info!("the old cache is now {}", aside.display());
            }
            Ok((Arc::new(cache), aside))
        })
        .await?;
        let header = cache.current().header.clone();
        self.state.send_replace(State::Open(cache));
        Ok((header, aside))
    }

    /// Makes an empty cache that its first commit saves.
    fn creation(&self) -> impl FnOnce() -> Result<Arc<Cache>> + Send + 'static {
        let (path, protectors) = (self.path.clone(), self.to_create());
        move || Cache::unsaved(&path, &protectors()?).map(Arc::new)
    }

    /// What may open the cache; a device may take its time.
    fn to_open(&self) -> impl FnOnce() -> Result<Vec<Box<dyn Protector>>> + Send + 'static {
        let (backend, credential, tpm) = (self.backend, self.credential.clone(), self.tpm.clone());
        move || {
            let backend = backend.ok_or_else(|| not_open(&State::Off))?;
            protector::to_open(backend, credential, &tpm)
        }
    }

    /// What seals a new cache.
    fn to_create(&self) -> impl FnOnce() -> Result<Vec<Box<dyn Protector>>> + Send + 'static {
        let (backend, credential) = (self.backend, self.credential.clone());
        move || {
            let backend = backend.ok_or_else(|| not_open(&State::Off))?;
            protector::to_create(backend, credential)
        }
    }

    /// Reads the file on disk again and authenticates it.
    ///
    /// # Errors
    /// [`Kind::Damaged`] if it is not what was saved; why there is no open cache.
    pub async fn verify(&self) -> Result<Header> {
        let _changing = self.changing.lock().await;
        let cache = self.open_cache()?;
        blocking(move || cache.verify()).await
    }

    /// Drops the value of `mapping`. Says whether there was one.
    ///
    /// # Errors
    /// What [`Cache::invalidate`] says, and why the cache is closed: its file may well have the
    /// value. A cache that is off or not there has nothing to drop.
    pub async fn invalidate(&self, mapping: &Mapping) -> Result<bool> {
        let _changing = self.changing.lock().await;
        let cache = match self.state() {
            State::Off | State::Absent => return Ok(false),
            _ => self.open_cache()?,
        };
        let key = cache.keyer().entry_key(mapping);
        blocking(move || cache.invalidate(&key)).await
    }

    /// Drops what is retired, as [`Cache::prune`] has it, but the values of the mappings in `keep`.
    /// Returns how many entries were dropped.
    ///
    /// # Errors
    /// What [`Cache::prune`] says, and why the cache is closed. One that is off or not there has
    /// nothing to drop.
    pub async fn prune(
        &self,
        keep: BTreeMap<String, Vec<Arc<Mapping>>>,
        forget: Vec<String>,
    ) -> Result<usize> {
        let _changing = self.changing.lock().await;
        let cache = match self.state() {
            State::Off | State::Absent => return Ok(0),
            _ => self.open_cache()?,
        };
        let keys = |mappings: Vec<Arc<Mapping>>| {
            let keys = mappings.iter().map(|m| cache.keyer().entry_key(m));
            keys.collect()
        };
        let keep = keep.into_iter().map(|(name, m)| (name, keys(m))).collect();
        blocking(move || cache.prune(&keep, &forget)).await
    }

    /// Whether local values can be known at all: they are in the cache and nowhere else.
    ///
    /// # Errors
    /// Why the cache is kept from being read.
    pub fn may_have_local(&self) -> Result<()> {
        match self.state() {
            State::Open(_) | State::Absent => Ok(()),
            State::Off => Err(no_place_for_local()),
            other => Err(not_open(&other).during("local values are in the cache only")),
        }
    }

    fn open_cache(&self) -> Result<Arc<Cache>> {
        match self.state() {
            State::Open(cache) => Ok(cache),
            other => Err(not_open(&other)),
        }
    }
}

/// Runs `work` where it may block, and sees it through even if the caller goes away.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let failed = |e| Error::new(Kind::Internal, "a cache operation broke off").because(e);
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}

fn parse_hand_over(provider: ProviderName, json: &[u8]) -> Result<HandOver> {
    let malformed = |why: String| {
        Error::new(Kind::Usage, format!("not a hand-over: {why}"))
            .hint("psi-setup and psi-serve must be of the same version")
    };
    // The parser's own message may quote what it read.
    let hand_over: HandOver = serde_json::from_slice(json)
        .map_err(|e| malformed(format!("line {}, column {}", e.line(), e.column())))?;
    let mut entries = hand_over.workloads.values().flat_map(|w| &w.entries);
    match entries.find(|entry| entry.mapping.provider() != provider) {
        Some(entry) => Err(malformed(format!(
            "a mapping of {} in what {provider} has",
            entry.mapping.provider()
        ))),
        None => Ok(hand_over),
    }
}

fn log_attempt(attempt: &Attempt) {
    let (slot, kind, took) = (attempt.slot, attempt.kind, attempt.took.as_millis());
    match &attempt.failure {
        None => info!("slot {slot} ({kind}) opened the cache in {took} ms"),
        Some(error) => warn!("slot {slot} ({kind}) did not open in {took} ms: {error}"),
    }
}

fn already_open(path: &Path) -> Error {
    let what = format!("{} is open and in use", path.display());
    Error::new(Kind::Refused, what)
        .hint("`psi-cachectl status` describes it; `--force` puts it aside and starts anew")
}

fn not_open(state: &State) -> Error {
    match state {
        State::Off => Error::new(
            Kind::Refused,
            "no cache is kept: `cache.backend` is not set",
        )
        .hint("set `cache.backend: tpm` in config.yaml, or leave it: lookups are live"),
        State::Closed(error) => {
            let copy = Error::new(error.kind(), error.to_string());
            copy.hint(error.next_step().unwrap_or("see `psi-cachectl status`"))
        }
        State::Absent => Error::new(Kind::NotFound, "there is no cache file yet")
            .hint("`systemctl start psi-infisical-setup.service` fills one"),
        State::Opening | State::Open(_) => {
            Error::new(Kind::Unreachable, "the cache is still being opened")
                .hint("try again; `journalctl -u psi-secrets` shows what it waits for")
        }
    }
}
