//! The codes of PKCS#11: what they are called, and what to do.
//!
//! Names: *PKCS #11 Cryptographic Token Interface Base Specification 3.0*, 5.1. Modules differ in which
//! one they answer, so nothing here decides what is done, only what is said.

use std::path::Path;

use cryptoki::error::{Error as Pkcs11Error, RvError};

use crate::error::{Error, Kind};

/// What the module says: `C_Login said CKR_PIN_INCORRECT`.
pub fn said(error: &Pkcs11Error) -> String {
    match error {
        Pkcs11Error::Pkcs11(code, function) => format!("C_{function:?} said {}", name(code)),
        other => other.to_string(),
    }
}

/// `CKR_PIN_INCORRECT`
fn name(code: &RvError) -> String {
    match code {
        RvError::VendorDefined(code) => format!("CKR_VENDOR_DEFINED ({code:#x})"),
        RvError::UnknownErrorCode(code) => format!("{code:#x}, which is no code of PKCS#11"),
        known => {
            let mut name = "CKR".to_owned();
            for letter in format!("{known:?}").chars() {
                if letter.is_ascii_uppercase() {
                    name.push('_');
                }
                name.push(letter.to_ascii_uppercase());
            }
            name
        }
    }
}

/// The module could not do what was asked of it.
pub fn failed(module: &Path, doing: &str, error: &Pkcs11Error) -> Error {
    let what = format!(
        "the PKCS#11 module {} could not {doing}: {}",
        module.display(),
        said(error)
    );
    Error::new(Kind::Unreachable, what).hint(hint(module, error))
}

fn hint(module: &Path, error: &Pkcs11Error) -> String {
    let list = format!("`pkcs11-tool --module {} --list-slots`", module.display());
    match error {
        Pkcs11Error::Pkcs11(RvError::DeviceRemoved | RvError::TokenNotPresent, _) => {
            format!("plug the token in again; {list} shows what is there")
        }
        Pkcs11Error::Pkcs11(RvError::HostMemory | RvError::DeviceMemory, _) => {
            format!("another program may hold its sessions; {list} shows the token")
        }
        _ => {
            format!(
                "see `journalctl -u pcscd`, and whether {list} shows the token; then pull it and put it back"
            )
        }
    }
}

/// The library can't be used at all.
pub fn cannot_load(module: &Path, error: &Pkcs11Error) -> Error {
    let what = format!("cannot load the PKCS#11 module {}", module.display());
    let why = match (error, module.exists()) {
        (_, false) => "there is no such file".to_owned(),
        (Pkcs11Error::LibraryLoading(_), true) => {
            "it is no library that this program can load".to_owned()
        }
        (other, true) => said(other),
    };
    Error::new(Kind::Config, format!("{what}: {why}")).hint(
        "name it in `providers.nitrokeyhsm.pkcs11_module`; for a Nitrokey HSM install OpenSC (`apt install \
         opensc-pkcs11`: /usr/lib/x86_64-linux-gnu/opensc-pkcs11.so; `dnf install opensc`: \
         /usr/lib64/pkcs11/opensc-pkcs11.so); in a container the image has to have it, or a `Volume=` in a drop-in \
         of psi-secrets.container",
    )
}

#[cfg(test)]
mod tests {
    use cryptoki::context::Function;

    use super::*;

    #[test]
    fn codes_have_the_names_that_the_specification_gives_them() {
        for (code, expected) in [
            (RvError::PinIncorrect, "CKR_PIN_INCORRECT"),
            (RvError::PinLenRange, "CKR_PIN_LEN_RANGE"),
            (RvError::DeviceRemoved, "CKR_DEVICE_REMOVED"),
            (
                RvError::SessionReadWriteSoExists,
                "CKR_SESSION_READ_WRITE_SO_EXISTS",
            ),
            (
                RvError::VendorDefined(0x8000_0001),
                "CKR_VENDOR_DEFINED (0x80000001)",
            ),
        ] {
            assert_eq!(name(&code), expected);
        }
        let error = Pkcs11Error::Pkcs11(RvError::UserNotLoggedIn, Function::DecryptInit);
        assert_eq!(said(&error), "C_DecryptInit said CKR_USER_NOT_LOGGED_IN");
    }
}
