//! `psi-cachectl init`: an empty cache, and what opens it.

use std::path::Path;

use crate::cache::{self, Cache, Opening};
use crate::cachectl::owner::{self, Owner};
use crate::cachectl::printed::Slot;
use crate::cachectl::sealed_key::{SealedKey, Sealing};
use crate::cachectl::{Outcome, pcrs};
use crate::client::Client;
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::protector::{Credential, Recovery, SlotKind};
use crate::wire::{self, Initialised};
use crate::{setup, slots};

/// For `--help` and the man page, see [`crate::cli::manual`].
pub const MANUAL: &str = "\
Examples:
  psi-cachectl init --backend tpm --recovery
      The TPM and PCR 7 open it, and so does the recovery key that is printed.
  psi-cachectl init --backend credential
      Without a TPM, or with one but no PCR: systemd-creds seals a key, and
      systemctl restart psi-secrets.service delivers it.
  psi-cachectl init --backend hsm --recovery
      The key on the token of providers.nitrokeyhsm, and a printed one.
  psi-cachectl init --backend tpm --force
      Nothing opens the old cache any more: put it aside, and start anew.
";

/// `psi-cachectl init`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What seals the cache; without it the choices are listed.
    #[arg(long)]
    pub backend: Option<Backend>,
    #[command(flatten)]
    sealing: Sealing,
    /// Add a recovery slot and print its key, once: it opens the cache when nothing else does.
    #[arg(long)]
    recovery: bool,
    /// Put an existing cache aside and start a new one; with `--backend tpm` also seal to PCRs that
    /// nothing has been measured into.
    #[arg(long)]
    force: bool,
}

/// What may seal the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Backend {
    /// A key that systemd-creds seals to the TPM or to the host.
    Credential,
    /// The TPM itself, bound to PCRs.
    Tpm,
    /// A private key on a PKCS#11 token, e.g. a Nitrokey HSM.
    Hsm,
}

impl Args {
    /// Finds wrong usage.
    ///
    /// # Errors
    /// [`Kind::Usage`]
    pub fn check(&self) -> Result<()> {
        let use_tpm =
            "run `psi-cachectl init --backend tpm`, or `--backend credential` without a TPM";
        match self.backend {
            None => Err(Error::new(
                Kind::Usage,
                "--backend is missing: `tpm` (the TPM itself, bound to PCRs), `credential` (a key \
                 that systemd-creds seals to the TPM or the host) or `hsm` (a private key on a \
                 PKCS#11 token)",
            )
            .hint(use_tpm)),
            Some(Backend::Hsm) => self.sealing.check_for_others(false),
            Some(Backend::Credential) => self.sealing.check_for_credential(),
            Some(Backend::Tpm) => self.sealing.check_for_others(true),
        }
    }

    fn asked(&self) -> Result<wire::Init> {
        let (kind, pcrs) = match self.backend {
            Some(Backend::Tpm) => {
                let pcrs = pcrs::parse_if_given(self.sealing.pcrs.as_deref())?;
                (SlotKind::Tpm2, pcrs)
            }
            Some(Backend::Hsm) => (SlotKind::Pkcs11, None),
            _ => (SlotKind::Credential, None),
        };
        Ok(wire::Init {
            force: self.force,
            kind: Some(kind),
            pcrs,
            recovery: self.recovery,
        })
    }
}

/// Makes an empty cache. For `--backend credential` also the key that seals it if there is none
/// yet: a key that is there, delivered by systemd or sealed in `sealed_key`, is used; it is never
/// replaced.
///
/// # Errors
/// [`Kind::Refused`] if there is a cache and no `--force`; why there is no key; why the cache can't
/// be written. A key that was sealed stays, for the next try.
pub async fn init(
    config: &Config,
    credential: Credential,
    sealed_key: &Path,
    args: &Args,
) -> Result<Outcome> {
    refuse_to_replace(config, args.force)?;
    if !config.cache.enabled {
        tracing::warn!("cache.enabled is false in {}", config.file.display());
    }
    let job = Job {
        config,
        key: SealedKey {
            credential: &credential,
            file: sealed_key,
            sealing: &args.sealing,
        },
        args,
    };
    if !config.state_dir.exists() {
        let why = format!("psi-serve has not made {} yet", config.state_dir.display());
        return job.leave_to_psi_serve(&why, "`systemctl start psi-secrets.service`");
    }
    match owner::find(config).await? {
        Owner::Serve(client) => job.ask(&client).await,
        Owner::Us(_lock) => job.make(),
    }
}

/// Says what would be lost. An existing cache is put aside only if that is asked for.
fn refuse_to_replace(config: &Config, force: bool) -> Result<()> {
    let path = &config.cache.path;
    let Some(outline) = cache::outline(path)? else {
        return Ok(());
    };
    let contents = match outline.header {
        Ok(header) => format!(
            "its header says {} values, {} of them kept nowhere else",
            header.entries, header.local
        ),
        Err(e) => format!("what it holds can't be said: {e}"),
    };
    let what = format!("{} exists already; {contents}", path.display());
    if force {
        tracing::warn!("{what}: it is put aside, not removed");
        return Ok(());
    }
    Err(Error::new(Kind::Refused, what)
        .hint("`psi-cachectl status --verify` says whether it opens; `--force` puts it aside and starts anew"))
}

struct Job<'a> {
    config: &'a Config,
    key: SealedKey<'a>,
    args: &'a Args,
}

impl Job<'_> {
    fn is_credential(&self) -> bool {
        self.args.backend == Some(Backend::Credential)
    }

    /// For the holder of the lock.
    fn make(&self) -> Result<Outcome> {
        let key = match self.is_credential() {
            true => Some(self.key.key()?.1),
            false => None,
        };
        let devices = owner::devices(self.config, self.key.credential.clone());
        let (_, made) = slots::init(&self.config.cache.path, &devices, &self.args.asked()?)?;
        let fills = self.fills();
        let next = format!("`systemctl start psi-secrets.service`, then {fills}");
        Ok(self.made(key, &made, &next))
    }

    /// Has psi-serve make it, with the key or the device that it has.
    async fn ask(&self, client: &Client) -> Result<Outcome> {
        let status = client.status().await?;
        if status["cache"]["state"] == "off" {
            let why = "psi-serve was started without `cache.backend`";
            return self.leave_to_psi_serve(why, &self.restart());
        }
        match client.init(&self.args.asked()?).await? {
            Some(made) if self.is_credential() => {
                let key = "the key is the one that psi-serve has".to_owned();
                let end = self.check_sealed_key().map(|()| 0);
                Ok(Outcome {
                    end,
                    ..self.made(Some(key), &made, &self.fills())
                })
            }
            Some(made) => Ok(self.made(None, &made, &self.fills())),
            None => self.leave_to_psi_serve("psi-serve has no key yet", &self.restart()),
        }
    }

    /// Sees to the key only: psi-serve makes the cache itself, once it has the key. With the TPM
    /// there is nothing to see to.
    fn leave_to_psi_serve(&self, why: &str, remedy: &str) -> Result<Outcome> {
        let path = self.config.cache.path.display();
        if !self.is_credential() {
            let what = format!("{path} was not made: {why}");
            return Err(
                Error::new(Kind::Unreachable, what).hint(format!("{remedy}, then run this again"))
            );
        }
        let (_, key) = self.key.key()?;
        if cache::outline(&self.config.cache.path)?.is_some() {
            let what = format!("{key}, but {path} is as it was: {why}");
            return Err(Error::new(Kind::Unreachable, what)
                .hint(format!("{}, then run this again", self.restart())));
        }
        let mut lines = vec![key, format!("there is no {path} yet: {why}")];
        lines.extend(self.key.delivery());
        lines.push(format!(
            "next: {} delivers the key; then {} makes the cache",
            self.restart(),
            setup::command(self.config)
        ));
        Ok(Outcome::done(lines.join("\n") + "\n"))
    }

    fn fills(&self) -> String {
        format!("{} fills it", setup::command(self.config))
    }

    /// It is done, so nothing here may fail.
    fn made(&self, key: Option<String>, made: &Initialised, next: &str) -> Outcome {
        let path = &self.config.cache.path;
        let mut lines = Vec::from_iter(key);
        lines.push(format!("created {}, empty", path.display()));
        if let Some(aside) = &made.replaced {
            lines.push(format!("the old cache is now {aside}"));
        }
        let outline = cache::outline(path).ok().flatten();
        let header = outline.and_then(|outline| outline.header.ok());
        let slots = header.as_ref().map(Slot::all).unwrap_or_default();
        lines.extend(slots.iter().map(|slot| {
            format!(
                "slot {} ({}) opens it: {}",
                slot.id,
                slot.kind,
                slot.bound_to()
            )
        }));
        lines.extend(self.key.delivery().filter(|_| self.is_credential()));
        if !self.args.recovery {
            lines.push(
                "without a recovery slot all values have to be fetched again, and local ones are \
                 lost, once that slot no longer opens: `psi-cachectl slots add recovery` makes one"
                    .to_owned(),
            );
        }
        lines.push(match self.config.cache.backend {
            Some(_) => format!("next: {next}"),
            None => format!("next: {} uses it", self.restart()),
        });
        Outcome::with_keys(&lines, made.recovery_key.as_slice(), Ok(0))
    }

    /// The command after which psi-serve uses the cache, with what has to be done before.
    fn restart(&self) -> String {
        let command = "`systemctl restart psi-secrets.service`".to_owned();
        match self.config.cache.backend {
            Some(_) => command,
            None => {
                let file = self.config.file.display();
                let backend = match self.args.backend {
                    Some(Backend::Hsm) => "hsm",
                    _ => "tpm",
                };
                format!("set `cache.backend: {backend}` in {file}; {command}")
            }
        }
    }

    /// psi-serve may have been started with another key than the one that the next start delivers:
    /// that start could not open the cache.
    fn check_sealed_key(&self) -> Result<()> {
        if !self.key.file.exists() {
            return Ok(());
        }
        let next_start = Credential::for_root_tool(None, self.key.file);
        let devices = owner::devices(self.config, next_start);
        let protectors = devices.to_open(Recovery::not_entered());
        let Opening::NoSlot(unopened) = Cache::open(&self.config.cache.path, &protectors)? else {
            return Ok(());
        };
        let failure = unopened.attempts.iter().find_map(|a| a.failure.as_ref());
        if failure.is_some_and(|e| e.kind() == Kind::Unreachable) {
            // No systemd-creds here, as in a container: it can't be told.
            return Ok(());
        }
        let what = format!(
            "the cache was created, but {} does not open it: {}",
            self.key.file.display(),
            unopened.error()
        );
        Err(Error::new(Kind::Refused, what).hint(
            "`systemctl restart psi-secrets.service`, then `psi-cachectl init --backend credential --force`",
        ))
    }
}
