//! Waiting for something to happen, for a bounded time.

use std::time::{Duration, Instant};

/// How long anything may take on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `reached` says yes.
///
/// # Panics
/// After a minute, naming `what` was waited for.
pub fn until(what: &str, reached: impl FnMut() -> bool) {
    until_within(PATIENCE, what, reached);
}

/// Waits until `reached` says yes.
///
/// # Panics
/// After `patience`, naming `what` was waited for.
pub fn until_within(patience: Duration, what: &str, mut reached: impl FnMut() -> bool) {
    let start = Instant::now();
    while !reached() {
        assert!(start.elapsed() < patience, "no {what} within {patience:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
