//! The key of a slot of kind `credential`: sealed by systemd-creds, delivered by systemd.

use std::path::Path;

use crate::error::{Error, Kind, Result};
use crate::protector::{Credential, Key, Protector, SEALED_FILE, SealOptions};

/// How a new key is sealed.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Sealing {
    /// What systemd-creds seals a new credential with [default: auto, or tpm2 with --pcrs].
    #[arg(long, value_name = "KEY", value_parser = ["auto", "host", "tpm2", "host+tpm2"])]
    pub with_key: Option<String>,
    /// Bind a new key of the TPM to these PCRs, e.g. 7 or 7,14 [default: `cache.tpm.pcrs`; for a
    /// credential none, since with one that has changed psi-serve does not even start].
    #[arg(long, value_name = "LIST")]
    pub pcrs: Option<String>,
}

impl Sealing {
    /// Finds wrong usage for a credential.
    ///
    /// # Errors
    /// [`Kind::Usage`]
    pub fn check_for_credential(&self) -> Result<()> {
        super::pcrs::parse_if_given(self.pcrs.as_deref())?;
        match self.with_key.as_deref() {
            Some(key @ ("auto" | "host")) if self.pcrs.is_some() => {
                let what = format!("`--with-key {key}` does not bind a key to PCRs for certain");
                let hint = "use `--with-key tpm2` or `--with-key host+tpm2` with --pcrs";
                Err(Error::new(Kind::Usage, what).hint(hint))
            }
            _ => Ok(()),
        }
    }

    /// Finds wrong usage for any other kind of slot.
    ///
    /// # Errors
    /// [`Kind::Usage`]
    pub fn check_for_others(&self, takes_pcrs: bool) -> Result<()> {
        super::pcrs::parse_if_given(self.pcrs.as_deref())?;
        let only_for = |option: &str, kind: &str| {
            let what = format!("{option} is for {kind} only");
            Err(Error::new(Kind::Usage, what).hint("leave it out"))
        };
        match self {
            Self {
                with_key: Some(_), ..
            } => only_for("--with-key", "a credential, which systemd-creds seals"),
            Self { pcrs: Some(_), .. } if !takes_pcrs => only_for("--pcrs", "slots of the TPM"),
            _ => Ok(()),
        }
    }

    fn options(&self) -> SealOptions {
        let bound = self.pcrs.as_ref().map(|_| "tpm2".to_owned());
        SealOptions {
            with_key: self.with_key.clone().or(bound),
            pcrs: self.pcrs.as_ref().map(|pcrs| pcrs.replace(',', "+")),
        }
    }
}

/// The key's sealed file, and what opens it.
pub struct SealedKey<'a> {
    /// What systemd delivered, or else the file.
    pub credential: &'a Credential,
    /// The file.
    pub file: &'a Path,
    /// How a new one is made.
    pub sealing: &'a Sealing,
}

impl SealedKey<'_> {
    /// Sees to it that there is a key that opens; it, and where it is. One that is there is never
    /// replaced.
    ///
    /// # Errors
    /// Why there is none.
    pub fn key(&self) -> Result<(Key, String)> {
        let file = self.file.display();
        let found = if self.credential.is_delivered() {
            "the key is the credential that systemd delivered".to_owned()
        } else if self.file.exists() {
            format!("the key is the one in {file}")
        } else {
            return self.new_key();
        };
        let (key, _) = self.credential.seal()?;
        if self.sealing.with_key.is_some() || self.sealing.pcrs.is_some() {
            tracing::warn!("--with-key and --pcrs change nothing: there is a key already");
        }
        Ok((key, found))
    }

    fn new_key(&self) -> Result<(Key, String)> {
        let file = self.file.display();
        if let Some(pcrs) = &self.sealing.pcrs {
            tracing::warn!(
                "the key is bound to PCRs {pcrs}: once a firmware or boot loader update changes them, \
                 systemd can't decrypt {file} and stops psi-secrets.service with 243/CREDENTIALS \
                 before PSI runs"
            );
        }
        let key = Key::generate()?;
        self.sealing.options().seal(&key, self.file)?;
        Ok((key, format!("a new key is sealed in {file}")))
    }

    /// What the unit needs to find a key that lies elsewhere.
    pub fn delivery(&self) -> Option<String> {
        let elsewhere = self.file != Path::new(SEALED_FILE) && self.file.exists();
        elsewhere.then(|| {
            format!(
                "psi-secrets.service needs `LoadCredentialEncrypted=psi-cache-key:{}`",
                self.file.display()
            )
        })
    }
}
