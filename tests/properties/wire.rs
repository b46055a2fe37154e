//! The JSON bodies of the socket survive the way over it.

use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use psi::mapping::{Mapping, ProviderName};
use psi::secret::SecretValue;
use psi::wire::{
    Checked, CheckedId, Counts, Entry, Folder, HandOver, HandedOver, Trouble, WorkloadEntries,
};

use crate::cases;

type Values = BTreeMap<String, BTreeMap<String, Vec<u8>>>;

fn values() -> impl Strategy<Value = Values> {
    let entries = btree_map(any::<String>(), vec(any::<u8>(), 0..50), 0..6);
    btree_map(any::<String>(), entries, 0..4)
}

fn entry(key: &str, value: &[u8]) -> Entry {
    Entry {
        mapping: Mapping::new(ProviderName::Infisical, [("key", key)]),
        value: SecretValue::new(value.to_vec()),
    }
}

fn hand_over(values: &Values) -> HandOver {
    let workload = |(name, entries): (&String, &BTreeMap<String, Vec<u8>>)| {
        let entries = entries.iter().map(|(k, v)| entry(k, v)).collect();
        (name.clone(), WorkloadEntries { entries })
    };
    HandOver {
        workloads: values.iter().map(workload).collect(),
    }
}

fn values_of(hand_over: &HandOver) -> Values {
    let entry = |e: &Entry| {
        let key = e.mapping.get("key").unwrap_or_default();
        (key.to_owned(), e.value.expose().to_vec())
    };
    let workloads = hand_over.workloads.iter();
    workloads
        .map(|(name, w)| (name.clone(), w.entries.iter().map(entry).collect()))
        .collect()
}

fn checked() -> impl Strategy<Value = Checked> {
    let id = (
        any::<Option<String>>(),
        any::<Option<(String, String)>>(),
        any::<bool>(),
        any::<bool>(),
        btree_map(any::<String>(), any::<u64>(), 0..3),
    );
    let id = id.prop_map(|(digest, folder, sealed, unresolved, owners)| CheckedId {
        digest,
        folder: folder.map(|(project, path)| Folder { project, path }),
        sealed,
        unresolved,
        owners,
    });
    (
        vec(any::<bool>(), 0..5),
        vec(any::<bool>(), 0..5),
        vec(any::<bool>(), 0..5),
        vec(id, 0..5),
        vec(any::<String>(), 0..3),
        any::<Option<(String, Option<String>)>>(),
    )
        .prop_map(
            |(mappings, variables, resolved, ids, workloads, closed)| Checked {
                closed: closed.map(|(what, next)| Trouble { what, next }),
                mappings,
                variables,
                resolved,
                ids,
                workloads,
            },
        )
}

fn handed_over() -> impl Strategy<Value = HandedOver> {
    let counts = any::<(usize, usize, usize)>().prop_map(|(stored, unchanged, retired)| Counts {
        stored,
        unchanged,
        retired,
    });
    (any::<u64>(), btree_map(any::<String>(), counts, 0..4)).prop_map(|(generation, workloads)| {
        HandedOver {
            generation,
            workloads,
        }
    })
}

proptest! {
    #![proptest_config(cases(128))]

    #[test]
    fn a_hand_over_arrives_as_it_was_sent(values in values()) {
        let sent = hand_over(&values);
        let json = sent.to_json().unwrap();
        let arrived: HandOver = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(values_of(&arrived), values);
        prop_assert_eq!(arrived.has_values(), sent.has_values());
        let ordinary: serde_json::Value = serde_json::from_str(&json).unwrap();
        prop_assert!(ordinary["workloads"].is_object());
    }

    #[test]
    fn answers_arrive_as_they_were_sent(checked in checked(), handed_over in handed_over()) {
        let json = serde_json::to_vec(&checked).unwrap();
        prop_assert_eq!(serde_json::from_slice::<Checked>(&json).unwrap(), checked);
        let json = serde_json::to_vec(&handed_over).unwrap();
        prop_assert_eq!(serde_json::from_slice::<HandedOver>(&json).unwrap(), handed_over);
    }
}
