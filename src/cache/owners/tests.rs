use super::*;

/// Reads it as part of a table of ten records.
fn parse(bytes: &[u8]) -> Result<Owners> {
    Owners::parse(Some(bytes), 10)
}

fn give(owners: &mut Owners, workload: &str, live: &[u32], now: u64) -> usize {
    let outcome = owners.hand_over(workload, "infisical", live.to_vec(), now);
    outcome.retired
}

#[test]
fn what_a_provider_no_longer_has_is_retired_and_stays_owned() {
    let mut owners = Owners::default();
    assert_eq!(give(&mut owners, "a", &[1, 2], 100), 0);
    assert_eq!(give(&mut owners, "a", &[2], 200), 1);
    assert_eq!(give(&mut owners, "a", &[2], 300), 1);
    assert_eq!(owners.owned(), [1, 2]);
    assert_eq!(owners.workloads["a"].retired, [(1, 200)]);
    assert_eq!(owners.workloads["a"].live, [2]);
    assert_eq!(give(&mut owners, "a", &[1, 2], 400), 0);
}

#[test]
fn a_hand_over_says_whether_it_changed_anything_but_the_time() {
    let mut owners = Owners::default();
    let mut changed =
        |live: &[u32], provider, now| owners.hand_over("a", provider, live.to_vec(), now).changed;
    assert!(changed(&[], "infisical", 1), "it is new");
    assert!(!changed(&[], "infisical", 2));
    assert!(changed(&[1, 2], "infisical", 3));
    assert!(!changed(&[1, 2], "infisical", 4));
    assert!(changed(&[1], "infisical", 5));
    assert!(!changed(&[1], "infisical", 6), "it was retired before");
    assert!(changed(&[1], "nitrokeyhsm", 7));
}

#[test]
fn owners_survive_the_way_to_bytes_and_back_and_cuts_are_damage() {
    let mut owners = Owners::default();
    give(&mut owners, "a", &[1, 2], 100);
    give(&mut owners, "a", &[2, 5], 200);
    give(&mut owners, "b@", &[2], 100);
    owners.carry(vec![3, 4]);
    let bytes = owners.to_bytes();
    assert_eq!(parse(&bytes).unwrap(), owners);
    for length in 0..bytes.len() {
        assert!(parse(&bytes[..length]).is_err());
    }
    assert!(parse(&[bytes, vec![0]].concat()).is_err());
}

#[test]
fn places_that_are_not_in_the_table_or_out_of_order_are_damage() {
    let with = |live: &[u32], retired: &[(u32, u64)]| {
        let owned = Owned {
            live: live.to_vec(),
            retired: retired.to_vec(),
            ..Owned::default()
        };
        let workloads = BTreeMap::from([("a".to_owned(), owned)]);
        let owners = Owners {
            workloads,
            ..Owners::default()
        };
        parse(&owners.to_bytes()).is_ok()
    };
    assert!(with(&[1, 9], &[(2, 5)]));
    for (live, retired) in [
        ([0, 1], (2, 5)),
        ([1, 10], (2, 5)),
        ([3, 1], (2, 5)),
        ([1, 1], (2, 5)),
        ([1, 2], (2, 5)),
        ([1, 2], (10, 5)),
    ] {
        assert!(!with(&live, &[retired]), "{live:?} {retired:?}");
    }
}

#[test]
fn only_what_is_retired_and_not_to_be_kept_is_pruned() {
    let mut owners = Owners::default();
    give(&mut owners, "a", &[1, 2, 3], 100);
    give(&mut owners, "b", &[1], 100);
    give(&mut owners, "a", &[3], 200);
    let both = BTreeMap::from([("a".to_owned(), 200), ("b".to_owned(), 0)]);
    assert_eq!(owners.of(1), both);
    assert_eq!(owners.prune("a", &BTreeSet::from([2])), 1);
    assert_eq!(owners.of(1), BTreeMap::from([("b".to_owned(), 0)]));
    assert_eq!(owners.owned(), [1, 2, 3]);
    let nothing = BTreeSet::new();
    assert_eq!(owners.prune("b", &nothing), 0, "it is not retired");
    assert_eq!(owners.prune("a", &nothing), 1);
    assert_eq!(owners.owned(), [1, 3]);
    assert_eq!(owners.prune("nobody", &nothing), 0);
}

#[test]
fn a_forgotten_workload_owns_nothing() {
    let mut owners = Owners::default();
    give(&mut owners, "a", &[1, 2], 100);
    give(&mut owners, "b", &[2], 100);
    assert_eq!(owners.forget_workload("a"), 2);
    assert_eq!(owners.forget_workload("a"), 0);
    assert_eq!(owners.owned(), [2]);
    assert_eq!(owners.workloads().collect::<Vec<_>>(), ["b"]);
}

#[test]
fn what_was_put_by_hand_is_touched_by_nothing_that_is_done_for_workloads() {
    let mut owners = Owners::default();
    give(&mut owners, "a", &[1, 2], 100);
    assert!(!owners.is_by_hand(9));
    owners.put_by_hand(9);
    owners.put_by_hand(9);
    assert_eq!((owners.by_hand(), owners.is_by_hand(9)), (1, true));
    assert_eq!(parse(&owners.to_bytes()).unwrap(), owners);
    assert_eq!(give(&mut owners, "a", &[], 400), 2);
    assert_eq!(owners.workloads().collect::<Vec<_>>(), ["a"]);
    assert!(owners.of(9).is_empty());
    for name in ["", "a"] {
        owners.prune(name, &BTreeSet::new());
        owners.forget_workload(name);
    }
    assert_eq!(owners.owned(), [9]);
    owners.forget(9);
    assert_eq!((owners.by_hand(), owners.is_by_hand(9)), (0, false));
    assert_eq!(parse(&owners.to_bytes()).unwrap(), owners);
}

#[test]
fn a_forgotten_entry_is_owned_by_nobody() {
    let mut owners = Owners::default();
    give(&mut owners, "a", &[1], 100);
    give(&mut owners, "b", &[1], 100);
    owners.forget(1);
    assert!(owners.owned().is_empty());
}

#[test]
fn entries_that_get_other_places_keep_their_owners() {
    let mut owners = Owners::default();
    give(&mut owners, "a", &[1, 3], 100);
    give(&mut owners, "a", &[3], 200);
    owners.put_by_hand(2);
    owners.carry(vec![4]);
    owners.renumber(&[0, 2, 3, 6, 9]);
    assert_eq!(owners.owned(), [2, 3, 6, 9]);
    assert_eq!(owners.of(2), BTreeMap::from([("a".to_owned(), 200)]));
    assert_eq!(owners.of(6), BTreeMap::from([("a".to_owned(), 0)]));
    assert!(owners.is_by_hand(3));
}
