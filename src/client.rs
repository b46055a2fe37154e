//! The asking half of psi-serve's socket, for psi-setup and psi-cachectl.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::mapping::ProviderName;
use crate::secret::{LocalName, SecretName, SecretValue};
use crate::systemd::Credentials;
use crate::unix_http;
use crate::wire::{
    Check, Checked, Failure, HandOver, HandedOver, Init, Initialised, Invalidate, Invalidated,
    Prune, Pruned, PutLocal, RemovedLocal, Slots, SlotsChanged, Verified, to_secret_json,
};

/// Between two questions after a cache that is being opened.
const OPENING_PAUSE: Duration = Duration::from_secs(2);

/// How long psi-serve may be away, e.g. while it is started again.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long one request may take: opening the cache, a commit, a slow disk.
const REQUEST_LIFE: Duration = Duration::from_secs(120);

/// Largest answer, in bytes.
const MAX_ANSWER: usize = 64 << 20;

/// The body, or the status and the failure that psi-serve gave.
type Answered = Result<Zeroizing<Vec<u8>>, (StatusCode, Failure)>;

/// Asks psi-serve.
pub struct Client {
    socket: PathBuf,
    token: Option<SecretValue>,
    patience: Duration,
    http: reqwest::Client,
}

impl Client {
    /// For the socket and the token that `config` and systemd's credentials give.
    ///
    /// # Errors
    /// If the token's credential can't be read.
    pub fn of(config: &Config) -> Result<Self> {
        let credential = Credentials::from_env().socket_token_or_open()?;
        let configured = || config.socket_token.as_ref().map(SecretValue::copy);
        let token = credential.map(|token| token.current).or_else(configured);
        Self::new(&config.socket, token)
    }

    /// For `socket`.
    ///
    /// # Errors
    /// [`Kind::Internal`] if there can be no HTTP client.
    pub fn new(socket: &Path, token: Option<SecretValue>) -> Result<Self> {
        Ok(Self {
            socket: socket.to_owned(),
            token,
            patience: PATIENCE,
            http: unix_http::client(socket, REQUEST_LIFE)?,
        })
    }

    /// Waits this long for a psi-serve that does not answer.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Hands over what `provider` has. Nothing is returned if psi-serve keeps no cache; otherwise
    /// it is on disk.
    ///
    /// # Errors
    /// [`Kind::Unreachable`] if psi-serve does not answer or its cache is closed, else what it says.
    pub async fn hand_over(
        &self,
        provider: ProviderName,
        hand_over: &HandOver,
    ) -> Result<Option<HandedOver>> {
        let body = hand_over.to_json()?;
        let path = format!("/cache/{provider}");
        match self.ask(Method::POST, &path, body.as_bytes()).await? {
            Ok(bytes) => self.parse(&bytes).map(Some),
            Err((_, failure)) if failure.error == "not_cached" => Ok(None),
            Err((status, failure)) => Err(refused(status, failure)),
        }
    }

    /// Which values are sealed in the cache.
    ///
    /// # Errors
    /// As [`Client::hand_over`].
    pub async fn check(&self, check: &Check) -> Result<Checked> {
        self.post("/cache/check", check).await
    }

    /// Drops what the providers no longer have and nobody is to keep.
    ///
    /// # Errors
    /// As [`Client::hand_over`]. Nothing is dropped then.
    pub async fn prune(&self, prune: &Prune) -> Result<Pruned> {
        self.post("/cache/prune", prune).await
    }

    /// The value that `name` stands for, as Podman's driver would get it.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if nothing has that name, [`Kind::Unreachable`] if its provider does not
    /// give it, else as [`Client::hand_over`].
    pub async fn lookup(&self, name: &SecretName) -> Result<SecretValue> {
        let mut value = self.get(&format!("/lookup/{name}")).await?;
        Ok(SecretValue::new(std::mem::take(&mut *value)))
    }

    /// Drops one value.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if nothing has that id, else as [`Client::hand_over`].
    pub async fn invalidate(&self, invalidate: &Invalidate) -> Result<Invalidated> {
        self.post("/cache/invalidate", invalidate).await
    }

    /// Keeps `value` as the local value `name`; it is on disk then.
    ///
    /// # Errors
    /// [`Kind::Refused`] if it can't be kept, [`Kind::Unreachable`] if the cache is closed, else as
    /// [`Client::hand_over`].
    pub async fn put_local(&self, name: &LocalName, value: &SecretValue) -> Result<PutLocal> {
        let answer = self.ask(Method::PUT, &local(name), value.expose()).await?;
        self.parse(&answer.map_err(|(status, failure)| refused(status, failure))?)
    }

    /// Removes the local value `name`.
    ///
    /// # Errors
    /// As [`Client::put_local`].
    pub async fn remove_local(&self, name: &LocalName) -> Result<RemovedLocal> {
        let answer = self.ask(Method::DELETE, &local(name), &[]).await?;
        self.parse(&answer.map_err(|(status, failure)| refused(status, failure))?)
    }

    /// Has the cache's file read and authenticated again.
    ///
    /// # Errors
    /// [`Kind::Damaged`] if it is not what was saved, else as [`Client::hand_over`].
    pub async fn verify(&self) -> Result<Verified> {
        self.post("/cache/verify", &()).await
    }

    /// Has an empty cache made. Nothing is returned, and nothing was changed, if a credential is to
    /// seal it and psi-serve has none. It is asked once only, as for [`Client::slots`]: a cache that
    /// was made is not to be refused as existing.
    ///
    /// # Errors
    /// [`Kind::Refused`] if there is one and no `force`, else as [`Client::hand_over`].
    pub async fn init(&self, init: &Init) -> Result<Option<Initialised>> {
        let body = to_secret_json(init)?;
        match self.ask_once(Method::POST, "/cache/init", &body).await {
            Ok(Ok(bytes)) => self.parse(&bytes).map(Some).map_err(answer_lost),
            Ok(Err((_, failure))) if failure.error == "no_key" => Ok(None),
            Ok(Err((status, failure))) => Err(refused(status, failure)),
            Err(error) => Err(answer_lost(error)),
        }
    }

    /// Has the cache's slots changed or tried. It is asked once only: a change that was made is not
    /// to be made twice.
    ///
    /// # Errors
    /// As [`Client::hand_over`].
    pub async fn slots(&self, slots: &Slots) -> Result<SlotsChanged> {
        let body = to_secret_json(slots)?;
        match self.ask_once(Method::POST, "/cache/slots", &body).await {
            Ok(Ok(bytes)) => self.parse(&bytes).map_err(answer_lost),
            Ok(Err((status, failure))) => Err(refused(status, failure)),
            Err(error) => Err(answer_lost(error)),
        }
    }

    /// The ids and names that have a mapping.
    ///
    /// # Errors
    /// As [`Client::hand_over`].
    pub async fn list(&self) -> Result<Vec<String>> {
        let bytes = self.get("/list").await?;
        let text = String::from_utf8_lossy(&bytes);
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// psi-serve's account of itself.
    ///
    /// # Errors
    /// As [`Client::hand_over`].
    pub async fn status(&self) -> Result<serde_json::Value> {
        let bytes = self.get("/status").await?;
        self.parse(&bytes)
    }

    /// Whether psi-serve can answer lookups. A cache that is being opened is waited for, up to
    /// `patience`; a psi-serve that does not answer is not.
    ///
    /// # Errors
    /// Why it can't.
    pub async fn health(&self, patience: Duration) -> Result<()> {
        let start = Instant::now();
        loop {
            match self.ask_once(Method::GET, "/healthz", &[]).await? {
                Ok(_) => return Ok(()),
                Err((_, failure))
                    if failure.error == "opening"
                        && start.elapsed() + OPENING_PAUSE <= patience =>
                {
                    tokio::time::sleep(OPENING_PAUSE).await;
                }
                Err((status, failure)) => return Err(refused(status, failure)),
            }
        }
    }

    async fn get(&self, path: &str) -> Result<Zeroizing<Vec<u8>>> {
        let answer = self.ask(Method::GET, path, &[]).await?;
        answer.map_err(|(status, failure)| refused(status, failure))
    }

    async fn post<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T> {
        let body = to_secret_json(body)?;
        match self.ask(Method::POST, path, &body).await? {
            Ok(bytes) => self.parse(&bytes),
            Err((status, failure)) => Err(refused(status, failure)),
        }
    }

    fn parse<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T> {
        serde_json::from_slice(bytes).map_err(|_| self.nonsense())
    }

    fn nonsense(&self) -> Error {
        let what = format!("{} gives an answer that is none", self.socket.display());
        Error::new(Kind::BadAnswer, what)
            .hint("psi-serve must be of the same version: `systemctl restart psi-secrets.service`")
    }

    /// One answer. A psi-serve that is away is waited for: these requests may be repeated.
    async fn ask(&self, method: Method, path: &str, body: &[u8]) -> Result<Answered> {
        let start = Instant::now();
        let mut pause = Duration::from_millis(20);
        loop {
            let outcome = self.ask_once(method.clone(), path, body).await;
            let again = match &outcome {
                Err(error) => error.kind() == Kind::Unreachable,
                Ok(Err((status, _))) => *status == StatusCode::SERVICE_UNAVAILABLE,
                Ok(Ok(_)) => false,
            };
            if !again || start.elapsed() + pause > self.patience {
                return outcome;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    async fn ask_once(&self, method: Method, path: &str, body: &[u8]) -> Result<Answered> {
        let mut request = self.http.request(method, format!("http://psi{path}"));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose_str().unwrap_or_default());
        }
        if !body.is_empty() {
            let body = Zeroizing::new(body.to_vec());
            request = request.body(Bytes::from_owner(body));
        }
        let mut answer = request.send().await.map_err(|e| self.unreachable(e))?;
        let status = answer.status();
        let expected = answer.content_length().unwrap_or(0).min(MAX_ANSWER as u64);
        let mut bytes = Zeroizing::new(Vec::with_capacity(expected as usize));
        while let Some(chunk) = answer.chunk().await.map_err(|e| self.unreachable(e))? {
            if bytes.len() + chunk.len() > MAX_ANSWER {
                return Err(self.nonsense());
            }
            bytes.extend_from_slice(&chunk);
        }
        if status.is_success() {
            return Ok(Ok(bytes));
        }
        let failure = self.parse(&bytes)?;
        Ok(Err((status, failure)))
    }

    fn unreachable(&self, error: reqwest::Error) -> Error {
        let what = format!("psi-serve does not answer on {}", self.socket.display());
        Error::new(Kind::Unreachable, what)
            .because(error.without_url())
            .hint("`systemctl status psi-secrets.socket psi-secrets.service` shows why")
    }
}

/// A change that psi-serve gave no answer to may have been made; a new recovery key was in the
/// answer and nowhere else.
fn answer_lost(error: Error) -> Error {
    error.hint(
        "`systemctl status psi-secrets.service` shows why, `psi-cachectl slots list` whether it was \
         done: a recovery slot with a new date has a key that nobody has, and `psi-cachectl slots \
         reseal` with its number makes another one",
    )
}

/// A name needs no escaping.
fn local(name: &LocalName) -> String {
    format!("/local/{name}")
}

fn refused(status: StatusCode, failure: Failure) -> Error {
    let kind = match failure.error.as_str() {
        "unauthorized" | "forbidden" | "denied" => Kind::Denied,
        "no_mapping" | "not_found" => Kind::NotFound,
        "damaged" | "corrupt_mapping" => Kind::Damaged,
        "configuration" => Kind::Config,
        "cache_closed" | "unhealthy" | "opening" | "provider_failed" => Kind::Unreachable,
        _ if status.is_client_error() => Kind::Refused,
        _ => Kind::Io,
    };
    let error = Error::new(kind, failure.detail);
    match failure.hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}
