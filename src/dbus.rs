//! As much of D-Bus as it takes to have the host's systemd read its units again from inside a
//! container, where there is no systemctl: <https://dbus.freedesktop.org/doc/dbus-specification.html>.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// The system's bus. The quadlets of psi-setup have it as a volume.
pub const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";

/// Every generator runs meanwhile.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(90);

/// Longer than any answer to what is asked here.
const LONGEST: usize = 64 * 1024;

const LITTLE_ENDIAN: u8 = b'l';
const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const PROTOCOL_VERSION: u8 = 1;

/// Where a call goes: destination, path, interface and member.
struct Call([&'static str; 4]);

const HELLO: Call = Call([
    "org.freedesktop.DBus",
    "/org/freedesktop/DBus",
    "org.freedesktop.DBus",
    "Hello",
]);

const RELOAD: Call = Call([
    "org.freedesktop.systemd1",
    "/org/freedesktop/systemd1",
    "org.freedesktop.systemd1.Manager",
    "Reload",
]);

/// Has the systemd behind that bus read its units again, and waits until it has.
///
/// # Errors
/// What the bus or systemd says, or why neither can be asked.
pub fn reload(bus: &Path) -> io::Result<()> {
    let mut stream = UnixStream::connect(bus)?;
    stream.set_read_timeout(Some(RELOAD_TIMEOUT))?;
    stream.set_write_timeout(Some(RELOAD_TIMEOUT))?;
    authenticate(&mut stream)?;
    for (serial, call) in [(1, HELLO), (2, RELOAD)] {
        stream.write_all(&call.message(serial))?;
        wait_for_answer(&mut stream)?;
    }
    Ok(())
}

/// By the user id that the kernel tells the bus.
fn authenticate(stream: &mut UnixStream) -> io::Result<()> {
    let uid = rustix::process::getuid().as_raw().to_string();
    let uid: String = uid.bytes().map(|digit| format!("{digit:02x}")).collect();
    stream.write_all(format!("\0AUTH EXTERNAL {uid}\r\n").as_bytes())?;
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
        if line.len() > LONGEST {
            return Err(unexpected());
        }
    }
    if !line.starts_with(b"OK ") {
        let refused = "the bus does not take this user";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, refused));
    }
    stream.write_all(b"BEGIN\r\n")
}

impl Call {
    /// A call without arguments.
    fn message(&self, serial: u32) -> Vec<u8> {
        let Self([destination, path, interface, member]) = self;
        let mut fields = Vec::new();
        for (code, kind, text) in [
            (1, b'o', path),
            (2, b's', interface),
            (3, b's', member),
            (6, b's', destination),
        ] {
            pad(&mut fields, 8);
            // The code, then a variant: the signature of its one value.
            fields.extend([code, 1, kind, 0]);
            fields.extend((text.len() as u32).to_le_bytes());
            fields.extend(text.as_bytes());
            fields.push(0);
        }
        let mut message = vec![LITTLE_ENDIAN, METHOD_CALL, 0, PROTOCOL_VERSION];
        for number in [0, serial, fields.len() as u32] {
            message.extend(number.to_le_bytes());
        }
        message.extend(fields);
        pad(&mut message, 8);
        message
    }
}

fn pad(bytes: &mut Vec<u8>, alignment: usize) {
    bytes.resize(bytes.len().next_multiple_of(alignment), 0);
}

/// Signals may come before it. One call is under way at a time, so an answer is that call's.
fn wait_for_answer(stream: &mut UnixStream) -> io::Result<()> {
    loop {
        let mut header = [0; 16];
        stream.read_exact(&mut header)?;
        let [endianness, kind, ..] = header;
        let number = |at: usize| {
            let bytes = [header[at], header[at + 1], header[at + 2], header[at + 3]];
            match endianness {
                LITTLE_ENDIAN => u32::from_le_bytes(bytes) as usize,
                _ => u32::from_be_bytes(bytes) as usize,
            }
        };
        let (body, fields) = (number(4), number(12));
        if body > LONGEST || fields > LONGEST {
            return Err(unexpected());
        }
        let mut rest = vec![0; fields.next_multiple_of(8) + body];
        stream.read_exact(&mut rest)?;
        match kind {
            METHOD_RETURN => return Ok(()),
            ERROR => return Err(io::Error::other(text(&rest[rest.len() - body..]))),
            _ => {}
        }
    }
}

/// What an error's body begins with: a length, and as many bytes of text.
fn text(body: &[u8]) -> String {
    let text = body.get(4..).unwrap_or_default();
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

fn unexpected() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it does not speak D-Bus")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::thread;

    /// What the bus is asked, in this order.
    const QUESTIONS: [&str; 3] = ["AUTH EXTERNAL", "\0Hello\0", "\0Reload\0"];

    /// A bus that says one of `answers` to each question, then hangs up.
    fn ask(answers: Vec<Vec<u8>>) -> io::Result<()> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus");
        let listener = UnixListener::bind(&path).unwrap();
        let bus = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut heard = Vec::new();
            for (question, answer) in QUESTIONS.iter().zip(answers) {
                while !String::from_utf8_lossy(&heard).contains(question) {
                    let mut bytes = [0; 4096];
                    let length = stream.read(&mut bytes).unwrap();
                    assert_ne!(length, 0, "{question:?} was not asked");
                    heard.extend(&bytes[..length]);
                }
                stream.write_all(&answer).unwrap();
            }
        });
        let outcome = reload(&path);
        bus.join().unwrap();
        outcome
    }

    fn message(kind: u8, text: &str) -> Vec<u8> {
        let mut body = Vec::new();
        if !text.is_empty() {
            body.extend((text.len() as u32).to_le_bytes());
            body.extend(text.as_bytes());
            body.push(0);
        }
        // One field of 5 bytes, which is padded to 8.
        let mut message = vec![LITTLE_ENDIAN, kind, 0, 1];
        for number in [body.len() as u32, 7, 5] {
            message.extend(number.to_le_bytes());
        }
        message.extend([0; 8]);
        message.extend(body);
        message
    }

    const OK: &[u8] = b"OK 0123456789abcdef\r\n";
    const SIGNAL: u8 = 4;

    #[test]
    fn systemd_is_asked_once_the_bus_knows_us() {
        let hello = [message(METHOD_RETURN, ":1.5"), message(SIGNAL, ":1.5")].concat();
        ask(vec![OK.to_vec(), hello, message(METHOD_RETURN, "")]).unwrap();
    }

    #[test]
    fn what_systemd_refuses_is_said() {
        let hello = message(METHOD_RETURN, ":1.5");
        let refused = ask(vec![OK.to_vec(), hello, message(ERROR, "Access denied")]);
        assert_eq!(refused.unwrap_err().to_string(), "Access denied");
    }

    #[test]
    fn a_bus_that_does_not_take_us_or_hangs_up_is_an_error() {
        let refused = ask(vec![b"REJECTED EXTERNAL\r\n".to_vec()]);
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert!(ask(vec![OK.to_vec()]).is_err());
    }

    #[test]
    fn an_answer_of_no_sensible_length_is_an_error() {
        let mut answer = message(METHOD_RETURN, "");
        answer[4..8].fill(0xff);
        let refused = ask(vec![OK.to_vec(), answer]);
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
