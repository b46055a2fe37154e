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
use crate::cache::owners::Owners;
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
}

/// Turns mappings into entry keys, so that the file does not tell which secrets it holds.
#[derive(Clone)]
pub struct Keyer(hmac::Key);

impl Keyer {
    /// With the cache's own key.
    pub fn new(hmac_key: &Key) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, hmac_key.expose()))
    }

    /// Whether both name every mapping alike.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let sign = |keyer: &Self| hmac::sign(&keyer.0, b"");
        sign(self).as_ref() == sign(other).as_ref()
    }

    /// The entry that `mapping` names.
    pub fn entry_key(&self, mapping: &Mapping) -> EntryKey {
        let tag = hmac::sign(&self.0, &mapping.canonical());
        let mut key = [0; KEY_LEN];
        key.copy_from_slice(tag.as_ref());
        EntryKey(key)
    }
}

/// Where a value lies in one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    offset: u32,
    length: u32,
}

impl Extent {
    fn range(self) -> Range<usize> {
        let offset = self.offset as usize;
        offset..offset.saturating_add(self.length as usize)
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
            let value = self.extent(i).range();
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
        let count = entries.clone().count();
        let length = entries.clone().map(|(_, value)| value.len()).sum();
        let mut table = Builder::new(hmac_key, count, length)?;
        let mut at = 0;
        for (key, value) in entries {
            table.entry(key, at, value.len());
            table.value(at, value);
            at += value.len();
        }
        table.finish()
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
        self.find(key).map(|extent| self.value(extent))
    }

    /// Where the value of `key` lies, for [`Table::value`].
    pub fn find(&self, key: &EntryKey) -> Option<Extent> {
        self.search(key).map(|i| self.extent(i))
    }

    fn search(&self, key: &EntryKey) -> Option<usize> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.key_at(middle).cmp(&key.0[..]) {
                std::cmp::Ordering::Equal => return Some(middle),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// How many records there are.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// The number of the record of `key`.
    pub fn place(&self, key: &EntryKey) -> Option<u32> {
        self.search(key).and_then(|i| u32::try_from(i).ok())
    }

    /// The key of the record with this number.
    pub(super) fn key(&self, place: u32) -> EntryKey {
        let mut key = [0; KEY_LEN];
        key.copy_from_slice(self.key_at(place as usize));
        EntryKey(key)
    }

    /// The value of the record with this number.
    pub(super) fn value_at(&self, place: u32) -> &[u8] {
        self.value(self.extent(place as usize))
    }

    /// Who owns what.
    ///
    /// # Errors
    /// [`Kind::Damaged`] if that can't be read.
    pub fn owners(&self) -> Result<Owners> {
        Owners::parse(self.get(&EntryKey::OWNERS), self.count)
    }

    /// The value where [`Table::find`] found it, in this very table.
    pub fn value(&self, extent: Extent) -> &[u8] {
        &self.text()[extent.range()]
    }

    /// Every entry, ascending by key.
    pub fn entries(&self) -> impl Iterator<Item = (EntryKey, &[u8])> {
        (0..self.count).filter_map(|i| {
            let key = EntryKey::from_bytes(self.key_at(i))?;
            Some((key, self.value(self.extent(i))))
        })
    }

    fn record(&self, i: usize) -> &[u8] {
        &self.text()[TABLE_AT + i * RECORD_LEN..][..RECORD_LEN]
    }

    fn key_at(&self, i: usize) -> &[u8] {
        &self.record(i)[..KEY_LEN]
    }

    fn extent(&self, i: usize) -> Extent {
        let record = self.record(i);
        Extent {
            offset: read_u32(&record[KEY_LEN..KEY_LEN + 4]),
            length: read_u32(&record[KEY_LEN + 4..]),
        }
    }
}

/// A table that is being written. Its entries come ascending by key, its values in any order.
pub(super) struct Builder {
    bytes: Locked,
    plain: Range<usize>,
    /// Where the next record goes.
    next: usize,
    values_at: usize,
}

impl Builder {
    /// Room for `count` entries whose values have `length` bytes together.
    ///
    /// # Errors
    /// [`Kind::Refused`] if it would not fit into 4 GiB.
    pub fn new(hmac_key: &[u8], count: usize, length: usize) -> Result<Self> {
        let too_large = || {
            Error::new(Kind::Refused, "the values do not fit into one cache")
                .hint("drop large values, or give the workloads fewer folders")
        };
        let values_at = TABLE_AT + count * RECORD_LEN;
        let length = values_at + length;
        u32::try_from(length).map_err(|_| too_large())?;
        let plain = NONCE_LEN..NONCE_LEN + length;
        let mut table = Self {
            bytes: Locked::zeroed(plain.end + TAG_LEN),
            plain,
            next: TABLE_AT,
            values_at,
        };
        table.put(0, &as_u32(count));
        table.put(COUNT_LEN, hmac_key);
        Ok(table)
    }

    /// The next entry, whose value has `length` bytes from `at` on among all values.
    pub fn entry(&mut self, key: &EntryKey, at: usize, length: usize) {
        self.put(self.next, &key.0);
        self.put(self.next + KEY_LEN, &as_u32(self.values_at + at));
        self.put(self.next + KEY_LEN + 4, &as_u32(length));
        self.next += RECORD_LEN;
    }

    /// Values, from `at` on among all of them.
    pub fn value(&mut self, at: usize, bytes: &[u8]) {
        self.put(self.values_at + at, bytes);
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[self.plain.start + at..][..bytes.len()].copy_from_slice(bytes);
    }

    /// The table.
    ///
    /// # Errors
    /// [`Kind::Damaged`] if the entries did not ascend.
    pub fn finish(self) -> Result<Table> {
        Table::parse(self.bytes, self.plain)
    }
}

fn read_u32(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |n, &b| n << 8 | u32::from(b))
}

/// The length of something that [`Builder::new`] has checked to fit.
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
