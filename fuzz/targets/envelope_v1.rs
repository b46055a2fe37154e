//! `cache.enc`, version 1, and the hybrid envelope in it: nothing opens but what was sealed, and
//! what opens is what its JSON says.
//!
//! A file that begins with `{` is contents, which are sealed first, in both ways.

#![no_main]

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use libfuzzer_sys::fuzz_target;
use psi::cache::v1::Sealed;
use psi::cache::v1::format::{Contents, KeyIn, open};
use psi::gcm::{NONCE_LEN, TAG_LEN, cipher, encrypt_in_place};
use psi::locked::Locked;
use psi::protector::Key;
use psi::{Error, Kind, Result};
use psi_fuzz::{assert_damaged, assert_proper, key, object};
use serde_json::Value;

const TPM_FILE: &[u8] = include_bytes!("../seeds/envelope_v1/tpm_file");
const HSM_FILE: &[u8] = include_bytes!("../seeds/envelope_v1/hsm_file");

/// The first byte of the key that the credential is, and of the one that the token gives back: those
/// of the vectors of version 1, whose bytes count up from there.
const CREDENTIAL: u8 = 0;
const OF_TOKEN: u8 = 0x40;

/// Stands for the encrypted key of what is sealed here.
const WRAPPED: [u8; 256] = [7; 256];

fuzz_target!(|data: &[u8]| {
    check_file(data);
    if data.first() == Some(&b'{') {
        let by_credential = opened(&sealed(b"PSIC\x01\x01", CREDENTIAL, data));
        let start = [b"PSIC\x01\x02\x01\x00", WRAPPED.as_slice()].concat();
        let by_token = opened(&sealed(&start, OF_TOKEN, data));
        assert_eq!(shown(&by_credential), shown(&by_token));
        check_contents(by_credential, data);
    }
});

/// Nobody can make a file that opens, so that one was sealed.
fn check_file(data: &[u8]) {
    match opened(data) {
        Ok(_) => assert!(data == TPM_FILE || data == HSM_FILE),
        Err(error) if error.kind() == Kind::Denied => {
            assert!(Sealed::of(data).is_some());
            assert_proper(&error);
        }
        Err(error) => assert_damaged(&error),
    }
}

fn opened(file: &[u8]) -> Result<Option<Contents>> {
    open(Locked::copy_of(file), |key_in| match key_in {
        KeyIn::Credential => Ok(counting_from(CREDENTIAL)),
        KeyIn::Token(wrapped) if wrapped == WRAPPED || wrapped == &HSM_FILE[8..][..256] => {
            Ok(counting_from(OF_TOKEN))
        }
        KeyIn::Token(_) => Err(Error::new(Kind::Denied, "another key's").hint("use that one")),
    })
}

fn counting_from(first: u8) -> Key {
    key(&std::array::from_fn(|at| first + at as u8))
}

fn sealed(start: &[u8], key: u8, contents: &[u8]) -> Vec<u8> {
    let mut payload = [&[0; NONCE_LEN], contents, &[0; TAG_LEN]].concat();
    let cipher = cipher(&counting_from(key)).expect("a key of 32 bytes");
    encrypt_in_place(&cipher, &[], &mut payload).expect("it can be sealed");
    [start, &payload].concat()
}

fn shown(outcome: &Result<Option<Contents>>) -> String {
    match outcome {
        Ok(contents) => format!("{:?}", contents.as_ref().map(|c| c.entries.len())),
        Err(error) => error.to_string(),
    }
}

fn check_contents(outcome: Result<Option<Contents>>, json: &[u8]) {
    let contents = match outcome {
        Ok(Some(contents)) => contents,
        Ok(None) => return,
        Err(error) => return assert_damaged(&error),
    };
    let Some(json) = object(json) else { return };
    assert_eq!(json["version"], 2);
    let decoded = |text: &Value| BASE64.decode(text.as_str().expect("text")).expect("base64");
    assert_eq!(decoded(&json["hmac_key"]), contents.hmac_key.expose());
    let entries = json["entries"].as_object().expect("entries");
    let expected: BTreeMap<&str, Vec<u8>> = entries
        .iter()
        .map(|(key, value)| (key.as_str(), decoded(value)))
        .collect();
    // Keys are hexadecimal of one case, so their order is that of their texts.
    let values = contents.entries.values().map(|value| value.expose());
    assert!(values.eq(expected.values().map(Vec::as_slice)));
}
