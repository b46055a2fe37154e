//! A private key on a PKCS#11 token, e.g. a Nitrokey HSM 2: what it decrypts, asked from any thread.
//!
//! A module is a library in C that may take seconds, or never come back. So one thread owns each
//! token's session and does one thing after the other; whoever asks gives a deadline and is free
//! again after it, whatever the module does. A session that fails is dropped, and what was asked is
//! tried once more in a new one: a token that was pulled and put back is used again.
//!
//! A token counts wrong PINs and locks itself, usually after three. So a PIN that was rejected is
//! not tried again while this process lives, and the last try is left to people.

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use crate::config::NitrokeyHsm;
use crate::error::{Error, Kind, Result};
use crate::locked::Locked;

mod code;
mod login;
mod module;
mod owner;
mod pin;
mod public_key;
mod session;
mod slot;

pub use owner::{Stuck, leave, stuck};
pub use pin::{PIN_CREDENTIAL, Pin};
pub use public_key::PublicKey;
pub use session::{CheckedLogin, FoundKey};
pub use slot::{PinState, TokenInfo};

use owner::{Job, Owner};
use session::Seat;

/// Which key on which token, and how to get at it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The library to load.
    pub module: PathBuf,
    /// Which token.
    pub token: TokenName,
    /// Which key on it.
    pub key: KeyName,
    /// What the token wants to be told first.
    pub pin: Pin,
}

/// Which of the tokens that a module shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenName {
    /// If a token with this serial number and label is there, it is the one. Some modules give all
    /// their tokens the same number.
    pub preferred: Option<(String, String)>,
    /// Only a token with this serial number.
    pub serial: Option<String>,
    /// Only a token with this label.
    pub label: Option<String>,
    /// Index into the slots that hold a token, if neither serial number nor label is given.
    pub slot: usize,
}

/// Which key on a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyName {
    /// Its CKA_ID.
    pub id: Vec<u8>,
    /// Its CKA_LABEL, which counts only if no key has that id.
    pub label: String,
}

impl Settings {
    /// As `providers.nitrokeyhsm` has it; `pin` knows where the PIN is.
    pub fn new(config: &NitrokeyHsm, pin: Pin) -> Self {
        Self {
            module: config.pkcs11_module.clone(),
            token: TokenName {
                preferred: None,
                serial: config.token_serial.clone(),
                label: config.token_label.clone(),
                slot: config.slot,
            },
            key: KeyName {
                id: config.key_id.clone(),
                label: config.key_label.clone(),
            },
            pin,
        }
    }

    fn same_place(&self, other: &Self) -> bool {
        self.module == other.module && self.token == other.token && self.key == other.key
    }
}

/// A key on a token. Cheap to clone; tokens of the same settings share one session.
///
/// Every call ends within the time it is given. Its errors: [`Kind::Unreachable`] if the token is
/// not there, does not answer or has no more room; [`Kind::Config`] if the module can't be loaded,
/// if there is no PIN or it was rejected, or if more than one token or key fits;
/// [`Kind::NotFound`] if the token has no such key.
#[derive(Clone, Debug)]
pub struct Token {
    settings: Arc<Settings>,
    owner: Arc<Owner>,
}

impl Token {
    /// Loads nothing and asks nothing yet.
    pub fn new(settings: Settings) -> Self {
        let owner = Owner::of(&settings);
        Self {
            settings: Arc::new(settings),
            owner,
        }
    }

    /// The library that is asked.
    pub fn module(&self) -> &Path {
        &self.settings.module
    }

    /// The token with this serial number and label if it is there, else this one.
    #[must_use]
    pub fn preferring(&self, serial: &str, label: &str) -> Self {
        let mut settings = Settings::clone(&self.settings);
        settings.token.preferred = Some((serial.to_owned(), label.to_owned()));
        Self::new(settings)
    }

    /// The token with this serial number and no other.
    #[must_use]
    pub fn with_serial(&self, serial: &str) -> Self {
        let mut settings = Settings::clone(&self.settings);
        settings.token = TokenName {
            serial: Some(serial.to_owned()),
            ..TokenName::default()
        };
        Self::new(settings)
    }

    /// What was encrypted for the key with RSA-OAEP, SHA-256 and MGF1 of SHA-256.
    ///
    /// # Errors
    /// [`Kind::Denied`] if it was encrypted for another key or altered: the key decrypts other
    /// things.
    pub fn decrypt(&self, encrypted: &[u8], within: Duration) -> Result<Locked> {
        self.wait(decrypting(encrypted), within)
    }

    /// The same for who may not block.
    ///
    /// # Errors
    /// As [`Token::decrypt`].
    pub async fn decrypt_async(&self, encrypted: &[u8], within: Duration) -> Result<Locked> {
        self.wait_async(decrypting(encrypted), within).await
    }

    /// The public half of the key. The token is not logged in for it if it shows it to anybody, as
    /// most do.
    ///
    /// # Errors
    /// As every call.
    pub fn public_key(&self, within: Duration) -> Result<PublicKey> {
        self.wait(Seat::public_key, within)
    }

    /// What the token says of itself, without a login.
    ///
    /// # Errors
    /// As every call.
    pub fn info(&self, within: Duration) -> Result<TokenInfo> {
        self.wait(Seat::info, within)
    }

    /// Logs in and finds the key, as the first decryption would.
    ///
    /// # Errors
    /// As every call.
    pub fn log_in(&self, within: Duration) -> Result<TokenInfo> {
        self.wait(Seat::log_in, within)
    }

    /// Every token that the module shows now.
    ///
    /// # Errors
    /// As every call.
    pub fn all_tokens(&self, within: Duration) -> Result<Vec<TokenInfo>> {
        self.wait(Seat::all_tokens, within)
    }

    fn wait<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Seat, &Settings) -> Result<T> + Send + 'static,
        within: Duration,
    ) -> Result<T> {
        let (answer, answered) = mpsc::sync_channel(1);
        self.ask(work, within, move |outcome| {
            let _ = answer.send(outcome);
        })?;
        let outcome = answered.recv_timeout(within);
        outcome.unwrap_or_else(|_| Err(self.no_answer(within)))
    }

    async fn wait_async<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Seat, &Settings) -> Result<T> + Send + 'static,
        within: Duration,
    ) -> Result<T> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        self.ask(work, within, move |outcome| {
            let _ = answer.send(outcome);
        })?;
        match tokio::time::timeout(within, answered).await {
            Ok(Ok(outcome)) => outcome,
            _ => Err(self.no_answer(within)),
        }
    }

    /// Hands `work` to the token's thread. What has waited there until nobody waits for it any more
    /// is not begun.
    fn ask<T>(
        &self,
        work: impl FnOnce(&mut Seat, &Settings) -> Result<T> + Send + 'static,
        within: Duration,
        answer: impl FnOnce(Result<T>) + Send + 'static,
    ) -> Result<()> {
        let (settings, until) = (Arc::clone(&self.settings), Instant::now() + within);
        let job: Job = Box::new(move |seat| {
            if Instant::now() < until {
                answer(work(seat, &settings));
            }
        });
        self.owner.ask(job)
    }

    fn no_answer(&self, within: Duration) -> Error {
        let what = format!(
            "the PKCS#11 module {} did not answer within {} s",
            self.module().display(),
            within.as_secs_f32()
        );
        Error::new(Kind::Unreachable, what).hint(format!(
            "see `systemctl status pcscd`, and whether `pkcs11-tool --module {} --list-slots` answers",
            self.module().display()
        ))
    }
}

fn decrypting(
    encrypted: &[u8],
) -> impl FnOnce(&mut Seat, &Settings) -> Result<Locked> + Send + 'static {
    let encrypted = encrypted.to_vec();
    move |seat, settings| seat.decrypt(settings, &encrypted)
}

#[cfg(test)]
pub mod tests;
