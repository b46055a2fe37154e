//! Who is at the other end of a connection.

#![allow(
    unsafe_code,
    reason = "std has no stable call for it, tokio's wants the event loop, and rustix's has no room for the process id 0"
)]

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

/// The user id that the caller had when it connected. Its process id is not to be relied on: it is
/// 0 for a caller outside of a container that psi-serve runs in.
///
/// # Errors
/// What getsockopt(2) says.
pub fn uid(socket: &UnixStream) -> io::Result<u32> {
    let mut credentials = libc::ucred {
        pid: 0,
        uid: u32::MAX,
        gid: u32::MAX,
    };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the descriptor is open, and both places are ours, of the sizes given, and outlive
    // the call, which writes at most `length` bytes.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut length,
        )
    };
    match outcome {
        0 => Ok(credentials.uid),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_known_by_its_user() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert_eq!(uid(&ours).unwrap(), rustix::process::geteuid().as_raw());
    }
}
