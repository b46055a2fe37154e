//! A secret from standard input: from a pipe byte for byte, from a terminal without showing it.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;

use rustix::termios::{LocalModes, OptionalActions, Termios, isatty, tcgetattr, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use crate::error::{Error, Kind, Result};
use crate::secret::{MAX_IN_VARIABLE, SecretValue, fits_variable};

/// Longest line that a terminal hands on, its newline included, in bytes: N_TTY_BUF_SIZE. What is
/// typed beyond that is lost.
const MAX_LINE: usize = 4096;

/// What was given.
pub struct Given {
    /// All of it; of typed lines all but the last newline.
    pub value: SecretValue,
    /// Whether it was typed.
    pub typed: bool,
}

impl Given {
    /// Warns of a newline that hardly anybody means, and of what no variable can hold. `command` is the
    /// one that keeps values under a `name`; `otherwise` is what becomes of a value for no variable.
    pub fn warn_about(&self, name: &impl Display, command: &str, otherwise: &str) {
        let value = self.value.expose();
        if !self.typed && value.ends_with(b"\n") {
            tracing::warn!(
                "the value of {name} ends with a newline, which is kept; if it is not meant to be \
                 there: `printf %s VALUE | {command} {name}`"
            );
        }
        if !fits_variable(value) {
            tracing::warn!(
                "no variable can hold the value of {name}: it has a NUL in it or more than \
                 {MAX_IN_VARIABLE} bytes; {otherwise}"
            );
        }
    }
}

/// Reads all that comes through a pipe; from a terminal, which is asked with `prompt`, line by line
/// until `is_whole` says so of all of them. One byte more than `limit` is read at most.
///
/// # Errors
/// [`Kind::Io`] if it can't be read, [`Kind::Refused`] if it was interrupted or is more than a
/// terminal hands on.
pub async fn read(prompt: &str, limit: usize, is_whole: fn(&[u8]) -> bool) -> Result<Given> {
    let stdin = io::stdin().as_fd().try_clone_to_owned().map(File::from);
    let stdin = stdin.map_err(cannot_read)?;
    if isatty(&stdin) {
        let value = read_lines(stdin, prompt, is_whole).await?;
        return Ok(Given { value, typed: true });
    }
    let value = read_all(&stdin, limit).map_err(cannot_read)?;
    let typed = false;
    Ok(Given { value, typed })
}

/// In memory that never grows, so that no copy stays behind.
fn read_all(stdin: &File, limit: usize) -> io::Result<SecretValue> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(limit + 2));
    stdin.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    Ok(SecretValue::new(std::mem::take(&mut *bytes)))
}

async fn read_lines(
    terminal: File,
    prompt: &str,
    is_whole: fn(&[u8]) -> bool,
) -> Result<SecretValue> {
    // First: who interrupts it gets the terminal back as it was.
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot_read)?;
    let _silence = Silence::over(&terminal).map_err(cannot_read)?;
    eprint!("{prompt}");
    let (done, line) = oneshot::channel();
    // A thread of its own: an interrupted read does not end before the line does.
    std::thread::spawn(move || done.send(lines(&terminal, is_whole)));
    tokio::select! {
        line = line => line.unwrap_or_else(|_| Err(cannot_read(io::ErrorKind::Interrupted.into()))),
        _ = interrupt.recv() => {
            eprintln!();
            Err(Error::new(Kind::Refused, "interrupted: nothing was changed"))
        }
    }
}

fn lines(mut terminal: &File, is_whole: fn(&[u8]) -> bool) -> Result<SecretValue> {
    let mut text = Zeroizing::new(Vec::with_capacity(MAX_LINE));
    let mut line = Zeroizing::new(vec![0; MAX_LINE]);
    loop {
        // Until there is a whole line, or the end of input, read(2) waits.
        let length = terminal.read(&mut line).map_err(cannot_read)?;
        let room = text.capacity() - text.len();
        if length == MAX_LINE || length > room {
            return Err(too_much());
        }
        text.extend_from_slice(&line[..length]);
        if length == 0 || is_whole(&text) {
            break;
        }
    }
    if rustix::io::ioctl_fionread(terminal).map_err(|e| cannot_read(e.into()))? > 0 {
        return Err(too_much());
    }
    if text.last() == Some(&b'\n') {
        text.pop();
    }
    Ok(SecretValue::new(std::mem::take(&mut *text)))
}

fn too_much() -> Error {
    let what = "more was entered than one line of at most 4094 bytes";
    Error::new(Kind::Refused, what)
        .hint("give such a value through a pipe, or from a file with `<FILE`")
}

fn cannot_read(error: io::Error) -> Error {
    Error::io("cannot read standard input", error)
        .hint("give it through a pipe, or type it in a terminal")
}

/// Keeps a terminal from showing what is typed, until it is dropped.
struct Silence {
    terminal: File,
    before: Termios,
}

impl Silence {
    fn over(terminal: &File) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        silent.local_modes.insert(LocalModes::ECHONL);
        tcsetattr(terminal, OptionalActions::Flush, &silent)?;
        let terminal = terminal.try_clone()?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Silence {
    /// What was typed too much is thrown away: a shell would take it for a command.
    fn drop(&mut self) {
        let _ = tcsetattr(&self.terminal, OptionalActions::Flush, &self.before);
    }
}
