//! What the server holds: projects, their environments and folders, secrets, and identities.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Everything the server would have in its data base.
#[derive(Debug, Default)]
pub(super) struct World {
    pub projects: BTreeMap<String, Project>,
    pub identities: BTreeMap<String, Identity>,
}

/// Environments by their slug.
pub(super) type Project = BTreeMap<String, Environment>;

/// Folders by their path; the root is always there.
pub(super) type Environment = BTreeMap<String, Folder>;

#[derive(Debug, Default)]
pub(super) struct Folder {
    pub secrets: Vec<Secret>,
    /// Environment and path of each source, the first one first.
    pub imports: Vec<(String, String)>,
}

#[derive(Debug)]
pub(super) struct Secret {
    pub id: String,
    pub key: String,
    pub value: String,
    pub version: u64,
}

impl World {
    /// Project and environment; both are made if they are new.
    pub fn environment(&mut self, project: &str, environment: &str) -> &mut Environment {
        let project = self.projects.entry(project.into()).or_default();
        let environment = project.entry(environment.into()).or_default();
        environment.entry("/".into()).or_default();
        environment
    }

    /// The folder at `path`; it and everything above it is made if it is new.
    pub fn folder(&mut self, project: &str, environment: &str, path: &str) -> &mut Folder {
        let environment = self.environment(project, environment);
        for (end, _) in path.match_indices('/').skip(1) {
            environment.entry(path[..end].into()).or_default();
        }
        environment.entry(path.into()).or_default()
    }

    /// Sets the first secret called `key`, or adds one.
    pub fn set(&mut self, project: &str, environment: &str, path: &str, key: &str, value: &str) {
        let folder = self.folder(project, environment, path);
        match folder.secrets.iter_mut().find(|secret| secret.key == key) {
            Some(secret) => {
                secret.value = as_stored(value);
                secret.version += 1;
            }
            None => self.add(project, environment, path, key, value),
        }
    }

    /// Adds a secret, also where there is one with that name already.
    pub fn add(&mut self, project: &str, environment: &str, path: &str, key: &str, value: &str) {
        let folder = self.folder(project, environment, path);
        let place = (project, environment, path, key, folder.secrets.len());
        folder.secrets.push(Secret {
            id: uuid(&place),
            key: key.into(),
            value: as_stored(value),
            version: 1,
        });
    }

    /// Removes every secret called `key` from the folder.
    pub fn remove(&mut self, project: &str, environment: &str, path: &str, key: &str) {
        let folder = self.folder(project, environment, path);
        folder.secrets.retain(|secret| secret.key != key);
    }

    /// Removes the folder and what is below it.
    pub fn remove_folder(&mut self, project: &str, environment: &str, path: &str) {
        self.environment(project, environment)
            .retain(|folder, _| folder == "/" || !is_within(folder, path));
    }
}

/// A machine identity with universal auth, and what it may see.
///
/// It is a member of the projects it has a right in, and sees nothing of the others.
#[derive(Clone, Debug)]
pub struct Identity {
    pub(super) client_id: String,
    pub(super) client_secret: String,
    grants: Vec<Grant>,
}

#[derive(Clone, Debug)]
struct Grant {
    project: String,
    path: String,
    right: Right,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Right {
    /// Names and values.
    Read,
    /// Names only.
    List,
}

impl Identity {
    /// An identity without any right.
    pub fn new(client_id: &str, client_secret: &str) -> Self {
        Self {
            client_id: client_id.into(),
            client_secret: client_secret.into(),
            grants: Vec::new(),
        }
    }

    /// May read `path` and all below it, in every environment of `project`. The longest path that
    /// has a rule decides.
    #[must_use]
    pub fn may_read(self, project: &str, path: &str) -> Self {
        self.may(project, path, Right::Read)
    }

    /// As [`Identity::may_read`], but sees `<hidden-by-infisical>` in place of each value. Servers
    /// of [`super::Api::V3Only`] don't know such a right and deny the folder.
    #[must_use]
    pub fn may_list(self, project: &str, path: &str) -> Self {
        self.may(project, path, Right::List)
    }

    fn may(mut self, project: &str, path: &str, right: Right) -> Self {
        self.grants.push(Grant {
            project: project.into(),
            path: path.into(),
            right,
        });
        self
    }

    pub(super) fn is_member(&self, project: &str) -> bool {
        self.grants.iter().any(|grant| grant.project == project)
    }

    pub(super) fn right(&self, project: &str, path: &str) -> Option<Right> {
        self.grants
            .iter()
            .filter(|grant| grant.project == project && is_within(path, &grant.path))
            .max_by_key(|grant| grant.path.len())
            .map(|grant| grant.right)
    }
}

fn is_within(path: &str, folder: &str) -> bool {
    match path.strip_prefix(folder) {
        Some(rest) => rest.is_empty() || rest.starts_with('/') || folder == "/",
        None => folder == "/",
    }
}

/// What the server keeps of a value that is written through its API.
fn as_stored(value: &str) -> String {
    let end = if value.ends_with('\n') { "\n" } else { "" };
    format!("{}{end}", value.trim())
}

/// An id that looks random and is always the same for the same thing.
pub(super) fn uuid(of: &impl Hash) -> String {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, of).hash(&mut hasher);
        hasher.finish()
    };
    let text = format!("{:016x}{:016x}", half(0), half(1));
    format!(
        "{}-{}-4{}-a{}-{}",
        &text[..8],
        &text[8..12],
        &text[13..16],
        &text[17..20],
        &text[20..]
    )
}
