//! What became of one workload: in the report, in the log, and as an exit status.

use std::collections::BTreeMap;
use std::fmt::Display;

use serde::Serialize;
use tracing::info;

use crate::cli;
use crate::error::{Error, Kind};
use crate::events::{self, Entry, Event};
use crate::mapping::ProviderName;
use crate::setup::plan::{Action, Plan};
use crate::setup::retire::Gone;

/// Exit status: the provider does not answer, and nothing is missing for want of it.
pub const SERVED_FROM_CACHE: u8 = 75;

/// What became of one workload.
#[derive(Debug, Serialize)]
pub struct WorkloadReport {
    /// Its name.
    pub workload: String,
    /// Where its values come from.
    pub provider: ProviderName,
    /// Names of secrets that Podman did not have.
    pub created: Vec<String>,
    /// Names of secrets that were registered otherwise.
    pub replaced: Vec<String>,
    /// How many secrets were as they should be.
    pub kept: usize,
    /// Names of secrets that left the drop-in: its provider no longer has them.
    pub left: Vec<String>,
    /// What it is not to have any more, kept or removed.
    pub gone: Vec<Gone>,
    /// Where Podman and the drop-in were found to differ.
    pub drift: Drift,
    /// Whether the drop-in is another one now.
    pub drop_in_changes: bool,
    /// Why it keeps what it has.
    pub failure: Option<Failure>,
    /// Whether its provider failed and all its drop-in names is registered and in the cache.
    pub served_from_cache: bool,
    /// What is worth knowing and no failure.
    pub notes: Vec<String>,
}

/// Where Podman and the drop-in were found to differ.
#[derive(Debug, Default, Serialize)]
pub struct Drift {
    /// Names of secrets that the drop-in had and Podman had not.
    pub missing: Vec<String>,
    /// Names of secrets that Podman has under the workload's prefix and that PSI did not register.
    pub unexpected: Vec<String>,
    /// What was missing and is put right, or, dry, would be.
    pub repaired: Vec<String>,
}

impl Drift {
    /// `missing` is put right if `repaired`: registered, or out of the drop-in.
    pub(super) fn of(missing: Vec<String>, repaired: bool, gone: &[Gone]) -> Self {
        let unexpected = gone.iter().filter(|gone| gone.is_unexpected);
        Self {
            unexpected: unexpected.map(|gone| gone.name.clone()).collect(),
            repaired: missing.iter().filter(|_| repaired).cloned().collect(),
            missing,
        }
    }

    /// Whether anything of it is as it was found.
    fn remains(&self) -> bool {
        self.missing.len() + self.unexpected.len() > self.repaired.len()
    }

    fn missing(&self, repaired: bool) -> Vec<&str> {
        let wanted = |name: &&String| self.repaired.contains(name) == repaired;
        let missing = self.missing.iter().filter(wanted);
        missing.map(String::as_str).collect()
    }
}

/// An error, as a report has it.
#[derive(Debug, Serialize)]
pub struct Failure {
    #[serde(skip)]
    kind: Kind,
    /// What happened, to what, and why.
    pub error: String,
    /// What to do next.
    pub hint: Option<String>,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        Self {
            kind: error.kind(),
            error: cli::one_line(error),
            hint: error.next_step().map(str::to_owned),
        }
    }
}

impl Failure {
    /// The class of failure.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// All of it on one line.
    pub fn line(&self) -> String {
        match &self.hint {
            Some(hint) => format!("{}; next: {hint}", self.error),
            None => self.error.clone(),
        }
    }
}

impl WorkloadReport {
    pub(super) fn new(workload: &str, provider: ProviderName) -> Self {
        Self {
            workload: workload.to_owned(),
            provider,
            created: Vec::new(),
            replaced: Vec::new(),
            kept: 0,
            left: Vec::new(),
            gone: Vec::new(),
            drift: Drift::default(),
            drop_in_changes: false,
            failure: None,
            served_from_cache: false,
            notes: Vec::new(),
        }
    }

    /// `before` are the names of the secrets in the drop-in as it was.
    pub(super) fn planned(&mut self, plan: &Plan, before: &[String]) {
        self.created = plan.names(&Action::Create);
        self.replaced = plan.names(&Action::Replace);
        self.kept = plan.names(&Action::Keep).len();
        let is_desired = |name: &&String| plan.registrations.iter().any(|r| r.name == **name);
        let left = before.iter().filter(|name| !is_desired(name));
        self.left = left.cloned().collect();
    }

    pub(super) fn failed(&mut self, error: &Error, is_served: bool) {
        self.failure = Some(error.into());
        self.served_from_cache = is_served;
    }

    /// What stays although its provider no longer has it.
    pub fn retired(&self) -> impl Iterator<Item = &Gone> {
        self.gone.iter().filter(|gone| gone.stays.is_some())
    }

    /// What was removed, or, dry, would be.
    pub fn removed(&self) -> impl Iterator<Item = &Gone> {
        self.gone.iter().filter(|gone| gone.stays.is_none())
    }

    /// The exit status that this workload alone would give.
    pub fn exit_code(&self) -> u8 {
        let Some(failure) = &self.failure else {
            return match self.drift.remains() {
                true => Kind::Refused.exit_code(),
                false => 0,
            };
        };
        match failure.kind {
            Kind::Config => Kind::Config.exit_code(),
            Kind::Unreachable if self.served_from_cache => SERVED_FROM_CACHE,
            Kind::Unreachable => Kind::Unreachable.exit_code(),
            _ => Kind::Refused.exit_code(),
        }
    }

    /// The result in a few words.
    pub fn result(&self) -> &'static str {
        match (&self.failure, self.exit_code()) {
            (None, 0) => "ok",
            (None, _) => "differs, see below",
            (Some(_), SERVED_FROM_CACHE) => "unreachable, served from the cache",
            (Some(_), _) => "failed, keeps what it has",
        }
    }

    /// Each secret that would be touched, one a line.
    pub(super) fn changes(&self) -> Vec<String> {
        let names = |verb: &str, names: &[String]| -> Vec<String> {
            names.iter().map(|name| format!("{verb}: {name}")).collect()
        };
        let kept = self.retired().filter_map(|gone| {
            let why = gone.stays.as_ref()?;
            Some(format!("keep: {}, {why}", gone.name))
        });
        let removed = self.removed().map(|gone| match gone.used_by.as_slice() {
            [] => format!("remove: {}", gone.name),
            users => format!("remove: {}, used by {}", gone.name, users.join(", ")),
        });
        let mut lines = names("create", &self.created);
        lines.extend(names("replace", &self.replaced));
        lines.extend(names("gone upstream", &self.left));
        lines.extend(kept.chain(removed));
        lines
    }

    /// Says in the log what an administrator has to know.
    pub(super) fn log(&self, dry_run: bool) {
        let name = &self.workload;
        if let Some(failure) = &self.failure {
            let (event, outcome) = match self.exit_code() == SERVED_FROM_CACHE {
                true => (
                    events::WORKLOAD_SERVED_FROM_CACHE,
                    "is served from the cache",
                ),
                false => (events::WORKLOAD_FAILED, "keeps what it has"),
            };
            let entry = Entry {
                outcome: Some(failure.kind.word()),
                ..self.entry(event)
            };
            entry.say(format_args!(
                "workload {name} {outcome}: {}",
                failure.line()
            ));
        }
        self.log_drift();
        // A dry run says the rest on standard output.
        if !dry_run && self.failure.is_none() {
            self.log_gone();
        }
        for note in &self.notes {
            self.say(events::WORKLOAD_DOUBTFUL, note);
        }
    }

    fn entry(&self, event: Event) -> Entry<'_> {
        Entry {
            workload: Some(&self.workload),
            provider: Some(self.provider.as_str()),
            ..Entry::of(event)
        }
    }

    fn say(&self, event: Event, what: impl Display) {
        let entry = self.entry(event);
        entry.say(format_args!("workload {}: {what}", self.workload));
    }

    fn log_gone(&self) {
        let name = &self.workload;
        if !self.left.is_empty() {
            let left = self.left.join(", ");
            let what = format_args!("gone at the provider and out of the drop-in: {left}");
            self.say(events::KEYS_GONE, what);
        }
        let mut kept: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for gone in self.retired() {
            let why = gone.stays.as_deref().unwrap_or_default();
            kept.entry(why).or_default().push(&gone.name);
        }
        for (why, names) in kept {
            info!("workload {name}: kept: {}: {why}", names.join(", "));
        }
        let (unused, used): (Vec<&Gone>, Vec<&Gone>) =
            self.removed().partition(|gone| gone.used_by.is_empty());
        if !unused.is_empty() {
            let names: Vec<&str> = unused.iter().map(|gone| gone.name.as_str()).collect();
            info!(
                "workload {name}: removed, no container uses it: {}",
                names.join(", ")
            );
        }
        for gone in used {
            let what = format_args!(
                "removed: {}, which containers still use: the next exec, health check or restart of {} fails; next: restart their units",
                gone.name,
                gone.used_by.join(", ")
            );
            self.say(events::REMOVED_IN_USE, what);
        }
    }

    fn log_drift(&self) {
        let drift = &self.drift;
        let say = |names: Vec<&str>, what: &str| {
            if !names.is_empty() {
                let what = format_args!("{what}: {}", names.join(", "));
                self.say(events::SECRETS_MISSING, what);
            }
        };
        say(
            drift.missing(true),
            "Podman did not have what the drop-in names, which is put right",
        );
        say(
            drift.missing(false),
            "Podman does not have what the drop-in names",
        );
        if !drift.unexpected.is_empty() {
            let what = format_args!(
                "Podman has what PSI did not register: {}; next: `podman secret rm {}`, if nothing uses it",
                drift.unexpected.join(", "),
                drift.unexpected.join(" ")
            );
            self.say(events::SECRETS_UNEXPECTED, what);
        }
    }
}
