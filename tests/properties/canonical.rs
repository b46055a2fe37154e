//! The bytes that identify a mapping, calculated a second time from their description.

use std::collections::BTreeMap;

use proptest::collection::btree_map;
use proptest::prelude::*;
use psi::mapping::Mapping;
use psi::secret::SecretValue;

use crate::cases;

/// Texts of all characters, with many of those that JSON treats in a way of their own.
fn text() -> impl Strategy<Value = String> {
    let special = prop::sample::select(
        "\"\\/\n\r\t\u{8}\u{c}\u{1}\u{1f} ~\u{7f}\u{80}\u{ffff}\u{10000}"
            .chars()
            .collect::<Vec<_>>(),
    );
    let character = prop_oneof![any::<char>(), special, prop::char::range(' ', '~')];
    prop::collection::vec(character, 0..20).prop_map(|text| text.into_iter().collect())
}

fn fields() -> impl Strategy<Value = BTreeMap<String, String>> {
    let provider = prop::sample::select(vec!["infisical", "local", "nitrokeyhsm"]);
    (btree_map(text(), text(), 0..8), provider).prop_map(|(mut fields, provider)| {
        fields.insert("provider".to_owned(), provider.to_owned());
        fields
    })
}

/// A JSON text: every character escaped, with capitals among the digits.
fn escaped(text: &str) -> String {
    let units = text.encode_utf16().map(|unit| format!("\\u{unit:04X}"));
    format!("\"{}\"", units.collect::<String>())
}

/// An object whose keys descend, with blanks wherever there may be some.
fn other_spelling(fields: &BTreeMap<String, String>) -> String {
    let field =
        |(key, value): (&String, &String)| format!("\n {} :\t{} ", escaped(key), escaped(value));
    let fields: Vec<String> = fields.iter().rev().map(field).collect();
    format!(" {{{}}}\r\n", fields.join(","))
}

fn canonical_text(text: &str) -> String {
    let character = |c: char| match u32::from(c) {
        0x22 => "\\\"".to_owned(),
        0x5c => "\\\\".to_owned(),
        0x0a => "\\n".to_owned(),
        0x0d => "\\r".to_owned(),
        0x09 => "\\t".to_owned(),
        0x08 => "\\b".to_owned(),
        0x0c => "\\f".to_owned(),
        0x20..=0x7e => c.to_string(),
        code @ 0..=0xffff => format!("\\u{code:04x}"),
        code => {
            let offset = code - 0x1_0000;
            let (high, low) = (0xd800 + (offset >> 10), 0xdc00 + (offset & 0x3ff));
            format!("\\u{high:04x}\\u{low:04x}")
        }
    };
    format!("\"{}\"", text.chars().map(character).collect::<String>())
}

fn canonical(fields: &BTreeMap<String, String>) -> String {
    let mut fields: Vec<(&String, &String)> = fields.iter().collect();
    fields.sort_by_key(|(key, _)| key.chars().collect::<Vec<_>>());
    let field = |(key, value): (&String, &String)| {
        format!("{}:{}", canonical_text(key), canonical_text(value))
    };
    let fields: Vec<String> = fields.into_iter().map(field).collect();
    format!("{{{}}}", fields.join(","))
}

#[test]
fn the_second_calculation_gives_the_known_answer() {
    let fields = BTreeMap::from([
        ("b".to_owned(), "é😀\u{7f}\u{1}/\n".to_owned()),
        ("A".to_owned(), String::new()),
    ]);
    let expected = r#"{"A":"","b":"\u00e9\ud83d\ude00\u007f\u0001/\n"}"#;
    assert_eq!(canonical(&fields), expected);
}

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn a_mapping_has_the_documented_bytes_however_it_is_spelt(fields in fields()) {
        let expected = canonical(&fields);
        for json in [
            serde_json::to_string(&fields).unwrap(),
            other_spelling(&fields),
            expected.clone(),
        ] {
            let mapping = Mapping::parse(json.as_bytes()).unwrap();
            prop_assert_eq!(String::from_utf8(mapping.canonical()).unwrap(), expected.clone());
            for (key, value) in &fields {
                prop_assert_eq!(mapping.get(key), Some(value.as_str()));
            }
        }
    }

    #[test]
    fn two_mappings_have_the_same_bytes_only_if_they_are_one((a, b) in (fields(), fields())) {
        let [one, other] = [&a, &b].map(|fields| {
            Mapping::parse(serde_json::to_string(fields).unwrap().as_bytes()).unwrap()
        });
        prop_assert_eq!(one.canonical() == other.canonical(), a == b);
        prop_assert_eq!(one.digest() == other.digest(), a == b);
    }

    #[test]
    fn a_value_in_json_is_the_text_that_was_put_there(text in text()) {
        let value: SecretValue = serde_json::from_str(&canonical_text(&text)).unwrap();
        prop_assert_eq!(value.expose_str(), Some(text.as_str()));
        prop_assert_eq!(format!("{value:?}"), "SecretValue(..)");
    }
}
