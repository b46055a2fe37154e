//! Hand-overs: read into staging as they come, and taken over in one write.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::cache::draft::{Draft, Source};
use crate::cache::staging::{Place, Staging};
use crate::cache::table::{Keyer, Table};
use crate::cache::{Cache, now};
use crate::error::{Error, Kind, Result};
use crate::mapping::{Mapping, ProviderName};
use crate::secret::quote_name;
use crate::wire::{Counts, HandedOver, Receiver, read_hand_over};

/// Longest name of a workload, in bytes: as long as a file name.
const MAX_WORKLOAD_NAME: usize = 255;

/// How often the time of a refresh that changed nothing is written, in seconds.
const REMEMBER_TIME_EVERY: u64 = 3600;

/// A hand-over that was read to its end.
pub struct Offer {
    provider: ProviderName,
    /// What names its entries.
    keyer: Keyer,
    /// In the order in which they came.
    workloads: Vec<String>,
    staging: Staging,
}

impl Offer {
    /// Reads a hand-over of `provider` to its end, for a cache with this `keyer`. No value is
    /// anywhere but in locked memory and, one at a time, in the parser.
    ///
    /// # Errors
    /// [`Kind::Usage`] if it is none, [`Kind::Refused`] if a workload has an impossible name.
    pub fn read(keyer: &Keyer, provider: ProviderName, json: impl io::Read) -> Result<Self> {
        let mut reading = Reading {
            named: BTreeSet::new(),
            workload: 0,
            offer: Self {
                provider,
                keyer: keyer.clone(),
                workloads: Vec::new(),
                staging: Staging::default(),
            },
        };
        read_hand_over(json, &mut reading)?;
        Ok(reading.offer)
    }

    /// Whether there is anything to keep in it.
    pub fn has_values(&self) -> bool {
        !self.staging.is_empty()
    }
}

impl Cache {
    /// Takes over everything that a provider has for the workloads that are named, in one write.
    ///
    /// The answer means that it is on disk and served. Workloads that are not named keep what
    /// they have. What a workload had and the provider no longer has is retired, not dropped.
    ///
    /// # Errors
    /// [`Kind::Refused`] if one mapping comes with two values or this is not the cache that the
    /// offer was read for, [`Kind::Io`] if it cannot be written; what was there before is then
    /// still there.
    pub fn commit(&self, offer: Offer) -> Result<HandedOver> {
        self.commit_at(offer, now())
    }

    pub(super) fn commit_at(&self, offer: Offer, now: u64) -> Result<HandedOver> {
        if !offer.keyer.is_same(&self.keyer) {
            let what = "the cache was replaced by another one while the values came";
            return Err(Error::new(Kind::Refused, what)
                .hint("nothing was changed; `systemctl restart psi-infisical-setup.service`"));
        }
        let _writing = self.start_writing();
        let before = self.current();
        let mut draft = Draft::of(&before.table, offer.staging)?;
        let given = tell_apart(&draft, &before.table, &offer.workloads)?;
        let mut changed = false;
        let mut workloads = BTreeMap::new();
        for (name, mut given) in offer.workloads.into_iter().zip(given) {
            let provider = offer.provider.as_str();
            let outcome = draft.owners.hand_over(&name, provider, given.live, now);
            given.counts.retired = outcome.retired;
            changed |= outcome.changed || given.counts.stored > 0;
            workloads.insert(name, given.counts);
        }
        let stale = now.saturating_sub(before.header.written_at) >= REMEMBER_TIME_EVERY;
        let generation = match changed || stale || before.header.generation == 0 {
            true => self.save(&before, draft)?,
            false => before.header.generation,
        };
        Ok(HandedOver {
            generation,
            workloads,
        })
    }
}

/// What one workload was given.
#[derive(Default)]
struct Given {
    /// The places of its entries, ascending.
    live: Vec<u32>,
    counts: Counts,
}

/// What each of `workloads` was given, and whether `before` has it already.
fn tell_apart(draft: &Draft<'_>, before: &Table, workloads: &[String]) -> Result<Vec<Given>> {
    let mut given: Vec<Given> = workloads.iter().map(|_| Given::default()).collect();
    for (place, source) in draft.sources() {
        let Source::Staged(first) = source else {
            continue;
        };
        let group = draft.group(first);
        let value = draft.value(&group[0]);
        let is_known = before.get(&group[0].key) == Some(value);
        for staged in group {
            let workload = staged.workload as usize;
            if draft.value(staged) != value {
                return Err(two_values(&workloads[workload]));
            }
            let given = &mut given[workload];
            if given.live.last() != Some(&place) {
                given.live.push(place);
                let counts = &mut given.counts;
                *(match is_known {
                    true => &mut counts.unchanged,
                    false => &mut counts.stored,
                }) += 1;
            }
        }
    }
    Ok(given)
}

struct Reading {
    named: BTreeSet<String>,
    /// The number of the workload whose entries come.
    workload: u32,
    offer: Offer,
}

impl Receiver for Reading {
    type Value = Place;

    fn workload(&mut self, name: &str) -> Result<()> {
        check_workload_name(name)?;
        if !self.named.insert(name.to_owned()) {
            let name = quote_name(name);
            return Err(malformed(&format!("workload {name} comes twice")));
        }
        self.workload = u32::try_from(self.offer.workloads.len())
            .map_err(|_| malformed("it has too many workloads"))?;
        self.offer.workloads.push(name.to_owned());
        Ok(())
    }

    fn value(&mut self, base64: &str) -> Option<Place> {
        let at_most = base64::decoded_len_estimate(base64.len());
        let decode = |room: &mut [u8]| BASE64.decode_slice(base64, room).ok();
        self.offer.staging.take(at_most, decode)
    }

    fn entry(&mut self, mapping: &Mapping, value: Place) -> Result<()> {
        let provider = self.offer.provider;
        if mapping.provider() != provider {
            let other = mapping.provider();
            return Err(malformed(&format!(
                "a mapping of {other} in what {provider} has"
            )));
        }
        let key = self.offer.keyer.entry_key(mapping);
        self.offer.staging.name(key, value, self.workload);
        Ok(())
    }
}

fn malformed(why: &str) -> Error {
    Error::new(Kind::Usage, format!("not a hand-over: {why}"))
        .hint("psi-setup and psi-serve must be of the same version")
}

fn check_workload_name(name: &str) -> Result<()> {
    if (1..=MAX_WORKLOAD_NAME).contains(&name.len()) && !name.contains('\0') {
        return Ok(());
    }
    let what = format!("{} is not the name of a workload", quote_name(name));
    Err(Error::new(Kind::Refused, what)
        .hint("names have 1 to 255 bytes, none of them zero; nothing was changed"))
}

fn two_values(workload: &str) -> Error {
    Error::new(
        Kind::Refused,
        format!("workload {workload} came with two values for one secret"),
    )
    .hint("nothing was changed; this is a fault in what was handed over")
}
