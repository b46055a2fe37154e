//! One request as the server sees it.

use std::collections::HashMap;
use std::net::SocketAddr;

use http_body_util::{BodyExt, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::HeaderMap;
use serde_json::Value;

use super::answer::{Answer, Result};

/// A larger body is a 500.
const MAX_BODY: usize = 1024 * 1024;

#[derive(Debug)]
pub(super) struct Request {
    pub method: String,
    pub path: String,
    pub query: String,
    headers: HeaderMap,
    address: SocketAddr,
    /// `None` if it is too large.
    body: Option<Bytes>,
}

impl Request {
    pub async fn read(request: hyper::Request<Incoming>, address: SocketAddr) -> Self {
        let (head, body) = request.into_parts();
        Self {
            method: head.method.to_string(),
            path: head.uri.path().into(),
            query: head.uri.query().unwrap_or_default().into(),
            headers: head.headers,
            address,
            body: Limited::new(body, MAX_BODY)
                .collect()
                .await
                .ok()
                .map(|body| body.to_bytes()),
        }
    }

    /// Path and query as they came.
    pub fn target(&self) -> String {
        match self.query.as_str() {
            "" => self.path.clone(),
            query => format!("{}?{query}", self.path),
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The token, whatever scheme is in front of it: the server cuts seven characters off.
    pub fn token(&self) -> Option<&str> {
        let header = self.header("authorization")?;
        Some(header.get("Bearer ".len()..).unwrap_or_default())
    }

    /// Who the limiter thinks the client is: it believes what it is told.
    pub fn claimed_address(&self) -> String {
        match self.header("x-forwarded-for") {
            Some(address) => address.to_owned(),
            None => self.address.ip().to_string(),
        }
    }

    /// The decoded parameters, each with all its values.
    pub fn parameters(&self) -> HashMap<String, Vec<String>> {
        let mut parameters = HashMap::<_, Vec<_>>::new();
        for (name, value) in form_urlencoded::parse(self.query.as_bytes()) {
            parameters
                .entry(name.into_owned())
                .or_default()
                .push(value.into_owned());
        }
        parameters
    }

    /// The body; `null` if there is none. Whatever can't be read is a 500.
    pub fn json(&self) -> Result<Value> {
        let body = self.body.as_ref().ok_or_else(Answer::broken)?;
        match self.header("content-type") {
            None if body.is_empty() => Ok(Value::Null),
            Some(kind) if kind.starts_with("application/json") => {
                serde_json::from_slice(body).map_err(|_| Answer::broken())
            }
            _ => Err(Answer::broken()),
        }
    }
}
