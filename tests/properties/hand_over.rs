//! A hand-over that is read as it comes means what it would mean read as a whole.

use std::collections::BTreeMap;
use std::io::{self, Read};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::Index;
use psi::Result;
use psi::mapping::{Mapping, ProviderName};
use psi::secret::SecretValue;
use psi::wire::{Entry, HandOver, Receiver, WorkloadEntries, read_hand_over};
use serde::Deserialize;

use crate::cases;

/// What each workload gets, in the order in which it came.
type Given = BTreeMap<String, Vec<(Mapping, Vec<u8>)>>;

fn given() -> impl Strategy<Value = Given> {
    let entry = (any::<String>(), vec(any::<u8>(), 0..50));
    let entry = entry.prop_map(|(key, value)| {
        let mapping = Mapping::new(ProviderName::Infisical, [("key", &key)]);
        (mapping, value)
    });
    btree_map(any::<String>(), vec(entry, 0..6), 0..4)
}

fn json(given: &Given) -> Vec<u8> {
    let entry = |(mapping, value): &(Mapping, Vec<u8>)| Entry {
        mapping: mapping.clone(),
        value: SecretValue::new(value.clone()),
    };
    let workload = |(name, entries): (&String, &Vec<_>)| {
        let entries = entries.iter().map(entry).collect();
        (name.clone(), WorkloadEntries { entries })
    };
    let hand_over = HandOver {
        workloads: given.iter().map(workload).collect(),
    };
    hand_over.to_json().unwrap().as_bytes().to_vec()
}

#[derive(Default)]
struct Streamed {
    given: Given,
    workload: String,
}

impl Receiver for Streamed {
    type Value = Vec<u8>;

    fn workload(&mut self, name: &str) -> Result<()> {
        self.workload = name.to_owned();
        self.given.insert(name.to_owned(), Vec::new());
        Ok(())
    }

    fn value(&mut self, base64: &str) -> Option<Vec<u8>> {
        BASE64.decode(base64).ok()
    }

    fn entry(&mut self, mapping: &Mapping, value: Vec<u8>) -> Result<()> {
        let entries = self.given.get_mut(&self.workload).unwrap();
        entries.push((mapping.clone(), value));
        Ok(())
    }
}

fn streamed(json: impl Read) -> Option<Given> {
    let mut streamed = Streamed::default();
    read_hand_over(json, &mut streamed).ok()?;
    Some(streamed.given)
}

/// Gives a few bytes at a time, as a socket may.
struct Pieces<'a> {
    rest: &'a [u8],
    sizes: std::iter::Cycle<std::slice::Iter<'a, usize>>,
}

impl Read for Pieces<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let size = *self.sizes.next().unwrap();
        let length = size.min(room.len()).min(self.rest.len());
        room[..length].copy_from_slice(&self.rest[..length]);
        self.rest = &self.rest[length..];
        Ok(length)
    }
}

/// The same format, read by nothing of PSI's but what a mapping is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Whole {
    workloads: BTreeMap<String, WholeWorkload>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WholeWorkload {
    entries: Vec<WholeEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WholeEntry {
    mapping: Mapping,
    value: String,
}

fn whole(json: &[u8]) -> Option<Given> {
    let whole: Whole = serde_json::from_slice(json).ok()?;
    let entry = |entry: WholeEntry| Some((entry.mapping, BASE64.decode(entry.value).ok()?));
    let workload = |(name, workload): (String, WholeWorkload)| {
        let entries: Option<_> = workload.entries.into_iter().map(entry).collect();
        Some((name, entries?))
    };
    whole.workloads.into_iter().map(workload).collect()
}

/// One byte another, gone, or more.
#[derive(Clone, Debug)]
enum Edit {
    Replace(Index, u8),
    Remove(Index),
    Insert(Index, u8),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let byte = || {
        prop_oneof![
            any::<u8>(),
            prop::sample::select(br#"{}[]":,= \/a"#.to_vec())
        ]
    };
    let edit = prop_oneof![
        (any::<Index>(), byte()).prop_map(|(at, byte)| Edit::Replace(at, byte)),
        any::<Index>().prop_map(Edit::Remove),
        (any::<Index>(), byte()).prop_map(|(at, byte)| Edit::Insert(at, byte)),
    ];
    vec(edit, 1..3)
}

fn edit(mut json: Vec<u8>, edits: &[Edit]) -> Vec<u8> {
    for edit in edits {
        match edit {
            Edit::Replace(at, byte) => {
                let at = at.index(json.len());
                json[at] = *byte;
            }
            Edit::Remove(at) => drop(json.remove(at.index(json.len()))),
            Edit::Insert(at, byte) => json.insert(at.index(json.len()), *byte),
        }
    }
    json
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn a_hand_over_arrives_as_it_was_sent(given in given(), sizes in vec(1..40usize, 1..5)) {
        let json = json(&given);
        let pieces = Pieces { rest: &json, sizes: sizes.iter().cycle() };
        prop_assert_eq!(streamed(pieces), Some(given.clone()));
        prop_assert_eq!(whole(&json), Some(given));
    }

    #[test]
    fn what_is_altered_is_taken_or_refused_alike(given in given(), edits in edits()) {
        let json = edit(json(&given), &edits);
        let text = String::from_utf8_lossy(&json);
        prop_assert_eq!(streamed(json.as_slice()), whole(&json), "{}", text);
    }

    #[test]
    fn a_part_of_a_hand_over_is_none(given in given(), at in any::<Index>()) {
        let json = json(&given);
        prop_assert_eq!(streamed(&json[..at.index(json.len())]), None);
    }
}
