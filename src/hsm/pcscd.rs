//! `psi-hsm setup-pcscd`: pcscd in a container, for hosts that have none.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::Mode;

use crate::config::Config;
use crate::directory::{Directory, Owner};
use crate::error::{Error, Kind, Result};
use crate::hsm::{Outcome, settings};
use crate::systemd::daemon_reload;

/// For `--help` and the man page, see [`crate::cli::manual`].
pub const MANUAL: &str = "\
Examples:
  psi-hsm setup-pcscd
      Write the quadlets and build the image.
  psi-hsm setup-pcscd --base docker.io/library/debian:bookworm-slim
      From the release that the host is of: pcscd and who asks it have to speak the same protocol.
  psi-hsm setup-pcscd --print
      Show the files, and change nothing.
";

const CONTAINER: &str = include_str!("../../quadlets/pcscd.container");
const VOLUME: &str = include_str!("../../quadlets/pcscd-socket.volume");
const IMAGE: &str = include_str!("../../quadlets/pcscd.Containerfile");

/// What the shipped files call the volume.
pub(crate) const SHIPPED_VOLUME: &str = "pcscd-socket";

/// As `pcscd.container` has it.
const IMAGE_NAME: &str = "localhost/psi-pcscd:latest";

/// Without it SELinux keeps containers from USB devices.
const BOOLEAN: &str = "container_use_devices";

/// `psi-hsm setup-pcscd`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The image to build from, instead of the one in the Containerfile: a Debian whose pcscd knows
    /// `--disable-polkit` (2.0 and later).
    #[arg(long, value_name = "IMAGE")]
    pub base: Option<String>,
    /// Write the quadlets only; the image is there, or is built elsewhere.
    #[arg(long)]
    pub no_build: bool,
    /// Show the files, and change nothing.
    #[arg(long)]
    pub print: bool,
}

/// Writes the quadlets, builds the image and has systemd read its units again.
///
/// # Errors
/// [`Kind::Refused`] if a file there is not ours, [`Kind::Io`] if it can't be written, what `podman
/// build` says. What was done before stays: it may be run again. What systemctl says is the outcome's
/// failure.
pub fn setup(config: &Config, args: &Args) -> Result<Outcome> {
    let volume = &settings(config)?.pcscd_volume;
    check_volume(volume)?;
    let files = [
        ("pcscd.container".to_owned(), named(CONTAINER, volume)),
        (format!("{volume}.volume"), named(VOLUME, volume)),
    ];
    if args.print {
        return Ok(Outcome::done(printed(&files)));
    }
    let mut text = String::new();
    for (name, contents) in &files {
        let path = config.systemd_dir.join(name);
        let wrote = match write(&path, contents)? {
            true => "wrote",
            false => "as it should be:",
        };
        text.push_str(&format!("{wrote} {}\n", path.display()));
    }
    if !args.no_build {
        build(args.base.as_deref())?;
        text.push_str(&format!("built {IMAGE_NAME}\n"));
    }
    text.push_str(&selinux());
    let reloaded = daemon_reload(config.scope);
    if reloaded.is_ok() {
        text.push_str("next: `systemctl start pcscd.service`, then `psi-hsm preflight`\n");
    }
    Ok(Outcome {
        text,
        end: reloaded.map(|()| 0),
    })
}

/// It goes into file names and quadlets unquoted.
///
/// # Errors
/// [`Kind::Config`] if it can't.
pub(crate) fn check_volume(name: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    let starts_well = name
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric());
    match starts_well && name.bytes().all(plain) {
        true => Ok(()),
        false => Err(Error::new(
            Kind::Config,
            "`providers.nitrokeyhsm.pcscd_volume` is not the name of a volume",
        )
        .hint("letters, digits, `_`, `.` and `-`, beginning with a letter or digit")),
    }
}

fn named(text: &str, volume: &str) -> String {
    text.replace(SHIPPED_VOLUME, volume)
}

fn printed(files: &[(String, String)]) -> String {
    let files = files
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()));
    let files = files.chain([("pcscd.Containerfile", IMAGE)]);
    files
        .map(|(name, text)| format!("==> {name} <==\n{text}\n"))
        .collect()
}

/// Says whether it had to be written. What somebody has changed is changed back by nobody.
fn write(path: &Path, contents: &str) -> Result<bool> {
    let failed = |e| {
        Error::io(format!("cannot write {}", path.display()), e)
            .hint("`systemd_dir` in config.yaml must be a directory; run it as root")
    };
    match std::fs::read_to_string(path) {
        Ok(there) if there == contents => return Ok(false),
        Ok(_) => return Err(changed(path)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed(e)),
    }
    let mode = Mode::from_raw_mode(0o644);
    let written = Directory::of(path).and_then(|(directory, name)| {
        directory.replace(name, &[contents.as_bytes()], mode, Owner::Maker)?;
        directory.sync()
    });
    written.map(|()| true).map_err(failed)
}

fn changed(path: &Path) -> Error {
    let what = format!(
        "{} is there and differs from what PSI ships",
        path.display()
    );
    Error::new(Kind::Refused, what).hint(
        "`psi-hsm setup-pcscd --print` shows what it would be; put changes into a drop-in beside it, \
         e.g. pcscd.container.d/10-local.conf, and move the file away",
    )
}

/// The Containerfile goes in by standard input, with no directory around it.
fn build(base: Option<&str>) -> Result<()> {
    let failed = |e| {
        Error::io("cannot run podman", e)
            .hint("install Podman, or `psi-hsm setup-pcscd --no-build`")
    };
    let mut command = Command::new("podman");
    command.args(["build", "--tag", IMAGE_NAME]);
    command.args(base.map(|base| format!("--build-arg=BASE={base}")));
    command.args(["--file", "-"]).stdin(Stdio::piped());
    // What it says is for who waits; standard output is ours.
    command.stdout(std::io::stderr());
    let mut child = command.spawn().map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ended before it has read all of it says why itself.
        let _ = stdin.write_all(IMAGE.as_bytes());
    }
    let status = child.wait().map_err(failed)?;
    if status.success() {
        return Ok(());
    }
    let what = format!("`podman build` could not make {IMAGE_NAME}: {status}");
    Err(Error::new(Kind::Unreachable, what).hint(
        "see what it said above; without a way to the registry name an image that is here with `--base`",
    ))
}

/// A line on what SELinux keeps from the container, where it does.
fn selinux() -> String {
    let output = Command::new("getsebool").arg(BOOLEAN).output();
    match output {
        Ok(output)
            if String::from_utf8_lossy(&output.stdout)
                .trim()
                .ends_with("off") =>
        {
            format!("SELinux keeps containers from USB devices: `setsebool -P {BOOLEAN} on`\n")
        }
        // There is no SELinux, or it does not have the boolean.
        _ => String::new(),
    }
}
