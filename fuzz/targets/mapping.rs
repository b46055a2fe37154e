//! Mappings: what is taken says the same once it is canonical, and stays so.

#![no_main]

use libfuzzer_sys::fuzz_target;
use psi::mapping::Mapping;
use psi_fuzz::{assert_damaged, object};

fuzz_target!(|data: &[u8]| {
    let mapping = match Mapping::parse(data) {
        Ok(mapping) => mapping,
        Err(error) => return assert_damaged(&error),
    };
    let canonical = mapping.canonical();
    assert!(canonical.iter().all(|byte| (b' '..=b'~').contains(byte)));
    let again = Mapping::parse(&canonical).expect("canonical bytes are a mapping");
    assert_eq!(again, mapping);
    assert_eq!(again.canonical(), canonical);
    assert_eq!(object(&canonical), object(data));
    let provider = mapping.provider().as_str();
    assert_eq!(mapping.get("provider"), Some(provider));
});
