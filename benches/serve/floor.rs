//! The floor: accept, read, write the same bytes, close. A process of its own, so that its CPU time
//! is told apart from the callers'.

use std::fs;
use std::io::{Read, Write, stdin};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// What this program's first argument is when it is to be the floor.
pub const ARGUMENT: &str = "floor";

/// A running floor server. Killed when dropped.
pub struct Floor {
    child: Child,
    pub socket: PathBuf,
}

impl Floor {
    /// Answers every request with `answer`, from a socket in `directory`.
    pub fn start(directory: &Path, answer: &[u8]) -> Self {
        let (socket, file) = (directory.join("floor.sock"), directory.join("floor.answer"));
        fs::write(&file, answer).unwrap();
        let listener = UnixListener::bind(&socket).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args([ARGUMENT.as_ref(), file.as_os_str()])
            .stdin(OwnedFd::from(listener))
            .spawn()
            .unwrap();
        Self { child, socket }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Answers on standard input until it is killed.
pub fn serve(answer: &Path) -> ! {
    let answer = fs::read(answer).unwrap();
    let listener = stdin().as_fd().try_clone_to_owned().unwrap();
    let listener = UnixListener::from(listener);
    let mut request = [0; 4096];
    loop {
        let (mut stream, _) = listener.accept().unwrap();
        let length = stream.read(&mut request).unwrap();
        assert!(request[..length].ends_with(b"\r\n\r\n"), "a whole request");
        stream.write_all(&answer).unwrap();
    }
}
