//! The routes of the socket: who may ask what, and how each outcome is answered.
//!
//! Values are answered as raw bytes, nothing added or trimmed. Errors are JSON, see
//! [`crate::wire::Failure`]. The path is not percent-decoded.

use std::future::Future;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::AUTHORIZATION;
use hyper::{Method, Request, StatusCode, Uri};

use crate::error::{Error, Kind, Result};
use crate::mapping::MAX_MAPPING;
use crate::secret::SecretId;
use crate::serve::Server;
use crate::serve::access::Peer;
use crate::serve::sealed::State;

mod body;
mod cache;
pub mod direct;
mod local;
mod lookup;
mod refusal;
mod stream;

use body::{Answer, json, read_body, text};
use cache::cache;
use lookup::{About, lookup};
use refusal::Refusal;

/// What a value is sent as: bytes.
const VALUE_TYPE: &str = "application/octet-stream";

/// Answers one request of `peer`.
pub async fn answer(server: Arc<Server>, peer: Peer, request: Request<Incoming>) -> Answer {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    route(&server, peer, &uri, request)
        .await
        .unwrap_or_else(|refusal| {
            let about = About::of(&server, &uri);
            refusal.log(&describe(&method, &uri, peer, &about), &about);
            refusal.into_answer()
        })
}

/// A request in the log's words.
fn describe(method: &Method, uri: &Uri, peer: Peer, about: &About) -> String {
    let (path, uid) = (uri.path().escape_default(), peer.uid);
    match &about.secret {
        Some(secret) if !uri.path().ends_with(secret) => {
            format!("{method} {path} ({secret}, uid {uid})")
        }
        _ => format!("{method} {path} (uid {uid})"),
    }
}

async fn route(
    server: &Arc<Server>,
    peer: Peer,
    target: &Uri,
    request: Request<Incoming>,
) -> Result<Answer, Refusal> {
    let (first, rest) = target_parts(target);
    let method = request.method().clone();
    if (&method, first, rest) == (&Method::GET, "healthz", None) {
        return healthz(server);
    }
    let authorization = request.headers().get(AUTHORIZATION);
    let authorised = authorise(server, peer, authorization.map(|value| value.as_bytes()))?;
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
        (Method::PUT, "local", Some(name)) => {
            authorised.to_write()?;
            local::put(server, name, request.into_body()).await
        }
        (Method::DELETE, "local", Some(name)) => {
            authorised.to_write()?;
            local::remove(server, name).await
        }
        _ => Err(match allowed(first, rest) {
            Some(allowed) => Refusal::of_method(&method, allowed),
            None => Refusal::said(
                StatusCode::NOT_FOUND,
                "not_found",
                "there is no such path",
                "psi-secret(1) and psi-cachectl(1) ask in the right way",
            ),
        }),
    }
}

/// The methods that a path is for, as the header `Allow` has them; nothing if there is no such path.
fn allowed(first: &str, rest: Option<&str>) -> Option<&'static str> {
    match (first, rest) {
        ("healthz" | "status" | "list", None) | ("lookup", Some(_)) => Some("GET"),
        ("store" | "cache", Some(_)) => Some("POST"),
        ("delete", Some(_)) => Some("DELETE"),
        ("local", Some(_)) => Some("PUT, DELETE"),
        _ => None,
    }
}

/// A target's first part and all that follows it, as they were sent. With the query: an id that
/// has one is no id.
pub fn target_parts(target: &Uri) -> (&str, Option<&str>) {
    path_parts(target.path_and_query().map_or("", |path| path.as_str()))
}

fn path_parts(path: &str) -> (&str, Option<&str>) {
    let path = path.strip_prefix('/').unwrap_or_default();
    match path.split_once('/') {
        Some((first, rest)) => (first, Some(rest)),
        None => (path, None),
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

/// By the caller and by what it sent as `Authorization:`.
fn authorise(
    server: &Server,
    peer: Peer,
    authorization: Option<&[u8]>,
) -> Result<Authorised, Refusal> {
    let access = server.access();
    if !access.may_look_up(peer) {
        return Err(Refusal::said(
            StatusCode::FORBIDDEN,
            "forbidden",
            &format!("user {} may not look up secrets", peer.uid),
            "add the user to `allowed_uids` in config.yaml, then `systemctl reload psi-secrets.service`",
        ));
    }
    if !access.accepts_token(authorization.and_then(|v| v.strip_prefix(b"Bearer "))) {
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
            match server.sealed.state() {
                State::Opening => "opening",
                _ => "unhealthy",
            },
            &status.why.join("; "),
            "`psi-cachectl status` and `journalctl -u psi-secrets` say more",
        )),
    }
}

async fn store(server: &Arc<Server>, id: &str, body: Incoming) -> Result<Answer, Refusal> {
    let id = parse_id(id)?;
    let mapping = read_body(body, MAX_MAPPING).await?;
    let store = Arc::clone(&server.store);
    blocking(move || store.put(&id, &mapping))
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
    blocking(move || store.delete(&id)).await?;
    Ok(text("ok"))
}

async fn list(server: &Arc<Server>) -> Result<Answer, Refusal> {
    let store = Arc::clone(&server.store);
    let names = blocking(move || store.list()).await?;
    let lines: String = names.iter().map(|n| format!("{}\n", n.as_str())).collect();
    Ok(text(&lines))
}

fn parse_id(id: &str) -> Result<SecretId, Refusal> {
    SecretId::parse(id).map_err(|e| Refusal::new(StatusCode::BAD_REQUEST, "bad_id", &e))
}

/// Runs a change as a task of its own: a caller that goes away does not stop it halfway.
async fn to_the_end<T: Send + 'static>(
    change: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let failed = |e| Error::new(Kind::Internal, "a change broke off").because(e);
    tokio::spawn(change).await.map_err(failed)?
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let failed = |e| Error::new(Kind::Internal, "an operation broke off").because(e);
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}
