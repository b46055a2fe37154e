//! `psi-hsm list`: what is stored for the token, and who is to have it.

use serde::Serialize;

use crate::cli;
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::hsm::store::workloads_with;
use crate::hsm::{Outcome, settings};
use crate::mapping::{Mapping, ProviderName, Store};
use crate::podman::{Podman, Secret};
use crate::secret::{SecretId, SecretName};

/// `psi-hsm list`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// One JSON object on one line.
    #[arg(long)]
    pub json: bool,
}

/// What `--json` prints: `{"secrets": [{"name": "db", "workloads": ["app"], "podman": ["app--DB"]}]}`.
/// Keys are only ever added. `podman` is null if Podman could not be asked.
#[derive(Debug, Serialize)]
struct Listed {
    secrets: Vec<Stored>,
}

#[derive(Debug, Serialize)]
struct Stored {
    name: String,
    /// The workloads that list it.
    workloads: Vec<String>,
    /// Podman's secrets that stand for it as it is now.
    podman: Option<Vec<String>>,
}

/// Lists what is stored by name. A file that may belong to it and can't be read is left out and said; the
/// first one is the outcome's failure.
///
/// # Errors
/// [`Kind::NotFound`] if there is no state directory yet, [`Kind::Io`] if it can't be
/// read.
pub async fn list(config: &Config, args: &Args) -> Result<Outcome> {
    settings(config)?;
    let store = Store::open_existing(&config.state_dir)?;
    let podman = registered(config, &store).await;
    let Found { stored, unreadable } = find(config, &store)?;
    let mut secrets = Vec::new();
    for (name, digest) in stored {
        let with_digest = |(_, other): &&(String, String)| *other == digest;
        let known = |all: &Vec<(String, String)>| -> Vec<String> {
            let same = all.iter().filter(with_digest);
            same.map(|(name, _)| name.clone()).collect()
        };
        let workloads = workloads_with(config, &name).into_iter();
        secrets.push(Stored {
            workloads: workloads.map(str::to_owned).collect(),
            podman: podman.as_ref().map(known),
            name: name.as_str().to_owned(),
        });
    }
    let listed = Listed { secrets };
    let text = match args.json {
        true => cli::json_line(&listed)?,
        false => table(&listed.secrets),
    };
    let mut left_out = unreadable.into_iter();
    let first = left_out.next();
    for error in left_out {
        tracing::warn!("left out: {}", cli::one_line(&error));
    }
    Ok(Outcome {
        text,
        end: first.map_or(Ok(0), Err),
    })
}

/// What the state directory has for a token.
pub struct Found {
    /// The names of what was sealed for a token, sorted, each with what tells one value from another.
    pub stored: Vec<(SecretName, String)>,
    /// Why a file can't be read that may be one of them.
    pub unreadable: Vec<Error>,
}

/// Looks through the state directory.
///
/// # Errors
/// [`Kind::Io`] if the directory can't be read.
pub fn find(config: &Config, store: &Store) -> Result<Found> {
    let (mut stored, mut unreadable) = (Vec::new(), Vec::new());
    for (name, mapping) in store.files()? {
        match mapping {
            Ok(mapping) if SecretId::parse(name.as_str()).is_err() => {
                stored.extend(digest(&mapping).map(|digest| (name, digest)));
            }
            Ok(_) => {}
            // The cache and other files of PSI's hold no mapping either.
            Err(e) if e.kind() == Kind::Damaged && workloads_with(config, &name).is_empty() => {}
            Err(e) => unreadable.push(e),
        }
    }
    Ok(Found { stored, unreadable })
}

/// Tells one value from another, if it was sealed for a token.
fn digest(mapping: &Mapping) -> Option<String> {
    (mapping.provider() == ProviderName::NitrokeyHsm).then(|| mapping.digest())
}

/// Podman's secrets that stand for something of a token's, each with what tells it.
async fn registered(config: &Config, store: &Store) -> Option<Vec<(String, String)>> {
    let podman = Podman::new(&config.podman_socket).ok()?;
    let secrets = match podman.secrets().await {
        Ok(secrets) => secrets,
        Err(error) => {
            tracing::warn!("what is registered is not known: {}", cli::one_line(&error));
            return None;
        }
    };
    let stands_for = |secret: Secret| {
        let id = SecretId::parse(&secret.id).ok()?;
        let mapping = store.get(&id.into()).ok()??;
        Some((secret.name, digest(&mapping)?))
    };
    Some(secrets.into_iter().filter_map(stands_for).collect())
}

fn table(secrets: &[Stored]) -> String {
    if secrets.is_empty() {
        return "nothing is stored yet: `psi-hsm store NAME`\n".to_owned();
    }
    let or_dash = |names: &[String]| match names.is_empty() {
        true => "-".to_owned(),
        false => cli::printable(&names.join(", ")),
    };
    let row = |secret: &Stored| {
        let podman = secret.podman.as_deref();
        vec![
            secret.name.clone(),
            or_dash(&secret.workloads),
            podman.map_or("?".to_owned(), or_dash),
        ]
    };
    let rows: Vec<Vec<String>> = secrets.iter().map(row).collect();
    cli::table(&["NAME", "WORKLOADS", "PODMAN"], &rows)
}
