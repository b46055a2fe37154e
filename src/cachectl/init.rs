//! `psi-cachectl init`: the key, sealed by systemd-creds, and an empty cache.

use std::path::Path;

use crate::cache::{self, Cache, Opening, no_slot_opens};
use crate::cachectl::Outcome;
use crate::cachectl::owner::{self, Owner};
use crate::client::Client;
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::protector::{Credential, Key, Protector, SEALED_FILE, SealOptions};
use crate::wire;

/// `psi-cachectl init`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What seals the cache; without it the choices are listed.
    #[arg(long)]
    pub backend: Option<Backend>,
    /// What systemd-creds seals a new key with [default: auto, or tpm2 with --pcrs].
    #[arg(long, value_name = "KEY", value_parser = ["auto", "host", "tpm2", "host+tpm2"])]
    pub with_key: Option<String>,
    /// Bind a new key to these PCRs of the TPM, e.g. 7 or 7+14. A firmware update that changes
    /// one of them keeps psi-serve from starting [default: none].
    #[arg(long, value_name = "LIST", value_parser = parse_pcrs)]
    pub pcrs: Option<String>,
    /// Put an existing cache aside and start a new one.
    #[arg(long)]
    pub force: bool,
}

/// What may seal the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Backend {
    /// A key that systemd-creds seals to the TPM or to the host.
    Credential,
    /// The TPM itself; not in this version.
    Tpm,
    /// A PKCS#11 token; not in this version.
    Hsm,
}

/// As tpm2-tools and systemd write lists of PCRs; the list becomes part of a command line.
fn parse_pcrs(text: &str) -> std::result::Result<String, &'static str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "+:=-".contains(c);
    match !text.is_empty() && text.chars().all(fits) {
        true => Ok(text.to_owned()),
        false => Err("a list of PCRs is like 7 or 7+14"),
    }
}

impl Args {
    /// Finds wrong usage.
    ///
    /// # Errors
    /// [`Kind::Usage`], or [`Kind::Config`] for a backend that this version can't use.
    pub fn check(&self) -> Result<()> {
        let use_credential = "run `psi-cachectl init --backend credential`";
        let not_built = |name: &str| {
            let what = format!("the backend `{name}` can't be used in this version");
            Err(Error::new(Kind::Config, what).hint(use_credential))
        };
        match self.backend {
            None => Err(Error::new(
                Kind::Usage,
                "--backend is missing: `credential` (a key that systemd-creds seals to the TPM or \
                 the host), `tpm` (the TPM itself; not in this version) or `hsm` (a PKCS#11 token; \
                 not in this version)",
            )
            .hint(use_credential)),
            Some(Backend::Tpm) => not_built("tpm"),
            Some(Backend::Hsm) => not_built("hsm"),
            Some(Backend::Credential) => self.check_pcrs(),
        }
    }

    fn check_pcrs(&self) -> Result<()> {
        match self.with_key.as_deref() {
            Some(key @ ("auto" | "host")) if self.pcrs.is_some() => {
                let what = format!("`--with-key {key}` does not bind a key to PCRs for certain");
                let hint = "use `--with-key tpm2` or `--with-key host+tpm2` with --pcrs";
                Err(Error::new(Kind::Usage, what).hint(hint))
            }
            _ => Ok(()),
        }
    }

    fn seal_options(&self) -> SealOptions {
        let bound = self.pcrs.as_ref().map(|_| "tpm2".to_owned());
        SealOptions {
            with_key: self.with_key.clone().or(bound),
            pcrs: self.pcrs.clone(),
        }
    }
}

/// Makes an empty cache, and the key that seals it if there is none yet. A key that is there,
/// delivered by systemd or sealed in `sealed_key`, is used; it is never replaced.
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
        credential,
        sealed_key,
        args,
    };
    if !config.state_dir.exists() {
        let why = format!("psi-serve has not made {} yet", config.state_dir.display());
        return job.leave_to_psi_serve(&why);
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
    credential: Credential,
    sealed_key: &'a Path,
    args: &'a Args,
}

impl Job<'_> {
    /// For the holder of the lock.
    fn make(&self) -> Result<Outcome> {
        let key = self.key()?;
        let protectors = owner::to_create(self.config, self.credential.clone())?;
        let (_, aside) = Cache::init(&self.config.cache.path, &protectors, self.args.force)?;
        let aside = aside.map(|path| path.display().to_string());
        let next = "`systemctl start psi-secrets.service`, then `psi-setup` fills it";
        Ok(self.made(&key, aside.as_deref(), next))
    }

    /// Has psi-serve make it, with the key that it has.
    async fn ask(&self, client: &Client) -> Result<Outcome> {
        let status = client.status().await?;
        if status["cache"]["state"] == "off" {
            return self.leave_to_psi_serve("psi-serve was started without `cache.backend`");
        }
        let force = self.args.force;
        match client.init(&wire::Init { force }).await? {
            Some(made) => {
                self.check_sealed_key()?;
                let key = "the key is the one that psi-serve has";
                Ok(self.made(key, made.replaced.as_deref(), "`psi-setup` fills it"))
            }
            None => self.leave_to_psi_serve("psi-serve has no key yet"),
        }
    }

    /// Sees to the key only: psi-serve makes the cache itself, once it has the key.
    fn leave_to_psi_serve(&self, why: &str) -> Result<Outcome> {
        let key = self.key()?;
        let path = self.config.cache.path.display();
        if cache::outline(&self.config.cache.path)?.is_some() {
            let what = format!("{key}, but {path} is as it was: {why}");
            return Err(Error::new(Kind::Unreachable, what)
                .hint(format!("{}, then run this again", self.restart())));
        }
        let mut lines = vec![key, format!("there is no {path} yet: {why}")];
        lines.extend(self.delivery());
        lines.push(format!(
            "next: {} delivers the key; the first `psi-setup` makes the cache",
            self.restart()
        ));
        Ok(Outcome::done(lines.join("\n") + "\n"))
    }

    fn made(&self, key: &str, aside: Option<&str>, next: &str) -> Outcome {
        let path = self.config.cache.path.display();
        let mut lines = vec![key.to_owned(), format!("created {path}, empty")];
        lines.extend(aside.map(|aside| format!("the old cache is now {aside}")));
        lines.extend(self.delivery());
        match self.config.cache.backend {
            Some(_) => lines.push(format!("next: {next}")),
            None => lines.push(format!("next: {} uses it", self.restart())),
        }
        Outcome::done(lines.join("\n") + "\n")
    }

    /// The command after which psi-serve uses the key, with what has to be done before.
    fn restart(&self) -> String {
        let command = "`systemctl restart psi-secrets.service`".to_owned();
        match self.config.cache.backend {
            Some(_) => command,
            None => {
                let file = self.config.file.display();
                format!("set `cache.backend: tpm` in {file}; {command}")
            }
        }
    }

    /// What the unit needs to find a key that lies elsewhere.
    fn delivery(&self) -> Option<String> {
        let elsewhere = self.sealed_key != Path::new(SEALED_FILE) && self.sealed_key.exists();
        elsewhere.then(|| {
            format!(
                "psi-secrets.service needs `LoadCredentialEncrypted=psi-cache-key:{}`",
                self.sealed_key.display()
            )
        })
    }

    /// Sees to it that there is a key that opens, and says where it is.
    fn key(&self) -> Result<String> {
        let file = self.sealed_key.display();
        let found = if self.credential.is_delivered() {
            "the key is the credential that systemd delivered".to_owned()
        } else if self.sealed_key.exists() {
            format!("the key is the one in {file}")
        } else {
            return self.new_key();
        };
        self.credential.seal()?;
        if self.args.with_key.is_some() || self.args.pcrs.is_some() {
            tracing::warn!("--with-key and --pcrs change nothing: there is a key already");
        }
        Ok(found)
    }

    fn new_key(&self) -> Result<String> {
        let file = self.sealed_key.display();
        if let Some(pcrs) = &self.args.pcrs {
            tracing::warn!(
                "the key is bound to PCRs {pcrs}: once a firmware or boot loader update changes them, \
                 systemd can't decrypt {file} and stops psi-secrets.service with 243/CREDENTIALS \
                 before PSI runs"
            );
        }
        let options = self.args.seal_options();
        options.seal(&Key::generate()?, self.sealed_key)?;
        Ok(format!("a new key is sealed in {file}"))
    }

    /// psi-serve may have been started with another key than the one that the next start delivers:
    /// that start could not open the cache.
    fn check_sealed_key(&self) -> Result<()> {
        if !self.sealed_key.exists() {
            return Ok(());
        }
        let next_start = Credential::for_root_tool(None, self.sealed_key);
        let protectors = owner::to_open(self.config, next_start)?;
        let Opening::NoSlot(attempts) = Cache::open(&self.config.cache.path, &protectors)? else {
            return Ok(());
        };
        let failure = attempts.iter().find_map(|a| a.failure.as_ref());
        if failure.is_some_and(|e| e.kind() == Kind::Unreachable) {
            // No systemd-creds here, as in a container: it can't be told.
            return Ok(());
        }
        let what = format!(
            "the cache was created, but {} does not open it: {}",
            self.sealed_key.display(),
            no_slot_opens(&attempts)
        );
        Err(Error::new(Kind::Refused, what).hint(
            "`systemctl restart psi-secrets.service`, then `psi-cachectl init --backend credential --force`",
        ))
    }
}
