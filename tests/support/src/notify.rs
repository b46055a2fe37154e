//! The service manager's side of sd_notify(3).

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a message may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a service tells its manager, for as long as the test asks.
pub struct Manager {
    path: PathBuf,
    socket: UnixDatagram,
}

impl Manager {
    /// Listens at `path`, which is for the service's `$NOTIFY_SOCKET`.
    ///
    /// # Panics
    /// If it can't.
    pub fn new(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).expect("the manager's socket");
        let patience = Some(PATIENCE);
        socket.set_read_timeout(patience).expect("a time limit");
        let path = path.to_owned();
        Self { path, socket }
    }

    /// `$NOTIFY_SOCKET`
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next message.
    ///
    /// # Panics
    /// If none comes.
    pub fn next_message(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).expect("a message");
        String::from_utf8(buffer[..length].to_vec()).expect("a text")
    }

    /// The next message that begins with `start`.
    ///
    /// # Panics
    /// If none comes.
    pub fn wait_for(&self, start: &str) -> String {
        loop {
            let message = self.next_message();
            if message.starts_with(start) {
                return message;
            }
        }
    }
}
