//! `psi-hsm test-pin`: one login.

use crate::config::Config;
use crate::error::Result;
use crate::hsm::{Outcome, PATIENCE, settings, token};

/// `psi-hsm test-pin`
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Logs in once.
///
/// # Errors
/// That the PIN was rejected, or why it was not tried.
pub fn test_pin(config: &Config, _: &Args) -> Result<Outcome> {
    let hsm = settings(config)?;
    let checked = token(hsm).check_login(PATIENCE)?;
    let name = checked.token.name();
    Ok(Outcome::done(match checked.token.needs_login {
        true => format!("{name} takes the PIN\n"),
        false => format!("{name} wants no PIN\n"),
    }))
}
