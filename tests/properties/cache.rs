//! `cache.enc`, version 2: what is sealed opens again as it was, and is found like in a map.

use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use psi::Kind;
use psi::cache::envelope::{NewSlot, open, read_header, seal};
use psi::cache::{EntryKey, Header, Keyer, Keyslot, Table};
use psi::locked::Locked;
use psi::mapping::{Mapping, ProviderName};
use psi::protector::{Key, SlotFields, SlotKind};

use crate::cases;

fn key() -> impl Strategy<Value = Key> {
    any::<[u8; 32]>().prop_map(|bytes| Key::from_bytes(&bytes).unwrap())
}

fn values() -> impl Strategy<Value = BTreeMap<String, Vec<u8>>> {
    btree_map("[A-Za-z0-9_]{1,6}", vec(any::<u8>(), 0..100), 0..40)
}

fn mapping(name: &str) -> Mapping {
    Mapping::new(ProviderName::Infisical, [("key", name)])
}

/// What the table is to hold.
fn model(values: &BTreeMap<String, Vec<u8>>, keyer: &Keyer) -> BTreeMap<EntryKey, Vec<u8>> {
    let entry =
        |(name, value): (&String, &Vec<u8>)| (keyer.entry_key(&mapping(name)), value.clone());
    values.iter().map(entry).collect()
}

fn build(hmac_key: &Key, model: &BTreeMap<EntryKey, Vec<u8>>) -> Table {
    let entries = model.iter().map(|(key, value)| (key, value.as_slice()));
    Table::build(hmac_key.expose(), entries).unwrap()
}

fn kind() -> impl Strategy<Value = SlotKind> {
    use SlotKind::{Credential, Pkcs11, Recovery, Tpm2};
    prop::sample::select(vec![Credential, Tpm2, Pkcs11, Recovery])
}

/// A slot that `slot_key` opens, with fields of its protector's own.
fn slots(data_key: [u8; 32]) -> impl Strategy<Value = Vec<(Keyslot, Key)>> {
    let fields = btree_map("x_[a-z]{0,5}", any::<String>(), 0..4);
    let slot = (
        key(),
        any::<u32>(),
        kind(),
        any::<String>(),
        any::<u64>(),
        fields,
    );
    let slot = slot.prop_map(move |(slot_key, id, kind, label, created_at, fields)| {
        let fields: SlotFields = fields.into_iter().map(|(k, v)| (k, v.into())).collect();
        let slot = NewSlot {
            key_id: KEY_ID,
            id,
            kind,
            label: &label,
            created_at,
            fields,
        };
        let data_key = Key::from_bytes(&data_key).unwrap();
        (Keyslot::wrap(slot, &slot_key, &data_key).unwrap(), slot_key)
    });
    vec(slot, 0..4)
}

const KEY_ID: &str = "0011223344556677";
const DATA_KEY: [u8; 32] = [5; 32];

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn a_table_answers_like_a_map(
        values in values(), asked in values(), hmac_key in key(),
    ) {
        let keyer = Keyer::new(&hmac_key);
        let model = model(&values, &keyer);
        let table = build(&hmac_key, &model);
        for name in values.keys().chain(asked.keys()) {
            let key = keyer.entry_key(&mapping(name));
            prop_assert_eq!(table.get(&key), values.get(name).map(Vec::as_slice), "{}", name);
        }
        let entries = table.entries().map(|(key, value)| (key, value.to_vec()));
        prop_assert_eq!(entries.collect::<Vec<_>>(), model.into_iter().collect::<Vec<_>>());
        prop_assert_eq!(table.hmac_key(), hmac_key.expose());
    }

    #[test]
    fn a_sealed_table_opens_as_it_was_and_with_its_key_only(
        values in values(),
        slots in slots(DATA_KEY),
        generation in any::<u64>(),
        written_at in any::<u64>(),
        other in key(),
        next_slot in any::<u32>(),
        at in any::<prop::sample::Index>(),
        bit in 0..8,
    ) {
        let data_key = Key::from_bytes(&DATA_KEY).unwrap();
        let hmac_key = Key::from_bytes(&[6; 32]).unwrap();
        let model = model(&values, &Keyer::new(&hmac_key));
        let mut table = build(&hmac_key, &model);
        let header = Header {
            key_id: KEY_ID.to_owned(),
            generation,
            written_at,
            entries: values.len() as u64,
            local: 0,
            next_slot,
            slots: slots.iter().map(|(slot, _)| slot.clone()).collect(),
        };
        let file = seal(&header, &data_key, &mut table, |parts| Ok(parts.concat())).unwrap();
        prop_assert_eq!(read_header(&file).unwrap(), header.clone());

        let (again, again_table) = open(Locked::copy_of(&file), &data_key).unwrap();
        prop_assert_eq!(&again, &header);
        prop_assert_eq!(again_table.text(), table.text());
        for (slot, slot_key) in again.slots.iter().zip(slots.iter().map(|(_, key)| key)) {
            let unwrapped = slot.unwrap(KEY_ID, slot_key).unwrap();
            prop_assert_eq!(unwrapped.expose(), &DATA_KEY);
            let error = slot.unwrap(KEY_ID, &other).unwrap_err();
            prop_assert!(matches!(error.kind(), Kind::Denied | Kind::Damaged));
        }

        let damaged = |file: &[u8], key: &Key| {
            open(Locked::copy_of(file), key).err().unwrap().kind() == Kind::Damaged
        };
        prop_assert!(damaged(&file, &other));
        prop_assert!(damaged(&file[..at.index(file.len())], &data_key));
        let mut altered = file;
        let at = at.index(altered.len());
        altered[at] ^= 1u8 << bit;
        prop_assert!(damaged(&altered, &data_key));
    }
}
