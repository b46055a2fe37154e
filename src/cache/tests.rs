use std::collections::BTreeMap;

use super::*;
use crate::mapping::{Mapping, ProviderName};
use crate::protector::{SlotFields, SlotKind};
use crate::secret::SecretValue;
use crate::wire::{Counts, Entry, HandOver, HandedOver, WorkloadEntries};

mod local;
mod slots;

/// A protector whose key is given, to test the cache without a device.
struct Fixed(u8);

impl Protector for Fixed {
    fn kind(&self) -> SlotKind {
        SlotKind::Credential
    }
    fn seal(&self) -> Result<(Key, SlotFields)> {
        Ok((self.unseal(&SlotFields::new())?, SlotFields::new()))
    }
    fn unseal(&self, _: &SlotFields) -> Result<Key> {
        Ok(Key::from_bytes(&[self.0; 32]).unwrap())
    }
}

/// A protector whose device is away.
struct Broken;

impl Protector for Broken {
    fn kind(&self) -> SlotKind {
        SlotKind::Credential
    }
    fn seal(&self) -> Result<(Key, SlotFields)> {
        Err(Error::new(Kind::Unreachable, "away"))
    }
    fn unseal(&self, _: &SlotFields) -> Result<Key> {
        Err(Error::new(Kind::Unreachable, "away"))
    }
}

fn fixed(n: u8) -> Vec<Box<dyn Protector>> {
    vec![Box::new(Fixed(n))]
}

fn mapping(key: &str) -> Mapping {
    Mapping::new(ProviderName::Infisical, [("key", key)])
}

fn hand_over(workloads: &[(&str, &[(&str, &str)])]) -> HandOver {
    let entry = |(key, value): &(&str, &str)| Entry {
        mapping: mapping(key),
        value: SecretValue::new(value.as_bytes().to_vec()),
    };
    let workload = |(name, entries): &(&str, &[(&str, &str)])| {
        let entries = entries.iter().map(entry).collect();
        (name.to_string(), WorkloadEntries { entries })
    };
    HandOver {
        workloads: workloads.iter().map(workload).collect(),
    }
}

fn offer(cache: &Cache, given: &HandOver) -> Result<Offer> {
    let json = given.to_json()?;
    Offer::read(cache.keyer(), ProviderName::Infisical, json.as_bytes())
}

fn commit(cache: &Cache, given: &HandOver) -> Result<HandedOver> {
    cache.commit(offer(cache, given)?)
}

fn opened(path: &Path, key: u8) -> std::sync::Arc<Cache> {
    match Cache::open(path, &fixed(key)).unwrap() {
        Opening::Opened(cache, _) => cache,
        Opening::Absent => panic!("absent"),
        Opening::NoSlot(unopened) => panic!("{unopened:?}"),
    }
}

fn value(cache: &Cache, key: &str) -> Option<Vec<u8>> {
    let entry = cache.keyer().entry_key(&mapping(key));
    cache.current().table.get(&entry).map(<[u8]>::to_vec)
}

struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }
    fn path(&self) -> PathBuf {
        self.dir.path().join("cache.enc")
    }
    fn filled(&self) -> Cache {
        let cache = Cache::create(&self.path(), &fixed(1)).unwrap();
        let given = hand_over(&[
            ("a", &[("X", "1"), ("Y", "")]),
            ("b", &[("X", "1"), ("Z", "3")]),
        ]);
        let answer = commit(&cache, &given).unwrap();
        assert_eq!(answer.generation, 2);
        cache
    }
}

#[test]
fn an_unsaved_cache_is_on_disk_with_its_first_commit_and_not_before() {
    let f = Fixture::new();
    let cache = Cache::unsaved(&f.path(), &fixed(1)).unwrap();
    let two_values = hand_over(&[("a", &[("X", "1"), ("X", "2")])]);
    assert!(commit(&cache, &two_values).is_err());
    assert!(!f.path().exists());
    let nothing = HandOver::default();
    let answer = commit(&cache, &nothing).unwrap();
    assert_eq!(answer.generation, 1);
    assert_eq!(opened(&f.path(), 1).current().header.generation, 1);
}

#[test]
fn what_was_handed_over_is_there_after_a_restart() {
    let f = Fixture::new();
    drop(f.filled());
    let cache = opened(&f.path(), 1);
    assert_eq!(value(&cache, "X"), Some(b"1".to_vec()));
    assert_eq!(value(&cache, "Y"), Some(b"".to_vec()), "empty is a value");
    assert_eq!(value(&cache, "Z"), Some(b"3".to_vec()));
    assert_eq!(value(&cache, "W"), None);
    assert_eq!(cache.current().header.entries, 3);
}

#[test]
fn the_file_belongs_to_its_owner_alone_and_holds_nothing_in_clear() {
    use std::os::unix::fs::PermissionsExt;
    let f = Fixture::new();
    let cache = Cache::create(&f.path(), &fixed(1)).unwrap();
    let given = hand_over(&[("myapp", &[("DB_PASSWORD", "hunter2hunter2")])]);
    commit(&cache, &given).unwrap();
    let bytes = std::fs::read(f.path()).unwrap();
    for clear in ["hunter2", "DB_PASSWORD", "myapp"] {
        assert!(!bytes.windows(clear.len()).any(|w| w == clear.as_bytes()));
    }
    let mode = std::fs::metadata(f.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_workload_that_is_absent_from_a_hand_over_keeps_what_it_has() {
    let f = Fixture::new();
    let cache = f.filled();
    let given = hand_over(&[("a", &[("X", "changed"), ("Y", "")])]);
    let answer = commit(&cache, &given).unwrap();
    let expected = Counts {
        stored: 1,
        unchanged: 1,
        retired: 0,
    };
    assert_eq!(answer.workloads, BTreeMap::from([("a".into(), expected)]));
    let cache = opened(&f.path(), 1);
    assert_eq!(value(&cache, "X"), Some(b"changed".to_vec()));
    assert_eq!(value(&cache, "Z"), Some(b"3".to_vec()));
}

#[test]
fn what_a_provider_no_longer_has_is_retired_and_still_served() {
    let f = Fixture::new();
    let cache = f.filled();
    let given = hand_over(&[("a", &[("X", "1")])]);
    let answer = commit(&cache, &given).unwrap();
    assert_eq!(answer.workloads["a"].retired, 1);
    assert_eq!(value(&opened(&f.path(), 1), "Y"), Some(b"".to_vec()));
}

#[test]
fn a_hand_over_that_changes_nothing_writes_nothing_but_the_time_once_an_hour() {
    let f = Fixture::new();
    let cache = f.filled();
    let before = std::fs::read(f.path()).unwrap();
    let given = hand_over(&[("b", &[("X", "1"), ("Z", "3")])]);
    let answer = commit(&cache, &given).unwrap();
    assert_eq!((answer.generation, answer.workloads["b"].unchanged), (2, 2));
    assert_eq!(std::fs::read(f.path()).unwrap(), before);
    let later = now() + 3600;
    let answer = cache.commit_at(offer(&cache, &given).unwrap(), later);
    let answer = answer.unwrap();
    assert_eq!(answer.generation, 3);
}

#[test]
fn one_secret_with_two_values_is_refused_and_changes_nothing() {
    let f = Fixture::new();
    let cache = f.filled();
    let given = hand_over(&[("a", &[("X", "2")]), ("c", &[("X", "3")])]);
    let error = commit(&cache, &given).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert_eq!(value(&cache, "X"), Some(b"1".to_vec()));
    assert_eq!(value(&opened(&f.path(), 1), "X"), Some(b"1".to_vec()));
}

/// Some values lie behind one another, some are too large for that, and many are given twice.
#[test]
fn every_value_is_found_again_however_large_and_whoever_shares_it() {
    let f = Fixture::new();
    let cache = f.filled();
    let value_of = |n: usize, version: usize| match n % 50 {
        7 => "L".repeat(300_000 + version),
        8 => String::new(),
        _ => format!("{version}:{n}:{}", "x".repeat(n)),
    };
    for version in 0..3 {
        let values: Vec<(String, String)> = (0..300)
            .map(|n| (format!("K{n}"), value_of(n, version)))
            .collect();
        let some = |numbers: std::ops::Range<usize>| -> Vec<(&str, &str)> {
            let values = values[numbers].iter();
            values
                .map(|(key, value)| (key.as_str(), value.as_str()))
                .collect()
        };
        // In the last version, one workload no longer has some of it, and nobody has the rest.
        let lost = 20 * (version / 2);
        let (all, half, one) = (some(lost..300), some(lost..150), some(299..300));
        let given = hand_over(&[("all", &all), ("half", &half), ("one", &one), ("none", &[])]);
        let answer = commit(&cache, &given).unwrap();
        assert_eq!(answer.workloads["half"].retired, lost);
        for cache in [&cache, &*opened(&f.path(), 1)] {
            assert_eq!(cache.current().header.entries, 303);
            assert_eq!(value(cache, "Z"), Some(b"3".to_vec()));
            for n in 0..300 {
                let version = if n < lost { 1 } else { version };
                let expected = value_of(n, version).into_bytes();
                assert_eq!(value(cache, &format!("K{n}")), Some(expected), "{n}");
            }
        }
        let again = commit(&cache, &given).unwrap();
        assert_eq!(again.generation, answer.generation);
        assert_eq!(again.workloads["all"].unchanged, 300 - lost);
    }
    // What two workloads share is there once.
    let size = cache.current().table.text().len();
    assert!(size < 7 * 300_000, "{size}");
}

#[test]
fn a_workload_that_comes_twice_is_refused() {
    let f = Fixture::new();
    let cache = f.filled();
    let json = br#"{"workloads":{"a":{"entries":[]},"a":{"entries":[]}}}"#;
    let read = Offer::read(cache.keyer(), ProviderName::Infisical, json.as_slice());
    let error = read.err().unwrap();
    assert_eq!(error.kind(), Kind::Usage);
    assert!(error.to_string().contains("comes twice"), "{error}");
}

#[test]
fn what_was_read_for_another_cache_is_refused() {
    let f = Fixture::new();
    let cache = f.filled();
    let other = Cache::unsaved(&f.path(), &fixed(1)).unwrap();
    let given = hand_over(&[("a", &[("X", "new")])]);
    let error = cache.commit(offer(&other, &given).unwrap()).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert_eq!(value(&cache, "X"), Some(b"1".to_vec()));
}

#[test]
fn an_invalidated_value_is_gone_from_memory_and_disk_and_may_come_back() {
    let f = Fixture::new();
    let cache = f.filled();
    let key = cache.keyer().entry_key(&mapping("X"));
    assert!(cache.invalidate(&key).unwrap());
    assert!(!cache.invalidate(&key).unwrap());
    assert_eq!(value(&cache, "X"), None);
    let cache = opened(&f.path(), 1);
    assert_eq!(value(&cache, "X"), None);
    assert_eq!(value(&cache, "Z"), Some(b"3".to_vec()));
    let given = hand_over(&[("a", &[("X", "new"), ("Y", "")])]);
    commit(&cache, &given).unwrap();
    assert_eq!(value(&cache, "X"), Some(b"new".to_vec()));
}

#[test]
fn a_wrong_key_opens_nothing_and_says_which_slot_was_tried() {
    let f = Fixture::new();
    drop(f.filled());
    let before = std::fs::read(f.path()).unwrap();
    match Cache::open(&f.path(), &fixed(2)).unwrap() {
        Opening::NoSlot(Unopened { attempts, .. }) => {
            assert_eq!(attempts.len(), 1);
            assert_eq!(attempts[0].slot, 1);
            let failure = attempts[0].failure.as_ref().unwrap();
            assert_eq!(failure.kind(), Kind::Denied);
        }
        _ => panic!("opened with another key"),
    }
    assert!(matches!(
        Cache::open(&f.path(), &[]).unwrap(),
        Opening::NoSlot(_)
    ));
    assert_eq!(std::fs::read(f.path()).unwrap(), before);
}

#[test]
fn a_cut_or_altered_file_is_damage_whatever_the_place() {
    let f = Fixture::new();
    drop(f.filled());
    let good = std::fs::read(f.path()).unwrap();
    let outcome = |bytes: &[u8]| {
        std::fs::write(f.path(), bytes).unwrap();
        Cache::open(&f.path(), &fixed(1))
    };
    for length in 0..good.len() {
        let error = outcome(&good[..length]).err().map(|e| e.kind());
        assert_eq!(error, Some(Kind::Damaged), "cut to {length}");
    }
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        match outcome(&bad) {
            Err(error) => assert_eq!(error.kind(), Kind::Damaged, "bit {bit}"),
            Ok(Opening::NoSlot(_)) => {}
            Ok(_) => panic!("bit {bit} went unnoticed"),
        }
    }
    assert!(matches!(outcome(&good), Ok(Opening::Opened(..))));
}

#[test]
fn a_save_that_was_cut_off_leaves_the_old_file_and_the_next_save_works() {
    let f = Fixture::new();
    let cache = f.filled();
    let good = std::fs::read(f.path()).unwrap();
    let leftover = f.dir.path().join(".cache.enc.new");
    for length in [0, 1, good.len() / 2, good.len()] {
        std::fs::write(&leftover, &good[..length]).unwrap();
        let generation = opened(&f.path(), 1).current().header.generation;
        assert_eq!(generation, cache.current().header.generation);
        let given = hand_over(&[("a", &[("X", &length.to_string()), ("Y", "")])]);
        commit(&cache, &given).unwrap();
        assert!(!leftover.exists());
    }
}

#[test]
fn a_save_that_fails_keeps_the_last_good_state() {
    let f = Fixture::new();
    let cache = f.filled();
    // A directory in the temporary file's place can neither be removed nor replaced by a file.
    std::fs::create_dir(f.dir.path().join(".cache.enc.new")).unwrap();
    let given = hand_over(&[("a", &[("X", "2")])]);
    let error = commit(&cache, &given).unwrap_err();
    assert_eq!(error.kind(), Kind::Io);
    assert!(error.to_string().contains("cache.enc"), "{error}");
    assert_eq!(value(&cache, "X"), Some(b"1".to_vec()));
    assert_eq!(value(&opened(&f.path(), 1), "X"), Some(b"1".to_vec()));
}

#[test]
fn verify_reads_the_disk_and_not_the_memory() {
    let f = Fixture::new();
    let cache = f.filled();
    assert_eq!(cache.verify().unwrap().entries, 3);
    let good = std::fs::read(f.path()).unwrap();
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    std::fs::write(f.path(), bad).unwrap();
    assert_eq!(cache.verify().unwrap_err().kind(), Kind::Damaged);
    std::fs::remove_file(f.path()).unwrap();
    assert_eq!(cache.verify().unwrap_err().kind(), Kind::Damaged);
    std::fs::write(f.path(), &good).unwrap();
    let given = hand_over(&[("a", &[("X", "2")])]);
    commit(&cache, &given).unwrap();
    std::fs::write(f.path(), good).unwrap();
    assert!(cache.verify().is_err(), "an older file was put back");
}

#[test]
fn what_verify_finds_damaged_is_written_anew_from_memory() {
    let f = Fixture::new();
    let cache = f.filled();
    let mut bad = std::fs::read(f.path()).unwrap();
    *bad.last_mut().unwrap() ^= 1;
    for damage in [Some(bad), None] {
        match damage {
            Some(bad) => std::fs::write(f.path(), bad).unwrap(),
            None => std::fs::remove_file(f.path()).unwrap(),
        }
        let error = cache.verify().unwrap_err();
        assert!(error.to_string().contains("written anew"), "{error}");
        assert_eq!(value(&opened(&f.path(), 1), "X"), Some(b"1".to_vec()));
        cache.verify().unwrap();
    }
}

#[test]
fn what_verify_can_not_mend_stays_in_memory_and_says_how_to_keep_it() {
    let f = Fixture::new();
    let cache = f.filled();
    std::fs::remove_file(f.path()).unwrap();
    std::fs::create_dir(f.path()).unwrap();
    let error = cache.verify().unwrap_err();
    assert_eq!(error.kind(), Kind::Io, "{error}");
    std::fs::remove_dir(f.path()).unwrap();
    let in_the_way = f.dir.path().join(".cache.enc.new");
    std::fs::create_dir(&in_the_way).unwrap();
    let error = cache.verify().unwrap_err();
    assert_eq!(error.kind(), Kind::Damaged, "{error}");
    assert!(
        error.next_step().unwrap().contains("do not stop"),
        "{error}"
    );
    assert_eq!(value(&cache, "X"), Some(b"1".to_vec()));
    std::fs::remove_dir(in_the_way).unwrap();
    assert!(cache.verify().is_err());
    cache.verify().unwrap();
}

#[test]
fn a_link_in_the_place_of_the_cache_is_not_followed() {
    let f = Fixture::new();
    let elsewhere = f.dir.path().join("elsewhere");
    drop(Cache::create(&elsewhere, &fixed(1)).unwrap());
    std::os::unix::fs::symlink(&elsewhere, f.path()).unwrap();
    assert_eq!(
        Cache::open(&f.path(), &fixed(1)).err().unwrap().kind(),
        Kind::Io
    );
}

/// As root, which is who could make a lock that psi-serve can't open.
#[test]
fn a_new_lock_belongs_to_the_owner_of_its_directory_and_an_old_one_is_left_alone() {
    use std::os::unix::fs::MetadataExt;
    let f = Fixture::new();
    std::os::unix::fs::chown(f.dir.path(), Some(65534), Some(65534)).unwrap();
    let file = f.dir.path().join(".lock");
    drop(lock(f.dir.path(), Duration::ZERO).unwrap());
    assert_eq!(file.metadata().unwrap().uid(), 65534);
    std::os::unix::fs::chown(&file, Some(0), Some(0)).unwrap();
    drop(lock(f.dir.path(), Duration::ZERO).unwrap());
    assert_eq!(file.metadata().unwrap().uid(), 0);
    std::fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink("elsewhere", &file).unwrap();
    assert_eq!(
        lock(f.dir.path(), Duration::ZERO).unwrap_err().kind(),
        Kind::Io
    );
    assert!(!f.dir.path().join("elsewhere").exists());
}

#[test]
fn the_lock_has_one_holder_at_a_time() {
    let f = Fixture::new();
    let held = lock(f.dir.path(), Duration::ZERO).unwrap();
    let error = lock(f.dir.path(), Duration::ZERO).unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    drop(held);
    assert!(lock(f.dir.path(), Duration::ZERO).is_ok());
}

#[test]
fn whether_the_lock_is_held_can_be_asked_without_taking_it() {
    let f = Fixture::new();
    assert!(!is_owned(f.dir.path()).unwrap());
    assert!(!f.dir.path().join(".lock").exists(), "asking makes no file");
    let held = lock(f.dir.path(), Duration::ZERO).unwrap();
    assert!(is_owned(f.dir.path()).unwrap());
    drop(held);
    assert!(!is_owned(f.dir.path()).unwrap());
    assert!(!is_owned(&f.dir.path().join("gone")).unwrap());
}

#[test]
fn a_link_in_the_place_of_the_lock_is_not_followed() {
    let f = Fixture::new();
    let target = f.dir.path().join("target");
    std::os::unix::fs::symlink(&target, f.dir.path().join(".lock")).unwrap();
    assert_eq!(
        lock(f.dir.path(), Duration::ZERO).unwrap_err().kind(),
        Kind::Io
    );
    assert!(!target.exists());
}

#[test]
fn a_forced_init_keeps_the_old_cache_under_another_name_or_changes_nothing() {
    let f = Fixture::new();
    drop(f.filled());
    let old = std::fs::read(f.path()).unwrap();
    let refused = Cache::init(&f.path(), &fixed(2), false).err().unwrap();
    assert_eq!(refused.kind(), Kind::Refused);
    let failed = Cache::init(&f.path(), &[Box::new(Broken)], true);
    assert_eq!(failed.err().unwrap().kind(), Kind::Unreachable);
    assert_eq!(std::fs::read(f.path()).unwrap(), old);
    assert_eq!(std::fs::read_dir(f.dir.path()).unwrap().count(), 1);
    let (cache, aside) = Cache::init(&f.path(), &fixed(2), true).unwrap();
    assert_eq!(cache.current().header.entries, 0);
    assert_eq!(std::fs::read(aside.unwrap()).unwrap(), old);
    assert_eq!(opened(&f.path(), 2).current().header.entries, 0);
}

#[test]
fn an_outline_reads_the_header_and_names_other_versions() {
    let f = Fixture::new();
    assert!(outline(&f.path()).unwrap().is_none());
    drop(f.filled());
    let size = std::fs::metadata(f.path()).unwrap().len();
    let seen = outline(&f.path()).unwrap().unwrap();
    assert_eq!((seen.size, seen.version), (size, Some(2)));
    assert_eq!(seen.header.unwrap().entries, 3);
    std::fs::write(f.path(), b"PSIC\x01\x01aaaa").unwrap();
    let seen = outline(&f.path()).unwrap().unwrap();
    assert_eq!(seen.version, Some(1));
    std::fs::write(f.path(), b"nonsense").unwrap();
    let seen = outline(&f.path()).unwrap().unwrap();
    assert_eq!(seen.version, None);
    assert_eq!(seen.header.unwrap_err().kind(), Kind::Damaged);
}
