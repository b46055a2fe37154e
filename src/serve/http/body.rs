//! Bodies: read within bounds and in time, and written.

use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::{Response, StatusCode};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::serve::http::refusal::Refusal;
use crate::wire::to_secret_json;

/// How long a request's body may take.
const BODY_PATIENCE: Duration = Duration::from_secs(30);

/// What every request is answered with.
pub type Answer = Response<Full<Bytes>>;

/// The whole body, if it is at most `limit` bytes and comes in time.
pub async fn read_body(body: Incoming, limit: usize) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    let mut body = Bounded::new(body, limit)?;
    let expected = body.expected();
    let mut bytes = Zeroizing::new(Vec::with_capacity(expected));
    while let Some(data) = body.next().await? {
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

/// A body of bounded length, which has to come in time.
pub struct Bounded {
    body: Limited<Incoming>,
    limit: usize,
    /// How long the rest may take.
    patience: Duration,
}

impl Bounded {
    /// `body`, of at most `limit` bytes.
    pub fn new(body: Incoming, limit: usize) -> Result<Self, Refusal> {
        match body.size_hint().exact().unwrap_or_default() > limit as u64 {
            true => Err(too_large(limit)),
            false => Ok(Self {
                body: Limited::new(body, limit),
                limit,
                patience: BODY_PATIENCE,
            }),
        }
    }

    /// The body's length, if that was said; else 0.
    fn expected(&self) -> usize {
        self.body.size_hint().exact().unwrap_or_default() as usize
    }

    /// The next part; nothing at the end. Time counts only while this is waited for.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        let start = Instant::now();
        let data = tokio::time::timeout(self.patience, self.data()).await;
        self.patience = self.patience.saturating_sub(start.elapsed());
        match data {
            Ok(Ok(data)) => Ok(data),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large(self.limit)),
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

    async fn data(&mut self) -> Result<Option<Bytes>, Box<dyn std::error::Error + Send + Sync>> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(data) = frame?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

fn too_large(limit: usize) -> Refusal {
    Refusal::said(
        StatusCode::PAYLOAD_TOO_LARGE,
        "too_large",
        &format!("the body is larger than {limit} bytes"),
        "nothing was changed; send less",
    )
}

/// The JSON text `body`; nothing of it is ever quoted.
pub fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
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

/// An answer of text.
pub fn text(text: &str) -> Answer {
    bytes(
        "text/plain; charset=utf-8",
        Bytes::copy_from_slice(text.as_bytes()),
    )
}

/// An answer of JSON.
pub fn json<T: Serialize>(body: &T) -> Answer {
    let body = serde_json::to_vec(body).unwrap_or_default();
    bytes("application/json", body.into())
}

/// An answer of JSON with a key in it, in memory that is wiped.
pub fn secret_json<T: Serialize>(body: &T) -> Answer {
    let body = to_secret_json(body).unwrap_or_default();
    bytes("application/json", Bytes::from_owner(body))
}

/// An answer of bytes as they are.
pub fn bytes(content_type: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    let content_type = hyper::header::HeaderValue::from_static(content_type);
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}
