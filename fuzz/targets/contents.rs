//! The contents of a cache of version 2, once they are decrypted: a table of values, and in one of
//! them the list of owners.

#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use psi::cache::{EntryKey, Keyer, Owners, Table};
use psi::gcm::{NONCE_LEN, TAG_LEN};
use psi::locked::Locked;
use psi::mapping::{Mapping, ProviderName};
use psi_fuzz::{assert_damaged, seed_key};

fuzz_target!(|data: &[u8]| {
    check_owners(data, u32::MAX as usize);
    let buffer = [&[0; NONCE_LEN], data, &[0; TAG_LEN]].concat();
    let plain = NONCE_LEN..NONCE_LEN + data.len();
    match Table::parse(Locked::copy_of(&buffer), plain) {
        Ok(table) => check_table(&table, data),
        Err(error) => assert_damaged(&error),
    }
});

fn check_table(table: &Table, data: &[u8]) {
    assert_eq!(table.text(), data);
    let entries: Vec<(EntryKey, &[u8])> = table.entries().collect();
    assert!(entries.is_sorted_by(|(a, _), (b, _)| a < b));
    let model: BTreeMap<EntryKey, &[u8]> = entries.iter().copied().collect();
    for (key, value) in &model {
        assert_eq!(table.get(key), Some(*value));
        check_owners(value, entries.len());
    }
    let other = Mapping::new(ProviderName::Local, []);
    let other = Keyer::new(&seed_key()).entry_key(&other);
    assert_eq!(table.get(&other), model.get(&other).copied());
    let rebuilt = Table::build(table.hmac_key(), entries.iter().map(|(k, v)| (k, *v)))
        .expect("it is no larger than its values");
    assert!(rebuilt.entries().eq(table.entries()));
    assert_eq!(rebuilt.hmac_key(), table.hmac_key());
}

fn check_owners(data: &[u8], records: usize) {
    match Owners::parse(Some(data), records) {
        Ok(owners) => {
            let bytes = owners.to_bytes();
            let again = Owners::parse(Some(&bytes), records).expect("it was written as it is read");
            assert_eq!(again, owners);
            assert_eq!(again.to_bytes(), bytes);
            assert!(
                owners
                    .owned()
                    .iter()
                    .all(|place| (1..records).contains(&(*place as usize)))
            );
            assert!(owners.workloads().all(|name| !["", "\0"].contains(&name)));
        }
        Err(error) => assert_damaged(&error),
    }
}
