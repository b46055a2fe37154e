//! What a run did or would do: as a table, as JSON, in the log, and as an exit status.

use serde::Serialize;
use tracing::info;

use crate::cli;
use crate::error::{Error, Kind, Result};
use crate::events;
use crate::setup::Options;
use crate::setup::outcome::{Failure, SERVED_FROM_CACHE, WorkloadReport};

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
    /// Why the cache still has what is retired.
    pub pruning: Option<Failure>,
    /// What is worth knowing and no failure.
    pub notes: Vec<String>,
}

impl Report {
    pub(super) fn new(dry_run: bool) -> Self {
        Self {
            dry_run,
            workloads: Vec::new(),
            generation: None,
            reloaded: None,
            pruning: None,
            notes: Vec::new(),
        }
    }

    /// The gravest of the workloads' outcomes: 69 something is missing, 78 configuration, 1
    /// something was refused, 75 unreachable and nothing is missing, 0 done. 69 comes first: it alone
    /// is tried again, and no workload is to wait for what another one needs changed.
    pub fn exit_code(&self) -> u8 {
        let workloads = self.workloads.iter().map(WorkloadReport::exit_code);
        let codes: Vec<u8> = workloads
            .chain(self.reload_code())
            .chain(self.pruning.as_ref().map(|_| Kind::Refused.exit_code()))
            .collect();
        let gravest = [
            Kind::Unreachable.exit_code(),
            Kind::Config.exit_code(),
            Kind::Refused.exit_code(),
            SERVED_FROM_CACHE,
        ];
        let found = gravest.into_iter().find(|code| codes.contains(code));
        found.unwrap_or(0)
    }

    /// A systemd that failed to read the new drop-ins; where there is none, nothing has failed.
    fn reload_code(&self) -> Option<u8> {
        match &self.reloaded {
            Some(Err(failure)) if failure.kind() != Kind::Unreachable => {
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
                w.retired().count().to_string(),
                w.removed().count().to_string(),
                if w.drop_in_changes { "new" } else { "same" }.to_owned(),
                w.result().to_owned(),
            ]
        };
        let rows: Vec<Vec<String>> = self.workloads.iter().map(row).collect();
        let headers = [
            "WORKLOAD", "PROVIDER", "NEW", "REPLACED", "KEPT", "RETIRED", "REMOVED", "DROP-IN",
            "RESULT",
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
        let lines = self.workloads.iter().flat_map(WorkloadReport::changes);
        lines.map(|line| line + "\n").collect()
    }

    /// Says in the log what an administrator has to know, once each.
    pub fn log(&self) {
        for workload in &self.workloads {
            workload.log(self.dry_run);
        }
        if let Some(Err(failure)) = &self.reloaded {
            events::DROP_INS_NOT_LOADED.say(format_args!(
                "drop-ins were written and not loaded: {}",
                failure.line()
            ));
        }
        if let Some(failure) = &self.pruning {
            events::VALUES_NOT_PRUNED.say(format_args!(
                "the cache still has what is retired: {}",
                failure.line()
            ));
        }
        self.notes.iter().for_each(|note| info!("{note}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::ProviderName;

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
            (&[missing, config, None], 69),
            (&[refused, config, served], 78),
        ] {
            assert_eq!(report(outcomes).exit_code(), code, "{outcomes:?}");
        }
    }
}
