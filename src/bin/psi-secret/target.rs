//! What is asked for: the route, and the name of the secret in messages.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::args::Verb;
use crate::failure::Failure;
use crate::show;

/// Length of the ids that Podman's `pkg/secrets/secrets.go` makes.
const ID_LEN: usize = 25;

/// A command on one secret, or on the list. The id is one that needs no escaping in a URL.
#[derive(Debug)]
pub struct Target {
    verb: Verb,
    id: String,
}

impl Target {
    /// The request line's method and path.
    pub fn route(&self) -> String {
        match self.verb {
            Verb::Lookup => format!("GET /lookup/{}", self.id),
            Verb::Store => format!("POST /store/{}", self.id),
            Verb::Delete => format!("DELETE /delete/{}", self.id),
            Verb::List => "GET /list".to_owned(),
        }
    }

    /// Does the request have a body, if only an empty one?
    pub fn has_body(&self) -> bool {
        self.verb == Verb::Store
    }

    /// For messages, after "cannot".
    pub fn describe(&self) -> String {
        match self.verb {
            Verb::Lookup => format!("look up {}", self.id),
            Verb::Store => format!("store {}", self.id),
            Verb::Delete => format!("delete {}", self.id),
            Verb::List => "list the secrets".to_owned(),
        }
    }
}

/// Checks `$SECRET_ID` for the command.
///
/// # Errors
/// For an id that Podman cannot have made. The empty one above all: replacing a secret that is
/// not there runs `delete` with it, and if that succeeds Podman forgets some other secret.
pub fn parse(verb: Verb, id: Option<&OsStr>) -> Result<Target, Failure> {
    let id = match verb {
        Verb::List => String::new(),
        _ => check(verb, id)?,
    };
    Ok(Target { verb, id })
}

fn check(verb: Verb, id: Option<&OsStr>) -> Result<String, Failure> {
    let id = id.ok_or_else(|| {
        Failure::usage("$SECRET_ID is not set")
            .next("SECRET_ID=<id> psi-secret …, with an id that `podman secret ls` shows")
    })?;
    let bytes = id.as_bytes();
    if bytes.is_empty() {
        return Err(
            Failure::usage(format!("cannot {verb} a secret: $SECRET_ID is empty")).next(
                "none if Podman was replacing a secret that did not exist; else `podman secret ls`",
            ),
        );
    }
    let accepted = is_id(bytes) || (verb == Verb::Lookup && is_name(bytes));
    match str::from_utf8(bytes) {
        Ok(text) if accepted => Ok(text.to_owned()),
        _ => Err(Failure::usage(format!(
            "cannot {verb} '{}': not a secret id, which is {ID_LEN} lower-case hex digits",
            show(id)
        ))
        .next("podman secret ls")),
    }
}

fn is_id(bytes: &[u8]) -> bool {
    bytes.len() == ID_LEN && bytes.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The name of a mapping that was put into the state directory by hand.
fn is_name(bytes: &[u8]) -> bool {
    let first = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
    bytes.first().is_some_and(first)
        && bytes.len() <= 255
        && bytes.iter().all(|b| first(b) || matches!(b, b'.' | b'-'))
}

impl std::fmt::Display for Verb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Verb::Lookup => "look up",
            Verb::Store => "store",
            Verb::Delete => "delete",
            Verb::List => "list",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef012345678";

    fn accepts(verb: Verb, id: &[u8]) -> bool {
        parse(verb, Some(OsStr::from_bytes(id))).is_ok()
    }

    #[test]
    fn only_what_podman_makes_is_stored_or_deleted() {
        for verb in [Verb::Store, Verb::Delete] {
            assert!(accepts(verb, ID.as_bytes()));
            for bad in [
                &b""[..],
                b"name",
                b"0123456789ABCDEF012345678",
                b"0123456789abcdef01234567",
                b"0123456789abcdef0123456789",
                b"0123456789abcdef01234567\n",
                b"../../../../../../etc/psi",
                b"cache.enc",
                b"0123456789abcdef01234567\xff",
            ] {
                assert!(!accepts(verb, bad), "{bad:?}");
            }
        }
    }

    #[test]
    fn names_are_looked_up_but_never_paths() {
        assert!(accepts(Verb::Lookup, b"myapp--DB.PASS_word-1"));
        assert!(accepts(Verb::Lookup, "a".repeat(255).as_bytes()));
        for bad in [
            &b""[..],
            b".",
            b"..",
            b".lock",
            b"-x",
            b"a/b",
            b"a b",
            b"a%2fb",
            b"\xe9",
        ] {
            assert!(!accepts(Verb::Lookup, bad), "{bad:?}");
        }
        assert!(!accepts(Verb::Lookup, "a".repeat(256).as_bytes()));
    }

    #[test]
    fn a_list_needs_no_id() {
        assert_eq!(parse(Verb::List, None).unwrap().route(), "GET /list");
        assert!(parse(Verb::Delete, None).is_err());
    }
}
