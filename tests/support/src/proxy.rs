//! A proxy between a client and a Unix socket that writes down what is asked, and can act at an
//! exact step.

use std::io::{self, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::http::Message;

/// When a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The request has come and the server doesn't have it yet.
    Asked,
    /// The server has done its work and the client doesn't know yet.
    Answered,
    /// The client has the response.
    Delivered,
}

/// What runs at the `n`-th request's `step`.
struct Hook {
    n: usize,
    step: Step,
    run: Box<dyn FnOnce() + Send>,
}

#[derive(Default)]
struct Shared {
    requests: Mutex<Vec<String>>,
    hooks: Mutex<Vec<Hook>>,
    stopped: AtomicBool,
}

/// Listens until it is dropped. HTTP/1.1 with keep-alive; no pipelining, no upgrades, and a
/// response is passed on once it is whole.
pub struct Proxy {
    socket: PathBuf,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Listens at `at` and passes everything on to `target`.
    pub fn start(target: &Path, at: &Path) -> Self {
        let listener = UnixListener::bind(at).expect("the proxy's socket");
        let shared = Arc::new(Shared::default());
        let target = target.to_owned();
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming() {
                if accepting.stopped.load(Ordering::SeqCst) {
                    break;
                }
                let (shared, target) = (Arc::clone(&accepting), target.clone());
                thread::spawn(move || {
                    // Either side may go away: that is what some tests are about.
                    let _ = client.and_then(|client| relay(&shared, &client, &target));
                });
            }
        });
        Self {
            socket: at.to_owned(),
            shared,
        }
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What was asked so far, each as `METHOD /path` without the query, in the order it came.
    pub fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// Forgets what was asked; the next request is the first again.
    pub fn clear(&self) {
        self.shared.requests.lock().unwrap().clear();
    }

    /// Runs `hook` once, at that step of the `n`-th request from now on; the first is 1. The
    /// request waits for it.
    pub fn on(&self, n: usize, step: Step, hook: impl FnOnce() + Send + 'static) {
        let n = self.shared.requests.lock().unwrap().len() + n;
        let run = Box::new(hook);
        self.shared
            .hooks
            .lock()
            .unwrap()
            .push(Hook { n, step, run });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        let _ = UnixStream::connect(&self.socket);
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl Shared {
    /// Writes a request down; its number.
    fn note(&self, request: &Message) -> usize {
        let (method, path) = request.method_and_path();
        let mut requests = self.requests.lock().unwrap();
        requests.push(format!("{method} {path}"));
        requests.len()
    }

    fn reached(&self, n: usize, step: Step) {
        let due = {
            let mut hooks = self.hooks.lock().unwrap();
            let at = hooks.iter().position(|h| h.n == n && h.step == step);
            at.map(|at| hooks.remove(at))
        };
        if let Some(hook) = due {
            (hook.run)();
        }
    }
}

fn relay(shared: &Shared, mut client: &UnixStream, target: &Path) -> io::Result<()> {
    let mut from_client = BufReader::new(client.try_clone()?);
    let server = UnixStream::connect(target)?;
    let mut from_server = BufReader::new(server.try_clone()?);
    while let Some(request) = Message::read_request(&mut from_client)? {
        let n = shared.note(&request);
        shared.reached(n, Step::Asked);
        (&server).write_all(&request.raw)?;
        let (method, _) = request.method_and_path();
        let Some(response) = Message::read_response(&mut from_server, method)? else {
            break;
        };
        shared.reached(n, Step::Answered);
        client.write_all(&response.raw)?;
        shared.reached(n, Step::Delivered);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::sync::mpsc::channel;

    /// Answers each connection's requests with the number of their bytes.
    fn server(at: &Path) {
        let listener = UnixListener::bind(at).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().map(Result::unwrap) {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                while let Ok(Some(request)) = Message::read_request(&mut reader) {
                    let body = request.raw.len().to_string();
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                    (&stream).write_all((head + &body).as_bytes()).unwrap();
                }
            }
        });
    }

    fn ask(stream: &mut UnixStream, request: &[u8]) -> Vec<u8> {
        stream.write_all(request).unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let answer = Message::read_response(&mut reader, "GET").unwrap().unwrap();
        answer.body
    }

    #[test]
    fn requests_are_passed_on_and_written_down_in_order() {
        let dir = tempfile::tempdir().unwrap();
        server(&dir.path().join("real"));
        let proxy = Proxy::start(&dir.path().join("real"), &dir.path().join("proxy"));
        let mut stream = UnixStream::connect(proxy.socket()).unwrap();
        let first = b"GET /a?q=1 HTTP/1.1\r\n\r\n";
        assert_eq!(ask(&mut stream, first), first.len().to_string().as_bytes());
        ask(
            &mut stream,
            b"POST /b HTTP/1.1\r\nContent-Length: 2\r\n\r\nxy",
        );
        assert_eq!(proxy.requests(), ["GET /a", "POST /b"]);
        proxy.clear();
        ask(&mut stream, b"GET /c HTTP/1.1\r\n\r\n");
        assert_eq!(proxy.requests(), ["GET /c"]);
    }

    #[test]
    fn a_hook_runs_once_before_the_response_is_delivered() {
        let dir = tempfile::tempdir().unwrap();
        server(&dir.path().join("real"));
        let proxy = Proxy::start(&dir.path().join("real"), &dir.path().join("proxy"));
        let mut stream = UnixStream::connect(proxy.socket()).unwrap();
        let (ran, hook) = channel();
        let gone = stream.try_clone().unwrap();
        proxy.on(2, Step::Answered, move || {
            gone.shutdown(std::net::Shutdown::Both).unwrap();
            ran.send(()).unwrap();
        });
        ask(&mut stream, b"GET /a HTTP/1.1\r\n\r\n");
        assert!(hook.try_recv().is_err(), "only at the second");
        stream.write_all(b"GET /b HTTP/1.1\r\n\r\n").unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty(), "the client never got it");
        hook.recv().unwrap();
        assert_eq!(proxy.requests(), ["GET /a", "GET /b"]);
    }
}
