//! A thread per listening socket. It answers what needs no more than memory, and hands all else,
//! with what it has read of it, to the event loop.
//!
//! It waits for no caller while another one waits for it: a silent one holds up nobody. And what
//! the event loop waits for holds up no value that is in memory.

use std::io::{IoSlice, PipeReader};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read, writev};
use rustix::net::{SocketFlags, accept_with};
use tokio::task::JoinSet;
use tracing::debug;
use zeroize::{Zeroize as _, Zeroizing};

use crate::events;
use crate::serve::Server;
use crate::serve::access::Peer;
use crate::serve::connections::event_loop::{EventLoop, Unfinished};
use crate::serve::connections::peer;
use crate::serve::connections::progress::Progress;
use crate::serve::http::direct;

/// Longest request that is answered here, in bytes: a lookup, token and all.
const MAX_REQUEST: usize = 4096;

/// How long a caller may take to send its request before it is handed on, if no other one comes.
const PATIENCE: Duration = Duration::from_millis(2);

/// How long to wait when no connection can be accepted, e.g. for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts on one socket.
pub struct Acceptor {
    /// Does not block.
    pub listener: UnixListener,
    /// Its other end is closed when this is to end.
    pub stop: PipeReader,
    /// What answers.
    pub server: Arc<Server>,
    /// For what is not answered at once.
    pub event_loop: EventLoop,
    /// Tells that it is not stuck.
    pub progress: Arc<Progress>,
}

impl Acceptor {
    /// Accepts until it is to stop. What the event loop has not finished by then is returned.
    pub fn run(mut self) -> JoinSet<()> {
        let mut request = [0; MAX_REQUEST];
        let mut is_failing = false;
        while self.has_caller() {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match accept_with(&self.listener, flags) {
                Ok(stream) => {
                    is_failing = false;
                    self.serve(stream.into(), &mut request);
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(e) => {
                    // Said once, not at each try.
                    if !std::mem::replace(&mut is_failing, true) {
                        say_refused(e);
                    }
                    wait(&mut [readable(&self.stop)], Some(ACCEPT_PAUSE));
                }
            }
        }
        self.event_loop.connections
    }

    /// Waits for the next caller; there is none any more once this is to stop.
    fn has_caller(&self) -> bool {
        let mut both = [readable(&self.stop), readable(&self.listener)];
        wait(&mut both, None);
        both[0].revents().is_empty()
    }

    fn serve(&mut self, stream: UnixStream, request: &mut [u8]) {
        self.progress.begin();
        let unfinished = self.answer(stream, request);
        self.progress.end();
        if let Some(unfinished) = unfinished {
            self.event_loop.finish(unfinished);
        }
    }

    /// Answers if it can; what is left to do is returned.
    fn answer(&self, stream: UnixStream, request: &mut [u8]) -> Option<Unfinished> {
        let peer = match peer::uid(&stream) {
            Ok(uid) => Peer { uid },
            Err(e) => {
                events::CONNECTION_FAILED.say(format_args!(
                    "a caller's user id can't be told, it gets no answer: {e}"
                ));
                return None;
            }
        };
        let length = self.read(&stream, request);
        let request = &mut request[..length];
        let unfinished = match direct::find(&self.server, peer, request) {
            Some(found) => write(stream, direct::Answer::new(found)),
            None => Some(Unfinished::Request {
                stream,
                peer,
                begun: Zeroizing::new(request.to_vec()),
            }),
        };
        request.zeroize();
        unfinished
    }

    /// How many bytes of a request there are; none if that must be waited for.
    fn read(&self, stream: &UnixStream, request: &mut [u8]) -> usize {
        match read(stream, &mut *request) {
            Err(Errno::AGAIN) if self.sends_soon(stream) => {
                read(stream, request).unwrap_or_default()
            }
            // Whoever reads on finds out whether this is the end.
            outcome => outcome.unwrap_or_default(),
        }
    }

    /// Waits a moment for the request of a caller that was quicker to connect than to send, unless
    /// somebody else comes.
    fn sends_soon(&self, stream: &UnixStream) -> bool {
        let mut all = [stream.as_fd(), self.listener.as_fd(), self.stop.as_fd()]
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        wait(&mut all, Some(PATIENCE));
        !all[0].revents().is_empty()
    }
}

/// Writes what the socket takes at once, which is nearly always all; the rest is returned.
fn write(stream: UnixStream, mut answer: direct::Answer) -> Option<Unfinished> {
    let (head, value) = answer.unsent();
    match writev(&stream, &[IoSlice::new(head), IoSlice::new(value)]) {
        Ok(sent) => answer.sent += sent,
        Err(Errno::AGAIN | Errno::INTR) => {}
        // A caller that hangs up early is no error.
        Err(e) => {
            debug!("a connection ended early: {e}");
            return None;
        }
    }
    match answer.unsent() {
        ([], []) => None,
        _ => Some(Unfinished::Answer { stream, answer }),
    }
}

fn say_refused(error: Errno) {
    events::CONNECTION_FAILED.say(format_args!(
        "cannot accept a connection: {error}; it is tried again until it can; callers wait meanwhile"
    ));
}

fn readable<'fd>(fd: &'fd impl AsFd) -> PollFd<'fd> {
    PollFd::new(fd, PollFlags::IN)
}

/// Until one of `fds` is ready, or for a time. Signals are for other threads.
fn wait(fds: &mut [PollFd<'_>], limit: Option<Duration>) {
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    match poll(fds, limit.as_ref()) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(e) => {
            events::CONNECTION_FAILED.say(format_args!("cannot wait for a connection: {e}"));
            std::thread::sleep(ACCEPT_PAUSE);
        }
    }
}
