//! Logging in, which a token lets people get wrong only a few times.

use std::path::Path;

use cryptoki::error::{Error as Pkcs11Error, RvError};
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::types::RawAuthPin;

use crate::error::{Error, Kind, Result};
use crate::pkcs11::slot::{PinState, TokenInfo};
use crate::pkcs11::{Pin, code, pin};

/// Logs `session` in, unless it is or the token wants no PIN.
///
/// # Errors
/// [`Kind::Config`] if there is no PIN, if it was rejected now or before, or if it is not worth the
/// last try; what the module says.
pub fn log_in(session: &Session, token: &TokenInfo, pin: &Pin, module: &Path) -> Result<()> {
    if !token.needs_login || is_logged_in(session) {
        return Ok(());
    }
    check_tries(token)?;
    let Some(secret) = pin.read(&token.serial)? else {
        return Err(no_pin(token));
    };
    if pin::was_rejected(&token.name(), &secret) {
        let what = format!(
            "{} has rejected this PIN before: it is not tried again",
            token.name()
        );
        return Err(Error::new(Kind::Config, what).hint(CORRECT_IT));
    }
    let raw = RawAuthPin::new(Box::new(secret.to_vec()));
    let error = match session.login_with_raw(UserType::User, &raw) {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    let Pkcs11Error::Pkcs11(said, _) = &error else {
        return Err(code::failed(module, "log in", &error));
    };
    match said {
        // Another session of this process has done it meanwhile.
        RvError::UserAlreadyLoggedIn => Ok(()),
        RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange => {
            pin::reject(&token.name(), secret);
            Err(rejected(token, &error))
        }
        RvError::PinLocked => Err(locked(token)),
        _ => Err(code::failed(module, "log in", &error)),
    }
}

/// Logins are of the whole process, not of one session.
fn is_logged_in(session: &Session) -> bool {
    let state = session.get_session_info().map(|info| info.session_state());
    matches!(state, Ok(SessionState::RoUser | SessionState::RwUser))
}

fn check_tries(token: &TokenInfo) -> Result<()> {
    match token.pin {
        PinState::Fine | PinState::TriedWrong => Ok(()),
        PinState::Locked => Err(locked(token)),
        PinState::NotSet => {
            let what = format!("{} has no user PIN yet", token.name());
            Err(Error::new(Kind::Config, what)
                .hint("`pkcs11-tool --login --login-type so --init-pin` sets one"))
        }
        PinState::LastTry => {
            let what = format!(
                "{} has one try left before its PIN is locked, and PSI leaves that one to you",
                token.name()
            );
            Err(Error::new(Kind::Config, what).hint(
                "correct the PIN, then `pkcs11-tool --login --test` with the right one gives the other tries back",
            ))
        }
    }
}

const CORRECT_IT: &str = "correct it where it comes from (the credential `hsm-pin`, else `providers.nitrokeyhsm.pin`), \
then `systemctl restart psi-secrets.service`; `pkcs11-tool --login --test` with the right one gives the tries back";

fn rejected(token: &TokenInfo, error: &Pkcs11Error) -> Error {
    let what = format!(
        "{} rejected the PIN: {}; it is not tried again",
        token.name(),
        code::said(error)
    );
    Error::new(Kind::Config, what).hint(CORRECT_IT)
}

fn locked(token: &TokenInfo) -> Error {
    let what = format!(
        "the PIN of {} is locked after wrong ones (CKR_PIN_LOCKED)",
        token.name()
    );
    Error::new(Kind::Config, what)
        .hint("who has the SO PIN sets a new one: `pkcs11-tool --login --login-type so --init-pin`")
}

fn no_pin(token: &TokenInfo) -> Error {
    let what = format!(
        "{} wants a PIN, and there is none: neither the credential hsm-pin nor `providers.nitrokeyhsm.pin`",
        token.name()
    );
    Error::new(Kind::Config, what).hint(
        "`systemd-ask-password -n | systemd-creds encrypt --tpm2-pcrs= --name=hsm-pin - \
         /etc/credstore.encrypted/hsm-pin` seals it, then `systemctl restart psi-secrets.service`",
    )
}
