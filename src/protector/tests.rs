//! What every kind of protector has to hold, and each of them run against it.

use std::path::PathBuf;

use serde_json::Value;

use super::*;
use crate::pkcs11::tests::{PIN, settings};
use psi_test_support::token::{KEY_ID, Module, TRIES};
use swtpm::Swtpm;

pub mod swtpm;

/// A device that holds or gives keys, as a test can treat it.
trait Device {
    fn protector(&self) -> Box<dyn Protector>;
    fn take_away(&mut self);
    fn bring_back(&mut self);
}

/// `one` and `other` are two devices of the same kind.
fn conforms(mut one: impl Device, other: impl Device) {
    let (key, fields) = one.protector().seal().unwrap();
    gives_the_same_key_whenever_asked(&one, &key, &fields);
    seals_again_without_harm_to_the_first(&one, &key, &fields);
    another_device_does_not_give_it(&other, &key, &fields);
    an_altered_slot_gives_nothing(&one, &fields);
    shows_no_key(&one, &key);

    one.take_away();
    let gone = one.protector();
    for error in [gone.seal().unwrap_err(), gone.unseal(&fields).unwrap_err()] {
        assert_eq!(error.kind(), Kind::Unreachable, "{error}");
        assert!(error.next_step().is_some(), "{error}");
    }
    one.bring_back();
    gives_the_same_key_whenever_asked(&one, &key, &fields);
}

fn gives_the_same_key_whenever_asked(device: &impl Device, key: &Key, fields: &SlotFields) {
    for _ in 0..2 {
        let opened = device.protector().unseal(fields).unwrap();
        assert_eq!(opened.expose(), key.expose());
    }
}

fn seals_again_without_harm_to_the_first(device: &impl Device, key: &Key, fields: &SlotFields) {
    let protector = device.protector();
    let (second, its_fields) = protector.seal().unwrap();
    let opened = protector.unseal(&its_fields).unwrap();
    assert_eq!(opened.expose(), second.expose());
    assert_eq!(protector.unseal(fields).unwrap().expose(), key.expose());
}

/// A key that is well-formed and wrong is left to the cache to find.
fn another_device_does_not_give_it(other: &impl Device, key: &Key, fields: &SlotFields) {
    match other.protector().unseal(fields) {
        Ok(opened) => assert_ne!(opened.expose(), key.expose()),
        Err(error) => assert_eq!(error.kind(), Kind::Denied, "{error}"),
    }
}

fn an_altered_slot_gives_nothing(device: &impl Device, fields: &SlotFields) {
    let protector = device.protector();
    // Which token to try first is a hint.
    let is_hint = |name: &str| name.starts_with("token_");
    let fields: SlotFields = fields
        .clone()
        .into_iter()
        .filter(|(name, _)| !is_hint(name))
        .collect();
    for altered in alterations(&Value::Object(fields)) {
        let Value::Object(altered) = altered else {
            panic!("a slot is an object");
        };
        let error = protector.unseal(&altered).unwrap_err();
        let kinds = [Kind::Damaged, Kind::Denied];
        assert!(kinds.contains(&error.kind()), "{altered:?}: {error}");
        assert!(error.next_step().is_some(), "{altered:?}: {error}");
    }
}

/// `value` with one thing in it altered, every way there is: each text at its beginning, middle
/// and end, each member gone, of another type, or renamed.
fn alterations(value: &Value) -> Vec<Value> {
    match value {
        Value::Object(members) => members
            .iter()
            .flat_map(|(name, member)| {
                let mut without = members.clone();
                without.remove(name);
                let with = |name: &str, member| {
                    let mut copy = without.clone();
                    copy.insert(name.to_owned(), member);
                    Value::Object(copy)
                };
                let inner = alterations(member).into_iter();
                let inner: Vec<Value> = inner.map(|altered| with(name, altered)).collect();
                let renamed = if name == "7" { "8" } else { "other" };
                let outer = [
                    Value::Object(without.clone()),
                    with(name, Value::from(1)),
                    with(renamed, member.clone()),
                ];
                [inner, outer.to_vec()].concat()
            })
            .collect(),
        Value::String(text) => [0, text.len() / 2, text.trim_end_matches('=').len() - 1]
            .iter()
            .map(|&at| {
                let other = if text.as_bytes()[at] == b'A' {
                    "B"
                } else {
                    "A"
                };
                let mut copy = text.clone();
                copy.replace_range(at..=at, other);
                Value::String(copy)
            })
            .collect(),
        other => panic!("no slot keeps {other}"),
    }
}

fn shows_no_key(device: &impl Device, key: &Key) {
    let (same, _) = device.protector().seal().unwrap();
    let shown = format!("{same:?} {key:?}");
    assert_eq!(shown, "Key(..) Key(..)");
}

struct CredentialFile {
    directory: tempfile::TempDir,
}

impl CredentialFile {
    fn new() -> Self {
        let device = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        std::fs::write(device.file(), Key::generate().unwrap().expose()).unwrap();
        device
    }
    fn file(&self) -> PathBuf {
        self.directory.path().join(CREDENTIAL_NAME)
    }
    fn aside(&self) -> PathBuf {
        self.directory.path().join("aside")
    }
}

impl Device for CredentialFile {
    fn protector(&self) -> Box<dyn Protector> {
        let directory = self.directory.path().to_owned();
        Box::new(Credential::delivered(Some(directory)))
    }
    fn take_away(&mut self) {
        std::fs::rename(self.file(), self.aside()).unwrap();
    }
    fn bring_back(&mut self) {
        std::fs::rename(self.aside(), self.file()).unwrap();
    }
}

impl Device for Swtpm {
    fn protector(&self) -> Box<dyn Protector> {
        Box::new(Swtpm::protector(self, &[7]))
    }
    fn take_away(&mut self) {
        self.switch_off();
    }
    fn bring_back(&mut self) {
        self.switch_on();
        self.extend(7);
    }
}

/// The printed key, and the hand that types it.
struct Paper {
    text: String,
    at_hand: bool,
}

impl Paper {
    fn new() -> Self {
        let key = RecoveryKey::generate().unwrap();
        Self {
            text: key.display_groups().to_string(),
            at_hand: true,
        }
    }
}

impl Device for Paper {
    fn protector(&self) -> Box<dyn Protector> {
        Box::new(match self.at_hand {
            true => Recovery::entered(RecoveryKey::parse(&self.text).unwrap()),
            false => Recovery::not_entered(),
        })
    }
    fn take_away(&mut self) {
        self.at_hand = false;
    }
    fn bring_back(&mut self) {
        self.at_hand = true;
    }
}

/// A token with the key, and the PIN that it is given.
struct PluggedIn {
    module: Module,
    token: Token,
}

impl PluggedIn {
    fn new(label: &str) -> Self {
        let module = Module::with_key(label, PIN);
        let token = Token::new(settings(&module, PIN));
        Self { module, token }
    }
}

impl Device for PluggedIn {
    fn protector(&self) -> Box<dyn Protector> {
        let token = Some(self.token.clone());
        Box::new(Hsm { token })
    }
    fn take_away(&mut self) {
        self.module.pull();
    }
    fn bring_back(&mut self) {
        self.module.plug_in();
    }
}

#[test]
fn the_token_conforms() {
    conforms(PluggedIn::new("one"), PluggedIn::new("another"));
}

#[test]
fn a_slot_of_the_token_is_made_without_a_login_and_opened_by_one_operation() {
    let device = PluggedIn::new("psi");
    let (key, fields) = device.protector().seal().unwrap();
    assert_eq!(device.module.calls("C_Login"), 0);
    device.module.forget_calls();
    let opened = device.protector().unseal(&fields).unwrap();
    assert_eq!(opened.expose(), key.expose());
    let calls = ["C_Login", "C_FindObjectsInit", "C_Decrypt"];
    assert_eq!(calls.map(|name| device.module.calls(name)), [1, 1, 1]);
}

/// Expects that `protector` neither opens the slot nor takes more than `logins`.
#[track_caller]
fn does_not_open(module: &Module, settings: Settings, fields: &SlotFields, logins: usize) -> Error {
    module.forget_calls();
    let token = Some(Token::new(settings));
    for _ in 0..2 {
        let token = token.clone();
        let error = Hsm { token }.unseal(fields).unwrap_err();
        // What `recreate` may replace is denied, and nothing here is.
        assert!(
            [Kind::Config, Kind::NotFound].contains(&error.kind()),
            "{error}"
        );
        assert!(error.next_step().is_some(), "{error}");
    }
    assert_eq!(module.calls("C_Login"), logins);
    Hsm { token }.unseal(fields).unwrap_err()
}

#[test]
fn what_is_wrong_with_a_token_is_told_and_costs_one_try_at_most() {
    let device = PluggedIn::new("psi");
    let (key, fields) = device.protector().seal().unwrap();
    let module = &device.module;
    let error = does_not_open(module, settings(module, "a wrong one"), &fields, 1);
    assert!(
        error.to_string().contains("has rejected this PIN"),
        "{error}"
    );
    let mut absent = settings(module, PIN);
    absent.module = "/nowhere/module.so".into();
    let error = does_not_open(module, absent, &fields, 0);
    assert!(error.to_string().contains("cannot load"), "{error}");
    let opened = device.protector().unseal(&fields).unwrap();
    assert_eq!(opened.expose(), key.expose());

    let locked = PluggedIn::new("psi");
    locked.module.enter_wrong_pins(0, TRIES);
    let error = does_not_open(&locked.module, settings(&locked.module, PIN), &fields, 0);
    assert!(error.to_string().contains("CKR_PIN_LOCKED"), "{error}");
    let empty = PluggedIn::new("psi");
    empty.module.delete_key(0, PIN, KEY_ID);
    let error = does_not_open(&empty.module, settings(&empty.module, PIN), &fields, 2);
    assert!(error.to_string().contains("no RSA key"), "{error}");
    let twice = PluggedIn::new("psi");
    twice.module.generate_key(0, PIN, KEY_ID, "another");
    let error = does_not_open(&twice.module, settings(&twice.module, PIN), &fields, 2);
    assert!(error.to_string().contains("2 RSA keys"), "{error}");
}

#[test]
fn the_credential_conforms() {
    conforms(CredentialFile::new(), CredentialFile::new());
}

#[test]
fn the_tpm_conforms() {
    conforms(Swtpm::booted(), Swtpm::booted());
}

#[test]
fn the_recovery_key_conforms() {
    conforms(Paper::new(), Paper::new());
}

#[test]
fn a_cache_with_three_slots_opens_by_whichever_is_left() {
    use crate::cache::{Cache, Opening};

    let (credential, mut tpm, paper) = (CredentialFile::new(), Swtpm::booted(), Paper::new());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache.enc");
    let all = |paper: &Paper, tpm: &Swtpm| {
        vec![
            Device::protector(&credential),
            Device::protector(tpm),
            Device::protector(paper),
        ]
    };
    drop(Cache::create(&path, &all(&paper, &tpm)).unwrap());
    let opened_by = |paper: &Paper, tpm: &Swtpm| match Cache::open(&path, &all(paper, tpm)).unwrap()
    {
        Opening::Opened(_, attempts) => attempts.last().map(|a| a.kind),
        _ => None,
    };
    assert_eq!(opened_by(&paper, &tpm), Some(SlotKind::Credential));
    std::fs::remove_file(credential.file()).unwrap();
    assert_eq!(opened_by(&paper, &tpm), Some(SlotKind::Tpm2));
    tpm.extend(7);
    assert_eq!(opened_by(&paper, &tpm), Some(SlotKind::Recovery));
    tpm.take_away();
    assert_eq!(opened_by(&Paper::new(), &tpm), None);
}
