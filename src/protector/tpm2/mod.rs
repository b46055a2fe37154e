//! The slot `tpm2`: a random key that the TPM of this machine has sealed, bound to PCRs.
//!
//! The key lies in the slot as a sealed object under the TPM's storage root key (SRK). The TPM
//! gives it back only if the PCRs are what they were; every transfer between the TPM and PSI is
//! encrypted to that SRK, whose name is in the slot and checked first. Whoever sits between the
//! two when the key is *sealed* can pass off an SRK of his own; later he can't.
//!
//! A wrong answer never counts against the TPM's dictionary-attack lockout, and a TPM that is
//! locked out still opens the slot: the object has no password to guess.

use std::collections::BTreeMap;
use std::fmt;

use crate::config::TpmConfig;
use crate::error::{Error, Kind, Result};
use crate::protector::{Key, Protector, SlotFields, SlotKind};

mod code;
mod device;
mod quiet;
mod slot;

pub use quiet::silence_tss2;
pub use slot::SealedKey;

use device::Tpm;

/// The values of PCRs of the SHA-256 bank, by their numbers.
type Pcrs = BTreeMap<u8, [u8; 32]>;

/// Seals to the TPM and opens what it sealed.
///
/// Every call blocks until the TPM has answered: milliseconds for a software TPM, up to seconds
/// for a chip. The kernel bounds how long a chip may take; nothing bounds a software TPM that has
/// stopped. So it belongs on a thread that may block.
#[derive(Debug, Clone)]
pub struct Tpm2 {
    /// libtss2's name of the device, e.g. `device:/dev/tpmrm0`.
    pub tcti: String,
    /// The PCRs that a new slot is bound to. None: it opens on this TPM whatever was booted.
    pub pcrs: Vec<u8>,
    /// Seal even if nothing has been measured into any of the PCRs.
    pub allow_zero_pcrs: bool,
}

impl Tpm2 {
    /// Whether this TPM has sealed the slot, could open it, and does not because a PCR has changed.
    ///
    /// # Errors
    /// [`Kind::Damaged`] if the slot is not what was sealed; otherwise as [`Tpm2::seal`].
    pub fn has_drifted(&self, fields: &SlotFields) -> Result<bool> {
        let sealed = SealedKey::from_fields(fields)?;
        Tpm::open(&self.tcti)?.has_drifted(&sealed)
    }
}

impl From<&TpmConfig> for Tpm2 {
    fn from(config: &TpmConfig) -> Self {
        Self {
            tcti: config.tcti.clone(),
            pcrs: config.pcrs.clone(),
            allow_zero_pcrs: false,
        }
    }
}

/// What a slot of the TPM is bound to, as its header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The PCRs.
    pub pcrs: Vec<u8>,
    /// Whether nothing had been measured into any of them.
    pub is_unmeasured: bool,
}

impl Binding {
    /// That of a slot; nothing if it is not readable.
    pub fn of(fields: &SlotFields) -> Option<Self> {
        let pcrs = slot::bound_to(fields)?;
        Some(Self {
            is_unmeasured: are_unmeasured(&pcrs),
            pcrs: pcrs.into_keys().collect(),
        })
    }
}

/// `PCR 7 (secure-boot-policy)`
impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pcrs.is_empty() {
            true => f.write_str("no PCR"),
            false => f.write_str(&list(self.pcrs.iter())),
        }
    }
}

impl Protector for Tpm2 {
    fn kind(&self) -> SlotKind {
        SlotKind::Tpm2
    }

    /// Seals a new random key to the PCRs as they are now. What was sealed is opened again before
    /// it is kept.
    ///
    /// # Errors
    /// [`Kind::Refused`] if nothing was measured into the PCRs, unless that is allowed;
    /// [`Kind::Unreachable`] if there is no TPM or it has no room now; [`Kind::Denied`] if its
    /// owner hierarchy is closed to us.
    fn seal(&self) -> Result<(Key, SlotFields)> {
        let key = Key::generate()?;
        let mut tpm = Tpm::open(&self.tcti)?;
        let pcrs = tpm.read_pcrs(&self.pcrs)?;
        if !self.allow_zero_pcrs {
            refuse_unmeasured(&pcrs)?;
        }
        let sealed = tpm.seal(&key, pcrs)?;
        if tpm.unseal(&sealed)?.expose() != key.expose() {
            let what = format!("the TPM ({}) sealed a key and opened another", self.tcti);
            return Err(Error::new(Kind::BadAnswer, what)
                .hint("nothing was changed; see `journalctl -k --grep tpm`"));
        }
        Ok((key, sealed.to_fields()))
    }

    /// The key of a slot, whatever PCRs that one is bound to.
    ///
    /// # Errors
    /// [`Kind::Denied`] if a PCR has changed, which it names, or if it is another TPM;
    /// [`Kind::Damaged`] if the slot is not what was sealed; otherwise as [`Tpm2::seal`].
    fn unseal(&self, fields: &SlotFields) -> Result<Key> {
        let sealed = SealedKey::from_fields(fields)?;
        Tpm::open(&self.tcti)?.unseal(&sealed)
    }
}

/// PCRs that all are as after a reset (zeros, or ones for 17 to 22) say nothing about the boot:
/// the firmware has measured nothing, or the TPM is not the one it measures into.
fn are_unmeasured(pcrs: &Pcrs) -> bool {
    let unmeasured = |value: &[u8; 32]| *value == [0; 32] || *value == [0xff; 32];
    !pcrs.is_empty() && pcrs.values().all(unmeasured)
}

fn refuse_unmeasured(pcrs: &Pcrs) -> Result<()> {
    if !are_unmeasured(pcrs) {
        return Ok(());
    }
    let what = format!(
        "nothing has been measured into {}: a slot bound to that would open after any boot",
        list(pcrs.keys())
    );
    Err(Error::new(Kind::Refused, what).hint(format!(
        "see `tpm2_pcrread sha256:{}`; choose others in `cache.tpm.pcrs`, let the firmware \
         measure the boot, or seal all the same with `--force`",
        numbers(pcrs.keys())
    )))
}

/// Which PCRs are not what they were.
fn changed(sealed: &Pcrs, now: &Pcrs) -> Vec<u8> {
    let differs = |number: &&u8| sealed.get(number) != now.get(number);
    sealed.keys().filter(differs).copied().collect()
}

/// `PCR 4 (boot-loader-code), PCR 7 (secure-boot-policy)`
fn list<'a>(pcrs: impl Iterator<Item = &'a u8>) -> String {
    let named = |number: &u8| match meaning(*number) {
        Some(meaning) => format!("PCR {number} ({meaning})"),
        None => format!("PCR {number}"),
    };
    pcrs.map(named).collect::<Vec<_>>().join(", ")
}

/// `4,7`
fn numbers<'a>(pcrs: impl Iterator<Item = &'a u8>) -> String {
    pcrs.map(u8::to_string).collect::<Vec<_>>().join(",")
}

/// What Linux systems measure into a PCR, by the names that systemd-cryptenroll(1) uses.
fn meaning(pcr: u8) -> Option<&'static str> {
    Some(match pcr {
        0 => "platform-code",
        1 => "platform-config",
        2 => "external-code",
        3 => "external-config",
        4 => "boot-loader-code",
        5 => "boot-loader-config",
        7 => "secure-boot-policy",
        9 => "kernel-initrd",
        10 => "ima",
        11 => "kernel-boot",
        12 => "kernel-config",
        13 => "sysexts",
        14 => "shim-policy",
        15 => "system-identity",
        16 => "debug",
        23 => "application-support",
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
