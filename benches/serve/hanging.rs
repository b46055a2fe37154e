//! Do lookups that hang at the provider hold up those whose values are known?

use std::fs;
use std::thread;
use std::time::Duration;

use psi_test_support::goals::{Goals, median};
use psi_test_support::infisical::{Fault, Identity, Route, StandIn, Times};

use crate::callers::{self, ask, percentile};
use crate::psi_serve::{PsiServe, body, host, id, mapping};

const KNOWN: usize = 1_000;
const MISSES: usize = 50;
const ROUNDS: usize = 7;
/// Hits in a round, alone and beside the misses.
const HITS: usize = 5_000;
/// Far longer than the hits of a round take.
const HANGS: Duration = Duration::from_secs(4);
/// For the misses to have arrived at the provider.
const SETTLE: Duration = Duration::from_millis(500);

/// p99 of the hits, as a multiple of that of hits alone.
const MAX_RATIO: f64 = 2.0;

pub fn measure(goals: &mut Goals) {
    let infisical = StandIn::start();
    infisical.add_identity(
        Identity::new("id", "secret").may_read("11111111-1111-1111-1111-111111111111", "/"),
    );
    infisical.fault(Route::Secret, Times::Always, Fault::Delay(HANGS));
    let host = host(KNOWN, &infisical.url());
    for n in 0..MISSES * ROUNDS {
        let file = host.state_dir().join(id(KNOWN + n));
        fs::write(file, mapping(&format!("MISS_{n}"))).unwrap();
    }
    let serve = PsiServe::start(&host);
    serve.hand_over(&body(KNOWN, 1));
    serve.look_all_up(KNOWN);
    let hits = || {
        let requests: Vec<_> = (0..KNOWN).map(|n| callers::request(&id(n))).collect();
        percentile(&callers::one(&serve.socket, &requests, HITS), 990)
    };

    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        let alone = hits();
        let misses: Vec<_> = (0..MISSES)
            .map(|n| {
                let socket = serve.socket.clone();
                let request = callers::request(&id(KNOWN + round * MISSES + n));
                thread::spawn(move || ask(&socket, &request))
            })
            .collect();
        thread::sleep(SETTLE);
        let beside = hits();
        assert!(
            !misses.iter().any(thread::JoinHandle::is_finished),
            "the misses hung all the time"
        );
        misses
            .into_iter()
            .for_each(|miss| drop(miss.join().unwrap()));
        println!("p99 of hits: alone {alone:?}, beside {MISSES} that hang {beside:?}");
        rounds.push(beside.as_secs_f64() / alone.as_secs_f64());
    }
    goals.at_most(
        "p99 of hits beside 50 that hang / alone",
        median(&rounds),
        MAX_RATIO,
        "",
    );
}
