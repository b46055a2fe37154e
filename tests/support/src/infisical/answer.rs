//! Answers as the server writes them: the shapes of its errors, and its etags.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Value, json};

#[derive(Debug)]
pub(super) struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
}

pub(super) type Result<T> = std::result::Result<T, Answer>;

impl Answer {
    fn new(status: u16, body: String) -> Self {
        let headers = vec![
            ("content-type", "application/json; charset=utf-8".into()),
            ("etag", etag(&body)),
            ("keep-alive", "timeout=72".into()),
        ];
        Self {
            status,
            headers,
            body,
        }
    }

    pub fn ok(body: &Value) -> Self {
        Self::new(200, body.to_string())
    }

    /// The usual error; `message` is a text or, for bad requests, an array.
    pub fn error(status: u16, error: &str, message: impl Into<Value>) -> Self {
        let (error, message) = (json!(error), message.into());
        Self::new(
            status,
            format!(r#"{{"statusCode":{status},"message":{message},"error":{error}}}"#),
        )
    }

    /// The router's own 404, which repeats the whole target.
    pub fn no_route(method: &str, target: &str) -> Self {
        let message = json!(format!("Route {method}:{target} not found"));
        Self::new(
            404,
            format!(r#"{{"message":{message},"error":"Not Found","statusCode":404}}"#),
        )
    }

    pub fn bad_request(message: &str) -> Self {
        Self::error(400, "BadRequest", message)
    }

    pub fn unauthorized(message: &str) -> Self {
        Self::error(401, "UnauthorizedError", message)
    }

    /// A request of the wrong form: a 401, though it has nothing to do with the token.
    pub fn invalid(issues: Vec<Value>) -> Self {
        Self::error(401, "ValidationFailure", issues)
    }

    pub fn bad_token(message: &str) -> Self {
        Self::error(403, "TokenError", message)
    }

    pub fn not_found(message: &str) -> Self {
        Self::error(404, "NotFound", message)
    }

    pub fn broken() -> Self {
        Self::error(500, "InternalServerError", "Something went wrong")
    }

    /// A 304 if the client has exactly these bytes already.
    #[must_use]
    pub fn unless_known(mut self, if_none_match: Option<&str>) -> Self {
        if if_none_match == Some(etag(&self.body).as_str()) {
            self.status = 304;
            self.body.clear();
        }
        self
    }
}

fn etag(body: &str) -> String {
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    format!("\"{:016x}\"", hasher.finish())
}
