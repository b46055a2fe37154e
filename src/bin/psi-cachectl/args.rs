//! The command line, and what `--help` and the man page say beyond it.

use std::path::PathBuf;

use psi::cachectl::Command;
use psi::cli::{self, CommonArgs};
use psi::protector::SEALED_FILE;

/// Makes, describes, verifies, refreshes, fills and empties the sealed cache, and changes what
/// opens it.
///
/// A running psi-serve is asked to do it; otherwise it is done here, under the same lock. Run it
/// as root.
#[derive(clap::Parser)]
#[command(name = "psi-cachectl", version, after_long_help = cli::manual(MANUAL))]
pub struct Args {
    /// The configuration's place.
    #[command(flatten)]
    pub common: CommonArgs,
    /// The cache's key as systemd-creds sealed it.
    #[arg(long, value_name = "FILE", global = true, default_value = SEALED_FILE)]
    pub sealed_key: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const MANUAL: &str = "\
Examples:
  psi-cachectl status --verify
      Is the cache there, intact, and does it open?
  psi-cachectl slots test
      What opens it, and why something does not.
  psi-cachectl slots reseal --recovery
      The boot has changed and that was you: serve the values at once, and seal anew.

Exit status:
  0   done
  1   refused; everything is as it was
  64  wrong usage
  65  damaged
  66  not found
  69  unreachable, or no slot opens the cache
  70  a fault in PSI
  74  the system could not read or write
  75  refresh only: a provider does not answer, and nothing is missing
  76  something else than psi-serve or Podman answers on their sockets
  77  access denied
  78  the configuration has to be changed

Files:
  /etc/psi/config.yaml
      The configuration.
  /var/lib/psi/cache.enc
      The cache.
  /var/lib/psi/.lock
      Locked by whoever owns the cache: psi-serve while it runs.
  /run/psi/psi.sock
      psi-serve's socket.
  /etc/credstore.encrypted/psi-cache-key
      The key of a slot of kind credential, sealed by systemd-creds.

See also:
  psi-serve(1), psi-setup(1), psi-secret(1), systemd-creds(1)
";
