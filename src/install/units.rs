//! `psi-install units`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cli::{self, CommonArgs};
use crate::config::{Config, Scope};
use crate::error::{Error, Kind, Result};
use crate::install::accounts::{self, Ids, PSI};
use crate::install::plan::{File, Step};
use crate::install::selection::{Target, image_file, image_in, is_image};
use crate::install::shipped::{Mode, SYSUSERS};
use crate::install::work::Work;
use crate::install::{Options, driver, others, paths, requirements, start, stop, tree};

/// Where programs are that somebody has installed.
const PROGRAMS: [&str; 2] = ["/usr/bin", "/usr/local/bin"];

/// The name under which systemd-sysusers and systemd-tmpfiles find ours, wherever they are.
const CONF: &str = "psi.conf";

/// There while a native psi-serve is enabled, also one of a package.
const NATIVE_IS_ENABLED: &str = "multi-user.target.wants/psi-secrets.service";

/// There while psi-serve's socket is enabled.
const SOCKET_IS_ENABLED: &str = "sockets.target.wants/psi-secrets.socket";

/// The key that the Python program sealed, and where it is expected.
const MIGRATED_KEY: &str = "/etc/psi/cache.key";

pub const MANUAL: &str = "\
Examples:
  psi-install units --mode native --dry-run
      What would be written, whole.
  psi-install units --mode native --enable
      Put the units in their places and start them.
  psi-install units --mode container --image registry.example.com/psi:1 --root /host
      The same with quadlets, in a container of that image which has the host's root at /host.
";

/// What `units` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What runs PSI's programs: systemd, or Podman from an image.
    #[arg(long, value_enum)]
    pub mode: Mode,
    /// The image [default: that of the last time, else localhost/psi:1].
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// Enable and start them as well; needed to change from one mode to the other.
    #[arg(long)]
    pub enable: bool,
}

pub fn run(args: &Args, common: &CommonArgs, options: &Options) -> Result<u8> {
    check_image(args)?;
    let is_elsewhere = options.root != Path::new(tree::HERE);
    let brings_driver = args.mode == Mode::Container && is_elsewhere;
    let driver = brings_driver
        .then(|| tree::program_beside("psi-secret"))
        .transpose()?;

    let mut work = Work::begin(options)?;
    let config = cli::load_config(common)?;
    check_scope(args, work.layout.scope)?;
    check_mode_change(args, &work)?;
    driver::check_place(&config, brings_driver)?;
    requirements::check(&work, args.mode, &config)?;
    let programs = programs(args.mode)?;

    let mut target = Target {
        mode: args.mode,
        units: work.layout.units.clone(),
        image: image(args, &config),
        programs,
        ids: None,
        systemd: work.host.systemd_version(),
        has_migrated_key: Path::new(MIGRATED_KEY).exists(),
        driver,
        config: &config,
    };
    others::refuse_units(&work, &target)?;
    if let Some(program) = &target.driver {
        driver::try_it(&work, &config.driver_path, program)?;
    }
    if config.scope == Scope::System {
        target.ids = accounts(&mut work)?;
    }
    install(&mut work, &target)?;
    if config.scope == Scope::System {
        close_config(&work, &target)?;
    }
    if args.enable || work.has_changed() || !is_enabled(&work) {
        start::start_or_say_how(&work, &target, args.enable)?;
    }
    paths::note(&work, args.mode, &config)?;
    others::note_certificates(&work, &config)?;
    work.end()
}

fn check_image(args: &Args) -> Result<()> {
    let wrong = |what: &str, hint: &str| Err(Error::new(Kind::Usage, what).hint(hint));
    match (&args.image, args.mode) {
        (None, _) => Ok(()),
        (Some(_), Mode::Native) => {
            wrong("--image is for `--mode container`", "leave one of them out")
        }
        (Some(image), Mode::Container) if !is_image(image) => wrong(
            "--image is no image's name",
            "e.g. `--image registry.example.com/psi:1`",
        ),
        _ => Ok(()),
    }
}

fn check_scope(args: &Args, scope: Scope) -> Result<()> {
    if (args.mode, scope) != (Mode::Container, Scope::User) {
        return Ok(());
    }
    let what = "for rootless Podman there are native units only";
    Err(Error::new(Kind::Usage, what).hint(
        "`psi-install units --mode native`; as root, for root's Podman, --mode container works",
    ))
}

/// Between the two modes psi-serve is away: the change is made in one go, and wanted.
fn check_mode_change(args: &Args, work: &Work) -> Result<()> {
    let (other, name) = match args.mode {
        Mode::Native => ("psi-secrets.container", "container"),
        Mode::Container => ("psi-secrets.service", "native"),
    };
    let is_other = |path: &&PathBuf| path.file_name().is_some_and(|name| name == other);
    let has_other = work.manifest.paths().any(|path| is_other(&path));
    if args.enable || !has_other && !is_replaced(args.mode, work) {
        return Ok(());
    }
    let what = format!("this machine has the units of --mode {name}");
    Err(Error::new(Kind::Refused, what)
        .hint("with `--enable` they are stopped and replaced in one go"))
}

/// Whether a native psi-serve runs where a container is to.
fn is_replaced(mode: Mode, work: &Work) -> bool {
    mode == Mode::Container && work.layout.units.join(NATIVE_IS_ENABLED).is_symlink()
}

/// Whether somebody has enabled psi-serve, in whichever mode.
fn is_enabled(work: &Work) -> bool {
    work.layout.units.join(SOCKET_IS_ENABLED).is_symlink()
}

fn programs(mode: Mode) -> Result<PathBuf> {
    let has_serve = |directory: &&&str| Path::new(directory).join("psi-serve").exists();
    match (PROGRAMS.iter().find(has_serve), mode) {
        (Some(directory), _) => Ok(directory.into()),
        (None, Mode::Container) => Ok(PROGRAMS[0].into()),
        (None, Mode::Native) => {
            let what = format!("there is no psi-serve in {}", PROGRAMS.join(" or "));
            Err(Error::new(Kind::NotFound, what)
                .hint("`make install`, or `psi-install units --mode container --image IMAGE`"))
        }
    }
}

fn image(args: &Args, config: &Config) -> Option<String> {
    let before = || {
        let text = fs::read_to_string(image_file(&config.systemd_dir)).ok()?;
        image_in(&text).map(str::to_owned)
    };
    args.image.clone().or_else(before)
}

/// The accounts' numbers; they are made first if they are missing.
fn accounts(work: &mut Work) -> Result<Option<Ids>> {
    if !tree::is_packaged(&sysusers(), &work.layout.units, Scope::System) {
        work.write(sysusers())?;
    }
    if let Some(ids) = accounts::ids()? {
        return Ok(Some(ids));
    }
    work.command(&["systemd-sysusers".to_owned(), CONF.to_owned()])?;
    let ids = accounts::ids()?;
    if work.is_dry() {
        work.say(
            "note",
            "the numbers of the user that this makes take the place of N below",
        )?;
        return Ok(ids);
    }
    ids.map(Some).ok_or_else(|| {
        let what = format!("there is no user {PSI} with a group of its own");
        Error::new(Kind::NotFound, what)
            .hint("`systemd-sysusers psi.conf` makes it, then run psi-install again")
    })
}

fn sysusers() -> File {
    File::text(Path::new("/etc/sysusers.d").join(CONF), SYSUSERS)
}

/// Files away first that are no longer wanted, so that no unit is of two modes at any time.
fn install(work: &mut Work, target: &Target<'_>) -> Result<()> {
    let elsewhere = [sysusers().path, work.layout.driver_conf.clone()];
    let is_packaged = |file: &File| tree::is_packaged(file, &target.units, work.layout.scope);
    let (packaged, wanted): (Vec<_>, Vec<_>) = target.files().into_iter().partition(is_packaged);
    let mut steps = work.plan(wanted)?;
    steps.retain(|step| matches!(step, Step::Forget(_)) || !elsewhere.contains(step.path()));
    let (removals, writes): (Vec<Step>, Vec<Step>) = steps
        .into_iter()
        .partition(|step| matches!(step, Step::Remove(_)));
    let mut stopped: Vec<PathBuf> = removals.iter().map(|step| step.path().clone()).collect();
    if is_replaced(target.mode, work) {
        let services = tree::packaged_units(work.layout.scope).into_iter();
        stopped.extend(services.filter(|path| path.extension().is_some_and(|e| e == "service")));
    }
    stop::stop(work, stopped.iter())?;
    work.carry_out(removals)?;
    work.carry_out(writes)?;
    // A package's may be newer than what systemd has read.
    if work.has_changed() || !packaged.is_empty() {
        after(work)?;
    }
    Ok(())
}

/// journald reads its catalogs only then.
pub const UPDATE_CATALOG: [&str; 2] = ["journalctl", "--update-catalog"];

/// What reads the files that have changed.
fn after(work: &Work) -> Result<()> {
    if work.layout.scope == Scope::System {
        let tmpfiles = ["systemd-tmpfiles", "--create", CONF];
        work.command_if_up(&tmpfiles.map(str::to_owned))?;
        work.command_if_up(&UPDATE_CATALOG.map(str::to_owned))?;
    }
    work.command_if_up(&work.host.systemctl(&["daemon-reload"]))
}

/// psi-serve must be able to read the configuration, and nobody else.
fn close_config(work: &Work, target: &Target<'_>) -> Result<()> {
    let Some(ids) = &target.ids else {
        return Ok(());
    };
    let file = &target.config.file;
    if tree::config_is_closed(file, ids.gid)? {
        return Ok(());
    }
    if !work.is_dry() {
        tree::close_config(file, ids.gid)?;
    }
    work.say("changed", &format!("{}: root:{PSI}, 0640", file.display()))
}
