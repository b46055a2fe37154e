//! What psi-serve costs: a lookup, beside the least that any server on a Unix socket can do; the
//! start; a hand-over; memory.
//!
//! Run all of it with `cargo bench --bench serve`, or some with `cargo bench --bench serve -- lookup
//! memory`. `docs/performance.md` says how each figure comes about.

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]

mod callers;
mod floor;
mod hand_over;
mod hanging;
mod lookup;
mod memory;
mod process;
mod psi_serve;
mod start;

use std::process::ExitCode;

use psi_test_support::goals::Goals;

type Part = fn(&mut Goals);

const PARTS: [(&str, Part); 5] = [
    ("lookup", lookup::measure),
    ("hanging", hanging::measure),
    ("start", start::measure),
    ("hand-over", hand_over::measure),
    ("memory", memory::measure),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, answer] = arguments.as_slice()
        && first == floor::ARGUMENT
    {
        floor::serve(answer.as_ref());
    }
    // cargo adds `--bench`.
    let wanted: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let mut goals = Goals::default();
    for (name, measure) in PARTS {
        if wanted.is_empty() || wanted.iter().any(|w| *w == name) {
            measure(&mut goals);
        }
    }
    goals.exit()
}
