//! One HTTP/1.1 request and its answer on a connection of its own.

use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::time::Instant;

use crate::connection::{Connection, is_too_late};
use crate::failure::Failure;
use crate::json::string_field;
use crate::retry::{BUDGET, Trouble};
use crate::target::Target;
use crate::{one_line, show_path, wipe};

/// Longest head of an answer, in bytes.
const MAX_HEAD: usize = 16 << 10;
/// Longest value, in bytes; what psi-setup can hand over at most.
const MAX_VALUE: usize = 64 << 20;
/// Longest error answer that is read for its text, in bytes.
const MAX_ERROR: usize = 64 << 10;
/// Longest text taken from an error answer, in characters.
const MAX_TEXT: usize = 400;

/// The bytes of a request. `token` and the target have been checked, so nothing needs escaping.
pub fn request(target: &Target, token: Option<&str>, body: &[u8]) -> Vec<u8> {
    let route = target.route();
    let mut head = format!("{route} HTTP/1.1\r\nHost: psi\r\nConnection: close\r\n");
    if let Some(token) = token {
        head.push_str("Authorization: Bearer ");
        head.push_str(token);
        head.push_str("\r\n");
    }
    if target.has_body() {
        head.push_str("Content-Type: application/octet-stream\r\n");
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    [head.as_bytes(), body].concat()
}

/// Asks once, until `deadline` at most. The body of a complete answer 200, all of it.
///
/// # Errors
/// Everything else; [`Trouble::passing`] where asking again may help.
pub fn exchange(socket: &Path, request: &[u8], deadline: Instant) -> Result<Vec<u8>, Trouble> {
    let stream = Connection::open(socket, deadline);
    let mut stream = stream.map_err(|e| not_connected(socket, &e))?;
    // An early answer, such as 401, closes the connection while we still write: reading tells.
    let _ = stream.write_all(request);
    let mut head = [0; MAX_HEAD];
    let answer = read_answer(&mut stream, &mut head);
    wipe(&mut head);
    let (status, body) = answer?;
    match status {
        200 => Ok(body),
        _ => Err(refusal(status, &body)),
    }
}

/// A complete answer: its status and its body, which for an error may be left out.
fn read_answer(
    stream: &mut impl Read,
    buffer: &mut [u8; MAX_HEAD],
) -> Result<(u16, Vec<u8>), Trouble> {
    let (head_len, filled) = read_head(stream, buffer)?;
    let head = Head::parse(&buffer[..head_len]).ok_or_else(no_answer)?;
    let early = &buffer[head_len..filled];
    let most = match head.status {
        200 => MAX_VALUE,
        _ => MAX_ERROR,
    };
    if early.len() > head.length {
        return Err(no_answer());
    }
    match head.length <= most {
        true => Ok((head.status, read_body(stream, early, head.length)?)),
        false if head.status == 200 => Err(Trouble::lasting(Failure::new(format!(
            "psi-serve's answer is {} bytes, more than {MAX_VALUE}",
            head.length
        )))),
        false => Ok((head.status, Vec::new())),
    }
}

/// Reads up to the blank line: the length of the head, and of everything read so far.
fn read_head(
    stream: &mut impl Read,
    buffer: &mut [u8; MAX_HEAD],
) -> Result<(usize, usize), Trouble> {
    let mut filled = 0;
    while filled < buffer.len() {
        let n = read_some(stream, &mut buffer[filled..])?;
        // The blank line may lie across two reads.
        let from = filled.saturating_sub(3);
        filled += n;
        let end = buffer[from..filled]
            .windows(4)
            .position(|w| w == b"\r\n\r\n");
        if let Some(at) = end {
            return Ok((from + at + 4, filled));
        }
    }
    Err(no_answer())
}

/// Reads exactly `length` bytes, of which `early` are here already, into memory that never moves.
fn read_body(stream: &mut impl Read, early: &[u8], length: usize) -> Result<Vec<u8>, Trouble> {
    let mut body = vec![0; length];
    body[..early.len()].copy_from_slice(early);
    let mut filled = early.len();
    while filled < length {
        match read_some(stream, &mut body[filled..]) {
            Ok(n) => filled += n,
            Err(trouble) => {
                wipe(&mut body);
                return Err(trouble);
            }
        }
    }
    Ok(body)
}

/// At least one byte.
fn read_some(stream: &mut impl Read, into: &mut [u8]) -> Result<usize, Trouble> {
    loop {
        match stream.read(into) {
            Ok(0) => {
                return Err(cut_short(
                    "psi-serve hung up before its answer was complete",
                ));
            }
            Ok(n) => return Ok(n),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if is_too_late(&e) => return Err(too_late()),
            Err(e) => return Err(cut_short(&format!("psi-serve's answer broke off: {e}"))),
        }
    }
}

/// What matters of an answer's head.
#[derive(Debug, PartialEq)]
struct Head {
    status: u16,
    length: usize,
}

impl Head {
    /// `None` unless it is HTTP/1.x with exactly one `Content-Length`, as psi-serve always sends.
    fn parse(head: &[u8]) -> Option<Self> {
        let mut lines = str::from_utf8(head).ok()?.split("\r\n");
        let status = status(lines.next()?)?;
        let mut length = None;
        for line in lines.take_while(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':')?;
            if name.eq_ignore_ascii_case("transfer-encoding") {
                return None;
            }
            if name.eq_ignore_ascii_case("content-length")
                && length.replace(decimal(value.trim())?).is_some()
            {
                return None;
            }
        }
        Some(Self {
            status,
            length: length?,
        })
    }
}

fn status(line: &str) -> Option<u16> {
    let mut words = line.split(' ');
    let version = words.next()?;
    let code = words.next().filter(|code| code.len() == 3)?;
    let status = decimal(code).and_then(|n| u16::try_from(n).ok())?;
    (matches!(version, "HTTP/1.1" | "HTTP/1.0") && status >= 200).then_some(status)
}

fn decimal(text: &str) -> Option<usize> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

fn not_connected(socket: &Path, error: &io::Error) -> Trouble {
    use ErrorKind::{ConnectionRefused, ConnectionReset, Interrupted, NotFound, PermissionDenied};
    if is_too_late(error) {
        return too_late();
    }
    let failure = Failure::new(format!(
        "cannot connect to psi-serve at {}: {error}",
        show_path(socket)
    ));
    match error.kind() {
        NotFound | ConnectionRefused | ConnectionReset | Interrupted => Trouble::passing(
            failure.next("systemctl status psi-secrets.socket psi-secrets.service"),
        ),
        PermissionDenied => Trouble::lasting(failure.next(format!(
            "run it as root; ls -l {} shows who may connect",
            show_path(socket)
        ))),
        _ => Trouble::lasting(failure),
    }
}

fn too_late() -> Trouble {
    let seconds = BUDGET.as_secs();
    Trouble::lasting(
        Failure::new(format!("no answer from psi-serve within {seconds} s"))
            .next("systemctl status psi-secrets.service"),
    )
}

fn cut_short(why: &str) -> Trouble {
    Trouble::passing(Failure::new(why))
}

fn no_answer() -> Trouble {
    Trouble::lasting(
        Failure::new("what listens there does not answer like psi-serve")
            .next("ss -xlp | grep psi.sock"),
    )
}

/// What psi-serve says about why it will not, and what to do.
fn refusal(status: u16, body: &[u8]) -> Trouble {
    let json = String::from_utf8_lossy(body);
    let text = |field| string_field(&json, field).map(|text| one_line(&text, MAX_TEXT));
    let mut cause = format!("psi-serve answers {status}");
    if let Some(detail) = text("detail").or_else(|| text("error")) {
        cause.push_str(": ");
        cause.push_str(&detail);
    }
    let mut failure = Failure::new(cause);
    if let Some(hint) = text("hint") {
        failure = failure.next(hint);
    } else if status == 401 {
        failure =
            failure.next("put psi-serve's socket token into /etc/psi/socket-token, mode 0600");
    }
    match status {
        503 => Trouble::passing(failure),
        _ => Trouble::lasting(failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(bytes: &[u8]) -> Result<(u16, Vec<u8>), Trouble> {
        read_answer(&mut &bytes[..], &mut [0; MAX_HEAD])
    }

    /// Gives one byte at a time.
    struct Dribble<'a>(&'a [u8]);

    impl Read for Dribble<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let n = into.len().min(1);
            self.0.read(&mut into[..n])
        }
    }

    #[test]
    fn an_answer_may_arrive_byte_by_byte() {
        let bytes = b"HTTP/1.1 200 OK\r\ncontent-length:  4 \r\nX: y\r\n\r\n\0\r\n\n";
        let mut buffer = [0; MAX_HEAD];
        let read = read_answer(&mut Dribble(bytes), &mut buffer).unwrap();
        assert_eq!(read, (200, b"\0\r\n\n".to_vec()));
        assert_eq!(answer(bytes).unwrap(), read);
    }

    #[test]
    fn every_cut_of_an_answer_is_worth_another_try() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nvalue";
        for end in 0..bytes.len() {
            assert!(answer(&bytes[..end]).unwrap_err().passing, "cut at {end}");
        }
    }

    #[test]
    fn what_is_not_an_answer_of_psi_serve_is_refused_for_good() {
        for bad in [
            "HTTP/1.1 200 OK\r\n\r\nvalue",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nvalue\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nvalue",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nvalue",
            "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nvalue",
            "HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\nvalue",
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nvalue",
            "HTTP/1.1 200 OK\r\nContent-Length: 67108865\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "HTTP/1.1 100 Continue\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 +20 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/2 200 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\nContent-Length: 0\r\n\r\n",
            "SSH-2.0-x\r\n\r\n",
        ] {
            assert!(!answer(bad.as_bytes()).unwrap_err().passing, "{bad}");
        }
        let endless = [b'x'; MAX_HEAD + 1];
        assert!(!answer(&endless).unwrap_err().passing);
    }

    #[test]
    fn a_long_error_page_is_not_read() {
        let head = b"HTTP/1.1 500 Oh\r\nContent-Length: 9999999\r\n\r\n<html>";
        assert_eq!(answer(head).unwrap(), (500, Vec::new()));
    }
}
