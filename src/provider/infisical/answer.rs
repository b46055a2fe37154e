//! What an answer means: use it, ask again later, log in again, try another route, or give up.

use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Kind};

/// Why one attempt gave nothing, sorted by what helps.
#[derive(Debug)]
pub enum Failure {
    /// Asking again may help, not before `wait` if the server said so.
    Transient {
        /// What went wrong.
        error: Error,
        /// The server's own idea of when to come back.
        wait: Option<Duration>,
    },
    /// The access token is not accepted: one new login may help.
    TokenRejected(Error),
    /// The server has no such route: another version of its API may be there.
    NoRoute(Error),
    /// Nothing helps but a change, here or there.
    Final(Error),
}

impl Failure {
    /// The server can't be reached or does not answer properly right now.
    pub fn transient(error: Error) -> Self {
        Self::Transient { error, wait: None }
    }

    /// The error to report when nothing more is tried.
    pub fn into_error(self) -> Error {
        match self {
            Self::Transient { error, .. }
            | Self::TokenRejected(error)
            | Self::NoRoute(error)
            | Self::Final(error) => error,
        }
    }

    /// The same once more, for another who waits for the outcome.
    pub fn again(&self) -> Self {
        match self {
            Self::Transient { error, wait } => Self::Transient {
                error: error.again(),
                wait: *wait,
            },
            Self::TokenRejected(error) => Self::TokenRejected(error.again()),
            Self::NoRoute(error) => Self::NoRoute(error.again()),
            Self::Final(error) => Self::Final(error.again()),
        }
    }
}

/// What tells Infisical's errors apart. Neither text is ever shown: it may quote the request.
#[derive(Deserialize)]
struct Complaint {
    #[serde(default)]
    error: Value,
    #[serde(default)]
    message: Value,
}

impl Complaint {
    /// Whether it has the shape of Infisical's errors; a proxy's page has not.
    fn read(body: &[u8]) -> Option<Self> {
        let complaint: Self = serde_json::from_slice(body).ok()?;
        (complaint.error.is_string() || !complaint.message.is_null()).then_some(complaint)
    }

    fn error(&self) -> &str {
        self.error.as_str().unwrap_or_default()
    }

    /// The request is malformed. Some versions say so with the status of a failed login.
    fn is_validation(&self) -> bool {
        self.error() == "ValidationFailure" || self.message.is_array()
    }

    /// The token is good and the identity may not.
    fn is_permission(&self) -> bool {
        let error = self.error();
        error.contains("Permission")
            || error.starts_with("Forbidden")
            || error.contains("not a member")
    }

    /// The router's own answer, as against a missing secret, folder or project.
    fn is_route(&self) -> bool {
        let message = self.message.as_str().unwrap_or_default();
        self.error() == "Not Found" && message.starts_with("Route")
    }
}

/// Sorts an answer of `at` (a URL without its query) whose `status` is not 200. `wait` is its
/// `retry-after`.
pub fn sort(at: &str, status: u16, wait: Option<Duration>, body: &[u8]) -> Failure {
    let error = |kind, why: &str| Error::new(kind, format!("{at} answers {status}: {why}"));
    let complaint = Complaint::read(body);
    match (status, complaint) {
        (429, _) => Failure::Transient {
            error: error(Kind::Unreachable, "too many requests").hint(
                "wait a minute; other clients behind the same address count towards the limit",
            ),
            wait,
        },
        (408 | 500..=599, _) => Failure::Transient {
            error: error(Kind::Unreachable, "the server can't answer now")
                .hint("see whether Infisical, its database and its Redis are up"),
            wait,
        },
        (300..=399, _) => Failure::Final(
            error(Kind::BadAnswer, "a redirect, which is not followed").hint(
                "set providers.infisical.api_url to the address that the server redirects to",
            ),
        ),
        (400 | 401 | 403 | 422, Some(c)) if status == 400 || status == 422 || c.is_validation() => {
            Failure::Final(
                error(Kind::Config, "the request is not valid")
                    .hint("check the project's `id` and `environment` in the configuration"),
            )
        }
        (403, Some(c)) if c.is_permission() => Failure::Final(
            error(Kind::Denied, "no permission").hint(
                "make the machine identity a member of the project, with a role that may read this folder",
            ),
        ),
        // What stands in front of a server that isn't up says so too, at a boot for instance.
        (403 | 404, None) => Failure::transient(
            error(Kind::Unreachable, "not an answer of Infisical").hint(
                "see whether Infisical is up: what stands in front of it may answer so while it is not; if it is up, check providers.infisical.api_url",
            ),
        ),
        (401 | 403, _) => Failure::TokenRejected(
            error(Kind::Denied, "not accepted").hint(
                "check in Infisical that the machine identity is still there and its tokens are not limited in uses",
            ),
        ),
        (404, Some(c)) if c.is_route() => Failure::NoRoute(
            error(Kind::BadAnswer, "it has no such route")
                .hint("check providers.infisical.api_url"),
        ),
        (404, Some(_)) => Failure::Final(
            error(Kind::NotFound, "not found")
                .hint("compare project, environment, folder and name with what Infisical has; then `systemctl restart psi-infisical-setup.service`"),
        ),
        _ => Failure::Final(not_infisical(error(Kind::BadAnswer, "not an answer of Infisical"))),
    }
}

/// Reads the JSON `body` of a 200 from `at`. What is wrong with it is told by place only: the
/// parser's own messages quote it.
pub fn parse<T: DeserializeOwned>(at: &str, body: &[u8]) -> Result<T, Failure> {
    let bad = |why: String| {
        let what = format!("{at} answers 200: {why}");
        Failure::Final(not_infisical(Error::new(Kind::BadAnswer, what)))
    };
    // A struct could be read from an array too.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(bad("not a JSON object".to_owned()));
    }
    serde_json::from_slice(body).map_err(|e| {
        let why = match e.classify() {
            serde_json::error::Category::Eof => "JSON that breaks off",
            serde_json::error::Category::Data => "JSON of another shape",
            _ => "broken JSON",
        };
        bad(format!(
            "{why}, at line {}, column {}",
            e.line(),
            e.column()
        ))
    })
}

fn not_infisical(error: Error) -> Error {
    error.hint("check that providers.infisical.api_url leads to Infisical and not to something in front of it")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(status: u16, body: &str) -> (String, Kind) {
        let failure = sort("https://h/x", status, None, body.as_bytes());
        let name = match &failure {
            Failure::Transient { .. } => "transient",
            Failure::TokenRejected(_) => "token",
            Failure::NoRoute(_) => "route",
            Failure::Final(_) => "final",
        };
        let error = failure.into_error();
        assert!(!error.to_string().contains("MARK"), "{error}");
        assert!(error.next_step().is_some(), "{error}");
        (name.to_owned(), error.kind())
    }

    #[test]
    fn each_status_is_sorted_by_what_helps() {
        let json = |error: &str, message: &str| {
            format!(r#"{{"message": {message}, "statusCode": 1, "error": "{error}"}}"#)
        };
        let text = "\"MARK\"";
        let route = "\"Route GET:/api/v4/secrets?MARK not found\"";
        let cases = [
            (401, json("UnauthorizedError", text), "token", Kind::Denied),
            (403, json("TokenError", text), "token", Kind::Denied),
            (403, json("Whatever", text), "token", Kind::Denied),
            (401, "<html>MARK".to_owned(), "token", Kind::Denied),
            (
                401,
                json("ValidationFailure", "[{\"MARK\":1}]"),
                "final",
                Kind::Config,
            ),
            (401, json("Other", "[\"MARK\"]"), "final", Kind::Config),
            (422, json("ValidationFailure", "[]"), "final", Kind::Config),
            (403, json("PermissionDenied", text), "final", Kind::Denied),
            (403, json("ForbiddenError", text), "final", Kind::Denied),
            (
                403,
                json("Identity is not a member of MARK", text),
                "final",
                Kind::Denied,
            ),
            (404, json("Not Found", route), "route", Kind::BadAnswer),
            (404, json("NotFound", route), "final", Kind::NotFound),
            (404, json("Not Found", text), "final", Kind::NotFound),
            (404, json("GetSecretByName", text), "final", Kind::NotFound),
            // A proxy in front of a server that isn't up yet.
            (
                404,
                "404 page not found\n".to_owned(),
                "transient",
                Kind::Unreachable,
            ),
            (404, "<html>MARK".to_owned(), "transient", Kind::Unreachable),
            (403, "<html>MARK".to_owned(), "transient", Kind::Unreachable),
            (400, json("BadRequest", text), "final", Kind::Config),
            (400, "MARK".to_owned(), "final", Kind::BadAnswer),
            (
                429,
                json("RateLimitExceeded", text),
                "transient",
                Kind::Unreachable,
            ),
            (500, json("Find one", text), "transient", Kind::Unreachable),
            (502, "<html>MARK".to_owned(), "transient", Kind::Unreachable),
            (503, String::new(), "transient", Kind::Unreachable),
            (504, String::new(), "transient", Kind::Unreachable),
            (302, "MARK".to_owned(), "final", Kind::BadAnswer),
            (204, String::new(), "final", Kind::BadAnswer),
            (418, json("Teapot", text), "final", Kind::BadAnswer),
        ];
        for (status, body, name, kind) in cases {
            assert_eq!(
                row(status, &body),
                (name.to_owned(), kind),
                "{status} {body}"
            );
        }
    }

    #[test]
    fn the_time_to_wait_is_the_servers() {
        let wait = Some(Duration::from_secs(7));
        for status in [429, 503] {
            let failure = sort("https://h/x", status, wait, b"");
            assert!(matches!(failure, Failure::Transient { wait: w, .. } if w == wait));
        }
    }

    #[test]
    fn what_is_wrong_with_an_answer_is_told_without_quoting_it() {
        #[derive(Debug, Deserialize)]
        struct Answer {
            #[expect(dead_code, reason = "only its type matters")]
            secret: u8,
        }
        for body in [
            "",
            "<html>MARK</html>",
            "[1]",
            "{\"secret\": \"MARK\"}",
            "{\"secret\": 1} MARK",
            "{\"secret\": 1",
            "{\"MARK\": 1}",
        ] {
            let failure = parse::<Answer>("https://h/x", body.as_bytes()).unwrap_err();
            let error = failure.into_error();
            assert_eq!(error.kind(), Kind::BadAnswer, "{body}");
            assert!(!error.to_string().contains("MARK"), "{error}");
        }
    }
}
