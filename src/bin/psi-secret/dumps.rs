//! No core dumps of this process: prctl(2), for which the standard library has nothing.
#![allow(
    unsafe_code,
    reason = "a call of the C library, which std links anyway"
)]

use std::ffi::{c_int, c_ulong};

/// `linux/prctl.h`
const PR_SET_DUMPABLE: c_int = 4;

unsafe extern "C" {
    fn prctl(option: c_int, ...) -> c_int;
}

/// Neither a core dump nor a debugger of the same user gets at the value. A kernel that refuses
/// this is one that the value is printed under nonetheless.
pub fn forbid() {
    // SAFETY: this option takes one number, and no memory.
    unsafe { prctl(PR_SET_DUMPABLE, 0 as c_ulong) };
}
