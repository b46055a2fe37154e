//! psi-setup: fetches secrets, hands them to psi-serve, registers them with Podman.

use std::process::ExitCode;

use clap::Parser;
use psi::cli::{self, CommonArgs};
use psi::mapping::ProviderName;
use psi::setup::{self, Options};
use psi::{Error, Kind, Result};

/// Fetches the workloads' secrets from their providers, hands them to psi-serve, registers them
/// with Podman and writes quadlet drop-ins.
///
/// A workload that fails keeps what it has and does not hold up the others. Running it again is
/// always safe; where nothing has changed it changes nothing.
///
/// Exit status: 0 done; 75 a provider does not answer, and everything is registered, cached and
/// has its drop-in; 69 something does not answer and something is missing; 1 something was
/// refused, as listed; 78 the configuration has to be changed; 64 wrong usage; 74 a file cannot be
/// read or written; 77 psi-serve refuses us.
#[derive(Parser)]
#[command(name = "psi-setup", version)]
struct Args {
    #[command(flatten)]
    common: CommonArgs,
    /// Only the workloads of this provider: infisical, nitrokeyhsm or local.
    #[arg(long, value_name = "PROVIDER", value_parser = provider)]
    provider: Option<ProviderName>,
    /// Ask the providers and Podman, say what would change, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Let this workload lose all or most of its keys, which is refused otherwise; may be repeated.
    #[arg(long, value_name = "WORKLOAD")]
    accept_removals: Vec<String>,
    /// Write the report as one JSON object.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    cli::init_logging();
    let args: Args = cli::parse();
    cli::exit("psi-setup", run(&args))
}

fn run(args: &Args) -> Result<u8> {
    let config = cli::load_config(&args.common)?;
    let options = Options {
        provider: args.provider,
        dry_run: args.dry_run,
        accept_removals: args.accept_removals.clone(),
    };
    let report = cli::block_on(setup::run(&config, &options))?;
    report.log();
    cli::print(&match args.json {
        true => report.json()?,
        false => report.table(),
    })?;
    Ok(report.exit_code())
}

fn provider(name: &str) -> Result<ProviderName> {
    ProviderName::parse(name).ok_or_else(|| {
        let names = ProviderName::ALL.map(ProviderName::as_str).join(", ");
        Error::new(Kind::Usage, format!("the providers are {names}"))
    })
}
