//! `psi-install uninstall`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::cli::{self, CommonArgs};
use crate::config::{Config, Scope};
use crate::error::{Error, Result};
use crate::install::plan::Step;
use crate::install::work::Work;
use crate::install::{Options, stop, tree, units};
use crate::podman::{Podman, Secret};
use crate::setup::dropin;

/// Where quadlets are if no configuration says so.
const QUADLETS: &str = "/etc/containers/systemd";

pub const MANUAL: &str = "\
Examples:
  psi-install uninstall --dry-run
      What would go.
  psi-install uninstall
      Containers with secrets of PSI's do not start any more, and `podman exec` and the health checks of those
      that run fail; `psi-install units` brings them back.
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
        say_what_pcscd_has(&work, Some(&config))?;
    } else {
        remove_units(&mut work)?;
        // It is of no use to refuse, whatever is wrong with it.
        let config = cli::load_config(common).ok();
        say_what_stays(&work, config.as_ref())?;
        say_what_pcscd_has(&work, config.as_ref())?;
    }
    work.end()
}

fn say_what_stays(work: &Work, config: Option<&Config>) -> Result<()> {
    let configuration = work
        .layout
        .manifest
        .parent()
        .unwrap_or(Path::new(tree::HERE));
    let mut directories = vec![configuration.display().to_string()];
    if let Some(config) = config {
        directories.push(config.state_dir.display().to_string());
        directories.extend(cache_elsewhere(config).map(|path| path.display().to_string()));
    }
    let directories = directories.join(", ");
    work.say(
        "stays",
        &format!("{directories}, sealed credentials, Podman's secrets and their drop-ins"),
    )
}

/// `psi-hsm setup-pcscd` has written it, and anything may use its pcscd.
fn say_what_pcscd_has(work: &Work, config: Option<&Config>) -> Result<()> {
    let quadlets = config.map_or(Path::new(QUADLETS), |config| &config.systemd_dir);
    let container = quadlets.join("pcscd.container");
    let Ok(text) = fs::read_to_string(&container) else {
        return Ok(());
    };
    let volume = |line: &str| {
        let (volume, _) = line.strip_prefix("Volume=")?.split_once(".volume:")?;
        Some(volume.to_owned())
    };
    let Some(volume) = text.lines().find_map(volume) else {
        return Ok(());
    };
    let (container, quadlets) = (container.display(), quadlets.display());
    work.say(
        "stays",
        &format!(
            "{container}, which runs on. If nothing else needs it: `systemctl stop pcscd.service; rm {container} {quadlets}/{volume}.volume; systemctl daemon-reload; podman volume rm {volume}; podman rmi localhost/psi-pcscd:latest`"
        ),
    )
}

fn remove_units(work: &mut Work) -> Result<()> {
    let steps = work.plan(Vec::new())?;
    let packaged = tree::packaged_units(work.layout.scope);
    let removed = steps.iter().filter(|step| matches!(step, Step::Remove(_)));
    let gone: Vec<PathBuf> = removed.map(|step| step.path().clone()).collect();
    stop::stop(work, gone.iter().chain(&packaged))?;
    work.carry_out(steps)?;
    if work.has_changed() {
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
        note_assertion(work, &drop_in)?;
    }
    Ok(())
}

/// A workload may say that it does not start without its secrets, which is an administrator's to change.
fn note_assertion(work: &Work, drop_in: &Path) -> Result<()> {
    let unit = drop_in.parent().unwrap_or(drop_in).with_extension("");
    let text = fs::read_to_string(&unit).unwrap_or_default();
    let assertion = format!("AssertPathExists={}", drop_in.display());
    if !text.lines().any(|line| line == assertion) {
        return Ok(());
    }
    let unit = unit.display();
    work.say(
        "note",
        &format!("{unit} starts nothing any more until its line `{assertion}` is taken out"),
    )
}

fn purge_state(work: &Work, config: &Config) -> Result<()> {
    let directory = &config.state_dir;
    remove(work, directory, |path| fs::remove_dir_all(path))?;
    let Some(cache) = cache_elsewhere(config) else {
        return Ok(());
    };
    // What was put aside has the cache's name, and more after it.
    let name = cache.file_name().unwrap_or_default().to_string_lossy();
    let directory = cache.parent().unwrap_or(Path::new(tree::HERE));
    for path in tree::files_in(directory.to_owned()) {
        let found = path.file_name().unwrap_or_default().to_string_lossy();
        let rest = found.strip_prefix(&*name);
        if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.')) {
            remove(work, &path, |path| fs::remove_file(path))?;
        }
    }
    Ok(())
}

/// The sealed cache, if it is not in the state directory.
fn cache_elsewhere(config: &Config) -> Option<&Path> {
    let path = config.cache.path.as_path();
    (!path.starts_with(&config.state_dir)).then_some(path)
}

fn remove(work: &Work, path: &Path, how: impl Fn(&Path) -> io::Result<()>) -> Result<()> {
    let shown = path.display().to_string();
    if !work.is_dry() {
        match how(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io(format!("cannot remove {shown}"), e)
                    .hint("see `fuser -v` for who uses it, then run it again"));
            }
            _ => {}
        }
    }
    work.say("removed", &shown)
}
