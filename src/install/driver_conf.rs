//! `psi-install driver-conf`.

use std::path::Path;

use crate::cli::{self, CommonArgs};
use crate::config::{Config, is_plain};
use crate::error::{Error, Kind, Result};
use crate::install::Options;
use crate::install::plan::File;
use crate::install::shipped::{DRIVER_CONF, SHIPPED_PROGRAMS};
use crate::install::work::Work;
use crate::setup::driver;

/// As long as psi-secret waits, in seconds.
const CURL_PATIENCE: u32 = 75;

/// Where a token is that psi-serve wants, besides the configuration.
const TOKENS: [&str; 3] = [
    "/etc/psi/socket-token",
    "/etc/credstore.encrypted/psi-socket-token",
    "/etc/credstore/psi-socket-token",
];

pub const MANUAL: &str = "\
Examples:
  psi-install driver-conf --stdout
      What would be in it.
  psi-install driver-conf
      Write /etc/containers/containers.conf.d/psi.conf.
  psi-install driver-conf --curl
      For a host without psi-secret. curl does not wait while psi-serve restarts: a container that
      starts at that moment fails.
";

/// What `driver-conf` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print it, and write nothing.
    #[arg(long)]
    pub stdout: bool,
    /// Use curl in the place of psi-secret; not possible with a socket token.
    #[arg(long)]
    pub curl: bool,
}

pub fn run(args: &Args, common: &CommonArgs, options: &Options) -> Result<u8> {
    let mut work = Work::begin(options)?;
    let config = cli::load_config(common)?;
    let text = match args.curl {
        true => curl(&config)?,
        false => psi_secret(&config)?,
    };
    tracing::warn!(
        "this makes `shell` Podman's default secret driver: every `podman secret create` goes to PSI then, unless it is `podman secret create --driver file`"
    );
    if args.stdout {
        cli::print(&text)?;
        return Ok(0);
    }
    work.write(File::text(work.layout.driver_conf.clone(), text))?;
    if work.has_changed() {
        let restart = work.host.systemctl(&["try-restart", "podman.service"]);
        work.say(
            "next",
            &format!(
                "{}: a running Podman service has read the old one",
                restart.join(" ")
            ),
        )?;
    }
    work.end()
}

/// The same commands as psi-setup registers.
fn psi_secret(config: &Config) -> Result<String> {
    let mut text = DRIVER_CONF.to_owned();
    for (verb, command) in driver::commands(config)? {
        let shipped = format!("\"exec {SHIPPED_PROGRAMS}/psi-secret {verb}\"");
        text = text.replace(&shipped, &format!("\"{command}\""));
    }
    Ok(text)
}

/// A token would stand in a command that Podman keeps in clear for each secret.
fn curl(config: &Config) -> Result<String> {
    let file = TOKENS.into_iter().find(|path| Path::new(path).exists());
    let found = match config.socket_token {
        Some(_) => Some(config.file.display().to_string()),
        None => file.map(str::to_owned),
    };
    if let Some(found) = found {
        let what = format!(
            "psi-serve wants a socket token ({found}), which curl would have to be given in a command"
        );
        return Err(Error::new(Kind::Refused, what).hint(
            "`psi-install driver-conf` without --curl: psi-secret reads the token from its file",
        ));
    }
    let socket = config.socket.display();
    if !is_plain(&config.socket) {
        let what = format!("the path {socket} can't stand in a shell command");
        return Err(Error::new(Kind::Config, what)
            .hint("`socket` in config.yaml may have letters, digits and `/._-+` for that"));
    }
    let ask = format!(
        "exec curl --silent --show-error --fail --max-time {CURL_PATIENCE} --unix-socket {socket}"
    );
    Ok(format!(
        "# For hosts without psi-secret, by psi-install driver-conf --curl. It makes PSI's driver the default of\n\
         # every `podman secret create`. curl gives up at once while psi-serve restarts, where psi-secret waits.\n\
         [secrets]\n\
         driver = \"shell\"\n\
         \n\
         [secrets.opts]\n\
         list = \"{ask} http://psi/list\"\n\
         lookup = \"{ask} http://psi/lookup/$SECRET_ID\"\n\
         store = \"{ask} --header 'Content-Type: application/octet-stream' --data-binary @- http://psi/store/$SECRET_ID\"\n\
         delete = \"{ask} --request DELETE http://psi/delete/$SECRET_ID\"\n"
    ))
}
