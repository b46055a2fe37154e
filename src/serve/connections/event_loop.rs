//! What is not answered at once: requests that are not whole yet, and all that must wait for a
//! provider, the disk, or a caller that takes its time.

use std::convert::Infallible;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt as _;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tracing::debug;
use zeroize::Zeroizing;

use crate::events;
use crate::serve::Server;
use crate::serve::access::Peer;
use crate::serve::connections::no_http::UntilAsked;
use crate::serve::connections::stream::Stream;
use crate::serve::http::{self, direct};

/// How long a request's head may take.
const HEAD_PATIENCE: Duration = Duration::from_secs(5);

/// How long one connection may last: the wait for a place, a lookup that waits for the cache to be
/// opened, a provider call, and the time to take the answer.
const CONNECTION_LIFE: Duration = Duration::from_secs(90);

/// How long a caller that is connected may still take to ask once the service is to end: nobody
/// who was only slow to send is turned away.
const LAST_WORD_PATIENCE: Duration = Duration::from_secs(2);

/// A connection, and what is left to do.
pub enum Unfinished {
    /// All but to read the first bytes.
    Request {
        /// The caller.
        stream: UnixStream,
        /// Who it is.
        peer: Peer,
        /// What was read. There may be a token in it.
        begun: Zeroizing<Vec<u8>>,
    },
    /// To write what does not fit into the socket.
    Answer {
        /// The caller.
        stream: UnixStream,
        /// What it gets.
        answer: direct::Answer,
    },
}

/// The event loop, for the thread that accepts.
pub struct EventLoop {
    /// Where it runs.
    pub handle: Handle,
    /// One for each connection that it has or that waits for its turn.
    pub held: Arc<Semaphore>,
    /// One for each request that it is at.
    pub places: Arc<Semaphore>,
    /// What answers.
    pub server: Arc<Server>,
    /// Turns true when the service is to end.
    pub stopping: watch::Receiver<bool>,
    /// What it has not finished.
    pub connections: JoinSet<()>,
}

impl EventLoop {
    /// Starts a task for what is left to do. A request waits for its place there: the thread that
    /// accepts, and with it those whose value is in memory, wait only while no more can be held.
    pub fn finish(&mut self, unfinished: Unfinished) {
        while self.connections.try_join_next().is_some() {}
        // There is room and a place for everybody once the service is to end.
        let held = Arc::clone(&self.held).acquire_owned();
        let held = self.handle.block_on(held).ok();
        let places = Arc::clone(&self.places);
        let (server, stopping) = (Arc::clone(&self.server), self.stopping.clone());
        let finishing = async move {
            let _place = match unfinished {
                Unfinished::Request { .. } => places.acquire_owned().await.ok(),
                Unfinished::Answer { .. } => None,
            };
            finish(unfinished, server, stopping).await
        };
        let connection = async move {
            match tokio::time::timeout(CONNECTION_LIFE, finishing).await {
                Ok(Ok(())) => {}
                // A caller that hangs up early is no error.
                Ok(Err(e)) => debug!("a connection ended early: {e}"),
                Err(_) => debug!("a connection lasted too long and was cut"),
            }
            drop(held);
        };
        self.connections.spawn_on(connection, &self.handle);
    }
}

async fn finish(
    unfinished: Unfinished,
    server: Arc<Server>,
    stopping: watch::Receiver<bool>,
) -> io::Result<()> {
    match unfinished {
        Unfinished::Request {
            stream,
            peer,
            begun,
        } => serve(Stream::new(begun, stream)?, peer, server, stopping).await,
        Unfinished::Answer { stream, answer } => {
            let mut stream = tokio::net::UnixStream::from_std(stream)?;
            let (head, value) = answer.unsent();
            stream.write_all(head).await?;
            stream.write_all(value).await
        }
    }
}

async fn serve(
    stream: Stream,
    peer: Peer,
    server: Arc<Server>,
    mut stopping: watch::Receiver<bool>,
) -> io::Result<()> {
    let is_asked = Arc::new(AtomicBool::new(false));
    let stream = UntilAsked::new(stream, Arc::clone(&is_asked));
    let service = service_fn(move |request| {
        is_asked.store(true, Ordering::Relaxed);
        let server = Arc::clone(&server);
        async move { Ok::<_, Infallible>(http::answer(server, peer, request).await) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .auto_date_header(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let outcome = tokio::select! {
        biased;
        outcome = connection.as_mut() => outcome,
        () = silence_ends(&mut stopping) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    match outcome {
        Err(e) if e.is_parse() => {
            events::REQUEST_REFUSED.say(format_args!(
                "what user {} sent is no request: {e}",
                peer.uid
            ));
            Ok(())
        }
        outcome => outcome.map_err(io::Error::other),
    }
}

/// Waits until a caller that has not asked yet is to be turned away.
async fn silence_ends(stopping: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, which is the end as well.
    let _ = stopping.wait_for(|stop| *stop).await;
    tokio::time::sleep(LAST_WORD_PATIENCE).await;
}
