//! `cache.enc`, version 1: the bytes on disk.
//!
//! ```text
//! "PSIC" | 0x01 | 0x01 TPM or 0x02 HSM | payload
//! TPM payload:  nonce 12 | AES-256-GCM(ciphertext || tag), nothing else authenticated;
//!               the key is the credential psi-cache-key
//! HSM payload:  a hybrid envelope
//! contents:     {"version": 2, "written_at": unix, "hmac_key": base64 of 32 bytes,
//!                "entries": {"<hex of the entry's key>": "<base64 of the value>"}}
//! ```
//!
//! Contents of version 1 were keyed by Podman's ids, which have changed since: nothing in them can
//! be found again.

use std::collections::BTreeMap;
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::cache::envelope::version;
use crate::cache::table::EntryKey;
use crate::error::{Error, Kind, Result};
use crate::gcm::{NONCE_LEN, TAG_LEN, cipher, decrypt_after_nonce};
use crate::hybrid;
use crate::locked::Locked;
use crate::protector::Key;
use crate::secret::SecretValue;

/// The version that the file's fifth byte has.
pub const VERSION: u8 = 1;

const TAG_AT: usize = 5;
const PAYLOAD_AT: usize = 6;

/// What seals a file, as its sixth byte says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sealed {
    /// The credential `psi-cache-key`, which a TPM opens.
    ByCredential,
    /// An RSA key on a PKCS#11 token.
    ByToken,
}

impl Sealed {
    /// What seals `file`, of which the first bytes are enough; nothing if it has another version or
    /// an unknown tag.
    pub fn of(file: &[u8]) -> Option<Self> {
        match (version(file)?, file.get(TAG_AT)?) {
            (VERSION, 1) => Some(Self::ByCredential),
            (VERSION, 2) => Some(Self::ByToken),
            _ => None,
        }
    }

    /// As the configuration's `cache.backend` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ByCredential => "tpm",
            Self::ByToken => "hsm",
        }
    }
}

/// Where a file's key is.
pub enum KeyIn<'a> {
    /// It is the credential.
    Credential,
    /// The token decrypts it from this.
    Token(&'a [u8]),
}

/// What a file holds.
pub struct Contents {
    /// What its entries are named under.
    pub hmac_key: Key,
    /// The values.
    pub entries: BTreeMap<EntryKey, SecretValue>,
}

/// Opens a file of version 1, in place; `key` finds its key. Nothing for contents that nothing can
/// be found in.
///
/// # Errors
/// [`Kind::Damaged`] if it is not what was saved, [`Kind::Denied`] if the credential is another one
/// than sealed it, and what `key` says.
pub fn open(
    mut file: Locked,
    key: impl FnOnce(KeyIn<'_>) -> Result<Key>,
) -> Result<Option<Contents>> {
    let Some(sealed) = Sealed::of(&file) else {
        return Err(match file.get(TAG_AT) {
            Some(tag) => damaged(&format!("its tag is {tag}, neither 1 (TPM) nor 2 (HSM)")),
            None => damaged("it is cut short"),
        });
    };
    match sealed {
        Sealed::ByCredential => {
            let plain = open_with_credential(&mut file, key)?;
            parse(&file[plain])
        }
        Sealed::ByToken => {
            let envelope = &mut file[PAYLOAD_AT..];
            let opened = hybrid::open(envelope, |wrapped| key(KeyIn::Token(wrapped)));
            let plain = opened.map_err(|e| match e.kind() {
                Kind::Damaged => damaged(&e.to_string()),
                _ => e,
            })?;
            parse(&file[PAYLOAD_AT..][plain])
        }
    }
}

fn open_with_credential(
    file: &mut [u8],
    key: impl FnOnce(KeyIn<'_>) -> Result<Key>,
) -> Result<Range<usize>> {
    if file.len() < PAYLOAD_AT + NONCE_LEN + TAG_LEN {
        return Err(damaged("it is cut short"));
    }
    let key = key(KeyIn::Credential)?;
    decrypt_after_nonce(&cipher(&key)?, &[], file, PAYLOAD_AT).ok_or_else(|| {
        Error::new(
            Kind::Denied,
            "the credential psi-cache-key does not open the cache of version 1: it is another key, or the file is damaged",
        )
        .hint("have systemd deliver the key that sealed it, from /etc/psi/cache.key, and `systemctl restart psi-secrets.service`")
    })
}

#[derive(Deserialize)]
struct Version {
    version: u64,
}

#[derive(Deserialize)]
struct Plain {
    hmac_key: SecretValue,
    entries: BTreeMap<String, SecretValue>,
}

fn parse(json: &[u8]) -> Result<Option<Contents>> {
    // The parser's own message may quote what it read.
    let unreadable = |_| damaged("its contents are not readable");
    let Version { version } = serde_json::from_slice(json).map_err(unreadable)?;
    match version {
        1 => return Ok(None),
        2 => {}
        other => {
            return Err(damaged(&format!(
                "its contents have version {other}, not 2"
            )));
        }
    }
    let plain: Plain = serde_json::from_slice(json).map_err(unreadable)?;
    let hmac_key = Zeroizing::new(BASE64.decode(plain.hmac_key.expose()).unwrap_or_default());
    let hmac_key = Key::from_bytes(&hmac_key)
        .ok_or_else(|| damaged("its HMAC key is not 32 bytes in base64"))?;
    let entries = plain.entries.iter().map(entry).collect::<Result<_>>()?;
    Ok(Some(Contents { hmac_key, entries }))
}

fn entry((key, value): (&String, &SecretValue)) -> Result<(EntryKey, SecretValue)> {
    let key = hex(key)
        .and_then(|bytes| EntryKey::from_bytes(&bytes))
        .filter(|key| *key != EntryKey::OWNERS)
        .ok_or_else(|| damaged("the key of an entry is not 32 bytes in hexadecimal"))?;
    let value = BASE64
        .decode(value.expose())
        .map_err(|_| damaged("a value is not base64"))?;
    Ok((key, SecretValue::new(value)))
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if text.len() % 2 == 1 || !text.bytes().all(is_digit) {
        return None;
    }
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    text.as_bytes().chunks(2).map(pair).collect()
}

fn damaged(why: &str) -> Error {
    Error::new(
        Kind::Damaged,
        format!("the cache file of version 1 is damaged: {why}"),
    )
    .hint("restore it from a backup; or move it away, and `systemctl restart psi-infisical-setup.service` fills a new one")
}
