//! The slot `recovery`: a key that is printed once, kept on paper, and typed in when nothing else
//! opens the cache.
//!
//! ```text
//! 0C5H66WX-4CNK6EZR-8D5N6PYR
//! CDNQ6YSJ-GE5S76RQ-MENV7EVJ
//! RF5X7PTJ-WFNZ7YX1-2VH8CZ8E
//! ```
//!
//! Three lines of three groups. Each group is 8 symbols of Crockford's base32 (digits and
//! capitals without I, L, O and U), so 5 bytes, most significant first:
//!
//! - groups 1 to 8: 4 bytes of the key, and the CRC-8 (polynomial 0x07, no reflection, initially
//!   0) over the group's number as one byte and those 4 bytes. It finds every single wrong
//!   symbol and every group in the wrong place, and 255 of 256 of all other mistakes.
//! - group 9: the first 5 bytes of SHA-256 over `psi recovery key v1` and the key's 32 bytes. It
//!   finds groups of different keys, and what the others missed.
//!
//! Read back, case does not matter, `O` is 0, `I` and `L` are 1, and groups may be separated by
//! dashes, blanks, both or nothing.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{self, SHA256};
use zeroize::Zeroizing;

use crate::error::{Error, Kind, Result};
use crate::locked::Locked;
use crate::protector::{Key, Protector, SlotFields, SlotKind};

/// Crockford's base32, <https://www.crockford.com/base32.html>.
const SYMBOLS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Symbols in a group: 40 bits, so no bit is left over.
const GROUP: usize = 8;
/// Bytes in a group.
const BYTES: usize = 5;
/// Groups of the key, and the one that checks them all.
const GROUPS: usize = 9;
const GROUPS_IN_A_LINE: usize = 3;

/// A key for people: 256 random bits that survive paper and typing.
pub struct RecoveryKey(Key);

impl RecoveryKey {
    /// A new one from the system's random source.
    ///
    /// # Errors
    /// As [`Key::generate`].
    pub fn generate() -> Result<Self> {
        Key::generate().map(Self)
    }

    /// The text to print, three lines of three groups with a newline after each. It is the key:
    /// it goes to a terminal or a printer, and nowhere else.
    pub fn display_groups(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(GROUPS * (GROUP + 1)));
        for (index, group) in self.groups().iter().enumerate() {
            let mut bits = group
                .iter()
                .fold(0u64, |bits, &byte| bits << 8 | u64::from(byte));
            bits <<= 64 - 8 * BYTES;
            for _ in 0..GROUP {
                text.push(char::from(SYMBOLS[(bits >> 59) as usize]));
                bits <<= 5;
            }
            let ends_line = (index + 1) % GROUPS_IN_A_LINE == 0;
            text.push(if ends_line { '\n' } else { '-' });
        }
        text
    }

    /// Reads what [`RecoveryKey::display_groups`] gave and a person typed.
    ///
    /// # Errors
    /// [`Kind::Usage`] naming the group that is wrong. Nothing of the key is quoted.
    pub fn parse(text: &str) -> Result<Self> {
        let mut key = Locked::zeroed(32);
        let mut check = Zeroizing::new([0; BYTES]);
        let groups = split(text)?;
        for (index, symbols) in groups.iter().enumerate() {
            let group = decode(index, symbols)?;
            match key.chunks_exact_mut(BYTES - 1).nth(index) {
                Some(part) if crc8(index, &group[..BYTES - 1]) == group[BYTES - 1] => {
                    part.copy_from_slice(&group[..BYTES - 1]);
                }
                Some(_) => return Err(wrong(index, "has a typo, or is in the wrong place")),
                None => check = group,
            }
        }
        let key = Self(Key(key));
        if key.check() != *check {
            let why = "does not fit the others: it has a typo, or they are of different keys";
            return Err(wrong(GROUPS - 1, why));
        }
        Ok(key)
    }

    fn groups(&self) -> Zeroizing<[[u8; BYTES]; GROUPS]> {
        let mut groups = Zeroizing::new([[0; BYTES]; GROUPS]);
        let parts = self.0.expose().chunks_exact(BYTES - 1);
        for (index, (group, part)) in groups.iter_mut().zip(parts).enumerate() {
            group[..BYTES - 1].copy_from_slice(part);
            group[BYTES - 1] = crc8(index, part);
        }
        groups[GROUPS - 1] = self.check();
        groups
    }

    fn check(&self) -> [u8; BYTES] {
        let mut hash = digest::Context::new(&SHA256);
        hash.update(b"psi recovery key v1");
        hash.update(self.0.expose());
        let mut check = [0; BYTES];
        check.copy_from_slice(&hash.finish().as_ref()[..BYTES]);
        check
    }
}

impl fmt::Debug for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoveryKey(..)")
    }
}

/// The symbols of each group: as they are separated if that makes nine, else by counting.
fn split(text: &str) -> Result<Vec<Zeroizing<Vec<char>>>> {
    let separates = |c: char| c == '-' || c.is_whitespace();
    let typed = || text.split(separates).filter(|group| !group.is_empty());
    if typed().count() == GROUPS {
        return Ok(typed()
            .map(|group| Zeroizing::new(group.chars().collect()))
            .collect());
    }
    let symbols: Zeroizing<Vec<char>> = Zeroizing::new(typed().flat_map(str::chars).collect());
    if symbols.len() != GROUPS * GROUP {
        let what = format!(
            "a recovery key has {} symbols in {GROUPS} groups, not {}",
            GROUPS * GROUP,
            symbols.len()
        );
        return Err(Error::new(Kind::Usage, what).hint(AGAIN));
    }
    let groups = symbols.chunks(GROUP);
    Ok(groups.map(|group| Zeroizing::new(group.to_vec())).collect())
}

fn decode(index: usize, symbols: &[char]) -> Result<Zeroizing<[u8; BYTES]>> {
    if symbols.len() != GROUP {
        let why = format!("has {} symbols, not {GROUP}", symbols.len());
        return Err(wrong(index, &why));
    }
    let mut bits = Zeroizing::new(0u64);
    for (place, symbol) in symbols.iter().enumerate() {
        let value = value_of(*symbol).ok_or_else(|| {
            let why = format!(
                "has something at place {} that is in no recovery key",
                place + 1
            );
            wrong(index, &why)
        })?;
        *bits = *bits << 5 | value;
    }
    let mut bytes = Zeroizing::new([0; BYTES]);
    let all = Zeroizing::new(bits.to_be_bytes());
    bytes.copy_from_slice(&all[all.len() - BYTES..]);
    Ok(bytes)
}

fn value_of(symbol: char) -> Option<u64> {
    let symbol = match symbol.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        other => other,
    };
    let place = SYMBOLS.iter().position(|&s| char::from(s) == symbol)?;
    u64::try_from(place).ok()
}

/// CRC-8 over a group's number, counted from 1, and its bytes.
fn crc8(index: usize, bytes: &[u8]) -> u8 {
    let number = index.to_le_bytes()[0] + 1;
    std::iter::once(&number).chain(bytes).fold(0, |crc, byte| {
        (0..8).fold(crc ^ byte, |crc, _| match crc & 0x80 {
            0 => crc << 1,
            _ => crc << 1 ^ 0x07,
        })
    })
}

fn wrong(index: usize, why: &str) -> Error {
    let what = format!("group {} of the recovery key {why}", index + 1);
    Error::new(Kind::Usage, what).hint(AGAIN)
}

const AGAIN: &str = "type it again as it was printed; nothing was changed";

/// Opens the cache with a key that somebody has typed in, or makes a slot for a new one.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// The key; none while nobody has entered it.
    pub key: Option<Arc<RecoveryKey>>,
}

impl Recovery {
    /// For a service: nobody is there to ask.
    pub fn not_entered() -> Self {
        Self { key: None }
    }

    /// With the key that somebody has typed in.
    pub fn entered(key: impl Into<Arc<RecoveryKey>>) -> Self {
        Self {
            key: Some(key.into()),
        }
    }

    /// With a new key, for a new slot. The caller prints it: it can't be had again.
    ///
    /// # Errors
    /// As [`Key::generate`].
    pub fn new_key() -> Result<Self> {
        RecoveryKey::generate().map(Self::entered)
    }

    fn slot_key(&self) -> Result<Key> {
        let key = self
            .key
            .as_ref()
            .and_then(|key| Key::from_bytes(key.0.expose()));
        key.ok_or_else(|| {
            Error::new(Kind::Unreachable, "nobody has entered the recovery key")
                .hint("have the printed key at hand and run `psi-cachectl slots reseal --recovery`")
        })
    }
}

impl Protector for Recovery {
    fn kind(&self) -> SlotKind {
        SlotKind::Recovery
    }

    fn seal(&self) -> Result<(Key, SlotFields)> {
        Ok((self.slot_key()?, SlotFields::new()))
    }

    /// The key that was entered. One of another slot is found by the cache.
    fn unseal(&self, _: &SlotFields) -> Result<Key> {
        self.slot_key()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixed() -> RecoveryKey {
        let bytes: Vec<u8> = (0..32).map(|n| n * 8 + 3).collect();
        RecoveryKey(Key::from_bytes(&bytes).unwrap())
    }

    fn bytes_of(text: &str) -> Vec<u8> {
        RecoveryKey::parse(text).unwrap().0.expose().to_vec()
    }

    fn error_of(text: &str) -> String {
        let error = RecoveryKey::parse(text).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        error.to_string()
    }

    #[test]
    fn a_printed_key_is_three_lines_of_three_groups() {
        let text = fixed().display_groups();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        for group in lines.iter().flat_map(|line| line.split('-')) {
            assert_eq!(group.len(), 8);
            assert!(group.bytes().all(|symbol| SYMBOLS.contains(&symbol)));
        }
    }

    #[test]
    fn the_format_is_the_documented_one() {
        let text = fixed().display_groups();
        // Calculated by another program from the description above.
        assert_eq!(
            *text,
            "0C5H66WX-4CNK6EZR-8D5N6PYR\nCDNQ6YSJ-GE5S76RQ-MENV7EVJ\nRF5X7PTJ-WFNZ7YX1-2VH8CZ8E\n"
        );
    }

    #[test]
    fn a_key_is_read_back_however_it_is_typed() {
        let key = fixed();
        let text = key.display_groups();
        let one_line = text.replace('\n', "-");
        let ambiguous = text.replace('0', "o").replace('1', "l");
        for typed in [
            text.to_string(),
            text.to_lowercase(),
            text.replace('0', "O").replace('1', "I"),
            ambiguous,
            one_line.trim_end_matches('-').to_owned(),
            one_line.replace('-', ""),
            one_line.replace('-', " - "),
            text.replace('\n', "\r\n"),
            format!("\n  {}\n", text.replace('-', "\t")),
            // Groups of four.
            one_line
                .replace('-', "")
                .as_bytes()
                .chunks(4)
                .map(|c| std::str::from_utf8(c).unwrap())
                .collect::<Vec<_>>()
                .join(" "),
        ] {
            assert_eq!(bytes_of(&typed), key.0.expose(), "{typed:?}");
        }
    }

    #[test]
    fn every_key_survives_printing() {
        for _ in 0..100 {
            let key = RecoveryKey::generate().unwrap();
            assert_eq!(&bytes_of(&key.display_groups()), key.0.expose());
        }
    }

    #[test]
    fn every_single_typo_is_found_and_its_group_named() {
        let text = fixed().display_groups();
        for at in (0..text.len()).filter(|at| !b"-\n".contains(&text.as_bytes()[*at])) {
            let group = at / (GROUP + 1) + 1;
            for symbol in SYMBOLS.iter().filter(|s| **s != text.as_bytes()[at]) {
                let mut typed = text.to_string();
                typed.replace_range(at..=at, &char::from(*symbol).to_string());
                let said = error_of(&typed);
                assert!(said.starts_with(&format!("group {group} of")), "{said}");
            }
        }
    }

    #[test]
    fn groups_in_each_others_place_are_found() {
        let text = fixed().display_groups().replace('\n', "-");
        let groups: Vec<&str> = text.trim_end_matches('-').split('-').collect();
        for (one, other) in (0..GROUPS).flat_map(|a| (0..a).map(move |b| (b, a))) {
            let mut swapped = groups.clone();
            swapped.swap(one, other);
            let said = error_of(&swapped.join("-"));
            assert!(said.starts_with(&format!("group {} of", one + 1)), "{said}");
        }
    }

    #[test]
    fn groups_of_two_keys_are_not_taken_for_one() {
        let (one, other) = (RecoveryKey::generate().unwrap(), fixed());
        let (one, other) = (one.display_groups(), other.display_groups());
        let mixed: Vec<&str> = one.lines().take(1).chain(other.lines().skip(1)).collect();
        let said = error_of(&mixed.join("\n"));
        assert!(
            said.contains("group 9") && said.contains("different keys"),
            "{said}"
        );
    }

    #[test]
    fn what_is_missing_or_too_much_is_said() {
        let text = fixed().display_groups().replace('\n', "-");
        let text = text.trim_end_matches('-');
        let groups: Vec<&str> = text.split('-').collect();
        assert!(error_of("").contains("72 symbols in 9 groups, not 0"));
        assert!(error_of(&groups[..8].join("-")).contains("not 64"));
        assert!(error_of(&format!("{text}-{}", groups[0])).contains("not 80"));
        let short = text.replacen(groups[2], &groups[2][1..], 1);
        assert!(error_of(&short).contains("group 3 of the recovery key has 7 symbols, not 8"));
        for alien in ["U", "é", "€", "!", "\u{1F511}"] {
            let typed = text.replacen(groups[3], &format!("{alien}{}", &groups[3][1..]), 1);
            assert!(
                error_of(&typed).contains("group 4 of the recovery key has something at place 1")
            );
        }
    }

    #[test]
    fn nothing_shows_a_key_but_its_printing() {
        let key = fixed();
        assert_eq!(format!("{key:?}"), "RecoveryKey(..)");
        let text = key.display_groups();
        let shown = format!("{:?}", Recovery::entered(key));
        assert_eq!(shown, "Recovery { key: Some(RecoveryKey(..)) }");
        let wrong = text.replacen(&text[..1], "U", 1);
        let error = RecoveryKey::parse(&wrong).unwrap_err();
        let said = format!("{error:?} {error}");
        let mut groups = text.lines().flat_map(|line| line.split('-'));
        assert!(groups.all(|group| !said.contains(&group[1..5])), "{said}");
    }

    #[test]
    fn two_new_keys_differ() {
        let keys = [Recovery::new_key().unwrap(), Recovery::new_key().unwrap()];
        let [one, other] = keys.map(|recovery| recovery.seal().unwrap().0);
        assert_ne!(one.expose(), other.expose());
    }
}
