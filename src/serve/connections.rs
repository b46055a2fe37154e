//! Connections: how many at once, how long each, and how they end.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::error::{Error, Result};
use crate::serve::Server;
use crate::serve::access::Peer;
use crate::serve::http;
use crate::serve::socket::Sockets;

mod peer;
mod stream;

use stream::{Listener, Stream};

/// Connections at once; more wait in the socket's backlog.
const MAX_CONNECTIONS: usize = 512;

/// How long a request's head may take.
const HEAD_PATIENCE: Duration = Duration::from_secs(5);

/// How long one connection may last: a lookup that waits for the cache to be opened, a provider
/// call, and the time to take the answer.
const CONNECTION_LIFE: Duration = Duration::from_secs(90);

/// How long what is in flight may take once the service is to end.
const FINISH_PATIENCE: Duration = Duration::from_secs(20);

/// How long to wait when no connection can be accepted, e.g. for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The accepting loops and their connections.
pub struct Connections {
    loops: JoinSet<JoinSet<()>>,
}

impl Connections {
    /// Accepts on all of `sockets` until `stopping` turns true.
    ///
    /// # Errors
    /// [`crate::Kind::Io`] if a socket can't be used.
    pub fn accept(
        sockets: &Sockets,
        server: &Arc<Server>,
        stopping: &watch::Receiver<bool>,
    ) -> Result<Self> {
        let failed = |e| Error::io("cannot use the listening socket", e);
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut loops = JoinSet::new();
        for listener in &sockets.listeners {
            let listener = listener.try_clone().map_err(failed)?;
            let listener = Listener::new(listener).map_err(failed)?;
            let (server, places) = (Arc::clone(server), Arc::clone(&places));
            loops.spawn(accept(listener, server, places, stopping.clone()));
        }
        Ok(Self { loops })
    }

    /// Waits for what is in flight, for a while.
    pub async fn finish(mut self) {
        let finishing = async {
            while let Some(Ok(mut connections)) = self.loops.join_next().await {
                while connections.join_next().await.is_some() {}
            }
        };
        if tokio::time::timeout(FINISH_PATIENCE, finishing)
            .await
            .is_err()
        {
            warn!("some requests were not finished in time; callers that retry will be answered");
        }
    }
}

/// Accepts until it is to stop; what is still open then is handed back.
async fn accept(
    listener: Listener,
    server: Arc<Server>,
    places: Arc<Semaphore>,
    mut stopping: watch::Receiver<bool>,
) -> JoinSet<()> {
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            biased;
            () = stopped(&mut stopping) => return connections,
            next = next => next,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok(stream) => {
                let (server, stopping) = (Arc::clone(&server), stopping.clone());
                let mut connection = Box::pin(async move {
                    serve(stream, server, stopping).await;
                    drop(place);
                });
                // A value in memory is answered here and now; who must wait does so in a task.
                if is_pending(connection.as_mut()).await {
                    connections.spawn(connection);
                }
            }
            Err(e) => {
                warn!("cannot accept a connection: {e}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether `future` has not ended once it was polled.
async fn is_pending(mut future: Pin<&mut impl Future<Output = ()>>) -> bool {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_pending())).await
}

async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, which is the end as well.
    let _ = stopping.wait_for(|stop| *stop).await;
}

async fn serve(stream: UnixStream, server: Arc<Server>, mut stopping: watch::Receiver<bool>) {
    let peer = match peer::uid(&stream) {
        Ok(uid) => Peer { uid },
        Err(e) => return warn!("a caller's user id can't be told, it gets no answer: {e}"),
    };
    let service = service_fn(move |request| {
        let server = Arc::clone(&server);
        async move { Ok::<_, Infallible>(http::answer(server, peer, request).await) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .serve_connection(TokioIo::new(Stream::new(stream)), service);
    tokio::pin!(connection);
    let answering = async {
        tokio::select! {
            biased;
            outcome = connection.as_mut() => outcome,
            () = stopped(&mut stopping) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    match tokio::time::timeout(CONNECTION_LIFE, answering).await {
        Ok(Ok(())) => {}
        // A caller that hangs up early is no error.
        Ok(Err(e)) => debug!("a connection ended early: {e}"),
        Err(_) => debug!("a connection lasted too long and was cut"),
    }
}
