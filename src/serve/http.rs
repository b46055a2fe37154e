//! The routes of the socket: who may ask what, and how each outcome is answered.
//!
//! Values are answered as raw bytes, nothing added or trimmed. Errors are JSON, see
//! [`Failure`]. The path is not percent-decoded.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, HeaderMap};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use tracing::{info, warn};
use zeroize::Zeroizing;

use crate::error::{Error, Kind, Result};
use crate::mapping::{MAX_MAPPING, ProviderName};
use crate::secret::{SecretId, SecretName, quote_name};
use crate::serve::Server;
use crate::serve::access::Peer;
use crate::serve::lookup::{Missing, OPENING_PATIENCE};
use crate::wire::{
    Check, Checked, CheckedId, Failure, Init, Initialised, Invalidate, Invalidated, MAX_HAND_OVER,
    Verified,
};

/// How long a request's body may take.
const BODY_PATIENCE: Duration = Duration::from_secs(30);

/// Largest body of the small JSON requests, in bytes: a check of some ten thousand mappings.
const MAX_QUESTION: usize = 16 << 20;

type Answer = Response<Full<Bytes>>;

/// An error with the status and the code that it is answered with.
struct Refusal {
    status: StatusCode,
    code: &'static str,
    detail: String,
    hint: Option<String>,
}

impl Refusal {
    fn new(status: StatusCode, code: &'static str, error: &Error) -> Self {
        Self {
            status,
            code,
            detail: error.to_string(),
            hint: error.next_step().map(str::to_owned),
        }
    }

    fn said(status: StatusCode, code: &'static str, detail: &str, hint: &str) -> Self {
        Self {
            status,
            code,
            detail: detail.to_owned(),
            hint: Some(hint.to_owned()),
        }
    }

    fn into_answer(self) -> Answer {
        let failure = Failure {
            error: self.code.to_owned(),
            detail: self.detail,
            hint: self.hint,
        };
        let mut answer = json(&failure);
        *answer.status_mut() = self.status;
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            let allowed = hyper::header::HeaderValue::from_static("GET, POST, DELETE");
            answer.headers_mut().insert(ALLOW, allowed);
        }
        answer
    }
}

/// Operations on the cache and the store: by what helps the caller.
impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let (status, code) = match error.kind() {
            Kind::Usage => (StatusCode::BAD_REQUEST, "bad_request"),
            Kind::Refused => (StatusCode::CONFLICT, "refused"),
            Kind::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            Kind::Damaged => (StatusCode::INTERNAL_SERVER_ERROR, "damaged"),
            Kind::Unreachable => (StatusCode::INTERNAL_SERVER_ERROR, "cache_closed"),
            Kind::Config => (StatusCode::INTERNAL_SERVER_ERROR, "configuration"),
            _ => (StatusCode::INTERNAL_SERVER_ERROR, "failed"),
        };
        Self::new(status, code, &error)
    }
}

impl Refusal {
    fn missing(name: &str, missing: &Missing) -> Self {
        match missing {
            Missing::NoMapping => Self::said(
                StatusCode::NOT_FOUND,
                "no_mapping",
                &format!("no secret is registered as {}", quote_name(name)),
                "`psi-setup` registers what is missing; `podman secret ls` shows what Podman knows",
            ),
            Missing::Unusable(error) if error.kind() == Kind::Damaged => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "corrupt_mapping", error)
            }
            Missing::Unusable(error) => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "unreadable_mapping",
                error,
            ),
            Missing::Provider(error) if error.kind() == Kind::Config => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "configuration", error)
            }
            Missing::Provider(error) => {
                let mut refusal = Self::new(StatusCode::BAD_GATEWAY, "provider_failed", error);
                refusal.hint.get_or_insert_with(|| {
                    "the cache does not have this value: `psi-setup` fetches it once the provider answers".to_owned()
                });
                refusal
            }
        }
    }
}

/// Answers one request of `peer`.
pub async fn answer(server: Arc<Server>, peer: Peer, request: Request<Incoming>) -> Answer {
    let what = format!("{} {}", request.method(), request.uri().path());
    route(&server, peer, request)
        .await
        .unwrap_or_else(|refusal| {
            warn!(
                "{} (uid {}) answered {}: {}",
                what.escape_default(),
                peer.uid,
                refusal.status.as_u16(),
                refusal.detail
            );
            refusal.into_answer()
        })
}

async fn route(
    server: &Arc<Server>,
    peer: Peer,
    request: Request<Incoming>,
) -> Result<Answer, Refusal> {
    // With the query: an id that has one is no id.
    let path = request
        .uri()
        .path_and_query()
        .map(|path| path.as_str().to_owned());
    let path = path.unwrap_or_default();
    let mut parts = path.strip_prefix('/').unwrap_or_default().splitn(2, '/');
    let (first, rest) = (parts.next().unwrap_or_default(), parts.next());
    let method = request.method().clone();
    if (&method, first, rest) == (&Method::GET, "healthz", None) {
        return healthz(server);
    }
    let authorised = authorise(server, peer, request.headers())?;
    match (method.clone(), first, rest) {
        (Method::GET, "lookup", Some(id)) => lookup(server, id).await,
        (Method::GET, "status", None) => Ok(json(&server.status())),
        (Method::GET, "list", None) => {
            authorised.to_write()?;
            list(server).await
        }
        (Method::POST, "store", Some(id)) => {
            authorised.to_write()?;
            store(server, id, request.into_body()).await
        }
        (Method::DELETE, "delete", Some(id)) => {
            authorised.to_write()?;
            delete(server, id).await
        }
        (Method::POST, "cache", Some(operation)) => {
            authorised.to_write()?;
            cache(server, operation, request.into_body()).await
        }
        (_, "lookup" | "store" | "delete", Some(_))
        | (_, "healthz" | "status" | "list", None)
        | (_, "cache", Some(_)) => Err(Refusal::said(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            &format!("{method} is not for this path"),
            "psi-secret(1) and psi-cachectl(1) ask in the right way",
        )),
        _ => Err(Refusal::said(
            StatusCode::NOT_FOUND,
            "not_found",
            "there is no such path",
            "psi-secret(1) and psi-cachectl(1) ask in the right way",
        )),
    }
}

/// What a caller may do who is allowed to look up.
struct Authorised {
    writes: bool,
}

impl Authorised {
    fn to_write(&self) -> Result<(), Refusal> {
        if self.writes {
            return Ok(());
        }
        Err(Refusal::said(
            StatusCode::FORBIDDEN,
            "forbidden",
            "only root and psi-serve's own user may do this",
            "run the command as root",
        ))
    }
}

fn authorise(server: &Server, peer: Peer, headers: &HeaderMap) -> Result<Authorised, Refusal> {
    let access = server.access();
    if !access.may_look_up(peer) {
        return Err(Refusal::said(
            StatusCode::FORBIDDEN,
            "forbidden",
            &format!("user {} may not look up secrets", peer.uid),
            "add the user to `allowed_uids` in config.yaml, then `systemctl reload psi-secrets.service`",
        ));
    }
    let given = headers.get(AUTHORIZATION).map(|value| value.as_bytes());
    if !access.accepts_token(given.and_then(|v| v.strip_prefix(b"Bearer "))) {
        return Err(Refusal::said(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "the socket token is missing or wrong",
            "put psi-serve's token into /etc/psi/socket-token, mode 0600",
        ));
    }
    Ok(Authorised {
        writes: access.may_write(peer),
    })
}

fn healthz(server: &Server) -> Result<Answer, Refusal> {
    let status = server.status();
    match status.healthy {
        true => Ok(text("ok")),
        false => Err(Refusal::said(
            StatusCode::SERVICE_UNAVAILABLE,
            "unhealthy",
            &status.why.join("; "),
            "`psi-cachectl status` and `journalctl -u psi-secrets` say more",
        )),
    }
}

async fn lookup(server: &Server, name: &str) -> Result<Answer, Refusal> {
    let parsed =
        SecretName::parse(name).map_err(|e| Refusal::new(StatusCode::BAD_REQUEST, "bad_id", &e))?;
    match server.lookups.lookup(&parsed).await {
        Ok(found) => Ok(bytes("application/octet-stream", Bytes::from_owner(found))),
        Err(missing) => Err(Refusal::missing(name, &missing)),
    }
}

async fn store(server: &Arc<Server>, id: &str, body: Incoming) -> Result<Answer, Refusal> {
    let id = parse_id(id)?;
    let mapping = read_body(body, MAX_MAPPING).await?;
    let store = Arc::clone(&server.store);
    on_disk(move || store.put(&id, &mapping))
        .await
        .map_err(|e| match e.kind() {
            Kind::Damaged => Refusal::new(StatusCode::BAD_REQUEST, "bad_mapping", &e),
            _ => e.into(),
        })?;
    Ok(text("ok"))
}

async fn delete(server: &Arc<Server>, id: &str) -> Result<Answer, Refusal> {
    let id = parse_id(id)?;
    let store = Arc::clone(&server.store);
    on_disk(move || store.delete(&id)).await?;
    Ok(text("ok"))
}

async fn list(server: &Arc<Server>) -> Result<Answer, Refusal> {
    let store = Arc::clone(&server.store);
    let names = on_disk(move || store.list()).await?;
    let lines: String = names.iter().map(|n| format!("{}\n", n.as_str())).collect();
    Ok(text(&lines))
}

fn parse_id(id: &str) -> Result<SecretId, Refusal> {
    SecretId::parse(id).map_err(|e| Refusal::new(StatusCode::BAD_REQUEST, "bad_id", &e))
}

async fn cache(server: &Arc<Server>, operation: &str, body: Incoming) -> Result<Answer, Refusal> {
    match operation {
        "check" => check(server, &read_body(body, MAX_QUESTION).await?).await,
        "invalidate" => invalidate(server, &read_body(body, MAX_QUESTION).await?).await,
        "verify" => {
            let header = server.sealed.verify().await?;
            Ok(json(&Verified::from(&header)))
        }
        "init" => {
            let asked: Init = parse(&read_body(body, MAX_QUESTION).await?)?;
            init(server, asked.force).await
        }
        provider => match ProviderName::parse(provider) {
            Some(provider) => {
                let body = read_body(body, MAX_HAND_OVER).await?;
                hand_over(server, provider, body).await
            }
            None => Err(Refusal::said(
                StatusCode::NOT_FOUND,
                "unknown_provider",
                "there is no such provider and no such operation on the cache",
                "the providers are infisical, local and nitrokeyhsm",
            )),
        },
    }
}

async fn init(server: &Arc<Server>, force: bool) -> Result<Answer, Refusal> {
    let task = Arc::clone(server);
    let made = to_the_end(async move { task.sealed.init(force).await }).await;
    let (header, replaced) = made.map_err(|e| match e.kind() {
        Kind::Unreachable => Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "no_key", &e),
        _ => e.into(),
    })?;
    Ok(json(&Initialised {
        header: Verified::from(&header),
        replaced: replaced.map(|path| path.display().to_string()),
    }))
}

async fn hand_over(
    server: &Arc<Server>,
    provider: ProviderName,
    body: Zeroizing<Vec<u8>>,
) -> Result<Answer, Refusal> {
    if server.sealed.is_off() {
        return Err(Refusal::said(
            StatusCode::CONFLICT,
            "not_cached",
            "no cache is kept: every lookup is live",
            "set `cache.backend` in config.yaml for containers to start while the provider is down",
        ));
    }
    let server = Arc::clone(server);
    let handed_over = to_the_end(async move {
        let handed_over = server.sealed.hand_over(provider, body).await?;
        server.lookups.forget_provider(provider);
        Ok(handed_over)
    })
    .await?;
    let sum = |count: fn(&crate::wire::Counts) -> usize| -> usize {
        handed_over.workloads.values().map(count).sum()
    };
    info!(
        "{provider} handed over {} workloads: {} values stored, {} unchanged, {} retired; generation {}",
        handed_over.workloads.len(),
        sum(|c| c.stored),
        sum(|c| c.unchanged),
        sum(|c| c.retired),
        handed_over.generation,
    );
    Ok(json(&handed_over))
}

async fn check(server: &Server, body: &[u8]) -> Result<Answer, Refusal> {
    let asked: Check = parse(body)?;
    server.sealed.settled(OPENING_PATIENCE).await;
    let lookups = &server.lookups;
    let by_name = |id: &String| {
        SecretName::parse(id).map_or_else(|_| CheckedId::default(), |name| lookups.check(&name))
    };
    Ok(json(&Checked {
        mappings: asked
            .mappings
            .iter()
            .map(|m| lookups.is_sealed(m))
            .collect(),
        ids: asked.ids.iter().map(by_name).collect(),
    }))
}

async fn invalidate(server: &Arc<Server>, body: &[u8]) -> Result<Answer, Refusal> {
    let asked: Invalidate = parse(body)?;
    let name = SecretName::parse(&asked.id)
        .map_err(|e| Refusal::new(StatusCode::BAD_REQUEST, "bad_id", &e))?;
    let task = Arc::clone(server);
    let dropped = to_the_end(async move { Ok(task.lookups.invalidate(&name).await) })
        .await?
        .map_err(|missing| Refusal::missing(&asked.id, &missing))??;
    Ok(json(&Invalidated { dropped }))
}

/// Runs a change as a task of its own: a caller that goes away does not stop it halfway.
async fn to_the_end<T: Send + 'static>(
    change: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let failed = |e| Error::new(Kind::Internal, "a change broke off").because(e);
    tokio::spawn(change).await.map_err(failed)?
}

async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let failed = |e| Error::new(Kind::Internal, "an operation broke off").because(e);
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}

/// The whole body, if it is at most `limit` bytes and comes in time.
async fn read_body(body: Incoming, limit: usize) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    let too_large = || {
        Refusal::said(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            &format!("the body is larger than {limit} bytes"),
            "nothing was changed; send less",
        )
    };
    let expected = body.size_hint().exact().unwrap_or_default();
    if expected > limit as u64 {
        return Err(too_large());
    }
    let reading = collect(Limited::new(body, limit), expected as usize);
    match tokio::time::timeout(BODY_PATIENCE, reading).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Refusal::said(
            StatusCode::BAD_REQUEST,
            "bad_request",
            "the body was cut short",
            "nothing was changed; try again",
        )),
        Err(_) => Err(Refusal::said(
            StatusCode::REQUEST_TIMEOUT,
            "too_slow",
            "the body did not come in time",
            "nothing was changed; try again",
        )),
    }
}

async fn collect(
    mut body: Limited<Incoming>,
    expected: usize,
) -> Result<Zeroizing<Vec<u8>>, Box<dyn std::error::Error + Send + Sync>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(expected));
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes)
}

fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|e| {
        Refusal::said(
            StatusCode::BAD_REQUEST,
            "bad_request",
            &format!(
                "not what was expected: line {}, column {}",
                e.line(),
                e.column()
            ),
            "psi-cachectl and psi-serve must be of the same version",
        )
    })
}

fn text(text: &str) -> Answer {
    bytes(
        "text/plain; charset=utf-8",
        Bytes::copy_from_slice(text.as_bytes()),
    )
}

fn json<T: Serialize>(body: &T) -> Answer {
    let body = serde_json::to_vec(body).unwrap_or_default();
    bytes("application/json", body.into())
}

fn bytes(content_type: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    let content_type = hyper::header::HeaderValue::from_static(content_type);
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}
