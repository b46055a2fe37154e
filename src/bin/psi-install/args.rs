//! The command line, and what `--help` and the man page say beyond it.

use psi::cli::{self, CommonArgs};
use psi::install::{Command, Options};

/// Puts the units or quadlets that a machine needs in their places, and takes them away again.
///
/// Everything goes below /etc and /usr/local, the same on every distribution. What it wrote it knows
/// again; an administrator's drop-ins, and files that were edited, it never touches. Run it as root, or
/// as a user with a rootless Podman.
#[derive(clap::Parser)]
#[command(name = "psi-install", version, after_long_help = cli::manual(MANUAL))]
pub struct Args {
    /// The configuration's place.
    #[command(flatten)]
    pub common: CommonArgs,
    /// What to work on.
    #[command(flatten)]
    pub options: Options,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const MANUAL: &str = "\
Examples:
  psi-install units --mode native --dry-run
      What would be written, whole.
  psi-install units --mode native --enable
      Put the units in their places and start them.
  psi-install uninstall
      Stop and remove them; secrets and state stay.

Exit status:
  0   done
  1   something was left alone because it is not psi-install's, as listed; the rest is done
  64  wrong usage
  65  the list of its own files is damaged
  66  something that belongs to PSI is not there
  70  a fault in PSI
  74  the system could not read or write, or a command failed
  77  access denied
  78  the configuration has to be changed

Files:
  /etc/psi/config.yaml
      The configuration; it becomes root:psi, mode 0640.
  /etc/psi/installed
      What it wrote: sha256sum --check names what was edited since.
  /etc/systemd/system/psi-*
      Units and their drop-ins.
  /etc/containers/systemd/psi-*
      Quadlets and their drop-ins, of mode container.
  /etc/sysusers.d/psi.conf, /etc/tmpfiles.d/psi.conf
      psi-serve's user, and directories.
  /usr/local/bin/psi-secret
      Podman's driver, put there by an installation from a container: driver_path says where.
  /etc/containers/containers.conf.d/psi.conf
      Written by driver-conf.

See also:
  psi-serve(1), psi-setup(1), psi-secret(1), systemctl(1), podman-systemd.unit(5)
";
