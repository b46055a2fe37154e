//! The command line, and what `--help` and the man page say beyond it.

use psi::cli::{self, CommonArgs};
use psi::hsm::Command;

/// Makes the key on a PKCS#11 token, seals secrets for it, and finds out what is wrong with it.
///
/// The token is the one of `providers.nitrokeyhsm` in config.yaml: a Nitrokey HSM 2, or whatever has
/// a PKCS#11 module. Run it as root.
#[derive(clap::Parser)]
#[command(name = "psi-hsm", version, after_long_help = cli::manual(MANUAL))]
pub struct Args {
    /// The configuration's place.
    #[command(flatten)]
    pub common: CommonArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const MANUAL: &str = "\
Examples:
  psi-hsm preflight
      What is missing before the token can be used, and what to do about it?
  psi-hsm store db-password
      Ask for a value, and seal it for the token.

Exit status:
  0   done
  1   refused, or preflight has found something wrong
  64  wrong usage
  65  damaged
  66  not found
  69  the token, Podman or psi-serve does not answer
  70  a fault in PSI
  74  the system could not read or write
  76  something answers with nonsense
  77  access denied
  78  the configuration has to be changed, the PIN as well

Files:
  /etc/psi/config.yaml
      The configuration.
  /etc/credstore.encrypted/hsm-pin
      The PIN, sealed by systemd-creds.
  /var/lib/psi/NAME
      What was stored as NAME, sealed for the token.
  /var/lib/psi/nitrokeyhsm-pubkey.der
      The public half of the token's key.

See also:
  psi-serve(1), psi-setup(1), psi-cachectl(1), pkcs11-tool(1), systemd-creds(1)
";
