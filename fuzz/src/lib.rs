//! What the fuzz targets share.

use psi::protector::Key;
use psi::{Error, Kind};
use serde_json::Value;

/// Stands for every secret in the seeds: no message may ever show it.
pub const SECRET: &str = "hunter2";

/// Seals every file among the seeds but the vectors of version 1.
pub fn seed_key() -> Key {
    key(&[1; 32])
}

/// The key of these 32 bytes.
pub fn key(bytes: &[u8; 32]) -> Key {
    Key::from_bytes(bytes).expect("32 bytes are a key")
}

/// The message says nothing of a secret, and what to do next.
pub fn assert_proper(error: &Error) {
    let told = format!("{error} {:?} {error:?}", error.next_step());
    assert!(!told.contains(SECRET), "{told}");
    assert!(error.next_step().is_some(), "{error}");
}

/// The message quotes a name, which is no secret, and escapes what does not belong into a line.
pub fn assert_quoted(error: &Error) {
    let told = format!("{error} {:?}", error.next_step());
    assert!(!told.contains(char::is_control), "{told:?}");
    assert!(error.next_step().is_some(), "{error}");
}

/// [`assert_proper`], of an error that says that data is not what was written.
pub fn assert_damaged(error: &Error) {
    assert_eq!(error.kind(), Kind::Damaged, "{error}");
    assert_proper(error);
}

/// The JSON object at `bytes`, read by nothing of PSI's.
pub fn object(bytes: &[u8]) -> Option<serde_json::Map<String, Value>> {
    serde_json::from_slice(bytes).ok()
}

/// Whether `value` has a number in it that is no whole one. No slot does, and a fraction written and
/// read again may differ in its last bit.
pub fn has_fraction(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(values) => values.iter().any(has_fraction),
        Value::Object(fields) => fields.values().any(has_fraction),
        _ => false,
    }
}

/// Whether a key or a text of `value` has the secret in it.
pub fn has_secret(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains(SECRET),
        Value::Array(values) => values.iter().any(has_secret),
        Value::Object(fields) => fields
            .iter()
            .any(|(key, value)| key.contains(SECRET) || has_secret(value)),
        _ => false,
    }
}
