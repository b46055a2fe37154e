//! Where psi-hsm has the PIN from.

use crate::config::NitrokeyHsm;
use crate::error::Result;
use crate::pkcs11::Pin;
use crate::systemd::Credentials;

/// Where the PIN is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The credential `hsm-pin`, delivered by systemd or sealed on disk.
    Credential,
    /// `pin:` in the configuration, or its variable.
    Configuration,
    /// Nowhere.
    Nowhere,
}

impl Source {
    /// The first place that has a PIN for the token with this serial number.
    ///
    /// # Errors
    /// What keeps a credential from being read.
    pub fn of(hsm: &NitrokeyHsm, serial: &str) -> Result<Self> {
        let credential = Pin::for_root_tool(Credentials::from_env(), None);
        Ok(match (credential.read(serial)?, &hsm.pin) {
            (Some(_), _) => Self::Credential,
            (None, Some(_)) => Self::Configuration,
            (None, None) => Self::Nowhere,
        })
    }

    /// For people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Credential => "the credential hsm-pin",
            Self::Configuration => "`pin` in config.yaml or PSI_NITROKEYHSM_PIN",
            Self::Nowhere => "nowhere",
        }
    }
}

/// Where it belongs.
pub const SEAL_IT: &str = "`systemd-ask-password -n | systemd-creds encrypt --tpm2-pcrs= --name=hsm-pin - \
/etc/credstore.encrypted/hsm-pin`, then `systemctl restart psi-secrets.service`";

/// As `providers.nitrokeyhsm` has it, for a tool that root runs.
pub fn for_root_tool(hsm: &NitrokeyHsm) -> Pin {
    Pin::for_root_tool(Credentials::from_env(), hsm.pin.as_ref())
}
