//! psi-hsm's commands: the key on the token, the secrets that are sealed for it, and what is between
//! PSI and the token.
//!
//! Sealing needs the public key only, so nothing here but `init`, `test-pin` and `preflight` logs in.

use std::time::Duration;

use crate::config::{Config, NitrokeyHsm};
use crate::error::Result;
use crate::mapping::ProviderName;
use crate::pkcs11::{Settings, Token};
use crate::provider;

mod init;
mod list;
pub(crate) mod pcscd;
mod pin;
mod preflight;
mod public_key;
mod status;
mod store;
mod test_pin;

/// How long a token may take: a Nitrokey needs seconds for its first login, and half a minute to make
/// a key.
const PATIENCE: Duration = Duration::from_secs(120);

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Check everything that a lookup needs, from the module to the key, each with what mends it.
    ///
    /// The PIN is used once, and never for the token's last try.
    #[command(after_long_help = preflight::MANUAL)]
    Preflight(preflight::Args),
    /// Make the key pair on the token, and keep its public half for `psi-hsm store`.
    ///
    /// A key that is there is used as it is. Only what has the PIN can use the private half, which
    /// never leaves the token.
    #[command(after_long_help = init::MANUAL)]
    Init(init::Args),
    /// Seal the value from standard input for the token, and keep it under a name.
    ///
    /// Every byte of a pipe counts, the newline of `echo` too. Without a pipe it asks, and shows
    /// nothing. A value that is there is replaced. The token is not logged in for it.
    #[command(after_long_help = store::MANUAL)]
    Store(store::Args),
    /// List what is stored, who is to have it, and what Podman knows of it.
    List(list::Args),
    /// Try the PIN once, unless it is the token's last try.
    ///
    /// The right one gives the token's tries back.
    TestPin(test_pin::Args),
    /// Say which token and key are meant and how they are, without a login.
    Status(status::Args),
    /// Set up pcscd in a container, for hosts that have none.
    ///
    /// It writes the quadlets, builds the image, and checks SELinux.
    #[command(after_long_help = pcscd::MANUAL)]
    SetupPcscd(pcscd::Args),
}

/// What a command found or did.
#[derive(Debug)]
pub struct Outcome {
    /// For standard output.
    pub text: String,
    /// The exit status, or what is wrong nonetheless.
    pub end: Result<u8>,
}

impl Outcome {
    fn done(text: String) -> Self {
        Self { text, end: Ok(0) }
    }
}

impl Command {
    /// Does it.
    ///
    /// # Errors
    /// Why it was not done; what is stored is then as it was, unless the error says otherwise.
    pub async fn run(&self, config: &Config) -> Result<Outcome> {
        match self {
            Command::Preflight(args) => preflight::preflight(config, args).await,
            Command::Init(args) => init::init(config, args),
            Command::Store(args) => store::store(config, args).await,
            Command::List(args) => list::list(config, args).await,
            Command::TestPin(args) => test_pin::test_pin(config, args),
            Command::Status(args) => status::status(config, args),
            Command::SetupPcscd(args) => pcscd::setup(config, args),
        }
    }
}

fn settings(config: &Config) -> Result<&NitrokeyHsm> {
    let settings = config.providers.nitrokeyhsm.as_ref();
    settings.ok_or_else(|| provider::not_configured(config, ProviderName::NitrokeyHsm))
}

fn token(hsm: &NitrokeyHsm) -> Token {
    Token::new(Settings::new(hsm, pin::for_root_tool(hsm)))
}
