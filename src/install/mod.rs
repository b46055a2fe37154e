//! psi-install: puts the units and quadlets that a machine needs in their places, and takes them away.
//!
//! What is to be done is planned first (`selection`, `plan`: pure), then carried out file by file. Its own
//! files it knows by a manifest; all others are an administrator's and never touched.

use std::path::PathBuf;

use crate::cli::CommonArgs;
use crate::config::{Environment, Scope};
use crate::error::Result;

mod accounts;
mod driver;
mod driver_conf;
mod host;
mod manifest;
mod others;
mod paths;
mod plan;
mod requirements;
mod selection;
mod shipped;
mod start;
mod stop;
mod tree;
mod uninstall;
mod units;
mod work;

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Put PSI's units in their places, or its quadlets.
    ///
    /// Which ones depends on the providers and the backend in config.yaml. Only what differs is
    /// written; files that were edited, or are somebody else's, are named and left alone. A unit of
    /// somebody else's under one of PSI's names ends it before anything is written. Run it again after
    /// each change of config.yaml's providers, backend or refresh interval, and after an upgrade.
    #[command(after_long_help = units::MANUAL)]
    Units(units::Args),
    /// Make PSI Podman's default secret driver.
    ///
    /// Only for those who create such secrets by hand, with `podman secret create`: psi-setup names the
    /// driver for each secret that it registers.
    #[command(after_long_help = driver_conf::MANUAL)]
    DriverConf(driver_conf::Args),
    /// Stop and remove what psi-install has installed.
    ///
    /// The configuration, sealed credentials, the state directory and Podman's secrets stay.
    #[command(after_long_help = uninstall::MANUAL)]
    Uninstall(uninstall::Args),
}

/// The options that all commands have.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Work on the system below this directory, e.g. a host's root that is mounted in a container.
    #[arg(long, value_name = "DIR", global = true, default_value = tree::HERE)]
    pub root: PathBuf,
    /// Print what would be written, removed and run, and change nothing.
    #[arg(long, global = true)]
    pub dry_run: bool,
}

/// Carries out the command. The exit status is 1 if something was left alone because it is not ours.
///
/// # Errors
/// What keeps it from being done; what was done until then stays, and a second run goes on from there.
pub fn run(command: &Command, common: &CommonArgs, options: &Options) -> Result<u8> {
    // What others could not read would be of no use there.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    match command {
        Command::Units(args) => units::run(args, common, options),
        Command::DriverConf(args) => driver_conf::run(args, common, options),
        Command::Uninstall(args) => uninstall::run(args, common, options),
    }
}

/// Where psi-install itself keeps and puts things.
#[derive(Clone, Debug)]
struct Layout {
    scope: Scope,
    units: PathBuf,
    manifest: PathBuf,
    driver_conf: PathBuf,
}

impl Layout {
    fn of(environment: &Environment) -> Self {
        let scope = environment.scope();
        match scope {
            Scope::System => Self {
                scope,
                units: "/etc/systemd/system".into(),
                manifest: "/etc/psi/installed".into(),
                driver_conf: "/etc/containers/containers.conf.d/psi.conf".into(),
            },
            Scope::User => {
                let home = PathBuf::from(environment.get("HOME").unwrap_or("/"));
                let config = home.join(".config");
                Self {
                    scope,
                    units: config.join("systemd/user"),
                    manifest: config.join("psi/installed"),
                    driver_conf: config.join("containers/containers.conf.d/psi.conf"),
                }
            }
        }
    }
}
