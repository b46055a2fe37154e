//! Where values come from.
//!
//! A provider lists the secrets of a source, once per refresh, and looks one up when psi-serve
//! does not have it. It knows neither the cache nor Podman.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::mapping::{Mapping, ProviderName};
use crate::secret::SecretValue;

pub mod infisical;
mod local;
mod nitrokeyhsm;

/// A future that a trait object can return.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// Where a workload's secrets are listed: one folder of one project.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source {
    /// The project's name in the configuration.
    pub project: String,
    /// The folder, normalised: a leading slash, no trailing one, no empty parts.
    pub path: String,
    /// Folders below it as well.
    pub recursive: bool,
}

impl Source {
    /// Whether it lists what is in the folder `path` of `project`.
    pub fn covers(&self, project: &str, path: &str) -> bool {
        let Some(path) = normalise_path(path).filter(|_| project == self.project) else {
            return false;
        };
        let below = path.strip_prefix(self.path.trim_end_matches('/'));
        path == self.path || (self.recursive && below.is_some_and(|rest| rest.starts_with('/')))
    }
}

/// A folder's path in its one spelling: a leading slash, no trailing one, none doubled. Nothing
/// if it has `.`, `..` or control characters in it.
pub fn normalise_path(path: &str) -> Option<String> {
    let mut normal = String::new();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        if part == "." || part == ".." || part.chars().any(char::is_control) {
            return None;
        }
        normal.push('/');
        normal.push_str(part);
    }
    if normal.is_empty() {
        normal.push('/');
    }
    Some(normal)
}

/// One secret of a listing.
#[derive(Debug)]
pub struct Discovered {
    /// The name it has at the provider, and in the container's environment.
    pub key: String,
    /// Where a later lookup finds it again.
    pub mapping: Mapping,
    /// Its value now.
    pub value: SecretValue,
}

/// Something that has secrets.
///
/// Errors are sorted by what helps: [`crate::Kind::Unreachable`] (try again later),
/// [`crate::Kind::Denied`] (credentials or permissions), [`crate::Kind::NotFound`],
/// [`crate::Kind::BadAnswer`], [`crate::Kind::Refused`] (an answer that must not be used),
/// [`crate::Kind::Config`].
pub trait Provider: Send + Sync {
    /// Every secret of `source`, one per key, in the order of the keys.
    ///
    /// Nothing of an answer is handed on unless all of it is usable. A provider that is down,
    /// slow or rate limiting is asked again, with back-off, until `until` and no longer; a call
    /// made later than that fails at once, unasked.
    fn discover<'a>(&'a self, source: &'a Source, until: Instant) -> Answer<'a, Vec<Discovered>>;

    /// The value that `mapping` points to, in one attempt. How long that may take is the caller's
    /// business: dropping the answer ends it.
    fn lookup<'a>(&'a self, mapping: &'a Mapping) -> Answer<'a, SecretValue>;

    /// How long a lookup may take now, where that is longer than lookups usually may: a device that
    /// has to be opened first.
    fn patience(&self) -> Duration {
        Duration::ZERO
    }
}

/// Finds a secret of PSI's own by the name of its systemd credential.
pub type FindCredential<'a> = &'a dyn Fn(&str) -> Result<Option<SecretValue>>;

/// The configured provider `name`.
///
/// # Errors
/// [`Kind::Config`] if it is not configured or its trust root can't be read. A missing client secret
/// or PIN is an error of the calls that need it, not of this one.
pub fn open(
    config: &Config,
    name: ProviderName,
    credentials: FindCredential<'_>,
) -> Result<Box<dyn Provider>> {
    match (name, &config.providers.infisical) {
        (ProviderName::Infisical, Some(settings)) => {
            let provider = infisical::Infisical::open(config, settings, credentials)?;
            Ok(Box::new(provider))
        }
        (ProviderName::Local, _) if config.providers.local => Ok(Box::new(local::Local)),
        (ProviderName::NitrokeyHsm, _) => match &config.providers.nitrokeyhsm {
            Some(settings) => Ok(Box::new(nitrokeyhsm::NitrokeyHsm::open(settings))),
            None => Err(not_configured(config, name)),
        },
        _ => Err(not_configured(config, name)),
    }
}

/// There is no `providers.<name>`.
pub fn not_configured(config: &Config, name: ProviderName) -> Error {
    let what = format!("provider {name} is not configured");
    Error::new(Kind::Config, what).hint(format!(
        "add `providers.{name}` to {}",
        config.file.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_covers_its_folder_and_if_recursive_those_below() {
        let covers = |source: &str, recursive, path| {
            let source = Source {
                project: "p".to_owned(),
                path: source.to_owned(),
                recursive,
            };
            assert!(!source.covers("another", path));
            source.covers("p", path)
        };
        assert!(covers("/a", false, "/a") && covers("/a", true, "a/"));
        assert!(!covers("/a", false, "/a/b") && covers("/a", true, "/a/b"));
        assert!(!covers("/a", true, "/a2") && !covers("/a", true, "/"));
        assert!(covers("/", true, "/a") && !covers("/", false, "/a"));
    }
}
