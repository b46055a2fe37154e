//! What a run did or would do: as a table, as JSON, in the log, and as an exit status.

use serde::Serialize;
use tracing::{error, info, warn};

use crate::cli;
use crate::error::{Error, Kind, Result};
use crate::mapping::ProviderName;
use crate::setup::Options;
use crate::setup::plan::{Action, Plan};

/// Exit status: the provider does not answer, and nothing is missing for want of it.
pub const SERVED_FROM_CACHE: u8 = 75;

/// What a run did, or, dry, would do.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether nothing was changed on purpose.
    pub dry_run: bool,
    /// The workloads, by name.
    pub workloads: Vec<WorkloadReport>,
    /// The generation of the cache that has all values.
    pub generation: Option<u64>,
    /// What became of systemd's daemon-reload, if one was due.
    pub reloaded: Option<Result<(), Failure>>,
    /// What is worth knowing and no failure.
    pub notes: Vec<String>,
}

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
    /// Names of secrets that the provider has no longer.
    pub gone: Vec<String>,
    /// Whether the drop-in is another one now.
    pub drop_in_changes: bool,
    /// Why it keeps what it has.
    pub failure: Option<Failure>,
    /// Whether, failing that, all its drop-in names is registered and in the cache.
    pub served_from_cache: bool,
    /// What is worth knowing and no failure.
    pub notes: Vec<String>,
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
    fn line(&self) -> String {
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
            gone: Vec::new(),
            drop_in_changes: false,
            failure: None,
            served_from_cache: false,
            notes: Vec::new(),
        }
    }

    pub(super) fn planned(&mut self, plan: &Plan) {
        self.created = plan.names(&Action::Create);
        self.replaced = plan.names(&Action::Replace);
        self.kept = plan.names(&Action::Keep).len();
        self.gone.clone_from(&plan.gone);
    }

    pub(super) fn failed(&mut self, error: &Error, is_served: bool) {
        self.failure = Some(error.into());
        self.served_from_cache = is_served;
    }

    /// The exit status that this workload alone would give.
    fn exit_code(&self) -> u8 {
        let Some(failure) = &self.failure else {
            return 0;
        };
        match failure.kind {
            Kind::Config => Kind::Config.exit_code(),
            Kind::Unreachable if self.served_from_cache => SERVED_FROM_CACHE,
            Kind::Unreachable => Kind::Unreachable.exit_code(),
            _ => Kind::Refused.exit_code(),
        }
    }

    fn outcome(&self) -> &'static str {
        match (&self.failure, self.exit_code()) {
            (None, _) => "ok",
            (Some(_), SERVED_FROM_CACHE) => "unreachable, served from the cache",
            (Some(_), _) => "failed, keeps what it has",
        }
    }
}

impl Report {
    pub(super) fn new(dry_run: bool) -> Self {
        Self {
            dry_run,
            workloads: Vec::new(),
            generation: None,
            reloaded: None,
            notes: Vec::new(),
        }
    }

    /// The gravest of the workloads' outcomes: 78 configuration, 69 something is missing, 1
    /// something was refused, 75 unreachable and nothing is missing, 0 done.
    pub fn exit_code(&self) -> u8 {
        let workloads = self.workloads.iter().map(WorkloadReport::exit_code);
        let codes: Vec<u8> = workloads.chain(self.reload_code()).collect();
        let gravest = [
            Kind::Config.exit_code(),
            Kind::Unreachable.exit_code(),
            Kind::Refused.exit_code(),
            SERVED_FROM_CACHE,
        ];
        let found = gravest.into_iter().find(|code| codes.contains(code));
        found.unwrap_or(0)
    }

    /// A systemd that failed to read the new drop-ins; where there is none, nothing has failed.
    fn reload_code(&self) -> Option<u8> {
        match &self.reloaded {
            Some(Err(failure)) if failure.kind != Kind::Unreachable => {
                Some(Kind::Refused.exit_code())
            }
            _ => None,
        }
    }

    /// As `options` ask for it.
    ///
    /// # Errors
    /// As [`Report::json`].
    pub fn text(&self, options: &Options) -> Result<String> {
        match options.json {
            true => self.json(),
            false => Ok(self.table()),
        }
    }

    /// For programs: one object.
    ///
    /// # Errors
    /// [`Kind::Internal`] if it can't be written as JSON.
    pub fn json(&self) -> Result<String> {
        serde_json::to_string_pretty(self)
            .map(|json| format!("{json}\n"))
            .map_err(|e| Error::new(Kind::Internal, "cannot write the report").because(e))
    }

    /// For people: a line a workload.
    pub fn table(&self) -> String {
        let row = |w: &WorkloadReport| {
            vec![
                w.workload.clone(),
                w.provider.to_string(),
                w.created.len().to_string(),
                w.replaced.len().to_string(),
                w.kept.to_string(),
                w.gone.len().to_string(),
                if w.drop_in_changes { "new" } else { "same" }.to_owned(),
                w.outcome().to_owned(),
            ]
        };
        let rows: Vec<Vec<String>> = self.workloads.iter().map(row).collect();
        let headers = [
            "WORKLOAD", "PROVIDER", "NEW", "REPLACED", "KEPT", "GONE", "DROP-IN", "RESULT",
        ];
        let mut text = cli::table(&headers, &rows);
        if self.dry_run {
            text.push_str(&self.changes());
            text.push_str("dry run: nothing was changed\n");
        }
        text
    }

    /// Each secret that would be touched, one a line.
    fn changes(&self) -> String {
        let mut text = String::new();
        for workload in &self.workloads {
            for (verb, names) in [
                ("create", &workload.created),
                ("replace", &workload.replaced),
                ("gone upstream", &workload.gone),
            ] {
                for name in names {
                    text.push_str(&format!("{verb}: {name}\n"));
                }
            }
        }
        text
    }

    /// Says in the log what an administrator has to know, once each.
    pub fn log(&self) {
        for workload in &self.workloads {
            let name = &workload.workload;
            if let Some(failure) = &workload.failure {
                match workload.exit_code() == SERVED_FROM_CACHE {
                    true => warn!(
                        "workload {name} is served from the cache: {}",
                        failure.line()
                    ),
                    false => error!("workload {name} keeps what it has: {}", failure.line()),
                }
            }
            if !workload.gone.is_empty() {
                warn!(
                    "workload {name}: gone at the provider and out of the drop-in, kept for running containers: {}",
                    workload.gone.join(", ")
                );
            }
            for note in &workload.notes {
                warn!("workload {name}: {note}");
            }
        }
        if let Some(Err(failure)) = &self.reloaded {
            warn!("drop-ins were written and not loaded: {}", failure.line());
        }
        self.notes.iter().for_each(|note| info!("{note}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(outcomes: &[Option<(Kind, bool)>]) -> Report {
        let mut report = Report::new(false);
        for outcome in outcomes {
            let mut workload = WorkloadReport::new("myapp", ProviderName::Infisical);
            if let Some((kind, served)) = outcome {
                workload.failed(&Error::new(*kind, "x"), *served);
            }
            report.workloads.push(workload);
        }
        report
    }

    #[test]
    fn drop_ins_that_systemd_did_not_load_are_a_failure_where_systemd_runs() {
        let after = |kind| {
            let mut report = report(&[None]);
            report.reloaded = Some(Err((&Error::new(kind, "x")).into()));
            report.exit_code()
        };
        assert_eq!(after(Kind::Io), 1);
        assert_eq!(after(Kind::Unreachable), 0);
    }

    #[test]
    fn the_exit_status_is_that_of_the_gravest_outcome() {
        let served = Some((Kind::Unreachable, true));
        let missing = Some((Kind::Unreachable, false));
        let refused = Some((Kind::Refused, true));
        let denied = Some((Kind::Denied, true));
        let config = Some((Kind::Config, true));
        for (outcomes, code) in [
            (&[][..], 0),
            (&[None, None], 0),
            (&[None, served], 75),
            (&[served, refused], 1),
            (&[served, denied], 1),
            (&[refused, missing, served], 69),
            (&[missing, config, None], 78),
        ] {
            assert_eq!(report(outcomes).exit_code(), code, "{outcomes:?}");
        }
    }
}
