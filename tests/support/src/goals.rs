//! What the benches share: medians of rounds, and goals that are met or missed.

use std::process::ExitCode;
use std::time::Duration;

/// The goals of one bench, printed as they are checked.
#[derive(Debug, Default)]
pub struct Goals {
    missed: usize,
}

impl Goals {
    /// Prints `value` with its goal, `limit` of the same `unit`, and whether it is met.
    pub fn at_most(&mut self, what: &str, value: f64, limit: f64, unit: &str) {
        let is_met = value <= limit;
        let verdict = if is_met { "met" } else { "MISSED" };
        self.missed += usize::from(!is_met);
        println!("{what}: {value:.2}{unit} (goal: at most {limit}{unit}) {verdict}");
    }

    /// The bench's exit status: 1 if any goal was missed.
    pub fn exit(self) -> ExitCode {
        match self.missed {
            0 => ExitCode::SUCCESS,
            missed => {
                println!("goals missed: {missed}");
                ExitCode::FAILURE
            }
        }
    }
}

/// The one in the middle; of an even number the smaller one of the two.
///
/// # Panics
/// If there is none.
pub fn median<T: PartialOrd + Copy>(values: &[T]) -> T {
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| a.partial_cmp(b).expect("numbers only"));
    sorted[(sorted.len() - 1) / 2]
}

/// `duration` in milliseconds.
pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
