//! How much memory it takes, at most and at the end.

use psi_test_support::goals::Goals;

use crate::process::memory;
use crate::psi_serve::{PsiServe, body, filled};

/// Numbers of values, and the most they may take, in MiB.
const LIMITS: [(usize, f64); 2] = [(1_000, 16.0), (100_000, 40.0)];

pub fn measure(goals: &mut Goals) {
    for (size, limit) in LIMITS {
        let (host, serve) = filled(size);
        drop(serve);
        let serve = PsiServe::start(&host);
        let mut check = |when: &str| {
            let memory = memory(serve.pid());
            let what = |kind| format!("memory, {size} values, {when}: {kind}");
            goals.at_most(&what("resident"), memory.resident, limit, " MiB");
            goals.at_most(&what("peak"), memory.peak, limit, " MiB");
        };
        check("started");
        serve.look_all_up(size);
        check("each looked up");
        serve.hand_over(&body(size, 2));
        check("handed over");
        serve.look_all_up(size);
        check("each looked up again");
    }
}
