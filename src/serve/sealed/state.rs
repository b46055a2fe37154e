//! What can be asked of the sealed cache, and what is said if nothing can.

use std::path::Path;
use std::sync::Arc;

use crate::cache::{Cache, Header};
use crate::error::{Error, Kind};

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
    Closed(Arc<Closed>),
}

/// Why a cache is closed, and what becomes of it.
pub struct Closed {
    /// Why, and the next step.
    pub error: Error,
    /// Whether the first hand-over puts the file aside and starts a new one.
    pub is_replaceable: bool,
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
            other => Some(other.not_open().to_string()),
        }
    }

    /// What to do where there is trouble.
    pub fn next_step(&self) -> Option<String> {
        match self {
            State::Open(_) | State::Off => None,
            other => other.not_open().next_step().map(str::to_owned),
        }
    }

    /// Why it is not open.
    pub fn not_open(&self) -> Error {
        match self {
            State::Off => Error::new(
                Kind::Refused,
                "no cache is kept: `cache.backend` is not set",
            )
            .hint("set `cache.backend: tpm` in config.yaml, or leave it: lookups are live"),
            State::Closed(closed) => closed.error.again(),
            State::Absent => Error::new(Kind::NotFound, "there is no cache file yet")
                .hint("`systemctl restart psi-infisical-setup.service` fills one"),
            State::Opening | State::Open(_) => {
                Error::new(Kind::Unreachable, "the cache is still being opened")
                    .hint("try again; `journalctl -u psi-secrets` shows what it waits for")
            }
        }
    }
}

/// An open cache is not replaced unless that is asked for.
pub fn already_open(path: &Path) -> Error {
    let what = format!("{} is open and in use", path.display());
    Error::new(Kind::Refused, what)
        .hint("`psi-cachectl status` describes it; `--force` puts it aside and starts anew")
}
