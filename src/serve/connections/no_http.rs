//! What a caller gets who does not speak HTTP. hyper's own answer has a status and no text.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use hyper::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::wire::Failure;

/// A connection on which hyper's words are replaced by ours, until a request has come: all it can
/// have to say before is that there was none.
pub struct UntilAsked<S> {
    stream: S,
    is_asked: Arc<AtomicBool>,
    /// Our words, and how many bytes of them are sent.
    words: Option<(Vec<u8>, usize)>,
}

impl<S> UntilAsked<S> {
    /// `is_asked` turns true with the first request.
    pub fn new(stream: S, is_asked: Arc<AtomicBool>) -> Self {
        Self {
            stream,
            is_asked,
            words: None,
        }
    }
}

impl<S: AsyncWrite + Unpin> UntilAsked<S> {
    /// Sends our words in the place of `head`, which counts as sent.
    fn poll_instead(&mut self, cx: &mut Context<'_>, head: &[u8]) -> Poll<io::Result<usize>> {
        let (words, sent) = self.words.get_or_insert_with(|| (refusal(head), 0));
        while *sent < words.len() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &words[*sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => *sent += count,
            }
        }
        Poll::Ready(Ok(head.len()))
    }
}

/// An answer with the status that `head` has.
fn refusal(head: &[u8]) -> Vec<u8> {
    let status = head.get("HTTP/1.1 ".len()..).and_then(|rest| rest.get(..3));
    let status = status.and_then(|code| StatusCode::from_bytes(code).ok());
    let status = status.unwrap_or(StatusCode::BAD_REQUEST);
    let detail = match status {
        StatusCode::BAD_REQUEST => "this is no HTTP request",
        _ => "the request's head is too large",
    };
    let failure = Failure {
        error: "bad_request".to_owned(),
        detail: detail.to_owned(),
        hint: Some("psi-secret(1) and psi-cachectl(1) ask in the right way".to_owned()),
    };
    let body = serde_json::to_string(&failure).unwrap_or_default();
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

impl<S: AsyncRead + Unpin> AsyncRead for UntilAsked<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for UntilAsked<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.is_asked.load(Ordering::Relaxed) {
            return Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        }
        let head = bytes.iter().find(|part| !part.is_empty());
        self.poll_instead(cx, head.map_or(&[], |part| part))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
