//! psi-cachectl: makes, describes, verifies, refreshes, fills and empties the sealed cache, and changes
//! what opens it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use psi::Result;
use psi::cachectl::Command;
use psi::cli::{self, CommonArgs};
use psi::protector::SEALED_FILE;

/// Makes, describes, verifies, refreshes, fills and empties the sealed cache, and changes what opens it.
///
/// A running psi-serve is asked to do it; otherwise it is done here, under the same lock. Run it
/// as root.
#[derive(Parser)]
#[command(name = "psi-cachectl", version, after_help = EXIT_CODES)]
struct Args {
    #[command(flatten)]
    common: CommonArgs,
    /// The cache's key as systemd-creds sealed it.
    #[arg(long, value_name = "FILE", global = true, default_value = SEALED_FILE)]
    sealed_key: PathBuf,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit status: 0 done; 1 refused, everything is as it was; 64 wrong usage; \
65 damaged; 66 not found; 69 unreachable, or no slot opens the cache; 75 (refresh) unreachable, and nothing is missing; 74 the system could not read \
or write; 77 access denied; 78 configuration.";

fn main() -> ExitCode {
    cli::init_logging();
    let args: Args = cli::parse();
    cli::exit("psi-cachectl", run(&args))
}

fn run(args: &Args) -> Result<u8> {
    args.command.check()?;
    let config = cli::load_config(&args.common)?;
    let outcome = cli::block_on(args.command.run(&config, &args.sealed_key))?;
    cli::print(&outcome.text)?;
    outcome.end
}
