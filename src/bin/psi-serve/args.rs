//! The command line, and what `--help` and the man page say beyond it.

use psi::cli::{self, CommonArgs};

/// Answers Podman's lookups from memory and keeps the sealed cache.
///
/// It opens the cache once, with the TPM, a credential or a recovery key, and answers each lookup
/// from memory. What is not in the cache it asks the provider for, within `lookup_timeout`.
///
/// Runs until SIGTERM; SIGHUP makes it read its configuration again. Its sockets come from
/// systemd, or it binds the configured one itself. It needs no privileges: the shipped unit runs
/// it as the user psi.
#[derive(clap::Parser)]
#[command(name = "psi-serve", version, after_long_help = cli::manual(MANUAL))]
pub struct Args {
    /// The configuration's place.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Ask the running psi-serve whether it can answer lookups, and exit 0 if so: for HealthCmd=. A
    /// cache that is being opened is waited for, 8 seconds at most.
    #[arg(long)]
    pub check_health: bool,
}

const MANUAL: &str = "\
Examples:
  systemctl enable --now psi-secrets.socket psi-secrets.service
      How it is started: by its socket, and at boot.
  systemctl reload psi-secrets.service
      Takes over changed providers, users and tokens, and tries a closed cache again.
  psi-serve --check-health
      Is it there, and can it answer lookups?

Signals:
  SIGTERM, SIGINT  answer what is in flight, then end
  SIGHUP           read the configuration again; a wrong one leaves the old one in force,
                   and settings that wait for a restart are named in the journal

Exit status:
  0   it was told to end; with --check-health: lookups can be answered
  1   another program answers on its socket
  64  wrong usage
  69  another process owns the cache; with --check-health: it does not run, or can't
      answer lookups
  70  a fault in PSI
  74  the system could not read or write
  78  the configuration has to be changed

Files:
  /etc/psi/config.yaml
      The configuration. The user psi must be able to read it: root:psi, mode 0640.
  /run/psi/psi.sock
      The socket, mode 0600: for root and psi-serve's own user.
  /var/lib/psi/ID
      Where the value of Podman's secret ID is, mode 0600. It holds no value.
  /var/lib/psi/cache.enc
      The values, sealed.
  /var/lib/psi/.lock
      Locked by whoever owns the cache.
  /etc/credstore.encrypted/
      Sealed credentials that the unit imports: infisical-client-secret, psi-cache-key,
      psi-socket-token.

See also:
  psi-cachectl(1), psi-setup(1), psi-secret(1), systemd-creds(1)
";
