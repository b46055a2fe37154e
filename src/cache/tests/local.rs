//! Values that were put by hand.

use super::*;
use crate::cache::{MAX_LOCAL, check_local};
use crate::secret::LocalName;
use crate::wire::PutLocal;

fn key(cache: &Cache, name: &str) -> EntryKey {
    let name = LocalName::parse(name).unwrap();
    cache.keyer().entry_key(&Mapping::local(&name))
}

fn put(cache: &Cache, name: &str, value: &str) -> PutLocal {
    cache.put(key(cache, name), value.as_bytes()).unwrap()
}

fn local_value(cache: &Cache, name: &str) -> Option<Vec<u8>> {
    let key = key(cache, name);
    cache.current().table.get(&key).map(<[u8]>::to_vec)
}

#[test]
fn a_value_that_was_put_is_there_after_a_restart_and_counted() {
    let f = Fixture::new();
    let cache = f.filled();
    let first = put(&cache, "L", "one\n");
    assert_eq!((first.stored, first.generation, first.slots), (true, 3, 1));
    let same = put(&cache, "L", "one\n");
    assert_eq!((same.stored, same.generation), (false, 3));
    let cache = opened(&f.path(), 1);
    assert_eq!(local_value(&cache, "L"), Some(b"one\n".to_vec()));
    let header = cache.current().header.clone();
    assert_eq!((header.entries, header.local), (4, 1));
    assert_eq!(put(&cache, "L", "two").generation, 4);
    let cache = opened(&f.path(), 1);
    assert_eq!(local_value(&cache, "L"), Some(b"two".to_vec()));
    assert_eq!(cache.current().header.local, 1);
    assert_eq!(value(&cache, "Z"), Some(b"3".to_vec()));
}

#[test]
fn the_first_value_may_make_the_cache() {
    let f = Fixture::new();
    let cache = Cache::unsaved(&f.path(), &fixed(1)).unwrap();
    assert!(cache.put(key(&cache, "L"), b"").is_err());
    assert!(!f.path().exists());
    assert_eq!(put(&cache, "L", "v").generation, 1);
    assert_eq!(opened(&f.path(), 1).current().header.local, 1);
}

#[test]
fn no_hand_over_touches_a_local_value() {
    let f = Fixture::new();
    let cache = f.filled();
    put(&cache, "L", "v");
    for given in [
        hand_over(&[("a", &[])]),
        hand_over(&[("a", &[]), ("b", &[])]),
        hand_over(&[("local", &[("L", "of infisical")])]),
    ] {
        commit(&cache, &given).unwrap();
        let cache = opened(&f.path(), 1);
        assert_eq!(local_value(&cache, "L"), Some(b"v".to_vec()));
        assert_eq!(cache.current().header.local, 1);
    }
    let as_by_hand = hand_over(&[("", &[])]);
    let error = commit(&cache, &as_by_hand);
    assert_eq!(error.unwrap_err().kind(), Kind::Refused);
    assert_eq!(local_value(&cache, "L"), Some(b"v".to_vec()));
}

#[test]
fn a_local_value_is_not_invalidated_since_it_is_the_only_copy() {
    let f = Fixture::new();
    let cache = f.filled();
    put(&cache, "L", "v");
    let before = std::fs::read(f.path()).unwrap();
    let error = cache.invalidate(&key(&cache, "L")).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.next_step().unwrap().contains("psi-cachectl rm"));
    assert_eq!(local_value(&cache, "L"), Some(b"v".to_vec()));
    assert_eq!(std::fs::read(f.path()).unwrap(), before);
}

#[test]
fn a_removed_local_value_is_gone_from_memory_and_disk_and_nothing_else_is() {
    let f = Fixture::new();
    let cache = f.filled();
    put(&cache, "L", "v");
    put(&cache, "M", "w");
    assert!(cache.remove_local(&key(&cache, "L")).unwrap().removed);
    let before = std::fs::read(f.path()).unwrap();
    assert!(!cache.remove_local(&key(&cache, "L")).unwrap().removed);
    let of_infisical = cache.keyer().entry_key(&mapping("X"));
    assert!(!cache.remove_local(&of_infisical).unwrap().removed);
    assert_eq!(std::fs::read(f.path()).unwrap(), before);
    for cache in [&cache, &*opened(&f.path(), 1)] {
        assert_eq!(local_value(cache, "L"), None);
        assert_eq!(local_value(cache, "M"), Some(b"w".to_vec()));
        assert_eq!(value(cache, "X"), Some(b"1".to_vec()));
        assert_eq!(cache.current().header.local, 1);
    }
}

#[test]
fn empty_and_oversized_values_are_refused_and_the_one_before_stays() {
    assert!(check_local(&vec![b'x'; MAX_LOCAL]).is_ok());
    let f = Fixture::new();
    let cache = f.filled();
    put(&cache, "L", "v");
    for bad in [vec![], vec![b'x'; MAX_LOCAL + 1]] {
        let error = cache.put(key(&cache, "L"), &bad).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert!(error.next_step().is_some());
    }
    assert_eq!(local_value(&opened(&f.path(), 1), "L"), Some(b"v".to_vec()));
}

#[test]
fn a_put_and_a_removal_that_fail_keep_the_last_good_state() {
    let f = Fixture::new();
    let cache = f.filled();
    put(&cache, "L", "v");
    // A directory in the temporary file's place can neither be removed nor replaced by a file.
    let obstacle = f.dir.path().join(".cache.enc.new");
    std::fs::create_dir(&obstacle).unwrap();
    let put_fails = cache.put(key(&cache, "L"), b"w").map(drop);
    let rm_fails = cache.remove_local(&key(&cache, "L")).map(drop);
    for outcome in [put_fails, rm_fails] {
        assert_eq!(outcome.unwrap_err().kind(), Kind::Io);
    }
    for cache in [&cache, &*opened(&f.path(), 1)] {
        assert_eq!(local_value(cache, "L"), Some(b"v".to_vec()));
    }
    std::fs::remove_dir(&obstacle).unwrap();
    assert!(put(&cache, "L", "w").stored);
}
