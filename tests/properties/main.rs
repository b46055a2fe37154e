//! What holds for every input there may be, tried with many that are made up at each run.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use proptest::test_runner::Config;

mod cache;
mod canonical;
mod hand_over;
mod recovery_key;
mod wire;

/// So many inputs per property. What a failure was about is printed, in its smallest form, and
/// kept nowhere.
fn cases(cases: u32) -> Config {
    Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    }
}
