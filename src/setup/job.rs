//! One workload on its way through a run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::config::{Config, Scope, Workload, WorkloadSecrets};
use crate::error::{Error, Kind, Result};
use crate::mapping::{Mapping, ProviderName};
use crate::setup::discover::Listings;
use crate::setup::dropin;
use crate::setup::guard::{self, Guard};
use crate::setup::outcome::{Drift, WorkloadReport};
use crate::setup::plan::{self, Actual, Desired, Driver, Plan};
use crate::setup::retire::Gone;
use crate::wire::WorkloadEntries;

/// Where quadlet looks besides `systemd_dir` (podman-systemd.unit(5)).
const SYSTEM_QUADLETS: [&str; 3] = [
    "/etc/containers/systemd",
    "/run/containers/systemd",
    "/usr/share/containers/systemd",
];

/// One workload on its way through a run.
pub struct Job<'a> {
    /// The workload's name.
    pub name: &'a str,
    /// What the configuration says of it.
    pub workload: &'a Workload,
    /// Where its drop-in is.
    pub drop_in: PathBuf,
    /// The drop-in that is there.
    pub drop_in_now: Option<String>,
    /// The secrets that the drop-in named before this run.
    pub before: Vec<String>,
    /// When the drop-in was changed last before this run, in seconds since 1970.
    pub changed: Option<u64>,
    /// Whether all that the drop-in names is registered and sealed in the cache, as far as this
    /// run knows.
    pub is_served: bool,
    /// Each variable's mapping, once it is planned.
    pub mappings: BTreeMap<String, Mapping>,
    /// The values, until they are handed over.
    pub entries: WorkloadEntries,
    /// What is to be done, or why it keeps what it has.
    pub outcome: Result<Plan>,
    /// Whether this run wrote its drop-in.
    pub drop_in_written: bool,
    /// What Podman has for it and it is not to have.
    pub gone: Vec<Gone>,
    /// How many of its values in the cache are retired.
    pub retired: usize,
    /// What the drop-in named before this run and Podman did not have.
    missing: Vec<String>,
    has_unit: bool,
    /// Why its drop-in can't be read.
    unreadable: Option<Error>,
}

impl<'a> Job<'a> {
    /// What is there of `workload` before anything is fetched. A drop-in that can't be read is
    /// what becomes of it.
    pub fn new(
        config: &Config,
        name: &'a str,
        workload: &'a Workload,
        actual: &Actual<'_>,
        driver: &Driver,
    ) -> Self {
        let drop_in = dropin::path(&config.systemd_dir, &workload.unit);
        let (drop_in_now, unreadable) = match dropin::read(&drop_in) {
            Ok(text) => (text, None),
            Err(error) => (None, Some(error)),
        };
        let before = drop_in_now.as_deref().map(dropin::secret_names);
        let before = before.unwrap_or_default();
        let missing = before.iter().filter(|n| !actual.secrets.contains_key(**n));
        let is_tokens = workload.provider == ProviderName::NitrokeyHsm;
        let is_served = match (&workload.secrets, &drop_in_now) {
            _ if unreadable.is_some() => false,
            (WorkloadSecrets::Keys(keys), _) if before.is_empty() => keys.is_empty(),
            (WorkloadSecrets::Sources(_), None) => false,
            // Its values need the token at their first lookup, whatever psi-setup does.
            (WorkloadSecrets::Keys(_), _) if is_tokens && !workload.cache => {
                before.iter().all(|n| actual.is_registered(n, driver))
            }
            _ => before.iter().all(|n| actual.is_served(n, driver)),
        };
        Self {
            name,
            workload,
            missing: missing.map(|&name| name.to_owned()).collect(),
            before: before.into_iter().map(str::to_owned).collect(),
            changed: dropin::changed(&drop_in),
            drop_in,
            drop_in_now,
            is_served,
            mappings: BTreeMap::new(),
            entries: WorkloadEntries::default(),
            outcome: Err(Error::new(Kind::Internal, "it was not planned")),
            drop_in_written: false,
            gone: Vec::new(),
            retired: 0,
            has_unit: has_unit(config, &workload.unit),
            unreadable,
        }
    }

    /// Checks what the providers have for it and compares it with what is there.
    pub fn plan(
        &mut self,
        listings: &Listings,
        actual: &Actual<'_>,
        driver: &Driver,
        accept_removals: bool,
        now: u64,
    ) {
        if let Some(error) = self.unreadable.take() {
            self.outcome = Err(error);
            return;
        }
        if self.keeps_secrets() {
            self.outcome = Ok(Plan::default());
            return;
        }
        self.outcome = listings.of(self.name, self.workload).and_then(|found| {
            let guard = Guard {
                workload: self.name,
                before: self.names_now(actual),
                folders: actual.folders(self.name),
                resolved: actual.resolved(self.name),
                resolved_mappings: &actual.resolved,
                // Keys that config.yaml lists one by one are no mistake upstream; a list that is
                // empty may be one.
                accept_removals: accept_removals || lists_keys(self.workload),
                where_keys_are: match self.workload.secrets {
                    WorkloadSecrets::Keys(_) => "list its keys under `secrets:` in config.yaml",
                    WorkloadSecrets::Sources(_) => guard::LOOK_AT_THE_FOLDER,
                },
            };
            guard.check(&found)?;
            self.mappings = found.mappings;
            self.entries = found.entries;
            let desired = Desired {
                workload: self.name,
                provider: self.workload.provider,
                secrets: &self.mappings,
            };
            plan::plan(&desired, actual, driver)
        });
        self.gone = Gone::of(self, actual, driver, now);
    }

    /// Fails after the providers have answered. What it has may be another than it was, so it no
    /// longer counts as served.
    pub fn fail(&mut self, error: Error) {
        self.outcome = Err(error);
        self.is_served = false;
    }

    /// Whether its secrets are somebody else's business: a token's that are not listed.
    fn keeps_secrets(&self) -> bool {
        let WorkloadSecrets::Keys(keys) = &self.workload.secrets else {
            return false;
        };
        self.workload.provider == ProviderName::NitrokeyHsm && keys.is_empty()
    }

    /// Whether anything of it may be removed: not while it keeps what it has.
    pub fn may_lose(&self) -> bool {
        self.outcome.is_ok() && !self.gone.is_empty()
    }

    /// The secrets that its containers start with now; without a drop-in, all that it has.
    fn names_now<'n>(&'n self, actual: &'n Actual<'_>) -> Vec<&'n str> {
        match &self.drop_in_now {
            Some(text) => dropin::secret_names(text),
            None => {
                let mut names = actual.names_of(self.name);
                names.retain(|name| !actual.is_retired(name, self.name));
                names
            }
        }
    }

    /// The drop-in it is to have, if that is another one than it has.
    pub fn new_drop_in(&self) -> Option<String> {
        let plan = self.outcome.as_ref().ok()?;
        let is_empty = plan.registrations.is_empty() && self.workload.depends_on.is_empty();
        if is_empty && (self.drop_in_now.is_none() || self.keeps_secrets()) {
            return None;
        }
        let lines = match &self.drop_in_now {
            Some(text) if self.keeps_secrets() => dropin::secret_lines(text),
            _ => plan.registrations.iter().map(dropin::secret_line).collect(),
        };
        let text = dropin::render(self.workload, self.name, &lines);
        (self.drop_in_now.as_ref() != Some(&text)).then_some(text)
    }

    /// What became of it.
    pub fn report(self) -> WorkloadReport {
        let drop_in_changes = self.drop_in_written || self.new_drop_in().is_some();
        let mut report = WorkloadReport::new(self.name, self.workload.provider);
        if !self.has_unit {
            let unit = &self.workload.unit;
            report.notes.push(format!(
                "there is no {unit} beside {}: it has no effect yet",
                self.drop_in.display()
            ));
        }
        report.drop_in_changes = drop_in_changes;
        let keeps_secrets = self.keeps_secrets();
        let repaired = self.outcome.is_ok() && !keeps_secrets;
        report.drift = Drift::of(self.missing, repaired, &self.gone);
        report.gone = self.gone;
        report.gone.retain(|gone| !gone.is_unexpected);
        match self.outcome {
            Ok(_) if keeps_secrets => {}
            Ok(plan) => report.planned(&plan, &self.before),
            Err(error) => report.failed(&error, self.is_served),
        }
        report
    }
}

fn lists_keys(workload: &Workload) -> bool {
    matches!(&workload.secrets, WorkloadSecrets::Keys(keys) if !keys.is_empty())
}

fn has_unit(config: &Config, unit: &str) -> bool {
    let elsewhere = match config.scope {
        Scope::System => SYSTEM_QUADLETS.as_slice(),
        // A user's quadlets may lie in more places than can be told from here.
        Scope::User => return true,
    };
    let folders = elsewhere.iter().map(Path::new);
    let mut folders = folders.chain([config.systemd_dir.as_path()]);
    folders.any(|folder| folder.join(unit).exists())
}
