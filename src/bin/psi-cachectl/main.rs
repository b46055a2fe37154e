//! psi-cachectl: makes, describes, verifies, refreshes, fills and empties the sealed cache, and changes
//! what opens it.

mod args;

use std::process::ExitCode;

use psi::Result;
use psi::cli;

use args::Args;

fn main() -> ExitCode {
    cli::init_logging();
    let args: Args = cli::parse();
    cli::exit("psi-cachectl", run(&args))
}

fn run(args: &Args) -> Result<u8> {
    args.command.check()?;
    let config = cli::load_config(&args.common)?;
    let outcome = cli::block_on(args.command.run(&config, &args.sealed_key))?;
    outcome.print()?;
    outcome.end
}
