//! Connections: how many at once, how long each, and how they end.
//!
//! ```text
//! caller ──► acceptor ──► a value in memory: answered there
//!                └──────► event loop: all else
//! ```

use std::io::{PipeWriter, pipe};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinSet;

use crate::error::{Error, Result};
use crate::events;
use crate::serve::Server;
use crate::serve::socket::Sockets;

mod acceptor;
mod event_loop;
mod no_http;
mod peer;
mod progress;
mod stream;

use acceptor::Acceptor;
use event_loop::EventLoop;
use progress::Progress;
pub use progress::Watch;

/// Requests at once that the event loop is at; more wait for their turn.
const MAX_CONNECTIONS: usize = 512;

/// Connections at once that are held for the event loop, whatever the limit of descriptors allows; more
/// wait in the socket's backlog.
const MAX_HELD: usize = 4096;

/// Descriptors that are left for all else: mappings, the cache, providers, devices.
const OTHER_DESCRIPTORS: u64 = 128;

/// How long what is in flight may take once the service is to end.
const FINISH_PATIENCE: Duration = Duration::from_secs(20);

/// The accepting threads and their connections.
pub struct Connections {
    acceptors: Vec<oneshot::Receiver<JoinSet<()>>>,
    progress: Vec<Arc<Progress>>,
    held: Arc<Semaphore>,
    places: Arc<Semaphore>,
    stop: PipeWriter,
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
        let (stopped, stop) = pipe().map_err(failed)?;
        let mut connections = Self {
            acceptors: Vec::new(),
            progress: Vec::new(),
            held: Arc::new(Semaphore::new(most_held())),
            places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            stop,
        };
        for listener in &sockets.listeners {
            let progress = Arc::<Progress>::default();
            let acceptor = Acceptor {
                listener: listener.try_clone().map_err(failed)?,
                stop: stopped.try_clone().map_err(failed)?,
                server: Arc::clone(server),
                event_loop: EventLoop {
                    handle: Handle::current(),
                    held: Arc::clone(&connections.held),
                    places: Arc::clone(&connections.places),
                    server: Arc::clone(server),
                    stopping: stopping.clone(),
                    connections: JoinSet::new(),
                },
                progress: Arc::clone(&progress),
            };
            let (ended, end) = oneshot::channel();
            let run = move || ended.send(acceptor.run());
            let thread = thread::Builder::new().name("accept".to_owned());
            thread.spawn(run).map_err(failed)?;
            connections.acceptors.push(end);
            connections.progress.push(progress);
        }
        Ok(connections)
    }

    /// Tells whether the threads that accept go on.
    pub fn watch(&self) -> Watch {
        Watch::new(self.progress.clone())
    }

    /// Accepts no more, and waits for what is in flight, for a while.
    pub async fn finish(self) {
        drop(self.stop);
        self.held.close();
        self.places.close();
        let finishing = async {
            for acceptor in self.acceptors {
                let Ok(mut connections) = acceptor.await else {
                    continue;
                };
                while connections.join_next().await.is_some() {}
            }
        };
        if tokio::time::timeout(FINISH_PATIENCE, finishing)
            .await
            .is_err()
        {
            events::CONNECTION_FAILED.say(
                "some requests were not finished in time; callers that retry will be answered",
            );
        }
    }
}

/// How many connections can be held with the descriptors that this process may have.
fn most_held() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let rest = usize::try_from(limit.saturating_sub(OTHER_DESCRIPTORS));
    rest.unwrap_or(usize::MAX).clamp(MAX_CONNECTIONS, MAX_HELD)
}
