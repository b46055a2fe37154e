//! `psi-cachectl invalidate`: drops one value, on disk and in memory.

use crate::cachectl::Outcome;
use crate::cachectl::owner::{self, Owner};
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::mapping::Store;
use crate::podman::Podman;
use crate::protector::Credential;
use crate::secret::{SecretId, SecretName, quote_name};
use crate::setup;
use crate::wire::Invalidate;

/// For `--help` and the man page, see [`crate::cli::manual`].
pub const MANUAL: &str = "\
Examples:
  psi-cachectl invalidate myapp--DB_PASSWORD
      The next lookup asks the provider for it.
";

/// `psi-cachectl invalidate`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Podman's id or name of the secret, or the name of a mapping in the state directory.
    #[arg(value_name = "NAME|ID")]
    pub name: String,
}

/// Drops the value, and says whether there was one. The mapping stays: the next lookup asks the
/// provider.
///
/// # Errors
/// [`Kind::NotFound`] if nothing has that name or id; why the cache can't be opened or written.
/// The value is then still there.
pub async fn invalidate(config: &Config, credential: Credential, args: &Args) -> Result<Outcome> {
    let job = Job {
        config,
        credential,
        owner: owner::find(config).await?,
    };
    let name = quote_name(&args.name);
    Ok(Outcome::done(match job.drop_value(&args.name).await? {
        true => format!(
            "dropped the value of {name}\nnext: the next lookup asks its provider; {} stores it again\n",
            setup::command(config)
        ),
        false => format!("the cache has no value of {name}: nothing was dropped\n"),
    }))
}

struct Job<'a> {
    config: &'a Config,
    credential: Credential,
    owner: Owner,
}

impl Job<'_> {
    /// The state directory's own names go first; they are all that a host without Podman has.
    async fn drop_value(&self, name: &str) -> Result<bool> {
        if let Ok(own) = SecretName::parse(name) {
            match self.drop_mapped(&own).await {
                Err(e) if e.kind() == Kind::NotFound && SecretId::parse(name).is_err() => {}
                outcome => return outcome,
            }
        }
        let id = id_of(self.config, name).await?;
        self.drop_mapped(&id.into()).await
    }

    async fn drop_mapped(&self, name: &SecretName) -> Result<bool> {
        match &self.owner {
            Owner::Serve(client) => {
                let id = name.as_str().to_owned();
                Ok(client.invalidate(&Invalidate { id }).await?.dropped)
            }
            Owner::Us(_) => self.drop_under_lock(name),
        }
    }

    fn drop_under_lock(&self, name: &SecretName) -> Result<bool> {
        let store = Store::open(&self.config.state_dir)?;
        let mapping = store.get(name)?.ok_or_else(|| unknown(name.as_str()))?;
        match owner::open_cache(self.config, self.credential.clone())? {
            Some(cache) => cache.invalidate(&cache.keyer().entry_key(&mapping)),
            None => Ok(false),
        }
    }
}

/// Podman's id of the secret that it calls `name`.
///
/// # Errors
/// [`Kind::NotFound`] if Podman has no such secret, or why it can't be asked.
async fn id_of(config: &Config, name: &str) -> Result<SecretId> {
    let podman = Podman::new(&config.podman_socket)?;
    let secrets = podman.secrets().await.map_err(|e| {
        let what = format!(
            "the state directory has no mapping {}, and Podman can't be asked for it",
            quote_name(name)
        );
        let hint = e.next_step().unwrap_or("name it by its id").to_owned();
        Error::new(e.kind(), what).because(e).hint(hint)
    })?;
    let secret = secrets.into_iter().find(|secret| secret.name == name);
    SecretId::parse(&secret.ok_or_else(|| unknown(name))?.id)
}

fn unknown(name: &str) -> Error {
    let what = format!("no secret is registered as {}", quote_name(name));
    Error::new(Kind::NotFound, what).hint("`podman secret ls` shows names and ids")
}
