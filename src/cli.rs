//! What all of PSI's programs do alike: the start, reading the configuration, the end.

use std::future::Future;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use serde::Serialize;

use crate::config::{Config, Environment};
use crate::error::{Error, Kind, Result};
use crate::events::{self, Event};
use crate::log;
use crate::pkcs11;

/// The options that every program has.
#[derive(Clone, Debug, clap::Args)]
pub struct CommonArgs {
    /// The configuration [default: $PSI_CONFIG, else /etc/psi/config.yaml as root or a system
    /// user, ~/.config/psi/config.yaml otherwise].
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Take unknown keys in the configuration for errors, not warnings.
    #[arg(long, global = true)]
    pub strict: bool,
}

/// The variables that every program reads, as a section of [`manual`].
const ENVIRONMENT: &str = "\
Environment:
  PSI_CONFIG
      Where the configuration is, unless --config says so.
  PSI_STATE_DIR, PSI_SOCKET, PSI_SYSTEMD_DIR, PSI_PODMAN_SOCKET, PSI_DRIVER_PATH,
  PSI_CA_CERT, PSI_SOCKET_TOKEN, PSI_LOOKUP_TIMEOUT, PSI_PRUNE_AFTER
      Override the key of that name in the configuration.
  PSI_NITROKEYHSM_PIN
      The PIN of a PKCS#11 token, if neither the credential hsm-pin nor the configuration has one.
  PSI_LOG
      How much is logged: error, warn, info (the default) or debug.
  CREDENTIALS_DIRECTORY
      Where systemd has put credentials. They win over the configuration.
";

/// What `--help` says at its end: `sections` of a program, with the variables before the last one.
///
/// The man pages are made from it, so it has one shape: a heading ends with a colon; below it stand
/// entries, indented by two blanks, each with its text after two blanks or more, or on the next
/// lines, which are indented further.
pub fn manual(sections: &str) -> String {
    let (before, see_also) = sections.rsplit_once("\n\n").unwrap_or((sections, ""));
    format!("{before}\n\n{ENVIRONMENT}\n{see_also}")
}

/// Reads the configuration and logs its warnings.
///
/// # Errors
/// As [`Config::load`].
pub fn load_config(args: &CommonArgs) -> Result<Config> {
    let config = Config::load(args.config.as_deref(), args.strict, &Environment::current())?;
    for warning in &config.warnings {
        events::CONFIGURATION_DOUBTFUL.say(warning);
    }
    Ok(config)
}

/// Reads the command line. Wrong usage ends the program with 64, `--help` and `--version` with 0.
pub fn parse<T: Parser>() -> T {
    T::try_parse().unwrap_or_else(|error| {
        let code = if error.use_stderr() {
            Kind::Usage.exit_code()
        } else {
            0
        };
        // There is nowhere left to complain to if this fails.
        let _ = error.print();
        std::process::exit(code.into())
    })
}

/// Starts logging, and sees to it that no core dump is made. The first call of every program.
pub fn init_logging() {
    crate::protector::silence_tss2();
    log::init();
    forbid_dumps();
}

/// No core dump is made of this process, and none of its own user's processes can look into it:
/// values are in its memory.
fn forbid_dumps() {
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        events::DUMPS_NOT_FORBIDDEN.say(format_args!("core dumps can't be turned off: {error}"));
    }
}

/// Runs `work` to its end, and no longer: a question to a name server that is down keeps a thread
/// for half a minute, and nobody needs its answer by then.
///
/// # Errors
/// What `work` says.
pub fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::io("cannot start the event loop", e))?;
    let outcome = runtime.block_on(work);
    runtime.shutdown_background();
    outcome
}

/// The exit status of a program. An error is said once, with its next step.
pub fn exit(program: &str, outcome: Result<u8>) -> ExitCode {
    let code = match outcome {
        Ok(code) => code,
        Err(error) => {
            let next = error.next_step().map(|hint| format!("; next: {hint}"));
            Event::of_end(error.kind()).say_why(
                error.kind(),
                format_args!(
                    "{program}: {}{}",
                    one_line(&error),
                    next.unwrap_or_default()
                ),
            );
            error.exit_code()
        }
    };
    pkcs11::leave(code);
    code.into()
}

/// The error's text on one line: what comes from outside must not move the cursor or start a
/// line of its own.
pub fn one_line(error: &Error) -> String {
    let text = error.to_string();
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(plain).collect()
}

/// At most 300 characters of what nothing vouches for, e.g. a cache's header or a token's name: it may
/// not move root's cursor.
pub fn printable(text: &str) -> String {
    let plain = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().take(300).map(plain).collect()
}

/// Writes a result to standard output. Whoever stops reading it has had enough.
///
/// # Errors
/// [`Kind::Io`] if it can't be written for any other reason.
pub fn print(text: &str) -> Result<()> {
    match write_out(text) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::io("cannot write to standard output", e))
        }
        _ => Ok(()),
    }
}

/// As [`print`], but whoever has asked for it must get all of it.
///
/// # Errors
/// What the system says.
pub fn write_out(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())
}

/// `value` as one JSON object on one line.
///
/// # Errors
/// [`Kind::Internal`] if it can't be JSON.
pub fn json_line<T: Serialize>(value: &T) -> Result<String> {
    let json = serde_json::to_string(value)
        .map_err(|e| Error::new(Kind::Internal, "cannot write JSON").because(e))?;
    Ok(json + "\n")
}

/// `rows` under `headers`, in columns.
pub fn table(headers: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        widest.max(headers[column].chars().count())
    };
    let widths: Vec<usize> = (0..headers.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded: Vec<String> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let mut text = line(headers.to_vec());
    for row in rows {
        text.push_str(&line(row.iter().map(String::as_str).collect()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![
            vec!["myapp".to_owned(), "1".to_owned()],
            vec!["b".to_owned(), "22".to_owned()],
        ];
        let text = table(&["NAME", "N"], &rows);
        assert_eq!(text, "NAME   N\nmyapp  1\nb      22\n");
    }

    /// A name server that is down keeps a thread waiting that can't be called off.
    #[test]
    fn the_end_waits_for_no_blocked_thread() {
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let blocked = move || receiver.recv_timeout(std::time::Duration::from_secs(5));
        let outcome = block_on(async move {
            tokio::task::spawn_blocking(blocked);
            Ok(())
        });
        assert!(outcome.is_ok());
        assert!(sender.send(()).is_ok(), "the thread had come to its end");
    }

    #[test]
    fn what_nothing_vouches_for_can_not_move_the_cursor() {
        assert_eq!(printable("a\x1b[2J\nb"), "a\u{fffd}[2J\u{fffd}b");
    }

    #[test]
    fn an_error_is_one_line_whatever_is_in_it() {
        let error = Error::new(Kind::Io, "a\nb\x1b[2Jc");
        assert_eq!(one_line(&error), "a b [2Jc");
    }
}
