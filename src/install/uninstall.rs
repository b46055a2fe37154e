//! `psi-install uninstall`.

use std::fs;
use std::io;
use std::path::PathBuf;

use crate::cli::{self, CommonArgs};
use crate::config::{Config, Scope};
use crate::error::{Error, Result};
use crate::install::plan::Step;
use crate::install::work::Work;
use crate::install::{Options, stop, tree, units};
use crate::podman::{Podman, Secret};
use crate::setup::dropin;

pub const MANUAL: &str = "\
Examples:
  psi-install uninstall --dry-run
      What would go.
  psi-install uninstall
      Containers with secrets of PSI's do not start any more; `psi-install units` brings them back.
  psi-install uninstall --purge-state
      Podman's secrets and the cache go as well: local values are nowhere else.
";

/// What `uninstall` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Remove the secrets that psi-setup registered with Podman, its drop-ins and the state
    /// directory as well. Local values are lost.
    #[arg(long)]
    pub purge_state: bool,
}

pub fn run(args: &Args, common: &CommonArgs, options: &Options) -> Result<u8> {
    let mut work = Work::begin(options)?;
    if args.purge_state {
        let config = cli::load_config(common)?;
        purge_podman(&work, &config)?;
        purge_drop_ins(&work, &config)?;
        remove_units(&mut work)?;
        purge_state(&work, &config)?;
    } else {
        remove_units(&mut work)?;
        work.say(
            "stays",
            "/etc/psi, /var/lib/psi, sealed credentials, Podman's secrets and their drop-ins",
        )?;
    }
    work.end()
}

fn remove_units(work: &mut Work) -> Result<()> {
    let steps = work.plan(Vec::new())?;
    let packaged = tree::packaged_units(work.layout.scope);
    let removed = steps.iter().filter(|step| matches!(step, Step::Remove(_)));
    let gone: Vec<PathBuf> = removed.map(|step| step.path().clone()).collect();
    stop::stop(work, gone.iter().chain(&packaged))?;
    work.carry_out(steps)?;
    if work.has_changed {
        if work.layout.scope == Scope::System {
            work.command_if_up(&units::UPDATE_CATALOG.map(str::to_owned))?;
        }
        work.command_if_up(&work.host.systemctl(&["daemon-reload"]))?;
    }
    for path in packaged {
        work.say(
            "stays",
            &format!("{}: of a package or `make install`", path.display()),
        )?;
    }
    Ok(())
}

/// While psi-serve runs: Podman forgets a secret only once its driver has.
fn purge_podman(work: &Work, config: &Config) -> Result<()> {
    let podman = Podman::new(&config.podman_socket)?;
    let lookup = format!("exec {} lookup", config.driver_path.display());
    let is_ours = |secret: &Secret| {
        let command = secret.options.get("lookup");
        command.is_some_and(|command| command.starts_with(&lookup))
    };
    cli::block_on(async {
        for secret in podman
            .secrets()
            .await?
            .iter()
            .filter(|secret| is_ours(secret))
        {
            if !work.is_dry() {
                podman.remove(&secret.id).await?;
            }
            work.say("removed", &format!("Podman's secret {}", secret.name))?;
        }
        Ok(())
    })
}

/// They name secrets that are gone: no container would start with them.
fn purge_drop_ins(work: &Work, config: &Config) -> Result<()> {
    let shown = config.systemd_dir.display();
    let failed = |e| Error::io(format!("cannot read {shown}"), e);
    for entry in fs::read_dir(&config.systemd_dir).map_err(failed)? {
        let drop_in = entry.map_err(failed)?.path().join(dropin::FILE);
        let text = fs::read_to_string(&drop_in).unwrap_or_default();
        if !text.starts_with(dropin::FIRST_WORDS) {
            continue;
        }
        if !work.is_dry() {
            tree::remove(&drop_in)?;
        }
        work.say("removed", &drop_in.display().to_string())?;
    }
    Ok(())
}

fn purge_state(work: &Work, config: &Config) -> Result<()> {
    let directory = &config.state_dir;
    let shown = directory.display().to_string();
    if !work.is_dry() {
        match fs::remove_dir_all(directory) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io(format!("cannot remove {shown}"), e)
                    .hint("see `fuser -v` for who uses it, then run it again"));
            }
            _ => {}
        }
    }
    work.say("removed", &shown)
}
