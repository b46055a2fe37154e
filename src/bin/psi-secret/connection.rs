//! A connection to psi-serve on which nothing waits past a deadline.
//!
//! The standard library bounds reading and writing, but not connecting, which waits for as long
//! as the socket's queue is full. A thread to stop waiting would cost a lookup a tenth of its time.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// Reads and writes until its deadline.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    deadline: Instant,
}

impl Connection {
    /// Connects to `socket`.
    ///
    /// # Errors
    /// What the system says, and what [`is_too_late`] tells if the deadline passes first; so for
    /// all that is read and written later.
    pub fn open(socket: &Path, deadline: Instant) -> io::Result<Self> {
        let address = SocketAddrUnix::new(socket)?;
        let flags = SocketFlags::CLOEXEC;
        let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // It bounds connecting as well (socket(7)).
        set_socket_timeout(&fd, Timeout::Send, Some(left(deadline)?))?;
        connect(&fd, &address)?;
        Ok(Self {
            stream: fd.into(),
            deadline,
        })
    }
}

impl Read for Connection {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(left(self.deadline)?))?;
        self.stream.read(into)
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(left(self.deadline)?))?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Whether an operation ended because the deadline passed.
pub fn is_too_late(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    match left.is_zero() {
        true => Err(ErrorKind::TimedOut.into()),
        false => Ok(left),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::unix::net::UnixListener;
    use std::sync::mpsc::channel;
    use std::thread;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(50)
    }

    #[test]
    fn a_full_queue_is_waited_for_until_the_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        // The queue of one that is left takes one more than its length.
        rustix::net::listen(&listener, 0).unwrap();
        let _queued = UnixStream::connect(&socket).unwrap();
        assert!(is_too_late(&Connection::open(&socket, soon()).unwrap_err()));
        drop(listener.accept().unwrap());
        Connection::open(&socket, soon()).unwrap();
    }

    #[test]
    fn a_silent_peer_is_waited_for_until_the_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let _listener = UnixListener::bind(&socket).unwrap();
        let mut connection = Connection::open(&socket, soon()).unwrap();
        assert!(is_too_late(&connection.read(&mut [0; 9]).unwrap_err()));
        let endless = vec![0; 16 << 20];
        assert!(is_too_late(&connection.write_all(&endless).unwrap_err()));
    }

    #[test]
    fn a_peer_that_dribbles_does_not_move_the_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let mut connection = Connection::open(&socket, soon()).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        let (stop, stopped) = channel::<()>();
        let dribbling = thread::spawn(move || {
            while stopped.recv_timeout(Duration::from_millis(5)).is_err() {
                peer.write_all(b"x").unwrap();
            }
        });
        let outcome = io::copy(&mut connection, &mut io::sink());
        stop.send(()).unwrap();
        dribbling.join().unwrap();
        assert!(is_too_late(&outcome.unwrap_err()));
    }
}
