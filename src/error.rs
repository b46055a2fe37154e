//! The one error type: what happened, to which thing, why, and what to do next.

use std::error::Error as StdError;
use std::fmt;

/// A result whose error carries a hint and an exit code.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The classes of failure that callers act upon differently.
///
/// [`Kind::exit_code`] follows `sysexits.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A change was withheld because it looks wrong; everything stays as it was.
    Refused,
    /// The command line is wrong.
    Usage,
    /// Data we own is not what it should be: truncated, altered, of another version.
    Damaged,
    /// The thing asked for does not exist.
    NotFound,
    /// A service is down, too slow, or asks us to come back later. Trying again may help.
    Unreachable,
    /// A service answered with something that is not an answer.
    BadAnswer,
    /// A fault in PSI itself.
    Internal,
    /// The operating system refused to read or write.
    Io,
    /// We may not: bad credentials, no permission.
    Denied,
    /// The configuration has to be changed first.
    Config,
}

impl Kind {
    /// The exit status of a program that ends with this kind of error.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Refused => 1,
            Kind::Usage => 64,
            Kind::Damaged => 65,
            Kind::NotFound => 66,
            Kind::Unreachable => 69,
            Kind::Internal => 70,
            Kind::Io => 74,
            Kind::BadAnswer => 76,
            Kind::Denied => 77,
            Kind::Config => 78,
        }
    }
}

impl Kind {
    /// The kind for searches in the journal, where it is `PSI_OUTCOME`.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Refused => "refused",
            Kind::Usage => "usage",
            Kind::Damaged => "damaged",
            Kind::NotFound => "not-found",
            Kind::Unreachable => "unreachable",
            Kind::BadAnswer => "bad-answer",
            Kind::Internal => "internal",
            Kind::Io => "io",
            Kind::Denied => "denied",
            Kind::Config => "configuration",
        }
    }
}

/// What the kind means, in a few words.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Refused => "refused",
            Kind::Usage => "wrong usage",
            Kind::Damaged => "damaged data",
            Kind::NotFound => "not found",
            Kind::Unreachable => "unreachable",
            Kind::Internal => "a fault in PSI",
            Kind::Io => "the system could not read or write",
            Kind::BadAnswer => "it answers with nonsense",
            Kind::Denied => "access denied",
            Kind::Config => "wrong configuration",
        })
    }
}

/// What happened, with the next step for the person who reads it.
///
/// `Display` names the thing and the cause on one line, the causes below it joined by `: `.
/// It never holds a secret value, a token, a PIN or the body of a provider's answer: whoever
/// builds an error leaves them out.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    what: String,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error that says `what` happened to which thing.
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self {
            kind,
            what: what.into(),
            hint: None,
            source: None,
        }
    }

    /// An operating-system error on `what`, e.g. `cannot read /etc/psi/config.yaml`.
    pub fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        Self::new(Kind::Io, what).because(source)
    }

    /// Adds the next step: a sentence, with a command that exists where there is one.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// This error as the cause of a failed `what`; kind and next step stay.
    #[must_use]
    pub fn during(self, what: impl Into<String>) -> Self {
        Self {
            kind: self.kind,
            what: what.into(),
            hint: self.hint.clone(),
            source: Some(Box::new(self)),
        }
    }

    /// The same once more, for another who waits for the outcome; the causes become text.
    #[must_use]
    pub fn again(&self) -> Self {
        Self {
            kind: self.kind,
            what: self.to_string(),
            hint: self.hint.clone(),
            source: None,
        }
    }

    /// The class of failure.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The next step, if one is known.
    pub fn next_step(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The exit status of a program that ends with this error.
    pub fn exit_code(&self) -> u8 {
        self.kind.exit_code()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        let mut cause = self.source.as_deref().map(|s| s as &dyn StdError);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl StdError for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_joins_the_causes_on_one_line() {
        let os = std::io::Error::from_raw_os_error(2);
        let error = Error::io("cannot read /etc/psi/config.yaml", os).hint("create it");
        assert_eq!(
            error.to_string(),
            "cannot read /etc/psi/config.yaml: No such file or directory (os error 2)"
        );
        assert_eq!(error.next_step(), Some("create it"));
        assert_eq!(error.exit_code(), 74);
    }

    #[test]
    fn a_wrapped_or_repeated_error_keeps_its_kind_and_next_step() {
        let inner = Error::new(Kind::Denied, "no access").hint("grant it");
        let outer = inner.during("cannot list /app");
        for error in [outer.again(), outer] {
            assert_eq!(error.to_string(), "cannot list /app: no access");
            assert_eq!(error.kind(), Kind::Denied);
            assert_eq!(error.next_step(), Some("grant it"));
        }
    }
}
