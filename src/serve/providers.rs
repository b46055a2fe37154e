//! The providers that psi-serve asks when it does not have a value, each call with a deadline.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::events::{self, Entry};
use crate::mapping::{Mapping, ProviderName};
use crate::provider::Provider;
use crate::secret::SecretValue;

/// The configured providers. One that could not be opened fails its own lookups only.
pub struct Providers {
    by_name: BTreeMap<ProviderName, Result<Box<dyn Provider>>>,
    timeout: Duration,
    troubles: Mutex<BTreeMap<ProviderName, Kind>>,
}

impl Providers {
    /// Opens each of `names` with `open`; a lookup may take `timeout`.
    pub fn open(
        names: impl IntoIterator<Item = ProviderName>,
        timeout: Duration,
        open: impl Fn(ProviderName) -> Result<Box<dyn Provider>>,
    ) -> Self {
        let by_name: BTreeMap<_, _> = names.into_iter().map(|name| (name, open(name))).collect();
        for (name, provider) in &by_name {
            if let Err(error) = provider {
                let entry = Entry {
                    provider: Some(name.as_str()),
                    outcome: Some(error.kind().word()),
                    ..Entry::of(events::PROVIDER_UNUSABLE)
                };
                entry.say(format_args!("provider {name} can't be used: {error}"));
            }
        }
        Self {
            by_name,
            timeout,
            troubles: Mutex::default(),
        }
    }

    /// The value that `mapping` points to, from its provider.
    ///
    /// # Errors
    /// What the provider says, [`Kind::Unreachable`] after the deadline, [`Kind::Config`] if it is
    /// not configured or could not be opened.
    pub async fn lookup(&self, mapping: &Mapping) -> Result<SecretValue> {
        let name = mapping.provider();
        let outcome = match self.by_name.get(&name) {
            None => Err(not_configured(name)),
            Some(Err(error)) => Err(error.again()),
            Some(Ok(provider)) => self.ask(name, provider.as_ref(), mapping).await,
        };
        self.note(name, &outcome);
        outcome
    }

    async fn ask(
        &self,
        name: ProviderName,
        provider: &dyn Provider,
        mapping: &Mapping,
    ) -> Result<SecretValue> {
        let timeout = self.timeout.max(provider.patience());
        let answer = tokio::time::timeout(timeout, provider.lookup(mapping));
        answer
            .await
            .unwrap_or_else(|_| Err(too_slow(name, timeout)))
    }

    /// A value that is not there is no trouble of the provider.
    fn note(&self, name: ProviderName, outcome: &Result<SecretValue>) {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Err(error) if error.kind() != Kind::NotFound => {
                troubles.insert(name, error.kind());
            }
            _ => {
                troubles.remove(&name);
            }
        }
    }

    /// Each provider with what is wrong with it, as far as its last call tells. Names no secret.
    pub fn health(&self) -> Vec<(ProviderName, Option<Kind>)> {
        let troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        let trouble = |(name, provider): (&ProviderName, &Result<Box<dyn Provider>>)| {
            let not_opened = provider.as_ref().err().map(Error::kind);
            (*name, not_opened.or_else(|| troubles.get(name).copied()))
        };
        self.by_name.iter().map(trouble).collect()
    }
}

fn not_configured(name: ProviderName) -> Error {
    Error::new(Kind::Config, format!("provider {name} is not configured")).hint(format!(
        "add `providers.{name}` to config.yaml, then `systemctl reload psi-secrets.service`"
    ))
}

fn too_slow(name: ProviderName, timeout: Duration) -> Error {
    Error::new(
        Kind::Unreachable,
        format!("provider {name} gave no answer within {timeout:?}"),
    )
    .hint("try again when it is up; `systemctl restart 'psi-*-setup.service'` fetches all values into the cache, so that lookups need no provider")
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::provider::{Answer, Discovered, Source};

    /// Answers `value`, or never.
    struct Stub(Option<&'static str>);

    impl Provider for Stub {
        fn discover<'a>(&'a self, _: &'a Source, _: Instant) -> Answer<'a, Vec<Discovered>> {
            Box::pin(async { Ok(Vec::new()) })
        }
        fn lookup<'a>(&'a self, _: &'a Mapping) -> Answer<'a, SecretValue> {
            Box::pin(async {
                match self.0 {
                    Some(value) => Ok(SecretValue::new(value.into())),
                    None => std::future::pending().await,
                }
            })
        }
    }

    fn mapping() -> Mapping {
        Mapping::new(ProviderName::Infisical, [("key", "A")])
    }

    #[tokio::test]
    async fn a_provider_that_never_answers_is_unreachable_after_the_deadline() {
        let timeout = Duration::from_millis(20);
        let providers = Providers::open([ProviderName::Infisical], timeout, |_| {
            Ok(Box::new(Stub(None)))
        });
        let error = providers.lookup(&mapping()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unreachable);
        assert!(providers.health()[0].1.is_some());
    }

    #[tokio::test]
    async fn a_provider_that_could_not_be_opened_says_why_at_each_lookup() {
        let timeout = Duration::from_secs(2);
        let providers = Providers::open([ProviderName::Infisical], timeout, |_| {
            Err(Error::new(Kind::Config, "no client secret").hint("add one"))
        });
        let error = providers.lookup(&mapping()).await.unwrap_err();
        assert_eq!(error.to_string(), "no client secret");
        assert_eq!(error.next_step(), Some("add one"));
        let other = Mapping::new(ProviderName::Local, []);
        let error = providers.lookup(&other).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
    }

    #[tokio::test]
    async fn a_provider_that_answers_is_well() {
        let timeout = Duration::from_secs(2);
        let providers = Providers::open([ProviderName::Infisical], timeout, |_| {
            Ok(Box::new(Stub(Some("v"))))
        });
        let value = providers.lookup(&mapping()).await.unwrap();
        assert_eq!(value.expose(), b"v");
        assert_eq!(providers.health(), [(ProviderName::Infisical, None)]);
    }
}
