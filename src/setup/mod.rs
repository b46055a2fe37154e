//! psi-setup: from what the providers have to what containers start with.
//!
//! The order makes a crash at any moment harmless: a value is sealed before its secret is
//! registered, and a secret is registered before a drop-in names it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

use tracing::info;

use crate::client::Client;
use crate::config::{Config, Scope, Workload};
use crate::error::{Error, Kind, Result};
use crate::lock::Lock;
use crate::mapping::{Mapping, ProviderName};
use crate::podman::{NewSecret, Podman, Secret};
use crate::provider;
use crate::secret::quote_name;
use crate::systemd::Credentials;
use crate::wire::{Check, HandOver};

mod discover;
pub(crate) mod driver;
pub(crate) mod dropin;
mod guard;
mod job;
mod local;
mod outcome;
mod plan;
mod reload;
mod report;
mod retire;
mod token;

pub use outcome::{Drift, Failure, WorkloadReport};
pub use report::Report;
pub use retire::Gone;

use discover::Listings;
use job::Job;
use local::LocalValues;
use plan::{Action, Actual, Driver, Plan};
use reload::PendingReload;
use retire::Rules;
use token::TokenSecrets;

/// How long a provider that is down is asked again while something is missing.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long it is asked while everything is registered and cached: workloads wait for us.
const PATIENCE_WHEN_SERVED: Duration = Duration::from_secs(10);

/// How long another run may take before this one gives up.
const LOCK_PATIENCE: Duration = Duration::from_secs(120);

/// What to do: psi-setup's options, and those of `psi-cachectl refresh`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Options {
    /// Only the workloads of this provider: infisical, local or nitrokeyhsm.
    #[arg(long, value_name = "PROVIDER", value_parser = parse_provider)]
    pub provider: Option<ProviderName>,
    /// Ask the providers and Podman, say what would change, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Let this workload lose all or most of its keys, or have references ${…} where values were,
    /// which is refused otherwise; may be repeated.
    #[arg(long, value_name = "WORKLOAD")]
    pub accept_removals: Vec<String>,
    /// Remove at once what the providers no longer have, for all workloads of the run, also where
    /// containers still use it: their next exec, health check or restart fails. For a secret that
    /// must not be used any more. What PSI did not register stays.
    #[arg(long)]
    pub prune_now: bool,
    /// Write the report as one JSON object.
    #[arg(long)]
    pub json: bool,
}

fn parse_provider(name: &str) -> Result<ProviderName, String> {
    let names = ProviderName::ALL.map(ProviderName::as_str).join(", ");
    ProviderName::parse(name).ok_or_else(|| format!("the providers are {names}"))
}

/// Fetches, hands over, registers and writes drop-ins.
///
/// A workload that fails keeps everything it has and does not hold up the others; the report
/// says why.
///
/// # Errors
/// What concerns all workloads: another run, psi-serve or Podman do not answer, a wrong
/// configuration. Nothing has been changed then.
pub async fn run(config: &Config, options: &Options) -> Result<Report> {
    let workloads = selected(config, options)?;
    let driver = driver::checked(config)?;
    let _lock = match options.dry_run {
        true => None,
        false => Some(lock(config)?),
    };
    let serve = Client::of(config)?;
    let podman = Podman::new(&config.podman_socket)?;
    let secrets = podman.secrets().await?;
    let ids = shell_ids(&secrets);
    let ours = Check {
        mappings: local::mappings(&workloads),
        ids: ids.clone(),
    };
    let checked = serve.check(&ours).await?;
    let local = LocalValues::new(&ours.mappings, &checked);
    let mut token = TokenSecrets::read(config, &workloads)?;
    let now = retire::unix_time(SystemTime::now());
    let mut actual = Actual::new(&secrets, &ids, checked.ids);
    let forget = retire::forgotten(config, &checked.workloads, &actual);

    let mut jobs = Vec::new();
    for (name, workload) in &workloads {
        jobs.push(Job::new(config, name, workload, &actual, &driver));
    }
    let patience = match jobs.iter().all(|job| job.is_served) {
        true => PATIENCE_WHEN_SERVED,
        false => PATIENCE,
    };
    let credentials = Credentials::from_env();
    let open =
        |config: &Config, name| provider::open(config, name, &|c| credentials.read_or_open(c));
    let until = Instant::now() + patience;
    token.fetch_values(&serve, &workloads).await;
    let stored = token.strangers(&actual);
    let listings = Listings::fetch(config, &workloads, (local, token), &open, until).await;
    actual.resolved = resolved(&serve, listings.with_references()).await?;
    for job in &mut jobs {
        let accepted = options.accept_removals.iter().any(|name| name == job.name);
        job.plan(&listings, &actual, &driver, accepted, now);
    }
    // What is handed over has copies; the values are not needed for longer.
    drop(listings);
    let mut report = Report::new(options.dry_run);
    report
        .notes
        .extend(strangers(config, &checked.workloads, &actual, &driver));
    report.notes.extend(stored);
    let leaves = |name: &String| {
        let why = match config.workloads.contains_key(name) {
            true => "its provider does not hand them over",
            false => "nothing refers to them",
        };
        format!("the values of workload {name} leave the cache: {why}")
    };
    report.notes.extend(forget.iter().map(leaves));
    if !options.dry_run {
        hand_over(&serve, &mut jobs, &mut report).await;
        register(&podman, &mut jobs, &actual, &driver).await;
        write_drop_ins(config, &mut jobs, &mut report);
    }
    let rules = Rules {
        now,
        prune_after: config.prune_after,
        prune_now: options.prune_now,
        reload_is_due: PendingReload::of(config).is_due(),
    };
    report
        .notes
        .extend(retire::decide(&podman, &mut jobs, &rules).await);
    if !options.dry_run {
        let pruned = retire::remove(&podman, &serve, &mut jobs, forget).await;
        report.pruning = pruned.err().as_ref().map(Failure::from);
    }
    report.workloads = jobs.into_iter().map(Job::report).collect();
    Ok(report)
}

fn selected<'a>(config: &'a Config, options: &Options) -> Result<BTreeMap<&'a str, &'a Workload>> {
    if let Some(provider) = options.provider.filter(|p| !config.providers.has(*p)) {
        return Err(provider::not_configured(config, provider));
    }
    let unknown = |name: &&String| !config.workloads.contains_key(*name);
    if let Some(name) = options.accept_removals.iter().find(unknown) {
        let what = format!("there is no workload {}", quote_name(name));
        let names: Vec<&str> = config.workloads.keys().map(String::as_str).collect();
        return Err(Error::new(Kind::Usage, what).hint(format!("configured: {}", names.join(", "))));
    }
    let wanted = |workload: &Workload| options.provider.is_none_or(|p| p == workload.provider);
    let workloads = config.workloads.iter().filter(|(_, w)| wanted(w));
    Ok(workloads.map(|(name, w)| (name.as_str(), w)).collect())
}

fn lock(config: &Config) -> Result<Lock> {
    // Beside psi-serve's socket: that directory is there, is not psi-serve's to write, and goes
    // at a reboot.
    let path = config.socket.with_file_name("setup.lock");
    let directory = path.parent().unwrap_or(&path);
    if !directory.is_dir() {
        let what = format!("psi-serve does not listen on {}", config.socket.display());
        return Err(Error::new(Kind::Unreachable, what)
            .hint("`systemctl start psi-secrets.socket psi-secrets.service`"));
    }
    let holder = "another psi-setup or `psi-cachectl refresh` runs: `systemctl status 'psi-*'`";
    Lock::acquire(&path, LOCK_PATIENCE, holder).map_err(|e| match e.kind() {
        Kind::Io => e.hint(
            "run it as root; if it is, see `mount`, and in the unit the sandbox: a `socket` outside /run/psi needs `ReadWritePaths=` in a drop-in of psi-infisical-setup.service",
        ),
        _ => e,
    })
}

/// The command that runs psi-setup again, in either mode: a host of containers has no such program, but its
/// units.
pub fn command(config: &Config) -> String {
    let providers = &config.providers;
    let units = [
        (providers.infisical.is_some(), "psi-infisical-setup.service"),
        (
            providers.nitrokeyhsm.is_some(),
            "psi-nitrokeyhsm-setup.service",
        ),
        (providers.local, "psi-local-setup.service"),
    ];
    let units = units.iter().filter(|(is_configured, _)| *is_configured);
    let mut units: Vec<&str> = units.map(|(_, unit)| *unit).collect();
    if units.is_empty() {
        units.push("'psi-*-setup.service'");
    }
    let user = match config.scope {
        Scope::System => "",
        Scope::User => "--user ",
    };
    format!("`systemctl {user}restart {}`", units.join(" "))
}

/// The labels of a secret that no workload lists: who has its value, and what tells it from others.
pub fn labels_by_hand(mapping: &Mapping) -> BTreeMap<String, String> {
    let provider = mapping.provider().as_str().to_owned();
    let labels = [
        (plan::LABEL_PROVIDER, provider),
        (plan::LABEL_DIGEST, mapping.digest()),
    ];
    labels.map(|(name, value)| (name.to_owned(), value)).into()
}

/// The ids of all secrets that a mapping may belong to, whosever they are: what one of them stands
/// for must stay.
fn shell_ids(secrets: &[Secret]) -> Vec<String> {
    let shell = secrets.iter().filter(|s| s.driver == "shell");
    shell.map(|s| s.id.clone()).collect()
}

/// Those of `mappings` whose last good value has no reference `${…}` in it.
async fn resolved(serve: &Client, mappings: Vec<Mapping>) -> Result<BTreeSet<Mapping>> {
    if mappings.is_empty() {
        return Ok(BTreeSet::new());
    }
    let asked = Check {
        mappings,
        ids: Vec::new(),
    };
    let checked = serve.check(&asked).await?;
    let known = asked.mappings.into_iter().zip(checked.resolved);
    let resolved = known.filter_map(|(mapping, is_resolved)| is_resolved.then_some(mapping));
    Ok(resolved.collect())
}

/// What Podman has of ours for workloads that are not in the configuration any more: those that
/// labels name, and the `cached` ones.
fn strangers(
    config: &Config,
    cached: &[String],
    actual: &Actual<'_>,
    driver: &Driver,
) -> Vec<String> {
    let secrets = actual.secrets.values();
    let labelled = secrets.filter_map(|s| s.labels.get(plan::LABEL_WORKLOAD));
    let known: BTreeSet<&String> = cached.iter().chain(labelled).collect();
    let strange = known
        .into_iter()
        .filter(|w| !config.workloads.contains_key(*w));
    let note = |workload: &String| {
        let mut names = actual.names_of(workload);
        names.retain(|name| {
            actual
                .secrets
                .get(name)
                .is_some_and(|s| plan::is_made_by(s, driver))
        });
        (!names.is_empty()).then(|| {
            format!(
                "workload {workload} is not in the configuration and its secrets stay: once no container uses them, `podman secret rm {}`, and the next run drops their values",
                names.join(" ")
            )
        })
    };
    strange.filter_map(note).collect()
}

/// Seals what was fetched. Workloads whose values are not sealed go no further.
async fn hand_over(serve: &Client, jobs: &mut [Job<'_>], report: &mut Report) {
    let mut by_provider: BTreeMap<ProviderName, HandOver> = BTreeMap::new();
    for job in jobs.iter_mut() {
        let entries = std::mem::take(&mut job.entries);
        if job.outcome.is_ok() && job.workload.is_handed_over() {
            let hand_over = by_provider.entry(job.workload.provider).or_default();
            hand_over.workloads.insert(job.name.to_owned(), entries);
        }
    }
    for (provider, bundle) in by_provider {
        match serve.hand_over(provider, &bundle).await {
            Ok(Some(handed_over)) => {
                report.generation = Some(handed_over.generation);
                for job in jobs.iter_mut() {
                    let counts = handed_over.workloads.get(job.name);
                    job.retired = counts.map_or(job.retired, |counts| counts.retired);
                }
            }
            Ok(None) => report.notes.push(
                "psi-serve keeps no cache: containers start only while the provider answers; set cache.backend".to_owned(),
            ),
            Err(error) => fail_all(jobs, &bundle, &error),
        }
    }
}

fn fail_all(jobs: &mut [Job<'_>], bundle: &HandOver, error: &Error) {
    let handed_over = |job: &&mut Job<'_>| bundle.workloads.contains_key(job.name);
    for job in jobs.iter_mut().filter(handed_over) {
        job.fail(error.again());
    }
}

/// Registers what is missing with Podman, workload by workload.
async fn register(podman: &Podman, jobs: &mut [Job<'_>], actual: &Actual<'_>, driver: &Driver) {
    for job in jobs {
        if let Ok(plan) = &job.outcome
            && let Err(error) = register_all(podman, plan, &job.mappings, actual, driver).await
        {
            job.fail(error);
        }
    }
}

async fn register_all(
    podman: &Podman,
    plan: &Plan,
    mappings: &BTreeMap<String, Mapping>,
    actual: &Actual<'_>,
    driver: &Driver,
) -> Result<()> {
    for registration in &plan.registrations {
        let Some(mapping) = mappings.get(&registration.target) else {
            continue;
        };
        let name = registration.name.as_str();
        let new = NewSecret {
            name,
            payload: &mapping.canonical(),
            options: &driver.options,
            labels: &registration.labels,
        };
        match (&registration.action, actual.secrets.get(name)) {
            (Action::Keep, _) => {}
            (Action::Replace, Some(old)) => {
                podman.replace(old, &new).await?;
                info!("{name} is registered anew");
            }
            (Action::Create | Action::Replace, _) => {
                podman.create(&new).await?;
                info!("{name} is registered");
            }
        }
    }
    Ok(())
}

/// Writes the drop-ins that differ, and has systemd read its units again if one did, in this run
/// or in one that ended before it came to that.
fn write_drop_ins(config: &Config, jobs: &mut [Job<'_>], report: &mut Report) {
    let pending = PendingReload::of(config);
    for job in jobs {
        let Some(text) = job.new_drop_in() else {
            continue;
        };
        match pending
            .note()
            .and_then(|()| dropin::write(&job.drop_in, &text))
        {
            Ok(()) => {
                info!("{} was written", job.drop_in.display());
                job.drop_in_written = true;
                job.drop_in_now = Some(text);
            }
            Err(error) => job.fail(error),
        }
    }
    if !pending.is_due() {
        return;
    }
    let reloaded = pending.make_good(config.scope);
    report.reloaded = Some(reloaded.map_err(|e| (&e).into()));
}
