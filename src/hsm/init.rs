//! `psi-hsm init`: a key pair on the token, and its public half in a file.

use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::hsm::{Outcome, PATIENCE, public_key, settings, token};
use crate::mapping::Store;
use crate::pkcs11::{PublicKey, Token};
use crate::protector::Key;

/// For `--help` and the man page, see [`crate::cli::manual`].
pub const MANUAL: &str = "\
Examples:
  sc-hsm-tool --initialize --label psi
      First, for a new Nitrokey HSM: it sets the PINs and erases what is on it.
  psi-hsm init
      Make the key, or find the one that is there.
";

/// `psi-hsm init`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The length of a new key.
    #[arg(long, value_name = "BITS", default_value = "2048", value_parser = ["2048", "3072", "4096"])]
    pub bits: String,
    /// Go on with another key than the one whose public half is kept: what was stored for that one
    /// can't be opened any more, unless its token is plugged in again.
    #[arg(long)]
    pub force: bool,
}

/// Makes the key unless it is there, tries it, and keeps its public half.
///
/// # Errors
/// [`Kind::Refused`] if the public half of another key is kept and no `force`; what the token says.
/// A key that was made then stays on the token, and the next run uses it.
pub fn init(config: &Config, args: &Args) -> Result<Outcome> {
    let hsm = settings(config)?;
    Store::open_existing(&config.state_dir)?;
    let file = &hsm.public_key_cache;
    let kept = match public_key::read(file) {
        Err(e) if !(args.force && e.kind() == Kind::Damaged) => return Err(e),
        kept => kept.unwrap_or_default(),
    };
    let token = token(hsm);
    let bits = args.bits.parse().unwrap_or(2048);
    let may_make = kept.is_none() || args.force;
    let found = token.key_or_new(may_make.then_some(bits), PATIENCE);
    let found = found.map_err(|e| match (e.kind(), &kept) {
        (Kind::NotFound, Some(_)) => public_key::differs(file).because(e),
        _ => e,
    })?;
    if let Some(kept) = &kept
        && !args.force
        && !public_key::is_same(kept, &found.public_key)?
    {
        return Err(public_key::differs(file));
    }
    check(&token, &found.public_key)?;
    public_key::write(file, &found.public_key)?;
    let made = match found.is_new {
        true => "made",
        false => "found",
    };
    Ok(Outcome::done(format!(
        "{made} the key: {} bits, {}, on {}\nits public half is in {}\nnext: `psi-hsm store NAME`\n",
        found.public_key.bits(),
        public_key::fingerprint(&found.public_key)?,
        found.token.name(),
        file.display()
    )))
}

/// Has the token decrypt something: some that have a key can't do what PSI needs of it.
///
/// # Errors
/// What the token says.
pub fn check(token: &Token, key: &PublicKey) -> Result<()> {
    let probe = Key::generate()?;
    let plain = token.decrypt(&key.encrypt(probe.expose())?, PATIENCE)?;
    if plain[..] != *probe.expose() {
        let what = "the token decrypts something else than was encrypted for its key";
        return Err(Error::new(Kind::BadAnswer, what)
            .hint("its public and its private key don't belong together: `pkcs11-tool --list-objects` shows them"));
    }
    Ok(())
}
