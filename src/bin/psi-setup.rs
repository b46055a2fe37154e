//! psi-setup: fetches secrets, hands them to psi-serve, registers them with Podman.

use std::process::ExitCode;

use clap::Parser;
use psi::Result;
use psi::cli::{self, CommonArgs};
use psi::setup::{self, Options};

/// Fetches the workloads' secrets from their providers, hands them to psi-serve, registers them
/// with Podman and writes quadlet drop-ins.
///
/// A workload that fails keeps what it has and does not hold up the others. Running it again is
/// always safe; where nothing has changed it changes nothing.
#[derive(Parser)]
#[command(name = "psi-setup", version, after_help = EXIT_CODES)]
struct Args {
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    options: Options,
}

const EXIT_CODES: &str = "Exit status: 0 done; 75 a provider does not answer, and everything is \
registered, cached and has its drop-in; 69 something does not answer and something is missing; 1 \
something was refused, as listed; 64 wrong usage; 74 the system could not read or write; 77 access \
denied; 78 configuration.";

fn main() -> ExitCode {
    cli::init_logging();
    let args: Args = cli::parse();
    cli::exit("psi-setup", run(&args))
}

fn run(args: &Args) -> Result<u8> {
    let config = cli::load_config(&args.common)?;
    let report = cli::block_on(setup::run(&config, &args.options))?;
    report.log();
    cli::print(&report.text(&args.options)?)?;
    Ok(report.exit_code())
}
