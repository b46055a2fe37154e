//! `psi-cachectl refresh`: psi-setup's own run, with its exit codes.

use crate::cache;
use crate::cachectl::Outcome;
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::setup::{self, Options};

/// `psi-cachectl refresh`
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    options: Options,
}

/// Fetches everything again and hands it to psi-serve.
///
/// # Errors
/// [`Kind::Unreachable`] if psi-serve does not run: there is nobody to hand anything to; else as
/// [`setup::run`].
pub async fn refresh(config: &Config, args: &Args) -> Result<Outcome> {
    if !cache::is_owned(&config.state_dir)? {
        return Err(Error::new(
            Kind::Unreachable,
            "psi-serve does not run: nothing was fetched",
        )
        .hint("`systemctl start psi-secrets.service`, then run this again"));
    }
    let report = setup::run(config, &args.options).await?;
    report.log();
    Ok(Outcome {
        end: Ok(report.exit_code()),
        ..Outcome::done(report.text(&args.options)?)
    })
}
