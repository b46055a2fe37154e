//! Memory for values and keys: never swapped, in no core dump, not inherited by child processes, and
//! wiped before it is given back.
//!
//! It is of memfd_secret(2) where the kernel has that: then not even root reads it from outside the
//! process. Elsewhere it is mlock(2)ed. Each buffer has pages of its own.

#![allow(
    unsafe_code,
    reason = "no safe interface to memory mappings exists; all of it is here"
)]

use std::alloc::{Layout, handle_alloc_error};
use std::ffi::c_void;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Once;

use rustix::io::{Errno, Result};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mlock, mmap, mmap_anonymous, munmap};
use zeroize::Zeroize;

/// A buffer of fixed length.
pub struct Locked {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: it owns its pages, and changes them through `&mut` only, as a `Box<[u8]>` does.
unsafe impl Send for Locked {}
// SAFETY: as above.
unsafe impl Sync for Locked {}

impl Locked {
    /// `length` zero bytes. If the system refuses to lock them, that is logged once, with the way
    /// to mend it.
    ///
    /// # Aborts
    /// As every allocation does, if there is no memory.
    pub fn zeroed(length: usize) -> Self {
        let start = match map_secret(mapped(length)) {
            Ok(start) => start,
            Err(_) => map_locked(mapped(length)),
        };
        match NonNull::new(start.cast()) {
            Some(start) => Self { start, length },
            None => handle_alloc_error(Layout::new::<u8>()),
        }
    }

    /// A copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut copy = Self::zeroed(bytes.len());
        copy.copy_from_slice(bytes);
        copy
    }
}

/// Pages of length zero can't be mapped.
fn mapped(length: usize) -> usize {
    length.max(1)
}

/// Pages that the kernel itself has no other view of.
fn map_secret(length: usize) -> Result<*mut c_void> {
    // SAFETY: the call takes one flag, and returns a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
    let fd = i32::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Err(Errno::NOSYS);
    }
    // SAFETY: the descriptor is new, so nobody else owns it.
    let file = unsafe { OwnedFd::from_raw_fd(fd) };
    rustix::fs::ftruncate(&file, length as u64)?;
    let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
    // SAFETY: the system chooses where; the file is ours alone and as long as the mapping.
    let start = unsafe { mmap(std::ptr::null_mut(), length, protection, flags, &file, 0)? };
    // It is locked and left out of dumps as it is.
    // SAFETY: these are exactly the new pages.
    unsafe { madvise(start, length, Advice::LinuxDontFork)? };
    Ok(start)
}

/// Pages that are locked, if that is allowed; null if there are none.
fn map_locked(length: usize) -> *mut c_void {
    let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    // SAFETY: the system chooses where.
    let mapping = unsafe { mmap_anonymous(std::ptr::null_mut(), length, protection, flags) };
    let Ok(start) = mapping else {
        return std::ptr::null_mut();
    };
    // SAFETY: these are exactly the new pages.
    let kept_in = unsafe {
        let locked = mlock(start, length);
        locked
            .and(madvise(start, length, Advice::LinuxDontDump))
            .and(madvise(start, length, Advice::LinuxWipeOnFork))
    };
    if let Err(e) = kept_in {
        say_refused(e);
    }
    start
}

fn say_refused(error: Errno) {
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
        let limit = limit.map_or("none".to_owned(), |bytes| format!("{} KiB", bytes / 1024));
        crate::events::MEMORY_NOT_LOCKED.say(format_args!(
            "memory could not be locked ({error}; the limit is {limit}): secrets may be written to \
             the swap space in clear; next: `systemctl edit psi-secrets.service`, add the lines \
             [Service] and LimitMEMLOCK=256M, then `systemctl restart psi-secrets.service`"
        ));
    });
}

impl Deref for Locked {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: so many bytes are mapped there, initialised by the system, while `self` lives.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl DerefMut for Locked {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed by nobody else.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl AsRef<[u8]> for Locked {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Locked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Locked(..)")
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        self.zeroize();
        // SAFETY: these pages were mapped by `zeroed`, and nothing refers to them any more.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), mapped(self.length)) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel says of the mapping that `buffer` lies in.
    fn flags(buffer: &[u8]) -> Vec<String> {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let at = buffer.as_ptr() as usize;
        let mut inside = false;
        for line in smaps.lines() {
            let range = line
                .split(' ')
                .next()
                .and_then(|range| range.split_once('-'));
            if let Some((start, end)) = range
                && let Ok(start) = usize::from_str_radix(start, 16)
                && let Ok(end) = usize::from_str_radix(end, 16)
            {
                inside = (start..end).contains(&at);
            }
            if let Some(flags) = line.strip_prefix("VmFlags: ").filter(|_| inside) {
                return flags.split_whitespace().map(str::to_owned).collect();
            }
        }
        Vec::new()
    }

    fn has(flags: &[String], wanted: &[&str]) -> bool {
        wanted.iter().all(|w| flags.iter().any(|flag| flag == w))
    }

    #[test]
    fn it_is_zero_at_first_and_keeps_what_is_put_there() {
        for length in [0, 1, 32, 4096, 4097, 1 << 20] {
            let mut buffer = Locked::zeroed(length);
            assert_eq!(buffer.len(), length);
            assert!(buffer.iter().all(|&b| b == 0));
            buffer.fill(7);
            assert!(buffer.iter().all(|&b| b == 7));
        }
        assert_eq!(&*Locked::copy_of(b"abc"), b"abc");
    }

    #[test]
    fn it_is_locked_left_out_of_dumps_and_not_inherited() {
        let flags = flags(&Locked::copy_of(b"abc"));
        // Locked, no dump; and no copy in a child, or one that is wiped.
        assert!(has(&flags, &["lo", "dd"]), "{flags:?}");
        assert!(has(&flags, &["dc"]) || has(&flags, &["wf"]), "{flags:?}");
    }

    #[test]
    fn without_memfd_secret_the_same_holds() {
        let start = map_locked(5000);
        let buffer = Locked {
            start: NonNull::new(start.cast()).unwrap(),
            length: 5000,
        };
        let flags = flags(&buffer);
        assert!(has(&flags, &["lo", "dd", "wf"]), "{flags:?}");
    }

    #[test]
    fn nothing_of_it_is_printed() {
        let buffer = Locked::copy_of(b"marked");
        assert_eq!(format!("{buffer:?}"), "Locked(..)");
    }
}
