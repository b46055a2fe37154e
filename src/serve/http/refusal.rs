//! Errors as the socket answers them: a status, a code for programs, a text and a next step for
//! people.

use hyper::StatusCode;
use hyper::header::ALLOW;

use crate::error::{Error, Kind};
use crate::secret::quote_name;
use crate::serve::http::body::{Answer, json};
use crate::serve::lookup::Missing;
use crate::wire::Failure;

/// An error with the status and the code that it is answered with.
pub struct Refusal {
    /// The answer's status.
    pub status: StatusCode,
    code: &'static str,
    /// What happened, without a next step.
    pub detail: String,
    hint: Option<String>,
}

impl Refusal {
    /// `error` with its own text and next step.
    pub fn new(status: StatusCode, code: &'static str, error: &Error) -> Self {
        Self {
            status,
            code,
            detail: error.to_string(),
            hint: error.next_step().map(str::to_owned),
        }
    }

    /// What no error says.
    pub fn said(status: StatusCode, code: &'static str, detail: &str, hint: &str) -> Self {
        Self {
            status,
            code,
            detail: detail.to_owned(),
            hint: Some(hint.to_owned()),
        }
    }

    /// The answer, see [`Failure`].
    pub fn into_answer(self) -> Answer {
        let failure = Failure {
            error: self.code.to_owned(),
            detail: self.detail,
            hint: self.hint,
        };
        let mut answer = json(&failure);
        *answer.status_mut() = self.status;
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            let allowed = hyper::header::HeaderValue::from_static("GET, POST, PUT, DELETE");
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
            Kind::Denied => (StatusCode::INTERNAL_SERVER_ERROR, "denied"),
            _ => (StatusCode::INTERNAL_SERVER_ERROR, "failed"),
        };
        Self::new(status, code, &error)
    }
}

impl Refusal {
    /// Why a lookup of `name` has no value.
    pub fn missing(name: &str, missing: &Missing) -> Self {
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
