//! Why it did not work, on one line that journald keeps.

use std::io::Write;
use std::process::ExitCode;

use crate::one_line;

/// Longest line on stderr, in characters.
const MAX_LINE: usize = 1200;

/// The cause and the next step. Holds no value and no token.
#[derive(Debug)]
pub struct Failure {
    during: Option<String>,
    cause: String,
    next: String,
    status: u8,
}

impl Failure {
    /// A failure with exit status 1.
    pub fn new(cause: impl Into<String>) -> Self {
        Self {
            during: None,
            cause: cause.into(),
            next: "journalctl -u psi-secrets.service -n 20".to_owned(),
            status: 1,
        }
    }

    /// We were called wrongly: `EX_USAGE` of `sysexits.h`.
    pub fn usage(cause: impl Into<String>) -> Self {
        Self {
            status: 64,
            ..Self::new(cause).next("psi-secret --help")
        }
    }

    /// What to do about it, instead of reading psi-serve's journal.
    pub fn next(self, step: impl Into<String>) -> Self {
        Self {
            next: step.into(),
            ..self
        }
    }

    /// What we were about to do, naming the secret.
    pub fn during(self, what: String) -> Self {
        Self {
            during: Some(what),
            ..self
        }
    }

    /// Adds how long it was tried.
    pub fn after(self, seconds: u64) -> Self {
        Self {
            cause: format!("{} (tried for {seconds} s)", self.cause),
            ..self
        }
    }

    /// The line for stderr. `<3>` is the priority *error* (`sd-daemon(3)`): a container's health
    /// check runs with `LogLevelMax=notice`, where a line without it, being *info*, is dropped.
    fn line(&self) -> String {
        let during = match &self.during {
            Some(what) => format!("cannot {what}: "),
            None => String::new(),
        };
        let text = format!("psi-secret: {during}{}; next: {}", self.cause, self.next);
        format!("<3>{}\n", one_line(&text, MAX_LINE))
    }

    /// Says it on stderr, in one write so that lines of parallel calls do not mix.
    pub fn report(&self) -> ExitCode {
        // A closed stderr leaves the exit status to speak.
        let _ = std::io::stderr().write_all(self.line().as_bytes());
        ExitCode::from(self.status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_bounded_line() {
        let cause = format!("line\r\nbreak\u{1b}[31m{}", "x".repeat(9000));
        let line = Failure::new(cause).during("look up a".to_owned()).line();
        assert!(line.starts_with("<3>psi-secret: cannot look up a: line  break [31mxx"));
        assert_eq!(line.matches('\n').count(), 1);
        assert!(line.len() < 2000);
    }
}
