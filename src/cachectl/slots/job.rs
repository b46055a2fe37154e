//! The commands themselves: asked of psi-serve, or done under the lock.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use zeroize::Zeroizing;

use super::{Add, Entered, List, Remove, Reseal, Test};
use crate::cache::{self, Header, Opening};
use crate::cachectl::owner::{self, Owner};
use crate::cachectl::printed::{Slot, date, printable};
use crate::cachectl::sealed_key::{SealedKey, Sealing};
use crate::cachectl::{Outcome, pcrs, recovery_key};
use crate::cli;
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::protector::{Credential, Devices, Protector, SlotKind};
use crate::slots;
use crate::wire::{
    AddSlot, Attempted, RecoveryText, ResealSlots, SlotChange, SlotKey, Slots, SlotsChanged,
};

/// One command, for this host.
pub struct Job<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// What systemd delivered, or else the sealed key.
    pub credential: Credential,
    /// The key of a credential slot as systemd-creds sealed it.
    pub sealed_key: &'a Path,
}

impl Job<'_> {
    /// The slots, as the header has them.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is no file, [`Kind::Damaged`] if its header is not readable.
    pub fn list(&self, args: &List) -> Result<Outcome> {
        let slots = Slot::all(&self.header()?);
        if args.json {
            let json = serde_json::to_string(&slots).map_err(|e| {
                Error::new(Kind::Internal, "cannot write the slots as JSON").because(e)
            })?;
            return Ok(Outcome::done(json + "\n"));
        }
        let row = |slot: &Slot| {
            vec![
                slot.id.to_string(),
                slot.kind.to_string(),
                date(slot.created_at),
                slot.bound_to(),
                printable(&slot.label),
            ]
        };
        let rows: Vec<Vec<String>> = slots.iter().map(row).collect();
        let headers = ["SLOT", "KIND", "CREATED", "OPENS WITH", "LABEL"];
        Ok(Outcome::done(cli::table(&headers, &rows)))
    }

    /// One slot more; of a recovery slot its key is printed.
    ///
    /// # Errors
    /// Why it was not added; the slots are then the old ones.
    pub async fn add(&self, args: &Add) -> Result<Outcome> {
        let kind = SlotKind::from(args.kind);
        let recovery = entered(&args.entered).await?;
        let header = self.header()?;
        let mut key = None;
        if kind == SlotKind::Credential {
            // Before a key is sealed for it.
            slots::refuse_second_credential(&header)?;
            key = Some(self.credential_key(&args.sealing)?);
        }
        let (slot_key, said) = key.unzip();
        let change = SlotChange::Add(AddSlot {
            kind,
            label: args.label.clone(),
            pcrs: self.pcrs(kind, &args.sealing)?,
            token: args.token.token_serial.clone(),
            force: args.force,
            slot_key,
        });
        let changed = self.change(Slots { change, recovery }).await?;
        let mut lines = opened_line(&changed);
        lines.extend(said);
        let slots = self.slots_now();
        for attempt in &changed.attempts {
            lines.push(format!(
                "{} was added: {}",
                attempt.name(),
                bound_to(&slots, attempt)
            ));
        }
        if kind == SlotKind::Credential {
            lines.extend(self.delivery(&args.sealing));
        }
        Ok(told(&lines, &changed, Ok(0)))
    }

    /// Slots less, in one change. Recovery slots that stay have new keys, which are printed.
    ///
    /// # Errors
    /// As [`Job::add`].
    pub async fn remove(&self, args: &Remove) -> Result<Outcome> {
        let recovery = entered(&args.entered).await?;
        let ids: BTreeSet<u32> = args.ids.iter().copied().collect();
        let change = SlotChange::Remove {
            ids: ids.iter().copied().collect(),
        };
        let changed = self.change(Slots { change, recovery }).await?;
        let mut lines = opened_line(&changed);
        lines.extend(ids.iter().map(|id| {
            format!(
                "slot {id} was removed, and everything is encrypted under a new key; it still opens \
                 copies of the file that were made before"
            )
        }));
        lines.extend(changed.recovery_keys.iter().map(|new| {
            let slot = new.slot;
            format!("the key of slot {slot} (recovery) that was printed before no longer opens it")
        }));
        Ok(told(&lines, &changed, Ok(0)))
    }

    /// Every slot tried by itself, or one.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is nothing to try. Slots that do not open are the outcome's
    /// failure.
    pub async fn test(&self, args: &Test) -> Result<Outcome> {
        let recovery = entered(&args.entered).await?;
        let change = SlotChange::Test;
        let mut changed = self.change(Slots { change, recovery }).await?;
        if let Some(id) = args.id {
            changed.attempts.retain(|attempt| attempt.slot == id);
            if changed.attempts.is_empty() {
                return Err(cache::no_such_slot(id));
            }
        }
        let mut text = opened_line(&changed).join("\n");
        if !text.is_empty() {
            text.push('\n');
        }
        let row = |attempt: &Attempted| {
            let (took, result) = match &attempt.failure {
                None => (format!("{} ms", attempt.took_ms), "opens".to_owned()),
                Some(failure) if !attempt.tried => (
                    "-".to_owned(),
                    format!("not tried: {}", printable(&failure.what)),
                ),
                Some(failure) => (format!("{} ms", attempt.took_ms), printable(&failure.what)),
            };
            vec![
                attempt.slot.to_string(),
                attempt.kind.to_string(),
                took,
                result,
            ]
        };
        let rows: Vec<Vec<String>> = changed.attempts.iter().map(row).collect();
        text.push_str(&cli::table(&["SLOT", "KIND", "TOOK", "RESULT"], &rows));
        Ok(Outcome {
            text: Zeroizing::new(text),
            new_keys: Vec::new(),
            end: all_worked(&changed.attempts, "does not open"),
        })
    }

    /// New keys for the slots that do not open, or for one.
    ///
    /// # Errors
    /// As [`Job::add`] if none was sealed anew; those that were not are else the outcome's failure.
    pub async fn reseal(&self, args: &Reseal) -> Result<Outcome> {
        let recovery = entered(&args.entered).await?;
        let header = self.header()?;
        let slot = args.id.map(|id| {
            let slot = header.slots.iter().find(|slot| slot.id == id);
            slot.map(|slot| slot.kind)
                .ok_or_else(|| cache::no_such_slot(id))
        });
        let kind = slot.transpose()?;
        args.token.check_for(kind == Some(SlotKind::Pkcs11))?;
        match kind {
            Some(SlotKind::Credential) => args.sealing.check_for_credential()?,
            Some(kind) => args.sealing.check_for_others(kind == SlotKind::Tpm2)?,
            None => args.sealing.check_for_others(true)?,
        }
        let key = match kind {
            Some(SlotKind::Credential) if self.has_credential_key(&args.sealing) => {
                Some(self.credential_key(&args.sealing)?)
            }
            _ => None,
        };
        let (mut slot_key, said) = key.unzip();
        if kind.is_none() {
            // Not asked for, so nothing is made, and one that does not open is told by psi-serve.
            slot_key = self.credential.seal().ok().map(|(key, _)| SlotKey(key));
        }
        let change = SlotChange::Reseal(ResealSlots {
            id: args.id,
            pcrs: self.pcrs(kind.unwrap_or(SlotKind::Tpm2), &args.sealing)?,
            token: args.token.token_serial.clone(),
            force: args.force,
            slot_key,
        });
        let changed = self.change(Slots { change, recovery }).await?;
        let mut lines = opened_line(&changed);
        if changed.attempts.is_empty() {
            lines.push("nothing to do: every slot opens, recovery slots aside".to_owned());
        }
        let slots = self.slots_now();
        for attempt in changed.attempts.iter().filter(|a| a.failure.is_none()) {
            let to = bound_to(&slots, attempt);
            lines.push(format!("{} is sealed anew: {to}", attempt.name()));
            lines.extend(self.other_pcrs(&slots, attempt));
        }
        if let Some(said) = said {
            lines.push(said);
            lines.extend(self.delivery(&args.sealing));
        }
        let end = all_worked(&changed.attempts, "was not sealed anew");
        Ok(told(&lines, &changed, end))
    }

    /// The header on disk, which nothing vouches for.
    fn header(&self) -> Result<Header> {
        let path = &self.config.cache.path;
        cache::outline(path)?
            .ok_or_else(|| slots::no_file(path))?
            .header
    }

    /// The slots after a change, as far as they can be told: it is done, so this may not fail.
    fn slots_now(&self) -> Vec<Slot> {
        self.header().map(|h| Slot::all(&h)).unwrap_or_default()
    }

    fn sealed<'a>(&'a self, sealing: &'a Sealing) -> SealedKey<'a> {
        SealedKey {
            credential: &self.credential,
            file: self.sealed_key,
            sealing,
        }
    }

    /// Whether there is a key here, or a new one is asked for. Else psi-serve has one or none has.
    fn has_credential_key(&self, sealing: &Sealing) -> bool {
        let is_asked_for = sealing.with_key.is_some() || sealing.pcrs.is_some();
        is_asked_for || self.credential.is_delivered() || self.sealed_key.exists()
    }

    /// What has to be done for systemd to deliver the key.
    fn delivery(&self, sealing: &Sealing) -> Vec<String> {
        let mut lines = Vec::from_iter(self.sealed(sealing).delivery());
        lines.push(
            "psi-secrets.service delivers its key from the next start on: \
             `systemctl restart psi-secrets.service`"
                .to_owned(),
        );
        lines
    }

    fn credential_key(&self, sealing: &Sealing) -> Result<(SlotKey, String)> {
        let (key, said) = self.sealed(sealing).key()?;
        Ok((SlotKey(key), said))
    }

    fn pcrs(&self, kind: SlotKind, sealing: &Sealing) -> Result<Option<Vec<u8>>> {
        let pcrs = pcrs::parse_if_given(sealing.pcrs.as_deref())?;
        Ok(pcrs.filter(|_| kind == SlotKind::Tpm2))
    }

    /// A slot keeps its PCRs; that the configuration has others is said.
    fn other_pcrs(&self, slots: &[Slot], attempt: &Attempted) -> Option<String> {
        let slot = slots.iter().find(|slot| slot.id == attempt.slot)?;
        let configured = &self.config.cache.tpm.pcrs;
        if slot.pcrs.as_ref()? == configured || configured.is_empty() {
            return None;
        }
        let list: Vec<String> = configured.iter().map(u8::to_string).collect();
        let list = list.join(",");
        Some(format!(
            "`cache.tpm.pcrs` is {list}: `psi-cachectl slots reseal {} --pcrs {list}` binds it to those",
            slot.id
        ))
    }

    /// Has psi-serve do it, or does it under the lock.
    async fn change(&self, asked: Slots) -> Result<SlotsChanged> {
        match owner::find(self.config).await? {
            Owner::Serve(client) => client.slots(&asked).await,
            Owner::Us(_lock) => {
                let devices = owner::devices(self.config, self.credential.clone());
                change_under_lock(&self.config.cache.path, &devices, &asked)
            }
        }
    }
}

/// For the holder of the lock.
///
/// # Errors
/// Why it was not done; the slots are then the old ones.
pub fn change_under_lock(path: &Path, devices: &Devices, asked: &Slots) -> Result<SlotsChanged> {
    if matches!(asked.change, SlotChange::Test) {
        return slots::test(path, devices, asked);
    }
    match owner::open(path, &devices.to_open(slots::entered(asked)))? {
        Opening::Absent => Err(slots::no_file(path)),
        Opening::NoSlot(unopened) => Err(unopened.error()),
        Opening::Opened(cache, attempts) => {
            let opened_by = attempts.last().map(Attempted::from);
            let opened_by = opened_by.filter(|slot| slot.kind == SlotKind::Recovery);
            match slots::change(&cache, path, devices, asked) {
                Ok(changed) => Ok(SlotsChanged {
                    opened_by,
                    ..changed
                }),
                Err(error) => Err(match opened_by {
                    Some(slot) => slots::opened_nonetheless(&slot, "", error),
                    None => error,
                }),
            }
        }
    }
}

async fn entered(args: &Entered) -> Result<Option<RecoveryText>> {
    match args.recovery {
        true => Ok(Some(RecoveryText(recovery_key::read().await?))),
        false => Ok(None),
    }
}

fn bound_to(slots: &[Slot], attempt: &Attempted) -> String {
    let slot = slots.iter().find(|slot| slot.id == attempt.slot);
    slot.map(Slot::bound_to).unwrap_or_default()
}

fn opened_line(changed: &SlotsChanged) -> Vec<String> {
    let line = |slot: &Attempted| format!("{} opened the cache", slot.name());
    changed.opened_by.iter().map(line).collect()
}

/// The first thing that did not work is the outcome's failure; each has its line in the text or in
/// the failure.
fn all_worked(attempts: &[Attempted], not: &str) -> Result<u8> {
    let mut what = String::new();
    let mut next = None;
    for attempt in attempts.iter().filter(|attempt| attempt.tried) {
        if let Some(failure) = &attempt.failure {
            let separator = if what.is_empty() { "" } else { "; " };
            let _ = write!(
                what,
                "{separator}{} {not}: {}",
                attempt.name(),
                failure.what
            );
            next = next.or(failure.next.clone());
        }
    }
    if what.is_empty() {
        return Ok(0);
    }
    let next = next.unwrap_or_else(|| "`psi-cachectl slots test` tries each slot".to_owned());
    Err(Error::new(Kind::Unreachable, what).hint(next))
}

fn told(lines: &[String], changed: &SlotsChanged, end: Result<u8>) -> Outcome {
    Outcome::with_keys(lines, &changed.recovery_keys, end)
}
