//! The socket token: what callers of psi-serve send, if one is set.

use crate::config::is_socket_token;
use crate::error::{Error, Kind, Result};
use crate::secret::SecretValue;
use crate::systemd::Credentials;

/// The credential that has it.
const CREDENTIAL: &str = "psi-socket-token";

/// The token, and the one before it while callers change over.
#[derive(Debug)]
pub struct SocketToken {
    /// What is sent.
    pub current: SecretValue,
    /// What is accepted as well, for a while.
    pub before: Option<SecretValue>,
}

impl SocketToken {
    /// That of a credential: its first line; a second one has the token before.
    ///
    /// # Errors
    /// [`Kind::Config`] if a line is no token. Nothing of it is quoted.
    pub fn parse(credential: &SecretValue) -> Result<Self> {
        let lines: Vec<&[u8]> = credential.expose().split(|byte| *byte == b'\n').collect();
        let are_tokens = lines.iter().all(|line| is_socket_token(line));
        let token = |line: &[u8]| SecretValue::new(line.to_vec());
        match lines.as_slice() {
            [current] if are_tokens => Ok(Self {
                current: token(current),
                before: None,
            }),
            [current, before] if are_tokens => Ok(Self {
                current: token(current),
                before: Some(token(before)),
            }),
            _ => Err(not_a_token()),
        }
    }
}

impl Credentials {
    /// The socket token, if it was delivered.
    ///
    /// # Errors
    /// As [`Credentials::read`] and [`SocketToken::parse`].
    pub fn socket_token(&self) -> Result<Option<SocketToken>> {
        let credential = self.read(CREDENTIAL)?;
        credential.as_ref().map(SocketToken::parse).transpose()
    }

    /// The same for a tool that root may also run by hand.
    ///
    /// # Errors
    /// As [`Credentials::read_or_open`] and [`SocketToken::parse`].
    pub fn socket_token_or_open(&self) -> Result<Option<SocketToken>> {
        let credential = self.read_or_open(CREDENTIAL)?;
        credential.as_ref().map(SocketToken::parse).transpose()
    }
}

fn not_a_token() -> Error {
    let what = "the credential psi-socket-token must have at least 8 of the characters A-Za-z0-9._~+/=-, and at most a second line of that kind, the token before";
    Error::new(Kind::Config, what).hint(
        "seal a token with `systemd-creds encrypt --tpm2-pcrs= --name=psi-socket-token`, or remove the credential for none",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<SocketToken> {
        SocketToken::parse(&SecretValue::new(text.into()))
    }

    #[test]
    fn the_first_line_is_the_token_and_a_second_one_the_token_before() {
        let token = parse("the-new-token\nthe-old-token").unwrap();
        assert_eq!(token.current.expose(), b"the-new-token");
        assert_eq!(token.before.unwrap().expose(), b"the-old-token");
        assert!(parse("the-new-token").unwrap().before.is_none());
    }

    #[test]
    fn a_line_that_is_no_token_is_refused_and_not_quoted() {
        for bad in [
            "",
            "short",
            "the-token\n",
            "the-token\nold",
            "token-1.\ntoken-2.\ntoken-3.",
        ] {
            let error = parse(bad).unwrap_err();
            assert_eq!(error.kind(), Kind::Config, "{bad}");
            assert!(!error.to_string().contains("the-token"), "{error}");
        }
    }
}
