//! Faults on demand: what a server, a proxy in front of it or the network may do to a request.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// Where an endless body ends after all, to bound a test that has failed.
const ENDLESS: usize = 64 * 1024 * 1024;

/// Which requests a fault is for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Route {
    /// Every request.
    Any,
    /// `POST …/login`.
    Login,
    /// Listings, of whichever API version is served.
    List,
    /// Listings of that folder.
    ListOf(&'static str),
    /// One secret by name, of whichever API version is served.
    Secret,
}

impl Route {
    /// Whether it takes in a request to `endpoint` for `folder`.
    fn takes_in(self, endpoint: Option<Self>, folder: &str) -> bool {
        match self {
            Self::Any => true,
            Self::ListOf(listed) => endpoint == Some(Self::List) && folder == listed,
            route => endpoint == Some(route),
        }
    }
}

/// How often a fault happens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Times {
    /// For so many requests.
    Next(u32),
    /// Until [`super::StandIn::heal`].
    Always,
}

/// What happens instead of the answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Another answer; see also [`Fault::status`], [`Fault::too_many_requests`], [`Fault::page`]
    /// and [`Fault::redirect`].
    Answer {
        /// E.g. 502.
        status: u16,
        /// Names in lower case, and values.
        headers: Vec<(&'static str, String)>,
        /// As it is sent.
        body: String,
    },
    /// The first half of the true answer, then the connection is closed.
    Truncated,
    /// The connection is closed without a byte.
    Closed,
    /// The true answer, so much later.
    Delay(Duration),
    /// A 200 with a body that doesn't end, at most 64 MiB, then the connection is closed.
    Endless {
        /// Chunked; otherwise with a length that is never reached.
        chunked: bool,
        /// Between pieces of 64 KiB.
        pause: Duration,
    },
}

impl Fault {
    /// An error page of a proxy with that status.
    pub fn status(status: u16) -> Self {
        Self::Answer {
            status,
            headers: vec![("content-type", "text/html".into())],
            body: format!("<html><body><h1>{status}</h1></body></html>"),
        }
    }

    /// A 429 that asks to wait for so many seconds.
    pub fn too_many_requests(retry_after: u64) -> Self {
        let body =
            r#"{"statusCode":429,"message":"Rate limit exceeded","error":"RateLimitExceeded"}"#;
        Self::Answer {
            status: 429,
            headers: vec![
                ("content-type", "application/json; charset=utf-8".into()),
                ("retry-after", retry_after.to_string()),
            ],
            body: body.into(),
        }
    }

    /// A 200 with a page for people, e.g. of a captive portal or a single sign-on.
    pub fn page() -> Self {
        Self::Answer {
            status: 200,
            headers: vec![("content-type", "text/html".into())],
            body: "<!doctype html><html><body>Please sign in</body></html>".into(),
        }
    }

    /// A 302 to that URL.
    pub fn redirect(to: &str) -> Self {
        Self::Answer {
            status: 302,
            headers: vec![("location", to.into())],
            body: String::new(),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Faults {
    planned: Vec<(Route, Times, Fault)>,
}

impl Faults {
    pub fn plan(&mut self, route: Route, times: Times, fault: Fault) {
        self.planned.push((route, times, fault));
    }

    pub fn clear(&mut self) {
        self.planned.clear();
    }

    /// The oldest fault that is planned for a request to `endpoint`, used up by one.
    pub fn take(&mut self, endpoint: Option<Route>, folder: &str) -> Option<Fault> {
        self.planned.retain(|plan| plan.1 != Times::Next(0));
        let mut planned = self.planned.iter_mut();
        let plan = planned.find(|plan| plan.0.takes_in(endpoint, folder))?;
        if let Times::Next(left) = &mut plan.1 {
            *left -= 1;
        }
        Some(plan.2.clone())
    }
}

/// A body: whole, or a piece repeated at intervals and cut off.
pub(super) enum Flow {
    Whole(Option<Bytes>),
    Pieces {
        piece: Bytes,
        /// Bytes to go.
        left: usize,
        pause: Duration,
        next: Pin<Box<Sleep>>,
    },
}

impl Flow {
    pub fn whole(body: impl Into<Bytes>) -> Self {
        Self::Whole(Some(body.into()))
    }

    /// `piece`, and then no more.
    pub fn cut_off(piece: Bytes) -> Self {
        let left = piece.len();
        Self::pieces(piece, left, Duration::from_millis(20))
    }

    pub fn endless(pause: Duration) -> Self {
        let line = r#"{"secrets":[{"secretKey":"A","secretValue":"never ends"},"#;
        let piece = line.repeat(64 * 1024 / line.len() + 1);
        Self::pieces(piece.into(), ENDLESS, pause)
    }

    /// The pause is what lets the last piece out before the connection is broken off.
    fn pieces(piece: Bytes, left: usize, pause: Duration) -> Self {
        Self::Pieces {
            piece,
            left,
            pause,
            next: Box::pin(sleep(Duration::ZERO)),
        }
    }
}

/// Why a body or a connection ends early.
#[derive(Debug)]
pub(super) struct BrokenOff;

impl std::fmt::Display for BrokenOff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("broken off on demand")
    }
}

impl std::error::Error for BrokenOff {}

impl Body for Flow {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match &mut *self {
            Self::Whole(body) => Poll::Ready(body.take().map(|body| Ok(Frame::data(body)))),
            Self::Pieces {
                piece,
                left,
                pause,
                next,
            } => {
                ready!(next.as_mut().poll(context));
                if *left == 0 {
                    return Poll::Ready(Some(Err(BrokenOff)));
                }
                *next = Box::pin(sleep_until(Instant::now() + *pause));
                *left = left.saturating_sub(piece.len());
                Poll::Ready(Some(Ok(Frame::data(piece.clone()))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => SizeHint::with_exact(body.as_ref().map_or(0, Bytes::len) as u64),
            Self::Pieces { .. } => SizeHint::default(),
        }
    }
}
