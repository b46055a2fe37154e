//! What Podman calls the secrets that a mapping is behind, for the log.
//!
//! Podman tells its driver a secret's id only, and psi-serve can't ask Podman. psi-setup makes a
//! name of the workload's and the variable's, and the configuration says which workloads a mapping
//! is for: it needs no memory of what was registered, and is right after a restart.

use crate::config::{Config, WorkloadSecrets};
use crate::mapping::{Mapping, ProviderName};
use crate::secret::secret_name;

/// What each configured workload gets from where.
#[derive(Debug)]
pub struct Names(Vec<(String, ProviderName, WorkloadSecrets)>);

impl Names {
    /// By this configuration.
    pub fn new(config: &Config) -> Self {
        let of_workload = |(name, workload): (&String, &crate::config::Workload)| {
            (name.clone(), workload.provider, workload.secrets.clone())
        };
        Self(config.workloads.iter().map(of_workload).collect())
    }

    /// The names of the secrets with this mapping: several if workloads share it, none if no
    /// workload is to have it.
    pub fn of(&self, mapping: &Mapping) -> Vec<String> {
        let of_provider =
            |(_, provider, _): &&(_, ProviderName, _)| *provider == mapping.provider();
        let workloads = self.0.iter().filter(of_provider);
        workloads
            .flat_map(|(workload, _, secrets)| {
                let targets = targets(secrets, mapping);
                targets.into_iter().map(|t| secret_name(workload, t))
            })
            .collect()
    }
}

/// What the variables with this mapping are called.
fn targets<'a>(secrets: &'a WorkloadSecrets, mapping: &'a Mapping) -> Vec<&'a str> {
    let Some(key) = mapping.get("key") else {
        return Vec::new();
    };
    match secrets {
        WorkloadSecrets::Keys(keys) => {
            let with_key = keys.iter().filter(|k| k.key == key);
            with_key.map(|k| k.target.as_str()).collect()
        }
        WorkloadSecrets::Sources(sources) => {
            let folder = mapping.get("project").zip(mapping.get("path"));
            let is_listed = folder
                .is_some_and(|(project, path)| sources.iter().any(|s| s.covers(project, path)));
            is_listed.then_some(key).into_iter().collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Environment;

    const CONFIG: &str = "
providers:
  local: {}
  infisical:
    api_url: http://127.0.0.1:1
    auth: {method: universal-auth, client_id: c, client_secret: s}
    projects: {p: {id: i}, q: {id: j}}
workloads:
  app: {secrets: [{project: p, path: /app}, {project: p, path: /shared, recursive: true}]}
  web: {secrets: [{project: p, path: /shared}]}
  db: {provider: local, secrets: [{key: A, as: B}, {key: A, as: C}]}
";

    fn names(mapping: &Mapping) -> String {
        let file = Path::new("config.yaml");
        let config = Config::parse(file, CONFIG, true, &Environment::default()).unwrap();
        Names::new(&config).of(mapping).join(" ")
    }

    fn at(project: &str, path: &str, key: &str) -> Mapping {
        let fields = [("project", project), ("path", path), ("key", key)];
        Mapping::new(ProviderName::Infisical, fields)
    }

    #[test]
    fn a_mapping_is_called_as_the_secrets_of_the_workloads_that_list_its_folder() {
        assert_eq!(names(&at("p", "/app", "A")), "app--A");
        assert_eq!(names(&at("p", "/shared", "A")), "app--A web--A");
        assert_eq!(names(&at("p", "/shared/below", "A")), "app--A");
        assert_eq!(names(&at("q", "/app", "A")), "");
        assert_eq!(names(&at("p", "/application", "A")), "");
    }

    #[test]
    fn a_key_is_called_as_its_variables() {
        let local = |key| Mapping::new(ProviderName::Local, [("key", key)]);
        assert_eq!(names(&local("A")), "db--B db--C");
        assert_eq!(names(&local("B")), "");
        assert_eq!(
            names(&Mapping::new(ProviderName::NitrokeyHsm, [("blob", "A")])),
            ""
        );
    }
}
