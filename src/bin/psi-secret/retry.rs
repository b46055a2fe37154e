//! How long to wait for a psi-serve that restarts, and when to stop.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::Failure;

/// For how long failures that may pass are tried again: a restart or an upgrade of psi-serve.
pub const WINDOW: Duration = Duration::from_secs(30);

/// For how long Podman is kept waiting at most. psi-serve holds a lookup for up to 60 s while a
/// slow device opens its cache.
pub const BUDGET: Duration = Duration::from_secs(75);

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// A failure, and whether it may be gone a moment later.
#[derive(Debug)]
pub struct Trouble {
    pub passing: bool,
    failure: Failure,
}

impl Trouble {
    /// Asking again may help.
    pub fn passing(failure: Failure) -> Self {
        Self {
            passing: true,
            failure,
        }
    }

    /// Asking again gives the same.
    pub fn lasting(failure: Failure) -> Self {
        Self {
            passing: false,
            failure,
        }
    }
}

/// Asks until there is an answer, a failure that lasts, or `window` has gone by since the first
/// failure. Every request of ours may be sent twice: asking and deleting change nothing the
/// second time, and a mapping is stored under an id that has no other.
///
/// # Errors
/// The last failure.
pub fn ask<T>(
    window: Duration,
    mut once: impl FnMut() -> Result<T, Trouble>,
) -> Result<T, Failure> {
    let mut first_failure = None;
    let mut pause = FIRST_PAUSE;
    loop {
        let trouble = match once() {
            Ok(answer) => return Ok(answer),
            Err(trouble) => trouble,
        };
        if !trouble.passing {
            return Err(trouble.failure);
        }
        let waited = first_failure.get_or_insert_with(Instant::now).elapsed();
        if waited >= window {
            return Err(trouble.failure.after(waited.as_secs()));
        }
        thread::sleep(with_jitter(pause));
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Up to a quarter more, so that all the containers of a boot do not knock at once.
fn with_jitter(pause: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() as u32;
    pause + (pause / 4).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_that_passes_is_tried_until_the_window_closes() {
        let mut calls = 0;
        let outcome: Result<(), _> = ask(Duration::from_millis(60), || {
            calls += 1;
            Err(Trouble::passing(Failure::new("down")))
        });
        outcome.unwrap_err();
        assert!((2..=5).contains(&calls), "{calls}");
    }

    #[test]
    fn a_failure_that_lasts_is_not_tried_again() {
        let mut calls = 0;
        let outcome: Result<(), _> = ask(WINDOW, || {
            calls += 1;
            Err(Trouble::lasting(Failure::new("no")))
        });
        outcome.unwrap_err();
        assert_eq!(calls, 1);
    }

    #[test]
    fn the_window_opens_with_the_first_failure() {
        let mut calls = 0;
        let slow_then_down_then_good = || {
            calls += 1;
            match calls {
                1 => {
                    thread::sleep(Duration::from_millis(120));
                    Err(Trouble::passing(Failure::new("down")))
                }
                _ => Ok(calls),
            }
        };
        assert_eq!(
            ask(Duration::from_millis(100), slow_then_down_then_good).unwrap(),
            2
        );
    }
}
