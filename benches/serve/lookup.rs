//! What one lookup of a known value costs, beside the floor and whatever the number of values; and
//! how long 64 callers at once wait.

use std::path::Path;

use psi_test_support::goals::{Goals, median};
use psi_test_support::psi::Host;

use crate::callers::{self, ask, percentile};
use crate::floor::Floor;
use crate::process::cpu;
use crate::psi_serve::{PsiServe, filled, id, scattered};

const SIZES: [usize; 4] = [50, 1_000, 10_000, 100_000];
/// How many ids a round asks for.
const IDS: usize = 5_000;
const ROUNDS: usize = 9;
const CALLERS: usize = 64;
/// Lookups of each of the [`CALLERS`] in a round.
const EACH: usize = 100;

/// CPU time of a lookup, as a multiple of the floor's.
const MAX_CPU: f64 = 2.0;
/// That of the dearest number of values, as a multiple of the cheapest.
const MAX_SPREAD: f64 = 1.2;
/// p99 of the callers, as a multiple of the floor's.
const MAX_WAIT: f64 = 3.0;

/// One server and what it is asked.
struct Subject {
    name: String,
    pid: u32,
    socket: std::path::PathBuf,
    requests: Vec<Vec<u8>>,
}

impl Subject {
    fn psi_serve(serve: &PsiServe, size: usize) -> Self {
        let requests = (0..IDS).map(|n| callers::request(&scattered(n, size)));
        Self {
            name: format!("{size} values"),
            pid: serve.pid(),
            socket: serve.socket.clone(),
            requests: requests.collect(),
        }
    }

    fn floor(floor: &Floor) -> Self {
        Self {
            name: "floor".to_owned(),
            pid: floor.pid(),
            socket: floor.socket.clone(),
            requests: vec![callers::request(&id(0))],
        }
    }

    /// CPU time of one lookup, in microseconds, by one caller.
    fn cpu_alone(&self) -> f64 {
        let before = cpu(self.pid);
        callers::one(&self.socket, &self.requests, IDS);
        (cpu(self.pid) - before).as_secs_f64() * 1e6 / IDS as f64
    }

    /// CPU time of one lookup and p99 of the wait, in microseconds, by all callers at once.
    fn crowded(&self) -> (f64, f64) {
        let before = cpu(self.pid);
        let times = callers::many(&self.socket, &self.requests, CALLERS, EACH);
        let cpu = (cpu(self.pid) - before).as_secs_f64() * 1e6 / times.len() as f64;
        (cpu, percentile(&times, 990).as_secs_f64() * 1e6)
    }
}

pub fn measure(goals: &mut Goals) {
    let serves: Vec<(Host, PsiServe)> = SIZES.into_iter().map(warm).collect();
    let answer = answer(&serves[0].1.socket);
    let floor = Floor::start(serves[0].0.path("run").as_path(), &answer);
    let mut subjects = vec![Subject::floor(&floor)];
    for ((_, serve), size) in serves.iter().zip(SIZES) {
        subjects.push(Subject::psi_serve(serve, size));
    }

    let mut alone = vec![Vec::new(); subjects.len()];
    let mut crowded = vec![Vec::new(); subjects.len()];
    let mut waits = vec![Vec::new(); subjects.len()];
    for _ in 0..ROUNDS {
        for (i, subject) in subjects.iter().enumerate() {
            alone[i].push(subject.cpu_alone());
            let (cpu, wait) = subject.crowded();
            crowded[i].push(cpu);
            waits[i].push(wait);
        }
    }

    println!("server CPU per lookup: one caller; {CALLERS} callers; p99 of {CALLERS} callers");
    for (i, subject) in subjects.iter().enumerate() {
        println!(
            "  {:>14} {:8.1} us {:8.1} us {:8.0} us",
            subject.name,
            median(&alone[i]),
            median(&crowded[i]),
            median(&waits[i])
        );
    }
    for (i, subject) in subjects.iter().enumerate().skip(1) {
        let what = |what| format!("{}: {what} / floor", subject.name);
        let ratio = |of: &[Vec<f64>]| ratio(&of[i], &of[0]);
        goals.at_most(&what("CPU, one caller"), ratio(&alone), MAX_CPU, "");
        goals.at_most(&what("CPU, 64 callers"), ratio(&crowded), MAX_CPU, "");
        goals.at_most(&what("p99, 64 callers"), ratio(&waits), MAX_WAIT, "");
    }
    for (what, of) in [("one caller", &alone), ("64 callers", &crowded)] {
        let what = format!("CPU, {what}: dearest / cheapest number of values");
        goals.at_most(&what, spread(&of[1..]), MAX_SPREAD, "");
    }
}

/// A psi-serve whose values have all been looked up once.
fn warm(size: usize) -> (Host, PsiServe) {
    let (host, serve) = filled(size);
    serve.look_all_up(size);
    (host, serve)
}

fn answer(socket: &Path) -> Vec<u8> {
    ask(socket, &callers::request(&id(0))).0
}

/// The median of what each round gives; the two took turns.
fn ratio(measured: &[f64], floor: &[f64]) -> f64 {
    let ratios = measured.iter().zip(floor).map(|(m, f)| m / f);
    median(&ratios.collect::<Vec<_>>())
}

fn spread(sizes: &[Vec<f64>]) -> f64 {
    let medians = sizes.iter().map(|rounds| median(rounds));
    let (low, high) = medians.fold((f64::MAX, 0.0_f64), |(low, high), m| {
        (low.min(m), high.max(m))
    });
    high / low
}
