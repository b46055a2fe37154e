//! How the C library keeps memory that was freed: for later, unless it is told not to. A service that
//! runs for months, and whose values change all at once, need not hold on to it.

#![allow(unsafe_code, reason = "glibc's allocator has no safe interface")]

use std::ffi::c_int;

/// From this size on a block has a mapping of its own, which goes when it is freed. That is glibc's
/// own first choice too; it would raise it with each large block that is freed.
const OWN_MAPPING_FROM: c_int = 128 * 1024;

/// Threads share so many heaps: what one of them has freed, another can use.
const HEAPS: c_int = 2;

/// To be called before there are threads.
pub fn keep_small() {
    // SAFETY: it takes no pointer, and there is one thread only.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_MAPPING_FROM);
        libc::mallopt(libc::M_ARENA_MAX, HEAPS);
    }
}

/// Gives the system what is free in the heaps.
pub fn give_back() {
    // SAFETY: it takes no pointer, may be called by any thread at any time, and leaves whatever is
    // allocated where it is.
    unsafe { libc::malloc_trim(0) };
}
