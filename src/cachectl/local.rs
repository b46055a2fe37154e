//! `psi-cachectl put` and `rm`: values that are kept in the cache and nowhere else.

use crate::cache::{Cache, MAX_LOCAL, check_local, no_place_for_local};
use crate::cachectl::Outcome;
use crate::cachectl::owner::{self, Owner};
use crate::config::{Config, WorkloadSecrets};
use crate::error::{Error, Kind, Result};
use crate::mapping::{Mapping, ProviderName};
use crate::protector::Credential;
use crate::secret::{LocalName, SecretValue};
use crate::wire::{PutLocal, RemovedLocal};
use crate::{setup, stdin};

/// For `--help` and the man page, see [`crate::cli::manual`].
pub const PUT_MANUAL: &str = "\
Examples:
  psi-cachectl put DB_PASSWORD
      Asks for the value, and shows nothing of it.
  printf %s 'the value' | psi-cachectl put DB_PASSWORD
      From a pipe: printf, as echo adds a newline.
  psi-cachectl put TLS_KEY <key.pem
      From a file.
";

/// For `--help` and the man page, see [`crate::cli::manual`].
pub const RM_MANUAL: &str = "\
Examples:
  psi-cachectl rm DB_PASSWORD
      Take it out of config.yaml and run psi-setup first.
";

/// `psi-cachectl put`
#[derive(Debug, clap::Args)]
pub struct PutArgs {
    /// What workloads call it: `secrets: [{key: NAME}]`.
    #[arg(value_parser = parse_name)]
    pub name: LocalName,
}

/// `psi-cachectl rm`
#[derive(Debug, clap::Args)]
pub struct RmArgs {
    /// As it was put.
    #[arg(value_parser = parse_name)]
    pub name: LocalName,
    /// Remove it even if a workload lists it: its containers don't start any more.
    #[arg(long)]
    pub force: bool,
}

fn parse_name(text: &str) -> std::result::Result<LocalName, String> {
    LocalName::parse(text).map_err(|e| format!("{e}: {}", e.next_step().unwrap_or_default()))
}

/// Keeps the value from standard input under its name.
///
/// # Errors
/// [`Kind::Refused`] for a value that can't be kept or where no cache is kept; why the cache can't
/// be opened or written. The value before is then still there.
pub async fn put(config: &Config, credential: Credential, args: &PutArgs) -> Result<Outcome> {
    check_cache_is_kept(config)?;
    let name = &args.name;
    let given = stdin::read(&format!("value of {name}: "), MAX_LOCAL, |_| true).await?;
    check_local(given.value.expose())?;
    given.warn_about(name, "psi-cachectl put", "psi-setup will refuse it");
    let put = match owner::find(config).await? {
        Owner::Serve(client) => client.put_local(name, &given.value).await?,
        Owner::Us(_lock) => put_under_lock(config, credential, name, &given.value)?,
    };
    if put.slots == 1 {
        tracing::warn!(
            "the cache has one slot only: if that fails to open it one day, e.g. on another board or \
             with a new TPM, every local value is lost, since no provider has them; next: \
             `psi-cachectl slots add recovery` prints a key that opens it as well"
        );
    }
    Ok(Outcome::done(put_in_words(config, name, &put)))
}

fn check_cache_is_kept(config: &Config) -> Result<()> {
    match config.cache.enabled && config.cache.backend.is_some() {
        true => Ok(()),
        false => Err(no_place_for_local()),
    }
}

fn put_under_lock(
    config: &Config,
    credential: Credential,
    name: &LocalName,
    value: &SecretValue,
) -> Result<PutLocal> {
    let put = |cache: &Cache| {
        let key = cache.keyer().entry_key(&Mapping::local(name));
        cache.put(key, value.expose())
    };
    match owner::open_cache(config, credential.clone())? {
        Some(cache) => put(&cache),
        None => {
            let protectors = [owner::devices(config, credential).to_create()];
            put(&Cache::unsaved(&config.cache.path, &protectors)?)
        }
    }
}

fn put_in_words(config: &Config, name: &LocalName, put: &PutLocal) -> String {
    if !put.stored {
        return format!("the local value {name} is the one that was there already\n");
    }
    let next = match workloads_with(config, name).as_slice() {
        [] => format!(
            "list it in a workload with `provider: local`, then {}",
            setup::command(config)
        ),
        workloads => format!(
            "{} registers it for {} where it is not yet; containers get it when they start",
            setup::command(config),
            workloads.join(", ")
        ),
    };
    let generation = put.generation;
    format!("stored the local value {name}; generation {generation}\nnext: {next}\n")
}

/// Removes a value, and says whether there was one.
///
/// # Errors
/// [`Kind::Refused`] if a workload lists it and no `--force`; why the cache can't be opened or
/// written. The value is then still there.
pub async fn rm(config: &Config, credential: Credential, args: &RmArgs) -> Result<Outcome> {
    check_cache_is_kept(config)?;
    let name = &args.name;
    let workloads = workloads_with(config, name).join(", ");
    if !workloads.is_empty() && !args.force {
        let what = format!("the local value {name} is listed by {workloads}");
        return Err(Error::new(Kind::Refused, what).hint(format!(
            "take it out of config.yaml and {} first; `psi-cachectl rm --force {name}` removes its only copy now",
            setup::command(config)
        )));
    }
    let removed = match owner::find(config).await? {
        Owner::Serve(client) => client.remove_local(name).await?,
        Owner::Us(_lock) => remove_under_lock(config, credential, name)?,
    };
    if removed.removed && !workloads.is_empty() {
        tracing::warn!("containers of {workloads} do not start any more without {name}");
    }
    Ok(Outcome::done(match removed.removed {
        true => format!("removed the local value {name}\n"),
        false => format!("there is no local value {name}: nothing was removed\n"),
    }))
}

fn remove_under_lock(
    config: &Config,
    credential: Credential,
    name: &LocalName,
) -> Result<RemovedLocal> {
    match owner::open_cache(config, credential)? {
        Some(cache) => cache.remove_local(&cache.keyer().entry_key(&Mapping::local(name))),
        None => Ok(RemovedLocal { removed: false }),
    }
}

/// The workloads that list the local value `name`.
fn workloads_with<'a>(config: &'a Config, name: &LocalName) -> Vec<&'a str> {
    let lists = |secrets: &WorkloadSecrets| match secrets {
        WorkloadSecrets::Keys(keys) => keys.iter().any(|k| k.key == name.as_str()),
        WorkloadSecrets::Sources(_) => false,
    };
    let workloads = config.workloads.iter();
    let found = workloads.filter(|(_, w)| w.provider == ProviderName::Local && lists(&w.secrets));
    found.map(|(workload, _)| workload.as_str()).collect()
}
