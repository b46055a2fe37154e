//! A socket of which something was read already.

use std::io::{self, IoSlice};
use std::os::unix::net::UnixStream as Socket;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use zeroize::Zeroizing;

/// The socket of a connection: what was read comes first.
pub struct Stream {
    begun: Zeroizing<Vec<u8>>,
    socket: UnixStream,
}

impl Stream {
    /// `socket` must not block.
    ///
    /// # Errors
    /// If the event loop can't wait for it.
    pub fn new(begun: Zeroizing<Vec<u8>>, socket: Socket) -> io::Result<Self> {
        let socket = UnixStream::from_std(socket)?;
        Ok(Self { begun, socket })
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.begun.is_empty() {
            return Pin::new(&mut self.socket).poll_read(cx, buffer);
        }
        let length = self.begun.len().min(buffer.remaining());
        buffer.put_slice(&self.begun[..length]);
        self.begun.drain(..length);
        if self.begun.is_empty() {
            // Wiped now, not when the connection ends.
            self.begun = Zeroizing::default();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn what_was_read_comes_first_however_little_is_asked_for() {
        let (ours, mut caller) = Socket::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut stream = Stream::new(Zeroizing::new(b"GET /loo".to_vec()), ours).unwrap();
        caller.write_all(b"kup/x").unwrap();
        let mut request = [0; 13];
        stream.read_exact(&mut request[..3]).await.unwrap();
        stream.read_exact(&mut request[3..]).await.unwrap();
        assert_eq!(&request, b"GET /lookup/x");
        stream.write_all(b"answer").await.unwrap();
        drop(stream);
        let mut answer = String::new();
        caller.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "answer");
    }
}
