//! `psi-cachectl slots …`: what opens the cache, listed, tried and changed.

use std::path::Path;

use crate::cachectl::sealed_key::Sealing;
use crate::cachectl::{Outcome, pcrs};
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::protector::{Credential, SlotKind};

mod job;

use job::Job;

pub use job::change_under_lock;

/// For `--help` and the man page, see [`crate::cli::manual`].
const ADD_MANUAL: &str = "\
Examples:
  psi-cachectl slots add recovery --label 'safe, second drawer'
      Prints a key, once: write it down, and keep it off this machine.
  psi-cachectl slots add tpm2 --pcrs 7,14
      The TPM, bound to these PCRs.
  psi-cachectl slots add pkcs11 --token-serial DENK0200002
      The key on a second token; without a serial number, on the configured one.
  psi-cachectl slots add credential
      A key that systemd-creds seals; the next start of psi-serve has it.
";

/// For `--help` and the man page, see [`crate::cli::manual`].
const TEST_MANUAL: &str = "\
Examples:
  psi-cachectl slots test
      All slots; a recovery key is not asked for.
  psi-cachectl slots test --recovery
      Is the key on this paper a key of this cache?

Exit status:
  0   every slot that could be tried opens
  66  there is no cache, or no such slot
  69  a slot that could be tried does not open
";

/// For `--help` and the man page, see [`crate::cli::manual`].
const RESEAL_MANUAL: &str = "\
Examples:
  psi-cachectl slots reseal
      After a change in the boot: all slots that no longer open, if another one does.
  psi-cachectl slots reseal --recovery
      The same, if nothing but the printed key opens the cache.
  psi-cachectl slots reseal 1 --pcrs 7,14
      Slot 1, to other PCRs.
";

/// `psi-cachectl slots`
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Say which slots the cache has; no device is asked.
    List(List),
    /// Add one more way to open the cache.
    ///
    /// What the cache holds stays as it is.
    #[command(after_long_help = ADD_MANUAL)]
    Add(Add),
    /// Remove slots and encrypt everything under a new key.
    ///
    /// A recovery slot that stays gets a new key, which is printed: the old paper opens older copies
    /// of the file only. One slot has to stay, and what stays has to open now: those that no longer
    /// do go together.
    Remove(Remove),
    /// Say which slots open now, how long it took, and why the others do not.
    #[command(after_long_help = TEST_MANUAL)]
    Test(Test),
    /// Seal a slot anew, to what runs now: all that do not open, or one.
    ///
    /// A slot of the TPM keeps its PCRs, unless others are given.
    #[command(after_long_help = RESEAL_MANUAL)]
    Reseal(Reseal),
}

/// `psi-cachectl slots list`
#[derive(Debug, clap::Args)]
pub struct List {
    /// One JSON array on one line.
    #[arg(long)]
    json: bool,
}

/// The key that opens a cache when nothing else does.
#[derive(Debug, clap::Args)]
struct Entered {
    /// Read a recovery key from standard input; it opens the cache if nothing else does.
    #[arg(long)]
    recovery: bool,
}

/// Which of several PKCS#11 tokens.
#[derive(Debug, clap::Args)]
struct Chosen {
    /// The PKCS#11 token with this serial number, instead of the configured one.
    #[arg(long, value_name = "SERIAL")]
    token_serial: Option<String>,
}

impl Chosen {
    fn check_for(&self, is_pkcs11: bool) -> Result<()> {
        if is_pkcs11 || self.token_serial.is_none() {
            return Ok(());
        }
        let what = "--token-serial is for slots of kind pkcs11";
        Err(Error::new(Kind::Usage, what)
            .hint("`psi-cachectl slots add pkcs11 --token-serial SERIAL`"))
    }
}

/// `psi-cachectl slots add`
#[derive(Debug, clap::Args)]
pub struct Add {
    /// The new slot's kind.
    kind: Kinds,
    /// A note for people.
    #[arg(long, value_name = "TEXT", default_value = "")]
    label: String,
    #[command(flatten)]
    sealing: Sealing,
    #[command(flatten)]
    token: Chosen,
    #[command(flatten)]
    entered: Entered,
    /// Seal to PCRs even if nothing has been measured into them.
    #[arg(long)]
    force: bool,
}

/// Kinds of slots that can be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Kinds {
    /// The TPM, bound to PCRs.
    #[value(alias = "tpm")]
    Tpm2,
    /// A private key on a PKCS#11 token.
    #[value(alias = "hsm")]
    Pkcs11,
    /// A key that systemd-creds seals and systemd delivers.
    Credential,
    /// A printed key.
    Recovery,
}

impl From<Kinds> for SlotKind {
    fn from(kind: Kinds) -> Self {
        match kind {
            Kinds::Tpm2 => SlotKind::Tpm2,
            Kinds::Pkcs11 => SlotKind::Pkcs11,
            Kinds::Credential => SlotKind::Credential,
            Kinds::Recovery => SlotKind::Recovery,
        }
    }
}

/// `psi-cachectl slots remove`
#[derive(Debug, clap::Args)]
pub struct Remove {
    /// The slots' numbers, as `slots list` shows them.
    #[arg(value_name = "ID", required = true)]
    ids: Vec<u32>,
    #[command(flatten)]
    entered: Entered,
}

/// `psi-cachectl slots test`
#[derive(Debug, clap::Args)]
pub struct Test {
    /// Only this slot.
    id: Option<u32>,
    #[command(flatten)]
    entered: Entered,
}

/// `psi-cachectl slots reseal`
#[derive(Debug, clap::Args)]
pub struct Reseal {
    /// Only this slot, whether it opens or not; a recovery slot gets a new key, which is printed.
    id: Option<u32>,
    #[command(flatten)]
    sealing: Sealing,
    #[command(flatten)]
    token: Chosen,
    #[command(flatten)]
    entered: Entered,
    /// Seal to PCRs even if nothing has been measured into them.
    #[arg(long)]
    force: bool,
}

impl Command {
    /// Finds wrong usage.
    ///
    /// # Errors
    /// [`Kind::Usage`]
    pub fn check(&self) -> Result<()> {
        match self {
            Command::Add(add) => {
                add.token.check_for(add.kind == Kinds::Pkcs11)?;
                match add.kind {
                    Kinds::Credential => add.sealing.check_for_credential(),
                    Kinds::Tpm2 => add.sealing.check_for_others(true),
                    Kinds::Pkcs11 | Kinds::Recovery => add.sealing.check_for_others(false),
                }
            }
            Command::Reseal(reseal) => {
                pcrs::parse_if_given(reseal.sealing.pcrs.as_deref()).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Does it. `sealed_key` is the key of a credential slot, as systemd-creds sealed it.
    ///
    /// # Errors
    /// Why it was not done; the slots are then the old ones.
    pub async fn run(
        &self,
        config: &Config,
        credential: Credential,
        sealed_key: &Path,
    ) -> Result<Outcome> {
        let job = Job {
            config,
            credential,
            sealed_key,
        };
        match self {
            Command::List(list) => job.list(list),
            Command::Add(add) => job.add(add).await,
            Command::Remove(remove) => job.remove(remove).await,
            Command::Test(test) => job.test(test).await,
            Command::Reseal(reseal) => job.reseal(reseal).await,
        }
    }
}
