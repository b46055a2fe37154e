//! psi-serve: answers Podman's lookups and keeps the sealed cache.

mod args;

use std::process::ExitCode;
use std::time::Duration;

use psi::cli;
use psi::client::Client;
use psi::serve::{self, Environment};
use psi::systemd::Credentials;
use psi::{Result, provider};

use args::Args;

fn main() -> ExitCode {
    cli::init_logging();
    let args: Args = cli::parse();
    cli::exit("psi-serve", run(args))
}

fn run(args: Args) -> Result<u8> {
    let config = cli::load_config(&args.common)?;
    if args.check_health {
        check_health(&config)?;
        return Ok(0);
    }
    let environment = Environment {
        load_config: Box::new(move || cli::load_config(&args.common)),
        open_provider: Box::new(|config, name| {
            let credentials = Credentials::from_env();
            provider::open(config, name, &|credential| credentials.read(credential))
        }),
        credentials: Credentials::from_env(),
    };
    serve::run(&config, &environment)?;
    Ok(0)
}

/// How long a check waits for a cache that is being opened: less than the `HealthTimeout=` of the
/// shipped quadlet. Podman's first check comes with the start, and one that fails is a failed unit of
/// systemd's.
const OPENING_PATIENCE: Duration = Duration::from_secs(8);

fn check_health(config: &psi::config::Config) -> Result<()> {
    let client = Client::new(&config.socket, None)?;
    cli::block_on(client.health(OPENING_PATIENCE))
}
