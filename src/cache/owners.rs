//! Who owns which entry: kept inside the sealed contents, so that nobody can tamper with it.
//!
//! ```text
//! workloads u32 LE | workloads x {provider, name: u16 LE length and text each
//!                  | fetched_at u64 LE | live u32 LE | live x {place u32 LE}
//!                  | retired u32 LE | retired x {place u32 LE, since u64 LE}}
//! ```
//!
//! An entry is named by its place, the number of its record in the table that the list is part of;
//! both kinds of places ascend, and none is of both. What is retired is no longer at the provider.
//! An entry goes when nothing owns it. What
//! was put by hand is written as that of a workload with the empty name, and what was carried over
//! from version 1 as that of one whose name is a zero byte; no workload can have these.

use std::collections::{BTreeMap, BTreeSet};

use crate::cache::envelope::damaged;
use crate::error::Result;
use crate::mapping::ProviderName;

/// The name under which the entries that were put by hand are written.
const BY_HAND: &str = "";
/// The name under which the entries that were carried over from version 1 are written.
const CARRIED: &str = "\0";

/// What each workload owns, by the workload's name, and what was put by hand or carried over, which
/// nothing that is done for a workload can touch.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Owners {
    workloads: BTreeMap<String, Owned>,
    /// Ascending, as all lists of places here.
    by_hand: Vec<u32>,
    carried: Vec<u32>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Owned {
    provider: String,
    fetched_at: u64,
    /// What the provider has.
    live: Vec<u32>,
    /// What it no longer has, each with the time since when.
    retired: Vec<(u32, u64)>,
}

impl Owned {
    fn places(&self) -> impl Iterator<Item = u32> {
        let retired = self.retired.iter().map(|(place, _)| *place);
        self.live.iter().copied().chain(retired)
    }

    fn retired_since(&self, place: u32) -> Option<u64> {
        if self.live.binary_search(&place).is_ok() {
            return Some(0);
        }
        let found = self
            .retired
            .binary_search_by_key(&place, |(place, _)| *place);
        found.ok().map(|i| self.retired[i].1)
    }

    fn forget(&mut self, place: u32) {
        self.live.retain(|p| *p != place);
        self.retired.retain(|(p, _)| *p != place);
    }
}

/// What a hand-over does to a workload.
pub struct Outcome {
    /// How many of its entries are retired now.
    pub retired: usize,
    /// Whether it owns anything else than before, or in another way.
    pub changed: bool,
}

impl Owners {
    /// Reads what [`Owners::to_bytes`] wrote into a table of so many `records`; nothing at all is
    /// nobody.
    ///
    /// # Errors
    /// [`crate::Kind::Damaged`] for anything else, and if a place is not in the table.
    pub fn parse(bytes: Option<&[u8]>, records: usize) -> Result<Self> {
        let Some(bytes) = bytes else {
            return Ok(Self::default());
        };
        let mut reader = Reader { bytes, records };
        reader
            .owners()
            .filter(|_| reader.bytes.is_empty())
            .ok_or_else(|| damaged("its list of owners is not readable"))
    }

    /// The bytes to keep.
    pub fn to_bytes(&self) -> Vec<u8> {
        let by_hand = as_owned(ProviderName::Local.as_str(), &self.by_hand);
        let carried = as_owned("", &self.carried);
        let unowned = [(BY_HAND, &by_hand), (CARRIED, &carried)];
        let unowned = unowned.into_iter().filter(|(_, o)| !o.live.is_empty());
        let workloads = self.workloads.iter().map(|(name, o)| (name.as_str(), o));
        let all: Vec<(&str, &Owned)> = unowned.chain(workloads).collect();
        let mut out = Vec::new();
        out.extend_from_slice(&as_u32(all.len()));
        for (name, owned) in all {
            for text in [owned.provider.as_str(), name] {
                out.extend_from_slice(&as_u32(text.len())[..2]);
                out.extend_from_slice(text.as_bytes());
            }
            out.extend_from_slice(&owned.fetched_at.to_le_bytes());
            out.extend_from_slice(&as_u32(owned.live.len()));
            out.reserve_exact(owned.live.len() * 4 + owned.retired.len() * 12 + 4);
            for place in &owned.live {
                out.extend_from_slice(&place.to_le_bytes());
            }
            out.extend_from_slice(&as_u32(owned.retired.len()));
            for (place, since) in &owned.retired {
                out.extend_from_slice(&place.to_le_bytes());
                out.extend_from_slice(&since.to_le_bytes());
            }
        }
        out
    }

    /// Notes that `provider` has exactly `live` for `workload`. What the workload owned before
    /// is retired, not dropped.
    pub fn hand_over(
        &mut self,
        workload: &str,
        provider: &str,
        live: Vec<u32>,
        now: u64,
    ) -> Outcome {
        let before = self.workloads.remove(workload);
        let newly = before.iter().flat_map(|owned| &owned.live);
        let newly = newly.map(|place| (*place, now));
        let still = before
            .iter()
            .flat_map(|owned| owned.retired.iter().copied());
        let is_gone = |place: u32| live.binary_search(&place).is_err();
        let mut retired: Vec<_> = newly.chain(still).filter(|r| is_gone(r.0)).collect();
        retired.sort_unstable();
        let owned = Owned {
            provider: provider.to_owned(),
            fetched_at: now,
            live,
            retired,
        };
        let is_as_before = |before: &Owned| {
            before.provider == provider
                && before.live == owned.live
                && before.retired == owned.retired
        };
        let outcome = Outcome {
            retired: owned.retired.len(),
            changed: !before.as_ref().is_some_and(is_as_before),
        };
        self.workloads.insert(workload.to_owned(), owned);
        outcome
    }

    /// The workloads that own the entry at `place`, each with the time since when it is retired; 0
    /// if it is not.
    pub fn of(&self, place: u32) -> BTreeMap<String, u64> {
        let workloads = self.workloads.iter();
        workloads
            .filter_map(|(name, owned)| Some((name.clone(), owned.retired_since(place)?)))
            .collect()
    }

    /// Every workload that anything was handed over for.
    pub fn workloads(&self) -> impl Iterator<Item = &str> {
        self.workloads.keys().map(String::as_str)
    }

    /// Takes from `workload` what is retired, but `keep`. Returns how many entries that are.
    pub fn prune(&mut self, workload: &str, keep: &BTreeSet<u32>) -> usize {
        let Some(owned) = self.workloads.get_mut(workload) else {
            return 0;
        };
        let before = owned.retired.len();
        owned.retired.retain(|(place, _)| keep.contains(place));
        before - owned.retired.len()
    }

    /// Forgets `workload`. Returns how many entries it owned.
    pub fn forget_workload(&mut self, workload: &str) -> usize {
        let owned = self.workloads.remove(workload);
        owned.map_or(0, |owned| owned.places().count())
    }

    /// Notes that the entry at `place` was put by hand.
    pub fn put_by_hand(&mut self, place: u32) {
        if let Err(i) = self.by_hand.binary_search(&place) {
            self.by_hand.insert(i, place);
        }
    }

    /// Whether the entry at `place` was put by hand.
    pub fn is_by_hand(&self, place: u32) -> bool {
        self.by_hand.binary_search(&place).is_ok()
    }

    /// How many entries were put by hand.
    pub fn by_hand(&self) -> usize {
        self.by_hand.len()
    }

    /// Notes that the entries at `places`, which ascend, were carried over from a cache of
    /// version 1, and nothing else was.
    pub fn carry(&mut self, places: Vec<u32>) {
        self.carried = places;
    }

    /// Whether anything was carried over and is still nobody's.
    pub fn has_carried(&self) -> bool {
        !self.carried.is_empty()
    }

    /// Of what was carried over, keeps what is `claimed`; what a workload owns by now is only that
    /// workload's. Says whether anything changed.
    pub fn settle_carried(&mut self, claimed: &BTreeSet<u32>) -> bool {
        let carried = std::mem::take(&mut self.carried);
        let owned = self.owned();
        let is_kept =
            |place: &&u32| claimed.contains(*place) && owned.binary_search(place).is_err();
        self.carried = carried.iter().filter(is_kept).copied().collect();
        self.carried.len() < carried.len()
    }

    /// Forgets the entry at `place`, whoever owned it.
    pub fn forget(&mut self, place: u32) {
        self.by_hand.retain(|p| *p != place);
        self.carried.retain(|p| *p != place);
        for owned in self.workloads.values_mut() {
            owned.forget(place);
        }
    }

    /// The place of every entry that somebody owns, ascending.
    pub fn owned(&self) -> Vec<u32> {
        let of_workloads = self.workloads.values().flat_map(Owned::places);
        let others = self.by_hand.iter().chain(&self.carried).copied();
        let mut owned: Vec<u32> = of_workloads.chain(others).collect();
        owned.sort_unstable();
        owned.dedup();
        owned
    }

    /// Gives every entry another place: what was at `p` is at `moved[p]`. The order stays.
    pub fn renumber(&mut self, moved: &[u32]) {
        let owned = self.workloads.values_mut();
        let (live, retired): (Vec<_>, Vec<_>) =
            owned.map(|o| (&mut o.live, &mut o.retired)).unzip();
        let retired = retired.into_iter().flatten().map(|(place, _)| place);
        let others = [&mut self.by_hand, &mut self.carried];
        for place in others.into_iter().chain(live).flatten().chain(retired) {
            *place = moved[*place as usize];
        }
    }
}

/// Entries that are no workload's, as one's.
fn as_owned(provider: &str, places: &[u32]) -> Owned {
    Owned {
        provider: provider.to_owned(),
        live: places.to_vec(),
        ..Owned::default()
    }
}

/// The first four bytes of a length; [`crate::wire::MAX_HAND_OVER`] keeps all lengths below that.
fn as_u32(n: usize) -> [u8; 4] {
    u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes()
}

struct Reader<'a> {
    bytes: &'a [u8],
    records: usize,
}

impl<'a> Reader<'a> {
    fn owners(&mut self) -> Option<Owners> {
        let mut workloads = BTreeMap::new();
        for _ in 0..self.number(4)? {
            let provider = self.text()?;
            let name = self.text()?;
            let owned = Owned {
                provider,
                fetched_at: self.number(8)?,
                live: self
                    .places(|_| Some(()))?
                    .into_iter()
                    .map(|(place, ())| place)
                    .collect(),
                retired: self.places(|reader| reader.number(8))?,
            };
            let is_of_both = |(place, _): &(u32, u64)| owned.live.binary_search(place).is_ok();
            if owned.retired.iter().any(is_of_both) {
                return None;
            }
            workloads.insert(name, owned);
        }
        let mut unowned = |name| {
            let owned: Option<Owned> = workloads.remove(name);
            owned.map(|owned| owned.live).unwrap_or_default()
        };
        Some(Owners {
            by_hand: unowned(BY_HAND),
            carried: unowned(CARRIED),
            workloads,
        })
    }

    /// Ascending places, with what `more` reads behind each.
    fn places<T>(&mut self, more: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<(u32, T)>> {
        let count = usize::try_from(self.number(4)?).ok()?;
        // What it says of its length is not believed before it is read.
        let mut places: Vec<(u32, T)> = Vec::with_capacity(count.min(self.bytes.len() / 4));
        for _ in 0..count {
            let place = u32::try_from(self.number(4)?).ok()?;
            let lowest = places.last().map_or(1, |(last, _)| last + 1);
            // The first record is this list itself.
            if place < lowest || place as usize >= self.records {
                return None;
            }
            places.push((place, more(self)?));
        }
        Some(places)
    }

    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.bytes.split_at_checked(n)?;
        self.bytes = rest;
        Some(head)
    }

    fn number(&mut self, width: usize) -> Option<u64> {
        let bytes = self.take(width)?;
        Some(bytes.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b)))
    }

    fn text(&mut self) -> Option<String> {
        let length = usize::try_from(self.number(2)?).ok()?;
        String::from_utf8(self.take(length)?.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests;
