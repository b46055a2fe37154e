//! `cache.enc`, version 2, on disk: nothing opens but what was sealed, and not one byte of it may
//! change.
//!
//! A file that begins with `{` is a header, a newline and a value, which are sealed first.

#![no_main]

use libfuzzer_sys::fuzz_target;
use psi::cache::envelope::{open, read_header, seal, version};
use psi::cache::{Header, Keyer, Table};
use psi::locked::Locked;
use psi::mapping::{Mapping, ProviderName};
use psi_fuzz::{assert_damaged, has_fraction, seed_key};

const SEALED: &[u8] = include_bytes!("../seeds/envelope_v2/sealed");

fuzz_target!(|data: &[u8]| {
    check_file(data);
    if data.first() == Some(&b'{') {
        let end = data.iter().position(|&byte| byte == b'\n');
        let (header, contents) = data.split_at(end.unwrap_or(data.len()));
        if let Ok(header) = serde_json::from_slice::<Header>(header)
            && !is_inexact(&header)
        {
            check_sealed(&header, contents);
        }
    }
});

/// Nobody can make a file that opens, so that one was sealed.
fn check_file(data: &[u8]) {
    match open(Locked::copy_of(data), &seed_key()) {
        Ok(_) => assert_eq!(data, SEALED),
        Err(error) => assert_damaged(&error),
    }
    match read_header(data) {
        Ok(header) if is_inexact(&header) => {}
        Ok(header) => {
            assert_eq!(version(data), Some(2));
            let json = serde_json::to_vec(&header).expect("a header can be written");
            let again: Header = serde_json::from_slice(&json).expect("it was written");
            assert_eq!(again, header);
        }
        Err(error) => assert_damaged(&error),
    }
}

fn is_inexact(header: &Header) -> bool {
    let mut fields = header.slots.iter().flat_map(|slot| slot.fields.values());
    fields.any(has_fraction)
}

fn check_sealed(header: &Header, contents: &[u8]) {
    let key = Keyer::new(&seed_key()).entry_key(&Mapping::new(ProviderName::Local, []));
    let entries = [(&key, contents)].into_iter();
    let mut table = Table::build(seed_key().expose(), entries).expect("it is small");
    let parts = |parts: &[&[u8]]| Ok(parts.concat());
    let Ok(file) = seal(header, &seed_key(), &mut table, parts) else {
        return;
    };
    let (again, opened) = open(Locked::copy_of(&file), &seed_key()).expect("it was sealed");
    assert_eq!(again, *header);
    assert_eq!(opened.get(&key), Some(contents));
    let at = contents.iter().fold(header.generation, |at, &byte| {
        at.wrapping_mul(31).wrapping_add(byte.into())
    });
    let mut altered = Locked::copy_of(&file);
    let at = (at % altered.len() as u64) as usize;
    altered[at] ^= 1 << (at % 8);
    assert_damaged(&open(altered, &seed_key()).err().expect("a bit was changed"));
}
