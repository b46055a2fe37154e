//! How psi-serve is: for `/healthz`, `/status` and systemd's status line. Counts and states,
//! no names.

use std::sync::atomic::Ordering;

use serde::Serialize;

use crate::mapping::ProviderName;
use crate::serve::Server;
use crate::serve::sealed::State;
use crate::wire::{Attempted, Verified};

/// `GET /status`
#[derive(Debug, Serialize)]
pub struct Status {
    version: &'static str,
    /// Whether lookups can be answered: from the open cache, or by a provider beyond it whose last
    /// call did not fail.
    pub healthy: bool,
    /// What is wrong, one sentence each.
    pub why: Vec<String>,
    cache: CacheStatus,
    providers: Vec<ProviderStatus>,
    lookups: LookupStatus,
}

#[derive(Debug, Serialize)]
struct CacheStatus {
    state: &'static str,
    #[serde(flatten)]
    header: Option<Verified>,
    /// What to do if it can't be used.
    next: Option<String>,
    /// How each slot was tried when the cache was last opened, or was not.
    attempts: Vec<Attempted>,
}

#[derive(Debug, Serialize)]
struct ProviderStatus {
    name: &'static str,
    trouble: Option<String>,
}

#[derive(Debug, Serialize)]
struct LookupStatus {
    hits: u64,
    live: u64,
    failed: u64,
    learned: usize,
}

impl Status {
    /// As it is now.
    pub fn of(server: &Server) -> Self {
        let state = server.sealed.state();
        let providers: Vec<ProviderStatus> = server
            .lookups
            .providers()
            .health()
            .into_iter()
            .map(|(name, trouble)| ProviderStatus {
                name: name.as_str(),
                trouble: trouble.map(|kind| kind.to_string()),
            })
            .collect();
        // What is local is in the cache and nowhere else.
        let is_source = |p: &ProviderStatus| p.name != ProviderName::Local.as_str();
        let live = providers
            .iter()
            .any(|p| is_source(p) && p.trouble.is_none());
        Self {
            version: env!("CARGO_PKG_VERSION"),
            healthy: match state {
                State::Open(_) => true,
                State::Opening => false,
                State::Absent | State::Off | State::Closed(_) => live,
            },
            why: why(&state, server.sealed.progress(), &providers),
            cache: CacheStatus {
                state: state.name(),
                header: state.header().as_ref().map(Verified::from),
                next: state.next_step(),
                attempts: server.sealed.attempts(),
            },
            providers,
            lookups: LookupStatus::of(server),
        }
    }

    /// One line for `systemctl status`.
    pub fn line(&self) -> String {
        let entries = self.cache.header.as_ref().map_or(0, |h| h.entries);
        let mut line = format!("cache {}, {entries} values", self.cache.state);
        for trouble in &self.why {
            line.push_str("; ");
            line.push_str(trouble);
        }
        line
    }
}

impl LookupStatus {
    fn of(server: &Server) -> Self {
        let counters = &server.lookups.counters;
        Self {
            hits: counters.hits.load(Ordering::Relaxed),
            live: counters.live.load(Ordering::Relaxed),
            failed: counters.failed.load(Ordering::Relaxed),
            learned: server.lookups.learned(),
        }
    }
}

fn why(state: &State, progress: Option<String>, providers: &[ProviderStatus]) -> Vec<String> {
    let cache = match state {
        State::Opening => progress.or_else(|| state.trouble()),
        _ => state.trouble(),
    };
    let cache = cache.into_iter();
    let none = providers
        .is_empty()
        .then(|| "no provider is configured".to_owned());
    let troubles = providers
        .iter()
        .filter_map(|p| Some(format!("provider {}: {}", p.name, p.trouble.as_ref()?)));
    cache.chain(none).chain(troubles).collect()
}
