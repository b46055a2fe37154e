//! A body that is read where it may block, while it comes.

use std::io::{self, Read};

use hyper::body::{Buf, Bytes};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::serve::http::body::Bounded;
use crate::serve::http::refusal::Refusal;

/// Parts of a body that have come and were not read: some hundred KiB each at most.
const AHEAD: usize = 2;

/// The two ends of `body`: what [`Source::feed`] takes from the socket is read from the other.
pub fn stream(body: Bounded) -> (Source, Stream) {
    let (parts, coming) = channel(AHEAD);
    let stream = Stream {
        coming,
        current: Bytes::new(),
        has_ended: false,
    };
    (Source { body, parts }, stream)
}

enum Part {
    Data(Bytes),
    /// Without it, the body broke off.
    End,
}

/// Takes the body from the socket.
pub struct Source {
    body: Bounded,
    parts: Sender<Part>,
}

impl Source {
    /// Takes all of it. What is no longer wanted at the other end is dropped: a caller hears no
    /// answer before it has said everything.
    ///
    /// # Errors
    /// Why the body is not whole. The other end then never sees its end.
    pub async fn feed(mut self) -> Result<(), Refusal> {
        while let Some(data) = self.body.next().await? {
            let _ = self.parts.send(Part::Data(data)).await;
        }
        let _ = self.parts.send(Part::End).await;
        Ok(())
    }
}

/// Gives the body to a reader on a thread of its own. It ends only where the whole body does; one
/// that breaks off is an error.
pub struct Stream {
    coming: Receiver<Part>,
    current: Bytes,
    has_ended: bool,
}

impl Read for Stream {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.has_ended {
            match self.coming.blocking_recv() {
                Some(Part::Data(data)) => self.current = data,
                Some(Part::End) => self.has_ended = true,
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let length = room.len().min(self.current.len());
        self.current.copy_to_slice(&mut room[..length]);
        Ok(length)
    }
}
