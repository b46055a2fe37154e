//! psi-cachectl's commands.
//!
//! psi-serve owns the cache while it runs and is asked; otherwise a command does the same itself,
//! under the same lock and through the same module.

use std::path::Path;

use zeroize::Zeroizing;

use crate::cli;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::protector::Credential;
use crate::systemd::Credentials;
use crate::wire::NewRecoveryKey;

mod adopt;
mod init;
mod invalidate;
mod local;
mod owner;
mod pcrs;
mod printed;
mod recovery_key;
mod refresh;
mod sealed_key;
mod slots;
mod status;

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make an empty cache, sealed to the TPM or by systemd-creds.
    ///
    /// A cache that is there is never replaced without `--force`, which puts it aside. `psi-setup`
    /// fills the new one.
    #[command(after_long_help = init::MANUAL)]
    Init(init::Args),
    /// Take over a cache of version 1 whose key systemd-creds sealed to PCR 7.
    ///
    /// Its values get into a cache of version 2 that the TPM opens, or the token with `backend: hsm`;
    /// the old file stays beside it. psi-serve must not run, unless it has the key and opened the cache.
    #[command(after_long_help = adopt::MANUAL)]
    AdoptV1(adopt::Args),
    /// Say what the cache file says of itself, and how psi-serve is.
    ///
    /// No device is asked and nothing is opened, unless with `--verify`.
    #[command(after_long_help = status::MANUAL)]
    Status(status::Args),
    /// Fetch from the providers now, as psi-setup does.
    ///
    /// The options, the report and the exit status are those of psi-setup(1); psi-serve has to run.
    Refresh(refresh::Args),
    /// Drop the value of one secret.
    ///
    /// It goes from disk and memory; the next lookup asks its provider. A local value is refused: it
    /// is the only copy, and `psi-cachectl rm` removes it.
    #[command(after_long_help = invalidate::MANUAL)]
    Invalidate(invalidate::Args),
    /// Keep the value from standard input as a local one, in the cache and nowhere else.
    ///
    /// Every byte of a pipe counts, the newline of `echo` too. Without a pipe it asks, and shows
    /// nothing. Run `psi-setup` then: it registers the value for the workloads that list it.
    #[command(after_long_help = local::PUT_MANUAL)]
    Put(local::PutArgs),
    /// Remove a local value: its only copy.
    ///
    /// One that a workload lists is kept, unless with `--force`.
    #[command(after_long_help = local::RM_MANUAL)]
    Rm(local::RmArgs),
    /// List, try and change what opens the cache.
    ///
    /// A slot is one way to open the cache: the TPM, a credential that systemd delivers, or a
    /// printed recovery key. Any of them opens it.
    #[command(subcommand)]
    Slots(slots::Command),
}

/// What a command found or did.
#[derive(Debug)]
pub struct Outcome {
    /// For standard output.
    pub text: Zeroizing<String>,
    /// The recovery slots whose new keys are in it, and nowhere else.
    pub new_keys: Vec<u32>,
    /// The exit status, or what is wrong nonetheless, e.g. with the cache that was described.
    pub end: Result<u8>,
}

impl Outcome {
    fn done(text: String) -> Self {
        Self {
            text: Zeroizing::new(text),
            new_keys: Vec::new(),
            end: Ok(0),
        }
    }

    /// Lines, then the recovery keys that were made.
    fn with_keys(lines: &[String], keys: &[NewRecoveryKey], end: Result<u8>) -> Self {
        let lines = lines.join("\n") + "\n";
        let printed = printed::recovery_keys(keys);
        let mut text = Zeroizing::new(String::with_capacity(lines.len() + printed.len()));
        text.push_str(&lines);
        text.push_str(&printed);
        let new_keys = keys.iter().map(|key| key.slot).collect();
        Self {
            text,
            new_keys,
            end,
        }
    }

    /// Writes the text to standard output.
    ///
    /// # Errors
    /// [`crate::Kind::Io`] if it can't be written; whoever stops reading is an error if there is a key in
    /// it.
    pub fn print(&self) -> Result<()> {
        if self.new_keys.is_empty() {
            return cli::print(&self.text);
        }
        cli::write_out(&self.text).map_err(|e| {
            let name = |slot: &u32| format!("slot {slot} (recovery)");
            let command = |slot: &u32| format!("`psi-cachectl slots reseal {slot}`");
            let slots: Vec<String> = self.new_keys.iter().map(name).collect();
            let commands: Vec<String> = self.new_keys.iter().map(command).collect();
            let what = format!("the new key of {} could not be printed", slots.join(", "));
            Error::io(what, e).hint(format!(
                "nobody has it: {} makes and prints another one",
                commands.join(", ")
            ))
        })
    }
}

impl Command {
    /// Finds wrong usage before anything is read.
    ///
    /// # Errors
    /// [`crate::Kind::Usage`], or [`crate::Kind::Config`] for what this version can't do.
    pub fn check(&self) -> Result<()> {
        match self {
            Command::Init(args) => args.check(),
            Command::AdoptV1(args) => args.check(),
            Command::Slots(command) => command.check(),
            _ => Ok(()),
        }
    }

    /// Does it. `sealed_key` is the cache's key as systemd-creds sealed it.
    ///
    /// # Errors
    /// Why it was not done; everything is then as it was.
    pub async fn run(&self, config: &Config, sealed_key: &Path) -> Result<Outcome> {
        let directory = Credentials::from_env().directory;
        let credential = Credential::for_root_tool(directory, sealed_key);
        match self {
            Command::Init(args) => init::init(config, credential, sealed_key, args).await,
            Command::AdoptV1(args) => adopt::adopt(config, credential, args).await,
            Command::Status(args) => status::status(config, credential, args).await,
            Command::Refresh(args) => refresh::refresh(config, args).await,
            Command::Invalidate(args) => invalidate::invalidate(config, credential, args).await,
            Command::Put(args) => local::put(config, credential, args).await,
            Command::Rm(args) => local::rm(config, credential, args).await,
            Command::Slots(command) => command.run(config, credential, sealed_key).await,
        }
    }
}
