//! The hybrid envelope: it opens only as it was sealed, and the token is asked at most once, for
//! nothing but the encrypted key in it.
//!
//! What is fuzzed is an envelope first, and then the value that one is made of.

#![no_main]

use libfuzzer_sys::fuzz_target;
use psi::gcm::{NONCE_LEN, TAG_LEN, cipher, encrypt_in_place};
use psi::protector::Key;
use psi::{Result, hybrid};
use psi_fuzz::{assert_damaged, key, seed_key};

/// The vector of version 1.
const SEALED: &[u8] = include_bytes!("../seeds/hybrid/sealed");

/// Stands for the encrypted key of what is sealed here.
const WRAPPED: [u8; 256] = [7; 256];

fuzz_target!(|data: &[u8]| {
    check_envelope(data);
    check_value(data);
});

/// Nobody can make a value that opens, so that one was sealed.
fn check_envelope(data: &[u8]) {
    // The bytes of the vector's key count up from 0x40.
    let of_vector = key(&std::array::from_fn(|at| 0x40 + at as u8));
    let (opened, asked) = open(data, of_vector);
    match hybrid::wrapped_key(data) {
        Err(error) => {
            assert_damaged(&error);
            assert_eq!(asked, None);
        }
        Ok(wrapped) => {
            let length = u16::from_be_bytes([data[0], data[1]]);
            assert_eq!(wrapped, 2..2 + usize::from(length));
            assert!(data.len() >= wrapped.end + NONCE_LEN + TAG_LEN);
            assert_eq!(asked.as_deref(), Some(&data[wrapped]));
        }
    }
    match opened {
        // The encrypted key is the token's to check, and this one gives the same for any.
        Ok(value) => assert_eq!(after_key(data), after_key(SEALED), "{} bytes", value.len()),
        Err(error) => assert_damaged(&error),
    }
}

fn after_key(envelope: &[u8]) -> &[u8] {
    let wrapped = hybrid::wrapped_key(envelope).expect("it has opened");
    &envelope[wrapped.end..]
}

fn check_value(value: &[u8]) {
    let mut sealed = [&[0; NONCE_LEN], value, &[0; TAG_LEN]].concat();
    let cipher = cipher(&seed_key()).expect("a key of 32 bytes");
    encrypt_in_place(&cipher, &[], &mut sealed).expect("it can be sealed");
    let mut envelope = [b"\x01\x00", WRAPPED.as_slice(), &sealed].concat();
    let (opened, asked) = open(&envelope, seed_key());
    assert_eq!(opened.expect("it was sealed"), value);
    assert_eq!(asked.as_deref(), Some(WRAPPED.as_slice()));

    // The value decides which byte is altered, or where the end is cut.
    let sum = value.iter().fold(value.len(), |sum, byte| {
        sum * 31 % 65_521 + usize::from(*byte)
    });
    let at = 2 + WRAPPED.len() + sum % sealed.len();
    let (cut, _) = open(&envelope[..at], seed_key());
    assert_damaged(&cut.expect_err("it was cut short"));
    envelope[at] ^= 1;
    let (altered, _) = open(&envelope, seed_key());
    assert_damaged(&altered.expect_err("it was altered"));
}

/// The value, and what the token was asked to decrypt.
fn open(envelope: &[u8], key: Key) -> (Result<Vec<u8>>, Option<Vec<u8>>) {
    let (mut envelope, mut asked) = (envelope.to_vec(), None);
    let opened = hybrid::open(&mut envelope, |wrapped| {
        asked = Some(wrapped.to_vec());
        Ok(key)
    });
    (opened.map(|plain| envelope[plain].to_vec()), asked)
}
