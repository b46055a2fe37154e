//! A table that is being made of another one: what that has, what is staged over it, and who owns
//! what then.

use std::cmp::Ordering;

use crate::cache::owners::Owners;
use crate::cache::staging::{Staged, Staging};
use crate::cache::table::{Builder, EntryKey, Table};
use crate::error::Result;

/// What a table is to have. Nothing of it is in effect before it was saved.
pub struct Draft<'a> {
    before: &'a Table,
    staging: Staging,
    /// Where each entry's value is now, ascending by key. The first entry has place 1: the owners'
    /// list itself has 0.
    sources: Vec<Source>,
    /// Who owns what, by the places of this draft.
    pub owners: Owners,
}

/// Where the value of an entry is.
#[derive(Clone, Copy)]
pub enum Source {
    /// At this place of the table before.
    Kept(u32),
    /// The first of what is staged under the same key.
    Staged(u32),
}

impl<'a> Draft<'a> {
    /// Everything that `before` has, with `staging` over it, and the owners as they were.
    ///
    /// # Errors
    /// [`crate::Kind::Damaged`] if the list of owners is not readable.
    pub fn of(before: &'a Table, mut staging: Staging) -> Result<Self> {
        staging.sort();
        let mut owners = before.owners()?;
        let (sources, moved) = merge(before, &staging);
        owners.renumber(&moved);
        Ok(Self {
            before,
            staging,
            sources,
            owners,
        })
    }

    /// Everything that `before` has, owned by `owners`.
    pub fn owned_by(before: &'a Table, owners: Owners) -> Self {
        let staging = Staging::default();
        let (sources, _) = merge(before, &staging);
        Self {
            before,
            staging,
            sources,
            owners,
        }
    }

    /// Where each value comes from, with the place of its entry, ascending.
    pub fn sources(&self) -> impl Iterator<Item = (u32, Source)> {
        (1..).zip(self.sources.iter().copied())
    }

    /// What is staged under the key of the entry that is staged first as this one.
    pub fn group(&self, first: u32) -> &[Staged] {
        let rest = &self.staging.entries()[first as usize..];
        let is_same = |staged: &&Staged| staged.key == rest[0].key;
        &rest[..rest.iter().take_while(is_same).count()]
    }

    /// The value of something staged.
    pub fn value(&self, staged: &Staged) -> &[u8] {
        self.staging.value(staged)
    }

    /// The place of the entry `key`.
    pub fn place(&self, key: &EntryKey) -> Option<u32> {
        let found = self
            .sources
            .binary_search_by(|source| self.key(*source).cmp(key));
        found.ok().and_then(|i| u32::try_from(i + 1).ok())
    }

    fn key(&self, source: Source) -> EntryKey {
        match source {
            Source::Kept(place) => self.before.key(place),
            Source::Staged(first) => self.staging.entries()[first as usize].key,
        }
    }

    /// Makes the table, of what somebody owns. The memory of what is staged is given back on the
    /// way: there are never two copies of all of it.
    ///
    /// # Errors
    /// [`crate::Kind::Refused`] if it would be too large.
    pub fn build(mut self) -> Result<Table> {
        let owned = self.owners.owned();
        let mut moved = vec![0; self.sources.len() + 1];
        for (place, &before) in (1..).zip(&owned) {
            moved[before as usize] = place;
        }
        self.owners.renumber(&moved);
        let owners = self.owners.to_bytes();
        let kept: Vec<Source> = owned
            .iter()
            .map(|&place| self.sources[place as usize - 1])
            .collect();
        let left_out = self.left_out(&moved);
        let staged = self.staging.length() - left_out.length();
        let of_kept = kept.iter().map(|source| match source {
            Source::Kept(place) => self.before.value_at(*place).len(),
            Source::Staged(_) => 0,
        });
        let length = owners.len() + staged + of_kept.sum::<usize>();

        let hmac_key = self.before.hmac_key();
        let mut table = Builder::new(hmac_key, kept.len() + 1, length)?;
        table.entry(&EntryKey::OWNERS, 0, owners.len());
        table.value(0, &owners);
        let mut next = owners.len() + staged;
        for source in kept {
            let key = self.key(source);
            match source {
                Source::Kept(place) => {
                    let value = self.before.value_at(place);
                    table.entry(&key, next, value.len());
                    table.value(next, value);
                    next += value.len();
                }
                Source::Staged(first) => {
                    let staged = self.staging.entries()[first as usize];
                    let at = owners.len() + left_out.closed_up(staged.value.at);
                    table.entry(&key, at, staged.value.length as usize);
                }
            }
        }
        drop(self.sources);
        let mut next = owners.len();
        self.staging.drain(|start, values| {
            left_out.for_each_other(start, values, |bytes| {
                table.value(next, bytes);
                next += bytes.len();
            });
        });
        table.finish()
    }

    /// What is staged and not taken over: it is there twice, or nobody owns it.
    fn left_out(&self, moved: &[u32]) -> LeftOut {
        let mut ranges = Vec::new();
        for (place, source) in self.sources() {
            if let Source::Staged(first) = source {
                let taken = usize::from(moved[place as usize] > 0);
                let others = &self.group(first)[taken..];
                ranges.extend(
                    others
                        .iter()
                        .map(|other| (other.value.at as usize, other.value.length as usize)),
                );
            }
        }
        LeftOut::new(ranges)
    }
}

/// The sources of all entries, and the place in the draft of each that `before` has.
fn merge(before: &Table, staging: &Staging) -> (Vec<Source>, Vec<u32>) {
    let staged = staging.entries();
    let mut sources = Vec::with_capacity(before.len() + staged.len());
    let mut moved = Vec::with_capacity(before.len());
    let mut next = 0;
    let mut take_up_to = |key: Option<&EntryKey>, sources: &mut Vec<Source>| {
        let records = u32::try_from(before.len()).unwrap_or(u32::MAX);
        while next < records {
            let record = before.key(next);
            let order = key.map_or(Ordering::Less, |key| record.cmp(key));
            if order == Ordering::Greater {
                return;
            }
            if record == EntryKey::OWNERS {
                moved.push(0);
            } else {
                moved.push(place_after(sources));
                if order == Ordering::Less {
                    sources.push(Source::Kept(next));
                }
            }
            next += 1;
        }
    };
    let mut first = 0;
    for group in staged.chunk_by(|a, b| a.key == b.key) {
        take_up_to(Some(&group[0].key), &mut sources);
        sources.push(Source::Staged(first));
        first += u32::try_from(group.len()).unwrap_or(u32::MAX);
    }
    take_up_to(None, &mut sources);
    (sources, moved)
}

/// The place that the next entry gets.
fn place_after(sources: &[Source]) -> u32 {
    u32::try_from(sources.len() + 1).unwrap_or(u32::MAX)
}

/// Ranges of the staged values that do not get into the table.
struct LeftOut {
    /// Where each begins and how long it is, ascending, with the length of all before it.
    ranges: Vec<(usize, usize, usize)>,
}

impl LeftOut {
    fn new(mut ranges: Vec<(usize, usize)>) -> Self {
        ranges.sort_unstable();
        let mut before = 0;
        let add = |(at, length)| {
            let range = (at, length, before);
            before += length;
            range
        };
        Self {
            ranges: ranges.into_iter().map(add).collect(),
        }
    }

    fn length(&self) -> usize {
        self.ranges
            .last()
            .map_or(0, |(_, length, before)| length + before)
    }

    /// Where something is once all that is left out before it is gone.
    fn closed_up(&self, at: u32) -> usize {
        let at = at as usize;
        let before = self.ranges.partition_point(|range| range.0 < at);
        let gone = before.checked_sub(1).map_or(0, |last| {
            let (_, length, before) = self.ranges[last];
            length + before
        });
        at - gone
    }

    /// Gives `put` what stays of `values`, which begin at `start`.
    fn for_each_other(&self, start: usize, values: &[u8], mut put: impl FnMut(&[u8])) {
        let end = start + values.len();
        let first = self.ranges.partition_point(|range| range.0 < start);
        let mut at = start;
        for (from, length, _) in &self.ranges[first..] {
            if *from >= end {
                break;
            }
            put(&values[at - start..from - start]);
            at = from + length;
        }
        put(&values[at - start..]);
    }
}
