//! What opens a cache, changed.

use super::*;
use crate::protector::{Recovery, RecoveryKey};

/// A device of a kind of its own whose key is given, or that is away.
struct Device {
    kind: SlotKind,
    key: Option<u8>,
}

impl Protector for Device {
    fn kind(&self) -> SlotKind {
        self.kind
    }
    fn seal(&self) -> Result<(Key, SlotFields)> {
        let sealed_by = SlotFields::from_iter([("sealed_by".to_owned(), self.key.into())]);
        Ok((self.unseal(&sealed_by)?, sealed_by))
    }
    fn unseal(&self, fields: &SlotFields) -> Result<Key> {
        let away = || Error::new(Kind::Unreachable, "the device is away").hint("bring it back");
        let key = self.key.ok_or_else(away)?;
        // A credential has no way to tell.
        if self.kind == TPM2 && fields["sealed_by"] != key {
            return Err(Error::new(Kind::Denied, "another device sealed it").hint("use that one"));
        }
        Ok(Key::from_bytes(&[key; 32]).unwrap())
    }
}

fn device(kind: SlotKind, key: impl Into<Option<u8>>) -> Box<dyn Protector> {
    let key = key.into();
    Box::new(Device { kind, key })
}

const TPM2: SlotKind = SlotKind::Tpm2;
const CREDENTIAL: SlotKind = SlotKind::Credential;

/// The number of the slot that opens the file with what there is.
fn opens_with(path: &Path, protector: Box<dyn Protector>) -> Option<u32> {
    match Cache::open(path, &[protector]).unwrap() {
        Opening::Opened(cache, attempts) => {
            assert_eq!(value(&cache, "Z"), Some(b"3".to_vec()), "the values stay");
            Some(attempts.last().unwrap().slot)
        }
        _ => None,
    }
}

/// The file as it is now: a test puts it back later, as a thief with a copy does.
fn copy(f: &Fixture) -> Vec<u8> {
    std::fs::read(f.path()).unwrap()
}

fn key_id(cache: &Cache) -> String {
    cache.current().header.key_id.clone()
}

#[test]
fn an_added_slot_opens_the_same_values_and_the_old_one_still_does() {
    let f = Fixture::new();
    let cache = f.filled();
    let before = key_id(&cache);
    let id = cache.add_slot(device(TPM2, 5).as_ref(), "spare").unwrap();
    assert_eq!(id, 2);
    assert_eq!(opens_with(&f.path(), device(TPM2, 5)), Some(2));
    assert_eq!(opens_with(&f.path(), device(CREDENTIAL, 1)), Some(1));
    assert_eq!(opens_with(&f.path(), device(TPM2, 6)), None);
    let header = &cache.current().header;
    assert_eq!(header.slots[1].label, "spare");
    assert_eq!((header.entries, header.generation), (3, 3));
    assert_eq!(header.key_id, before, "the data key stays");
}

#[test]
fn a_change_of_slots_leaves_the_cache_open_for_lookups_and_hand_overs() {
    let f = Fixture::new();
    let cache = f.filled();
    cache.add_slot(device(TPM2, 5).as_ref(), "").unwrap();
    cache.remove_slots(&[1], &[device(TPM2, 5)], &[]).unwrap();
    assert_eq!(value(&cache, "X"), Some(b"1".to_vec()));
    let given = hand_over(&[("a", &[("X", "new"), ("Y", "")])]);
    commit(&cache, &given).unwrap();
    assert_eq!(cache.verify().unwrap().slots.len(), 1);
    assert_eq!(opens_with(&f.path(), device(TPM2, 5)), Some(2));
}

#[test]
fn a_removed_slot_opens_the_old_copy_and_nothing_that_was_saved_since() {
    let f = Fixture::new();
    let cache = f.filled();
    cache.add_slot(device(TPM2, 5).as_ref(), "").unwrap();
    let (old, old_id) = (copy(&f), key_id(&cache));
    cache
        .remove_slots(&[2], &[device(CREDENTIAL, 1)], &[])
        .unwrap();
    assert_ne!(key_id(&cache), old_id, "the data key is a new one");
    assert_eq!(opens_with(&f.path(), device(TPM2, 5)), None);
    assert_eq!(opens_with(&f.path(), device(CREDENTIAL, 1)), Some(1));

    // Its wrapped key, put back into the new header, is that of the old data key.
    let slot = envelope::read_header(&old).unwrap().slots.pop().unwrap();
    let mut header = cache.current().header.clone();
    header.slots.push(slot);
    let (key, mut table) = (Key::generate().unwrap(), cache.current().table.copy());
    let parts = |parts: &[&[u8]]| Ok(parts.concat());
    let forged = envelope::seal(&header, &key, &mut table, parts).unwrap();
    std::fs::write(f.path(), forged).unwrap();
    assert_eq!(opens_with(&f.path(), device(TPM2, 5)), None);

    std::fs::write(f.path(), old).unwrap();
    assert_eq!(opens_with(&f.path(), device(TPM2, 5)), Some(2));
}

#[test]
fn the_last_slot_and_one_that_is_not_there_can_not_be_removed() {
    let f = Fixture::new();
    let cache = f.filled();
    let before = copy(&f);
    let last = cache.remove_slots(&[1], &fixed(1), &[]).unwrap_err();
    assert_eq!(last.kind(), Kind::Refused);
    assert!(last.next_step().unwrap().contains("slots add"));
    let none = cache.remove_slots(&[7], &fixed(1), &[]).unwrap_err();
    assert_eq!(none.kind(), Kind::NotFound);
    assert!(none.next_step().unwrap().contains("slots list"));
    assert_eq!(copy(&f), before);
}

#[test]
fn no_slot_is_removed_while_one_that_stays_does_not_open() {
    let f = Fixture::new();
    let cache = f.filled();
    cache.add_slot(device(TPM2, 5).as_ref(), "").unwrap();
    let before = copy(&f);
    for (stays, cause) in [
        (device(TPM2, None), "is away"),
        (device(TPM2, 6), "another device"),
    ] {
        let error = cache.remove_slots(&[1], &[stays], &[]).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        let said = error.to_string();
        assert!(
            said.contains("slot 2 (tpm2)") && said.contains(cause),
            "{said}"
        );
        let next = error.next_step().unwrap();
        assert!(
            next.contains("slots reseal 2") && next.contains("slots add"),
            "{next}"
        );
    }
    assert_eq!(copy(&f), before);
}

#[test]
fn several_slots_that_do_not_open_are_removed_at_once_while_one_that_does_stays() {
    let f = Fixture::new();
    let cache = f.filled();
    cache.add_slot(device(TPM2, 5).as_ref(), "").unwrap();
    let pkcs11 = SlotKind::Pkcs11;
    cache.add_slot(device(pkcs11, 6).as_ref(), "").unwrap();
    let before = copy(&f);
    let there = || {
        [
            device(CREDENTIAL, None),
            device(TPM2, None),
            device(pkcs11, 6),
        ]
    };
    for (id, other, both) in [(1, 2, "slots remove 1 2"), (2, 1, "slots remove 2 1")] {
        let error = cache.remove_slots(&[id], &there(), &[]).unwrap_err();
        let said = error.to_string();
        assert!(said.contains(&format!("slot {other} ")), "{said}");
        assert!(error.next_step().unwrap().contains(both), "{error:?}");
    }
    for (ids, kind) in [(&[1, 7], Kind::NotFound), (&[1, 3], Kind::Refused)] {
        let error = cache.remove_slots(ids, &there(), &[]).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
    let all = cache.remove_slots(&[1, 2, 3], &there(), &[]).unwrap_err();
    assert!(all.to_string().contains("no slot would stay"), "{all}");
    assert_eq!(copy(&f), before);
    cache.remove_slots(&[1, 2, 2], &there(), &[]).unwrap();
    assert_eq!(cache.current().header.slots.len(), 1);
    assert_eq!(opens_with(&f.path(), device(pkcs11, 6)), Some(3));
}

#[test]
fn a_recovery_slot_that_stays_gets_a_new_key_and_the_old_one_opens_nothing_new() {
    let f = Fixture::new();
    let cache = f.filled();
    let keys = [(); 2].map(|()| std::sync::Arc::new(RecoveryKey::generate().unwrap()));
    let paper = |n: usize| Box::new(Recovery::entered(std::sync::Arc::clone(&keys[n])));
    cache.add_slot(paper(0).as_ref(), "").unwrap();
    cache.add_slot(device(TPM2, 5).as_ref(), "").unwrap();
    let anew: [Anew; 1] = [(2, paper(1))];
    cache.remove_slots(&[1], &[device(TPM2, 5)], &anew).unwrap();
    assert_eq!(opens_with(&f.path(), paper(0)), None);
    assert_eq!(opens_with(&f.path(), paper(1)), Some(2));
    assert_eq!(opens_with(&f.path(), device(TPM2, 5)), Some(3));
}

#[test]
fn a_resealed_slot_opens_with_its_new_key_only_and_the_others_as_before() {
    let f = Fixture::new();
    let cache = f.filled();
    cache.add_slot(device(TPM2, 5).as_ref(), "kept").unwrap();
    let before = key_id(&cache);
    let anew: [Anew; 1] = [(2, device(TPM2, 6))];
    let attempts = cache.reseal_slots(&anew).unwrap();
    assert!(attempts[0].failure.is_none(), "{attempts:?}");
    assert_eq!(key_id(&cache), before, "the data key stays");
    assert_eq!(opens_with(&f.path(), device(TPM2, 5)), None);
    assert_eq!(opens_with(&f.path(), device(TPM2, 6)), Some(2));
    assert_eq!(opens_with(&f.path(), device(CREDENTIAL, 1)), Some(1));
    assert_eq!(cache.current().header.slots[1].label, "kept");
}

#[test]
fn what_can_be_resealed_is_and_what_can_not_is_left_as_it_was() {
    let f = Fixture::new();
    let cache = f.filled();
    cache.add_slot(device(TPM2, 5).as_ref(), "").unwrap();
    let anew: [Anew; 2] = [(1, device(CREDENTIAL, None)), (2, device(TPM2, 6))];
    let attempts = cache.reseal_slots(&anew).unwrap();
    let failed: Vec<bool> = attempts.iter().map(|a| a.failure.is_some()).collect();
    assert_eq!(failed, [true, false]);
    assert_eq!(opens_with(&f.path(), device(CREDENTIAL, 1)), Some(1));
    assert_eq!(opens_with(&f.path(), device(TPM2, 6)), Some(2));

    let before = copy(&f);
    let anew: [Anew; 1] = [(2, device(TPM2, None))];
    assert!(cache.reseal_slots(&anew).unwrap()[0].failure.is_some());
    assert!(cache.reseal_slots(&[]).unwrap().is_empty());
    let anew: [Anew; 2] = [(2, device(TPM2, 7)), (9, device(TPM2, 7))];
    assert_eq!(
        cache.reseal_slots(&anew).unwrap_err().kind(),
        Kind::NotFound
    );
    assert_eq!(copy(&f), before, "nothing was written for nothing");
}

#[test]
fn a_change_that_can_not_be_saved_leaves_the_old_slots_on_disk_and_in_memory() {
    let f = Fixture::new();
    let cache = f.filled();
    cache.add_slot(device(TPM2, 5).as_ref(), "").unwrap();
    let (before, header) = (copy(&f), cache.current().header.clone());
    // A directory in the temporary file's place can neither be removed nor replaced by a file.
    std::fs::create_dir(f.dir.path().join(".cache.enc.new")).unwrap();
    let anew: [Anew; 1] = [(2, device(TPM2, 6))];
    let errors = [
        cache.add_slot(device(TPM2, 7).as_ref(), "").unwrap_err(),
        cache.reseal_slots(&anew).unwrap_err(),
        cache.remove_slots(&[2], &fixed(1), &[]).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), Kind::Io);
        assert!(error.to_string().contains("cache.enc"), "{error}");
    }
    assert_eq!(copy(&f), before);
    assert_eq!(cache.current().header, header);
    std::fs::remove_dir(f.dir.path().join(".cache.enc.new")).unwrap();
    let given = hand_over(&[("a", &[("X", "2"), ("Y", "")])]);
    commit(&cache, &given).unwrap();
    assert_eq!(opens_with(&f.path(), device(TPM2, 5)), Some(2));
}

#[test]
fn a_device_that_is_away_adds_no_slot_and_a_label_is_a_short_line() {
    let f = Fixture::new();
    let cache = f.filled();
    let before = copy(&f);
    let away = cache.add_slot(device(TPM2, None).as_ref(), "");
    assert_eq!(away.unwrap_err().kind(), Kind::Unreachable);
    for label in ["two\nlines", "\x1b[2J", &"x".repeat(65)] {
        let error = cache.add_slot(device(TPM2, 5).as_ref(), label);
        assert_eq!(error.unwrap_err().kind(), Kind::Usage);
    }
    assert_eq!(copy(&f), before);
}

#[test]
fn every_slot_is_tried_by_itself() {
    let f = Fixture::new();
    let cache = f.filled();
    cache.add_slot(device(TPM2, 5).as_ref(), "").unwrap();
    cache.add_slot(&Recovery::new_key().unwrap(), "").unwrap();
    let all = |tpm: u8| -> Vec<Box<dyn Protector>> {
        let recovery = Box::new(Recovery::not_entered());
        vec![device(CREDENTIAL, 1), device(TPM2, tpm), recovery]
    };
    let tried = |tpm: u8| -> Vec<(u32, Option<Kind>, bool)> {
        let attempts = try_slots(&f.path(), &all(tpm)).unwrap().unwrap();
        let attempt = |a: &Attempt| (a.slot, a.failure.as_ref().map(Error::kind), a.was_made());
        attempts.iter().map(attempt).collect()
    };
    let waits = (3, Some(Kind::Unreachable), false);
    assert_eq!(tried(5), [(1, None, true), (2, None, true), waits]);
    assert_eq!(
        tried(6),
        [(1, None, true), (2, Some(Kind::Denied), true), waits]
    );

    // A slot whose key opens, but not what is in the file.
    let mut bytes = copy(&f);
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(f.path(), bytes).unwrap();
    let error = try_slots(&f.path(), &all(5)).unwrap_err();
    assert_eq!(error.kind(), Kind::Damaged);
    std::fs::remove_file(f.path()).unwrap();
    assert!(try_slots(&f.path(), &all(5)).unwrap().is_none());
}

fn unopened(path: &Path, protectors: &[Box<dyn Protector>]) -> Unopened {
    match Cache::open(path, protectors).unwrap() {
        Opening::NoSlot(unopened) => unopened,
        _ => panic!("a slot opens it"),
    }
}

#[test]
fn a_cache_is_recreated_only_if_all_that_was_tried_refused() {
    let f = Fixture::new();
    let cache = f.filled();
    cache.add_slot(device(TPM2, 5).as_ref(), "").unwrap();
    let may = |protectors: &[Box<dyn Protector>]| {
        let outcome = unopened(&f.path(), protectors).may_be_recreated();
        outcome.map_err(|error| error.to_string())
    };
    let (wrong, away) = (|kind| device(kind, 9), |kind| device(kind, None));
    assert_eq!(may(&[wrong(CREDENTIAL), wrong(TPM2)]), Ok(()));
    let why = may(&[away(CREDENTIAL), wrong(TPM2)]).unwrap_err();
    assert!(why.contains("slot 1 (credential)"), "{why}");
    assert!(may(&[wrong(CREDENTIAL), away(TPM2)]).is_err());
    assert!(may(&[wrong(CREDENTIAL)]).is_err(), "nothing tries slot 2");

    // A recovery key that nobody entered is no try.
    let recovery = || Box::new(Recovery::not_entered());
    cache.add_slot(&Recovery::new_key().unwrap(), "").unwrap();
    assert_eq!(may(&[wrong(CREDENTIAL), wrong(TPM2), recovery()]), Ok(()));
}

#[test]
fn a_cache_with_values_that_are_nowhere_else_or_only_a_recovery_slot_is_never_recreated() {
    let f = Fixture::new();
    let cache = f.filled();
    let local = unopened(&f.path(), &fixed(9));
    assert!(local.may_be_recreated().is_ok());
    let name = crate::secret::LocalName::parse("L").unwrap();
    let key = cache.keyer().entry_key(&Mapping::local(&name));
    cache.put(key, b"only copy").unwrap();
    let local = unopened(&f.path(), &fixed(9));
    let why = local.may_be_recreated().unwrap_err().to_string();
    assert!(why.contains("1 values that are kept nowhere else"), "{why}");
    assert!(
        local
            .error()
            .next_step()
            .unwrap()
            .contains("kept nowhere else")
    );

    let f = Fixture::new();
    let paper: Vec<Box<dyn Protector>> = vec![Box::new(Recovery::new_key().unwrap())];
    drop(Cache::create(&f.path(), &paper).unwrap());
    let nobody: [Box<dyn Protector>; 1] = [Box::new(Recovery::not_entered())];
    assert!(unopened(&f.path(), &nobody).may_be_recreated().is_err());
}

#[test]
fn what_to_do_depends_on_what_else_might_open_the_cache() {
    let f = Fixture::new();
    let cache = f.filled();
    cache.add_slot(device(TPM2, 5).as_ref(), "").unwrap();
    let next = |protectors: &[Box<dyn Protector>]| {
        let error = unopened(&f.path(), protectors).error();
        assert_eq!(error.kind(), Kind::Unreachable);
        error.next_step().unwrap().to_owned()
    };
    let denied = next(&[device(CREDENTIAL, 9), device(TPM2, 9)]);
    assert!(denied.contains("init --backend tpm --force"), "{denied}");
    assert!(
        denied.contains("`systemctl restart 'psi-*-setup.service'` fetches the values again"),
        "{denied}"
    );
    let away = next(&[device(CREDENTIAL, 9), device(TPM2, None)]);
    assert_eq!(away, "bring it back");

    cache.add_slot(&Recovery::new_key().unwrap(), "").unwrap();
    let paper = |key: Recovery| -> Vec<Box<dyn Protector>> {
        vec![device(CREDENTIAL, 9), device(TPM2, 9), Box::new(key)]
    };
    let waits = next(&paper(Recovery::not_entered()));
    assert!(waits.contains("slots reseal --recovery"), "{waits}");
    let wrong = next(&paper(Recovery::new_key().unwrap()));
    assert!(wrong.contains("is not that of its slot"), "{wrong}");
}

#[test]
fn a_file_that_is_replaced_stays_under_another_name_and_a_failure_changes_nothing() {
    let f = Fixture::new();
    drop(f.filled());
    let old = copy(&f);
    let start = || {
        let cache = Cache::unsaved(&f.path(), &fixed(2))?;
        let given = hand_over(&[("a", &[("X", "new"), ("Z", "3")])]);
        commit(&cache, &given)
    };
    let failed = keeping_old(&f.path(), "unopened", || {
        Cache::unsaved(&f.path(), &[Box::new(Broken)])
    });
    assert!(failed.is_err());
    assert_eq!(copy(&f), old);
    assert_eq!(std::fs::read_dir(f.dir.path()).unwrap().count(), 1);
    let (_, aside) = keeping_old(&f.path(), "unopened", start).unwrap();
    assert_eq!(std::fs::read(aside).unwrap(), old);
    assert_eq!(value(&opened(&f.path(), 2), "X"), Some(b"new".to_vec()));
}

#[test]
fn the_number_of_a_removed_slot_is_never_used_again() {
    let f = Fixture::new();
    let cache = f.filled();
    let add = |cache: &Cache| cache.add_slot(device(TPM2, 5).as_ref(), "").unwrap();
    for id in [2, 3] {
        assert_eq!(add(&cache), id);
        cache.remove_slots(&[id], &fixed(1), &[]).unwrap();
    }
    drop(cache);
    assert_eq!(add(&opened(&f.path(), 1)), 4, "the file remembers");
}

#[test]
fn a_file_from_before_numbers_were_remembered_opens_and_remembers_from_then_on() {
    let f = Fixture::new();
    let cache = f.filled();
    cache.add_slot(device(TPM2, 5).as_ref(), "").unwrap();
    let current = cache.current();
    let mut header = serde_json::to_value(&current.header).unwrap();
    header.as_object_mut().unwrap().remove("next_slot");
    let header = serde_json::from_value(header).unwrap();
    let (mut table, parts) = (current.table.copy(), |parts: &[&[u8]]| Ok(parts.concat()));
    let bytes = envelope::seal(&header, &current.data_key, &mut table, parts).unwrap();
    std::fs::write(f.path(), bytes).unwrap();
    let cache = opened(&f.path(), 1);
    assert_eq!(value(&cache, "Z"), Some(b"3".to_vec()));
    cache.remove_slots(&[2], &fixed(1), &[]).unwrap();
    assert_eq!(cache.add_slot(device(TPM2, 5).as_ref(), "").unwrap(), 3);
}
