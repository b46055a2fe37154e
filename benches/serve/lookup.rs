//! What one lookup of a known value costs, beside the floor and whatever the number of values; and
//! how long 64 callers at once wait.

use std::path::Path;

use psi_test_support::goals::{Goals, median};
use psi_test_support::psi::Host;

use crate::callers::{self, ask, percentile};
use crate::floor::Floor;
use crate::process::{cpu, processors, run_here_on, run_on};
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

/// Where one caller and the server run. To wake somebody on another processor can cost more than the
/// lookup, and left to itself the system does that to one server and not to the next.
struct Placement {
    name: &'static str,
    caller: usize,
    server: usize,
}

/// Both on one processor and, where there is another, on one each.
fn placements() -> Vec<Placement> {
    let all = processors();
    let place = |name, server| Placement {
        name,
        caller: all[0],
        server,
    };
    let mut placements = vec![place("on one processor", all[0])];
    placements.extend(all.get(1).map(|&other| place("on two processors", other)));
    placements
}

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

    /// CPU time of one lookup, in microseconds, by one caller who runs where `placement` says.
    fn cpu_alone(&self, placement: &Placement) -> f64 {
        let all = processors();
        run_here_on(&[placement.caller]);
        run_on(self.pid, &[placement.server]);
        let before = cpu(self.pid);
        callers::one(&self.socket, &self.requests, IDS);
        let took = cpu(self.pid) - before;
        run_on(self.pid, &all);
        run_here_on(&all);
        took.as_secs_f64() * 1e6 / IDS as f64
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

    let placements = placements();
    let mut alone = vec![vec![Vec::new(); subjects.len()]; placements.len()];
    let mut crowded = vec![Vec::new(); subjects.len()];
    let mut waits = vec![Vec::new(); subjects.len()];
    for _ in 0..ROUNDS {
        for (placement, alone) in placements.iter().zip(&mut alone) {
            for (subject, alone) in subjects.iter().zip(alone) {
                alone.push(subject.cpu_alone(placement));
            }
        }
        for (i, subject) in subjects.iter().enumerate() {
            let (cpu, wait) = subject.crowded();
            crowded[i].push(cpu);
            waits[i].push(wait);
        }
    }

    let one_caller = |placement: &Placement| format!("CPU, one caller {}", placement.name);
    let mut measured: Vec<(String, &[Vec<f64>])> = Vec::new();
    for (placement, alone) in placements.iter().zip(&alone) {
        measured.push((one_caller(placement), alone));
    }
    measured.push((format!("CPU, {CALLERS} callers"), &crowded));
    for (what, of) in &measured {
        report(&subjects, what, of);
        judge(goals, &subjects, what, of, MAX_CPU);
        let what = format!("{what}: dearest / cheapest number of values");
        goals.at_most(&what, spread(&of[1..]), MAX_SPREAD, "");
    }
    let what = format!("p99, {CALLERS} callers");
    report(&subjects, &what, &waits);
    judge(goals, &subjects, &what, &waits, MAX_WAIT);
}

/// Prints the medians, in microseconds.
fn report(subjects: &[Subject], what: &str, measured: &[Vec<f64>]) {
    println!("{what}, per lookup");
    for (subject, measured) in subjects.iter().zip(measured) {
        println!("  {:>14} {:8.1} us", subject.name, median(measured));
    }
}

/// Compares each psi-serve with the floor, which is the first.
fn judge(goals: &mut Goals, subjects: &[Subject], what: &str, measured: &[Vec<f64>], goal: f64) {
    for (subject, values) in subjects.iter().zip(measured).skip(1) {
        let what = format!("{}: {what} / floor", subject.name);
        goals.at_most(&what, ratio(values, &measured[0]), goal, "");
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
