//! The small JSON bodies of the socket: what is taken is the same after another way through JSON.

#![no_main]

use libfuzzer_sys::fuzz_target;
use psi::wire::{Check, Init, Invalidate, Prune, Slots, to_secret_json};
use serde::Serialize;
use serde::de::DeserializeOwned;

fuzz_target!(|data: &[u8]| {
    is_stable::<Check>(data);
    is_stable::<Init>(data);
    is_stable::<Invalidate>(data);
    is_stable::<Prune>(data);
    is_stable::<Slots>(data);
});

fn is_stable<T: Serialize + DeserializeOwned>(data: &[u8]) {
    if let Ok(body) = serde_json::from_slice::<T>(data) {
        let json = to_secret_json(&body).expect("it can be written");
        let again: T = serde_json::from_slice(&json).expect("it was written as it is read");
        assert_eq!(to_secret_json(&again).expect("as before"), json);
    }
}
