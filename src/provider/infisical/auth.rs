//! The access token: one login for all who share it, kept in memory only, never renewed.
//!
//! Infisical deletes a token whose renewal it refuses, and with its default settings it refuses
//! every one. A new login is always safe.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::header::HeaderValue;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::answer::Failure;
use super::api::{Granted, Server};
use crate::config::Auth;
use crate::error::{Error, Kind, Result};
use crate::provider::FindCredential;
use crate::secret::SecretValue;

/// How long before its end a token is given up at most; a tenth of its life if that is less.
const MARGIN: Duration = Duration::from_secs(30);

/// How long a login that was denied is not tried again: newer servers lock a client out after a
/// few.
const DENIAL_MEMORY: Duration = Duration::from_secs(30);

/// An access token.
pub struct Token {
    value: SecretValue,
    fresh_until: Instant,
}

impl Token {
    fn new(granted: Granted, asked: Instant, ttl: Duration) -> Self {
        let life = Duration::from_secs(granted.expires_in);
        let usable = life.saturating_sub(MARGIN.min(life / 10));
        Self {
            value: granted.access_token,
            // A life that no clock can hold is one that has ended: only a new login is lost.
            fresh_until: asked.checked_add(usable.min(ttl)).unwrap_or(asked),
        }
    }

    /// The `authorization` header.
    pub fn authorization(&self) -> Result<HeaderValue, Failure> {
        let text = Zeroizing::new([b"Bearer ", self.value.expose()].concat());
        let mut header = HeaderValue::from_bytes(&text).map_err(|_| unusable_token())?;
        header.set_sensitive(true);
        Ok(header)
    }
}

fn unusable_token() -> Failure {
    Failure::Final(
        Error::new(Kind::BadAnswer, "the login gave a token that can't be sent")
            .hint("check that providers.infisical.api_url leads to Infisical"),
    )
}

/// A way to log in, shared by the projects that have it in common.
pub struct Login {
    auth: Arc<Auth>,
    credential: Result<Option<SecretValue>>,
    config_file: PathBuf,
    ttl: Duration,
    state: Mutex<State>,
}

/// What the last login gave.
#[derive(Default)]
struct State {
    token: Option<Arc<Token>>,
    failed: Option<(Instant, Failure)>,
}

impl State {
    /// A failure that counts for someone who wanted a token at `asked`: he waited for that very
    /// login, or it was denied a moment ago.
    fn failure(&self, asked: Instant) -> Option<Failure> {
        let (ended, failure) = self.failed.as_ref()?;
        let is_denial = matches!(failure, Failure::Final(_));
        let counts = *ended >= asked || (is_denial && ended.elapsed() < DENIAL_MEMORY);
        counts.then(|| failure.again())
    }
}

impl Login {
    /// Looks for the client secret among the credentials. What goes wrong with that is an error
    /// of the logins, so that other projects are not affected. Tokens are reused for `ttl`.
    pub fn new(
        auth: &Arc<Auth>,
        config_file: &Path,
        ttl: Duration,
        credentials: FindCredential<'_>,
    ) -> Self {
        Self {
            auth: Arc::clone(auth),
            credential: find_credential(auth, credentials),
            config_file: config_file.to_owned(),
            ttl,
            state: Mutex::default(),
        }
    }

    /// Whether it is the login of `auth`.
    pub fn is_of(&self, auth: &Arc<Auth>) -> bool {
        Arc::ptr_eq(&self.auth, auth)
    }

    /// A token, which is not `rejected`. Logs in if there is no fresh one; whoever asks meanwhile
    /// waits for that login and shares its outcome.
    pub async fn token(
        &self,
        server: &Server,
        rejected: Option<&Arc<Token>>,
    ) -> Result<Arc<Token>, Failure> {
        let asked = Instant::now();
        let mut state = self.state.lock().await;
        let usable = |token: &&Arc<Token>| {
            token.fresh_until > Instant::now() && !rejected.is_some_and(|r| Arc::ptr_eq(r, token))
        };
        if let Some(token) = state.token.as_ref().filter(usable) {
            return Ok(Arc::clone(token));
        }
        if let Some(failure) = state.failure(asked) {
            return Err(failure);
        }
        *state = State::default();
        match self.log_in(server).await {
            Ok(token) => {
                let token = Arc::new(token);
                state.token = Some(Arc::clone(&token));
                Ok(token)
            }
            Err(failure) => {
                state.failed = Some((Instant::now(), failure.again()));
                Err(failure)
            }
        }
    }

    async fn log_in(&self, server: &Server) -> Result<Token, Failure> {
        let (client_id, secret) = self.client().map_err(Failure::Final)?;
        let asked = Instant::now();
        let granted = server
            .log_in(client_id, secret)
            .await
            .map_err(|f| denied(client_id, f))?;
        if granted.access_token.expose().is_empty() {
            return Err(unusable_token());
        }
        Ok(Token::new(granted, asked, self.ttl))
    }

    /// The client id and secret, or why there are none.
    fn client(&self) -> Result<(&str, &str)> {
        let (client_id, configured, credentials) = match &*self.auth {
            Auth::Universal {
                client_id,
                client_secret,
                credentials,
            } => (client_id, client_secret, credentials),
            Auth::NotBuilt { method } => return Err(self.not_built(method)),
        };
        let credential = self.credential.as_ref().map_err(Error::again)?;
        let secret = credential
            .as_ref()
            .or(configured.as_ref())
            .and_then(text)
            .ok_or_else(|| self.no_secret(client_id, credentials))?;
        Ok((client_id, secret))
    }

    fn not_built(&self, method: &str) -> Error {
        let what = format!("the login {method} can't be used in this version");
        Error::new(Kind::Config, what).hint(format!(
            "use `method: universal-auth` in {}",
            self.config_file.display()
        ))
    }

    fn no_secret(&self, client_id: &str, credentials: &[String]) -> Error {
        let name = credentials.join(" or ");
        let file = self.config_file.display();
        let what = format!(
            "the client id {client_id} has no client secret (text that is not empty): \
             neither in the systemd credential {name} nor as `client_secret` in {file}"
        );
        let first = credentials.first().map_or("NAME", String::as_str);
        Error::new(Kind::Config, what).hint(format!(
            "store it with `systemd-creds encrypt --tpm2-pcrs= --name={first} - /etc/credstore.encrypted/{first}`"
        ))
    }
}

fn find_credential(auth: &Auth, find: FindCredential<'_>) -> Result<Option<SecretValue>> {
    let Auth::Universal { credentials, .. } = auth else {
        return Ok(None);
    };
    for name in credentials {
        if let Some(secret) = find(name)? {
            return Ok(Some(secret));
        }
    }
    Ok(None)
}

/// A secret's text, less the blanks around it, which the server cuts off too.
fn text(secret: &SecretValue) -> Option<&str> {
    secret
        .expose_str()
        .map(str::trim)
        .filter(|text| !text.is_empty())
}

/// At a login there is no token to be rejected, and what is not found is the client id.
fn denied(client_id: &str, failure: Failure) -> Failure {
    let cause = match failure {
        Failure::TokenRejected(error) => error,
        Failure::Final(error) if matches!(error.kind(), Kind::NotFound | Kind::Denied) => error,
        Failure::NoRoute(error) => return Failure::Final(error),
        other => return other,
    };
    let what = format!("the client id {client_id} and its secret can't log in");
    Failure::Final(Error::new(Kind::Denied, what).because(cause).hint(
        "check client_id, and in Infisical that the client secret has not expired and this host's address is trusted",
    ))
}
