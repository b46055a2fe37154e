//! What only psi-hsm does with a token: a login that tells all it finds, and a new key.

use std::time::Duration;

use cryptoki::mechanism::Mechanism;

use super::*;
use crate::pkcs11::Token;

/// What a login has shown.
#[derive(Debug)]
pub struct CheckedLogin {
    /// The token that took the PIN, or wants none.
    pub token: TokenInfo,
    /// Why there is not exactly one such key.
    pub key: Result<()>,
}

/// The key that a token has now.
#[derive(Debug)]
pub struct FoundKey {
    /// Its public half.
    pub public_key: PublicKey,
    /// Whether it was made just now.
    pub is_new: bool,
    /// The token that has it.
    pub token: TokenInfo,
}

impl Token {
    /// Logs in, and looks for the key.
    ///
    /// # Errors
    /// As every call, as far as the login goes.
    pub fn check_login(&self, within: Duration) -> Result<CheckedLogin> {
        self.wait(Seat::check_login, within)
    }

    /// The public half of the key, if the token shows it without a login.
    ///
    /// # Errors
    /// As every call.
    pub fn shown_public_key(&self, within: Duration) -> Result<Option<PublicKey>> {
        self.wait(Seat::shown_public_key, within)
    }

    /// The key; if there is none, a new one of `bits`, if that is wanted. Its private half never
    /// leaves the token.
    ///
    /// # Errors
    /// As every call.
    pub fn key_or_new(&self, bits: Option<u32>, within: Duration) -> Result<FoundKey> {
        self.wait(
            move |seat, settings| seat.key_or_new(settings, bits),
            within,
        )
    }
}

impl Seat {
    fn check_login(&mut self, settings: &Settings) -> Result<CheckedLogin> {
        self.close();
        let (_, session, token) = self.log_in_without_key(settings)?;
        let key = find_key(&session, ObjectClass::PRIVATE_KEY, &settings.key);
        let key = match key {
            Ok(key) => {
                let token = token.clone();
                self.open = Some(Open {
                    session,
                    key,
                    token,
                });
                Ok(())
            }
            Err(e) => Err(e.explain(&settings.module, &settings.key, &token)),
        };
        Ok(CheckedLogin { token, key })
    }

    fn key_or_new(&mut self, settings: &Settings, bits: Option<u32>) -> Result<FoundKey> {
        let path = &settings.module;
        self.close();
        let (slot, session, token) = self.log_in_without_key(settings)?;
        let found = find_key(&session, ObjectClass::PRIVATE_KEY, &settings.key);
        let (key, is_new) = match (found, bits) {
            (Ok(key), _) => (key, false),
            (Err(KeySearch::None), Some(bits)) => {
                // The login is of the token, and both sessions have it.
                let session = self.module(path)?.open_rw_session(slot);
                let session = session.map_err(|e| code::failed(path, "open a session", &e))?;
                (generate(&session, &settings.key, bits, path)?, true)
            }
            (Err(e), _) => return Err(e.explain(path, &settings.key, &token)),
        };
        let open = Open {
            session,
            key,
            token: token.clone(),
        };
        self.open = Some(open);
        Ok(FoundKey {
            public_key: self.public_key(settings)?,
            is_new,
            token,
        })
    }
}

/// The private half of a new key pair.
fn generate(session: &Session, name: &KeyName, bits: u32, path: &Path) -> Result<ObjectHandle> {
    let named = [
        Attribute::Token(true),
        Attribute::Id(name.id.clone()),
        Attribute::Label(name.label.as_bytes().to_vec()),
    ];
    let public = [
        Attribute::Encrypt(true),
        Attribute::ModulusBits(u64::from(bits).into()),
        Attribute::PublicExponent(vec![1, 0, 1]),
    ];
    let private = [
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Decrypt(true),
    ];
    let with = |own: &[Attribute]| [named.as_slice(), own].concat();
    let pair = session.generate_key_pair(
        &Mechanism::RsaPkcsKeyPairGen,
        &with(&public),
        &with(&private),
    );
    let (_, private) = pair.map_err(|e| code::failed(path, "make a key pair", &e))?;
    Ok(private)
}
