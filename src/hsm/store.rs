//! `psi-hsm store`: a value, sealed for the token.

use std::collections::BTreeMap;

use crate::config::{Config, NitrokeyHsm, WorkloadSecrets};
use crate::error::{Error, Kind, Result};
use crate::hsm::{Outcome, PATIENCE, public_key, settings, token};
use crate::hybrid;
use crate::mapping::{MAX_MAPPING, Mapping, ProviderName, Store};
use crate::pkcs11::PublicKey;
use crate::podman::{NewSecret, Podman, Secret};
use crate::secret::{SecretId, SecretName, SecretValue, quote_name};
use crate::setup;
use crate::stdin;

/// For `--help` and the man page, see [`crate::cli::manual`].
pub const MANUAL: &str = "\
Examples:
  psi-hsm store db-password
      Asks for the value, and shows nothing of it.
  head -c 24 /dev/urandom | base64 -w 0 | psi-hsm store db-password
      A new password that nobody has seen.
  psi-hsm store --register tls-key <key.pem
      From a file, for a container whose quadlet says Secret=tls-key.
";

/// Largest value, in bytes: with a key of 8192 bits its mapping in base64 is below 512,000, which is
/// what Podman takes.
const MAX_VALUE: usize = 380_000;

/// `psi-hsm store`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What workloads call it: `secrets: [{key: NAME}]`.
    #[arg(value_parser = parse_name)]
    pub name: SecretName,
    /// Register it with Podman at once, under the same name, for containers that name it themselves.
    /// psi-serve has to run. Workloads that list it need no such thing.
    #[arg(long)]
    pub register: bool,
}

fn parse_name(text: &str) -> std::result::Result<SecretName, String> {
    let name = SecretName::parse(text)
        .map_err(|e| format!("{e}: {}", e.next_step().unwrap_or_default()))?;
    match SecretId::parse(text) {
        Err(_) => Ok(name),
        Ok(_) => Err(format!("{} would be one of Podman's ids", quote_name(text))),
    }
}

/// Seals the value from standard input and keeps it under its name.
///
/// # Errors
/// [`Kind::Refused`] for what can't be kept, or if that name is something else's here or with Podman;
/// then nothing was asked for and nothing is changed. What Podman says, after the value was kept.
pub async fn store(config: &Config, args: &Args) -> Result<Outcome> {
    let hsm = settings(config)?;
    let name = &args.name;
    let store = Store::open_existing(&config.state_dir)?;
    check_place(&store, name)?;
    let key = public_key_to_use(hsm)?;
    let registration = match args.register {
        true => Some(Registration::prepare(config, &store, name).await?),
        false => None,
    };
    let given = stdin::read(&format!("value of {name}: "), MAX_VALUE, |_| true).await?;
    check_value(name, &given.value)?;
    let as_file = format!("a container gets it as a file only: `Secret={name},type=mount`");
    given.warn_about(name, "psi-hsm store", &as_file);
    let sealed = hybrid::seal(&key, given.value.expose())?;
    drop(given);
    let mapping = Mapping::sealed_for_token(&sealed);
    if mapping.canonical().len() >= MAX_MAPPING {
        return Err(too_large(name));
    }
    store.put_named(name, &mapping)?;
    let mut text = format!(
        "stored {name}, sealed for the key {}\n",
        public_key::fingerprint(&key)?
    );
    if let Some(registration) = registration {
        let registered = registration.make(&mapping).await;
        registered.map_err(|e| e.during(format!("{name} is stored, and not registered")))?;
        text.push_str(&format!("registered it with Podman: `Secret={name}`\n"));
    }
    text.push_str(&next(config, args));
    Ok(Outcome::done(text))
}

fn check_place(store: &Store, name: &SecretName) -> Result<()> {
    match store.get(name)? {
        Some(mapping) if mapping.provider() != ProviderName::NitrokeyHsm => {
            let what = format!(
                "the state directory has a secret {name} of provider {}",
                mapping.provider()
            );
            Err(Error::new(Kind::Refused, what).hint("take another name"))
        }
        _ => Ok(()),
    }
}

/// The key in the file, which the token's has to be if the token is there and shows it.
fn public_key_to_use(hsm: &NitrokeyHsm) -> Result<PublicKey> {
    let file = &hsm.public_key_cache;
    let kept = public_key::read(file)?;
    let shown = token(hsm).shown_public_key(PATIENCE);
    match (kept, shown) {
        (Some(kept), Ok(Some(shown))) => match public_key::is_same(&kept, &shown)? {
            true => Ok(kept),
            false => Err(public_key::differs(file)),
        },
        (Some(kept), Ok(None)) => Ok(kept),
        (Some(kept), Err(error)) => {
            tracing::warn!(
                "sealing for the public key in {} unchecked, since the token can't be asked: {error}",
                file.display()
            );
            Ok(kept)
        }
        (None, Ok(Some(shown))) => Ok(shown),
        (None, shown) => {
            let what = format!("there is no public key in {}", file.display());
            let error = Error::new(Kind::NotFound, what);
            let error = match shown {
                Err(why) => error.because(why),
                Ok(_) => error,
            };
            Err(error.hint("`psi-hsm init` puts it there"))
        }
    }
}

fn check_value(name: &SecretName, value: &SecretValue) -> Result<()> {
    match value.expose().len() {
        0 => Err(
            Error::new(Kind::Refused, format!("the value of {name} is empty"))
                .hint(format!("`printf %s VALUE | psi-hsm store {name}`")),
        ),
        1..=MAX_VALUE => Ok(()),
        _ => Err(too_large(name)),
    }
}

fn too_large(name: &SecretName) -> Error {
    let what = format!("the value of {name} has more than {MAX_VALUE} bytes");
    Error::new(Kind::Refused, what).hint("Podman takes no larger secrets: store a smaller value")
}

/// A secret of Podman's that is to be made or made anew.
struct Registration<'a> {
    podman: Podman,
    name: &'a SecretName,
    options: BTreeMap<String, String>,
    old: Option<Secret>,
}

impl<'a> Registration<'a> {
    /// # Errors
    /// [`Kind::Refused`] if Podman has something else under that name; what Podman says.
    async fn prepare(config: &Config, store: &Store, name: &'a SecretName) -> Result<Self> {
        let options = setup::driver::checked(config)?.options;
        let podman = Podman::new(&config.podman_socket)?;
        let old = podman.secrets().await?.into_iter();
        let old = old.into_iter().find(|secret| secret.name == name.as_str());
        if let Some(old) = &old
            && !is_tokens(old, store)
        {
            let what = format!("Podman has a secret {name} that is no token's");
            return Err(Error::new(Kind::Refused, what).hint(format!(
                "take another name, or `podman secret rm {name}` if nothing else uses it"
            )));
        }
        Ok(Self {
            podman,
            name,
            options,
            old,
        })
    }

    async fn make(&self, mapping: &Mapping) -> Result<()> {
        let new = NewSecret {
            name: self.name.as_str(),
            payload: &mapping.canonical(),
            options: &self.options,
            labels: &setup::labels_by_hand(mapping),
        };
        match &self.old {
            Some(old) => self.podman.replace(old, &new).await,
            None => self.podman.create(&new).await,
        }
        .map(drop)
    }
}

/// Whether a secret of Podman's stands for something that was sealed for a token, whoever
/// registered it.
fn is_tokens(secret: &Secret, store: &Store) -> bool {
    let stored = SecretId::parse(&secret.id).map(|id| store.get(&id.into()));
    let mapping = match stored {
        Ok(Ok(Some(mapping))) => mapping,
        _ => return false,
    };
    secret.driver == "shell" && mapping.provider() == ProviderName::NitrokeyHsm
}

fn next(config: &Config, args: &Args) -> String {
    let name = &args.name;
    let workloads = workloads_with(config, name);
    match workloads.as_slice() {
        [] if args.register => "next: containers get it when they start\n".to_owned(),
        [] => format!(
            "next: list it in a workload with `provider: nitrokeyhsm`, `secrets: [{{key: {name}}}]`, then {}\n",
            setup::command(config)
        ),
        _ => format!(
            "next: {} registers it for {}; containers get it when they start\n",
            setup::command(config),
            workloads.join(", ")
        ),
    }
}

/// The workloads that list the stored secret `name`.
pub fn workloads_with<'a>(config: &'a Config, name: &SecretName) -> Vec<&'a str> {
    let lists = |secrets: &WorkloadSecrets| match secrets {
        WorkloadSecrets::Keys(keys) => keys.iter().any(|k| k.key == name.as_str()),
        WorkloadSecrets::Sources(_) => false,
    };
    let workloads = config.workloads.iter();
    let found =
        workloads.filter(|(_, w)| w.provider == ProviderName::NitrokeyHsm && lists(&w.secrets));
    found.map(|(workload, _)| workload.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_value_is_below_what_podman_takes_whatever_the_key() {
        let envelope = vec![0; 2 + 1024 + 12 + MAX_VALUE + 16];
        let mapping = Mapping::sealed_for_token(&envelope);
        assert!(mapping.canonical().len() < MAX_MAPPING);
    }

    #[test]
    fn a_name_that_podman_could_give_as_an_id_is_refused() {
        assert!(parse_name("db-password").is_ok());
        for bad in ["0123456789abcdef012345678", "cache.enc", "../x", ""] {
            assert!(parse_name(bad).is_err(), "{bad}");
        }
    }
}
