//! From a folder's listing to one value per key: pure, knows no server.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde::Deserialize;

use crate::error::{Error, Kind, Result};
use crate::mapping::{Mapping, ProviderName};
use crate::provider::{Discovered, Source, normalise_path};
use crate::secret::{SecretValue, quote_name};

/// What stands in the place of a value that the identity may list and not read.
const HIDDEN: &[u8] = b"<hidden-by-infisical>";

/// The answer to a listing, in both versions of the API.
#[derive(Deserialize)]
pub struct Listing {
    secrets: Vec<Secret>,
    imports: Option<Vec<Import>>,
}

/// The secrets of one import. Its label is left out: it names another folder once an earlier
/// import's folder is gone.
#[derive(Deserialize)]
struct Import {
    secrets: Vec<Secret>,
}

/// One secret, of a listing or alone.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Secret {
    secret_key: String,
    secret_value: Option<SecretValue>,
    secret_value_hidden: Option<bool>,
    secret_path: Option<String>,
}

impl Secret {
    /// The name that the server says it has.
    pub fn key(&self) -> &str {
        &self.secret_key
    }

    /// The value, which is asked for in `folder`. An empty one is a value.
    ///
    /// # Errors
    /// [`Kind::Refused`] for the placeholder of a hidden value, [`Kind::BadAnswer`] if there is
    /// none at all.
    pub fn into_value(self, folder: &str) -> Result<SecretValue> {
        let key = quote_name(&self.secret_key);
        let is_placeholder = |value: &SecretValue| value.expose() == HIDDEN;
        if self.secret_value_hidden == Some(true)
            || self.secret_value.as_ref().is_some_and(is_placeholder)
        {
            let what = format!("the value of {key} in {folder} is hidden from this identity");
            return Err(Error::new(Kind::Refused, what).hint(
                "give the machine identity the permission to read secret values in Infisical",
            ));
        }
        self.secret_value
            .ok_or_else(|| bad_answer(format!("{key} in {folder} comes without a value")))
    }
}

/// A key's value so far, and the folder it is in.
struct Found {
    folder: String,
    value: SecretValue,
}

/// One secret per key, in the order of the keys.
///
/// The folder's own value goes first, then the last import's, and so on to the first one's: the
/// server's own rule for a secret that is asked for by name.
///
/// # Errors
/// [`Kind::Refused`] if a value is hidden or a key has two values with the same right to it,
/// [`Kind::BadAnswer`] if the listing is not one of `source`.
pub fn merge(source: &Source, listing: Listing) -> Result<Vec<Discovered>> {
    let mut found = BTreeMap::new();
    for secret in listing.secrets {
        if let Some(folder) = folder_of(&secret, source)? {
            add_own(&mut found, secret, folder)?;
        }
    }
    for import in listing.imports.unwrap_or_default().into_iter().rev() {
        add_import(&mut found, import, source)?;
    }
    let discovered = |(key, Found { folder, value }): (String, Found)| {
        let fields = [
            ("project", source.project.as_str()),
            ("path", folder.as_str()),
            ("key", key.as_str()),
        ];
        Discovered {
            mapping: Mapping::new(ProviderName::Infisical, fields),
            key,
            value,
        }
    };
    Ok(found.into_iter().map(discovered).collect())
}

/// The folder of an own secret; nothing if it is outside of `source`, since the server takes
/// `/myapp2` for a folder below `/myapp`.
fn folder_of(secret: &Secret, source: &Source) -> Result<Option<String>> {
    let key = quote_name(&secret.secret_key);
    let folder = match (&secret.secret_path, source.recursive) {
        (Some(path), _) => normalise_path(path)
            .ok_or_else(|| bad_answer(format!("{key} comes from a folder with no valid path")))?,
        (None, false) => source.path.clone(),
        (None, true) => return Err(bad_answer(format!("{key} comes without its folder"))),
    };
    if source.recursive {
        return Ok(is_within(&folder, &source.path).then_some(folder));
    }
    if folder != source.path {
        let (folder, asked) = (quote_name(&folder), &source.path);
        let what = format!("{key} comes from folder {folder}, and {asked} was asked for");
        return Err(bad_answer(what));
    }
    Ok(Some(folder))
}

/// Whether `folder` is `top` or below it; both normalised.
fn is_within(folder: &str, top: &str) -> bool {
    let below = |rest: &str| rest.is_empty() || rest.starts_with('/');
    top == "/" || folder.strip_prefix(top).is_some_and(below)
}

/// Own secrets have the same right to their key. With the same value the shallower folder is the
/// one that is looked up later, then the first in the order of the alphabet.
fn add_own(found: &mut BTreeMap<String, Found>, secret: Secret, folder: String) -> Result<()> {
    let key = checked_key(&secret)?;
    let value = secret.into_value(&folder)?;
    match found.entry(key) {
        Entry::Vacant(place) => {
            place.insert(Found { folder, value });
        }
        Entry::Occupied(place) if place.get().value.expose() != value.expose() => {
            return Err(ambiguous(place.key(), &place.get().folder, &folder));
        }
        Entry::Occupied(mut place) => {
            if rank(&folder) < rank(&place.get().folder) {
                place.get_mut().folder = folder;
            }
        }
    }
    Ok(())
}

fn rank(folder: &str) -> (usize, &str) {
    let depth = folder.split('/').filter(|part| !part.is_empty()).count();
    (depth, folder)
}

/// Within one import the first value wins: what its folder imports in turn comes after its own.
fn add_import(found: &mut BTreeMap<String, Found>, import: Import, source: &Source) -> Result<()> {
    for secret in import.secrets {
        let key = checked_key(&secret)?;
        let value = secret.into_value(&source.path)?;
        found.entry(key).or_insert_with(|| Found {
            folder: source.path.clone(),
            value,
        });
    }
    Ok(())
}

fn checked_key(secret: &Secret) -> Result<String> {
    match secret.secret_key.as_str() {
        "" => Err(bad_answer("a secret comes without a name".to_owned())),
        key => Ok(key.to_owned()),
    }
}

fn ambiguous(key: &str, one: &str, other: &str) -> Error {
    let key = quote_name(key);
    let what = match one == other {
        true => format!("{key} is twice in {one}, with different values"),
        false => format!("{key} is in {one} and in {other}, with different values"),
    };
    Error::new(Kind::Refused, what).hint(
        "remove or rename one of them in Infisical, or list the folders as sources of their own",
    )
}

fn bad_answer(why: String) -> Error {
    Error::new(Kind::BadAnswer, format!("not a proper listing: {why}"))
        .hint("check that providers.infisical.api_url leads to an Infisical of a version that this PSI knows")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, recursive: bool) -> Source {
        Source {
            project: "p".to_owned(),
            path: path.to_owned(),
            recursive,
        }
    }

    fn own(key: &str, value: &str, path: &str) -> String {
        format!(r#"{{"secretKey":"{key}","secretValue":"{value}","secretPath":"{path}"}}"#)
    }

    fn imported(key: &str, value: &str) -> String {
        format!(r#"{{"secretKey":"{key}","secretValue":"{value}"}}"#)
    }

    fn merged(source: &Source, own: &[String], imports: &[&[String]]) -> Result<Vec<String>> {
        let imports: Vec<_> = imports
            .iter()
            .map(|secrets| {
                format!(
                    r#"{{"secretPath":"/lies","secrets":[{}]}}"#,
                    secrets.join(",")
                )
            })
            .collect();
        let json = format!(
            r#"{{"secrets":[{}],"imports":[{}]}}"#,
            own.join(","),
            imports.join(",")
        );
        let found = merge(source, serde_json::from_str(&json).unwrap())?;
        let show = |d: Discovered| {
            assert_eq!(d.mapping.get("project"), Some("p"));
            assert_eq!(d.mapping.get("key"), Some(d.key.as_str()));
            let folder = d.mapping.get("path").unwrap();
            format!("{folder} {}={}", d.key, d.value.expose_str().unwrap())
        };
        Ok(found.into_iter().map(show).collect())
    }

    fn refused(source: &Source, own: &[String], kind: Kind, names: &[&str]) {
        let error = merged(source, own, &[]).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        for name in names {
            assert!(error.to_string().contains(name), "{error}");
        }
        assert!(!error.to_string().contains("MARK"), "{error}");
        assert!(error.next_step().is_some());
    }

    #[test]
    fn own_values_win_then_the_last_import_then_the_first() {
        let found = merged(
            &source("/app", false),
            &[own("B", "own", "/app"), own("A", "", "/app/")],
            &[
                &[imported("B", "1"), imported("C", "1"), imported("D", "1")],
                &[imported("B", "2"), imported("C", "2")],
                &[],
            ],
        );
        let expected = ["/app A=", "/app B=own", "/app C=2", "/app D=1"];
        assert_eq!(found.unwrap(), expected);
    }

    #[test]
    fn an_imports_own_value_goes_before_what_it_imports_itself() {
        let nested = [imported("A", "its own"), imported("A", "nested")];
        let found = merged(&source("/", false), &[], &[&nested]);
        assert_eq!(found.unwrap(), ["/ A=its own"]);
    }

    #[test]
    fn a_recursive_listing_stops_at_the_folders_boundary() {
        let secrets = [
            own("A", "1", "/app"),
            own("B", "2", "/app/sub/"),
            own("C", "3", "/app2"),
            own("D", "4", "/"),
        ];
        let below = merged(&source("/app", true), &secrets, &[]).unwrap();
        assert_eq!(below, ["/app A=1", "/app/sub B=2"]);
        let all = merged(&source("/", true), &secrets, &[]).unwrap();
        assert_eq!(all, ["/app A=1", "/app/sub B=2", "/app2 C=3", "/ D=4"]);
    }

    #[test]
    fn a_key_with_two_values_is_refused_with_its_folders() {
        let app = source("/app", false);
        let twice = [own("A", "MARK1", "/app"), own("A", "MARK2", "/app")];
        refused(&app, &twice, Kind::Refused, &["\"A\"", "twice in /app"]);
        let apart = [own("A", "MARK1", "/app/x"), own("A", "MARK2", "/app/y")];
        let tree = source("/app", true);
        refused(&tree, &apart, Kind::Refused, &["\"A\"", "/app/x", "/app/y"]);
    }

    #[test]
    fn the_same_value_twice_is_one_secret_in_the_shallower_folder() {
        let secrets = [
            own("A", "1", "/b/deep"),
            own("A", "1", "/b"),
            own("A", "1", "/a"),
            own("A", "1", "/b/deep"),
        ];
        let found = merged(&source("/", true), &secrets, &[]).unwrap();
        assert_eq!(found, ["/a A=1"]);
    }

    #[test]
    fn a_hidden_value_is_never_taken_for_one() {
        let app = source("/app", false);
        let hidden = own("A", "<hidden-by-infisical>", "/app");
        refused(&app, &[hidden], Kind::Refused, &["\"A\"", "/app"]);
        for value in ["\"MARK\"", "\"\"", "null"] {
            let hidden =
                format!(r#"{{"secretKey":"A","secretValue":{value},"secretValueHidden":true}}"#);
            refused(&app, &[hidden], Kind::Refused, &["\"A\"", "/app"]);
        }
    }

    #[test]
    fn a_secret_without_value_name_or_folder_is_a_bad_answer() {
        let flat = source("/app", false);
        for secret in [
            r#"{"secretKey":"A"}"#,
            r#"{"secretKey":"A","secretValue":null}"#,
        ] {
            refused(&flat, &[secret.to_owned()], Kind::BadAnswer, &["\"A\""]);
        }
        refused(&flat, &[own("", "MARK", "/app")], Kind::BadAnswer, &[]);
        refused(
            &flat,
            &[own("A", "MARK", "/other")],
            Kind::BadAnswer,
            &["/other"],
        );
        let tree = source("/app", true);
        refused(&tree, &[imported("A", "MARK")], Kind::BadAnswer, &["\"A\""]);
        refused(
            &tree,
            &[own("A", "MARK", "/app/../x")],
            Kind::BadAnswer,
            &["\"A\""],
        );
    }
}
