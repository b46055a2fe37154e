//! Who owns which entry: kept inside the sealed contents, so that nobody can tamper with it.
//!
//! ```text
//! workloads u32 LE | workloads x {provider, name: u16 LE length and text each
//!                  | fetched_at u64 LE | entries u32 LE | entries x {key 32, retired_since u64 LE}}
//! ```
//!
//! `retired_since` is 0 while the provider has the value. An entry goes when nothing owns it. What
//! was put by hand is written as that of a workload with the empty name, and what was carried over
//! from version 1 as that of one whose name is a zero byte; no workload can have these.

use std::collections::{BTreeMap, BTreeSet};

use crate::cache::envelope::damaged;
use crate::cache::table::EntryKey;
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
    by_hand: BTreeSet<EntryKey>,
    carried: BTreeSet<EntryKey>,
}

#[derive(Debug, PartialEq, Eq)]
struct Owned {
    provider: String,
    fetched_at: u64,
    entries: BTreeMap<EntryKey, u64>,
}

impl Owners {
    /// Reads what [`Owners::to_bytes`] wrote; nothing at all is nobody.
    ///
    /// # Errors
    /// [`crate::Kind::Damaged`] for anything else.
    pub fn parse(bytes: Option<&[u8]>) -> Result<Self> {
        let Some(bytes) = bytes else {
            return Ok(Self::default());
        };
        let mut reader = Reader(bytes);
        reader
            .owners()
            .filter(|_| reader.0.is_empty())
            .ok_or_else(|| damaged("its list of owners is not readable"))
    }

    /// The bytes to keep.
    pub fn to_bytes(&self) -> Vec<u8> {
        let by_hand = as_owned(ProviderName::Local.as_str(), &self.by_hand);
        let carried = as_owned("", &self.carried);
        let unowned = [(BY_HAND, &by_hand), (CARRIED, &carried)];
        let unowned = unowned.into_iter().filter(|(_, o)| !o.entries.is_empty());
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
            out.extend_from_slice(&as_u32(owned.entries.len()));
            for (key, retired_since) in &owned.entries {
                out.extend_from_slice(key.as_bytes());
                out.extend_from_slice(&retired_since.to_le_bytes());
            }
        }
        out
    }

    /// Notes that `provider` has exactly `live` for `workload`. What the workload owned before
    /// is retired, not dropped. Returns how many entries are retired now.
    pub fn hand_over(
        &mut self,
        workload: &str,
        provider: &str,
        live: &BTreeSet<EntryKey>,
        now: u64,
    ) -> usize {
        let before = self.workloads.remove(workload).map(|owned| owned.entries);
        let retired: BTreeMap<EntryKey, u64> = before
            .unwrap_or_default()
            .into_iter()
            .filter(|(key, _)| !live.contains(key))
            .map(|(key, since)| (key, if since == 0 { now } else { since }))
            .collect();
        let count = retired.len();
        let mut entries = retired;
        entries.extend(live.iter().map(|key| (*key, 0)));
        let owned = Owned {
            provider: provider.to_owned(),
            fetched_at: now,
            entries,
        };
        self.workloads.insert(workload.to_owned(), owned);
        count
    }

    /// The workloads that own `key`, each with the time since when it is retired; 0 if it is not.
    pub fn of(&self, key: &EntryKey) -> BTreeMap<String, u64> {
        let retired_since = |owned: &Owned| owned.entries.get(key).copied();
        let workloads = self.workloads.iter();
        workloads
            .filter_map(|(name, owned)| Some((name.clone(), retired_since(owned)?)))
            .collect()
    }

    /// Every workload that anything was handed over for.
    pub fn workloads(&self) -> impl Iterator<Item = &str> {
        self.workloads.keys().map(String::as_str)
    }

    /// Takes from `workload` what is retired, but `keep`. Returns how many entries that are.
    pub fn prune(&mut self, workload: &str, keep: &BTreeSet<EntryKey>) -> usize {
        let Some(owned) = self.workloads.get_mut(workload) else {
            return 0;
        };
        let before = owned.entries.len();
        owned
            .entries
            .retain(|key, retired_since| *retired_since == 0 || keep.contains(key));
        before - owned.entries.len()
    }

    /// Forgets `workload`. Returns how many entries it owned.
    pub fn forget_workload(&mut self, workload: &str) -> usize {
        let owned = self.workloads.remove(workload);
        owned.map_or(0, |owned| owned.entries.len())
    }

    /// Notes that `key` was put by hand.
    pub fn put_by_hand(&mut self, key: EntryKey) {
        self.by_hand.insert(key);
    }

    /// Whether `key` was put by hand.
    pub fn is_by_hand(&self, key: &EntryKey) -> bool {
        self.by_hand.contains(key)
    }

    /// How many entries were put by hand.
    pub fn by_hand(&self) -> usize {
        self.by_hand.len()
    }

    /// Notes that `keys` were carried over from a cache of version 1.
    pub fn carry(&mut self, keys: impl Iterator<Item = EntryKey>) {
        self.carried.extend(keys);
    }

    /// Whether anything was carried over and is still nobody's.
    pub fn has_carried(&self) -> bool {
        !self.carried.is_empty()
    }

    /// Of what was carried over, keeps what is `claimed`; what a workload owns by now is only that
    /// workload's. Says whether anything changed.
    pub fn settle_carried(&mut self, claimed: &BTreeSet<EntryKey>) -> bool {
        let carried = std::mem::take(&mut self.carried);
        let owned = self.owned();
        let is_kept = |key: &&EntryKey| claimed.contains(*key) && !owned.contains(*key);
        self.carried = carried.iter().filter(is_kept).copied().collect();
        self.carried.len() < carried.len()
    }

    /// Forgets `key`, whoever owned it.
    pub fn forget(&mut self, key: &EntryKey) {
        self.by_hand.remove(key);
        self.carried.remove(key);
        for owned in self.workloads.values_mut() {
            owned.entries.remove(key);
        }
    }

    /// Every entry that somebody owns.
    pub fn owned(&self) -> BTreeSet<EntryKey> {
        let workloads = self.workloads.values();
        let of_workloads = workloads.flat_map(|w| w.entries.keys());
        let others = self.by_hand.iter().chain(&self.carried);
        of_workloads.chain(others).copied().collect()
    }

    /// Whether both say the same but for when it was fetched.
    pub fn same_but_for_time(&self, other: &Self) -> bool {
        let key = |(name, owned): (&String, &Owned)| {
            (name.clone(), owned.provider.clone(), owned.entries.clone())
        };
        self.workloads
            .iter()
            .map(key)
            .eq(other.workloads.iter().map(key))
    }
}

/// Entries that are no workload's, as one's.
fn as_owned(provider: &str, entries: &BTreeSet<EntryKey>) -> Owned {
    Owned {
        provider: provider.to_owned(),
        fetched_at: 0,
        entries: entries.iter().map(|key| (*key, 0)).collect(),
    }
}

/// The first four bytes of a length; [`crate::wire::MAX_HAND_OVER`] keeps all lengths below that.
fn as_u32(n: usize) -> [u8; 4] {
    u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes()
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn owners(&mut self) -> Option<Owners> {
        let mut workloads = BTreeMap::new();
        for _ in 0..self.number(4)? {
            let provider = self.text()?;
            let name = self.text()?;
            let fetched_at = self.number(8)?;
            let mut entries = BTreeMap::new();
            for _ in 0..self.number(4)? {
                let key = EntryKey::from_bytes(self.take(32)?)?;
                entries.insert(key, self.number(8)?);
            }
            let owned = Owned {
                provider,
                fetched_at,
                entries,
            };
            workloads.insert(name, owned);
        }
        let mut unowned = |name| {
            let owned: Option<Owned> = workloads.remove(name);
            owned
                .into_iter()
                .flat_map(|o| o.entries.into_keys())
                .collect()
        };
        Some(Owners {
            by_hand: unowned(BY_HAND),
            carried: unowned(CARRIED),
            workloads,
        })
    }

    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
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
mod tests {
    use super::*;

    fn keys(numbers: &[u8]) -> BTreeSet<EntryKey> {
        let key = |n: &u8| EntryKey::from_bytes(&[*n; 32]).unwrap();
        numbers.iter().map(key).collect()
    }

    #[test]
    fn what_a_provider_no_longer_has_is_retired_and_stays_owned() {
        let mut owners = Owners::default();
        assert_eq!(owners.hand_over("a", "infisical", &keys(&[1, 2]), 100), 0);
        assert_eq!(owners.hand_over("a", "infisical", &keys(&[2]), 200), 1);
        assert_eq!(owners.hand_over("a", "infisical", &keys(&[2]), 300), 1);
        assert_eq!(owners.owned(), keys(&[1, 2]));
        let since: Vec<u64> = owners.workloads["a"].entries.values().copied().collect();
        assert_eq!(since, [200, 0]);
        assert_eq!(owners.hand_over("a", "infisical", &keys(&[1, 2]), 400), 0);
    }

    #[test]
    fn owners_survive_the_way_to_bytes_and_back_and_cuts_are_damage() {
        let mut owners = Owners::default();
        owners.hand_over("a", "infisical", &keys(&[1, 2]), 100);
        owners.hand_over("b@", "local", &keys(&[2]), 100);
        owners.carry(keys(&[3, 4]).into_iter());
        let bytes = owners.to_bytes();
        assert_eq!(Owners::parse(Some(&bytes)).unwrap(), owners);
        for length in 0..bytes.len() {
            assert!(Owners::parse(Some(&bytes[..length])).is_err());
        }
        assert!(Owners::parse(Some(&[bytes, vec![0]].concat())).is_err());
    }

    #[test]
    fn only_what_is_retired_and_not_to_be_kept_is_pruned() {
        let mut owners = Owners::default();
        owners.hand_over("a", "infisical", &keys(&[1, 2, 3]), 100);
        owners.hand_over("b", "infisical", &keys(&[1]), 100);
        owners.hand_over("a", "infisical", &keys(&[3]), 200);
        let one = EntryKey::from_bytes(&[1; 32]).unwrap();
        let both = BTreeMap::from([("a".to_owned(), 200), ("b".to_owned(), 0)]);
        assert_eq!(owners.of(&one), both);
        assert_eq!(owners.prune("a", &keys(&[2])), 1);
        assert_eq!(owners.of(&one), BTreeMap::from([("b".to_owned(), 0)]));
        assert_eq!(owners.owned(), keys(&[1, 2, 3]));
        assert_eq!(owners.prune("b", &keys(&[])), 0, "it is not retired");
        assert_eq!(owners.prune("a", &keys(&[])), 1);
        assert_eq!(owners.owned(), keys(&[1, 3]));
        assert_eq!(owners.prune("nobody", &keys(&[])), 0);
    }

    #[test]
    fn a_forgotten_workload_owns_nothing() {
        let mut owners = Owners::default();
        owners.hand_over("a", "infisical", &keys(&[1, 2]), 100);
        owners.hand_over("b", "infisical", &keys(&[2]), 100);
        assert_eq!(owners.forget_workload("a"), 2);
        assert_eq!(owners.forget_workload("a"), 0);
        assert_eq!(owners.owned(), keys(&[2]));
        assert_eq!(owners.workloads().collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn what_was_put_by_hand_is_touched_by_nothing_that_is_done_for_workloads() {
        let mut owners = Owners::default();
        let key = EntryKey::from_bytes(&[9; 32]).unwrap();
        owners.hand_over("a", "infisical", &keys(&[1, 2]), 100);
        assert!(!owners.is_by_hand(&key));
        owners.put_by_hand(key);
        owners.put_by_hand(key);
        assert_eq!((owners.by_hand(), owners.is_by_hand(&key)), (1, true));
        let bytes = owners.to_bytes();
        assert_eq!(Owners::parse(Some(&bytes)).unwrap(), owners);
        assert_eq!(owners.hand_over("a", "infisical", &keys(&[]), 400), 2);
        assert_eq!(owners.workloads().collect::<Vec<_>>(), ["a"]);
        assert!(owners.of(&key).is_empty());
        for name in ["", "a"] {
            owners.prune(name, &keys(&[]));
            owners.forget_workload(name);
        }
        assert_eq!(owners.owned(), keys(&[9]));
        owners.forget(&key);
        assert_eq!((owners.by_hand(), owners.is_by_hand(&key)), (0, false));
        assert_eq!(Owners::parse(Some(&owners.to_bytes())).unwrap(), owners);
    }

    #[test]
    fn a_forgotten_entry_is_owned_by_nobody() {
        let mut owners = Owners::default();
        owners.hand_over("a", "infisical", &keys(&[1]), 100);
        owners.hand_over("b", "infisical", &keys(&[1]), 100);
        owners.forget(&EntryKey::from_bytes(&[1; 32]).unwrap());
        assert!(owners.owned().is_empty());
    }
}
