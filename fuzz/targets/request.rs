//! Targets of requests, and the ids and names in them: nothing leaves the state directory, and
//! nothing has two spellings.

#![no_main]

use std::path::Path;

use hyper::Uri;
use libfuzzer_sys::fuzz_target;
use psi::secret::{LocalName, SecretId, SecretName};
use psi::serve::target_parts;
use psi_fuzz::assert_quoted;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        check_names(text);
    }
    let Ok(target) = Uri::try_from(data) else {
        return;
    };
    let (first, rest) = target_parts(&target);
    assert!(!first.contains('/'));
    if let Some(rest) = rest {
        assert!(data.ends_with(format!("/{first}/{rest}").as_bytes()) || data.contains(&b'#'));
        check_names(rest);
    }
});

fn check_names(text: &str) {
    let is_id = text.len() == 25 && text.chars().all(|c| "0123456789abcdef".contains(c));
    match SecretId::parse(text) {
        Ok(id) => assert_eq!((id.as_str(), is_id), (text, true)),
        Err(error) => {
            assert!(!is_id);
            assert_quoted(&error);
        }
    }
    match SecretName::parse(text) {
        Ok(name) => {
            assert_eq!(name.as_str(), text);
            assert_file_name(text, 255);
            assert!(!text.starts_with("cache.enc.") && text != "cache.enc");
            assert_ne!(text, "nitrokeyhsm-pubkey.der");
        }
        Err(error) => {
            assert!(!is_id, "every id is a name");
            assert_quoted(&error);
        }
    }
    match LocalName::parse(text) {
        Ok(name) => {
            assert_eq!(name.as_str(), text);
            assert_file_name(text, 253);
        }
        Err(error) => assert_quoted(&error),
    }
}

/// A file right in the directory, neither hidden nor an option to a command.
fn assert_file_name(name: &str, longest: usize) {
    let path = Path::new("/var/lib/psi").join(name);
    assert_eq!(path.parent(), Some(Path::new("/var/lib/psi")));
    assert_eq!(path.file_name(), Some(name.as_ref()));
    assert!(name.len() <= longest && !name.starts_with(['.', '-']));
    assert!(name.chars().all(|c| c.is_ascii_graphic() && c != '%'));
}
