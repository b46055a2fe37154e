//! `config.yaml`: the same text always means the same, and no message and no `Debug` shows a
//! secret of it.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use psi::Kind;
use psi::config::{Config, Environment};
use psi_fuzz::{SECRET, assert_proper, has_secret};
use serde_json::Value;

/// The keys whose values are secrets.
const SECRET_KEYS: [&str; 3] = ["client_secret:", "pin:", "socket_token:"];

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let text = with_secrets(text);
    let lenient = parse(&text, false);
    let strict = parse(&text, true);
    let is_elsewhere = has_secret_elsewhere(&text);
    match &lenient {
        Ok(config) => {
            let shown = format!("{config:?}");
            assert!(is_elsewhere || !shown.contains(SECRET), "{shown}");
            assert_eq!(
                format!("{:?}", parse(&text, false).expect("as before")),
                shown
            );
            let is_clean = config.warnings.is_empty();
            assert!(strict.is_err() || format!("{strict:?}") == format!("{lenient:?}"));
            assert!(
                !is_clean || strict.is_ok(),
                "a warning comes before an error"
            );
        }
        Err(_) => assert!(strict.is_err(), "strict is not more lenient"),
    }
    for error in [lenient, strict].into_iter().filter_map(Result::err) {
        assert_eq!(error.kind(), Kind::Config, "{error}");
        if !is_elsewhere {
            assert_proper(&error);
        }
    }
});

fn parse(text: &str, strict: bool) -> psi::Result<Config> {
    let environment = Environment::default();
    Config::parse(
        Path::new("/etc/psi/config.yaml"),
        text,
        strict,
        &environment,
    )
}

/// Puts the secret behind every key that stands for one.
fn with_secrets(text: &str) -> String {
    let line = |line: &str| {
        let key = SECRET_KEYS.iter().find_map(|key| {
            let end = line.find(key)? + key.len();
            Some(&line[..end])
        });
        key.map_or_else(
            || line.to_owned(),
            |key| format!("{key} {SECRET}-0123456789"),
        )
    };
    let lines: Vec<String> = text.lines().map(line).collect();
    lines.join("\n")
}

/// Whether the secret ended up as a key or as something that is no secret to PSI. A text that is
/// no YAML at all is never quoted.
fn has_secret_elsewhere(text: &str) -> bool {
    match serde_saphyr::from_str::<Value>(text) {
        Ok(mut tree) => {
            blank_secrets(&mut tree);
            has_secret(&tree)
        }
        Err(_) => false,
    }
}

fn blank_secrets(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(blank_secrets),
        Value::Object(fields) => {
            for (key, value) in fields {
                let is_secret = SECRET_KEYS.iter().any(|k| k.strip_suffix(':') == Some(key));
                match value {
                    Value::String(text) if is_secret => text.clear(),
                    other => blank_secrets(other),
                }
            }
        }
        _ => {}
    }
}
