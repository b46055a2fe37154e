//! The routes, and what stands before them: the token, then the rate limiter.

use percent_encoding::percent_decode_str;
use serde_json::json;

use super::answer::{Answer, Result};
use super::fault::Route;
use super::parameters::{Version, field};
use super::request::Request;
use super::secrets;
use super::{Api, State};

/// Longer parameters of a path match no route.
const MAX_NAME: usize = 100;

#[derive(Debug)]
pub(super) enum Endpoint {
    Status,
    Login,
    List(Version),
    One(Version, String),
    Create(Version, String),
}

impl Endpoint {
    /// The endpoint of a request, if this server has it.
    pub fn find(api: Api, request: &Request) -> Option<Self> {
        let method = request.method.as_str();
        match (method, request.path.as_str()) {
            ("GET", "/api/status") => return Some(Self::Status),
            ("POST", "/api/v1/auth/universal-auth/login") => return Some(Self::Login),
            _ => {}
        }
        let path = request.path.as_str();
        let (version, rest) = if let Some(rest) = path.strip_prefix("/api/v3/secrets/raw") {
            (Version::V3, rest)
        } else if api == Api::V4 {
            (Version::V4, path.strip_prefix("/api/v4/secrets")?)
        } else {
            return None;
        };
        match (method, rest) {
            ("GET", "") => Some(Self::List(version)),
            ("GET", _) => Some(Self::One(version, name(rest)?)),
            ("POST", _) => Some(Self::Create(version, name(rest)?)),
            _ => None,
        }
    }

    /// What faults for it are planned under.
    pub fn route(&self) -> Option<Route> {
        match self {
            Self::Login => Some(Route::Login),
            Self::List(_) => Some(Route::List),
            Self::One(..) => Some(Route::Secret),
            Self::Status | Self::Create(..) => None,
        }
    }

    /// The name under which requests are limited, and the share of the usual limit.
    fn limit(&self) -> Option<(&'static str, u32)> {
        match self {
            Self::Status => None,
            Self::Login => Some(("login", 5)),
            Self::List(Version::V3) => Some(("list", 1)),
            Self::List(Version::V4) => Some(("list v4", 1)),
            Self::One(Version::V3, _) => Some(("one", 1)),
            Self::One(Version::V4, _) => Some(("one v4", 1)),
            Self::Create(Version::V3, _) => Some(("create", 1)),
            Self::Create(Version::V4, _) => Some(("create v4", 1)),
        }
    }
}

/// The decoded name behind the slash; slashes in it have to be encoded.
fn name(rest: &str) -> Option<String> {
    let name = rest.strip_prefix('/').filter(|name| !name.contains('/'))?;
    let name = percent_decode_str(name).decode_utf8().ok()?;
    (!name.is_empty() && name.chars().count() <= MAX_NAME).then(|| name.into_owned())
}

/// The server's true answer.
pub(super) fn answer(state: &mut State, request: &Request) -> Answer {
    let answer = match Endpoint::find(state.api, request) {
        Some(endpoint) => guarded(state, request, &endpoint).unwrap_or_else(|refusal| refusal),
        None => Answer::no_route(&request.method, &request.target()),
    };
    answer.unless_known(request.header("if-none-match"))
}

/// A token is looked at wherever one is sent, also where none is needed.
fn guarded(state: &mut State, request: &Request, endpoint: &Endpoint) -> Result<Answer> {
    let now = state.now();
    let client_id = match request.token() {
        Some(token) => Some(state.tokens.check(token, now)?),
        None => None,
    };
    if client_id.is_none() && !matches!(endpoint, Endpoint::Status | Endpoint::Login) {
        return Err(Answer::unauthorized("Token missing"));
    }
    let standing = match endpoint.limit() {
        Some((route, share)) => {
            let address = request.claimed_address();
            state.limiter.count(route, share, &address, now)?
        }
        None => None,
    };
    let client_id = client_id.unwrap_or_default();
    let mut answer =
        handled(state, request, endpoint, &client_id).unwrap_or_else(|refusal| refusal);
    if let Some(standing) = standing {
        standing.add_to(&mut answer);
    }
    Ok(answer)
}

fn handled(
    state: &mut State,
    request: &Request,
    endpoint: &Endpoint,
    client_id: &str,
) -> Result<Answer> {
    let (api, world) = (state.api, &mut state.world);
    match endpoint {
        Endpoint::Status => Ok(Answer::ok(&json!({ "message": "Ok" }))),
        Endpoint::Login => login(state, request),
        Endpoint::List(version) => secrets::list(world, client_id, api, *version, request),
        Endpoint::One(version, name) => {
            secrets::one(world, client_id, api, *version, name, request)
        }
        Endpoint::Create(version, name) => {
            secrets::create(world, client_id, api, *version, name, request)
        }
    }
}

fn login(state: &mut State, request: &Request) -> Result<Answer> {
    let body = request.json()?;
    let (client_id, secret) = (field(&body, "clientId")?, field(&body, "clientSecret")?);
    let identity = state
        .world
        .identities
        .get(client_id.trim())
        .ok_or_else(|| Answer::not_found("No identity with specified client ID was found"))?;
    if identity.client_secret != secret.trim() {
        return Err(Answer::unauthorized("Invalid credentials"));
    }
    let client_id = identity.client_id.clone();
    let now = state.now();
    Ok(Answer::ok(&state.tokens.issue(&client_id, now)))
}
