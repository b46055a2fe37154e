//! Podman's shell driver for secrets: asks psi-serve over its Unix socket.
//!
//! Podman runs it with the secret's id in `$SECRET_ID`, waits for it without a time limit while it
//! holds a lock on all secrets of the host, and forgets its exit status. So it has no more to load
//! than libc and starts no thread, is bounded in time, prints a value only once all of it has
//! arrived, and says on one line of stderr why it could not.

mod args;
mod connection;
mod failure;
mod help;
mod http;
mod json;
mod retry;
mod target;
mod token;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use args::{Command, Invocation, Verb};
use failure::Failure;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use target::Target;

/// Podman refuses to store this many bytes or more (`pkg/secrets/secrets.go`).
const MAX_MAPPING: usize = 512_000;

/// Wipes whatever is freed: the token and the value are in more than one buffer on their way.
#[global_allocator]
static WIPING: zeroizing_alloc::ZeroAlloc<std::alloc::System> =
    zeroizing_alloc::ZeroAlloc(std::alloc::System);

fn main() -> ExitCode {
    let outcome = match args::parse(std::env::args_os().skip(1)) {
        Ok(Command::Help) => print(help::HELP.as_bytes()),
        Ok(Command::Version) => print(args::VERSION.as_bytes()),
        Ok(Command::Run(invocation)) => run(&invocation),
        Err(failure) => Err(failure),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(invocation: &Invocation) -> Result<(), Failure> {
    let id = std::env::var_os("SECRET_ID");
    let target = target::parse(invocation.verb, id.as_deref())?;
    perform(invocation, &target).map_err(|failure| failure.during(target.describe()))
}

fn perform(invocation: &Invocation, target: &Target) -> Result<(), Failure> {
    let socket = invocation.socket()?;
    let token = token::read(invocation.token_file.as_deref())?;
    // Not before: /proc/self is root's from here on, and tells no more who runs this.
    // A kernel that refuses this is one under which the value is printed nonetheless.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let body = match invocation.verb {
        Verb::Store => read_mapping(io::stdin().lock())?,
        _ => Vec::new(),
    };
    let request = http::request(target, token.as_deref(), &body);
    let deadline = Instant::now() + retry::BUDGET;
    let once = || http::exchange(&socket, &request, deadline);
    let mut answer = retry::ask(retry::WINDOW, once)?;
    let printed = match invocation.verb {
        Verb::Lookup | Verb::List => print(&answer),
        Verb::Store | Verb::Delete => Ok(()),
    };
    wipe(&mut answer);
    printed
}

/// The mapping that Podman writes to our stdin.
fn read_mapping(input: impl Read) -> Result<Vec<u8>, Failure> {
    let mut mapping = Vec::new();
    input
        .take(MAX_MAPPING as u64 + 1)
        .read_to_end(&mut mapping)
        .map_err(|e| Failure::new(format!("cannot read the mapping on stdin: {e}")))?;
    if mapping.len() > MAX_MAPPING {
        return Err(
            Failure::new(format!("the mapping on stdin is over {MAX_MAPPING} bytes"))
                .next("register a mapping, as psi-setup does, not the value itself"),
        );
    }
    Ok(mapping)
}

/// Writes to stdout without a buffer in between, which would keep a copy and hide an error.
fn print(bytes: &[u8]) -> Result<(), Failure> {
    let whole = |fd: std::os::fd::OwnedFd| File::from(fd).write_all(bytes);
    io::stdout()
        .as_fd()
        .try_clone_to_owned()
        .and_then(whole)
        .map_err(|e| Failure::new(format!("cannot write to stdout: {e}")))
}

/// Overwrites what was a secret. Best effort: the kernel and the pipe have their own copies.
fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    std::hint::black_box(bytes);
}

/// Text from outside, fit for one line: control characters become blanks, the length is bounded.
fn one_line(text: &str, most: usize) -> String {
    let blank = |c: char| if c.is_control() { ' ' } else { c };
    let mut line: String = text.chars().take(most).map(blank).collect();
    if text.chars().nth(most).is_some() {
        line.push('…');
    }
    line
}

fn show_path(path: &Path) -> String {
    show(path.as_os_str())
}

fn show(text: &OsStr) -> String {
    one_line(&text.to_string_lossy(), 300)
}
