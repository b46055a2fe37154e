//! Infisical's answers: no value that it did not give for that very key, and no message with a
//! value in it.
//!
//! The first byte says what was asked: `L` a listing, `R` a recursive one, `S` one secret, `G` a
//! login; any other one is an error, of the status 300 and that number.

#![no_main]

use libfuzzer_sys::fuzz_target;
use psi::provider::infisical::answer::{parse, sort};
use psi::provider::infisical::listing::{Listing, merge};
use psi::provider::infisical::{Granted, Single};
use psi::provider::{Discovered, Source, normalise_path};
use psi_fuzz::{SECRET, assert_proper, has_secret};
use serde_json::Value;

const AT: &str = "https://infisical.example.com/api/v4/secrets";
const FOLDER: &str = "/myapp";
const KEY: &str = "DB_HOST";
const HIDDEN: &str = "<hidden-by-infisical>";

fuzz_target!(|data: &[u8]| {
    let Some((asked, body)) = data.split_first() else {
        return;
    };
    match asked {
        b'L' => check_listing(body, false),
        b'R' => check_listing(body, true),
        b'S' => check_single(body),
        b'G' => check_login(body),
        status => {
            let error = sort(AT, 300 + u16::from(*status), None, body).into_error();
            assert_proper(&error);
        }
    }
});

fn check_listing(body: &[u8], recursive: bool) {
    let source = Source {
        project: "myproject".to_owned(),
        path: FOLDER.to_owned(),
        recursive,
    };
    let listing = match parse::<Listing>(AT, body) {
        Ok(listing) => listing,
        Err(failure) => return assert_proper(&failure.into_error()),
    };
    let answer: Option<Value> = serde_json::from_slice(body).ok();
    match merge(&source, listing) {
        Ok(found) => {
            assert!(found.is_sorted_by(|a, b| a.key < b.key), "one per key");
            for secret in &found {
                check_found(secret, &source);
                if let Some(answer) = &answer {
                    check_given(secret, answer);
                }
            }
        }
        Err(error) => {
            let is_elsewhere = answer.is_none_or(|mut answer| {
                blank_values(&mut answer);
                has_secret(&answer)
            });
            if !is_elsewhere {
                assert_proper(&error);
            }
        }
    }
}

fn check_found(secret: &Discovered, source: &Source) {
    assert!(!secret.key.is_empty());
    assert_ne!(secret.value.expose(), HIDDEN.as_bytes());
    assert_eq!(secret.mapping.get("key"), Some(secret.key.as_str()));
    assert_eq!(secret.mapping.get("project"), Some("myproject"));
    let folder = secret.mapping.get("path").expect("a folder");
    assert_eq!(normalise_path(folder).as_deref(), Some(folder));
    let is_below = source.recursive && folder.starts_with("/myapp/");
    assert!(folder == FOLDER || is_below, "{folder}");
}

/// The value is that of an own secret in the mapping's folder, if there is one of that key, else
/// an import's.
fn check_given(secret: &Discovered, answer: &Value) {
    let of_key = |s: &&Value| s["secretKey"] == secret.key.as_str();
    let value = secret.value.expose_str().expect("JSON has text only");
    let is_given = |s: &Value| s["secretValue"] == value && s["secretValueHidden"] != true;
    let folder = secret.mapping.get("path");
    let is_own = |s: &&Value| match s["secretPath"].as_str() {
        Some(path) => normalise_path(path).as_deref() == folder,
        None => folder == Some(FOLDER),
    };
    let own: Vec<&Value> = secrets(answer).filter(of_key).filter(is_own).collect();
    let imports = answer["imports"].as_array();
    let mut imported = imports
        .into_iter()
        .flatten()
        .flat_map(secrets)
        .filter(of_key);
    match own.is_empty() {
        true => assert!(imported.any(is_given), "{}", secret.key),
        false => assert!(own.into_iter().all(is_given), "{}", secret.key),
    }
}

fn secrets(of: &Value) -> impl Iterator<Item = &Value> {
    of["secrets"].as_array().into_iter().flatten()
}

fn check_single(body: &[u8]) {
    let outcome = match parse::<Single>(AT, body) {
        Ok(single) => single.into_value_of(KEY, FOLDER),
        Err(failure) => Err(failure.into_error()),
    };
    match outcome {
        Ok(value) => {
            assert_ne!(value.expose(), HIDDEN.as_bytes());
            if let Ok(answer) = serde_json::from_slice::<Value>(body) {
                let secret = &answer["secret"];
                assert_eq!(secret["secretKey"], KEY);
                assert_eq!(secret["secretValue"].as_str(), value.expose_str());
                assert_ne!(secret["secretValueHidden"], true);
            }
        }
        Err(error) => assert_proper(&error),
    }
}

fn check_login(body: &[u8]) {
    match parse::<Granted>(AT, body) {
        Ok(granted) => {
            assert!(!format!("{:?}", granted.access_token).contains(SECRET));
            if let Ok(answer) = serde_json::from_slice::<Value>(body) {
                assert_eq!(
                    answer["accessToken"].as_str(),
                    granted.access_token.expose_str()
                );
                assert_eq!(answer["expiresIn"], granted.expires_in);
            }
        }
        Err(failure) => assert_proper(&failure.into_error()),
    }
}

/// Takes every secret's value out, and leaves its name and folder, which messages may have.
fn blank_values(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(blank_values),
        Value::Object(fields) => {
            fields.remove("secretValue");
            fields.values_mut().for_each(blank_values);
        }
        _ => {}
    }
}
