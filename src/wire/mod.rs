//! The JSON bodies that psi-setup, psi-cachectl and psi-serve exchange over the socket.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::cache::Header;
use crate::error::{Error, Kind, Result};
use crate::mapping::Mapping;

mod hand_over;
mod slots;

pub use hand_over::{
    Entry, HandOver, MAX_HAND_OVER, Receiver, WorkloadEntries, read as read_hand_over,
};
pub use slots::{
    AddSlot, Attempted, Init, Initialised, NewRecoveryKey, RecoveryText, ResealSlots, SlotChange,
    SlotKey, Slots, SlotsChanged, Trouble,
};

/// Longest JSON text that [`to_secret_json`] writes in one place, in bytes: a few keys.
const SECRET_JSON: usize = 16 << 10;

/// The JSON text of a body that may have a key in it, in memory that is wiped when dropped.
///
/// # Errors
/// [`Kind::Internal`] if it can't be written.
pub fn to_secret_json<T: Serialize>(body: &T) -> Result<Zeroizing<Vec<u8>>> {
    let mut json = Zeroizing::new(Vec::with_capacity(SECRET_JSON));
    serde_json::to_writer(&mut *json, body)
        .map_err(|e| Error::new(Kind::Internal, "cannot write JSON").because(e))?;
    Ok(json)
}

/// The answer to a hand-over.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandedOver {
    /// The generation of the cache that has it all, on disk.
    pub generation: u64,
    /// What became of each workload.
    pub workloads: BTreeMap<String, Counts>,
}

/// What a hand-over changed for one workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// New values and changed ones.
    pub stored: usize,
    /// Values that were there already.
    pub unchanged: usize,
    /// Values the provider no longer has, kept for running containers.
    pub retired: usize,
}

/// `POST /cache/check`: which of these could be answered without a provider?
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Asked by mapping.
    #[serde(default)]
    pub mappings: Vec<Mapping>,
    /// Asked by Podman's id or by name, through the stored mapping.
    #[serde(default)]
    pub ids: Vec<String>,
}

/// The answer to [`Check`], in the same order.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// Whether each mapping's value is sealed in the cache.
    pub mappings: Vec<bool>,
    /// Whether each mapping's value is sealed in the cache and can be a container's variable.
    pub variables: Vec<bool>,
    /// Whether each mapping's value is sealed in the cache and has no reference `${…}` in it.
    pub resolved: Vec<bool>,
    /// What each id stands for.
    pub ids: Vec<CheckedId>,
    /// The workloads that own something in the cache, now or before.
    pub workloads: Vec<String>,
    /// Why the cache is closed, if there is one: nobody knows then what is sealed in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<Trouble>,
}

/// What is known of an id or name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckedId {
    /// [`Mapping::digest`] of its mapping; nothing if it has none that is usable.
    pub digest: Option<String>,
    /// The folder that its mapping names, if it names one.
    pub folder: Option<Folder>,
    /// Whether its value is sealed in the cache.
    pub sealed: bool,
    /// Whether that value has a reference `${…}` in it, as the provider left it.
    pub unresolved: bool,
    /// The workloads that own that value, each with the time since when its provider no longer
    /// has it, in seconds since 1970; 0 while it has.
    pub owners: BTreeMap<String, u64>,
}

/// A folder at a provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Folder {
    /// The project's name in the configuration.
    pub project: String,
    /// Its path, as the mapping spells it.
    pub path: String,
}

impl Folder {
    /// The folder that `mapping` names, if it names one.
    pub fn of(mapping: &Mapping) -> Option<Self> {
        Some(Self {
            project: mapping.get("project")?.to_owned(),
            path: mapping.get("path")?.to_owned(),
        })
    }
}

/// `POST /cache/prune`: drop what the providers no longer have.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prune {
    /// The workloads that are meant, each with Podman's ids of the secrets whose values must stay.
    /// What a provider still has stays anyway.
    #[serde(default)]
    pub keep: BTreeMap<String, Vec<String>>,
    /// Workloads that are no more, and of which nothing is to stay.
    #[serde(default)]
    pub forget: Vec<String>,
}

/// The answer to [`Prune`].
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    /// How many values a workload has no longer. One that another workload owns as well stays.
    pub dropped: usize,
}

/// `POST /cache/invalidate`: drop one value, so that the next lookup is live.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invalidate {
    /// Podman's id, or the name of a mapping.
    pub id: String,
}

/// The answer to [`Invalidate`].
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invalidated {
    /// Whether there was a value to drop.
    pub dropped: bool,
}

/// The answer to `PUT /local/<name>`, whose body is the value as it is.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutLocal {
    /// Whether it was written; not if this very value was there already.
    pub stored: bool,
    /// The generation of the cache that has it, on disk.
    pub generation: u64,
    /// How many slots open that cache.
    pub slots: usize,
}

/// The answer to `DELETE /local/<name>`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedLocal {
    /// Whether there was such a value.
    pub removed: bool,
}

/// What a cache file says of itself, after it was read and authenticated; without its slots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Counts the saves.
    pub generation: u64,
    /// When it was saved, in seconds since 1970.
    pub written_at: u64,
    /// How many values it holds.
    pub entries: u64,
    /// How many of them are kept nowhere else.
    pub local: u64,
}

impl From<&Header> for Verified {
    fn from(header: &Header) -> Self {
        Self {
            generation: header.generation,
            written_at: header.written_at,
            entries: header.entries,
            local: header.local,
        }
    }
}

/// Every error answer of the socket.
#[derive(Debug, Serialize, Deserialize)]
pub struct Failure {
    /// A stable code, e.g. `no_mapping`.
    pub error: String,
    /// What happened.
    pub detail: String,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}
