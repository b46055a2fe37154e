//! The command line, and where the socket is.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use crate::failure::Failure;
use crate::show;

pub const VERSION: &str = concat!("psi-secret ", env!("CARGO_PKG_VERSION"), "\n");

/// What Podman wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Lookup,
    Store,
    Delete,
    List,
}

/// A parsed command line.
#[derive(Debug, PartialEq)]
pub enum Command {
    Help,
    Version,
    Run(Invocation),
}

/// A driver command with its options.
#[derive(Debug, PartialEq)]
pub struct Invocation {
    pub verb: Verb,
    pub token_file: Option<PathBuf>,
    socket: Option<PathBuf>,
}

impl Invocation {
    /// psi-serve's socket.
    ///
    /// # Errors
    /// If we run for a user without `$XDG_RUNTIME_DIR` and nothing else names one.
    pub fn socket(&self) -> Result<PathBuf, Failure> {
        if let Some(socket) = &self.socket {
            return Ok(socket.clone());
        }
        if let Some(socket) = variable("PSI_SOCKET") {
            return Ok(socket.into());
        }
        if is_system() {
            return Ok("/run/psi/psi.sock".into());
        }
        let runtime = variable("XDG_RUNTIME_DIR").ok_or_else(|| {
            Failure::new("no socket is named and $XDG_RUNTIME_DIR is not set")
                .next("pass --socket PATH in the driver's command")
        })?;
        Ok(PathBuf::from(runtime).join("psi/psi.sock"))
    }
}

/// Do we serve the system's Podman? Rootless Podman runs us as root of its user namespace, where
/// only the variable that it sets for itself tells us apart.
pub fn is_system() -> bool {
    let rootless = variable("_CONTAINERS_ROOTLESS_UID").is_some_and(|uid| uid != "0");
    rustix::process::geteuid().is_root() && !rootless
}

fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// Reads the command line, without the program's name.
///
/// # Errors
/// A usage failure that names the word in question.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Command, Failure> {
    let mut words = words.into_iter();
    let (mut verb, mut socket, mut token_file) = (None, None, None);
    while let Some(word) = words.next() {
        let (name, inline) = split_at_equals(&word);
        match name.as_bytes() {
            b"--help" | b"-h" => return Ok(Command::Help),
            b"--version" | b"-V" => return Ok(Command::Version),
            b"--socket" => socket = Some(path_of(name, inline, &mut words)?),
            b"--token-file" => token_file = Some(path_of(name, inline, &mut words)?),
            _ if verb.is_none() => verb = Some(verb_of(&word)?),
            _ => return Err(unexpected(&word)),
        }
    }
    let verb = verb.ok_or_else(|| Failure::usage("no command given"))?;
    Ok(Command::Run(Invocation {
        verb,
        token_file,
        socket,
    }))
}

fn verb_of(word: &OsStr) -> Result<Verb, Failure> {
    match word.as_bytes() {
        b"lookup" => Ok(Verb::Lookup),
        b"store" => Ok(Verb::Store),
        b"delete" => Ok(Verb::Delete),
        b"list" => Ok(Verb::List),
        _ => Err(unexpected(word)),
    }
}

fn unexpected(word: &OsStr) -> Failure {
    Failure::usage(format!("unexpected argument '{}'", show(word)))
}

fn split_at_equals(word: &OsStr) -> (&OsStr, Option<OsString>) {
    let bytes = word.as_bytes();
    match bytes.iter().position(|&b| b == b'=') {
        Some(at) if bytes.starts_with(b"--") => (
            OsStr::from_bytes(&bytes[..at]),
            Some(OsString::from_vec(bytes[at + 1..].to_vec())),
        ),
        _ => (word, None),
    }
}

fn path_of(
    name: &OsStr,
    inline: Option<OsString>,
    rest: &mut impl Iterator<Item = OsString>,
) -> Result<PathBuf, Failure> {
    inline
        .or_else(|| rest.next())
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
        .ok_or_else(|| Failure::usage(format!("{} needs a path", show(name))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::help::HELP;

    fn parsed(words: &[&str]) -> Result<Command, Failure> {
        parse(words.iter().map(OsString::from))
    }

    #[test]
    fn options_stand_anywhere_and_with_or_without_an_equals_sign() {
        let expected = Command::Run(Invocation {
            verb: Verb::Store,
            token_file: Some("/t=1".into()),
            socket: Some("/s".into()),
        });
        let apart = parsed(&["--socket", "/s", "store", "--token-file", "/t=1"]);
        let joined = parsed(&["store", "--token-file=/t=1", "--socket=/s"]);
        assert_eq!(apart.unwrap(), expected);
        assert_eq!(joined.unwrap(), expected);
    }

    #[test]
    fn help_is_given_after_a_command_too() {
        assert_eq!(parsed(&["lookup", "--help"]).unwrap(), Command::Help);
        assert_eq!(parsed(&["-V"]).unwrap(), Command::Version);
    }

    #[test]
    fn all_that_the_help_names_is_understood() {
        let (_, rest) = HELP.split_once("\nCommands:\n").unwrap();
        let (commands, rest) = rest.split_once("\n\nOptions:\n").unwrap();
        for line in commands.lines() {
            let command = line.split_whitespace().next().unwrap();
            parsed(&[command]).unwrap();
        }
        let (options, _) = rest.split_once("\n\n").unwrap();
        let words = options.split([' ', ',', '\n']);
        let named: Vec<&str> = words.filter(|word| word.starts_with('-')).collect();
        assert!(
            named.contains(&"--socket") && named.contains(&"-V"),
            "{named:?}"
        );
        for option in named {
            parsed(&["list", option, "/path"]).unwrap();
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for words in [
            &[][..],
            &["look"],
            &["lookup", "store"],
            &["lookup", "--sockets=/s"],
            &["lookup", "--socket"],
            &["lookup", "--socket="],
            &["--socket", "", "lookup"],
        ] {
            assert!(parsed(words).is_err(), "{words:?}");
        }
    }
}
