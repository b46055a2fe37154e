//! psi-hsm: makes the key on a PKCS#11 token, seals secrets for it, and finds out what is wrong with it.

mod args;

use std::process::ExitCode;

use psi::Result;
use psi::cli;

use args::Args;

fn main() -> ExitCode {
    cli::init_logging();
    let args: Args = cli::parse();
    cli::exit("psi-hsm", run(&args))
}

fn run(args: &Args) -> Result<u8> {
    let config = cli::load_config(&args.common)?;
    let outcome = cli::block_on(args.command.run(&config))?;
    cli::print(&outcome.text)?;
    outcome.end
}
