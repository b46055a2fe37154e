//! What is to be compared with what is there: pure, so that a dry run and a run can't differ.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::install::manifest::{Manifest, digest};

/// A file as it is to be: root's, or, in a user's home, that user's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// From the target's root.
    pub path: PathBuf,
    /// Who may do what with it.
    pub permissions: u32,
    /// All of it.
    pub content: Cow<'static, [u8]>,
}

impl File {
    /// A file that everybody may read.
    pub fn text(path: impl Into<PathBuf>, content: impl Into<Cow<'static, str>>) -> Self {
        let content = match content.into() {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        };
        Self {
            path: path.into(),
            permissions: 0o644,
            content,
        }
    }

    /// A file that everybody may run.
    pub fn program(path: impl Into<PathBuf>, content: Vec<u8>) -> Self {
        Self {
            path: path.into(),
            permissions: 0o755,
            content: content.into(),
        }
    }
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A file.
    File {
        /// Of its content.
        digest: String,
        /// Who may do what with it.
        permissions: u32,
    },
    /// A link, e.g. of a masked unit, a directory or a device.
    Other,
}

/// Why a file stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// psi-install wrote it, and somebody has changed it since.
    Edited,
    /// Somebody else wrote it.
    Foreign,
    /// It is no file.
    NoFile,
}

impl Kept {
    /// In a few words.
    pub fn why(self) -> &'static str {
        match self {
            Kept::Edited => "it was edited since psi-install wrote it",
            Kept::Foreign => "psi-install did not write it",
            Kept::NoFile => "it is a link or no file",
        }
    }
}

/// What is to become of one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is missing or of an older version.
    Write(File),
    /// It is what it should be.
    Unchanged(File),
    /// It is an administrator's, and not touched.
    Keep(PathBuf, Kept),
    /// It is ours and no longer wanted.
    Remove(PathBuf),
    /// It was ours, is no longer wanted, and somebody has removed it.
    Forget(PathBuf),
}

impl Step {
    /// The path it is about.
    pub fn path(&self) -> &PathBuf {
        match self {
            Step::Write(file) | Step::Unchanged(file) => &file.path,
            Step::Keep(path, _) | Step::Remove(path) | Step::Forget(path) => path,
        }
    }
}

/// Compares what is wanted with what is there, wanted files first, in their order.
///
/// `found` has every path that is wanted or in the manifest, unless nothing is there. A file that is
/// there and is what is wanted counts as ours, whoever wrote it.
pub fn plan(wanted: Vec<File>, manifest: &Manifest, found: &BTreeMap<PathBuf, Found>) -> Vec<Step> {
    let names: BTreeSet<PathBuf> = wanted.iter().map(|file| file.path.clone()).collect();
    let no_longer = manifest.paths().filter(|path| !names.contains(*path));
    let removals: Vec<Step> = no_longer
        .map(|path| match found.get(path) {
            None => Step::Forget(path.clone()),
            Some(found) => match kept(manifest, path, found) {
                Some(why) => Step::Keep(path.clone(), why),
                None => Step::Remove(path.clone()),
            },
        })
        .collect();
    let writes = wanted.into_iter().map(|file| step(file, manifest, found));
    writes.chain(removals).collect()
}

fn step(file: File, manifest: &Manifest, found: &BTreeMap<PathBuf, Found>) -> Step {
    let Some(there) = found.get(&file.path) else {
        return Step::Write(file);
    };
    if let Found::File {
        digest: is,
        permissions,
    } = there
        && *is == digest(&file.content)
    {
        return match *permissions == file.permissions {
            true => Step::Unchanged(file),
            false => Step::Write(file),
        };
    }
    match kept(manifest, &file.path, there) {
        Some(why) => Step::Keep(file.path, why),
        None => Step::Write(file),
    }
}

/// Nothing if it is as psi-install wrote it.
fn kept(manifest: &Manifest, path: &Path, found: &Found) -> Option<Kept> {
    match (found, manifest.digest(path)) {
        (Found::Other, _) => Some(Kept::NoFile),
        (Found::File { .. }, None) => Some(Kept::Foreign),
        (Found::File { digest, .. }, Some(ours)) => (digest != ours).then_some(Kept::Edited),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Found {
        Found::File {
            digest: digest(text.as_bytes()),
            permissions: 0o644,
        }
    }

    fn ours(text: &str) -> Manifest {
        Manifest::from_iter([("/a".into(), digest(text.as_bytes()))])
    }

    /// The one step for `/a`, wanted as "new" or not at all.
    fn only(is_wanted: bool, manifest: &Manifest, there: Option<Found>) -> Option<Step> {
        let wanted = is_wanted.then(|| File::text("/a", "new"));
        let found = there.map(|found| (PathBuf::from("/a"), found));
        let steps = plan(
            wanted.into_iter().collect(),
            manifest,
            &found.into_iter().collect(),
        );
        assert!(steps.len() < 2);
        steps.into_iter().next()
    }

    #[test]
    fn what_is_missing_or_older_is_written() {
        let write = Some(Step::Write(File::text("/a", "new")));
        assert_eq!(only(true, &Manifest::default(), None), write);
        assert_eq!(only(true, &ours("old"), None), write);
        assert_eq!(only(true, &ours("old"), Some(found("old"))), write);
        let closed = Found::File {
            digest: digest(b"new"),
            permissions: 0o600,
        };
        assert_eq!(only(true, &ours("new"), Some(closed)), write);
    }

    #[test]
    fn what_is_as_it_should_be_is_not_written() {
        let unchanged = Some(Step::Unchanged(File::text("/a", "new")));
        for manifest in [Manifest::default(), ours("old"), ours("new")] {
            assert_eq!(only(true, &manifest, Some(found("new"))), unchanged);
        }
    }

    #[test]
    fn what_is_an_administrators_is_kept() {
        let keep = |why| Some(Step::Keep("/a".into(), why));
        let edited = Some(found("edited"));
        assert_eq!(only(true, &ours("old"), edited.clone()), keep(Kept::Edited));
        assert_eq!(
            only(false, &ours("old"), edited.clone()),
            keep(Kept::Edited)
        );
        assert_eq!(
            only(true, &Manifest::default(), edited),
            keep(Kept::Foreign)
        );
        let masked = Some(Found::Other);
        assert_eq!(only(true, &ours("old"), masked.clone()), keep(Kept::NoFile));
        assert_eq!(only(true, &Manifest::default(), masked), keep(Kept::NoFile));
    }

    #[test]
    fn what_is_ours_and_no_longer_wanted_is_removed() {
        let there = Some(found("old"));
        assert_eq!(
            only(false, &ours("old"), there),
            Some(Step::Remove("/a".into()))
        );
        let forget = Some(Step::Forget("/a".into()));
        assert_eq!(only(false, &ours("old"), None), forget);
    }
}
