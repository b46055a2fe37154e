//! `nitrokeyhsm`: values that were sealed for the key on a token, e.g. a Nitrokey HSM 2. A mapping has
//! the sealed value in it, and the token opens it with one operation.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::config::NitrokeyHsm as Configured;
use crate::error::{Error, Kind, Result};
use crate::hybrid;
use crate::mapping::Mapping;
use crate::pkcs11::{Pin, Settings, Token};
use crate::protector::Key;
use crate::provider::{Answer, Discovered, Provider, Source};
use crate::secret::SecretValue;
use crate::systemd::Credentials;

/// How long a token is waited for that has never answered: it has to be found and logged in first. It
/// counts from the first time that it is asked, so that one that never answers delays only those who
/// ask in that time.
const FIRST_PATIENCE: Duration = Duration::from_secs(60);

/// How long the token's thread may wait with what it was asked.
const PATIENCE: Duration = Duration::from_secs(60);

/// Opens what was sealed for a token.
pub struct NitrokeyHsm {
    token: Token,
    first_asked: OnceLock<Instant>,
    has_answered: AtomicBool,
}

impl NitrokeyHsm {
    /// The token that is configured. Nothing is asked of it yet.
    pub fn open(settings: &Configured) -> Self {
        let pin = Pin::delivered(Credentials::from_env(), settings.pin.as_ref());
        Self {
            token: Token::new(Settings::new(settings, pin)),
            first_asked: OnceLock::new(),
            has_answered: AtomicBool::new(false),
        }
    }

    async fn value(&self, mapping: &Mapping) -> Result<SecretValue> {
        let mut envelope = envelope(mapping)?;
        let wrapped = envelope[hybrid::wrapped_key(&envelope)?].to_vec();
        let key = self.token.decrypt_async(&wrapped, PATIENCE).await?;
        self.has_answered.store(true, Ordering::Relaxed);
        let key = Key::from_bytes(&key).ok_or_else(not_a_key)?;
        let plain = hybrid::open(&mut envelope, |_| Ok(key))?;
        // In place, so that there is no second copy.
        envelope.truncate(plain.end);
        envelope.drain(..plain.start);
        Ok(SecretValue::new(envelope))
    }
}

/// The sealed value in `mapping`.
fn envelope(mapping: &Mapping) -> Result<Vec<u8>> {
    let blob = mapping.get("blob").map(|blob| BASE64.decode(blob));
    match blob {
        Some(Ok(envelope)) => Ok(envelope),
        Some(Err(_)) => Err(unusable("its `blob` is not base64")),
        None => Err(unusable("it has no `blob`")),
    }
}

fn unusable(why: &str) -> Error {
    Error::new(
        Kind::Damaged,
        format!("the mapping holds nothing that was sealed for a token: {why}"),
    )
    .hint("`psi-hsm store NAME` stores the value anew, `systemctl restart psi-nitrokeyhsm-setup.service` registers it")
}

fn not_a_key() -> Error {
    Error::new(Kind::Damaged, "what the token has decrypted is no AES key")
        .hint("`psi-hsm store NAME` stores the value anew, `systemctl restart psi-nitrokeyhsm-setup.service` registers it")
}

impl Provider for NitrokeyHsm {
    fn discover<'a>(&'a self, _: &'a Source, _: Instant) -> Answer<'a, Vec<Discovered>> {
        let what = "provider nitrokeyhsm has no folders to list";
        let error = Error::new(Kind::Config, what)
            .hint("list single keys: secrets: [{key: db-password, as: DB_PASSWORD}]");
        Box::pin(async { Err(error) })
    }

    fn lookup<'a>(&'a self, mapping: &'a Mapping) -> Answer<'a, SecretValue> {
        Box::pin(self.value(mapping))
    }

    fn patience(&self) -> Duration {
        if self.has_answered.load(Ordering::Relaxed) {
            return Duration::ZERO;
        }
        let since = self.first_asked.get_or_init(Instant::now);
        FIRST_PATIENCE.saturating_sub(since.elapsed())
    }
}
