//! psi-install: puts PSI's units and quadlets in their places, and takes them away.

mod args;

use std::process::ExitCode;

use psi::{cli, install};

use args::Args;

fn main() -> ExitCode {
    cli::init_logging();
    let args: Args = cli::parse();
    let outcome = install::run(&args.command, &args.common, &args.options);
    cli::exit("psi-install", outcome)
}
