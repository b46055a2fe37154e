//! The command line, and what `--help` and the man page say beyond it.

use psi::cli::{self, CommonArgs};
use psi::setup::Options;

/// Fetches the workloads' secrets, seals them, registers them with Podman and writes quadlet
/// drop-ins.
///
/// It asks the providers for all that config.yaml lists, hands the values to psi-serve, registers
/// what Podman lacks, and writes one drop-in for each workload's quadlet. Run it as root.
///
/// A workload that fails keeps what it has and does not hold up the others. Running it again is
/// always safe; where nothing has changed it changes nothing.
#[derive(clap::Parser)]
#[command(name = "psi-setup", version, after_long_help = cli::manual(MANUAL))]
pub struct Args {
    /// The configuration's place.
    #[command(flatten)]
    pub common: CommonArgs,
    /// What to do.
    #[command(flatten)]
    pub options: Options,
}

const MANUAL: &str = "\
Examples:
  psi-setup --dry-run --strict
      Is the configuration right, and what would the next run change?
  psi-setup
      Fetch, seal, register, write drop-ins.
  psi-setup --accept-removals myapp
      Most keys of myapp are gone on purpose.
  psi-setup --prune-now
      A value was revoked: nothing may use it any more. All that the providers no longer have
      is removed, of every workload; --dry-run shows it first.

Exit status:
  0   done
  1   something was refused or differs, as listed; the other workloads are done
  64  wrong usage
  69  something does not answer, and something is missing: try again
  70  a fault in PSI
  74  the system could not read or write
  75  a provider does not answer; everything is registered, cached and has its drop-in
  76  something else than Podman or psi-serve answers on their sockets
  77  access denied
  78  the configuration has to be changed
  69, 78, 1, 75
      Where workloads end differently: the first of these that one of them gives.

Files:
  /etc/psi/config.yaml
      The configuration.
  /etc/containers/systemd/NAME.container.d/50-secrets.conf
      The drop-in of a workload: its Secret= lines.
  /run/podman/podman.sock
      Podman's API: systemctl enable --now podman.socket.
  /run/psi/psi.sock
      psi-serve's socket.
  /run/psi/setup.lock
      Locked while it runs: two runs never mix.
  /etc/credstore.encrypted/
      Sealed credentials: infisical-client-secret, psi-socket-token. The unit imports them;
      by hand, root opens them.

See also:
  psi-serve(1), psi-cachectl(1), psi-secret(1), podman-secret(1), podman-systemd.unit(5)
";
