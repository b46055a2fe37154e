//! `cache.enc`, version 2, on disk: nothing opens but what was sealed, and not one byte of it may
//! change.
//!
//! A file that begins with `{` is a header, a newline and contents, which are sealed first.

#![no_main]

use libfuzzer_sys::fuzz_target;
use psi::cache::Header;
use psi::cache::envelope::{open, read_header, seal, version};
use psi_fuzz::{assert_damaged, has_fraction, seed_key};
use zeroize::Zeroizing;

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
    match open(&mut Zeroizing::new(data.to_vec()), &seed_key()) {
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
    let Ok(file) = seal(header, &seed_key(), contents) else {
        return;
    };
    let mut opened = Zeroizing::new(file.clone());
    let (again, plain) = open(&mut opened, &seed_key()).expect("it was sealed");
    assert_eq!(again, *header);
    assert_eq!(&opened[plain], contents);
    let at = contents.iter().fold(header.generation, |at, &byte| {
        at.wrapping_mul(31).wrapping_add(byte.into())
    });
    let mut altered = Zeroizing::new(file);
    let at = (at % altered.len() as u64) as usize;
    altered[at] ^= 1 << (at % 8);
    assert_damaged(&open(&mut altered, &seed_key()).expect_err("a bit was changed"));
}
