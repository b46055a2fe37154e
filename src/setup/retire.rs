//! What is gone upstream: kept while a container uses it, then removed from Podman and the cache.
//!
//! Podman's secret goes first, then the value: at no moment is there a secret without its value.
//! What a crash leaves behind, the next run finds and removes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tracing::info;

use crate::client::Client;
use crate::config::{Config, Workload};
use crate::error::Result;
use crate::mapping::ProviderName;
use crate::podman::{Container, Podman, Secret};
use crate::setup::job::Job;
use crate::setup::plan::{Actual, Driver, is_made_by};
use crate::wire::Prune;

/// A secret that Podman has for a workload and that the workload is not to have any more.
#[derive(Debug, Serialize)]
pub struct Gone {
    /// Podman's name of it.
    pub name: String,
    #[serde(skip)]
    id: String,
    /// Since when its provider no longer has it, in seconds since 1970.
    pub since: u64,
    /// Whether nothing tells that it was ever one of this workload's.
    #[serde(skip)]
    pub is_unexpected: bool,
    /// The containers that use it.
    pub used_by: Vec<String>,
    /// Why it stays; nothing if it was removed or, dry, would be.
    pub stays: Option<String>,
}

impl Gone {
    /// What `job` is not to have any more: all that Podman has for it, but for what it desires.
    /// `before` are the names in its drop-in as it was, which was changed last at `changed`.
    pub fn of(job: &Job<'_>, actual: &Actual<'_>, driver: &Driver, now: u64) -> Vec<Self> {
        let desired: BTreeSet<&str> = match &job.outcome {
            Ok(plan) => plan.registrations.iter().map(|r| r.name.as_str()).collect(),
            Err(_) => job.before.iter().map(String::as_str).collect(),
        };
        let names = actual.names_of(job.name).into_iter();
        let secrets = names.filter(|name| !desired.contains(name));
        let secrets = secrets.filter_map(|name| actual.secrets.get(name));
        secrets
            .map(|secret| {
                let since = since(job, secret, actual, driver, now);
                Self {
                    name: secret.name.clone(),
                    id: secret.id.clone(),
                    since: since.unwrap_or(now),
                    is_unexpected: since.is_none(),
                    used_by: Vec::new(),
                    stays: Some("the workload keeps what it has".to_owned()),
                }
            })
            .collect()
    }
}

/// Since when `secret` is retired; nothing if it never was one of the workload's.
fn since(
    job: &Job<'_>,
    secret: &Secret,
    actual: &Actual<'_>,
    driver: &Driver,
    now: u64,
) -> Option<u64> {
    let checked = actual.ids.get(secret.id.as_str());
    match checked.and_then(|id| id.owners.get(job.name)) {
        Some(0) => Some(now),
        Some(since) => Some(*since),
        None if job.before.contains(&secret.name) => Some(now),
        // Without a cache nobody has noted when: it left the drop-in at its last change or before.
        None => is_made_by(secret, driver).then(|| job.changed.unwrap_or(now)),
    }
}

/// What decides whether a secret may go.
pub struct Rules {
    /// Seconds since 1970.
    pub now: u64,
    /// How long a secret stays for containers at most.
    pub prune_after: Duration,
    /// Whether all that was ever one of the workload's is to go at once.
    pub prune_now: bool,
    /// Whether systemd may still start a unit as it was before the drop-in changed.
    pub reload_is_due: bool,
}

impl Rules {
    /// Decides about all that `job` has no longer. `containers` are Podman's.
    pub fn decide(&self, job: &mut Job<'_>, containers: &[Container]) {
        // A dry run decides as the run would that writes the drop-in.
        let drop_in_changes = job.drop_in_written || job.new_drop_in().is_some();
        let changed = match drop_in_changes {
            true => self.now,
            false => job.changed.unwrap_or(self.now),
        };
        for gone in &mut job.gone {
            let users = containers.iter().filter(|container| {
                match (container.command.is_empty(), &container.unit) {
                    (false, _) => container.names_secret(&gone.name, &gone.id),
                    (true, Some(unit)) => is_of(&job.workload.unit, unit),
                    (true, None) => container.created <= changed,
                }
            });
            gone.used_by = users.map(|c| c.name.clone()).collect();
            gone.stays = self.reason_to_stay(gone, drop_in_changes);
        }
    }

    fn reason_to_stay(&self, gone: &Gone, drop_in_changes: bool) -> Option<String> {
        let age = Duration::from_secs(self.now.saturating_sub(gone.since));
        if self.reload_is_due {
            return Some("systemd has not loaded the new drop-in yet".to_owned());
        }
        if gone.is_unexpected {
            return Some("PSI did not register it".to_owned());
        }
        if self.prune_now {
            return None;
        }
        if age >= self.prune_after {
            return None;
        }
        if !gone.used_by.is_empty() {
            return Some(format!("used by {}", gone.used_by.join(", ")));
        }
        // A unit that systemd has just begun to start may not have made its container yet.
        drop_in_changes.then(|| "it left the drop-in just now, the next run removes it".to_owned())
    }
}

/// Whether a container of systemd's `service` is one of the quadlet `unit`, or, of a template,
/// one of its instances.
fn is_of(unit: &str, service: &str) -> bool {
    let name = unit.strip_suffix(".container").unwrap_or(unit);
    let service = service.strip_suffix(".service").unwrap_or(service);
    service == name || (name.ends_with('@') && service.starts_with(name))
}

/// Decides about everything that is gone. Podman is asked for its containers only if there is
/// something to decide. Returns what else there is to say.
pub async fn decide(podman: &Podman, jobs: &mut [Job<'_>], rules: &Rules) -> Option<String> {
    let mut concerned: Vec<_> = jobs.iter_mut().filter(|j| j.may_lose()).collect();
    if concerned.is_empty() {
        return None;
    }
    match podman.containers().await {
        Ok(containers) => {
            for job in concerned {
                rules.decide(job, &containers);
            }
            None
        }
        Err(error) => {
            let all = concerned.iter_mut().flat_map(|job| &mut job.gone);
            all.for_each(|gone| gone.stays = Some("Podman can't be asked who uses it".to_owned()));
            Some(format!("nothing that is gone was removed: {error}"))
        }
    }
}

/// The workloads in the cache that get values from no provider any more, since they are not
/// configured or get local ones, and whose values none of Podman's secrets stands for; and those of
/// a token that keep its values out of the cache.
pub fn forgotten(config: &Config, cached: &[String], actual: &Actual<'_>) -> Vec<String> {
    let workload = |name: &str| config.workloads.get(name);
    let is_fed = |name: &str| workload(name).is_some_and(Workload::is_handed_over);
    let has_token =
        |name: &str| workload(name).is_some_and(|w| w.provider == ProviderName::NitrokeyHsm);
    let names = cached.iter().map(String::as_str);
    let forgotten =
        names.filter(|name| !is_fed(name) && (has_token(name) || !actual.needs(name, is_fed)));
    forgotten.map(str::to_owned).collect()
}

/// Removes what may go, from Podman and then from the cache, and from the cache all that is
/// retired and no secret of Podman's stands for any more.
///
/// # Errors
/// Why the cache keeps what is retired. What fails for one workload is its outcome.
pub async fn remove(
    podman: &Podman,
    serve: &Client,
    jobs: &mut [Job<'_>],
    forget: Vec<String>,
) -> Result<()> {
    for job in jobs.iter_mut().filter(|job| job.may_lose()) {
        if let Err(error) = remove_secrets(podman, &mut job.gone).await {
            job.fail(error);
        }
    }
    // Where something failed, what is registered may be of before, and its value is needed.
    let retired = jobs
        .iter()
        .filter(|job| job.outcome.is_ok() && job.retired > 0);
    let keep: BTreeMap<String, Vec<String>> = retired
        .map(|job| {
            let kept = job.gone.iter().filter(|gone| gone.stays.is_some());
            (
                job.name.to_owned(),
                kept.map(|gone| gone.id.clone()).collect(),
            )
        })
        .collect();
    if keep.is_empty() && forget.is_empty() {
        return Ok(());
    }
    let pruned = serve.prune(&Prune { keep, forget }).await;
    pruned.map(drop)
}

async fn remove_secrets(podman: &Podman, gone: &mut [Gone]) -> Result<()> {
    for gone in gone.iter_mut().filter(|gone| gone.stays.is_none()) {
        // Until it is gone it stays: a failure in the middle must not count it as removed.
        gone.stays = Some("it could not be removed".to_owned());
        podman.remove(&gone.id).await?;
        gone.stays = None;
        info!("{} was removed", gone.name);
    }
    Ok(())
}

/// Seconds since 1970.
pub fn unix_time(time: SystemTime) -> u64 {
    let since_1970 = time.duration_since(UNIX_EPOCH);
    since_1970.map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_of_a_unit_or_of_an_instance_of_a_template() {
        for (unit, service, expected) in [
            ("myapp.container", "myapp.service", true),
            ("myapp.container", "myapp2.service", false),
            ("myapp.container", "myapp@1.service", false),
            ("myapp@.container", "myapp@1.service", true),
            ("myapp@.container", "myapp.service", false),
            ("myapp@1.container", "myapp@1.service", true),
            ("myapp@1.container", "myapp@2.service", false),
        ] {
            assert_eq!(is_of(unit, service), expected, "{unit} {service}");
        }
    }
}
