//! `psi-cachectl refresh`: psi-setup's own run, with its exit codes.

use crate::cache::Lock;
use crate::cachectl::Outcome;
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::mapping::ProviderName;

/// `psi-cachectl refresh`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Fetch from this provider only: infisical, local or nitrokeyhsm.
    #[arg(long, value_name = "PROVIDER", value_parser = parse_provider)]
    pub provider: Option<ProviderName>,
}

fn parse_provider(text: &str) -> std::result::Result<ProviderName, &'static str> {
    ProviderName::parse(text).ok_or("the providers are infisical, local and nitrokeyhsm")
}

/// Fetches everything again and hands it to psi-serve.
///
/// # Errors
/// [`Kind::Unreachable`] if psi-serve does not run: there is nobody to hand anything to.
pub async fn refresh(config: &Config, _args: &Args) -> Result<Outcome> {
    if !Lock::is_held(&config.state_dir)? {
        return Err(Error::new(
            Kind::Unreachable,
            "psi-serve does not run: nothing was fetched",
        )
        .hint("`systemctl start psi-secrets.service`, then run this again"));
    }
    Err(Error::new(
        Kind::Config,
        "refreshing is not in this build of psi-cachectl",
    )
    .hint("`systemctl start psi-infisical-setup.service` does the same"))
}
