//! What can open the sealed cache: one slot each, as LUKS has them.
//!
//! A protector yields a 32-byte slot key. It never sees a secret, nor the key that seals them:
//! the cache wraps that one under each slot's key.

use std::fmt;

use aws_lc_rs::rand;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::config::{Backend, TpmConfig};
use crate::error::{Error, Kind, Result};

mod credential;
mod recovery;
mod tpm2;

pub use credential::{CREDENTIAL_NAME, Credential, SEALED_FILE, SealOptions};
pub use recovery::{Recovery, RecoveryKey};
pub use tpm2::{Tpm2, silence_tss2};

/// The kinds of slots, in the order in which they are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SlotKind {
    /// 32 bytes that systemd delivers as the credential `psi-cache-key`.
    Credential,
    /// The TPM, bound to PCRs.
    Tpm2,
    /// A private key on a PKCS#11 token.
    Pkcs11,
    /// A printed key.
    Recovery,
}

impl fmt::Display for SlotKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SlotKind::Credential => "credential",
            SlotKind::Tpm2 => "tpm2",
            SlotKind::Pkcs11 => "pkcs11",
            SlotKind::Recovery => "recovery",
        })
    }
}

/// 32 random bytes, wiped when dropped and never printed. They stay in one place: moving a key
/// about leaves no copies behind.
pub struct Key(Box<Zeroizing<[u8; 32]>>);

impl Key {
    /// A new key from the system's random source.
    ///
    /// # Errors
    /// [`Kind::Internal`] if there is no randomness to be had.
    pub fn generate() -> Result<Self> {
        let mut bytes = Box::new(Zeroizing::new([0; 32]));
        rand::fill(bytes.as_mut_slice()).map_err(|_| {
            Error::new(Kind::Internal, "the system's random source gave no bytes")
                .hint("see `journalctl -k` for the kernel's random number generator")
        })?;
        Ok(Self(bytes))
    }

    /// Takes over exactly 32 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut key = Box::new(Zeroizing::new([0; 32]));
        if bytes.len() != key.len() {
            return None;
        }
        key.copy_from_slice(bytes);
        Some(Self(key))
    }

    /// The bytes in clear, for the cipher.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// What a slot keeps beside the wrapped key, e.g. a TPM's sealed object.
pub type SlotFields = serde_json::Map<String, serde_json::Value>;

/// Something that can give the same slot key again on this host, and only here.
pub trait Protector: Send {
    /// The kind of slot it makes.
    fn kind(&self) -> SlotKind;

    /// A slot key, with what is needed to get it again.
    ///
    /// # Errors
    /// Says which device or file is missing or refused, and what to do about it.
    fn seal(&self) -> Result<(Key, SlotFields)>;

    /// The slot key of a slot that [`Protector::seal`] made.
    ///
    /// # Errors
    /// As [`Protector::seal`]. A key that is well-formed but wrong is found by the cache.
    fn unseal(&self, fields: &SlotFields) -> Result<Key>;
}

/// The protectors that may open a cache whose backend is `backend`.
///
/// # Errors
/// [`Kind::Config`] for a backend that this version can't use.
pub fn to_open(
    backend: Backend,
    credential: Credential,
    tpm: &TpmConfig,
) -> Result<Vec<Box<dyn Protector>>> {
    match backend {
        Backend::Tpm => Ok(vec![
            Box::new(credential),
            Box::new(Tpm2::from(tpm)),
            Box::new(Recovery::not_entered()),
        ]),
        Backend::Hsm => Err(no_hsm()),
    }
}

/// The protectors that a new cache whose backend is `backend` gets a slot for.
///
/// # Errors
/// As [`to_open`].
pub fn to_create(backend: Backend, credential: Credential) -> Result<Vec<Box<dyn Protector>>> {
    match backend {
        Backend::Tpm => Ok(vec![Box::new(credential)]),
        Backend::Hsm => Err(no_hsm()),
    }
}

fn no_hsm() -> Error {
    Error::new(
        Kind::Config,
        "cache.backend `hsm` can't be used in this version",
    )
    .hint("set `cache.backend: tpm`, which uses the credential that systemd-creds seals")
}

#[cfg(test)]
mod tests;
