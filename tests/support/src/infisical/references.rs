//! `${…}` in values, resolved the way the server does it, garbage on cycles included.

use super::answer::{Answer, Result};
use super::view::View;
use super::world::Right;

/// Rounds after which the server stops following references.
const MAX_DEPTH: usize = 10;

/// What an unresolvable reference leads to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Strictness {
    /// It stays in the value: listings.
    Lenient,
    /// Missing folders and denied secrets are errors: a secret asked for by name.
    Strict,
}

struct Visit {
    value: String,
    environment: String,
    path: String,
    depth: usize,
}

/// `value` of a secret in that folder with its references resolved.
pub(super) fn expand(
    view: &View<'_>,
    strictness: Strictness,
    (environment, path): (&str, &str),
    value: &str,
) -> Result<String> {
    let mut expanded = value.to_owned();
    let mut stack = vec![Visit {
        value: value.into(),
        environment: environment.into(),
        path: path.into(),
        depth: 0,
    }];
    while let Some(visit) = stack.pop() {
        for reference in references(&visit.value) {
            let (environment, path, key) = target(&reference, &visit);
            let Some(referred) = referred(view, strictness, (&environment, &path), &key)? else {
                continue;
            };
            expanded = expanded.replace(&reference, &replacement(&reference, &referred));
            if visit.depth < MAX_DEPTH {
                stack.push(Visit {
                    value: referred,
                    environment,
                    path,
                    depth: visit.depth + 1,
                });
            }
        }
    }
    Ok(expanded)
}

/// Every `${…}` of the value, braces included.
fn references(value: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = value;
    while let Some(start) = rest.find("${") {
        rest = &rest[start..];
        match rest.find('}') {
            Some(end) if end > "${".len() => {
                found.push(rest[..=end].to_owned());
                rest = &rest[end..];
            }
            _ => rest = &rest["${".len()..],
        }
    }
    found
}

/// Environment, path and key that a reference means, seen from the folder it is in.
fn target(reference: &str, from: &Visit) -> (String, String, String) {
    let inside = reference[2..reference.len() - 1].trim();
    match inside.split('.').collect::<Vec<_>>().as_slice() {
        [environment, folders @ .., key] => {
            let path = format!("/{}", folders.join("/"));
            ((*environment).into(), path, (*key).into())
        }
        _ => (from.environment.clone(), from.path.clone(), inside.into()),
    }
}

/// The value that is referred to; `None` leaves the reference as it is.
fn referred(
    view: &View<'_>,
    strictness: Strictness,
    (environment, path): (&str, &str),
    key: &str,
) -> Result<Option<String>> {
    let folder = view.folder(environment, path);
    let strict = strictness == Strictness::Strict;
    if strict && folder.is_none() {
        return Err(Answer::broken());
    }
    if view.right(path) != Some(Right::Read) {
        return match strict {
            true => Err(Answer::error(
                403,
                "ForbiddenError",
                format!("You do not have permission to read secret '{key}'"),
            )),
            false => Ok(None),
        };
    }
    let secret = folder.and_then(|folder| folder.secrets.iter().find(|s| s.key == key));
    Ok(secret
        .map(|secret| secret.value.clone())
        .filter(|value| !value.is_empty()))
}

/// The server takes the referred value for a JavaScript replacement pattern.
fn replacement(reference: &str, referred: &str) -> String {
    let mut parts = referred
        .split("$$")
        .map(|part| part.replace("$&", reference));
    let first = parts.next().unwrap_or_default();
    parts.fold(first, |text, part| format!("{text}${part}"))
}
