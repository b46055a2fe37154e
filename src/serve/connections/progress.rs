//! Whether the threads that accept go on, for the watchdog.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How far one thread has come. It is odd while the thread is at a caller, which takes moments.
#[derive(Default)]
pub struct Progress(AtomicU64);

impl Progress {
    /// A caller's turn begins.
    pub fn begin(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// The caller's turn ends.
    pub fn end(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Looks at threads now and then.
pub struct Watch {
    threads: Vec<(Arc<Progress>, u64)>,
}

impl Watch {
    /// Looks at those of `threads`.
    pub fn new(threads: Vec<Arc<Progress>>) -> Self {
        let threads = threads.into_iter().map(|thread| (thread, 0)).collect();
        Self { threads }
    }

    /// Whether no thread is still at the caller that it was at when this was last asked.
    pub fn all_go_on(&mut self) -> bool {
        let mut all = true;
        for (thread, seen) in &mut self.threads {
            let now = thread.0.load(Ordering::Relaxed);
            let is_at_work = now % 2 == 1;
            all &= !(is_at_work && now == *seen);
            *seen = now;
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_stuck_if_it_is_at_one_caller_at_two_looks() {
        let thread = Arc::new(Progress::default());
        let mut watch = Watch::new(vec![Arc::default(), Arc::clone(&thread)]);
        assert!(watch.all_go_on());
        assert!(watch.all_go_on(), "nobody asks");
        thread.begin();
        assert!(watch.all_go_on(), "a turn begins");
        assert!(!watch.all_go_on(), "and does not end");
        thread.end();
        assert!(watch.all_go_on());
        thread.begin();
        assert!(watch.all_go_on());
        thread.end();
        thread.begin();
        assert!(watch.all_go_on(), "another one's turn");
    }
}
