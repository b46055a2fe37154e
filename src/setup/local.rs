//! What workloads with `provider: local` get: values that were put by hand. They are in the cache
//! already, or nowhere; psi-setup registers them and never sees them.

use std::collections::BTreeMap;

use crate::config::{KeyRef, Workload, WorkloadSecrets};
use crate::error::{Error, Kind, Result};
use crate::mapping::{Mapping, ProviderName};
use crate::secret::{LocalName, MAX_IN_VARIABLE, secret_name};
use crate::setup::discover::Found;
use crate::wire::{Checked, Trouble};

/// Where the local values that `workloads` list are.
pub fn mappings(workloads: &BTreeMap<&str, &Workload>) -> Vec<Mapping> {
    let local = |w: &&&Workload| w.provider == ProviderName::Local;
    let keys = workloads
        .values()
        .filter(local)
        .flat_map(|w| match &w.secrets {
            WorkloadSecrets::Keys(keys) => keys.as_slice(),
            WorkloadSecrets::Sources(_) => &[],
        });
    let names = keys.filter_map(|k| LocalName::parse(&k.key).ok());
    names.map(|name| Mapping::local(&name)).collect()
}

/// What psi-serve knows of the local values.
#[derive(Clone, Copy)]
struct Known {
    is_sealed: bool,
    fits_variable: bool,
}

/// The local values, by where they are.
#[derive(Default)]
pub struct LocalValues {
    known: BTreeMap<Mapping, Known>,
    /// Why psi-serve knows of none.
    closed: Option<Trouble>,
}

impl LocalValues {
    /// `checked` is psi-serve's answer about `asked`.
    pub fn new(asked: &[Mapping], checked: &Checked) -> Self {
        let known = checked.mappings.iter().zip(&checked.variables);
        let known = known.map(|(&is_sealed, &fits_variable)| Known {
            is_sealed,
            fits_variable,
        });
        Self {
            known: asked.iter().cloned().zip(known).collect(),
            closed: checked.closed.clone(),
        }
    }

    /// What `workload`, which lists `keys`, is to have. There is nothing to hand over.
    ///
    /// # Errors
    /// [`Kind::Unreachable`] if the cache is closed: what was put is in there and nowhere else.
    /// [`Kind::NotFound`] if a value was never put, [`Kind::Refused`] if it can't be a variable:
    /// a drop-in that names such a secret would keep the containers from starting.
    pub fn of(&self, workload: &str, keys: &[KeyRef]) -> Result<Found> {
        let (mut found, mut missing, mut unfit) = (Found::default(), Vec::new(), Vec::new());
        for key in keys {
            let mapping = Mapping::local(&LocalName::parse(&key.key)?);
            match self.known.get(&mapping) {
                Some(known) if known.fits_variable => {
                    found.mappings.insert(key.target.clone(), mapping);
                }
                Some(known) if known.is_sealed => unfit.push(key),
                _ => missing.push(key),
            }
        }
        match (missing.as_slice(), unfit.as_slice(), &self.closed) {
            ([], [], _) => Ok(found),
            ([], unfit, _) => Err(cannot_be_variables(workload, unfit)),
            (missing, _, Some(why)) => Err(closed(workload, missing, why)),
            (missing, _, None) => Err(not_put(workload, missing)),
        }
    }
}

fn closed(workload: &str, keys: &[&KeyRef], why: &Trouble) -> Error {
    let what = format!(
        "whether there is a value for {} can't be known, since the cache is closed: {}",
        names(workload, keys),
        why.what
    );
    let error = Error::new(Kind::Unreachable, what);
    match &why.next {
        Some(next) => error.hint(next),
        None => error,
    }
}

fn not_put(workload: &str, keys: &[&KeyRef]) -> Error {
    let what = format!("there is no value for {}", names(workload, keys));
    Error::new(Kind::NotFound, what).hint(format!(
        "{}, then `systemctl restart psi-local-setup.service`",
        commands(keys)
    ))
}

fn cannot_be_variables(workload: &str, keys: &[&KeyRef]) -> Error {
    let what = format!(
        "no variable can hold the value of {}: it has a NUL in it or more than {MAX_IN_VARIABLE} bytes",
        names(workload, keys)
    );
    Error::new(Kind::Refused, what).hint(format!(
        "put a smaller value, or its base64: {}, then `systemctl restart psi-local-setup.service`",
        commands(keys)
    ))
}

fn names(workload: &str, keys: &[&KeyRef]) -> String {
    let names = keys.iter().map(|key| secret_name(workload, &key.target));
    names.collect::<Vec<_>>().join(", ")
}

fn commands(keys: &[&KeyRef]) -> String {
    let commands = keys
        .iter()
        .map(|key| format!("`psi-cachectl put {}`", key.key));
    commands.collect::<Vec<_>>().join(", ")
}
