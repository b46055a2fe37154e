//! A project as one identity sees it.

use super::Api;
use super::answer::{Answer, Result};
use super::world::{Folder, Identity, Project, Right, World};

pub(super) struct View<'a> {
    pub project_id: &'a str,
    project: &'a Project,
    identity: &'a Identity,
    pub api: Api,
}

impl<'a> View<'a> {
    pub fn open(
        world: &'a World,
        client_id: &str,
        project_id: &'a str,
        api: Api,
    ) -> Result<View<'a>> {
        let project = world.projects.get(project_id).ok_or_else(|| {
            Answer::not_found(&format!("Project with ID '{project_id}' not found"))
        })?;
        let identity = world
            .identities
            .get(client_id)
            .filter(|identity| identity.is_member(project_id))
            .ok_or_else(|| {
                Answer::error(
                    403,
                    "Identity is not a member of the specified project",
                    "You are not allowed to access this resource",
                )
            })?;
        Ok(Self {
            project_id,
            project,
            identity,
            api,
        })
    }

    /// What the identity may do with the folder, whether it is there or not.
    pub fn right(&self, path: &str) -> Option<Right> {
        let right = self.identity.right(self.project_id, path);
        right.filter(|right| self.api == Api::V4 || *right == Right::Read)
    }

    pub fn require_right(&self, path: &str) -> Result<Right> {
        self.right(path).ok_or_else(|| {
            Answer::error(
                403,
                "PermissionDenied",
                "You are not allowed to read on secrets",
            )
        })
    }

    pub fn has_environment(&self, environment: &str) -> bool {
        self.project.contains_key(environment)
    }

    /// The folder at exactly that path.
    pub fn folder(&self, environment: &str, path: &str) -> Option<&'a Folder> {
        self.project.get(environment)?.get(path)
    }

    /// Every folder whose path begins with `prefix`, in the middle of a name or not.
    pub fn folders_from(&self, environment: &str, prefix: &str) -> Vec<(&'a str, &'a Folder)> {
        let folders = self.project.get(environment).into_iter().flatten();
        folders
            .map(|(path, folder)| (path.as_str(), folder))
            .filter(|(path, _)| path.starts_with(prefix) && self.right(path).is_some())
            .collect()
    }
}
