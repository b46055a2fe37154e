//! Infisical's HTTP API: which request, how it is bounded, and what came back.
//!
//! `/api/v4/secrets` where the server has it, `/api/v3/secrets/raw` where it has not.

use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use hyper::body::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use reqwest::{Certificate, Client, RequestBuilder, Response, Url, redirect};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::answer::{self, Failure};
use crate::config;
use crate::error::{Error, Kind, Result};
use crate::secret::SecretValue;

/// How long one attempt may take in all: as long as Infisical itself keeps a silent connection.
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the connection of an attempt may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an unused connection is kept: less than the server's 72 seconds.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Largest answer, in bytes: some 30,000 secrets of ordinary size. The server has no limit.
const MAX_ANSWER: usize = 16 << 20;

/// The versions of the API that have secrets by plain value.
#[derive(Clone, Copy)]
enum Version {
    V4,
    V3,
}

impl Version {
    fn route(self) -> &'static [&'static str] {
        match self {
            Self::V4 => &["api", "v4", "secrets"],
            Self::V3 => &["api", "v3", "secrets", "raw"],
        }
    }

    fn project_parameter(self) -> &'static str {
        match self {
            Self::V4 => "projectId",
            Self::V3 => "workspaceId",
        }
    }
}

/// What to ask for.
pub struct Query<'a> {
    /// The project's id at the server.
    pub project_id: &'a str,
    /// The environment's slug.
    pub environment: &'a str,
    /// The folder, normalised: the server answers other spellings with an empty list.
    pub path: &'a str,
    /// All of the folder, or one secret.
    pub what: What<'a>,
}

/// What to ask for in a folder.
pub enum What<'a> {
    /// Its secrets.
    Listing {
        /// Those of the folders below as well.
        recursive: bool,
    },
    /// The secret of that name, its own or an imported one.
    Secret(&'a str),
}

/// A login's answer.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Granted {
    /// The access token.
    pub access_token: SecretValue,
    /// How long it is good for, in seconds. The token's own `exp` is later and means nothing.
    pub expires_in: u64,
}

/// One server, and what is known of it.
pub struct Server {
    client: Client,
    base: Url,
    version: OnceLock<Version>,
}

impl Server {
    /// The server of `settings`; `ca_cert` is trusted besides the system's roots. Asks nothing
    /// yet; an attempt may take `timeout`.
    ///
    /// # Errors
    /// [`Kind::Config`] if the trust root can't be read, the system has none, or the address is
    /// none.
    pub fn new(
        settings: &config::Infisical,
        ca_cert: Option<&Path>,
        timeout: Duration,
    ) -> Result<Self> {
        let base = Url::parse(&settings.api_url)
            .ok()
            .filter(|url| !url.cannot_be_a_base())
            .ok_or_else(|| {
                Error::new(Kind::Config, "providers.infisical.api_url is not a URL")
                    .hint("e.g. https://infisical.example.com")
            })?;
        let roots = ca_cert.map_or_else(|| Ok(Vec::new()), read_certificates)?;
        let client = Client::builder()
            .user_agent(concat!("psi/", env!("CARGO_PKG_VERSION")))
            // A token goes to the configured server and nowhere else.
            .redirect(redirect::Policy::none())
            .referer(false)
            .no_proxy()
            .tls_certs_merge(roots)
            .tls_danger_accept_invalid_certs(!settings.verify_ssl)
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(timeout)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build()
            .map_err(|e| no_tls(ca_cert, e))?;
        Ok(Self {
            client,
            base,
            version: OnceLock::new(),
        })
    }

    /// Logs in with a client id and secret.
    pub async fn log_in(&self, client_id: &str, secret: &str) -> Result<Granted, Failure> {
        let url = self.url(&["api", "v1", "auth", "universal-auth", "login"])?;
        let at = url.to_string();
        let request = self
            .client
            .post(url)
            .header(CONTENT_TYPE, "application/json")
            .body(login_body(client_id, secret)?);
        let body = send(&at, request).await?;
        answer::parse(&at, &body)
    }

    /// Asks `query` with the token's `authorization` header. The version of the API that gave an
    /// answer is remembered.
    pub async fn fetch<T: DeserializeOwned>(
        &self,
        query: &Query<'_>,
        authorization: &HeaderValue,
    ) -> Result<T, Failure> {
        if let Some(version) = self.version.get() {
            return self.fetch_from(*version, query, authorization).await;
        }
        let (version, answer) = match self.fetch_from(Version::V4, query, authorization).await {
            Err(Failure::NoRoute(_)) => {
                let older = self.fetch_from(Version::V3, query, authorization);
                (Version::V3, older.await?)
            }
            answer => (Version::V4, answer?),
        };
        let _ = self.version.set(version);
        Ok(answer)
    }

    async fn fetch_from<T: DeserializeOwned>(
        &self,
        version: Version,
        query: &Query<'_>,
        authorization: &HeaderValue,
    ) -> Result<T, Failure> {
        let mut url = self.query_url(version, query)?;
        let request = self
            .client
            .get(url.clone())
            .header(AUTHORIZATION, authorization);
        url.set_query(None);
        let body = send(url.as_str(), request).await?;
        answer::parse(url.as_str(), &body)
    }

    fn query_url(&self, version: Version, query: &Query<'_>) -> Result<Url, Failure> {
        let mut url = match query.what {
            What::Listing { .. } => self.url(version.route())?,
            What::Secret(name) => self.url(&[version.route(), &[name]].concat())?,
        };
        let mut parameters = url.query_pairs_mut();
        parameters
            .append_pair(version.project_parameter(), query.project_id)
            .append_pair("environment", query.environment)
            .append_pair("secretPath", query.path)
            .append_pair("include_imports", "true")
            .append_pair("includeImports", "true")
            .append_pair("expandSecretReferences", "true")
            .append_pair("viewSecretValue", "true");
        if let What::Listing { recursive } = query.what {
            parameters.append_pair("recursive", if recursive { "true" } else { "false" });
        }
        drop(parameters);
        Ok(url)
    }

    /// The address of `route` below the configured one, each part percent-encoded.
    fn url(&self, route: &[&str]) -> Result<Url, Failure> {
        let mut url = self.base.clone();
        match url.path_segments_mut() {
            Ok(mut segments) => segments.pop_if_empty().extend(route),
            Err(()) => return Err(internal("the server's address takes no path")),
        };
        Ok(url)
    }
}

/// Whether a secret of that name can be asked for: a URL has no place for the others.
pub fn is_addressable(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.chars().any(char::is_control)
}

fn internal(what: &str) -> Failure {
    Failure::Final(Error::new(Kind::Internal, what).hint("report this as a fault of PSI"))
}

fn read_certificates(path: &Path) -> Result<Vec<Certificate>> {
    let wrong = |why: &str| {
        let what = format!("ca_cert {} {why}", path.display());
        Error::new(Kind::Config, what)
            .hint("ca_cert names a file with one or more certificates in PEM")
    };
    let pem = std::fs::read(path).map_err(|e| wrong("can't be read").because(e))?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(wrong("holds no certificate")),
    }
}

fn no_tls(ca_cert: Option<&Path>, error: reqwest::Error) -> Error {
    match ca_cert {
        Some(path) => {
            let what = format!("ca_cert {} can't be used", path.display());
            Error::new(Kind::Config, what)
                .because(error)
                .hint("ca_cert names a file with one or more certificates in PEM")
        }
        None => Error::new(Kind::Config, "the system's trust store can't be used")
            .because(error)
            .hint("install the package ca-certificates"),
    }
}

/// The JSON of a login, in memory that is wiped once it is sent.
fn login_body(client_id: &str, secret: &str) -> Result<Bytes, Failure> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Login<'a> {
        client_id: &'a str,
        client_secret: &'a str,
    }
    // An escaped character takes six bytes at most, so the text is never moved while it grows.
    let mut json = Zeroizing::new(Vec::with_capacity(
        64 + 6 * (client_id.len() + secret.len()),
    ));
    let login = Login {
        client_id,
        client_secret: secret,
    };
    serde_json::to_writer(&mut *json, &login).map_err(|_| internal("a login has no JSON"))?;
    Ok(Bytes::from_owner(json))
}

/// The body of a 200. `at` is the URL without its query.
async fn send(at: &str, request: RequestBuilder) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let response = request.send().await.map_err(|e| unreachable(at, e))?;
    let status = response.status().as_u16();
    if status == 200 {
        return read_body(at, response).await;
    }
    let wait = retry_after(&response);
    // Only these have something in the body that tells them apart.
    let body = match status {
        400..=404 | 422 => read_body(at, response).await?,
        _ => Zeroizing::default(),
    };
    Err(answer::sort(at, status, wait, &body))
}

/// Infisical gives seconds; a date is taken for nothing.
fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}

/// Reads an answer up to the limit, into memory that is wiped.
async fn read_body(at: &str, mut response: Response) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let announced = response.content_length().unwrap_or_default();
    if announced > MAX_ANSWER as u64 {
        return Err(too_large(at));
    }
    let mut body = Zeroizing::new(Vec::with_capacity(announced as usize));
    while let Some(chunk) = response.chunk().await.map_err(|e| unreachable(at, e))? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(too_large(at));
        }
        append(&mut body, &chunk);
    }
    Ok(body)
}

/// Appends without leaving a copy behind where a growing vector moves.
fn append(body: &mut Zeroizing<Vec<u8>>, chunk: &[u8]) {
    let size = body.len() + chunk.len();
    if size > body.capacity() {
        let mut larger = Zeroizing::new(Vec::with_capacity(2 * size));
        larger.extend_from_slice(body);
        *body = larger;
    }
    body.extend_from_slice(chunk);
}

fn too_large(at: &str) -> Failure {
    let what = format!("{at} answers with more than {} MiB", MAX_ANSWER >> 20);
    Failure::Final(
        Error::new(Kind::Refused, what)
            .hint("split the secrets over several folders, each a source without `recursive`"),
    )
}

/// No answer, or none that came to its end. The error's own URL has the query in it.
fn unreachable(at: &str, error: reqwest::Error) -> Failure {
    let error = error.without_url();
    let what = match error.is_timeout() {
        true => format!("{at} gave no whole answer in time"),
        false => format!("{at} can't be reached"),
    };
    let hint = match mentions_certificate(&error) {
        true => {
            "if a private authority issued the server's certificate, name its root as providers.infisical.ca_cert".to_owned()
        }
        false => format!("see whether the server is up and this host can reach it: `curl -sS {at}`"),
    };
    Failure::transient(
        Error::new(Kind::Unreachable, what)
            .because(error)
            .hint(hint),
    )
}

fn mentions_certificate(error: &reqwest::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if error.to_string().contains("certificate") {
            return true;
        }
        cause = error.source();
    }
    false
}
