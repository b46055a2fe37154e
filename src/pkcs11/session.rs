//! A token's session, and what is done in it. All of this runs on the token's own thread.

use std::path::Path;

use cryptoki::context::Pkcs11;
use cryptoki::error::Error as Pkcs11Error;
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use cryptoki::slot::Slot;
use zeroize::Zeroizing;

use crate::error::{Error, Kind, Result};
use crate::locked::Locked;
use crate::pkcs11::login::log_in;
use crate::pkcs11::slot::{self, TokenInfo};
use crate::pkcs11::{KeyName, PublicKey, Settings, code, module};
use crate::secret::quote_name;

mod admin;

pub use admin::{CheckedLogin, FoundKey};

/// What is encrypted and decrypted to find out what a token can do.
const PROBE: [u8; 32] = [0x50; 32];

/// A module and a session of its, once they were needed.
#[derive(Default)]
pub struct Seat {
    /// Never given back: see [`super::owner`].
    module: Option<Pkcs11>,
    open: Option<Open>,
}

/// A session that is logged in.
struct Open {
    session: Session,
    key: ObjectHandle,
    token: TokenInfo,
}

impl Seat {
    /// Ends the session.
    pub fn close(&mut self) {
        self.open = None;
    }

    /// See [`super::Token::decrypt`].
    pub fn decrypt(&mut self, settings: &Settings, encrypted: &[u8]) -> Result<Locked> {
        let sha256 = |open: &Open| open.decrypt(&oaep_sha256(), encrypted);
        let failure = match self.try_twice(settings, sha256)? {
            Ok(plain) => return Ok(plain),
            Err(failure) => failure,
        };
        Err(self.why_not_decrypted(settings, &failure))
    }

    /// Modules differ in what they say of what they can't decrypt. What the key does to something
    /// that was encrypted for it tells whether that or the token is to blame.
    fn why_not_decrypted(&mut self, settings: &Settings, failure: &Pkcs11Error) -> Error {
        let failed = code::failed(&settings.module, "decrypt", failure);
        let Ok(key) = self.public_key(settings) else {
            return failed;
        };
        if self.decrypts(settings, &oaep_sha256, key.encrypt(&PROBE)) {
            let token = self.open.as_ref().map(|open| open.token.name());
            let token = token.unwrap_or_else(|| "the token".to_owned());
            let what = format!(
                "{token} can't decrypt it: it was encrypted for another key, or has been altered ({})",
                code::said(failure)
            );
            return Error::new(Kind::Denied, what).hint(
                "plug in the token that has the key, or name it with `providers.nitrokeyhsm.token_serial`; \
                 `psi-cachectl slots list` shows which one a slot was made with",
            );
        }
        if self.decrypts(settings, &oaep_sha1, key.encrypt_with_sha1(&PROBE)) {
            let what = format!(
                "the PKCS#11 module {} does RSA-OAEP with SHA-1 only, and PSI needs SHA-256 (CKM_RSA_PKCS_OAEP with \
                 CKM_SHA256 and CKG_MGF1_SHA256): {}",
                settings.module.display(),
                code::said(failure)
            );
            return Error::new(Kind::Config, what).hint(
                "SoftHSM 2.6 is one of those; a Nitrokey HSM with OpenSC 0.23 or later can do it: \
                 `opensc-tool --info` tells which OpenSC is installed",
            );
        }
        failed
    }

    fn decrypts(
        &mut self,
        settings: &Settings,
        mechanism: &dyn Fn() -> Mechanism<'static>,
        probe: Result<Vec<u8>>,
    ) -> bool {
        let Ok(probe) = probe else {
            return false;
        };
        let plain = self.try_twice(settings, |open| open.decrypt(&mechanism(), &probe));
        matches!(plain, Ok(Ok(plain)) if plain[..] == PROBE)
    }

    /// See [`super::Token::public_key`].
    pub fn public_key(&mut self, settings: &Settings) -> Result<PublicKey> {
        if let Some(key) = self.shown_public_key(settings)? {
            return Ok(key);
        }
        let numbers = self.try_twice(settings, |open| numbers(&open.session, open.key))?;
        let numbers = numbers.map_err(|e| code::failed(&settings.module, "show its key", &e))?;
        public_key(numbers)
    }

    /// The public key, if the token shows it without a login.
    fn shown_public_key(&mut self, settings: &Settings) -> Result<Option<PublicKey>> {
        let path = &settings.module;
        let module = self.module(path)?;
        let (slot, token) = slot::find(module, path, &settings.token)?;
        let failed = |e| code::failed(path, "show its public key", &e);
        let session = module.open_ro_session(slot).map_err(failed)?;
        match find_key(&session, ObjectClass::PUBLIC_KEY, &settings.key) {
            Ok(key) => public_key(numbers(&session, key).map_err(failed)?).map(Some),
            Err(KeySearch::None) => Ok(None),
            Err(other) => Err(other.explain(path, &settings.key, &token)),
        }
    }

    /// See [`super::Token::info`].
    pub fn info(&mut self, settings: &Settings) -> Result<TokenInfo> {
        let module = self.module(&settings.module)?;
        slot::find(module, &settings.module, &settings.token).map(|(_, token)| token)
    }

    /// See [`super::Token::all_tokens`].
    pub fn all_tokens(&mut self, settings: &Settings) -> Result<Vec<TokenInfo>> {
        let module = self.module(&settings.module)?;
        let tokens = slot::all(module, &settings.module)?;
        Ok(tokens.into_iter().map(|(_, token)| token).collect())
    }

    /// See [`super::Token::log_in`].
    pub fn log_in(&mut self, settings: &Settings) -> Result<TokenInfo> {
        self.close();
        self.open(settings).map(|open| open.token.clone())
    }

    /// Runs `work` in the session, and once more in a new one if it fails. Which code a session that
    /// no longer works gives is the module's choice.
    fn try_twice<T>(
        &mut self,
        settings: &Settings,
        work: impl Fn(&Open) -> Result<T, Pkcs11Error>,
    ) -> Result<Result<T, Pkcs11Error>> {
        let first = work(self.open(settings)?);
        if first.is_ok() {
            return Ok(first);
        }
        self.close();
        Ok(work(self.open(settings)?))
    }

    fn open(&mut self, settings: &Settings) -> Result<&Open> {
        if self.open.is_none() {
            self.open = Some(self.log_in_anew(settings)?);
        }
        let none = || Error::new(Kind::Internal, "there is no session");
        self.open.as_ref().ok_or_else(none)
    }

    fn log_in_anew(&mut self, settings: &Settings) -> Result<Open> {
        let (_, session, token) = self.log_in_without_key(settings)?;
        let key = find_key(&session, ObjectClass::PRIVATE_KEY, &settings.key);
        let key = key.map_err(|e| e.explain(&settings.module, &settings.key, &token))?;
        Ok(Open {
            session,
            key,
            token,
        })
    }

    fn log_in_without_key(&mut self, settings: &Settings) -> Result<(Slot, Session, TokenInfo)> {
        let path = &settings.module;
        let module = self.module(path)?;
        let (slot, token) = slot::find(module, path, &settings.token)?;
        let session = module.open_ro_session(slot);
        let session = session.map_err(|e| code::failed(path, "open a session", &e))?;
        let again = || slot::info(module, path, slot);
        log_in(&session, &token, again, &settings.pin, path)?;
        Ok((slot, session, token))
    }

    /// The module, once it is needed.
    fn module(&mut self, path: &Path) -> Result<&Pkcs11> {
        if self.module.is_none() {
            self.module = Some(module::load(path)?);
        }
        let none = || Error::new(Kind::Internal, "there is no module");
        self.module.as_ref().ok_or_else(none)
    }
}

impl Open {
    fn decrypt(&self, mechanism: &Mechanism<'_>, encrypted: &[u8]) -> Result<Locked, Pkcs11Error> {
        let plain = self.session.decrypt(mechanism, self.key, encrypted)?;
        Ok(Locked::copy_of(&Zeroizing::new(plain)))
    }
}

fn oaep_sha256() -> Mechanism<'static> {
    oaep(MechanismType::SHA256, PkcsMgfType::MGF1_SHA256)
}

fn oaep_sha1() -> Mechanism<'static> {
    oaep(MechanismType::SHA1, PkcsMgfType::MGF1_SHA1)
}

fn oaep(hash: MechanismType, mask: PkcsMgfType) -> Mechanism<'static> {
    PkcsOaepParams::new(hash, mask, PkcsOaepSource::empty()).into()
}

/// Why not exactly one key was found.
enum KeySearch {
    None,
    Many { how: String, found: usize },
    Failed(Pkcs11Error),
}

impl KeySearch {
    fn explain(self, module: &Path, key: &KeyName, token: &TokenInfo) -> Error {
        let (id, label) = (hex(&key.id), quote_name(&key.label));
        let show = format!(
            "`pkcs11-tool --module {} --login --list-objects` shows the keys",
            module.display()
        );
        match self {
            Self::None => Error::new(
                Kind::NotFound,
                format!("{} has no RSA key with id {id} or label {label}", token.name()),
            )
            .hint(format!(
                "{show}; set `providers.nitrokeyhsm.key_id`, or `pkcs11-tool --login --keypairgen --key-type rsa:2048 \
                 --id 02 --label podman-secrets` makes one",
            )),
            Self::Many { how, found } => {
                let what = format!("{} has {found} RSA keys with {how}", token.name());
                Error::new(Kind::Config, what).hint(format!(
                    "{show}; give the right one an id of its own and set `providers.nitrokeyhsm.key_id`"
                ))
            }
            Self::Failed(e) => code::failed(module, "search for its key", &e),
        }
    }
}

/// The one key of `class` with that id; if there is none, the one with that label.
fn find_key(
    session: &Session,
    class: ObjectClass,
    name: &KeyName,
) -> Result<ObjectHandle, KeySearch> {
    let find = |by: Attribute| {
        let wanted = [
            Attribute::Class(class),
            Attribute::KeyType(KeyType::RSA),
            by,
        ];
        session.find_objects(&wanted).map_err(KeySearch::Failed)
    };
    let by_id = find(Attribute::Id(name.id.clone()))?;
    let (found, how) = match by_id.is_empty() {
        false => (by_id, format!("id {}", hex(&name.id))),
        true => {
            let label = Attribute::Label(name.label.as_bytes().to_vec());
            (find(label)?, format!("label {}", quote_name(&name.label)))
        }
    };
    match found.as_slice() {
        [] => Err(KeySearch::None),
        [key] => Ok(*key),
        many => Err(KeySearch::Many {
            how,
            found: many.len(),
        }),
    }
}

/// Modulus and exponent of a key, either half.
fn numbers(session: &Session, key: ObjectHandle) -> Result<(Vec<u8>, Vec<u8>), Pkcs11Error> {
    let wanted = [AttributeType::Modulus, AttributeType::PublicExponent];
    let (mut modulus, mut exponent) = (Vec::new(), Vec::new());
    for attribute in session.get_attributes(key, &wanted)? {
        match attribute {
            Attribute::Modulus(bytes) => modulus = bytes,
            Attribute::PublicExponent(bytes) => exponent = bytes,
            _ => {}
        }
    }
    Ok((modulus, exponent))
}

fn public_key((modulus, exponent): (Vec<u8>, Vec<u8>)) -> Result<PublicKey> {
    PublicKey::from_numbers(&modulus, &exponent)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
