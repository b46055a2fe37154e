//! How long it takes from the making of the process to READY=1.

use psi_test_support::goals::{Goals, median, ms};

use crate::psi_serve::{PsiServe, filled};

const SIZE: usize = 100_000;
const ROUNDS: usize = 9;

/// In milliseconds, beside what the slot takes.
const MAX_START: f64 = 100.0;

pub fn measure(goals: &mut Goals) {
    let (host, serve) = filled(SIZE);
    drop(serve);
    let start = |_| {
        let serve = PsiServe::start(&host);
        let (took, slots) = (ms(serve.took), ms(serve.slots_took()));
        println!("READY after {took:.1} ms, of which the slot {slots} ms");
        took - slots
    };
    let rounds: Vec<f64> = (0..ROUNDS).map(start).collect();
    let what = "start with 100,000 values, less the slot's time";
    goals.at_most(what, median(&rounds), MAX_START, " ms");
}
