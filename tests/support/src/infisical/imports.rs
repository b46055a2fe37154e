//! Imports of folders: what they bring along, under which label.

use super::view::View;
use super::world::{Folder, Right, Secret};

/// A folder with the environment and path that the answer gives for it.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub environment: &'a str,
    pub path: &'a str,
    pub folder: &'a Folder,
}

/// One entry of `imports`. When a source folder is gone the sources move up one label.
pub(super) struct Import<'a> {
    pub environment: &'a str,
    pub path: &'a str,
    pub source: Option<Place<'a>>,
    /// With what the identity may do with each, where it really comes from.
    pub secrets: Vec<(Right, &'a Secret)>,
}

/// The imports of the folders, in their order, without the ones that the identity may not see.
pub(super) fn imports<'a>(view: &View<'a>, places: &[Place<'a>]) -> Vec<Import<'a>> {
    let declared: Vec<_> = places
        .iter()
        .flat_map(|place| sources(view, place.folder))
        .collect();
    let mut existing = declared
        .iter()
        .filter_map(|(environment, path)| place(view, environment, path));
    declared
        .iter()
        .map(|(environment, path)| {
            let source = existing.next();
            let mut secrets = Vec::new();
            flatten(view, source, &mut Vec::new(), &mut secrets);
            Import {
                environment,
                path,
                source,
                secrets,
            }
        })
        .collect()
}

fn sources<'a>(view: &View<'a>, folder: &'a Folder) -> Vec<(&'a str, &'a str)> {
    let sources = folder.imports.iter();
    sources
        .map(|(environment, path)| (environment.as_str(), path.as_str()))
        .filter(|(_, path)| view.right(path).is_some())
        .collect()
}

fn place<'a>(view: &View<'a>, environment: &'a str, path: &'a str) -> Option<Place<'a>> {
    let folder = view.folder(environment, path)?;
    Some(Place {
        environment,
        path,
        folder,
    })
}

/// A folder's own secrets, then those of its imports; each folder once.
fn flatten<'a>(
    view: &View<'a>,
    source: Option<Place<'a>>,
    seen: &mut Vec<(&'a str, &'a str)>,
    secrets: &mut Vec<(Right, &'a Secret)>,
) {
    let Some(Place {
        environment,
        path,
        folder,
    }) = source
    else {
        return;
    };
    let Some(right) = view
        .right(path)
        .filter(|_| !seen.contains(&(environment, path)))
    else {
        return;
    };
    seen.push((environment, path));
    secrets.extend(folder.secrets.iter().map(|secret| (right, secret)));
    for (environment, path) in sources(view, folder) {
        flatten(view, place(view, environment, path), seen, secrets);
    }
}
