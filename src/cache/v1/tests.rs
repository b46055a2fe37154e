use std::fs;
use std::os::unix::fs::MetadataExt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use psi_test_support::vectors::version1;

use super::*;
use crate::cache::{Offer, Opening};
use crate::gcm::{NONCE_LEN, TAG_LEN, cipher, encrypt_in_place};
use crate::mapping::ProviderName;
use crate::wire::{Entry, HandOver, HandedOver, WorkloadEntries};

/// The credential, delivered.
struct Delivered(Vec<u8>);

impl Protector for Delivered {
    fn kind(&self) -> SlotKind {
        SlotKind::Credential
    }
    fn seal(&self) -> Result<(Key, SlotFields)> {
        Ok((self.unseal(&SlotFields::new())?, SlotFields::new()))
    }
    fn unseal(&self, _: &SlotFields) -> Result<Key> {
        Ok(Key::from_bytes(&self.0).unwrap())
    }
}

/// The vectors' RSA key, in the place of a token.
struct Token;

impl Protector for Token {
    fn kind(&self) -> SlotKind {
        SlotKind::Pkcs11
    }
    fn seal(&self) -> Result<(Key, SlotFields)> {
        let fields = encrypted_key_fields(&version1("envelope")[2..258]);
        Ok((self.unseal(&fields)?, fields))
    }
    fn unseal(&self, fields: &SlotFields) -> Result<Key> {
        let encrypted = BASE64.decode(fields["encrypted_key"].as_str().unwrap());
        crate::hybrid::tests::decrypt(&encrypted.unwrap())
    }
}

/// A device that is away.
struct Away(SlotKind);

impl Protector for Away {
    fn kind(&self) -> SlotKind {
        self.0
    }
    fn seal(&self) -> Result<(Key, SlotFields)> {
        self.unseal(&SlotFields::new()).map(|_| unreachable!())
    }
    fn unseal(&self, _: &SlotFields) -> Result<Key> {
        Err(Error::new(Kind::Unreachable, "it is away"))
    }
}

fn delivered() -> Vec<Box<dyn Protector>> {
    vec![Box::new(Delivered(version1("credential")))]
}

fn plugged_in() -> Vec<Box<dyn Protector>> {
    vec![Box::new(Token)]
}

fn mapping(key: &str) -> Mapping {
    let fields = [("project", "myproject"), ("path", "/myapp"), ("key", key)];
    Mapping::new(ProviderName::Infisical, fields)
}

/// The key that only canonical bytes as the vectors' program writes them lead to.
const ODD_KEY: &str = "Größe 😀\u{7f}";

struct Fixture(tempfile::TempDir);

impl Fixture {
    fn with(file: &[u8]) -> Self {
        let fixture = Self(tempfile::tempdir().unwrap());
        fs::write(fixture.path(), file).unwrap();
        fixture
    }
    fn path(&self) -> PathBuf {
        self.0.path().join("cache.enc")
    }
    fn old(&self) -> PathBuf {
        self.0.path().join("cache.enc.v1")
    }
    fn carry_over(&self, protectors: &[Box<dyn Protector>]) -> Result<Option<CarriedOver>> {
        carry_over(&self.path(), protectors)
    }
    fn open(&self, protectors: &[Box<dyn Protector>]) -> std::sync::Arc<Cache> {
        match Cache::open(&self.path(), protectors).unwrap() {
            Opening::Opened(cache, _) => cache,
            _ => panic!("it does not open"),
        }
    }
    fn carried() -> (Self, std::sync::Arc<Cache>) {
        let fixture = Self::with(&version1("tpm_file"));
        fixture.carry_over(&delivered()).unwrap().unwrap();
        let cache = fixture.open(&delivered());
        (fixture, cache)
    }
    /// Why it is not carried over; nothing has changed then.
    fn refused(&self, protectors: &[Box<dyn Protector>]) -> Error {
        let before = fs::read(self.path()).unwrap();
        let error = self.carry_over(protectors).unwrap_err();
        assert!(error.next_step().is_some(), "{error}");
        assert_eq!(fs::read(self.path()).unwrap(), before);
        assert_eq!(fs::read_dir(self.0.path()).unwrap().count(), 1, "{error}");
        error
    }
}

fn value(cache: &Cache, mapping: &Mapping) -> Option<Vec<u8>> {
    let key = cache.keyer().entry_key(mapping);
    cache.current().table.get(&key).map(<[u8]>::to_vec)
}

fn holds_the_vectors_values(cache: &Cache) {
    let held = |key| value(cache, &mapping(key));
    assert_eq!(held("DB_HOST"), Some(b"db.example.com".to_vec()));
    assert_eq!(held("DB_PASSWORD"), Some(b"\0not text\xff\n".to_vec()));
    assert_eq!(held(ODD_KEY), Some(Vec::new()));
    assert_eq!(held("OTHER"), None);
}

/// A file that the credential seals.
fn sealed(contents: &str) -> Vec<u8> {
    let key = Key::from_bytes(&version1("credential")).unwrap();
    let mut payload = [&[0; NONCE_LEN], contents.as_bytes(), &[0; TAG_LEN]].concat();
    encrypt_in_place(&cipher(&key).unwrap(), &[], &mut payload).unwrap();
    [b"PSIC\x01\x01", payload.as_slice()].concat()
}

#[test]
fn a_file_that_the_credential_seals_is_carried_over_with_its_values_and_its_key() {
    let fixture = Fixture::with(&version1("tpm_file"));
    let carried_over = fixture.carry_over(&delivered()).unwrap().unwrap();
    assert_eq!(carried_over.values, Some(3));
    let cache = fixture.open(&delivered());
    holds_the_vectors_values(&cache);
    let header = cache.current().header.clone();
    assert_eq!((header.generation, header.entries), (1, 3));
    assert_eq!(header.slots.len(), 1);
    assert_eq!(header.slots[0].kind, SlotKind::Credential);
    assert_eq!(fs::read(fixture.old()).unwrap(), version1("tpm_file"));
    assert_eq!(carried_over.old_file, fixture.old());
    assert!(fixture.carry_over(&delivered()).unwrap().is_none());
}

#[test]
fn a_file_that_a_token_seals_is_carried_over_into_a_slot_of_that_token() {
    let fixture = Fixture::with(&version1("hsm_file"));
    let both = [delivered(), plugged_in()]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>();
    fixture.carry_over(&both).unwrap().unwrap();
    let cache = fixture.open(&plugged_in());
    holds_the_vectors_values(&cache);
    let slots = &cache.current().header.slots;
    assert_eq!(slots.len(), 1);
    assert_eq!(slots[0].kind, SlotKind::Pkcs11);
    assert_eq!(fs::read(fixture.old()).unwrap(), version1("hsm_file"));
}

#[test]
fn the_credential_of_another_host_opens_nothing() {
    let other: Vec<Box<dyn Protector>> = vec![Box::new(Delivered(vec![1; 32]))];
    let error = Fixture::with(&version1("tpm_file")).refused(&other);
    assert_eq!(error.kind(), Kind::Denied);
    assert!(error.to_string().contains("psi-cache-key"), "{error}");
    assert!(error.next_step().unwrap().contains("/etc/psi/cache.key"));
}

#[test]
fn a_key_for_another_token_opens_nothing() {
    let mut file = version1("hsm_file");
    file[20] ^= 1;
    let error = Fixture::with(&file).refused(&plugged_in());
    assert_eq!(error.kind(), Kind::Denied);
    assert!(error.to_string().contains("PKCS#11 token"), "{error}");
    assert_eq!(error.next_step(), Some("use another token"));
}

#[test]
fn a_seal_that_is_not_configured_is_named_with_what_to_configure() {
    let error = Fixture::with(&version1("hsm_file")).refused(&delivered());
    assert_eq!(error.kind(), Kind::Config);
    assert!(error.to_string().contains("tag 2, HSM"), "{error}");
    assert!(error.next_step().unwrap().contains("nitrokeyhsm:"));
    let error = Fixture::with(&version1("tpm_file")).refused(&plugged_in());
    assert!(error.to_string().contains("tag 1, TPM"), "{error}");
}

#[test]
fn a_device_that_is_away_is_named_with_what_to_do() {
    let away = |kind| -> Vec<Box<dyn Protector>> { vec![Box::new(Away(kind))] };
    let error = Fixture::with(&version1("hsm_file")).refused(&away(SlotKind::Pkcs11));
    assert_eq!(error.kind(), Kind::Unreachable);
    assert!(error.next_step().unwrap().contains("nitrokeyhsm:"));
    let error = Fixture::with(&version1("tpm_file")).refused(&away(SlotKind::Credential));
    assert!(
        error
            .next_step()
            .unwrap()
            .contains("LoadCredentialEncrypted=")
    );
}

#[test]
fn a_cut_or_altered_file_is_named_and_kept() {
    let both = || {
        [delivered(), plugged_in()]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
    };
    for name in ["tpm_file", "hsm_file"] {
        let good = version1(name);
        for length in (5..300.min(good.len())).chain([good.len() - 1]) {
            let error = Fixture::with(&good[..length]).refused(&both());
            let kinds = [Kind::Damaged, Kind::Denied];
            assert!(
                kinds.contains(&error.kind()),
                "{name} cut to {length}: {error}"
            );
        }
        for at in (5..good.len()).step_by(7) {
            let mut bad = good.clone();
            bad[at] ^= 4;
            let error = Fixture::with(&bad).refused(&both());
            let kinds = [Kind::Damaged, Kind::Denied];
            assert!(kinds.contains(&error.kind()), "{name} at {at}: {error}");
        }
    }
    let error = Fixture::with(b"PSIC\x01\x03whatever").refused(&both());
    assert!(error.to_string().contains("its tag is 3"), "{error}");
    let cut = &version1("hsm_file")[..100];
    let error = Fixture::with(cut).refused(&both());
    assert!(error.to_string().contains("cut short"), "{error}");
}

#[test]
fn contents_that_are_not_what_they_should_be_are_named_and_quote_no_value() {
    let key = "ab".repeat(32);
    let hmac_key = BASE64.encode([1; 32]);
    let contents = |version: &str, hmac_key: &str, entry: &str| {
        sealed(&format!(
            r#"{{"version":{version},"written_at":5,"hmac_key":"{hmac_key}","entries":{{{entry}}}}}"#
        ))
    };
    let good = format!(r#""{key}":"aHVudGVyMg==""#);
    for (file, why) in [
        (sealed("hunter2"), "not readable"),
        (sealed("{}"), "not readable"),
        (sealed(r#"{"version":2}"#), "not readable"),
        (contents("3", &hmac_key, &good), "have version 3"),
        (contents("2", "aHVudGVyMg==", &good), "HMAC key"),
        (
            contents("2", &hmac_key, r#""hunter2":"aGk=""#),
            "key of an entry",
        ),
        (
            contents("2", &hmac_key, &format!(r#""{}":"""#, &key[1..])),
            "key of an entry",
        ),
        (
            contents("2", &hmac_key, &format!(r#""{}":"""#, key.to_uppercase())),
            "key of an entry",
        ),
        (
            contents("2", &hmac_key, &format!(r#""{}":"""#, "0".repeat(64))),
            "key of an entry",
        ),
        (
            contents("2", &hmac_key, &format!(r#""{key}":"hunter2!""#)),
            "not base64",
        ),
        (
            contents("2", &hmac_key, &format!(r#""{key}":7"#)),
            "not readable",
        ),
    ] {
        let error = Fixture::with(&file).refused(&delivered());
        assert_eq!(error.kind(), Kind::Damaged, "{why}: {error}");
        assert!(error.to_string().contains(why), "{why}: {error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    let fixture = Fixture::with(&contents("2", &hmac_key, &good));
    assert_eq!(
        fixture.carry_over(&delivered()).unwrap().unwrap().values,
        Some(1)
    );
}

#[test]
fn contents_by_podmans_ids_are_left_behind_and_an_empty_cache_takes_their_place() {
    let old = version1("tpm_file_older_contents");
    let fixture = Fixture::with(&old);
    let carried_over = fixture.carry_over(&delivered()).unwrap().unwrap();
    assert_eq!(carried_over.values, None);
    assert!(carried_over.to_string().contains("cache.enc.v1"));
    assert_eq!(fixture.open(&delivered()).current().header.entries, 0);
    assert_eq!(fs::read(fixture.old()).unwrap(), old);
}

#[test]
fn a_crash_after_any_step_leaves_a_cache_that_is_carried_over() {
    let good = version1("tpm_file");
    // Before the new file was there, with the second name given already.
    let fixture = Fixture::with(&good);
    fs::hard_link(fixture.path(), fixture.old()).unwrap();
    fixture.carry_over(&delivered()).unwrap().unwrap();
    holds_the_vectors_values(&fixture.open(&delivered()));
    assert_eq!(fs::read(fixture.old()).unwrap(), good);
    // In the middle of the new file.
    let fixture = Fixture::with(&good);
    fs::hard_link(fixture.path(), fixture.old()).unwrap();
    fs::write(fixture.0.path().join(".cache.enc.new"), b"PSIC\x02").unwrap();
    fixture.carry_over(&delivered()).unwrap().unwrap();
    holds_the_vectors_values(&fixture.open(&delivered()));
}

#[test]
fn an_old_file_of_an_earlier_migration_makes_room() {
    let fixture = Fixture::with(&version1("tpm_file"));
    fs::write(fixture.old(), b"older").unwrap();
    fixture.carry_over(&delivered()).unwrap().unwrap();
    assert_eq!(fs::read(fixture.old()).unwrap(), version1("tpm_file"));
}

#[test]
fn a_new_file_that_can_not_be_written_leaves_the_old_one_in_its_place() {
    let fixture = Fixture::with(&version1("tpm_file"));
    fs::create_dir(fixture.0.path().join(".cache.enc.new")).unwrap();
    let error = fixture.carry_over(&delivered()).unwrap_err();
    assert_eq!(error.kind(), Kind::Io);
    assert!(error.to_string().contains("cache.enc"), "{error}");
    assert_eq!(fs::read(fixture.path()).unwrap(), version1("tpm_file"));
}

fn commit(cache: &Cache, given: &HandOver) -> Result<HandedOver> {
    let json = given.to_json()?;
    let offer = Offer::read(cache.keyer(), ProviderName::Infisical, json.as_bytes());
    cache.commit(offer?)
}

fn hand_over(workload: &str, values: &[(&str, &str)]) -> HandOver {
    let entry = |(key, value): &(&str, &str)| Entry {
        mapping: mapping(key),
        value: crate::secret::SecretValue::new(value.as_bytes().to_vec()),
    };
    let entries = values.iter().map(entry).collect();
    HandOver {
        workloads: [(workload.to_owned(), WorkloadEntries { entries })].into(),
    }
}

#[test]
fn carried_values_survive_hand_overs_until_everything_was_handed_over() {
    let (fixture, cache) = Fixture::carried();
    let given = hand_over("a", &[("DB_HOST", "new.example.com")]);
    commit(&cache, &given).unwrap();
    let cache = fixture.open(&delivered());
    assert_eq!(
        value(&cache, &mapping("DB_HOST")),
        Some(b"new.example.com".to_vec())
    );
    assert_eq!(value(&cache, &mapping(ODD_KEY)), Some(Vec::new()));
    assert!(cache.has_carried().unwrap());
}

#[test]
fn of_the_carried_values_those_that_a_mapping_names_stay_and_the_others_go() {
    let (fixture, cache) = Fixture::carried();
    let given = hand_over("a", &[("DB_HOST", "new.example.com")]);
    commit(&cache, &given).unwrap();
    let mapped = [mapping("DB_HOST"), mapping("DB_PASSWORD"), mapping("OTHER")];
    assert_eq!(cache.settle_carried(&mapped).unwrap(), 1);
    let cache = fixture.open(&delivered());
    assert_eq!(
        value(&cache, &mapping("DB_PASSWORD")),
        Some(b"\0not text\xff\n".to_vec())
    );
    assert_eq!(value(&cache, &mapping(ODD_KEY)), None);
    let generation = cache.current().header.generation;
    assert_eq!(cache.settle_carried(&mapped).unwrap(), 0);
    assert_eq!(
        cache.current().header.generation,
        generation,
        "nothing was written"
    );
    // Its mapping is gone: so is the value. What a workload has is that workload's.
    assert_eq!(cache.settle_carried(&[]).unwrap(), 1);
    assert!(!cache.has_carried().unwrap());
    assert_eq!(value(&cache, &mapping("DB_PASSWORD")), None);
    assert_eq!(
        value(&cache, &mapping("DB_HOST")),
        Some(b"new.example.com".to_vec())
    );
}

#[test]
fn carried_values_are_no_workloads_and_no_hand_over_can_pretend_to_them() {
    let (_fixture, cache) = Fixture::carried();
    let owners = cache.current().owners().unwrap();
    let key = cache.keyer().entry_key(&mapping("DB_HOST"));
    assert_eq!(owners.workloads().count(), 0);
    assert!(
        owners
            .of(cache.current().table.place(&key).unwrap())
            .is_empty()
    );
    let given = hand_over("\0", &[]);
    let error = commit(&cache, &given).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    holds_the_vectors_values(&cache);
}

#[test]
fn the_old_file_stays_until_the_new_one_was_reopened_after_a_hand_over() {
    let (fixture, cache) = Fixture::carried();
    assert!(
        cache.let_go_of_version_1(true).unwrap().is_none(),
        "no hand-over yet"
    );
    let given = hand_over("a", &[("DB_HOST", "db.example.com")]);
    commit(&cache, &given).unwrap();
    assert!(
        cache.let_go_of_version_1(false).unwrap().is_none(),
        "not reopened"
    );
    assert!(fixture.old().exists());
    let cache = fixture.open(&delivered());
    assert_eq!(
        cache.let_go_of_version_1(true).unwrap(),
        Some(fixture.old())
    );
    assert!(!fixture.old().exists());
    assert!(cache.let_go_of_version_1(true).unwrap().is_none());
}

#[test]
fn the_old_file_is_kept_for_seven_days_from_its_renaming() {
    let (fixture, cache) = Fixture::carried();
    let kept = kept(&fixture.path()).unwrap().unwrap();
    let changed = u64::try_from(fixture.old().metadata().unwrap().ctime()).unwrap();
    assert_eq!(kept.until, changed + 7 * 24 * 3600);
    assert_eq!(kept.size, version1("tpm_file").len() as u64);
    assert_eq!(kept.path, fixture.old());
    let let_go_at = |now| cache.let_go_of_version_1_at(false, now).unwrap();
    assert!(let_go_at(kept.until - 1).is_none());
    assert_eq!(let_go_at(kept.until), Some(fixture.old()));
    assert!(!fixture.old().exists());
}
