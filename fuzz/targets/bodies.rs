//! The JSON bodies of the socket: what is taken is the same after another way through JSON.

#![no_main]

use libfuzzer_sys::fuzz_target;
use psi::wire::{Check, HandOver, Init, Invalidate, Prune, Slots, to_secret_json};
use serde::Serialize;
use serde::de::DeserializeOwned;

fuzz_target!(|data: &[u8]| {
    if let Ok(hand_over) = serde_json::from_slice::<HandOver>(data) {
        survives_json(&hand_over);
    }
    is_stable::<Check>(data);
    is_stable::<Init>(data);
    is_stable::<Invalidate>(data);
    is_stable::<Prune>(data);
    is_stable::<Slots>(data);
});

fn survives_json(hand_over: &HandOver) {
    let json = hand_over.to_json().expect("it was smaller than the limit");
    let again: HandOver = serde_json::from_str(&json).expect("it was written as it is read");
    assert_eq!(again.to_json().expect("as before"), json);
    assert_eq!(again.has_values(), hand_over.has_values());
    assert!(again.workloads.keys().eq(hand_over.workloads.keys()));
    let entries = |h: &HandOver| -> Vec<(Vec<u8>, Vec<u8>)> {
        let entries = h.workloads.values().flat_map(|w| &w.entries);
        entries
            .map(|e| (e.mapping.canonical(), e.value.expose().to_vec()))
            .collect()
    };
    assert_eq!(entries(&again), entries(hand_over));
}

fn is_stable<T: Serialize + DeserializeOwned>(data: &[u8]) {
    if let Ok(body) = serde_json::from_slice::<T>(data) {
        let json = to_secret_json(&body).expect("it can be written");
        let again: T = serde_json::from_slice(&json).expect("it was written as it is read");
        assert_eq!(to_secret_json(&again).expect("as before"), json);
    }
}
