//! The sealed cache as psi-serve keeps it: being opened, open, not there yet, off, or closed.
//!
//! Whatever touches the disk or a device runs on a thread of its own, one at a time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard, watch};
use tokio::time::Instant;
use tracing::info;

use crate::cache::{Attempt, Cache, Header, Opening, Unopened, no_place_for_local};
use crate::config::{CacheConfig, OnUnsealFailure};
use crate::error::{Error, Kind, Result};
use crate::events;
use crate::mapping::Mapping;
use crate::protector::{Devices, Key, Recovery};
use crate::serve::carried;
use crate::wire::Attempted;

mod change;
mod drift;
mod progress;
mod slots;
mod state;

pub use state::State;

use progress::Progress;
use state::Closed;

/// How long after the start lookups wait for the cache to be opened: less than psi-secret's own
/// patience, and than the time that systemd gives a service to start.
const OPENING_PATIENCE: Duration = Duration::from_secs(60);

/// Owns the cache's file, for the holder of the state directory's lock.
pub struct Sealed {
    path: PathBuf,
    /// None: nothing is to be remembered.
    devices: Option<Devices>,
    on_unseal_failure: OnUnsealFailure,
    auto_reseal: bool,
    state: watch::Sender<State>,
    /// How the last opening went.
    attempts: StdMutex<Vec<Attempted>>,
    progress: Arc<Progress>,
    changing: Mutex<()>,
    key_of_next: StdMutex<Option<Arc<Key>>>,
    /// From when on lookups no longer wait for the cache to be opened.
    settled_by: Instant,
}

impl Sealed {
    /// Before the first [`Sealed::open`], everyone who asks waits.
    pub fn new(settings: &CacheConfig, devices: Devices) -> Self {
        let is_on = settings.enabled && settings.backend.is_some();
        Self {
            path: settings.path.clone(),
            devices: is_on.then_some(devices),
            on_unseal_failure: settings.on_unseal_failure,
            auto_reseal: settings.auto_reseal,
            state: watch::Sender::new(State::Opening),
            attempts: StdMutex::default(),
            progress: Arc::default(),
            changing: Mutex::new(()),
            key_of_next: StdMutex::default(),
            settled_by: Instant::now() + OPENING_PATIENCE,
        }
    }

    /// Where the cache's file is, or is to be.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether nothing is to be remembered.
    pub fn is_off(&self) -> bool {
        self.devices.is_none()
    }

    /// How each slot was tried when the cache was last opened, or was not.
    pub fn attempts(&self) -> Vec<Attempted> {
        let attempts = self.attempts.lock();
        attempts.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the opening is busy with, in one line; nothing if nothing is opened.
    pub fn progress(&self) -> Option<String> {
        self.progress.line()
    }

    /// The state now.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// The state once it is no longer [`State::Opening`]. A device that takes longer than
    /// [`OPENING_PATIENCE`] is not waited for, by nobody.
    pub async fn settled(&self) -> State {
        let now = self.state();
        if !matches!(now, State::Opening) {
            return now;
        }
        let mut changes = self.state.subscribe();
        let settled = changes.wait_for(|state| !matches!(state, State::Opening));
        match tokio::time::timeout_at(self.settled_by, settled).await {
            Ok(Ok(state)) => state.clone(),
            _ => State::Opening,
        }
    }

    /// Waits for other changes to end.
    async fn turn(&self) -> Result<MutexGuard<'_, ()>> {
        let turn = tokio::time::timeout(OPENING_PATIENCE, self.changing.lock());
        turn.await.map_err(|_| {
            Error::new(
                Kind::Unreachable,
                "an earlier operation on the cache has not ended: its device or disk does not answer",
            )
            .hint("`journalctl -u psi-secrets` shows what it waits for; nothing was changed")
        })
    }

    /// Opens the cache, unless it is open or off. Says in the log what was tried.
    pub async fn open(&self) {
        if let Ok(_turn) = self.turn().await {
            self.open_now().await;
        }
    }

    async fn open_now(&self) {
        if matches!(self.state(), State::Open(_)) {
            return;
        }
        let state = match self.devices() {
            Ok(_) => self.outcome(self.try_to_open(Recovery::not_entered()).await),
            Err(_) => State::Off,
        };
        self.state.send_replace(state);
        if self.auto_reseal {
            self.reseal_after_drift().await;
        }
    }

    fn devices(&self) -> Result<Devices> {
        let devices = self.devices.clone();
        devices.ok_or_else(|| State::Off.not_open())
    }

    async fn try_to_open(&self, recovery: Recovery) -> Result<Opening> {
        let (path, devices) = (self.path.clone(), self.devices()?);
        let progress = Arc::clone(&self.progress);
        blocking(move || {
            progress.starts();
            let tries = |slot: &_| progress.tries(slot);
            let opening = carried::open(&path, &devices.to_open(recovery), tries);
            progress.ends();
            opening
        })
        .await
    }

    fn outcome(&self, opening: Result<Opening>) -> State {
        match opening {
            Ok(Opening::Absent) => {
                self.note(&[]);
                State::Absent
            }
            Ok(Opening::Opened(cache, attempts)) => {
                self.note(&attempts);
                State::Open(cache)
            }
            Ok(Opening::NoSlot(unopened)) => {
                self.note(&unopened.attempts);
                self.unopened(&unopened)
            }
            Err(error) => {
                self.note(&[]);
                self.closed(&error.to_string(), error.again(), false)
            }
        }
    }

    fn note(&self, attempts: &[Attempt]) {
        attempts.iter().for_each(log_attempt);
        let noted = attempts.iter().map(Attempted::from).collect();
        *self.attempts.lock().unwrap_or_else(PoisonError::into_inner) = noted;
    }

    /// The attempts themselves are in the log already.
    fn unopened(&self, unopened: &Unopened) -> State {
        let (is_replaceable, prospect) = match self.on_unseal_failure {
            OnUnsealFailure::Keep => (false, String::new()),
            OnUnsealFailure::Recreate => match unopened.may_be_recreated() {
                Ok(()) => (
                    true,
                    "; the first hand-over puts it aside and starts a new one".to_owned(),
                ),
                Err(why) => (
                    false,
                    format!("; it is kept, though `on_unseal_failure` is `recreate`: {why}"),
                ),
            },
        };
        let why = format!("no slot opens it{prospect}");
        self.closed(&why, unopened.error_and(&prospect), is_replaceable)
    }

    fn closed(&self, why: &str, error: Error, is_replaceable: bool) -> State {
        events::CACHE_CLOSED.say_why(
            error.kind(),
            format_args!(
                "{} stays closed, every lookup is live: {why}; next: {}",
                self.path.display(),
                error.next_step().unwrap_or("see `psi-cachectl status`"),
            ),
        );
        State::Closed(Arc::new(Closed {
            error,
            is_replaceable,
        }))
    }

    /// Reads the file on disk again and authenticates it.
    ///
    /// # Errors
    /// [`Kind::Damaged`] if it is not what was saved; why there is no open cache.
    pub async fn verify(&self) -> Result<Header> {
        let _turn = self.turn().await?;
        let cache = self.open_cache()?;
        blocking(move || cache.verify()).await
    }

    /// Drops the value of `mapping`. Says whether there was one.
    ///
    /// # Errors
    /// What [`Cache::invalidate`] says, and why the cache is closed: its file may well have the
    /// value. A cache that is off or not there has nothing to drop.
    pub async fn invalidate(&self, mapping: &Mapping) -> Result<bool> {
        let _turn = self.turn().await?;
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
        keep: BTreeMap<String, Vec<Mapping>>,
        forget: Vec<String>,
    ) -> Result<usize> {
        let _turn = self.turn().await?;
        let cache = match self.state() {
            State::Off | State::Absent => return Ok(0),
            _ => self.open_cache()?,
        };
        let keys = |mappings: Vec<Mapping>| {
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
            other => Err(other
                .not_open()
                .during("local values are in the cache only")),
        }
    }

    /// Runs `work` on the open cache; nothing if it is not open.
    ///
    /// # Errors
    /// What `work` says.
    pub async fn if_open<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Cache) -> Result<T> + Send + 'static,
    ) -> Result<Option<T>> {
        let _turn = self.turn().await?;
        match self.state() {
            State::Open(cache) => blocking(move || work(&cache).map(Some)).await,
            _ => Ok(None),
        }
    }

    fn open_cache(&self) -> Result<Arc<Cache>> {
        match self.state() {
            State::Open(cache) => Ok(cache),
            other => Err(other.not_open()),
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

fn log_attempt(attempt: &Attempt) {
    let (name, took) = (attempt.name(), attempt.took.as_millis());
    match &attempt.failure {
        None => info!("{name} opened the cache in {took} ms"),
        Some(_) if !attempt.was_made() => info!("{name} was not tried: it waits for its key"),
        Some(error) => {
            events::SLOT_NOT_OPENED.say_why(
                error.kind(),
                format_args!(
                    "{name} did not open in {took} ms: {error}; next: {}",
                    error.next_step().unwrap_or("see `psi-cachectl slots test`"),
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protector::Credential;

    fn sealed() -> Sealed {
        let file = tempfile::NamedTempFile::new().unwrap();
        let environment = crate::config::Environment::default();
        let config = crate::config::Config::load(Some(file.path()), false, &environment);
        let config = config.unwrap();
        let credential = Credential::delivered(None);
        let devices = Devices::new(&config, credential, |_| unreachable!("no token"));
        Sealed::new(&config.cache, devices)
    }

    /// A device that never answers must not hold up lookups for longer, nor each of them anew.
    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_an_opening_beyond_one_deadline() {
        let sealed = sealed();
        let start = Instant::now();
        assert_eq!(sealed.settled().await.name(), "opening");
        assert_eq!(start.elapsed(), OPENING_PATIENCE);
        assert_eq!(sealed.settled().await.name(), "opening");
        assert_eq!(start.elapsed(), OPENING_PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_behind_one_that_does_not_end_is_refused_in_time() {
        let sealed = sealed();
        let _other = sealed.turn().await.unwrap();
        let error = sealed.turn().await.unwrap_err();
        assert!(error.to_string().contains("has not ended"), "{error}");
    }
}
