//! Logging in, which a token lets people get wrong only a few times.

use std::path::Path;
use std::sync::PoisonError;

use cryptoki::error::{Error as Pkcs11Error, RvError};
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::types::RawAuthPin;

use crate::error::{Error, Kind, Result};
use crate::pkcs11::slot::{PinState, TokenInfo};
use crate::pkcs11::{Pin, code, pin};

/// Logs `session` in, unless it is or the token wants no PIN. `token` is what it said of itself, and
/// `again` asks it.
///
/// # Errors
/// [`Kind::Config`] if there is no PIN, if it was rejected now or before, or if it is not worth the
/// last try; what the module says.
pub fn log_in(
    session: &Session,
    token: &TokenInfo,
    again: impl FnOnce() -> Result<TokenInfo>,
    pin: &Pin,
    module: &Path,
) -> Result<()> {
    if !token.needs_login || is_logged_in(session) {
        return Ok(());
    }
    let rejected = pin::rejected_by(&token.name());
    let mut rejected = rejected.lock().unwrap_or_else(PoisonError::into_inner);
    // Whoever held the lock may have logged in, or used a try.
    if is_logged_in(session) {
        return Ok(());
    }
    let token = again()?;
    check_tries(&token, module)?;
    let Some(secret) = pin.read(&token.serial)? else {
        return Err(no_pin(&token));
    };
    if rejected.has(&secret) {
        let what = format!(
            "{} has rejected this PIN before: it is not tried again",
            token.name()
        );
        return Err(Error::new(Kind::Config, what).hint(correct_it(&token, module)));
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
            rejected.add(secret);
            Err(refused(&token, &error, module))
        }
        RvError::PinLocked => Err(locked(&token, module)),
        _ => Err(code::failed(module, "log in", &error)),
    }
}

/// Logins are of the whole process, not of one session.
fn is_logged_in(session: &Session) -> bool {
    let state = session.get_session_info().map(|info| info.session_state());
    matches!(state, Ok(SessionState::RoUser | SessionState::RwUser))
}

fn check_tries(token: &TokenInfo, module: &Path) -> Result<()> {
    match token.pin {
        PinState::Fine | PinState::TriedWrong => Ok(()),
        PinState::Locked => Err(locked(token, module)),
        PinState::NotSet => {
            let what = format!("{} has no user PIN yet", token.name());
            let set = tool(token, module, SET_PIN);
            Err(Error::new(Kind::Config, what).hint(format!("{set} sets one")))
        }
        PinState::LastTry => {
            let what = format!(
                "{} has one try left before its PIN is locked, and PSI leaves that one to you",
                token.name()
            );
            let test = tool(token, module, TEST_PIN);
            Err(Error::new(Kind::Config, what).hint(format!(
                "correct the PIN, then {test} with the right one gives the other tries back",
            )))
        }
    }
}

const TEST_PIN: &str = "--login --test";
const SET_PIN: &str = "--login --login-type so --init-pin";

/// The command that does this to that token: it would take the first one of OpenSC's otherwise.
fn tool(token: &TokenInfo, module: &Path, options: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || " ()_.-".contains(c);
    // No other label is put where a shell may read it.
    let which = match !token.label.is_empty() && token.label.chars().all(is_plain) {
        true => format!(" --token-label \"{}\"", token.label),
        false => String::new(),
    };
    let module = module.display();
    format!("`pkcs11-tool --module {module}{which} {options}`")
}

fn correct_it(token: &TokenInfo, module: &Path) -> String {
    format!(
        "correct it where it comes from (the credential `hsm-pin`, else `providers.nitrokeyhsm.pin`), \
         then `systemctl restart psi-secrets.service`; {} with the right one gives the tries back",
        tool(token, module, TEST_PIN)
    )
}

fn refused(token: &TokenInfo, error: &Pkcs11Error, module: &Path) -> Error {
    let what = format!(
        "{} rejected the PIN: {}; it is not tried again",
        token.name(),
        code::said(error)
    );
    Error::new(Kind::Config, what).hint(correct_it(token, module))
}

fn locked(token: &TokenInfo, module: &Path) -> Error {
    let what = format!(
        "the PIN of {} is locked after wrong ones (CKR_PIN_LOCKED)",
        token.name()
    );
    let set = tool(token, module, SET_PIN);
    Error::new(Kind::Config, what).hint(format!("who has the SO PIN sets a new one: {set}"))
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
