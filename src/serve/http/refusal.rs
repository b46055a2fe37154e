//! Errors as the socket answers them: a status, a code for programs, a text and a next step for
//! people.

use hyper::header::{ALLOW, HeaderValue};
use hyper::{Method, StatusCode};

use crate::error::{Error, Kind};
use crate::events::{self, Entry, Event};
use crate::mapping::ProviderName;
use crate::secret::quote_name;
use crate::serve::http::body::{Answer, json};
use crate::serve::http::lookup::About;
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
    /// The methods that the path is for, if it was asked with another one.
    allowed: Option<&'static str>,
    /// What it is in the log.
    event: &'static Event,
    /// A word for searches in the log.
    outcome: &'static str,
}

impl Refusal {
    /// `error` with its own text and next step.
    pub fn new(status: StatusCode, code: &'static str, error: &Error) -> Self {
        Self {
            status,
            code,
            detail: error.to_string(),
            hint: error.next_step().map(str::to_owned),
            allowed: None,
            event: event(status),
            outcome: error.kind().word(),
        }
    }

    /// What no error says.
    pub fn said(status: StatusCode, code: &'static str, detail: &str, hint: &str) -> Self {
        Self {
            status,
            code,
            detail: detail.to_owned(),
            hint: Some(hint.to_owned()),
            allowed: None,
            event: event(status),
            outcome: "refused",
        }
    }

    /// A path that is asked with another method than the `allowed` ones.
    pub fn of_method(method: &Method, allowed: &'static str) -> Self {
        let detail = format!("{method} is not for this path, which takes {allowed}");
        let hint = "psi-secret(1) and psi-cachectl(1) ask in the right way";
        Self {
            allowed: Some(allowed),
            ..Self::said(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                &detail,
                hint,
            )
        }
    }

    /// Says in the log what became of `request`, and of which secret, if it was for one.
    pub fn log(&self, request: &str, about: &About) {
        let next = self.hint.as_ref().map(|hint| format!("; next: {hint}"));
        let entry = Entry {
            secret: about.secret.as_deref(),
            provider: about.provider.map(ProviderName::as_str),
            outcome: Some(self.outcome),
            ..Entry::of(*self.event)
        };
        let (status, detail) = (self.status.as_u16(), &self.detail);
        entry.say(format_args!(
            "{request} answered {status}: {detail}{}",
            next.unwrap_or_default()
        ));
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
        if let Some(allowed) = self.allowed {
            let allowed = HeaderValue::from_static(allowed);
            answer.headers_mut().insert(ALLOW, allowed);
        }
        answer
    }
}

/// What is logged of an answer to anything but a lookup.
fn event(status: StatusCode) -> &'static Event {
    match status {
        StatusCode::UNAUTHORIZED => &events::TOKEN_REFUSED,
        StatusCode::FORBIDDEN => &events::CALLER_REFUSED,
        StatusCode::SERVICE_UNAVAILABLE => &events::UNHEALTHY,
        StatusCode::CONFLICT => &events::CHANGE_FAILED,
        status if status.is_client_error() => &events::REQUEST_REFUSED,
        _ => &events::CHANGE_FAILED,
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
        let (event, outcome) = match missing {
            Missing::NoMapping => (&events::SECRET_UNKNOWN, Kind::NotFound),
            Missing::Unusable(error) => (&events::MAPPING_UNUSABLE, error.kind()),
            Missing::Provider(error) => (Event::of_lookup(error.kind()), error.kind()),
        };
        Self {
            event,
            outcome: outcome.word(),
            ..Self::answer_to(name, missing)
        }
    }

    fn answer_to(name: &str, missing: &Missing) -> Self {
        match missing {
            Missing::NoMapping => Self::said(
                StatusCode::NOT_FOUND,
                "no_mapping",
                &format!("no secret is registered as {}", quote_name(name)),
                "`systemctl restart 'psi-*-setup.service'` registers what is missing; `podman secret ls` shows what Podman knows",
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
                    "the cache does not have this value: `systemctl restart 'psi-*-setup.service'` fetches it once the provider answers".to_owned()
                });
                refusal
            }
        }
    }
}
