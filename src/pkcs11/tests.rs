//! A token as it is used, and everything that can be wrong with it.

use std::sync::LazyLock;

use psi_test_support::token::{KEY_LABEL, Module, TRIES};

use super::*;
use crate::secret::SecretValue;
use crate::systemd::Credentials;

pub const PIN: &str = "31415926";

/// For everything that is expected to be done.
const LONG: Duration = Duration::from_secs(60);

/// The key that PSI looks for unless told otherwise, on the first token of `module`.
pub fn settings(module: &Module, pin: &str) -> Settings {
    let pin = SecretValue::new(pin.as_bytes().to_vec());
    Settings {
        module: module.library(),
        token: TokenName::default(),
        key: KeyName {
            id: vec![2],
            label: KEY_LABEL.to_owned(),
        },
        pin: Pin::delivered(Credentials::default(), Some(&pin)),
    }
}

fn token(module: &Module) -> Token {
    Token::new(settings(module, PIN))
}

/// A module whose token has everything that it should have, and is not changed.
fn good() -> &'static Module {
    static MODULE: LazyLock<Module> = LazyLock::new(|| Module::with_key("psi", PIN));
    &MODULE
}

#[track_caller]
fn fails(outcome: Result<impl Sized>, kind: Kind, words: &[&str]) {
    let error = outcome.err().expect("an error");
    assert_eq!(error.kind(), kind, "{error}");
    let text = format!("{error}; {}", error.next_step().expect("a next step"));
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
    assert!(!text.contains(PIN), "{text}");
}

#[track_caller]
fn decrypts(token: &Token) {
    let encrypted = token.public_key(LONG).unwrap().encrypt(&[7; 32]).unwrap();
    assert_eq!(token.decrypt(&encrypted, LONG).unwrap()[..], [7; 32]);
}

#[test]
fn what_the_public_key_encrypts_the_token_decrypts_with_one_login_and_one_search() {
    let module = Module::with_key("psi", PIN);
    let token = token(&module);
    assert!(
        !module.was_started(),
        "nothing is loaded before it is needed"
    );
    let key = token.public_key(LONG).unwrap();
    assert_eq!(module.calls("C_Login"), 0, "the public key needs no login");
    module.forget_calls();
    for plain in [[1; 32], [2; 32], [3; 32]] {
        let encrypted = key.encrypt(&plain).unwrap();
        assert_eq!(token.decrypt(&encrypted, LONG).unwrap()[..], plain);
    }
    let calls = ["C_Login", "C_FindObjectsInit", "C_OpenSession", "C_Decrypt"];
    assert_eq!(calls.map(|name| module.calls(name)), [1, 1, 1, 3]);
}

#[test]
fn tokens_of_the_same_settings_share_a_session() {
    let module = Module::with_key("psi", PIN);
    decrypts(&token(&module));
    decrypts(&token(&module));
    decrypts(&token(&module).preferring("no such serial number", "psi"));
    assert_eq!(module.calls("C_Login"), 1);
}

#[tokio::test]
async fn who_may_not_block_can_wait_too() {
    let token = token(good());
    let encrypted = token.public_key(LONG).unwrap().encrypt(&[7; 32]).unwrap();
    let plain = token.decrypt_async(&encrypted, LONG).await.unwrap();
    assert_eq!(plain[..], [7; 32]);
}

#[test]
fn a_token_is_found_by_its_label_its_serial_number_or_its_place() {
    let module = Module::with_tokens(&["first", "second", "second"]);
    let info = |name: TokenName| {
        let mut settings = settings(&module, PIN);
        settings.token = name;
        Token::new(settings).info(LONG)
    };
    let text = |text: &str| Some(text.to_owned());
    let none = TokenName::default;
    let serial = module.serial(2);
    assert_eq!(info(none()).unwrap().label, "first");
    assert_eq!(
        info(TokenName { slot: 1, ..none() }).unwrap().label,
        "second"
    );
    assert_eq!(
        info(TokenName {
            label: text("first"),
            slot: 7,
            ..none()
        })
        .unwrap()
        .label,
        "first"
    );
    let by_serial = TokenName {
        serial: text(&serial),
        ..none()
    };
    assert_eq!(info(by_serial).unwrap().serial, serial);
    let preferred = TokenName {
        preferred: Some((serial.clone(), "second".to_owned())),
        ..none()
    };
    assert_eq!(info(preferred).unwrap().serial, serial);
    let two = info(TokenName {
        label: text("second"),
        ..none()
    });
    fails(
        two,
        Kind::Config,
        &["more than one token", "token_serial", &serial],
    );
    let absent = info(TokenName {
        label: text("third"),
        ..none()
    });
    fails(
        absent,
        Kind::Unreachable,
        &["label \"third\"", "\"first\"", "pcscd"],
    );
    let absent = info(TokenName { slot: 3, ..none() });
    fails(absent, Kind::Unreachable, &["number 3", "counted from 0"]);
    assert_eq!(token(&module).all_tokens(LONG).unwrap().len(), 3);
}

#[test]
fn a_module_that_cannot_be_loaded_is_named_with_what_to_install() {
    let mut settings = settings(good(), PIN);
    settings.module = "/nowhere/opensc-pkcs11.so".into();
    let absent = Token::new(settings.clone()).info(LONG);
    fails(
        absent,
        Kind::Config,
        &["/nowhere/", "no such file", "pkcs11_module", "apt install"],
    );
    settings.module = "/etc/hostname".into();
    fails(
        Token::new(settings).info(LONG),
        Kind::Config,
        &["no library"],
    );
}

#[test]
fn a_module_that_does_not_start_is_tried_again_later() {
    let module = Module::with_key("psi", PIN);
    let token = token(&module);
    module.control("fail.C_Initialize", "5");
    fails(
        token.info(LONG),
        Kind::Unreachable,
        &["C_Initialize said CKR_GENERAL_ERROR"],
    );
    module.release("fail.C_Initialize");
    decrypts(&token);
}

#[test]
fn sessions_that_need_a_module_at_once_start_it_once() {
    let module = Module::with_key("psi", PIN);
    let by_index = settings(&module, PIN);
    let mut by_serial = by_index.clone();
    by_serial.token.serial = Some(module.serial(0));
    module.forget_calls();
    module.control("delay.C_Initialize", "1000");
    std::thread::scope(|scope| {
        for settings in [by_index, by_serial] {
            scope.spawn(|| decrypts(&Token::new(settings)));
        }
    });
    assert_eq!(module.calls("C_Initialize"), 1);
}

#[test]
fn a_wrong_pin_costs_one_try_and_is_not_tried_again_but_another_one_is() {
    let module = Module::with_key("psi", PIN);
    let token = Token::new(settings(&module, "a wrong one"));
    let rejected = [
        "\"psi\"",
        "rejected the PIN",
        "CKR_PIN_INCORRECT",
        "hsm-pin",
    ];
    fails(token.log_in(LONG), Kind::Config, &rejected);
    let same = Token::new(settings(&module, "a wrong one"));
    for token in [&token, &same] {
        fails(
            token.decrypt(&[0; 256], LONG),
            Kind::Config,
            &["has rejected this PIN before"],
        );
    }
    assert_eq!(module.calls("C_Login"), 1);
    decrypts(&self::token(&module));
    assert_eq!(module.calls("C_Login"), 2);
}

#[test]
fn two_sessions_with_the_same_wrong_pin_cost_one_try_even_at_once() {
    let module = Module::with_key("psi", PIN);
    let by_index = settings(&module, "a wrong one");
    let mut by_serial = by_index.clone();
    by_serial.token.serial = Some(module.serial(0));
    module.forget_calls();
    // Long enough for the other one to have come as far.
    module.control("delay.C_Login", "1000");
    std::thread::scope(|scope| {
        for settings in [by_index, by_serial] {
            scope.spawn(|| {
                let outcome = Token::new(settings).log_in(LONG);
                fails(outcome, Kind::Config, &["PIN", "not tried again"]);
            });
        }
    });
    assert_eq!(module.calls("C_Login"), 1);
}

#[test]
fn the_last_try_is_never_used_and_a_locked_pin_never_tried() {
    let module = Module::with_key("psi", PIN);
    module.enter_wrong_pins(0, TRIES - 1);
    module.forget_calls();
    assert_eq!(token(&module).info(LONG).unwrap().pin, PinState::LastTry);
    fails(
        token(&module).log_in(LONG),
        Kind::Config,
        &["one try left", "--token-label \"psi\" --login --test`"],
    );
    let module = Module::with_key("psi", PIN);
    module.enter_wrong_pins(0, TRIES);
    module.forget_calls();
    fails(
        token(&module).log_in(LONG),
        Kind::Config,
        &["locked", "--init-pin"],
    );
    assert_eq!(module.calls("C_Login"), 0);
}

#[test]
fn a_missing_pin_names_the_places_where_it_may_be() {
    let module = Module::with_key("psi", PIN);
    let mut settings = settings(&module, PIN);
    settings.pin = Pin::delivered(Credentials::default(), None);
    let places = ["hsm-pin", "providers.nitrokeyhsm.pin", "systemd-creds"];
    fails(Token::new(settings).log_in(LONG), Kind::Config, &places);
    assert_eq!(module.calls("C_Login"), 0);
}

#[test]
fn no_key_and_two_keys_are_said_and_the_label_counts_only_without_an_id() {
    let module = Module::with_tokens(&["psi"]);
    module.set_pin(0, PIN);
    fails(
        token(&module).log_in(LONG),
        Kind::NotFound,
        &["no RSA key", "id 02", "--keypairgen"],
    );
    let module = Module::with_tokens(&["psi"]);
    module.set_pin(0, PIN);
    module.generate_key(0, PIN, "05", KEY_LABEL);
    decrypts(&token(&module));
    let module = Module::with_key("psi", PIN);
    module.generate_key(0, PIN, "05", KEY_LABEL);
    decrypts(&token(&module));
    let module = Module::with_key("psi", PIN);
    module.generate_key(0, PIN, "02", "another");
    fails(
        token(&module).log_in(LONG),
        Kind::Config,
        &["has 2 RSA keys with id 02", "key_id"],
    );
    fails(
        token(&module).public_key(LONG),
        Kind::Config,
        &["has 2 RSA keys with id 02"],
    );
}

#[test]
fn a_pulled_token_is_an_error_until_it_is_back() {
    let module = Module::with_key("psi", PIN);
    let token = token(&module);
    let encrypted = token.public_key(LONG).unwrap().encrypt(&[7; 32]).unwrap();
    token.decrypt(&encrypted, LONG).unwrap();
    module.pull();
    for _ in 0..2 {
        fails(
            token.decrypt(&encrypted, LONG),
            Kind::Unreachable,
            &["is not there", "plug it in"],
        );
    }
    fails(token.public_key(LONG), Kind::Unreachable, &["is not there"]);
    module.plug_in();
    assert_eq!(token.decrypt(&encrypted, LONG).unwrap()[..], [7; 32]);
}

#[test]
fn a_session_that_fails_is_replaced_once() {
    let module = Module::with_key("psi", PIN);
    let token = token(&module);
    decrypts(&token);
    // What kryoptic does not know of: as if the session had ended by itself.
    module.pull();
    assert!(token.info(LONG).is_err());
    module.plug_in();
    module.forget_calls();
    decrypts(&token);
    module.control("fail.C_Decrypt", "48");
    fails(
        token.decrypt(&[1; 256], LONG),
        Kind::Unreachable,
        &["could not decrypt", "C_Decrypt said CKR_DEVICE_ERROR"],
    );
}

#[test]
fn what_was_encrypted_for_another_key_or_altered_is_told_from_a_broken_token() {
    let module = Module::with_key("psi", PIN);
    let token = token(&module);
    let other = self::token(good()).public_key(LONG).unwrap();
    let mut altered = token.public_key(LONG).unwrap().encrypt(&[7; 32]).unwrap();
    altered[100] ^= 1;
    for wrong in [&other.encrypt(&[7; 32]).unwrap(), &altered, &vec![1; 3]] {
        fails(
            token.decrypt(wrong, LONG),
            Kind::Denied,
            &["\"psi\"", "another key", "altered"],
        );
    }
    decrypts(&token);
}

#[test]
fn nobody_waits_longer_than_they_wanted_and_what_nobody_waits_for_is_not_done() {
    let module = Module::with_key("psi", PIN);
    let token = token(&module);
    let encrypted = token.public_key(LONG).unwrap().encrypt(&[7; 32]).unwrap();
    module.control("hang.C_Decrypt", "");
    let short = Duration::from_millis(300);
    for _ in 0..3 {
        fails(
            token.decrypt(&encrypted, short),
            Kind::Unreachable,
            &["did not answer within 0.3 s"],
        );
    }
    assert!(stuck().is_some());
    module.release("hang.C_Decrypt");
    assert_eq!(token.decrypt(&encrypted, LONG).unwrap()[..], [7; 32]);
    assert_eq!(module.calls("C_Decrypt"), 2);
}
