//! One conversation with the TPM: its storage root key, sealing and unsealing under it.

use std::fs::File;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::str::FromStr;

use aws_lc_rs::digest::{self, SHA256};
use tss_esapi::Context;
use tss_esapi::attributes::{ObjectAttributesBuilder, SessionAttributesBuilder};
use tss_esapi::constants::{CommandCode, SessionType};
use tss_esapi::handles::KeyHandle;
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{
    Digest, EccParameter, EccPoint, KeyedHashScheme, PcrSelectSize, PcrSelectionList, PcrSlot,
    Private, Public, PublicBuilder, PublicEccParametersBuilder, PublicKeyedHashParameters,
    SensitiveData, SymmetricDefinition, SymmetricDefinitionObject,
};
use tss_esapi::tcti_ldr::TctiNameConf;
use tss_esapi::traits::{Marshall, UnMarshall};

use crate::error::{Error, Kind, Result};
use crate::protector::Key;
use crate::protector::tpm2::code::{self, Code};
use crate::protector::tpm2::slot::{SealedKey, damaged};
use crate::protector::tpm2::{Pcrs, changed, list};

/// What the TPM library answers.
type Answer<T> = std::result::Result<T, tss_esapi::Error>;

/// An open TPM with its storage root key. Dropping it frees all that was loaded into the TPM,
/// and what libtss2 still holds of a key.
pub struct Tpm {
    tcti: String,
    context: Context,
    srk: KeyHandle,
    srk_name: Vec<u8>,
}

impl Tpm {
    /// Opens the device and makes its storage root key, which is the same every time.
    ///
    /// # Errors
    /// [`Kind::Config`] for a `tcti` that is none, [`Kind::Unreachable`] if there is no TPM,
    /// [`Kind::Denied`] if its owner hierarchy has a password or is disabled.
    pub fn open(tcti: &str) -> Result<Self> {
        let name = parse_tcti(tcti)?;
        if let Some(path) = tcti.strip_prefix("device:") {
            check_device(Path::new(path))?;
        }
        let mut context = Context::new(name).map_err(|e| code::cannot_open(tcti, e))?;
        let (srk, srk_name) = storage_root_key(&mut context)
            .map_err(|e| code::explain(tcti, "make its storage root key", e))?;
        Ok(Self {
            tcti: tcti.to_owned(),
            context,
            srk,
            srk_name,
        })
    }

    /// The values of `numbers` now.
    ///
    /// # Errors
    /// [`Kind::Refused`] if the TPM keeps no SHA-256 of one of them.
    pub fn read_pcrs(&mut self, numbers: &[u8]) -> Result<Pcrs> {
        // One at a time: how many a TPM reads at once is its own choice.
        numbers
            .iter()
            .map(|&number| Ok((number, self.read_pcr(number)?)))
            .collect()
    }

    fn read_pcr(&mut self, number: u8) -> Result<[u8; 32]> {
        let doing = format!("read PCR {number}");
        let (_, _, values) = sha256_bank([&number])
            .and_then(|selection| self.context.pcr_read(selection))
            .map_err(|e| self.failed(&doing, e))?;
        let value = values.value().first();
        value.and_then(|v| v.value().try_into().ok()).ok_or_else(|| {
            let what = format!("the TPM ({}) keeps no SHA-256 of PCR {number}", self.tcti);
            Error::new(Kind::Refused, what).hint(
                "see `tpm2_pcrread`; switch the SHA-256 bank on in the firmware's settings, or choose others in `cache.tpm.pcrs`",
            )
        })
    }

    /// Seals `key` so that it opens while the PCRs have the values `pcrs`.
    ///
    /// # Errors
    /// What the TPM says.
    pub fn seal(&mut self, key: &Key, pcrs: Pcrs) -> Result<SealedKey> {
        let (public, private) = self
            .create(key, &pcrs)
            .map_err(|e| self.failed("seal a key", e))?;
        Ok(SealedKey {
            public,
            private,
            srk_name: self.srk_name.clone(),
            pcrs,
        })
    }

    fn create(&mut self, key: &Key, pcrs: &Pcrs) -> Answer<(Vec<u8>, Vec<u8>)> {
        let template = sealed_object(self.policy_digest(pcrs)?)?;
        let secret = SensitiveData::try_from(key.expose())?;
        let session = self.salted_session(SessionType::Hmac)?;
        let srk = self.srk;
        let created = self.context.execute_with_session(Some(session), |tpm| {
            tpm.create(srk, template, None, Some(secret), None, None)
        })?;
        Ok((created.out_public.marshall()?, created.out_private.to_vec()))
    }

    /// The key in `sealed`.
    ///
    /// # Errors
    /// [`Kind::Denied`] if this is another TPM or a PCR has changed, [`Kind::Damaged`] if
    /// `sealed` has been altered, and what else the TPM says.
    pub fn unseal(&mut self, sealed: &SealedKey) -> Result<Key> {
        if sealed.srk_name != self.srk_name {
            return Err(self.another_tpm());
        }
        let object = self.load(sealed)?;
        let session = self
            .policy_session(SessionType::Policy, &sealed.pcrs)
            .map_err(|e| self.policy_failed("satisfy the slot's policy", sealed, e))?;
        let secret = self
            .context
            .execute_with_session(Some(session), |tpm| tpm.unseal(object.into()))
            .map_err(|e| self.policy_failed("open the sealed key", sealed, e))?;
        Key::from_bytes(&secret).ok_or_else(|| damaged("it holds no 32-byte key"))
    }

    /// Whether `sealed` is of this TPM, as it was sealed, and bound to PCRs that have changed.
    ///
    /// # Errors
    /// [`Kind::Damaged`] if `sealed` has been altered, and what else the TPM says.
    pub fn has_drifted(&mut self, sealed: &SealedKey) -> Result<bool> {
        if sealed.srk_name != self.srk_name {
            return Ok(false);
        }
        self.load(sealed)?;
        let numbers: Vec<u8> = sealed.pcrs.keys().copied().collect();
        let now = self.read_pcrs(&numbers)?;
        Ok(!changed(&sealed.pcrs, &now).is_empty())
    }

    fn load(&mut self, sealed: &SealedKey) -> Result<KeyHandle> {
        let unreadable = |_| damaged("its sealed object is not readable");
        let public = Public::unmarshall(&sealed.public).map_err(unreadable)?;
        let private = Private::try_from(sealed.private.as_slice()).map_err(unreadable)?;
        let srk = self.srk;
        let loaded = self
            .context
            .execute_with_session(Some(AuthSession::Password), |tpm| {
                tpm.load(srk, private, public)
            });
        loaded.map_err(|e| {
            let said = self.failed("load the sealed key", e);
            match Code::of(e) {
                Some(code) if code.is_about_what_was_given() => {
                    damaged("its TPM does not take it back").because(said)
                }
                _ => said,
            }
        })
    }

    /// A session with `kind` in which the policy of our sealed objects holds, if it does: the
    /// PCRs have these values, and all that is done is to unseal.
    fn policy_session(&mut self, kind: SessionType, pcrs: &Pcrs) -> Answer<AuthSession> {
        let session = self.salted_session(kind)?;
        let policy = PolicySession::try_from(session)?;
        if !pcrs.is_empty() {
            let values: Vec<u8> = pcrs.values().flatten().copied().collect();
            let values = Digest::try_from(digest::digest(&SHA256, &values).as_ref())?;
            self.context
                .policy_pcr(policy, values, sha256_bank(pcrs.keys())?)?;
        }
        self.context
            .policy_command_code(policy, CommandCode::Unseal)?;
        Ok(session)
    }

    fn policy_digest(&mut self, pcrs: &Pcrs) -> Answer<Digest> {
        let session = self.policy_session(SessionType::Trial, pcrs)?;
        let digest = self
            .context
            .policy_get_digest(PolicySession::try_from(session)?)?;
        self.context
            .flush_context(tss_esapi::handles::SessionHandle::from(session).into())?;
        Ok(digest)
    }

    /// A session whose parameters are encrypted both ways under a secret that only the holder of
    /// the storage root key can know.
    fn salted_session(&mut self, kind: SessionType) -> Answer<AuthSession> {
        let session = self.context.start_auth_session(
            Some(self.srk),
            None,
            None,
            kind,
            SymmetricDefinition::AES_128_CFB,
            HashingAlgorithm::Sha256,
        )?;
        let session = session.ok_or(tss_esapi::Error::WrapperError(
            tss_esapi::WrapperErrorKind::WrongValueFromTpm,
        ))?;
        let (attributes, mask) = SessionAttributesBuilder::new()
            .with_decrypt(true)
            .with_encrypt(true)
            .with_continue_session(true)
            .build();
        self.context
            .tr_sess_set_attributes(session, attributes, mask)?;
        Ok(session)
    }

    fn failed(&self, doing: &str, error: tss_esapi::Error) -> Error {
        code::explain(&self.tcti, doing, error)
    }

    fn another_tpm(&self) -> Error {
        let what = format!(
            "the slot was sealed by another TPM than {}, or that one has been cleared since",
            self.tcti
        );
        Error::new(Kind::Denied, what).hint(RESEAL)
    }

    /// Why a policy does not hold: which PCRs differ from what they were, if any does.
    fn policy_failed(&mut self, doing: &str, sealed: &SealedKey, error: tss_esapi::Error) -> Error {
        let said = self.failed(doing, error);
        if !Code::of(error).is_some_and(Code::is_policy_failure) {
            return said;
        }
        let numbers: Vec<u8> = sealed.pcrs.keys().copied().collect();
        let now = match self.read_pcrs(&numbers) {
            Ok(now) => now,
            Err(_) => return said,
        };
        let changed = changed(&sealed.pcrs, &now);
        if changed.is_empty() {
            return damaged("its policy is another one").because(said);
        }
        let what = format!(
            "no longer what the slot was sealed to: {}; something in the boot has changed",
            list(changed.iter())
        );
        Error::new(Kind::Denied, what).because(said).hint(RESEAL)
    }
}

/// The remedy when the TPM is in order and its slot is not for this boot, or not for this TPM.
const RESEAL: &str = "if that was you (an update, Secure Boot keys, a new board): `psi-cachectl slots \
                      reseal` seals it anew, with `--recovery` if no other slot opens the cache";

impl Drop for Tpm {
    fn drop(&mut self) {
        // libtss2 keeps its last answers and does not wipe them: have it write over the key. If
        // that fails, there is nothing else to be done.
        let _ = self.context.get_random(32);
    }
}

fn parse_tcti(tcti: &str) -> Result<TctiNameConf> {
    TctiNameConf::from_str(tcti).map_err(|_| {
        let what = format!("cache.tpm.tcti: {tcti:?} names no TPM");
        Error::new(Kind::Config, what).hint(
            "e.g. `device:/dev/tpmrm0`, or `swtpm:host=127.0.0.1,port=2321` for a software TPM",
        )
    })
}

/// libtss2 does not say why it can't open a device, and would write its commands into a file that
/// is none.
fn check_device(path: &Path) -> Result<()> {
    let unusable = |cause: std::io::Error| {
        let what = format!("cannot open the TPM (device:{})", path.display());
        Error::new(Kind::Unreachable, what).because(cause).hint(
            "see `ls -l /dev/tpm*`: psi-serve has to be in the group that may write /dev/tpmrm0 (`tss`), \
             and its unit needs `DeviceAllow=/dev/tpmrm0 rw`; without a TPM use another slot",
        )
    };
    let open = File::options().read(true).write(true).open(path);
    let meta = open.and_then(|file| file.metadata()).map_err(unusable)?;
    match meta.file_type().is_char_device() {
        true => Ok(()),
        false => Err(unusable(std::io::Error::other("it is not a device"))),
    }
}

fn storage_root_key(context: &mut Context) -> Answer<(KeyHandle, Vec<u8>)> {
    let template = storage_root_key_template()?;
    let srk = context
        .execute_with_session(Some(AuthSession::Password), |tpm| {
            tpm.create_primary(Hierarchy::Owner, template, None, None, None, None)
        })?
        .key_handle;
    let name = context.tr_get_name(srk.into())?;
    Ok((srk, name.value().to_vec()))
}

/// The ECC P-256 storage root key of *TCG TPM v2.0 Provisioning Guidance*, 7.5.1: the same
/// template gives the same key until the TPM is cleared.
fn storage_root_key_template() -> Answer<Public> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .with_restricted(true)
        .with_decrypt(true)
        .build()?;
    let parameters = PublicEccParametersBuilder::new_restricted_decryption_key(
        SymmetricDefinitionObject::AES_128_CFB,
        EccCurve::NistP256,
    );
    let zero = || EccParameter::try_from(vec![0; 32]);
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(parameters.build()?)
        .with_ecc_unique_identifier(EccPoint::new(zero()?, zero()?))
        .build()
}

/// Data that this TPM gives out under `policy` and never otherwise: there is no password.
fn sealed_object(policy: Digest) -> Answer<Public> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_admin_with_policy(true)
        .with_no_da(true)
        .build()?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::KeyedHash)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_auth_policy(policy)
        .with_keyed_hash_parameters(PublicKeyedHashParameters::new(KeyedHashScheme::Null))
        .with_keyed_hash_unique_identifier(Digest::default())
        .build()
}

/// `numbers` in the SHA-256 bank. Three bytes hold the 24 PCRs that every PC has.
fn sha256_bank<'a>(numbers: impl IntoIterator<Item = &'a u8>) -> Answer<PcrSelectionList> {
    let slots = numbers.into_iter().map(|&number| {
        let bit = 1u32.checked_shl(number.into()).unwrap_or_default();
        PcrSlot::try_from(bit)
    });
    PcrSelectionList::builder()
        .with_size_of_select(PcrSelectSize::ThreeOctets)
        .with_selection(
            HashingAlgorithm::Sha256,
            &slots.collect::<Answer<Vec<_>>>()?,
        )
        .build()
}
