//! The listening socket: systemd's, or one that we bind ourselves.

use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;

use crate::error::{Error, Kind, Result};
use crate::systemd;

/// Sockets to accept on, and the one of them to remove at the end.
pub struct Sockets {
    /// Non-blocking.
    pub listeners: Vec<UnixListener>,
    bound: Option<PathBuf>,
}

impl Sockets {
    /// The sockets that systemd passed, else one bound at `path`, for its owner alone.
    ///
    /// # Errors
    /// [`Kind::Refused`] if another process answers at `path` or something else lies there;
    /// [`Kind::Io`] if it cannot be bound. A live socket is never taken away.
    pub fn take(path: &Path) -> Result<Self> {
        let passed = systemd::listening_sockets()?;
        let (listeners, bound) = if passed.is_empty() {
            (vec![bind(path)?], Some(path.to_owned()))
        } else {
            (passed, None)
        };
        for listener in &listeners {
            let failed = |e| Error::io("cannot use the listening socket", e);
            listener.set_nonblocking(true).map_err(failed)?;
        }
        Ok(Self { listeners, bound })
    }
}

/// A socket that systemd passed stays: it is systemd's.
impl Drop for Sockets {
    fn drop(&mut self) {
        if let Some(path) = &self.bound {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn bind(path: &Path) -> Result<UnixListener> {
    let failed = |e| {
        Error::io(format!("cannot listen on {}", path.display()), e).hint(
            "the directory must exist and be ours to write; \
             `systemctl start psi-secrets.socket` does it as a service",
        )
    };
    remove_stale(path)?;
    let umask = rustix::process::umask(Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    rustix::process::umask(umask);
    listener.map_err(failed)
}

/// Removes a socket that nobody listens on.
fn remove_stale(path: &Path) -> Result<()> {
    let failed = |e| Error::io(format!("cannot look at {}", path.display()), e);
    let in_the_way = |what: &str, hint: &str| {
        Err(Error::new(Kind::Refused, format!("{} {what}", path.display())).hint(hint))
    };
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed(e)),
        Ok(meta) if !meta.file_type().is_socket() => {
            return in_the_way(
                "is no socket",
                "`socket` in config.yaml must name another path",
            );
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(failed)
        }
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Ok(_) => in_the_way(
            "is in use: another process answers there",
            "see `systemctl status psi-secrets.socket psi-secrets.service`",
        ),
        Err(e) => Err(failed(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_bound_socket_is_for_its_owner_alone_and_goes_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let sockets = Sockets::take(&path).unwrap();
        assert_eq!(sockets.listeners.len(), 1);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        drop(sockets);
        assert!(!path.exists());
    }

    #[test]
    fn a_live_socket_is_never_taken_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _live = UnixListener::bind(&path).unwrap();
        let error = Sockets::take(&path).err().unwrap();
        assert_eq!(error.kind(), Kind::Refused);
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[test]
    fn a_socket_that_nobody_listens_on_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert!(Sockets::take(&path).is_ok());
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        std::fs::write(&path, "mine").unwrap();
        assert_eq!(Sockets::take(&path).err().unwrap().kind(), Kind::Refused);
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }
}
