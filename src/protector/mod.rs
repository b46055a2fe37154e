//! What can open the sealed cache: one slot each, as LUKS has them.
//!
//! A protector yields a 32-byte slot key. It never sees a secret, nor the key that seals them:
//! the cache wraps that one under each slot's key.

use std::fmt;

use aws_lc_rs::rand;
use serde::{Deserialize, Serialize};

use crate::config::{Backend, Config, TpmConfig};
use crate::error::{Error, Kind, Result};
use crate::locked::Locked;
use crate::pkcs11::{Pin, Settings, Token};
use crate::secret::SecretValue;

mod credential;
mod pkcs11;
mod recovery;
mod tpm2;

pub use credential::{
    CREDENTIAL_NAME, Credential, NewCredential, SEALED_FILE, SealOptions, decrypt,
};
pub use pkcs11::{Hsm, encrypted_key_fields, made_with, token_serial};
pub use recovery::{Recovery, RecoveryKey};
pub use tpm2::{Binding, SealedKey, Tpm2, silence_tss2};

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

/// 32 random bytes, in locked memory and never printed. They stay in one place: moving a key about
/// leaves no copies behind.
pub struct Key(Locked);

impl Key {
    /// A new key from the system's random source.
    ///
    /// # Errors
    /// [`Kind::Internal`] if there is no randomness to be had.
    pub fn generate() -> Result<Self> {
        let mut bytes = Locked::zeroed(32);
        rand::fill(&mut bytes).map_err(|_| {
            Error::new(Kind::Internal, "the system's random source gave no bytes")
                .hint("see `journalctl -k` for the kernel's random number generator")
        })?;
        Ok(Self(bytes))
    }

    /// Takes over exactly 32 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == 32).then(|| Self(Locked::copy_of(bytes)))
    }

    /// The same key once more, in a place of its own.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self(Locked::copy_of(&self.0))
    }

    /// The bytes in clear, for the cipher.
    pub fn expose(&self) -> &[u8] {
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

/// What a process has to open and to seal slots with.
#[derive(Clone, Debug)]
pub struct Devices {
    /// What the configuration chose.
    pub backend: Backend,
    /// The key that systemd delivers.
    pub credential: Credential,
    /// The TPM.
    pub tpm: TpmConfig,
    /// The PKCS#11 token, if one is configured. Its module is not loaded before it is needed.
    pub token: Option<Token>,
}

impl Devices {
    /// Those of this configuration; without a backend, what `tpm` stands for. `pin` makes the
    /// token's PIN of what the configuration has.
    pub fn new(
        config: &Config,
        credential: Credential,
        pin: impl FnOnce(Option<&SecretValue>) -> Pin,
    ) -> Self {
        let hsm = config.providers.nitrokeyhsm.as_ref();
        Self {
            backend: config.cache.backend.unwrap_or(Backend::Tpm),
            credential,
            tpm: config.cache.tpm.clone(),
            token: hsm.map(|hsm| Token::new(Settings::new(hsm, pin(hsm.pin.as_ref())))),
        }
    }

    /// What may open a cache, with the recovery key if somebody has entered it. Which of it is
    /// asked, the cache's slots say.
    pub fn to_open(&self, recovery: Recovery) -> Vec<Box<dyn Protector>> {
        vec![
            Box::new(self.credential.clone()),
            Box::new(Tpm2::from(&self.tpm)),
            Box::new(self.hsm(None)),
            Box::new(recovery),
        ]
    }

    /// What seals a new cache that nobody has chosen a slot for: the token if that is the backend,
    /// else the credential if systemd delivered it, else the TPM.
    pub fn to_create(&self) -> Box<dyn Protector> {
        match self.backend {
            Backend::Hsm => Box::new(self.hsm(None)),
            Backend::Tpm if self.credential.is_delivered() => Box::new(self.credential.clone()),
            Backend::Tpm => Box::new(WithoutCredential(Tpm2::from(&self.tpm))),
        }
    }

    /// What seals a slot that somebody asked for: the credential, the token, or the TPM as
    /// [`Devices::tpm2`].
    ///
    /// # Errors
    /// [`Kind::Usage`] for a recovery slot: its key is not a device's.
    pub fn of_kind(
        &self,
        kind: SlotKind,
        pcrs: Option<&[u8]>,
        force: bool,
    ) -> Result<Box<dyn Protector>> {
        match kind {
            SlotKind::Credential => Ok(Box::new(self.credential.clone())),
            SlotKind::Tpm2 => Ok(Box::new(self.tpm2(pcrs, force))),
            SlotKind::Pkcs11 => Ok(Box::new(self.hsm(None))),
            SlotKind::Recovery => {
                let what =
                    "a recovery key opens a cache only beside something that opens it unasked";
                Err(Error::new(Kind::Usage, what)
                    .hint("`psi-cachectl init --backend tpm --recovery` makes both"))
            }
        }
    }

    /// The TPM, bound to `pcrs` or to those of the configuration; `force` seals even if nothing
    /// has been measured into them.
    pub fn tpm2(&self, pcrs: Option<&[u8]>, force: bool) -> Tpm2 {
        Tpm2 {
            tcti: self.tpm.tcti.clone(),
            pcrs: pcrs.unwrap_or(&self.tpm.pcrs).to_vec(),
            allow_zero_pcrs: force,
        }
    }

    /// The token with this serial number, or the one that the configuration names.
    pub fn hsm(&self, serial: Option<&str>) -> Hsm {
        let token = self.token.as_ref();
        Hsm {
            token: token.map(|token| match serial {
                Some(serial) => token.with_serial(serial),
                None => token.clone(),
            }),
        }
    }
}

/// The TPM where there is no credential: that both are missing has to be said.
struct WithoutCredential(Tpm2);

impl Protector for WithoutCredential {
    fn kind(&self) -> SlotKind {
        self.0.kind()
    }

    fn seal(&self) -> Result<(Key, SlotFields)> {
        self.0.seal().map_err(|e| match e.kind() {
            Kind::Unreachable => {
                let what = format!("there is no credential {CREDENTIAL_NAME} and no TPM");
                Error::new(e.kind(), what).because(e).hint(
                    "`psi-cachectl init --backend credential` seals a key to the host; for a TPM see \
                     `cache.tpm.tcti` in config.yaml and `ls -l /dev/tpm*`",
                )
            }
            _ => e,
        })
    }

    fn unseal(&self, fields: &SlotFields) -> Result<Key> {
        self.0.unseal(fields)
    }
}

#[cfg(test)]
mod tests;
