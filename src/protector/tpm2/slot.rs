//! What a slot of kind `tpm2` keeps in the cache's header, all bytes in base64.
//!
//! ```text
//! "public":   the sealed object's TPMT_PUBLIC
//! "private":  its encrypted half, the contents of a TPM2B_PRIVATE
//! "srk_name": the name of the storage root key that it lies under
//! "pcrs":     {"7": …}, PCRs of the SHA-256 bank and their values when it was sealed
//! ```
//!
//! None of it is secret, and whoever alters it gets no key: the TPM checks all of it.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::json;

use crate::error::{Error, Kind, Result};
use crate::protector::SlotFields;
use crate::protector::tpm2::Pcrs;

/// A key that a TPM has sealed.
pub struct SealedKey {
    /// TPMT_PUBLIC of the sealed object.
    pub public: Vec<u8>,
    /// Its encrypted half.
    pub private: Vec<u8>,
    /// The name of the key that it lies under.
    pub srk_name: Vec<u8>,
    /// What it is bound to.
    pub pcrs: Pcrs,
}

#[derive(Deserialize)]
struct Fields {
    public: String,
    private: String,
    srk_name: String,
    pcrs: BTreeMap<u8, String>,
}

impl SealedKey {
    /// As the header keeps it.
    pub fn to_fields(&self) -> SlotFields {
        let encode = |bytes: &[u8]| serde_json::Value::String(BASE64.encode(bytes));
        let pcr = |(number, value): (&u8, &[u8; 32])| (number.to_string(), encode(value));
        let pcrs: serde_json::Map<_, _> = self.pcrs.iter().map(pcr).collect();
        [
            ("public", encode(&self.public)),
            ("private", encode(&self.private)),
            ("srk_name", encode(&self.srk_name)),
            ("pcrs", json!(pcrs)),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
    }

    /// Reads what [`SealedKey::to_fields`] wrote.
    ///
    /// # Errors
    /// [`Kind::Damaged`] saying what is wrong.
    pub fn from_fields(fields: &SlotFields) -> Result<Self> {
        let fields: Fields = serde_json::from_value(fields.clone().into())
            .map_err(|e| damaged("its fields are not those of a tpm2 slot").because(e))?;
        let pcr = |(number, value): (&u8, &String)| {
            let name = format!("pcrs.{number}");
            let wrong_length = |_| damaged(&format!("`{name}` has not 32 bytes"));
            let value = decode(&name, value)?.try_into().map_err(wrong_length)?;
            Ok((*number, value))
        };
        Ok(Self {
            public: decode("public", &fields.public)?,
            private: decode("private", &fields.private)?,
            srk_name: decode("srk_name", &fields.srk_name)?,
            pcrs: fields.pcrs.iter().map(pcr).collect::<Result<_>>()?,
        })
    }
}

/// The PCRs that a slot is bound to, as it says itself; nothing if it is not readable.
pub fn bound_to(fields: &SlotFields) -> Option<Pcrs> {
    Some(SealedKey::from_fields(fields).ok()?.pcrs)
}

fn decode(name: &str, text: &str) -> Result<Vec<u8>> {
    BASE64
        .decode(text)
        .map_err(|_| damaged(&format!("`{name}` is not base64")))
}

/// The slot is not what was sealed.
pub fn damaged(why: &str) -> Error {
    Error::new(
        Kind::Damaged,
        format!("the tpm2 slot is not what the TPM sealed: {why}"),
    )
    .hint("open the cache with another slot and run `psi-cachectl slots reseal`, or restore the file from a backup")
}
