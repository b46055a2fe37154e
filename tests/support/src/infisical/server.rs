//! The listening thread: connections, and how an answer or a fault gets onto the wire.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime;
use tokio::sync::oneshot;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use super::State;
use super::answer::Answer;
use super::api::{Endpoint, answer};
use super::fault::{BrokenOff, Fault, Flow};
use super::log::Logged;
use super::request::Request;

/// A length that no endless body reaches.
const NEVER_REACHED: u64 = 1 << 40;

#[derive(Clone, Debug, Default)]
pub(super) struct Shared(Arc<Mutex<State>>);

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread that listens; it ends, and breaks off all connections, when this is dropped.
#[derive(Debug)]
pub(super) struct Listening {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Listening {
    /// Serves `shared` on that socket.
    ///
    /// # Errors
    /// As the operating system says, of the socket, the thread or its event loop.
    pub fn start(
        listener: TcpListener,
        tls: Option<TlsAcceptor>,
        shared: Shared,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("stand-in-infisical".into())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        result = accept(listener, tls, shared) => result.expect("accepting"),
                        _ = stopped => {}
                    }
                });
            })?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A thread that has panicked has told so itself.
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Shared) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, address) = listener.accept().await?;
        let (tls, shared) = (tls.clone(), shared.clone());
        tokio::spawn(async move {
            match tls {
                None => talk(stream, address, shared).await,
                Some(tls) => {
                    // A client that doesn't trust the certificate is the client's affair.
                    if let Ok(stream) = tls.accept(stream).await {
                        talk(stream, address, shared).await;
                    }
                }
            }
        });
    }
}

async fn talk<S>(stream: S, address: SocketAddr, shared: Shared)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(|request| respond(request, address, shared.clone()));
    // Clients hang up, and broken-off answers end here on purpose.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn respond(
    request: hyper::Request<Incoming>,
    address: SocketAddr,
    shared: Shared,
) -> Result<Response<Flow>, BrokenOff> {
    let request = Request::read(request, address).await;
    let (number, fault) = arrived(&mut shared.lock(), &request);
    if let Some(Fault::Delay(time)) = fault {
        sleep(time).await;
    }
    let response = match fault {
        None | Some(Fault::Delay(_)) => whole(answer(&mut shared.lock(), &request)),
        Some(Fault::Answer {
            status,
            headers,
            body,
        }) => whole(Answer {
            status,
            headers,
            body,
        }),
        Some(Fault::Truncated) => truncated(answer(&mut shared.lock(), &request)),
        Some(Fault::Endless { chunked, pause }) => endless(chunked, Flow::endless(pause)),
        Some(Fault::Closed) => return Err(BrokenOff),
    };
    let status = response.status().as_u16();
    shared.lock().log.end(number, status);
    Ok(response)
}

/// Enters the request in the log and takes the fault that is planned for it.
fn arrived(state: &mut State, request: &Request) -> (u64, Option<Fault>) {
    state.follow_file();
    let number = state.log.begin(Logged {
        method: request.method.clone(),
        path: request.path.clone(),
        query: request.query.clone(),
        status: None,
    });
    let route = Endpoint::find(state.api, request).and_then(|endpoint| endpoint.route());
    let mut parameters = request.parameters();
    let folder = parameters.remove("secretPath").unwrap_or_default().concat();
    (number, state.faults.take(route, &folder))
}

fn whole(answer: Answer) -> Response<Flow> {
    let (head, body) = head(answer);
    head.map(|()| Flow::whole(body))
}

fn truncated(answer: Answer) -> Response<Flow> {
    let (mut head, body) = head(answer);
    head.headers_mut()
        .insert("content-length", body.len().into());
    head.map(|()| Flow::cut_off(body.slice(..body.len() / 2)))
}

fn endless(chunked: bool, flow: Flow) -> Response<Flow> {
    let mut response = Response::new(flow);
    let headers = response.headers_mut();
    headers.insert(
        "content-type",
        "application/json".parse().expect("a header"),
    );
    if !chunked {
        headers.insert("content-length", NEVER_REACHED.into());
    }
    response
}

fn head(answer: Answer) -> (Response<()>, Bytes) {
    let mut head = Response::new(());
    *head.status_mut() = StatusCode::from_u16(answer.status).expect("a status from 100 to 999");
    for (name, value) in answer.headers {
        let value = value.parse().expect("a header's value");
        head.headers_mut().append(name, value);
    }
    (head, answer.body.into())
}
