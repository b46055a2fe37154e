//! What has to change: desired against actual, without any input or output.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Kind, Result};
use crate::mapping::{Mapping, ProviderName};
use crate::podman::Secret;
use crate::secret::secret_name;
use crate::wire::{CheckedId, Folder};

/// Label: the workload that a secret is for.
pub const LABEL_WORKLOAD: &str = "psi.workload";

/// Label: the provider that has its value.
pub const LABEL_PROVIDER: &str = "psi.provider";

/// Label: [`Mapping::digest`] of its mapping.
pub const LABEL_DIGEST: &str = "psi.digest";

/// Longest name of a secret, in bytes: what Podman takes from 4.6 on (its `secrets.go`).
const MAX_NAME: usize = 253;

/// What one workload is to have.
pub struct Desired<'a> {
    /// The workload's name.
    pub workload: &'a str,
    /// Where its values come from.
    pub provider: ProviderName,
    /// Each variable's mapping.
    pub secrets: &'a BTreeMap<String, Mapping>,
}

/// What is there.
pub struct Actual<'a> {
    /// Podman's secrets by name.
    pub secrets: BTreeMap<&'a str, &'a Secret>,
    /// What psi-serve knows of their ids.
    pub ids: BTreeMap<&'a str, CheckedId>,
    /// Mappings, of those that were asked about, whose sealed value has no reference `${…}` in it.
    pub resolved: BTreeSet<Mapping>,
}

impl<'a> Actual<'a> {
    /// `checked` is psi-serve's answer about `asked`.
    pub fn new(secrets: &'a [Secret], asked: &'a [String], checked: Vec<CheckedId>) -> Self {
        Self {
            secrets: secrets.iter().map(|s| (s.name.as_str(), s)).collect(),
            ids: asked.iter().map(String::as_str).zip(checked).collect(),
            resolved: BTreeSet::new(),
        }
    }

    /// The names of all secrets that are registered for `workload`.
    pub fn names_of(&self, workload: &str) -> Vec<&str> {
        let ours = self.secrets.values().filter(|s| is_ours(s, workload));
        ours.map(|secret| secret.name.as_str()).collect()
    }

    /// The names of those secrets of `workload` whose sealed value has no reference `${…}` in it.
    pub fn resolved(&self, workload: &str) -> BTreeSet<&str> {
        let names = self.names_of(workload).into_iter();
        let id = |name: &str| self.ids.get(self.secrets.get(name)?.id.as_str());
        names
            .filter(|name| id(name).is_some_and(|id| id.sealed && !id.unresolved))
            .collect()
    }

    /// The folder of each secret that is registered for `workload`, by its name.
    pub fn folders(&self, workload: &str) -> BTreeMap<&str, &Folder> {
        let names = self.names_of(workload).into_iter();
        let id = |name: &str| self.ids.get(self.secrets.get(name)?.id.as_str());
        names
            .filter_map(|name| Some((name, id(name)?.folder.as_ref()?)))
            .collect()
    }

    /// Whether the provider of `workload` no longer has the secret called `name`.
    pub fn is_retired(&self, name: &str, workload: &str) -> bool {
        let id = self.secrets.get(name).map(|secret| secret.id.as_str());
        let owners = id.and_then(|id| self.ids.get(id)).map(|id| &id.owners);
        owners.is_some_and(|owners| owners.get(workload).is_some_and(|since| *since > 0))
    }

    /// Whether a secret of Podman's needs what `workload`, which no provider feeds, owns in the
    /// cache: one of its own, or one whose value no workload that `is_fed` owns as well.
    pub fn needs(&self, workload: &str, is_fed: impl Fn(&str) -> bool) -> bool {
        self.secrets.values().any(|secret| {
            let is_its_own = is_ours(secret, workload);
            let checked = self.ids.get(secret.id.as_str());
            match checked.filter(|id| id.digest.is_some()) {
                Some(id) if is_its_own => id.owners.contains_key(workload),
                Some(id) => {
                    let fed = id.owners.keys().any(|owner| is_fed(owner));
                    id.owners.contains_key(workload) && !fed
                }
                // Where its mapping can't be read, it may stand for anything.
                None => is_its_own,
            }
        })
    }

    /// Whether the secret called `name` is registered as `driver` has it and its value is
    /// sealed in the cache.
    pub fn is_served(&self, name: &str, driver: &Driver) -> bool {
        self.stands(name, driver, |id| id.sealed)
    }

    /// Whether the secret called `name` is registered as `driver` has it, with a mapping.
    pub fn is_registered(&self, name: &str, driver: &Driver) -> bool {
        self.stands(name, driver, |id| id.digest.is_some())
    }

    fn stands(&self, name: &str, driver: &Driver, is_good: fn(&CheckedId) -> bool) -> bool {
        self.secrets.get(name).is_some_and(|secret| {
            let id = self.ids.get(secret.id.as_str());
            id.is_some_and(is_good) && secret.options == driver.options
        })
    }
}

/// How secrets are registered.
pub struct Driver {
    /// The shell driver's commands.
    pub options: BTreeMap<String, String>,
}

/// What is to be done with one secret of Podman's.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// It is not there yet.
    Create,
    /// It is there, from another version of PSI or with another mapping.
    Replace,
    /// It is as it should be.
    Keep,
}

/// One secret to be registered.
#[derive(Debug, PartialEq, Eq)]
pub struct Registration {
    /// Podman's name of it.
    pub name: String,
    /// The variable in the container.
    pub target: String,
    /// What is to be done.
    pub action: Action,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// What has to change for one workload.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Every secret it is to have, by name.
    pub registrations: Vec<Registration>,
}

impl Plan {
    /// The names of the secrets with this action.
    pub fn names(&self, action: &Action) -> Vec<String> {
        let with_action = self.registrations.iter().filter(|r| r.action == *action);
        with_action.map(|r| r.name.clone()).collect()
    }
}

/// Whether `secret` was registered for `workload`, by us or by the program before us.
pub fn is_ours(secret: &Secret, workload: &str) -> bool {
    match secret.labels.get(LABEL_WORKLOAD) {
        Some(owner) => owner == workload,
        None => is_from_before(secret) && has_prefix(&secret.name, workload),
    }
}

/// The Python program registered its secrets with the shell driver and without labels.
fn is_from_before(secret: &Secret) -> bool {
    secret.driver == "shell" && !secret.labels.keys().any(|label| label.starts_with("psi."))
}

/// Whether it was this version that registered `secret`. Podman 4.3 lists no labels: what runs the
/// same commands is then taken for ours.
pub fn is_made_by(secret: &Secret, driver: &Driver) -> bool {
    secret.labels.contains_key(LABEL_WORKLOAD) || secret.options == driver.options
}

fn has_prefix(name: &str, workload: &str) -> bool {
    let rest = name.strip_prefix(workload);
    rest.is_some_and(|rest| rest.len() > 2 && rest.starts_with("--"))
}

/// Compares what `desired` asks for with what is there.
///
/// # Errors
/// [`Kind::Refused`] for a variable whose name Podman or quadlet would mangle, and for a name
/// that Podman holds something else under. Nothing is then to be done for the workload.
pub fn plan(desired: &Desired<'_>, actual: &Actual<'_>, driver: &Driver) -> Result<Plan> {
    let mut registrations = Vec::new();
    for (target, mapping) in desired.secrets {
        check_target(desired.workload, target)?;
        let name = secret_name(desired.workload, target);
        let labels = labels(desired, mapping);
        let action = match actual.secrets.get(name.as_str()) {
            None => Action::Create,
            Some(secret) if !is_ours(secret, desired.workload) => return Err(foreign(secret)),
            Some(secret) if is_current(secret, &labels, actual, driver) => Action::Keep,
            Some(_) => Action::Replace,
        };
        registrations.push(Registration {
            name,
            target: target.clone(),
            action,
            labels,
        });
    }
    Ok(Plan { registrations })
}

fn labels(desired: &Desired<'_>, mapping: &Mapping) -> BTreeMap<String, String> {
    let labels = [
        (LABEL_WORKLOAD, desired.workload.to_owned()),
        (LABEL_PROVIDER, desired.provider.as_str().to_owned()),
        (LABEL_DIGEST, mapping.digest()),
    ];
    labels.map(|(name, value)| (name.to_owned(), value)).into()
}

/// Podman's record alone is not enough: the mapping it points to may have been lost. Labels count
/// only where Podman lists them.
fn is_current(
    secret: &Secret,
    labels: &BTreeMap<String, String>,
    actual: &Actual<'_>,
    driver: &Driver,
) -> bool {
    let stored = actual.ids.get(secret.id.as_str());
    secret.driver == "shell"
        && secret.options == driver.options
        && (secret.labels.is_empty() || secret.labels == *labels)
        && stored.and_then(|id| id.digest.as_ref()) == labels.get(LABEL_DIGEST)
}

/// Names go unquoted into a drop-in's `Secret=` and into Podman's store.
fn check_target(workload: &str, target: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    let length = secret_name(workload, target).len();
    if !target.is_empty() && target.bytes().all(plain) && length <= MAX_NAME {
        return Ok(());
    }
    let name = crate::secret::quote_name(target);
    Err(Error::new(
        Kind::Refused,
        format!("{name} of workload {workload} can't be the name of a variable"),
    )
    .hint(format!(
        "rename it at the provider: letters, digits, `_`, `.` and `-`, at most {} of them",
        MAX_NAME.saturating_sub(workload.len() + 2)
    )))
}

fn foreign(secret: &Secret) -> Error {
    let name = &secret.name;
    Error::new(
        Kind::Refused,
        format!("Podman has a secret {name} that PSI did not make"),
    )
    .hint(format!(
        "rename it, or `podman secret rm {name}` if nothing else uses it, then `systemctl restart 'psi-*-setup.service'`"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef012345678";

    fn driver() -> Driver {
        let options = BTreeMap::from([("lookup".to_owned(), "exec /x lookup".to_owned())]);
        Driver { options }
    }

    fn mapping(key: &str) -> Mapping {
        Mapping::new(ProviderName::Infisical, [("key", key)])
    }

    fn wanted(keys: &[&str]) -> BTreeMap<String, Mapping> {
        let mapped = keys.iter().map(|key| ((*key).to_owned(), mapping(key)));
        mapped.collect()
    }

    fn desired(secrets: &BTreeMap<String, Mapping>) -> Desired<'_> {
        Desired {
            workload: "myapp",
            provider: ProviderName::Infisical,
            secrets,
        }
    }

    /// As a run of ours leaves it.
    fn registered(key: &str) -> Secret {
        Secret {
            id: ID.to_owned(),
            name: secret_name("myapp", key),
            driver: "shell".to_owned(),
            options: driver().options,
            labels: labels(&desired(&BTreeMap::new()), &mapping(key)),
        }
    }

    fn plan_with(keys: &[&str], secrets: &[Secret], stored: CheckedId) -> Result<Plan> {
        let asked = [ID.to_owned()];
        let actual = Actual::new(secrets, &asked, vec![stored]);
        plan(&desired(&wanted(keys)), &actual, &driver())
    }

    fn stored(key: &str) -> CheckedId {
        CheckedId {
            digest: Some(mapping(key).digest()),
            sealed: true,
            ..CheckedId::default()
        }
    }

    #[test]
    fn what_is_registered_as_desired_is_kept() {
        let plan = plan_with(&["A"], &[registered("A")], stored("A")).unwrap();
        assert_eq!(plan.names(&Action::Keep), ["myapp--A"]);
        assert_eq!(plan.registrations.len(), 1);
    }

    #[test]
    fn where_podman_lists_no_labels_the_commands_and_the_mapping_tell() {
        let mut secret = registered("A");
        secret.labels.clear();
        let plan = plan_with(&["A"], &[secret], stored("A")).unwrap();
        assert_eq!(plan.names(&Action::Keep), ["myapp--A"]);
    }

    #[test]
    fn what_is_missing_is_created() {
        let plan = plan_with(&["A", "B"], &[registered("A")], stored("A")).unwrap();
        assert_eq!(plan.names(&Action::Create), ["myapp--B"]);
        assert_eq!(plan.names(&Action::Keep), ["myapp--A"]);
    }

    #[test]
    fn what_differs_in_any_way_is_replaced() {
        let mut options = registered("A");
        options.options.insert("list".into(), "x".into());
        let mut label = registered("A");
        label.labels.insert(LABEL_PROVIDER.into(), "local".into());
        let mut digest = registered("A");
        digest.labels.insert(LABEL_DIGEST.into(), "0".into());
        for secret in [options, label, digest] {
            let plan = plan_with(&["A"], &[secret], stored("A")).unwrap();
            assert_eq!(plan.names(&Action::Replace), ["myapp--A"]);
        }
    }

    #[test]
    fn a_secret_whose_mapping_was_lost_or_is_another_one_is_replaced() {
        for stored in [CheckedId::default(), stored("B")] {
            let plan = plan_with(&["A"], &[registered("A")], stored).unwrap();
            assert_eq!(plan.names(&Action::Replace), ["myapp--A"]);
        }
    }

    #[test]
    fn a_shell_secret_without_our_labels_is_adopted_by_its_name() {
        let mut old = registered("A");
        old.labels.clear();
        old.options = BTreeMap::from([("lookup".to_owned(), "curl x".to_owned())]);
        let plan = plan_with(&["A"], &[old], stored("A")).unwrap();
        assert_eq!(plan.names(&Action::Replace), ["myapp--A"]);
    }

    #[test]
    fn what_somebody_else_keeps_under_the_name_refuses_the_workload() {
        let mut file = registered("A");
        file.labels.clear();
        file.driver = "file".to_owned();
        let mut other = registered("A");
        other.labels.insert(LABEL_WORKLOAD.into(), "other".into());
        for secret in [file, other] {
            let error = plan_with(&["A"], &[secret], stored("A")).unwrap_err();
            assert_eq!(error.kind(), Kind::Refused);
            assert!(error.to_string().contains("myapp--A"), "{error}");
        }
    }

    #[test]
    fn a_workload_has_what_was_registered_for_it_and_nothing_of_others() {
        let mut old = registered("OLD");
        old.labels.clear();
        let mut file = registered("FILE");
        (file.driver, file.labels) = ("file".to_owned(), BTreeMap::new());
        let mut neighbour = registered("X");
        neighbour.name = "myapp2--X".to_owned();
        neighbour.labels.clear();
        let secrets = [registered("NEW"), old, file, neighbour];
        let actual = Actual::new(&secrets, &[], Vec::new());
        assert_eq!(actual.names_of("myapp"), ["myapp--NEW", "myapp--OLD"]);
    }

    #[test]
    fn what_a_removed_workload_owns_is_needed_by_its_own_secrets_and_those_of_nobody_else() {
        let owners = |names: &[&str]| CheckedId {
            owners: names.iter().map(|n| ((*n).to_owned(), 0)).collect(),
            ..stored("A")
        };
        let asked = [ID.to_owned()];
        let needs = |workload: &str, checked: CheckedId| {
            let secrets = [registered("A")];
            let actual = Actual::new(&secrets, &asked, vec![checked]);
            actual.needs(workload, |owner| owner == "fed")
        };
        assert!(needs("myapp", owners(&["myapp", "fed"])));
        assert!(!needs("myapp", owners(&["fed"])));
        assert!(needs("myapp", CheckedId::default()), "its mapping is lost");
        assert!(!needs("gone", owners(&["gone", "fed"])));
        assert!(needs("gone", owners(&["gone", "myapp"])));
        assert!(!needs("gone", CheckedId::default()));
    }

    #[test]
    fn names_that_podman_or_quadlet_would_mangle_are_refused() {
        let long = "A".repeat(MAX_NAME - "myapp--".len() + 1);
        for bad in [
            "", "A B", "A,B", "A=B", "A/B", "%n", "$HOME", "Ä", "A\n", &long,
        ] {
            let error = plan_with(&[bad], &[], stored("A")).unwrap_err();
            assert_eq!(error.kind(), Kind::Refused, "{bad:?}");
            assert!(error.to_string().contains("myapp"), "{error}");
        }
        assert!(plan_with(&["A.b-c_D1", &long[1..]], &[], stored("A")).is_ok());
    }
}
