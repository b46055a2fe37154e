//! Slots in a cache's header, those of a TPM above all: what is read is written as it was.

#![no_main]

use libfuzzer_sys::fuzz_target;
use psi::cache::Keyslot;
use psi::protector::{Binding, SealedKey, SlotFields};
use psi_fuzz::{assert_damaged, has_fraction, object};

fuzz_target!(|data: &[u8]| {
    if let Some(fields) = object(data) {
        check_fields(&fields);
    }
    if let Ok(slot) = serde_json::from_slice::<Keyslot>(data)
        && !slot.fields.values().any(has_fraction)
    {
        let json = serde_json::to_vec(&slot).expect("a slot can be written");
        let again: Keyslot = serde_json::from_slice(&json).expect("it was written as it is read");
        assert_eq!(again, slot);
        check_fields(&slot.fields);
    }
});

fn check_fields(fields: &SlotFields) {
    let sealed = match SealedKey::from_fields(fields) {
        Ok(sealed) => sealed,
        Err(error) => {
            assert_eq!(Binding::of(fields), None);
            return assert_damaged(&error);
        }
    };
    let written = sealed.to_fields();
    assert!(written.iter().all(|(name, value)| fields[name] == *value));
    let binding = Binding::of(fields).expect("it is readable");
    assert!(binding.pcrs.iter().eq(sealed.pcrs.keys()));
    assert!(sealed.pcrs.values().all(|value| value.len() == 32));
}
