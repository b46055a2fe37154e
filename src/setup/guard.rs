//! What must not come in: answers that look like a mistake upstream. Checked for each workload
//! before anything of it is changed.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Kind, Result};
use crate::mapping::{MAX_MAPPING, Mapping};
use crate::secret::{has_reference, secret_name};
use crate::setup::discover::Found;
use crate::wire::Folder;

/// From this many keys up, losing more than half of them at once is taken for a mistake.
const FEW_KEYS: usize = 4;

/// Longest `NAME=value` that a program can be started with, in bytes: Linux's MAX_ARG_STRLEN,
/// the terminating NUL included (execve(2)).
const MAX_VARIABLE: usize = 131_072;

/// Where keys of a folder go missing by mistake.
pub const LOOK_AT_THE_FOLDER: &str = "look at the folder's path and the identity's permissions";

/// What a workload's answer is checked against.
pub struct Guard<'a> {
    /// The workload's name.
    pub workload: &'a str,
    /// Names of the secrets that its containers start with now.
    pub before: Vec<&'a str>,
    /// The folder of each secret that is registered, by its name.
    pub folders: BTreeMap<&'a str, &'a Folder>,
    /// Names of the secrets whose last good value has no reference `${…}` in it.
    pub resolved: BTreeSet<&'a str>,
    /// The same by where they are: a folder may be another workload's as well.
    pub resolved_mappings: &'a BTreeSet<Mapping>,
    /// Whether the administrator has said that keys and references may be missing.
    pub accept_removals: bool,
    /// What to look at where keys are missing by mistake.
    pub where_keys_are: &'static str,
}

impl Guard<'_> {
    /// Lets `found` through.
    ///
    /// # Errors
    /// [`Kind::Refused`] with the reason and the way to override it, where there is one.
    pub fn check(&self, found: &Found) -> Result<()> {
        if !self.accept_removals {
            self.check_removals(found)?;
            self.check_folders(found)?;
            self.check_references(found)?;
        }
        for ((target, mapping), entry) in found.mappings.iter().zip(&found.entries.entries) {
            self.check_variable(target, entry.value.expose())?;
            if mapping.canonical().len() >= MAX_MAPPING {
                let what =
                    format!("where {target} lies is described in {MAX_MAPPING} bytes or more");
                return Err(self.refused(what, "shorten the names of its folders at the provider"));
            }
        }
        Ok(())
    }

    fn check_removals(&self, found: &Found) -> Result<()> {
        let names = found
            .mappings
            .keys()
            .map(|target| secret_name(self.workload, target));
        let now: BTreeSet<String> = names.collect();
        let gone: Vec<&str> = self
            .before
            .iter()
            .copied()
            .filter(|n| !now.contains(*n))
            .collect();
        let had = self.before.len();
        if had > 0 && now.is_empty() {
            let what = format!("nothing is listed where {had} keys were");
            return Err(self.mistaken(what, self.where_keys_are));
        }
        if had >= FEW_KEYS && gone.len() * 2 > had {
            let what = format!("{} of {had} keys are gone: {}", gone.len(), gone.join(", "));
            return Err(self.mistaken(what, self.where_keys_are));
        }
        Ok(())
    }

    /// A provider answers with nothing for a folder that is not there or not to be read. The keys
    /// of other folders, which may have the same names, do not make up for it.
    fn check_folders(&self, found: &Found) -> Result<()> {
        for source in &found.empty {
            let was_there = |name: &&&str| {
                let folder = self.folders.get(**name);
                folder.is_some_and(|folder| source.covers(&folder.project, &folder.path))
            };
            let gone: Vec<&str> = self.before.iter().filter(was_there).copied().collect();
            if !gone.is_empty() {
                let what = format!(
                    "the folder {} of {} is empty where {} keys were: {}",
                    source.path,
                    source.project,
                    gone.len(),
                    gone.join(", ")
                );
                return Err(self.mistaken(what, self.where_keys_are));
            }
        }
        Ok(())
    }

    /// What could be resolved before and can't be now was deleted, emptied or is hidden. A value
    /// that always had such a thing in it may well mean it.
    fn check_references(&self, found: &Found) -> Result<()> {
        let values = found.mappings.keys().zip(&found.entries.entries);
        let lost = values
            .filter(|(_, entry)| has_reference(entry.value.expose()))
            .map(|(target, entry)| (secret_name(self.workload, target), &entry.mapping))
            .filter(|(name, mapping)| {
                self.resolved.contains(name.as_str()) || self.resolved_mappings.contains(mapping)
            });
        let lost: Vec<String> = lost.map(|(name, _)| name).collect();
        if lost.is_empty() {
            return Ok(());
        }
        let what = format!(
            "a reference ${{…}} is left where the last value had none: {}",
            lost.join(", ")
        );
        Err(self.mistaken(
            what,
            "look at what they refer to: it is missing, empty, imported or not to be read",
        ))
    }

    fn check_variable(&self, target: &str, value: &[u8]) -> Result<()> {
        if value.contains(&0) {
            let what = format!("the value of {target} holds a NUL, which no variable can");
            return Err(self.refused(what, "store it at the provider in base64"));
        }
        // NAME, `=`, the value and the NUL at the end.
        let length = target.len() + 1 + value.len() + 1;
        if length > MAX_VARIABLE {
            let what = format!(
                "{target} is too large for a variable: {length} bytes, more than {MAX_VARIABLE}"
            );
            return Err(self.refused(what, "store a smaller value at the provider"));
        }
        Ok(())
    }

    fn mistaken(&self, what: String, or_else: &str) -> Error {
        let workload = self.workload;
        let way_out =
            format!("if that is right: `psi-setup --accept-removals {workload}`; else {or_else}");
        self.refused(what, &way_out)
    }

    fn refused(&self, what: String, next: &str) -> Error {
        Error::new(Kind::Refused, what).hint(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::ProviderName;
    use crate::secret::SecretValue;
    use crate::wire::Entry;

    fn found(secrets: &[(&str, &[u8])]) -> Found {
        let mut found = Found::default();
        for (key, value) in secrets {
            let mapping = Mapping::new(ProviderName::Infisical, [("key", key)]);
            let value = SecretValue::new(value.to_vec());
            found.mappings.insert((*key).to_owned(), mapping.clone());
            found.entries.entries.push(Entry { mapping, value });
        }
        found
    }

    static NONE: BTreeSet<Mapping> = BTreeSet::new();

    fn guard<'a>(before: Vec<&'a str>, resolved: &[&'a str], accept_removals: bool) -> Guard<'a> {
        Guard {
            workload: "myapp",
            before,
            folders: BTreeMap::new(),
            resolved: resolved.iter().copied().collect(),
            resolved_mappings: &NONE,
            accept_removals,
            where_keys_are: LOOK_AT_THE_FOLDER,
        }
    }

    fn check(before: &[&str], now: &[&str], accept_removals: bool) -> Result<()> {
        let before: Vec<String> = before.iter().map(|k| secret_name("myapp", k)).collect();
        let secrets: Vec<(&str, &[u8])> = now.iter().map(|key| (*key, b"v".as_slice())).collect();
        let guard = guard(
            before.iter().map(String::as_str).collect(),
            &[],
            accept_removals,
        );
        guard.check(&found(&secrets))
    }

    fn check_value(key: &str, value: &[u8]) -> Result<()> {
        let guard = guard(Vec::new(), &[], true);
        guard.check(&found(&[(key, value)]))
    }

    #[test]
    fn an_empty_listing_is_refused_only_where_keys_were() {
        assert!(check(&[], &[], false).is_ok());
        let error = check(&["A"], &[], false).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert!(
            error
                .next_step()
                .unwrap()
                .contains("--accept-removals myapp")
        );
        assert!(check(&["A"], &[], true).is_ok());
    }

    #[test]
    fn losing_more_than_half_of_four_keys_or_more_is_refused_and_named() {
        assert!(check(&["A", "B", "C"], &["A"], false).is_ok());
        assert!(check(&["A", "B", "C", "D"], &["A", "B"], false).is_ok());
        let error = check(&["A", "B", "C", "D"], &["A", "X", "Y", "Z"], false).unwrap_err();
        assert!(error.to_string().contains("3 of 4"), "{error}");
        assert!(error.to_string().contains("myapp--D"), "{error}");
        assert!(check(&["A", "B", "C", "D"], &["A"], true).is_ok());
    }

    #[test]
    fn a_reference_is_refused_only_where_the_last_value_had_none() {
        let check = |resolved: &[&'static str], value: &str, accept_removals| {
            let guard = guard(vec!["myapp--A"], resolved, accept_removals);
            guard.check(&found(&[("A", value.as_bytes())]))
        };
        let error = check(&["myapp--A"], "x ${B.MARK} y", false).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert!(error.to_string().contains("myapp--A"), "{error}");
        assert!(!error.to_string().contains("MARK"), "{error}");
        let next = error.next_step().unwrap();
        assert!(next.contains("--accept-removals myapp"), "{next}");
        assert!(check(&["myapp--A"], "x ${B} y", true).is_ok());
        assert!(check(&[], "${B}", false).is_ok(), "it had one, or is new");
        assert!(check(&["myapp--A"], "plain", false).is_ok());
    }

    #[test]
    fn a_value_that_no_variable_can_hold_is_refused_even_if_removals_are_accepted() {
        let largest = vec![b'x'; MAX_VARIABLE - "A=".len() - 1];
        assert!(check_value("A", &largest).is_ok());
        let error = check_value("AB", &largest).unwrap_err();
        assert!(error.to_string().contains("AB is too large"), "{error}");
        let error = check_value("A", b"a\0b").unwrap_err();
        assert!(error.to_string().contains("NUL"), "{error}");
        assert!(check_value("A", b"").is_ok());
    }
}
