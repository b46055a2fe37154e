//! The header's fields of a slot that a token opens: what can't be one is damage, and no token is asked.

#![no_main]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use libfuzzer_sys::fuzz_target;
use psi::Kind;
use psi::protector::{Hsm, Protector, SlotFields, encrypted_key_fields, made_with, token_serial};
use psi_fuzz::{assert_damaged, assert_proper, object};

fuzz_target!(|data: &[u8]| {
    let Some(fields) = object(data) else { return };
    let encrypted = encrypted_key(&fields);
    let may_be_one = encrypted.is_some()
        && ["token_serial", "token_label"]
            .iter()
            .all(|name| is_text_or_none(&fields, name));

    let error = Hsm { token: None }.unseal(&fields).err();
    let error = error.expect("there is no token to open it");
    match may_be_one {
        true => {
            assert_eq!(error.kind(), Kind::Config, "{error}");
            assert_proper(&error);
        }
        false => assert_damaged(&error),
    }

    let both = text(&fields, "token_label").zip(text(&fields, "token_serial"));
    let named = made_with(&fields);
    assert_eq!(named.is_some(), may_be_one && both.is_some());
    assert!(!named.is_some_and(|name| name.contains(char::is_control)));
    assert_eq!(token_serial(&fields), text(&fields, "token_serial"));
    if let Some(encrypted) = encrypted {
        let written = encrypted_key_fields(&encrypted);
        assert_eq!(written["encrypted_key"], fields["encrypted_key"]);
    }
});

fn text<'a>(fields: &'a SlotFields, name: &str) -> Option<&'a str> {
    fields.get(name)?.as_str()
}

fn is_text_or_none(fields: &SlotFields, name: &str) -> bool {
    let value = fields.get(name);
    value.is_none_or(|value| value.is_string() || value.is_null())
}

fn encrypted_key(fields: &SlotFields) -> Option<Vec<u8>> {
    BASE64.decode(text(fields, "encrypted_key")?).ok()
}
