//! `GET /lookup/<id>`: the answer is logged unless it came from memory.

use hyper::body::Bytes;
use hyper::{StatusCode, Uri};

use crate::events::{self, Entry};
use crate::mapping::ProviderName;
use crate::secret::SecretName;
use crate::serve::Server;
use crate::serve::http::body::{Answer, bytes};
use crate::serve::http::refusal::Refusal;
use crate::serve::http::{VALUE_TYPE, target_parts};
use crate::serve::lookup::Found;

/// The value that `name` stands for.
pub async fn lookup(server: &Server, name: &str) -> Result<Answer, Refusal> {
    let parsed =
        SecretName::parse(name).map_err(|e| Refusal::new(StatusCode::BAD_REQUEST, "bad_id", &e))?;
    match server.lookups.lookup(&parsed).await {
        Ok(found) => {
            if let Found::Live(_) = found {
                About::secret(server, &parsed).log_live();
            }
            Ok(bytes(VALUE_TYPE, Bytes::from_owner(found)))
        }
        Err(missing) => Err(Refusal::missing(name, &missing)),
    }
}

/// What a request is about, as far as the log has room for it.
#[derive(Default)]
pub struct About {
    /// Podman's name of the secret that is looked up, or its id if no workload has it.
    pub secret: Option<String>,
    /// Whose value it is.
    pub provider: Option<ProviderName>,
}

impl About {
    /// What a request for `target` is about.
    pub fn of(server: &Server, target: &Uri) -> Self {
        match target_parts(target) {
            ("lookup", Some(name)) => SecretName::parse(name)
                .map_or_else(|_| Self::default(), |name| Self::secret(server, &name)),
            _ => Self::default(),
        }
    }

    fn secret(server: &Server, name: &SecretName) -> Self {
        let mapping = server.lookups.mapping(name).ok();
        let names = mapping.as_ref().map(|m| server.names().of(m));
        let names = names.filter(|names| !names.is_empty());
        Self {
            secret: Some(names.map_or_else(|| name.as_str().to_owned(), |n| n.join(", "))),
            provider: mapping.map(|m| m.provider()),
        }
    }

    fn log_live(&self) {
        let secret = self.secret.as_deref();
        let provider = self.provider.map(ProviderName::as_str);
        let entry = Entry {
            secret,
            provider,
            outcome: Some("live"),
            ..Entry::of(events::LOOKUP_LIVE)
        };
        entry.say(format_args!(
            "{} was not in the cache: {} gave its value",
            secret.unwrap_or("a secret"),
            provider.unwrap_or("its provider")
        ));
    }
}
