//! `/etc/psi/installed`: what psi-install wrote, so that it knows its own files again. The format is
//! that of sha256sum(1): `sha256sum --check /etc/psi/installed` names what was edited.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest as hash};

const FIRST_LINE: &str =
    "# What psi-install wrote; `sha256sum --check` with this file names what was edited since.\n";

/// Paths with the SHA-256 of what was written there, in hexadecimal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest(BTreeMap<PathBuf, String>);

/// SHA-256, in hexadecimal.
pub fn digest(content: &[u8]) -> String {
    let digest = hash(&SHA256, content);
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

impl Manifest {
    /// Nothing if a line is none of ours: then nobody knows which files are.
    pub fn parse(text: &str) -> Option<Self> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(entry).collect()
    }

    /// The file's text.
    pub fn text(&self) -> String {
        let mut text = FIRST_LINE.to_owned();
        for (path, digest) in &self.0 {
            // Writing to a text can't fail.
            let _ = writeln!(text, "{digest}  {}", path.display());
        }
        text
    }

    /// What was written to `path`.
    pub fn digest(&self, path: &Path) -> Option<&str> {
        self.0.get(path).map(String::as_str)
    }

    /// Notes what was written to `path`.
    pub fn note(&mut self, path: &Path, digest: String) {
        self.0.insert(path.to_owned(), digest);
    }

    /// Notes that `path` was removed.
    pub fn forget(&mut self, path: &Path) {
        self.0.remove(path);
    }

    /// All that was written.
    pub fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.0.keys()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(PathBuf, String)> for Manifest {
    fn from_iter<T: IntoIterator<Item = (PathBuf, String)>>(files: T) -> Self {
        Self(files.into_iter().collect())
    }
}

fn entry(line: &str) -> Option<(PathBuf, String)> {
    let (digest, path) = line.split_once("  ")?;
    let is_digest = digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit());
    let path = Path::new(path);
    let is_path = path.is_absolute() && !path.as_os_str().as_bytes().ends_with(b"/");
    (is_digest && is_path).then(|| (path.to_owned(), digest.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_comes_back_as_it_was_written() {
        let manifest = Manifest::from_iter([
            ("/etc/a b".into(), digest(b"a")),
            ("/etc/c".into(), digest(b"")),
        ]);
        assert_eq!(Manifest::parse(&manifest.text()), Some(manifest));
        assert_eq!(Manifest::parse(""), Some(Manifest::default()));
    }

    #[test]
    fn what_is_no_manifest_is_not_taken_for_one() {
        let digest = digest(b"a");
        for line in ["hello", "abc  /etc/a", &digest, &format!("{digest}  etc/a")] {
            assert_eq!(Manifest::parse(line), None, "{line}");
        }
    }
}
