//! How long to wait before asking again.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(5);

/// Waits that double up to five seconds. Each is cut by chance to between half and all of it, so
/// that hosts which lost the server at the same moment do not come back at the same moment.
pub struct Backoff {
    longest: Duration,
}

impl Backoff {
    /// Starts with a quarter of a second.
    pub fn new() -> Self {
        Self { longest: FIRST }
    }

    /// The next wait.
    pub fn next(&mut self) -> Duration {
        let wait = self.longest.mul_f64(0.5 + chance() / 2.0);
        self.longest = (self.longest * 2).min(LONGEST);
        wait
    }
}

/// Somewhere from 0 to 1. Without randomness there is only less jitter.
fn chance() -> f64 {
    let mut byte = [u8::MAX];
    let _ = aws_lc_rs::rand::fill(&mut byte);
    f64::from(byte[0]) / f64::from(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit_and_differ_by_chance() {
        let mut backoff = Backoff::new();
        for longest in [250, 500, 1000, 2000, 4000, 5000, 5000] {
            let longest = Duration::from_millis(longest);
            let wait = backoff.next();
            assert!(wait >= longest / 2 && wait <= longest, "{wait:?}");
        }
        let firsts: std::collections::BTreeSet<_> =
            (0..64).map(|_| Backoff::new().next()).collect();
        assert!(firsts.len() > 1);
    }
}
