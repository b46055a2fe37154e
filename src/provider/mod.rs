//! Where values come from.
//!
//! A provider lists the secrets of a source, once per refresh, and looks one up when psi-serve
//! does not have it. It knows neither the cache nor Podman.

use std::future::Future;
use std::pin::Pin;

use crate::error::Result;
use crate::mapping::Mapping;
use crate::secret::SecretValue;

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
    /// Nothing of an answer is handed on unless all of it is usable.
    fn discover<'a>(&'a self, source: &'a Source) -> Answer<'a, Vec<Discovered>>;

    /// The value that `mapping` points to.
    fn lookup<'a>(&'a self, mapping: &'a Mapping) -> Answer<'a, SecretValue>;
}
