//! The socket token: read from a file that only its owner can read, never shown.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::args::is_system;
use crate::failure::Failure;
use crate::show_path;

const DEFAULT: &str = "/etc/psi/socket-token";

/// Larger than any token.
const MAX_FILE: u64 = 4096;

/// The token to send, if there is one.
///
/// Without a file named, the system's own is used if it exists; a user's Podman has no business
/// with that one.
///
/// # Errors
/// If the file named is missing, or either one is unreadable, open to others, or holds no token.
pub fn read(named: Option<&Path>) -> Result<Option<String>, Failure> {
    match named {
        Some(path) => read_file(path).map_err(|e| unreadable(path, &e))?.map(Some),
        None if is_system() => match read_file(Path::new(DEFAULT)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(unreadable(Path::new(DEFAULT), &e)),
            Ok(token) => token.map(Some),
        },
        None => Ok(None),
    }
}

fn read_file(path: &Path) -> io::Result<Result<String, Failure>> {
    let about = fs::metadata(path)?;
    if !about.is_file() {
        return Ok(Err(refused(path, "is not a regular file")));
    }
    if about.mode() & 0o077 != 0 {
        let what = format!("is open to others (mode {:04o})", about.mode() & 0o7777);
        let fix = format!("chmod 600 {}", show_path(path));
        return Ok(Err(refused(path, &what).next(fix)));
    }
    let mut text = Vec::with_capacity(MAX_FILE as usize);
    File::open(path)?.take(MAX_FILE).read_to_end(&mut text)?;
    Ok(parse(&text).ok_or_else(|| {
        refused(
            path,
            "holds no token: at least 8 of A-Z a-z 0-9 . _ ~ + / = -",
        )
    }))
}

/// The first line. A second one has the token before, which psi-serve takes for a while, so that one
/// file is good for both.
fn parse(text: &[u8]) -> Option<String> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || b"._~+/=-".contains(b);
    let is_token = |line: &&[u8]| {
        line.len() >= 8 && (line.len() as u64) < MAX_FILE && line.iter().all(allowed)
    };
    let are_valid = lines.len() <= 2 && lines.iter().all(is_token);
    let first = lines.first().filter(|_| are_valid)?;
    String::from_utf8(first.to_vec()).ok()
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::new(format!(
        "cannot read the token file {}: {error}",
        show_path(path)
    ))
    .next(format!("ls -l {}", show_path(path)))
}

fn refused(path: &Path, what: &str) -> Failure {
    Failure::new(format!("the token file {} {what}", show_path(path))).next(format!(
        "put psi-serve's socket token into {}, mode 0600",
        show_path(path)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_line_of_allowed_characters_and_may_have_the_one_before_below() {
        assert_eq!(
            parse(b"new-token\nold-token\n").as_deref(),
            Some("new-token")
        );
        assert_eq!(parse(b"aZ09._~+/=-\n").as_deref(), Some("aZ09._~+/=-"));
        assert_eq!(parse(b"12345678").as_deref(), Some("12345678"));
        for bad in [
            &b""[..],
            b"1234567\n",
            b"12345678\n\n",
            b"1234 5678",
            b"1234567\xff",
            b"12345678\r",
            b"12345678\n1234567",
            b"12345678\n12345678\n12345678",
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
        assert_eq!(parse(&[b'a'; MAX_FILE as usize]), None);
    }
}
