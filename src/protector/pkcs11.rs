//! The slot `pkcs11`: a random key, encrypted for a private key that stays on a token.
//!
//! ```text
//! "encrypted_key": RSA-OAEP(SHA-256, MGF1-SHA-256) of the 32-byte key, in base64
//! "token_serial":  the token it was made with
//! "token_label":   its name
//! ```
//!
//! A slot is made with the public key, in software, and without a login; to open it takes one
//! operation of the private key. The token with that serial number and label is asked if it is there, else the
//! one that the configuration names: a copy of the key on another token opens the slot too. Serial
//! number and label are hints, since the cache authenticates its header.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;

use crate::error::{Error, Kind, Result};
use crate::pkcs11::{Token, TokenInfo};
use crate::protector::{Key, Protector, SlotFields, SlotKind};
use crate::secret::quote_name;

/// How long a token may take. Through OpenSC a Nitrokey HSM has been seen to take 25 s to start.
const PATIENCE: Duration = Duration::from_secs(120);

/// Seals for the key on a token and opens what was sealed for it.
#[derive(Clone, Debug)]
pub struct Hsm {
    /// The token; nothing if none is configured.
    pub token: Option<Token>,
}

impl Hsm {
    /// The token that a slot was made with if it is there, else this one.
    #[must_use]
    pub fn preferring(self, fields: &SlotFields) -> Self {
        let text = |name: &str| fields.get(name)?.as_str();
        let made_with = text("token_serial").zip(text("token_label"));
        Self {
            token: self.token.map(|token| match made_with {
                Some((serial, label)) => token.preferring(serial, label),
                None => token,
            }),
        }
    }

    fn token(&self) -> Result<&Token> {
        self.token.as_ref().ok_or_else(|| {
            Error::new(Kind::Config, "no PKCS#11 token is configured").hint(
                "add `nitrokeyhsm: {pkcs11_module: FILE}` under `providers:` in config.yaml, then \
                 `systemctl restart psi-secrets.service`",
            )
        })
    }
}

impl Protector for Hsm {
    fn kind(&self) -> SlotKind {
        SlotKind::Pkcs11
    }

    /// A new random key, encrypted with the token's public key. Nobody logs in for it.
    ///
    /// # Errors
    /// [`Kind::Config`] if no token is configured; as [`Token::public_key`].
    fn seal(&self) -> Result<(Key, SlotFields)> {
        let token = self.token()?;
        let key = Key::generate()?;
        let info = token.info(PATIENCE)?;
        let encrypted = token.public_key(PATIENCE)?.encrypt(key.expose())?;
        Ok((key, fields(&encrypted, &info)))
    }

    /// The key of a slot.
    ///
    /// # Errors
    /// [`Kind::Damaged`] if the slot has no encrypted key, [`Kind::Denied`] if it is another
    /// token's; [`Kind::Config`] if no token is configured; as [`Token::decrypt`].
    fn unseal(&self, fields: &SlotFields) -> Result<Key> {
        let slot = Slot::from_fields(fields)?;
        let preferring = self.clone().preferring(fields);
        let key = preferring.token()?.decrypt(&slot.encrypted_key, PATIENCE);
        let key = key.map_err(|e| match slot.made_with() {
            Some(made_with) => e.during(format!("the slot was made with {made_with}")),
            None => e,
        })?;
        Key::from_bytes(&key).ok_or_else(|| damaged("what it encrypts is no 32-byte key"))
    }
}

fn fields(encrypted_key: &[u8], token: &TokenInfo) -> SlotFields {
    let mut fields = encrypted_key_fields(encrypted_key);
    fields.insert("token_serial".to_owned(), token.serial.as_str().into());
    fields.insert("token_label".to_owned(), token.label.as_str().into());
    fields
}

/// What a slot has that nobody knows the token of: a cache of version 1 has no more.
pub fn encrypted_key_fields(encrypted: &[u8]) -> SlotFields {
    let text = BASE64.encode(encrypted);
    SlotFields::from_iter([("encrypted_key".to_owned(), text.into())])
}

/// The serial number of the token that a slot was made with.
pub fn token_serial(fields: &SlotFields) -> Option<&str> {
    fields.get("token_serial")?.as_str()
}

/// The token that a slot was made with, for people.
pub fn made_with(fields: &SlotFields) -> Option<String> {
    Slot::from_fields(fields).ok()?.made_with()
}

#[derive(Deserialize)]
struct Fields {
    encrypted_key: String,
    token_serial: Option<String>,
    token_label: Option<String>,
}

struct Slot {
    encrypted_key: Vec<u8>,
    token_serial: Option<String>,
    token_label: Option<String>,
}

impl Slot {
    fn from_fields(fields: &SlotFields) -> Result<Self> {
        let fields: Fields = serde_json::from_value(fields.clone().into())
            .map_err(|e| damaged("its fields are not those of a pkcs11 slot").because(e))?;
        let encrypted_key = BASE64
            .decode(&fields.encrypted_key)
            .map_err(|_| damaged("`encrypted_key` is not base64"))?;
        Ok(Self {
            encrypted_key,
            token_serial: fields.token_serial,
            token_label: fields.token_label,
        })
    }

    fn made_with(&self) -> Option<String> {
        let (label, serial) = self.token_label.as_ref().zip(self.token_serial.as_ref())?;
        let (label, serial) = (quote_name(label), quote_name(serial));
        Some(format!("the token {label} (serial {serial})"))
    }
}

fn damaged(why: &str) -> Error {
    let what = format!("the pkcs11 slot is not what was sealed: {why}");
    Error::new(Kind::Damaged, what).hint(
        "open the cache with another slot and run `psi-cachectl slots reseal`, or restore the file from a backup",
    )
}
