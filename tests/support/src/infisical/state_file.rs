//! The server's data as a JSON file, for scripts. The program `stand-in-infisical` says what is in it.

use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

use serde::Deserialize;

use super::world::{Identity, World};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StateFile {
    projects: BTreeMap<String, BTreeMap<String, BTreeMap<String, FolderEntry>>>,
    identities: Vec<IdentityEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FolderEntry {
    #[serde(default)]
    secrets: BTreeMap<String, String>,
    #[serde(default)]
    imports: Vec<ImportEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ImportEntry {
    environment: String,
    path: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityEntry {
    client_id: String,
    client_secret: String,
    may_read: Vec<GrantEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GrantEntry {
    project: String,
    #[serde(default = "root")]
    path: String,
}

fn root() -> String {
    "/".into()
}

/// The text of a state file, and what it says.
pub(super) fn read(path: &Path) -> io::Result<(String, World)> {
    let text = fs::read_to_string(path)?;
    let world = parse(&text)?;
    Ok((text, world))
}

fn parse(text: &str) -> io::Result<World> {
    let file: StateFile = serde_json::from_str(text)?;
    let mut world = World::default();
    for (project, environments) in file.projects {
        for (environment, folders) in environments {
            world.environment(&project, &environment);
            for (path, entry) in folders {
                let folder = world.folder(&project, &environment, &path);
                let imports = entry.imports.into_iter();
                folder.imports = imports.map(|i| (i.environment, i.path)).collect();
                for (key, value) in entry.secrets {
                    world.set(&project, &environment, &path, &key, &value);
                }
            }
        }
    }
    for entry in file.identities {
        let identity = Identity::new(&entry.client_id, &entry.client_secret);
        let identity = entry.may_read.iter().fold(identity, |identity, grant| {
            identity.may_read(&grant.project, &grant.path)
        });
        world.identities.insert(entry.client_id, identity);
    }
    Ok(world)
}
