//! Which of a module's tokens is meant, and what a token says of itself.

use std::path::Path;

use cryptoki::context::Pkcs11;
use cryptoki::slot::{Slot, TokenInfo as RawInfo};

use crate::error::{Error, Kind, Result};
use crate::pkcs11::{TokenName, code};
use crate::secret::quote_name;

/// What a token says of itself to anybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenInfo {
    /// Its name.
    pub label: String,
    /// Its serial number.
    pub serial: String,
    /// What it is.
    pub model: String,
    /// Who made it.
    pub manufacturer: String,
    /// How its PIN is.
    pub pin: PinState,
    /// Whether it wants a PIN before it uses a private key.
    pub needs_login: bool,
}

/// How a token's PIN is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinState {
    /// It has none yet.
    NotSet,
    /// All tries are left, as far as the token tells.
    Fine,
    /// A wrong one was tried since the last right one.
    TriedWrong,
    /// One more wrong one locks it.
    LastTry,
    /// It is locked.
    Locked,
}

impl TokenInfo {
    fn of(info: &RawInfo) -> Self {
        Self {
            label: info.label().trim_end().to_owned(),
            serial: info.serial_number().trim().to_owned(),
            model: info.model().trim_end().to_owned(),
            manufacturer: info.manufacturer_id().trim_end().to_owned(),
            pin: match info {
                _ if info.user_pin_locked() => PinState::Locked,
                _ if info.user_pin_final_try() => PinState::LastTry,
                _ if info.user_pin_count_low() => PinState::TriedWrong,
                _ if !info.user_pin_initialized() => PinState::NotSet,
                _ => PinState::Fine,
            },
            needs_login: info.login_required(),
        }
    }

    /// The token as messages name it.
    pub fn name(&self) -> String {
        let (label, serial) = (quote_name(&self.label), quote_name(&self.serial));
        format!("the token {label} (serial {serial})")
    }
}

/// The tokens that are there now, in the module's order; those that can't say what they are are left
/// out.
pub fn all(module: &Pkcs11, path: &Path) -> Result<Vec<(Slot, TokenInfo)>> {
    let slots = slots(module, path)?.into_iter();
    let info = |slot| Some((slot, TokenInfo::of(&module.get_token_info(slot).ok()?)));
    Ok(slots.filter_map(info).collect())
}

fn slots(module: &Pkcs11, path: &Path) -> Result<Vec<Slot>> {
    let slots = module.get_slots_with_token();
    slots.map_err(|e| code::failed(path, "list its tokens", &e))
}

/// The one token that `name` means.
///
/// # Errors
/// [`Kind::Unreachable`] if it is not there, [`Kind::Config`] if it may be more than one.
pub fn find(module: &Pkcs11, path: &Path, name: &TokenName) -> Result<(Slot, TokenInfo)> {
    if let Some((serial, label)) = &name.preferred {
        let preferred = all(module, path)?.into_iter();
        let is_it = |token: &TokenInfo| token.serial == *serial && token.label == *label;
        let mut preferred = preferred.filter(|(_, token)| is_it(token));
        if let Some(token) = preferred.next() {
            return Ok(token);
        }
    }
    if name.serial.is_none() && name.label.is_none() {
        return by_index(module, path, name.slot);
    }
    let is = |wanted: &Option<String>, is: &str| wanted.as_ref().is_none_or(|w| w == is);
    let tokens = all(module, path)?;
    let shown = list(tokens.iter().map(|(_, token)| token));
    let fits = |token: &TokenInfo| is(&name.serial, &token.serial) && is(&name.label, &token.label);
    let mut found = tokens.into_iter().filter(|(_, token)| fits(token));
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(absent(path, &wanted(name), &shown)),
        (Some(_), Some(_)) => {
            let what = format!("more than one token is {}: there is {shown}", wanted(name));
            Err(Error::new(Kind::Config, what)
                .hint("tell them apart by `providers.nitrokeyhsm.token_serial`, or unplug one"))
        }
    }
}

fn by_index(module: &Pkcs11, path: &Path, index: usize) -> Result<(Slot, TokenInfo)> {
    let slots = slots(module, path)?;
    let Some(&slot) = slots.get(index) else {
        let wanted = format!("number {index} (`slot`, counted from 0)");
        let tokens = all(module, path)?;
        return Err(absent(path, &wanted, &list(tokens.iter().map(|(_, t)| t))));
    };
    Ok((slot, info(module, path, slot)?))
}

/// What the token in `slot` says of itself now.
///
/// # Errors
/// What the module says.
pub fn info(module: &Pkcs11, path: &Path, slot: Slot) -> Result<TokenInfo> {
    let info = module.get_token_info(slot);
    let info = info.map_err(|e| code::failed(path, "tell which token is there", &e))?;
    Ok(TokenInfo::of(&info))
}

fn wanted(name: &TokenName) -> String {
    let serial = name
        .serial
        .as_ref()
        .map(|s| format!("serial {}", quote_name(s)));
    let label = name
        .label
        .as_ref()
        .map(|l| format!("label {}", quote_name(l)));
    let both: Vec<String> = [label, serial].into_iter().flatten().collect();
    format!("the one with {}", both.join(" and "))
}

fn list<'a>(tokens: impl Iterator<Item = &'a TokenInfo>) -> String {
    let names: Vec<String> = tokens.map(TokenInfo::name).collect();
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(", "),
    }
}

fn absent(path: &Path, wanted: &str, shown: &str) -> Error {
    let what = format!(
        "the PKCS#11 token is not there: {wanted} is wanted, and {} shows {shown}",
        path.display()
    );
    Error::new(Kind::Unreachable, what).hint(format!(
        "plug it in; `systemctl status pcscd` and `pkcs11-tool --module {} --list-slots` show what is there, \
         `providers.nitrokeyhsm` in config.yaml says which one is meant; psi-serve gets to pcscd by \
         10-hsm.conf, which `psi-install units --mode native` puts in place, or `--mode container`",
        path.display()
    ))
}
