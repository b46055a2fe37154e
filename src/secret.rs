//! Values that must not be printed, and the names secrets go by.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use zeroize::Zeroizing;

use crate::error::{Error, Kind, Result};

/// The bytes of a secret: wiped when dropped, never printed or serialised, copied only on request.
///
/// There is no `Display`, `Clone` or `Serialize`; `Debug` shows `SecretValue(..)` and not even
/// the length. The bytes leave only through [`SecretValue::expose`].
pub struct SecretValue(Zeroizing<Vec<u8>>);

impl SecretValue {
    /// Takes over `bytes`, which are wiped when the value is dropped.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The same bytes once more, wiped on their own.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self(self.0.clone())
    }

    /// The bytes in clear, for the one call that needs them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as text, if they are UTF-8.
    pub fn expose_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(..)")
    }
}

/// Reads a JSON or YAML string. What the parser borrowed is copied once, into wiped memory.
impl<'de> Deserialize<'de> for SecretValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StringVisitor;
        impl Visitor<'_> for StringVisitor {
            type Value = SecretValue;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<SecretValue, E> {
                Ok(SecretValue::new(text.as_bytes().to_vec()))
            }
            fn visit_string<E: de::Error>(self, text: String) -> Result<SecretValue, E> {
                Ok(SecretValue::new(text.into_bytes()))
            }
        }
        deserializer.deserialize_string(StringVisitor)
    }
}

/// Whether a reference `${…}` was left in `value` as it is: what it refers to is missing, empty,
/// imported, or may not be read.
pub fn has_reference(value: &[u8]) -> bool {
    let open = value.windows(2).position(|pair| pair == b"${");
    open.is_some_and(|at| value[at..].contains(&b'}'))
}

/// Longest value that is a variable whatever its name, in bytes: `NAME=value` and the NUL at its
/// end are at most 131,072 (MAX_ARG_STRLEN, execve(2)), and names are at most 253.
pub const MAX_IN_VARIABLE: usize = 131_072 - 253 - 2;

/// Whether a container can have `value` as a variable, whatever the variable's name.
pub fn fits_variable(value: &[u8]) -> bool {
    value.len() <= MAX_IN_VARIABLE && !value.contains(&0)
}

/// Podman's name of the secret that is the variable `target` of a workload.
pub fn secret_name(workload: &str, target: &str) -> String {
    format!("{workload}--{target}")
}

/// Podman's id of a secret: 25 lower-case hexadecimal digits, new at each re-creation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretId(String);

impl SecretId {
    /// Length of an id, as Podman's `secrets.go` makes it.
    pub const LEN: usize = 25;

    /// Accepts exactly what Podman generates.
    ///
    /// # Errors
    /// [`Kind::Usage`] for anything else, the empty id above all: Podman passes one to `delete`
    /// when it replaces a secret that does not exist, and a success would make it forget another.
    pub fn parse(text: &str) -> Result<Self> {
        if IdText::parse(text).is_some() {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::new(
            Kind::Usage,
            format!("{} is not a secret id", quote_name(text)),
        )
        .hint("a secret id is 25 lower-case hexadecimal digits, as `podman secret ls` shows"))
    }

    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A [`SecretId`] as it stands in a request: nothing of it is copied.
#[derive(Clone, Copy, Debug)]
pub struct IdText<'a> {
    text: &'a str,
    number: u128,
}

impl<'a> IdText<'a> {
    /// Nothing if `text` is no id.
    pub fn parse(text: &'a str) -> Option<Self> {
        let number = text.bytes().try_fold(0, |number, digit| {
            let digit = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return None,
            };
            Some(number << 4 | u128::from(digit))
        });
        let number = number.filter(|_| text.len() == SecretId::LEN)?;
        Some(Self { text, number })
    }

    /// The id's text.
    pub fn as_str(&self) -> &'a str {
        self.text
    }

    /// The id as a number: no two ids have the same one.
    pub fn number(&self) -> u128 {
        self.number
    }

    /// The name that asks for it.
    pub fn to_name(self) -> SecretName {
        SecretName(self.text.to_owned())
    }
}

/// What a lookup may ask for: an id, or the name of a mapping file that was put there by hand.
///
/// A file name of `[A-Za-z0-9_][A-Za-z0-9._-]{0,254}` that is none of PSI's own files, so it can
/// neither leave the state directory nor name the cache.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretName(String);

impl SecretName {
    /// # Errors
    /// [`Kind::Usage`] for what cannot be the name of a mapping.
    pub fn parse(text: &str) -> Result<Self> {
        if text.len() <= 255 && is_plain_name(text) && !is_own_file(text) {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::new(
            Kind::Usage,
            format!("{} is not the name of a secret", quote_name(text)),
        )
        .hint("names have letters, digits, `_`, `.` and `-`, at most 255 of them"))
    }

    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of a value that is kept in the cache only: `[A-Za-z0-9_][A-Za-z0-9._-]{0,252}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalName(String);

impl LocalName {
    /// # Errors
    /// [`Kind::Usage`] for what cannot be such a name.
    pub fn parse(text: &str) -> Result<Self> {
        if text.len() <= 253 && is_plain_name(text) {
            return Ok(Self(text.to_owned()));
        }
        let what = format!("{} is not the name of a local value", quote_name(text));
        Err(Error::new(Kind::Usage, what).hint(
            "names have letters, digits, `_`, `.` and `-`, at most 253 of them, and begin with a letter, digit or `_`",
        ))
    }

    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for LocalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `[A-Za-z0-9_][A-Za-z0-9._-]*`
fn is_plain_name(text: &str) -> bool {
    let first = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let rest = |b: u8| first(b) || b == b'.' || b == b'-';
    text.bytes().next().is_some_and(first) && text.bytes().all(rest)
}

impl From<SecretId> for SecretName {
    fn from(id: SecretId) -> Self {
        Self(id.0)
    }
}

/// The files in the state directory that belong to PSI and are no mappings.
fn is_own_file(name: &str) -> bool {
    name == "cache.enc" || name.starts_with("cache.enc.") || name == "nitrokeyhsm-pubkey.der"
}

/// `text` quoted and escaped for a message, cut to 60 characters.
pub fn quote_name(text: &str) -> String {
    let mut short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_of_a_value_shows_nothing_of_it() {
        let value = SecretValue::new(b"hunter2".to_vec());
        assert_eq!(format!("{value:?}"), "SecretValue(..)");
    }

    #[test]
    fn an_id_is_exactly_25_lower_case_hex_digits() {
        assert!(SecretId::parse("0123456789abcdef012345678").is_ok());
        for bad in [
            "",
            "0123456789abcdef01234567",
            "0123456789abcdef0123456789",
            "0123456789ABCDEF012345678",
            "../../../../../etc/passwd",
            "0123456789abcdef01234567\0",
        ] {
            assert!(SecretId::parse(bad).is_err(), "{bad:?}");
            assert!(IdText::parse(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn no_digit_of_an_id_is_lost_in_its_number() {
        let id = "f123456789abcdef012345678";
        assert_eq!(
            IdText::parse(id).unwrap().number(),
            0xf_1234_5678_9abc_def0_1234_5678
        );
        let number = |id: &str| IdText::parse(id).unwrap().number();
        for at in 0..SecretId::LEN {
            let mut other = id.to_owned();
            other.replace_range(at..=at, if &id[at..=at] == "0" { "1" } else { "0" });
            assert_ne!(number(&other), number(id), "digit {at}");
        }
    }

    #[test]
    fn a_reference_that_was_left_is_seen() {
        for (text, left) in [
            ("${A}", true),
            ("x ${ dev.A } y", true),
            ("$A {B} $", false),
            ("}${", false),
            ("", false),
        ] {
            assert_eq!(has_reference(text.as_bytes()), left, "{text:?}");
        }
    }

    #[test]
    fn a_local_name_is_a_plain_word_of_at_most_253_bytes() {
        let longest = "a".repeat(253);
        for good in ["DB_PASSWORD", "_x", "0.b-c_D", "cache.enc", &longest] {
            assert!(LocalName::parse(good).is_ok(), "{good:?}");
        }
        let too_long = "a".repeat(254);
        for bad in [
            "", ".", "..", ".a", "-a", "a/b", "a b", "a\0", "a\n", "é", "a%41", &too_long,
        ] {
            assert!(LocalName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_value_with_a_nul_or_too_long_for_any_name_fits_no_variable() {
        assert!(fits_variable(b""));
        assert!(fits_variable(&vec![b'x'; MAX_IN_VARIABLE]));
        assert!(!fits_variable(&vec![b'x'; MAX_IN_VARIABLE + 1]));
        assert!(!fits_variable(b"a\0b"));
    }

    #[test]
    fn a_name_cannot_leave_the_directory_or_name_our_own_files() {
        let longest = "a".repeat(255);
        for good in ["db-password", "_x", "A.b-c_d", &longest] {
            assert!(SecretName::parse(good).is_ok(), "{good:?}");
        }
        let too_long = "a".repeat(256);
        for bad in [
            "",
            ".",
            "..",
            ".lock",
            "-x",
            "a/b",
            "a\0b",
            "a b",
            "é",
            "cache.enc",
            "cache.enc.v1",
            "cache.enc.unopened-1",
            "nitrokeyhsm-pubkey.der",
            &too_long,
        ] {
            assert!(SecretName::parse(bad).is_err(), "{bad:?}");
        }
    }
}
