//! Secrets of an Infisical server.
//!
//! One login per `auth`, one listing per source, one request per lookup. Answers are bounded in
//! size and time, and sorted by what helps before anything is tried again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::{sleep, timeout_at};

use crate::config::{self, Config};
use crate::error::{Error, Kind, Result};
use crate::events;
use crate::mapping::Mapping;
use crate::provider::{Answer, Discovered, FindCredential, Provider, Source, normalise_path};
use crate::secret::{SecretValue, has_reference, quote_name};

pub mod answer;
mod api;
mod auth;
mod backoff;
pub mod listing;
#[cfg(test)]
mod tests;

pub use api::Granted;

use answer::Failure;
use api::{Query, Server, What};
use auth::Login;
use backoff::Backoff;
use listing::{Listing, Secret};

/// An Infisical server with the configured projects.
pub struct Infisical {
    server: Server,
    projects: BTreeMap<String, Project>,
}

/// A project, as the server knows it.
struct Project {
    id: String,
    environment: String,
    login: Arc<Login>,
}

/// The answer to a request for one secret.
#[derive(Deserialize)]
pub struct Single {
    secret: Secret,
}

impl Single {
    /// The value of `key`, which was asked for in `folder`.
    ///
    /// # Errors
    /// [`Kind::BadAnswer`] if it is another secret, and as [`Secret::into_value`].
    pub fn into_value_of(self, key: &str, folder: &str) -> Result<SecretValue> {
        if self.secret.key() != key {
            return Err(another_secret());
        }
        self.secret.into_value(folder)
    }
}

impl Infisical {
    /// The server of `settings`. Nothing is asked yet, and a client secret that is missing fails
    /// only the calls that need it.
    ///
    /// # Errors
    /// [`Kind::Config`] if the trust root or the address can't be used.
    pub fn open(
        config: &Config,
        settings: &config::Infisical,
        credentials: FindCredential<'_>,
    ) -> Result<Self> {
        Self::with_timeout(config, settings, credentials, api::ATTEMPT_TIMEOUT)
    }

    fn with_timeout(
        config: &Config,
        settings: &config::Infisical,
        credentials: FindCredential<'_>,
        timeout: Duration,
    ) -> Result<Self> {
        let ca_cert = settings.ca_cert.as_ref().or(config.ca_cert.as_ref());
        let server = Server::new(settings, ca_cert.map(|path| path.as_path()), timeout)?;
        let mut logins: Vec<Arc<Login>> = Vec::new();
        let mut projects = BTreeMap::new();
        for (name, project) in &settings.projects {
            let known = logins.iter().find(|login| login.is_of(&project.auth));
            let login = known.cloned().unwrap_or_else(|| {
                let ttl = settings.token_ttl;
                let login = Login::new(&project.auth, &config.file, ttl, credentials);
                Arc::new(login)
            });
            logins.push(Arc::clone(&login));
            let project = Project {
                id: project.id.clone(),
                environment: project.environment.clone(),
                login,
            };
            projects.insert(name.clone(), project);
        }
        Ok(Self { server, projects })
    }

    fn project(&self, name: &str) -> Result<&Project> {
        self.projects.get(name).ok_or_else(|| {
            let configured: Vec<_> = self.projects.keys().map(|name| quote_name(name)).collect();
            let what = format!("project {} is not configured", quote_name(name));
            Error::new(Kind::Config, what).hint(format!(
                "add it to providers.infisical.projects, which has: {}",
                configured.join(", ")
            ))
        })
    }

    async fn discover(&self, source: &Source, until: Instant) -> Result<Vec<Discovered>> {
        let listing = self.list(source, until).await?;
        let discovered = listing::merge(source, listing)?;
        warn_of_doubtful(source, &discovered);
        Ok(discovered)
    }

    /// Lists `source`, again and again while that may help and there is time.
    async fn list(&self, source: &Source, until: Instant) -> Result<Listing> {
        let project = self.project(&source.project)?;
        check_listable(source)?;
        let query = Query {
            project_id: &project.id,
            environment: &project.environment,
            path: &source.path,
            what: What::Listing {
                recursive: source.recursive,
            },
        };
        let mut backoff = Backoff::new();
        let mut relogged = false;
        let mut cause = None;
        while Instant::now() < until {
            let attempt = self.attempt(project, &query, &mut relogged);
            let Ok(outcome) = timeout_at(until.into(), attempt).await else {
                break;
            };
            let (error, wait) = match outcome {
                Ok(listing) => return Ok(listing),
                Err(Failure::Transient { error, wait }) => (error, wait),
                Err(failure) => return Err(failure.into_error()),
            };
            cause = Some(error);
            let wait = backoff.next().max(wait.unwrap_or_default());
            if wait >= until.saturating_duration_since(Instant::now()) {
                break;
            }
            sleep(wait).await;
        }
        Err(out_of_time(cause))
    }

    async fn lookup(&self, mapping: &Mapping) -> Result<SecretValue> {
        let (project, path, key) = (
            field(mapping, "project")?,
            field(mapping, "path")?,
            field(mapping, "key")?,
        );
        let project = self.project(project)?;
        let path = normalise_path(path).ok_or_else(|| damaged("its path is no folder"))?;
        if !api::is_addressable(key) {
            return Err(not_by_name());
        }
        let query = Query {
            project_id: &project.id,
            environment: &project.environment,
            path: &path,
            what: What::Secret(key),
        };
        let single: Single = self
            .attempt(project, &query, &mut false)
            .await
            .map_err(not_found_by_name)?;
        single.into_value_of(key, &path)
    }

    /// One attempt, with one new login if the token is rejected and `relogged` says that there
    /// was none for this call yet.
    async fn attempt<T: DeserializeOwned>(
        &self,
        project: &Project,
        query: &Query<'_>,
        relogged: &mut bool,
    ) -> Result<T, Failure> {
        let (server, login) = (&self.server, &project.login);
        let token = login.token(server, None).await?;
        let answer = server.fetch(query, &token.authorization()?).await;
        if *relogged || !matches!(answer, Err(Failure::TokenRejected(_))) {
            return answer;
        }
        *relogged = true;
        let token = login.token(server, Some(&token)).await?;
        server.fetch(query, &token.authorization()?).await
    }
}

impl Provider for Infisical {
    fn discover<'a>(&'a self, source: &'a Source, until: Instant) -> Answer<'a, Vec<Discovered>> {
        Box::pin(async move {
            let Source { project, path, .. } = source;
            let (path, project) = (quote_name(path), quote_name(project));
            let listed = self.discover(source, until).await;
            listed.map_err(|e| e.during(format!("cannot list {path} of project {project}")))
        })
    }

    fn lookup<'a>(&'a self, mapping: &'a Mapping) -> Answer<'a, SecretValue> {
        Box::pin(async move {
            let named = |name| quote_name(mapping.get(name).unwrap_or_default());
            let (key, path, project) = (named("key"), named("path"), named("project"));
            let found = self.lookup(mapping).await;
            found.map_err(|e| {
                e.during(format!(
                    "cannot look up {key} in {path} of project {project}"
                ))
            })
        })
    }
}

/// The server answers a listing of any other folder with a failure of its own.
fn check_listable(source: &Source) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_/".contains(c);
    if source.recursive || source.path.chars().all(plain) {
        return Ok(());
    }
    let what = format!("Infisical can't list folder {}", quote_name(&source.path));
    Err(Error::new(Kind::Config, what).hint(
        "a folder's path may have letters, digits, `-`, `_` and `/`; correct `path:` of the source",
    ))
}

/// What is accepted and is probably a mistake upstream. Names keys, never values.
fn warn_of_doubtful(source: &Source, discovered: &[Discovered]) {
    let Source { project, path, .. } = source;
    if discovered.is_empty() {
        // The server says the same of a folder that is not there.
        events::FOLDER_EMPTY.say(format_args!(
            "folder {path} of project {project} has no secrets; is its name right?"
        ));
    }
    for secret in discovered {
        if has_reference(secret.value.expose()) {
            let folder = secret.mapping.get("path").unwrap_or(path);
            let key = quote_name(&secret.key);
            events::REFERENCE_LEFT.say(format_args!(
                "the value of {key} in {folder} of project {project} still has a ${{…}} in it: what it refers to is missing, empty, imported or not to be read"
            ));
        }
    }
}

fn out_of_time(cause: Option<Error>) -> Error {
    match cause {
        Some(error) => error.during("no success in the time there was"),
        None => Error::new(Kind::Unreachable, "no answer in the time there was").hint(
            "see whether Infisical is up, then `systemctl restart psi-infisical-setup.service`",
        ),
    }
}

fn field<'a>(mapping: &'a Mapping, name: &str) -> Result<&'a str> {
    mapping
        .get(name)
        .filter(|text| !text.is_empty())
        .ok_or_else(|| damaged(&format!("it has no {name}")))
}

fn damaged(why: &str) -> Error {
    Error::new(Kind::Damaged, format!("the mapping can't be used: {why}"))
        .hint("`systemctl restart psi-infisical-setup.service`, which writes mappings anew")
}

/// Once its version is known, the router's 404 is about the name: it takes 100 characters.
fn not_found_by_name(failure: Failure) -> Error {
    match failure {
        Failure::NoRoute(error) => not_by_name().because(error),
        other => other.into_error(),
    }
}

fn not_by_name() -> Error {
    let what = "Infisical can't be asked for a secret of that name";
    Error::new(Kind::NotFound, what).hint(
        "`systemctl restart psi-infisical-setup.service`, which lists it with its folder; names over 100 characters can only be listed",
    )
}

fn another_secret() -> Error {
    Error::new(Kind::BadAnswer, "the server answered with another secret")
        .hint("check that providers.infisical.api_url leads to Infisical and not to a cache in front of it")
}
