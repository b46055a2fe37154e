//! The decrypted contents: one flat buffer in locked memory, answered from by binary search.
//!
//! It is decrypted and encrypted where it lies: no copy of it is made for a file.
//!
//! ```text
//! count u32 LE | hmac_key 32 | count x {key 32, offset u32 LE, len u32 LE} sorted by key
//!              | value bytes
//! ```

use std::ops::Range;

use aws_lc_rs::hmac;

use crate::cache::envelope::damaged;
use crate::error::{Error, Kind, Result};
use crate::gcm::{NONCE_LEN, TAG_LEN};
use crate::locked::Locked;
use crate::mapping::Mapping;
use crate::protector::Key;

const COUNT_LEN: usize = 4;
const KEY_LEN: usize = 32;
const RECORD_LEN: usize = KEY_LEN + 8;
const TABLE_AT: usize = COUNT_LEN + KEY_LEN;

/// Names one entry: the HMAC-SHA256 of a mapping's canonical bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryKey([u8; KEY_LEN]);

impl EntryKey {
    /// The entry that holds who owns what. No HMAC is ever this.
    pub(super) const OWNERS: EntryKey = EntryKey([0; KEY_LEN]);

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub(super) fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

/// Turns mappings into entry keys, so that the file does not tell which secrets it holds.
#[derive(Clone)]
pub struct Keyer(hmac::Key);

impl Keyer {
    /// With the cache's own key.
    pub fn new(hmac_key: &Key) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, hmac_key.expose()))
    }

    /// The entry that `mapping` names.
    pub fn entry_key(&self, mapping: &Mapping) -> EntryKey {
        let tag = hmac::sign(&self.0, &mapping.canonical());
        let mut key = [0; KEY_LEN];
        key.copy_from_slice(tag.as_ref());
        EntryKey(key)
    }
}

/// The contents of an opened cache. Immutable: a commit makes a new one.
pub struct Table {
    /// Has a nonce before the plaintext and a tag behind it, or room for them.
    bytes: Locked,
    plain: Range<usize>,
    count: usize,
}

impl Table {
    /// Takes over a buffer whose range `plain` is the plaintext, between its nonce and its tag.
    ///
    /// # Errors
    /// [`Kind::Damaged`] unless every record is within bounds and the keys ascend.
    pub fn parse(bytes: Locked, plain: Range<usize>) -> Result<Self> {
        if plain.start < NONCE_LEN || plain.end + TAG_LEN > bytes.len() {
            return Err(damaged("its table has no nonce or no tag"));
        }
        let text = &bytes[plain.clone()];
        let count = text
            .get(..COUNT_LEN)
            .map(|b| read_u32(b) as usize)
            .ok_or_else(|| damaged("its table is too short"))?;
        let values_at = count
            .checked_mul(RECORD_LEN)
            .and_then(|n| n.checked_add(TABLE_AT))
            .filter(|&n| n <= text.len())
            .ok_or_else(|| damaged("its table is cut short"))?;
        let table = Self {
            bytes,
            plain,
            count,
        };
        table.check(values_at)?;
        Ok(table)
    }

    fn check(&self, values_at: usize) -> Result<()> {
        let length = self.text().len();
        for i in 0..self.count {
            if i > 0 && self.key_at(i - 1) >= self.key_at(i) {
                return Err(damaged("its table is out of order"));
            }
            let value = self.value_range(i);
            if value.start < values_at || value.end > length {
                return Err(damaged("a value lies outside of it"));
            }
        }
        Ok(())
    }

    /// A table of these values; `entries` ascends strictly by key.
    ///
    /// # Errors
    /// [`Kind::Refused`] if it would not fit into 4 GiB.
    pub fn build<'a>(
        hmac_key: &[u8],
        entries: impl Iterator<Item = (&'a EntryKey, &'a [u8])> + Clone,
    ) -> Result<Self> {
        let too_large = || {
            Error::new(Kind::Refused, "the values do not fit into one cache")
                .hint("drop large values, or give the workloads fewer folders")
        };
        let count = entries.clone().count();
        let values: usize = entries.clone().map(|(_, value)| value.len()).sum();
        let values_at = TABLE_AT + count * RECORD_LEN;
        let length = values_at + values;
        u32::try_from(length).map_err(|_| too_large())?;
        let plain = NONCE_LEN..NONCE_LEN + length;
        let mut bytes = Locked::zeroed(plain.end + TAG_LEN);
        let mut text = Writer(&mut bytes[plain.clone()]);
        text.put(&as_u32(count));
        text.put(hmac_key);
        let mut offset = values_at;
        for (key, value) in entries.clone() {
            text.put(&key.0);
            text.put(&as_u32(offset));
            text.put(&as_u32(value.len()));
            offset += value.len();
        }
        for (_, value) in entries {
            text.put(value);
        }
        Self::parse(bytes, plain)
    }

    /// The same once more.
    pub fn copy(&self) -> Self {
        Self {
            bytes: Locked::copy_of(&self.bytes),
            plain: self.plain.clone(),
            count: self.count,
        }
    }

    /// The nonce, the plaintext and the tag, to be encrypted and decrypted where they lie.
    pub(super) fn envelope(&mut self) -> &mut [u8] {
        &mut self.bytes[self.plain.start - NONCE_LEN..self.plain.end + TAG_LEN]
    }

    /// The plaintext, as it is encrypted.
    pub fn text(&self) -> &[u8] {
        &self.bytes[self.plain.clone()]
    }

    /// The key that names entries.
    pub fn hmac_key(&self) -> &[u8] {
        &self.text()[COUNT_LEN..TABLE_AT]
    }

    /// The value of `key`.
    pub fn get(&self, key: &EntryKey) -> Option<&[u8]> {
        self.find(key).map(|range| self.value(range))
    }

    /// Where the value of `key` lies, for [`Table::value`].
    pub fn find(&self, key: &EntryKey) -> Option<Range<usize>> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.key_at(middle).cmp(&key.0[..]) {
                std::cmp::Ordering::Equal => return Some(self.value_range(middle)),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// The value at a place that [`Table::find`] gave.
    pub fn value(&self, range: Range<usize>) -> &[u8] {
        &self.text()[range]
    }

    /// Every entry, ascending by key.
    pub fn entries(&self) -> impl Iterator<Item = (EntryKey, &[u8])> {
        (0..self.count).filter_map(|i| {
            let key = EntryKey::from_bytes(self.key_at(i))?;
            Some((key, self.value(self.value_range(i))))
        })
    }

    fn record(&self, i: usize) -> &[u8] {
        &self.text()[TABLE_AT + i * RECORD_LEN..][..RECORD_LEN]
    }

    fn key_at(&self, i: usize) -> &[u8] {
        &self.record(i)[..KEY_LEN]
    }

    fn value_range(&self, i: usize) -> Range<usize> {
        let record = self.record(i);
        let offset = read_u32(&record[KEY_LEN..KEY_LEN + 4]) as usize;
        let length = read_u32(&record[KEY_LEN + 4..]) as usize;
        offset..offset.saturating_add(length)
    }
}

/// Fills a buffer from its start to its end.
struct Writer<'a>(&'a mut [u8]);

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) {
        let (room, rest) = std::mem::take(&mut self.0).split_at_mut(bytes.len());
        room.copy_from_slice(bytes);
        self.0 = rest;
    }
}

fn read_u32(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |n, &b| n << 8 | u32::from(b))
}

/// The length of something that [`Table::build`] has checked to fit.
fn as_u32(n: usize) -> [u8; 4] {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&n.to_le_bytes()[..4]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> EntryKey {
        EntryKey([n; KEY_LEN])
    }

    #[test]
    fn values_are_found_by_their_key_and_only_by_it() {
        let keys: Vec<EntryKey> = (0..100).map(|n| key(n * 2)).collect();
        let values: Vec<Vec<u8>> = (0..100).map(|n| vec![n; n as usize]).collect();
        let entries = keys.iter().zip(values.iter().map(Vec::as_slice));
        let table = Table::build(&[9; 32], entries).unwrap();
        for n in 0..100u8 {
            assert_eq!(table.get(&key(n * 2)), Some(&values[n as usize][..]));
            assert_eq!(table.get(&key(n * 2 + 1)), None);
        }
        assert_eq!(table.hmac_key(), [9; 32]);
        assert_eq!(table.entries().count(), 100);
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        let table = Table::build(&[9; 32], [(&key(1), b"ab".as_slice())].into_iter()).unwrap();
        let mut expected = vec![1, 0, 0, 0];
        expected.extend([9; 32]);
        expected.extend([1; 32]);
        expected.extend([76, 0, 0, 0, 2, 0, 0, 0]);
        expected.extend(b"ab");
        assert_eq!(table.text(), expected);
    }

    #[test]
    fn a_table_that_lies_about_its_lengths_is_damage() {
        let good = Table::build(
            &[9; 32],
            [(&key(1), b"ab".as_slice()), (&key(2), b"cd")].into_iter(),
        )
        .unwrap();
        let text = good.text().to_vec();
        let parse = |text: &[u8]| {
            let buffer = [&[0; NONCE_LEN], text, &[0; TAG_LEN]].concat();
            let plain = NONCE_LEN..NONCE_LEN + text.len();
            Table::parse(Locked::copy_of(&buffer), plain)
        };
        assert!(parse(&text).is_ok());
        for length in 0..text.len() {
            assert!(parse(&text[..length]).is_err(), "cut to {length}");
        }
        let first_record = TABLE_AT + KEY_LEN;
        for (at, byte) in [
            (0, 255),
            (3, 255),
            (first_record, 0),
            (first_record + 3, 255),
            (first_record + 7, 255),
            (TABLE_AT, 3),
        ] {
            let mut wrong = text.clone();
            wrong[at] = byte;
            assert!(parse(&wrong).is_err(), "byte {at}");
        }
    }
}
