//! Where the PIN is, and which ones a token has rejected.

use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::constant_time::verify_slices_are_equal;

use crate::error::Result;
use crate::locked::Locked;
use crate::secret::SecretValue;
use crate::systemd::Credentials;

/// The credential that holds the PIN. One called `hsm-pin.<serial number>` goes first, for the token
/// with that number.
pub const PIN_CREDENTIAL: &str = "hsm-pin";

/// Where the PIN is. It is read when a token wants it, so a credential may come later.
#[derive(Clone, Debug)]
pub struct Pin {
    credentials: Credentials,
    opens_sealed: bool,
    configured: Option<Arc<Locked>>,
}

impl Pin {
    /// For a service: what systemd delivered, then `configured`.
    pub fn delivered(credentials: Credentials, configured: Option<&SecretValue>) -> Self {
        let without_newline = |pin: &SecretValue| {
            let pin = pin.expose();
            Arc::new(Locked::copy_of(pin.strip_suffix(b"\n").unwrap_or(pin)))
        };
        Self {
            credentials,
            opens_sealed: false,
            configured: configured.map(without_newline),
        }
    }

    /// For a tool that root runs: the sealed credential is opened if systemd delivered none.
    pub fn for_root_tool(credentials: Credentials, configured: Option<&SecretValue>) -> Self {
        Self {
            opens_sealed: true,
            ..Self::delivered(credentials, configured)
        }
    }

    /// The PIN for the token with this serial number; nothing if there is none. An empty one is none.
    ///
    /// # Errors
    /// What keeps a credential from being read.
    pub fn read(&self, serial: &str) -> Result<Option<Locked>> {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"_-".contains(&b);
        if !serial.is_empty() && serial.bytes().all(is_plain) {
            let own = self.credential(&format!("{PIN_CREDENTIAL}.{serial}"))?;
            if own.is_some() {
                return Ok(own);
            }
        }
        let configured = || {
            let pin = self.configured.as_ref()?;
            (!pin.is_empty()).then(|| Locked::copy_of(pin))
        };
        Ok(self.credential(PIN_CREDENTIAL)?.or_else(configured))
    }

    fn credential(&self, name: &str) -> Result<Option<Locked>> {
        let found = match self.opens_sealed {
            true => self.credentials.read_or_open(name)?,
            false => self.credentials.read(name)?,
        };
        let pin = found.as_ref().map(SecretValue::expose);
        Ok(pin.filter(|pin| !pin.is_empty()).map(Locked::copy_of))
    }
}

/// The PINs that one token has rejected while this process lives.
#[derive(Default)]
pub struct Rejected(Vec<Locked>);

impl Rejected {
    /// Whether this PIN is one of them.
    pub fn has(&self, pin: &[u8]) -> bool {
        let is_it = |other: &Locked| verify_slices_are_equal(other, pin).is_ok();
        self.0.iter().any(is_it)
    }

    /// Keeps this PIN from being tried on the token again.
    pub fn add(&mut self, pin: Locked) {
        self.0.push(pin);
    }
}

/// Of every token that was to be logged in, by its name.
static REJECTED: Mutex<Vec<(String, Arc<Mutex<Rejected>>)>> = Mutex::new(Vec::new());

/// What the token of this name has rejected. Whoever logs in holds the lock meanwhile: a wrong PIN
/// that two sessions have at once costs one try.
pub fn rejected_by(token: &str) -> Arc<Mutex<Rejected>> {
    let mut all = REJECTED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, known)) = all.iter().find(|(name, _)| name == token) {
        return Arc::clone(known);
    }
    let new = Arc::default();
    all.push((token.to_owned(), Arc::clone(&new)));
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pin: &Pin, serial: &str) -> Option<Vec<u8>> {
        pin.read(serial).unwrap().map(|pin| pin.to_vec())
    }

    #[test]
    fn the_tokens_own_credential_goes_first_then_the_common_one_then_the_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let credentials = Credentials {
            directory: Some(dir.path().to_owned()),
        };
        let configured = SecretValue::new(b"configured\n".to_vec());
        let pin = Pin::delivered(credentials.clone(), Some(&configured));
        assert_eq!(read(&pin, "A1").unwrap(), b"configured");
        std::fs::write(dir.path().join("hsm-pin"), "").unwrap();
        assert_eq!(read(&pin, "A1").unwrap(), b"configured");
        std::fs::write(dir.path().join("hsm-pin"), "common\n").unwrap();
        assert_eq!(read(&pin, "A1").unwrap(), b"common");
        std::fs::write(dir.path().join("hsm-pin.A1"), "own").unwrap();
        assert_eq!(read(&pin, "A1").unwrap(), b"own");
        assert_eq!(read(&pin, "B2").unwrap(), b"common");
        assert_eq!(read(&pin, "../hsm-pin.A1").unwrap(), b"common");
        assert_eq!(format!("{pin:?}").matches("configured").count(), 1);
        assert!(format!("{pin:?}").contains("configured: Some(Locked(..))"));
        let none = Pin::delivered(Credentials::default(), None);
        assert_eq!(read(&none, "A1"), None);
    }

    #[test]
    fn a_rejected_pin_is_remembered_for_its_token_and_no_other() {
        let was_rejected = |token: &str, pin: &[u8]| rejected_by(token).lock().unwrap().has(pin);
        let pin = Locked::copy_of(b"1111");
        rejected_by("a token").lock().unwrap().add(pin);
        assert!(was_rejected("a token", b"1111"));
        assert!(!was_rejected("a token", b"2222"));
        assert!(!was_rejected("another", b"1111"));
    }
}
