//! Sockets that the event loop hears of only if they must be waited for: nearly every request is
//! there when it is accepted, and nearly every answer fits into the socket at once.

use std::io::{self, ErrorKind, IoSlice, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream as Socket};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::net::{SocketFlags, accept_with};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;

/// What is read before the event loop is told, in bytes: a lookup's whole request, token and all.
const FIRST_READ: usize = 1024;

/// A listening socket. tokio's own type tells the event loop of each connection that it accepts;
/// this one waits for the listening socket as for any other.
pub struct Listener(UnixStream);

impl Listener {
    /// Accepts on `listener`, which must not block.
    ///
    /// # Errors
    /// If the event loop can't wait for it.
    pub fn new(listener: UnixListener) -> io::Result<Self> {
        let socket = Socket::from(OwnedFd::from(listener));
        Ok(Self(UnixStream::from_std(socket)?))
    }

    /// The next connection.
    ///
    /// # Errors
    /// What accept(2) says.
    pub async fn accept(&self) -> io::Result<Socket> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let accept = || Ok(accept_with(&self.0, flags)?.into());
        self.0.async_io(Interest::READABLE, accept).await
    }
}

/// The socket of a connection.
pub enum Stream {
    /// The event loop has not been told of it.
    Fresh(Fresh),
    /// The event loop waits for it.
    Registered(UnixStream),
    /// The event loop would not have it.
    Lost,
}

/// A socket that does not block.
pub struct Fresh {
    socket: Socket,
    has_read: bool,
    is_put_off: bool,
}

impl Fresh {
    /// What there is to be read; nothing if that must be waited for.
    fn read(&mut self, buffer: &mut ReadBuf<'_>) -> Option<io::Result<()>> {
        let mut bytes = [0; FIRST_READ];
        let wanted = FIRST_READ.min(buffer.remaining());
        let read = unless_blocked(self.socket.read(&mut bytes[..wanted]))?;
        self.has_read = true;
        self.is_put_off = false;
        Some(read.map(|count| buffer.put_slice(&bytes[..count])))
    }

    /// Has the caller of a read ask once more before the event loop is told. A moment after it was
    /// accepted the request is there; and a caller that gets its answer at once need not be
    /// watched for hanging up.
    fn put_off(&mut self, cx: &Context<'_>) -> bool {
        let may_wait = !std::mem::replace(&mut self.is_put_off, true);
        if may_wait {
            cx.waker().wake_by_ref();
        }
        may_wait
    }
}

impl Stream {
    /// A socket that was just accepted.
    pub fn new(socket: Socket) -> Self {
        Self::Fresh(Fresh {
            socket,
            has_read: false,
            is_put_off: false,
        })
    }

    fn registered(&mut self) -> io::Result<Pin<&mut UnixStream>> {
        if let Self::Fresh(_) = self
            && let Self::Fresh(fresh) = std::mem::replace(self, Self::Lost)
        {
            *self = Self::Registered(UnixStream::from_std(fresh.socket)?);
        }
        match self {
            Self::Registered(socket) => Ok(Pin::new(socket)),
            _ => Err(ErrorKind::NotConnected.into()),
        }
    }
}

fn unless_blocked<T>(outcome: io::Result<T>) -> Option<io::Result<T>> {
    match outcome {
        Err(e) if e.kind() == ErrorKind::WouldBlock => None,
        outcome => Some(outcome),
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Self::Fresh(fresh) = this {
            if !fresh.has_read
                && let Some(read) = fresh.read(buffer)
            {
                return Poll::Ready(read);
            }
            if fresh.put_off(cx) {
                return Poll::Pending;
            }
        }
        this.registered()?.poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Self::Fresh(fresh) = this
            && let Some(written) = unless_blocked(fresh.socket.write_vectored(bytes))
        {
            return Poll::Ready(written);
        }
        this.registered()?.poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Nothing: the socket is closed right after it, which tells the caller the same.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn pair() -> (Stream, Socket) {
        let (ours, theirs) = Socket::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Stream::new(ours), theirs)
    }

    #[tokio::test]
    async fn the_event_loop_hears_nothing_of_a_request_that_is_there() {
        let (mut stream, mut caller) = pair();
        caller.write_all(b"request").unwrap();
        let mut request = [0; 64];
        assert_eq!(stream.read(&mut request).await.unwrap(), 7);
        assert_eq!(&request[..7], b"request");
        stream.write_all(b"answer").await.unwrap();
        assert!(matches!(stream, Stream::Fresh(_)));
        drop(stream);
        let mut answer = String::new();
        caller.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "answer");
    }

    #[tokio::test]
    async fn what_comes_late_and_what_does_not_fit_is_waited_for() {
        let (mut stream, mut caller) = pair();
        let large = vec![b'x'; 4 << 20];
        let expected = large.clone();
        let caller = std::thread::spawn(move || {
            let mut first = [0; 1];
            caller.read_exact(&mut first).unwrap();
            caller.write_all(&large).unwrap();
            let mut back = first.to_vec();
            caller.read_to_end(&mut back).unwrap();
            back
        });
        stream.write_all(&expected[..1]).await.unwrap();
        let mut read = vec![0; expected.len()];
        stream.read_exact(&mut read).await.unwrap();
        assert!(matches!(stream, Stream::Registered(_)));
        stream.write_all(&read[1..]).await.unwrap();
        drop(stream);
        let back = tokio::task::spawn_blocking(|| caller.join().unwrap());
        assert!(back.await.unwrap() == expected);
    }
}
