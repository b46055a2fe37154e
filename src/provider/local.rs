//! `local`: values that were put by hand into the cache and are nowhere else. Whoever gets as far
//! as asking this provider asks for one that was never put.

use std::time::Instant;

use crate::error::{Error, Kind};
use crate::mapping::Mapping;
use crate::provider::{Answer, Discovered, Provider, Source};
use crate::secret::{LocalName, SecretValue};

/// Has no values: the cache has them.
pub struct Local;

impl Provider for Local {
    fn discover<'a>(&'a self, _: &'a Source, _: Instant) -> Answer<'a, Vec<Discovered>> {
        let what = "provider local has no folders to list";
        let error = Error::new(Kind::Config, what)
            .hint("list single keys: secrets: [{key: DB_PASSWORD, as: POSTGRES_PASSWORD}]");
        Box::pin(async { Err(error) })
    }

    fn lookup<'a>(&'a self, mapping: &'a Mapping) -> Answer<'a, SecretValue> {
        let error = match mapping.get("key").map(LocalName::parse) {
            Some(Ok(name)) => Error::new(Kind::NotFound, format!("there is no local value {name}"))
                .hint(format!("`psi-cachectl put {name}` stores one")),
            _ => Error::new(Kind::NotFound, "the mapping names no local value")
                .hint("a mapping of a local value is {\"provider\": \"local\", \"key\": \"NAME\"}"),
        };
        Box::pin(async { Err(error) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::ProviderName;

    #[tokio::test]
    async fn a_value_that_was_never_put_is_not_found_with_the_command_that_puts_it() {
        let name = LocalName::parse("DB_PASSWORD").unwrap();
        let error = Local.lookup(&Mapping::local(&name)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        assert!(error.to_string().contains("DB_PASSWORD"), "{error}");
        let hint = error.next_step().unwrap();
        assert!(hint.contains("psi-cachectl put DB_PASSWORD"), "{hint}");
        for mapping in [
            Mapping::new(ProviderName::Local, []),
            Mapping::new(ProviderName::Local, [("key", "a b; reboot")]),
        ] {
            let error = Local.lookup(&mapping).await.unwrap_err();
            assert_eq!(error.kind(), Kind::NotFound);
            assert!(!error.to_string().contains("reboot"), "{error}");
        }
    }

    #[tokio::test]
    async fn there_are_no_folders_to_list() {
        let source = Source {
            project: "myproject".to_owned(),
            path: "/".to_owned(),
            recursive: false,
        };
        let error = Local.discover(&source, Instant::now()).await.unwrap_err();
        assert!(error.to_string().contains("no folders"), "{error}");
    }
}
