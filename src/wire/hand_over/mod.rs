//! `POST /cache/<provider>`: everything the provider has for the workloads named.
//!
//! ```json
//! {"workloads": {"myapp": {"entries": [{"mapping": {…}, "value": "<base64>"}]}}}
//! ```
//!
//! It is written in one piece and read as it comes, since it may be far larger than all else in
//! memory.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use zeroize::Zeroizing;

use crate::error::{Error, Kind, Result};
use crate::mapping::Mapping;
use crate::secret::SecretValue;

mod read;

pub use read::{Receiver, read};

/// Largest hand-over, in bytes of JSON.
pub const MAX_HAND_OVER: usize = 64 << 20;

/// What psi-setup hands over. A workload that is absent keeps what it has.
#[derive(Debug, Default)]
pub struct HandOver {
    /// What each workload gets, complete.
    pub workloads: BTreeMap<String, WorkloadEntries>,
}

/// One workload of a hand-over.
#[derive(Debug, Default)]
pub struct WorkloadEntries {
    /// Its secrets, one per mapping.
    pub entries: Vec<Entry>,
}

/// One secret of a hand-over.
#[derive(Debug)]
pub struct Entry {
    /// Where the value is.
    pub mapping: Mapping,
    /// The value; base64 in JSON.
    pub value: SecretValue,
}

impl HandOver {
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

fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn mapping_json(mapping: &Mapping) -> String {
    String::from_utf8_lossy(&mapping.canonical()).into_owned()
}
