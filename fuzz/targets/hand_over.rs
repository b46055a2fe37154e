//! A hand-over, read as it comes: it means what it means read as a whole, however it is cut into
//! parts, and what is none says nothing of what is in it.

#![no_main]

use std::io::Read;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use libfuzzer_sys::fuzz_target;
use psi::mapping::Mapping;
use psi::secret::SecretValue;
use psi::wire::{Entry, HandOver, Receiver, WorkloadEntries, read_hand_over};
use psi::{Error, Result};
use psi_fuzz::assert_proper;
use serde_json::Value;

/// Every workload with what it gets, in the order in which it came.
type Given = Vec<(String, Vec<(Mapping, Vec<u8>)>)>;

#[derive(Default)]
struct Kept(Given);

impl Receiver for Kept {
    type Value = Vec<u8>;

    fn workload(&mut self, name: &str) -> Result<()> {
        self.0.push((name.to_owned(), Vec::new()));
        Ok(())
    }

    fn value(&mut self, base64: &str) -> Option<Vec<u8>> {
        BASE64.decode(base64).ok()
    }

    fn entry(&mut self, mapping: &Mapping, value: Vec<u8>) -> Result<()> {
        let (_, entries) = self
            .0
            .last_mut()
            .expect("a workload comes before its entries");
        entries.push((mapping.clone(), value));
        Ok(())
    }
}

fn read(json: impl Read) -> Result<Given, Error> {
    let mut kept = Kept::default();
    read_hand_over(json, &mut kept)?;
    Ok(kept.0)
}

fuzz_target!(|data: &[u8]| {
    let given = read(data);
    let (head, tail) = data.split_at(data.len() / 2);
    let in_parts = read(head.chain(tail));
    match (given, in_parts) {
        (Ok(given), in_parts) => {
            assert_eq!(in_parts.expect("it is the same text"), given);
            check(&given, data);
        }
        (Err(error), in_parts) => {
            assert_proper(&error);
            assert!(in_parts.is_err());
        }
    }
});

fn check(given: &Given, data: &[u8]) {
    let value: Value = serde_json::from_slice(data).expect("a hand-over is JSON");
    // Of a name that comes twice, the last one counts there.
    let mut names: Vec<&str> = given.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| pair[0] == pair[1]) {
        return;
    }
    let workloads = value["workloads"].as_object().expect("it was read as one");
    assert_eq!(workloads.len(), given.len());
    for (name, entries) in given {
        let whole = workloads[name]["entries"]
            .as_array()
            .expect("they are a list");
        assert_eq!(whole.len(), entries.len());
        for (whole, (mapping, value)) in whole.iter().zip(entries) {
            let text = whole["mapping"].to_string();
            assert_eq!(
                &Mapping::parse(text.as_bytes()).expect("it was one"),
                mapping
            );
            let text = whole["value"].as_str().expect("a value is a text");
            assert_eq!(&BASE64.decode(text).expect("it was base64"), value);
        }
    }
    survives_json(given);
}

/// It is written as it is read.
fn survives_json(given: &Given) {
    let entry = |(mapping, value): &(Mapping, Vec<u8>)| Entry {
        mapping: mapping.clone(),
        value: SecretValue::new(value.clone()),
    };
    let workload = |(name, entries): &(String, Vec<_>)| {
        let entries = entries.iter().map(entry).collect();
        (name.clone(), WorkloadEntries { entries })
    };
    let workloads = given.iter().map(workload).collect();
    let json = HandOver { workloads }
        .to_json()
        .expect("it was smaller than the limit");
    let mut again = read(json.as_bytes()).expect("it was written as it is read");
    let mut given = given.clone();
    for given in [&mut again, &mut given] {
        given.sort_by(|(a, _), (b, _)| a.cmp(b));
    }
    assert_eq!(again, given);
}
