//! Starts what was installed, or says how; and says what else is left to do.

use std::path::Path;

use crate::error::Result;
use crate::install::selection::{Target, Units};
use crate::install::shipped::{Mode, Part};
use crate::install::work::Work;

/// The one that the shipped quadlets name.
const IMAGE: &str = "localhost/psi:1";

/// Units that stay as they were started, and the files that say what they are. A setup unit ends; the next boot or
/// refresh is by its new files.
const LASTING: [(&str, &[&str]); 2] = [
    (
        "psi-secrets.service",
        &["psi-secrets.service", "psi-secrets.container"],
    ),
    (
        "psi-infisical-refresh.timer",
        &["psi-infisical-refresh.timer"],
    ),
];

/// psi-serve's units first, then the cache, then the others.
///
/// # Errors
/// What a command says.
pub fn start_or_say_how(work: &Work, target: &Target<'_>, enable: bool) -> Result<()> {
    if target.lacks_tss() {
        work.say(
            "note",
            "there is no group tss, so psi-serve gets no TPM: install tpm2-tss (Fedora) or tpm-udev (Debian), then run psi-install again",
        )?;
    }
    for command in pcscd(target) {
        work.say("next", &command)?;
    }
    let has_no_cache = target.backend().is_some() && !target.config.cache.path.exists();
    let [serve, others] = target.units();
    let outdated = outdated(work);
    start(work, &serve, enable)?;
    restart(work, &outdated, enable)?;
    if let Some(init) = init(target).filter(|_| has_no_cache && !enable) {
        work.say("next", &init)?;
    }
    start(work, &others, enable)?;
    if has_no_cache && enable {
        let add = format!("{}psi-cachectl slots add recovery", within(target));
        work.say("next", &add)?;
    }
    Ok(())
}

/// How the cache is made. The first values that are handed over make one, too, but nobody has a recovery
/// key then.
fn init(target: &Target<'_>) -> Option<String> {
    let backend = target.backend()?.as_str();
    let within = within(target);
    Some(format!(
        "{within}psi-cachectl init --backend {backend} --recovery"
    ))
}

/// What has a program run where psi-serve does.
fn within(target: &Target<'_>) -> &'static str {
    match target.mode {
        Mode::Native => "",
        Mode::Container => "podman exec psi-secrets ",
    }
}

/// How a token is reached, as long as nothing was done for that: the host has none of PSI's programs but
/// psi-secret, so they are run from the image.
fn pcscd(target: &Target<'_>) -> Vec<String> {
    let quadlets = &target.config.systemd_dir;
    let is_there = quadlets.join("pcscd.container").exists();
    if target.mode == Mode::Native || !target.has(Part::Hsm) || is_there {
        return Vec::new();
    }
    let image = target.image.as_deref().unwrap_or(IMAGE);
    let quadlets = quadlets.display();
    let configuration = target.config.file.parent().unwrap_or(Path::new("/"));
    let configuration = configuration.display();
    let run = format!(
        "podman run --rm --network none --security-opt label=disable --volume {configuration}:{configuration}:ro"
    );
    vec![
        format!("{run} --volume {quadlets}:{quadlets} {image} psi-hsm setup-pcscd --no-build"),
        format!(
            "{run} {image} psi-hsm setup-pcscd --print | sed '1,/==> pcscd.Containerfile <==/d' | podman build --tag localhost/psi-pcscd:latest --file - ."
        ),
        "systemctl daemon-reload".to_owned(),
        "systemctl start pcscd.service".to_owned(),
    ]
}

/// What goes on running as its files were before: to start it does nothing then.
fn outdated(work: &Work) -> Vec<&'static str> {
    let runs = |unit: &str| work.host.is_up && work.host.is_active(unit);
    let changed = LASTING
        .iter()
        .filter(|(_, files)| work.has_changed_unit(files));
    changed
        .map(|(unit, _)| *unit)
        .filter(|unit| runs(unit))
        .collect()
}

fn restart(work: &Work, units: &[&str], enable: bool) -> Result<()> {
    if units.is_empty() {
        return Ok(());
    }
    let restart = work.host.systemctl(&[&["restart"], units].concat());
    match enable {
        true => work.command(&restart),
        false => work.say("next", &restart.join(" ")),
    }
}

/// Units that have files are enabled; those that quadlet makes can't be, and need not.
fn start(work: &Work, units: &Units, enable: bool) -> Result<()> {
    let command = |words: &[&str], names: &[String]| {
        let mut command = work.host.systemctl(words);
        command.extend_from_slice(names);
        command
    };
    let now: &[&str] = match work.host.is_up || !enable {
        true => &["enable", "--now"],
        false => &["enable"],
    };
    if !units.files.is_empty() {
        let enabling = command(now, &units.files);
        match enable {
            true => work.command(&enabling)?,
            false => work.say("next", &enabling.join(" "))?,
        }
    }
    if !units.quadlets.is_empty() {
        let starting = command(&["start"], &units.quadlets);
        match enable {
            true => work.command_if_up(&starting)?,
            false => work.say("next", &starting.join(" "))?,
        }
    }
    Ok(())
}
