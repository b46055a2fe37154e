//! Keeps libtss2 from writing to standard error by itself.

/// Makes libtss2 silent for the life of the process: what goes wrong is in our errors, once, and
/// at its most talkative it prints the keys it handles.
///
/// libtss2 has no call for that, only the variable `TSS2_LOG`, which it reads when it first has
/// something to say. Call this first in `main`; once there is a second thread it does nothing.
pub fn silence_tss2() {
    if is_single_threaded() {
        set_tss2_log();
    }
}

fn is_single_threaded() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1)
}

#[allow(
    unsafe_code,
    reason = "libtss2 is silenced by an environment variable only, and setting one is unsafe"
)]
fn set_tss2_log() {
    // SAFETY: no other thread can read or write the environment meanwhile, since there is none:
    // the only caller has counted them.
    unsafe { std::env::set_var("TSS2_LOG", "all+NONE") };
}
