//! `psi-cachectl adopt-v1`: a cache of the Python program, opened once with the key that systemd-creds
//! sealed to PCR 7, gets slots that outlive a change of the boot.

use std::path::{Path, PathBuf};

use crate::cache::{self, Header, v1};
use crate::cachectl::owner::{self, Owner};
use crate::cachectl::printed::Slot;
use crate::cachectl::slots::change_under_lock;
use crate::cachectl::{Outcome, pcrs};
use crate::config::{Backend, Config};
use crate::error::{Error, Kind, Result};
use crate::protector::{Credential, Devices, Key, Protector, SlotKind};
use crate::slots;
use crate::wire::{AddSlot, Init, NewRecoveryKey, SlotChange, Slots, SlotsChanged};

/// Where the Python program's documentation has the sealed key.
const OLD_KEY: &str = "/etc/psi/cache.key";

/// For `--help` and the man page, see [`crate::cli::manual`].
pub const MANUAL: &str = "\
Examples:
  systemctl stop psi-secrets.socket psi-secrets.service
  psi-cachectl adopt-v1 --recovery
  systemctl start psi-secrets.socket psi-secrets.service
      The values of the old cache are in a new one, which the TPM and the printed key open. The
      old file stays beside it as cache.enc.v1 for 7 days at most.
";

/// `psi-cachectl adopt-v1`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The old cache's key as systemd-creds sealed it; it is read, and stays as it is.
    #[arg(long, value_name = "FILE", default_value = OLD_KEY)]
    key: PathBuf,
    /// Bind the TPM's slot to these PCRs, e.g. 7 or 7,14 [default: `cache.tpm.pcrs`].
    #[arg(long, value_name = "LIST")]
    pcrs: Option<String>,
    /// Add a recovery slot and print its key, once: it opens the cache when nothing else does.
    #[arg(long)]
    recovery: bool,
    /// Seal to PCRs even if nothing has been measured into them.
    #[arg(long)]
    force: bool,
}

impl Args {
    /// Finds wrong usage.
    ///
    /// # Errors
    /// [`Kind::Usage`]
    pub fn check(&self) -> Result<()> {
        pcrs::parse_if_given(self.pcrs.as_deref()).map(drop)
    }
}

/// Makes a cache of version 2 of one of version 1, with the slot that `cache.backend` stands for. One
/// that has version 2 already, with the old key as a slot, gets the new slot and loses the old.
///
/// # Errors
/// [`Kind::NotFound`] if there is no cache or no key, [`Kind::Refused`] if psi-serve is in the way;
/// why the old cache or a slot does not open; why the new one can't be written. The cache is then the
/// old one.
pub async fn adopt(config: &Config, credential: Credential, args: &Args) -> Result<Outcome> {
    let credential = Credential::for_root_tool(credential.directory, &args.key);
    let job = Job {
        config,
        devices: owner::devices(config, credential),
        args,
    };
    let owner = owner::find(config).await?;
    let path = &config.cache.path;
    let outline = cache::outline(path)?.ok_or_else(|| slots::no_file(path))?;
    if let Owner::Serve(client) = &owner {
        let status = client.status().await?;
        if status["cache"]["state"] != "open" {
            return Err(in_the_way(path));
        }
    }
    match (outline.version, &owner) {
        (Some(v1::VERSION), Owner::Us(_)) => job.carry_over(),
        (Some(v1::VERSION), Owner::Serve(_)) => Err(in_the_way(path)),
        _ => job.exchange_slots(&owner, &outline.header?).await,
    }
}

struct Job<'a> {
    config: &'a Config,
    devices: Devices,
    args: &'a Args,
}

impl Job<'_> {
    fn path(&self) -> &Path {
        &self.config.cache.path
    }

    /// What takes the credential's place.
    fn kind(&self) -> SlotKind {
        match self.devices.backend {
            Backend::Tpm => SlotKind::Tpm2,
            Backend::Hsm => SlotKind::Pkcs11,
        }
    }

    /// For the holder of the lock.
    fn carry_over(&self) -> Result<Outcome> {
        let asked = Init {
            force: self.args.force,
            kind: Some(self.kind()),
            pcrs: self.pcrs()?,
            recovery: self.args.recovery,
        };
        let key = || self.old_key();
        let adopted = slots::adopt(self.path(), &self.devices, key, &asked);
        let (carried_over, recovery_key) = adopted.map_err(|e| self.explain(e))?;
        let mut lines = vec![carried_over.to_string()];
        lines.extend(self.said_of_slots());
        Ok(Outcome::with_keys(&lines, recovery_key.as_slice(), Ok(0)))
    }

    fn old_key(&self) -> Result<Key> {
        let file = &self.args.key;
        let credential = &self.devices.credential;
        if !credential.is_delivered() && !file.exists() {
            let what = format!("there is no {}", file.display());
            return Err(Error::new(Kind::NotFound, what).hint(
                "`systemctl cat psi-secrets.service` has its place as `LoadCredentialEncrypted=psi-cache-key:`: \
                 name that with `--key FILE`; nothing was changed",
            ));
        }
        match credential.seal() {
            Ok((key, _)) => Ok(key),
            Err(e) if e.kind() == Kind::Io => Err(e.hint(
                "it was sealed for another TPM or boot chain (PCR 7): boot once more as it was then and run \
                 this again; or `psi-cachectl init --backend tpm --force` puts the old cache aside, and \
                 `systemctl restart 'psi-*-setup.service'` fetches the values again; nothing was changed",
            )),
            Err(e) => Err(e),
        }
    }

    fn explain(&self, error: Error) -> Error {
        match error.kind() {
            Kind::Denied if !self.devices.credential.is_delivered() => {
                let key = self.args.key.display();
                error.hint(format!(
                    "if {key} is not its key, name that with `--key FILE`; else restore cache.enc from a \
                     backup; nothing was changed"
                ))
            }
            _ => error,
        }
    }

    /// For a cache that psi-serve, or a command, has carried over with the key.
    async fn exchange_slots(&self, owner: &Owner, header: &Header) -> Result<Outcome> {
        let of_kind = |kind| header.slots.iter().filter(move |slot| slot.kind == kind);
        let mut lines = Vec::new();
        if of_kind(self.kind()).next().is_none() {
            self.add(owner, self.kind()).await?;
        }
        let old: Vec<u32> = of_kind(SlotKind::Credential).map(|slot| slot.id).collect();
        let mut keys = match old.is_empty() {
            true => Vec::new(),
            false => {
                let change = SlotChange::Remove { ids: old.clone() };
                self.change(owner, change).await?.recovery_keys
            }
        };
        lines.extend(
            old.iter()
                .map(|id| format!("slot {id} (credential) was removed")),
        );
        // The keys that the removal made are known to nobody else: from here on nothing may fail.
        let mut end = Ok(0);
        if self.args.recovery && of_kind(SlotKind::Recovery).next().is_none() {
            match self.add(owner, SlotKind::Recovery).await {
                Ok(new) => keys.extend(new),
                Err(error) => end = Err(error),
            }
        }
        if lines.is_empty() {
            let path = self.path().display();
            lines.push(format!(
                "{path} has version 2 and no credential slot: there is nothing to adopt"
            ));
        }
        lines.extend(self.said_of_slots());
        Ok(Outcome::with_keys(&lines, &keys, end))
    }

    async fn add(&self, owner: &Owner, kind: SlotKind) -> Result<Vec<NewRecoveryKey>> {
        let slot = AddSlot {
            kind,
            label: String::new(),
            pcrs: self.pcrs()?.filter(|_| kind == SlotKind::Tpm2),
            token: None,
            force: self.args.force,
            slot_key: None,
        };
        let changed = self.change(owner, SlotChange::Add(slot)).await?;
        Ok(changed.recovery_keys)
    }

    async fn change(&self, owner: &Owner, change: SlotChange) -> Result<SlotsChanged> {
        let asked = Slots {
            change,
            recovery: None,
        };
        match owner {
            Owner::Serve(client) => client.slots(&asked).await,
            Owner::Us(_) => change_under_lock(self.path(), &self.devices, &asked),
        }
    }

    fn pcrs(&self) -> Result<Option<Vec<u8>>> {
        let pcrs = pcrs::parse_if_given(self.args.pcrs.as_deref())?;
        Ok(pcrs.filter(|_| self.kind() == SlotKind::Tpm2))
    }

    /// What opens it now, and what is left to do. It is done, so nothing here may fail.
    fn said_of_slots(&self) -> Vec<String> {
        let outline = cache::outline(self.path()).ok().flatten();
        let header = outline.and_then(|outline| outline.header.ok());
        let slots = header.as_ref().map(Slot::all).unwrap_or_default();
        let mut lines: Vec<String> = slots
            .iter()
            .map(|slot| {
                format!(
                    "slot {} ({}) opens it: {}",
                    slot.id,
                    slot.kind,
                    slot.bound_to()
                )
            })
            .collect();
        if !slots.iter().any(|slot| slot.kind == SlotKind::Recovery) {
            lines.push(
                "without a recovery slot all values have to be fetched again once that no longer opens: \
                 `psi-cachectl slots add recovery` makes one"
                    .to_owned(),
            );
        }
        if self.config.cache.backend.is_none() {
            let file = self.config.file.display();
            lines.push(format!(
                "psi-serve uses it with `cache.backend: tpm` in {file}"
            ));
        }
        let key = self.args.key.display();
        lines.push(format!(
            "next: take `LoadCredentialEncrypted=psi-cache-key:{key}` out of psi-secrets.service if it is \
             there (`systemctl cat psi-secrets.service`), which would not start after the next change of \
             the boot; then `systemctl start psi-secrets.socket psi-secrets.service`"
        ));
        lines
    }
}

/// psi-serve has the lock, and not the key.
fn in_the_way(path: &Path) -> Error {
    let what = format!("psi-serve runs and has not opened {}", path.display());
    Error::new(Kind::Refused, what).hint(
        "`systemctl stop psi-secrets.socket psi-secrets.service`, then run this again, then `systemctl start \
         psi-secrets.socket psi-secrets.service`: what starts meanwhile waits 30 s for its secrets; nothing \
         was changed",
    )
}
