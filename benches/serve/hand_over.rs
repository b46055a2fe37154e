//! How much a hand-over delays those who look up known values meanwhile.

use std::thread;
use std::time::{Duration, Instant};

use psi_test_support::goals::{Goals, median, ms};

use crate::callers::{self, percentile};
use crate::psi_serve::{PsiServe, body, filled, scattered};

const SIZE: usize = 100_000;
/// How many ids are asked for.
const IDS: usize = 1_000;
const ROUNDS: usize = 5;
/// How long hits are timed before each hand-over.
const BEFORE: Duration = Duration::from_secs(2);

/// p99.9 during the hand-over, less that before, in milliseconds.
const MAX_DELAY: f64 = 5.0;

pub fn measure(goals: &mut Goals) {
    let (_host, serve) = filled(SIZE);
    let requests: Vec<_> = (0..IDS)
        .map(|n| callers::request(&scattered(n, SIZE)))
        .collect();
    let mut delays = Vec::new();
    for round in 0..ROUNDS {
        let start = Instant::now();
        let before = hits(&serve, &requests, || start.elapsed() >= BEFORE);
        let body = body(SIZE, 2 + round);
        let (during, took) = thread::scope(|scope| {
            let start = Instant::now();
            let hand_over = scope.spawn(|| serve.hand_over(&body));
            let during = hits(&serve, &requests, || hand_over.is_finished());
            (during, start.elapsed())
        });
        let [before_p, during_p] = [&before, &during].map(|hits| ms(percentile(hits, 999)));
        println!(
            "hand-over of {:.0} ms: p99.9 of {} hits before {before_p:.2} ms, of {} during {during_p:.2} ms, at most {:.1} ms",
            ms(took),
            before.len(),
            during.len(),
            ms(percentile(&during, 1000)),
        );
        delays.push(during_p - before_p);
    }
    let what = "delay of hits by a hand-over of 100,000 values, p99.9";
    goals.at_most(what, median(&delays), MAX_DELAY, " ms");
}

/// Lookups back to back until `is_over`: how long each took.
fn hits(serve: &PsiServe, requests: &[Vec<u8>], is_over: impl Fn() -> bool) -> Vec<Duration> {
    let mut times = Vec::new();
    for request in requests.iter().cycle() {
        if is_over() {
            break;
        }
        times.extend(callers::one(
            &serve.socket,
            std::slice::from_ref(request),
            1,
        ));
    }
    times
}
