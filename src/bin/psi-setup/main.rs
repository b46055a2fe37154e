//! psi-setup: fetches secrets, hands them to psi-serve, registers them with Podman.

mod args;

use std::process::ExitCode;

use psi::Result;
use psi::cli;
use psi::setup;

use args::Args;

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
