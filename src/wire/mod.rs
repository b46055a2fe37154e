//! The JSON bodies that psi-setup, psi-cachectl and psi-serve exchange over the socket.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use zeroize::Zeroizing;

use crate::cache::Header;
use crate::error::{Error, Kind, Result};
use crate::mapping::Mapping;
use crate::secret::SecretValue;

mod slots;

pub use slots::{
    AddSlot, Attempted, Init, Initialised, NewRecoveryKey, RecoveryText, ResealSlots, SlotChange,
    SlotKey, Slots, SlotsChanged, Trouble,
};

/// Largest hand-over, in bytes of JSON.
pub const MAX_HAND_OVER: usize = 64 << 20;

/// `POST /cache/<provider>`: everything the provider has for the workloads named.
///
/// A workload that is absent keeps what it has.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandOver {
    /// What each workload gets, complete.
    pub workloads: BTreeMap<String, WorkloadEntries>,
}

/// One workload of a hand-over.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadEntries {
    /// Its secrets, one per mapping.
    pub entries: Vec<Entry>,
}

/// One secret of a hand-over.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Where the value is.
    pub mapping: Mapping,
    /// The value; base64 in JSON.
    #[serde(deserialize_with = "value_from_base64")]
    pub value: SecretValue,
}

fn value_from_base64<'de, D: Deserializer<'de>>(
    d: D,
) -> std::result::Result<SecretValue, D::Error> {
    let text = SecretValue::deserialize(d)?;
    BASE64
        .decode(text.expose())
        .map(SecretValue::new)
        .map_err(|_| D::Error::custom("a value is not base64"))
}

impl HandOver {
    /// Whether there is anything to keep in it.
    pub fn has_values(&self) -> bool {
        self.workloads.values().any(|w| !w.entries.is_empty())
    }

    /// The JSON text, in memory that is wiped when dropped and never reallocated on the way.
    ///
    /// # Errors
    /// [`Kind::Refused`] if it is larger than [`MAX_HAND_OVER`].
    pub fn to_json(&self) -> Result<Zeroizing<String>> {
        let size = self.json_size();
        if size > MAX_HAND_OVER {
            return Err(Error::new(
                Kind::Refused,
                format!("the values come to {size} bytes, more than {MAX_HAND_OVER}"),
            )
            .hint("split the workloads over several runs, or drop large values"));
        }
        let mut json = Zeroizing::new(String::with_capacity(size));
        json.push_str("{\"workloads\":{");
        for (i, (name, workload)) in self.workloads.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            let _ = write!(json, "{comma}{}:{{\"entries\":[", json_string(name));
            for (i, entry) in workload.entries.iter().enumerate() {
                let comma = if i > 0 { "," } else { "" };
                let _ = write!(
                    json,
                    "{comma}{{\"mapping\":{}",
                    mapping_json(&entry.mapping)
                );
                json.push_str(",\"value\":\"");
                BASE64.encode_string(entry.value.expose(), &mut json);
                json.push_str("\"}");
            }
            json.push_str("]}");
        }
        json.push_str("}}");
        Ok(json)
    }

    /// An upper bound of the JSON text's length.
    fn json_size(&self) -> usize {
        let entry = |e: &Entry| {
            mapping_json(&e.mapping).len() + e.value.expose().len().div_ceil(3) * 4 + 32
        };
        let workload = |(name, w): (&String, &WorkloadEntries)| {
            json_string(name).len() + 32 + w.entries.iter().map(entry).sum::<usize>()
        };
        32 + self.workloads.iter().map(workload).sum::<usize>()
    }
}

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

fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn mapping_json(mapping: &Mapping) -> String {
    String::from_utf8_lossy(&mapping.canonical()).into_owned()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::ProviderName;

    #[test]
    fn a_hand_over_survives_the_way_through_json() {
        let mapping = Mapping::new(ProviderName::Infisical, [("key", "Ä\"\n")]);
        let value = SecretValue::new(vec![0, 10, 255]);
        let entries = vec![Entry {
            mapping: mapping.clone(),
            value,
        }];
        let workloads = BTreeMap::from([("my\"app".to_owned(), WorkloadEntries { entries })]);
        let json = HandOver { workloads }.to_json().unwrap();
        let back: HandOver = serde_json::from_str(&json).unwrap();
        let entry = &back.workloads["my\"app"].entries[0];
        assert_eq!(entry.mapping, mapping);
        assert_eq!(entry.value.expose(), [0, 10, 255]);
    }

    #[test]
    fn an_error_about_a_hand_over_quotes_no_value() {
        let json = r#"{"workloads":{"a":{"entries":[{"mapping":{"provider":"local"},"value":"hunter2!"}]}}}"#;
        let error = serde_json::from_str::<HandOver>(json)
            .unwrap_err()
            .to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }
}
