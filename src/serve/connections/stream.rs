//! One connection's socket, which the event loop hears of only if it must be waited for: nearly
//! every request is there when it is accepted, and nearly every answer fits into the socket.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream as StdStream;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

/// What is read before the event loop is told, in bytes: a lookup's whole request, token and all.
const FIRST_READ: usize = 1024;

/// A socket of a connection.
pub enum Stream {
    /// Not blocking, and unknown to the event loop.
    Fresh(StdStream, Reads),
    /// Waited for by the event loop.
    Registered(UnixStream),
    /// Lost, since the event loop would not have it.
    Lost,
}

/// How often a fresh socket was to be read.
#[derive(Clone, Copy)]
pub enum Reads {
    /// Not yet.
    None,
    /// Once; there was something.
    Once,
    /// Again, which was put off.
    PutOff,
}

impl Stream {
    /// A socket that was just accepted and does not block.
    pub fn new(socket: StdStream) -> Self {
        Self::Fresh(socket, Reads::None)
    }

    fn registered(&mut self) -> io::Result<Pin<&mut UnixStream>> {
        if let Self::Fresh(..) = self
            && let Self::Fresh(socket, _) = std::mem::replace(self, Self::Lost)
        {
            *self = Self::Registered(UnixStream::from_std(socket)?);
        }
        match self {
            Self::Registered(socket) => Ok(Pin::new(socket)),
            _ => Err(ErrorKind::NotConnected.into()),
        }
    }
}

fn would_block<T>(outcome: &io::Result<T>) -> bool {
    matches!(outcome, Err(e) if e.kind() == ErrorKind::WouldBlock)
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match this {
            Self::Fresh(socket, reads @ Reads::None) => {
                let mut bytes = [0; FIRST_READ];
                let wanted = FIRST_READ.min(buffer.remaining());
                let read = socket.read(&mut bytes[..wanted]);
                if !would_block(&read) {
                    *reads = Reads::Once;
                    buffer.put_slice(&bytes[..read?]);
                    return Poll::Ready(Ok(()));
                }
            }
            // hyper looks whether the caller hangs up before it has the answer. If it has the
            // answer at once, nobody need look; if not, this is asked again.
            Self::Fresh(_, reads @ Reads::Once) => {
                *reads = Reads::PutOff;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            _ => {}
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
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Self::Fresh(socket, _) = this {
            let written = socket.write_vectored(bytes);
            if !would_block(&written) {
                return Poll::Ready(written);
            }
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
