//! A token's module that does not come back from a call: psi-serve says so, ends where that may help,
//! and answers all else meanwhile.

use std::path::Path;
use std::time::{Duration, Instant};

use psi_test_support::done::Done;
use psi_test_support::psi::Service;
use psi_test_support::wait;

use crate::fixture::{HANG, INIT, INIT_HSM, LIVE, Machine, SEALED, SERVE};

/// More than the 90 s after which a call is given up, on a busy machine.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(200);

/// Where psi-serve remembers that it has ended for a token.
const MARK: &str = ".token-stuck";

/// A value that only the token opens.
const OF_TOKEN: &str = "canary-of-the-token";

const HSM: &str = env!("CARGO_BIN_EXE_psi-hsm");

/// A machine whose psi-serve hangs in the token from the start.
fn hung_at_the_start(prepare: impl FnOnce(&Machine)) -> (Machine, Service) {
    let m = Machine::with_token("hsm");
    m.filled(&INIT_HSM);
    prepare(&m);
    m.module().control(HANG, "");
    let serve = m.host.serve_activated(Path::new(SERVE));
    (m, serve)
}

/// What psi-serve does once it has given up a token that no open cache depends on.
fn is_started_anew(m: &Machine, serve: &Service) {
    until_log_has(serve, "psi-serve ends, so that it is started anew");
    m.module().release(HANG);
    wait::until("another start", || serve.starts() == 2);
    serve.wait_until_it_answers();
    m.settle();
    assert_eq!((m.opened_by(), m.value()), (1, SEALED.into()));
}

fn until_log_has(serve: &Service, text: &str) {
    let start = Instant::now();
    while !serve.log().contains(text) {
        assert!(
            start.elapsed() < GIVEN_UP_WITHIN,
            "no {text:?} in: {}",
            serve.log()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_token_that_hangs_at_the_start_is_told_given_up_and_opens_at_the_next_start() {
    let (m, serve) = hung_at_the_start(|_| {});
    let library = m.module().library().display().to_string();
    until_log_has(
        &serve,
        &format!("the PKCS#11 module {library} has not come back from a call for 3"),
    );
    assert_eq!(m.status()["cache"]["state"], "opening");
    assert!(!m.host.state_dir().join(MARK).exists());

    is_started_anew(&m, &serve);
    assert!(m.host.state_dir().join(MARK).exists());
}

#[test]
fn within_the_hour_it_is_not_done_again_and_lookups_are_live() {
    let (m, serve) = hung_at_the_start(|m| {
        std::fs::write(m.host.state_dir().join(MARK), "").unwrap();
    });
    until_log_has(&serve, "psi-serve goes on: it ended for that ");
    assert_eq!(m.value(), LIVE);
    assert_eq!(serve.starts(), 1);
    // There is none.
    assert!(!serve.log().contains("old cache"), "{}", serve.log());
    m.module().release(HANG);
    until_log_has(&serve, "the PKCS#11 module answers again");
    m.settle();
    assert_eq!(m.opened_by(), 1);
}

#[test]
fn a_lookup_that_hangs_in_the_module_is_told_and_given_up_where_the_tpm_opens_the_cache() {
    let m = Machine::with_token("tpm");
    m.filled(&INIT);
    let mut store = m.host.command(HSM);
    store.args(["store", "db"]);
    Done::run(store, OF_TOKEN.as_bytes()).ended(0);
    let serve = m.host.serve_activated(Path::new(SERVE));
    serve.wait_until_it_answers();
    m.settle();
    m.module().control(HANG, "");
    let lost = Done::run(m.lookup("db"), b"");
    assert!(lost.code != Some(0) && lost.stdout.is_empty(), "{lost:?}");
    lost.says(&["db"]);
    until_log_has(&serve, "has not come back from a call for 3");
    assert_eq!(m.value(), SEALED);

    is_started_anew(&m, &serve);
    assert_eq!(Done::run(m.lookup("db"), b"").ended(0).stdout, OF_TOKEN);
}

#[test]
fn a_token_that_hangs_holds_up_no_cached_value_and_ends_nothing_that_it_alone_opens() {
    let (m, serve) = Machine::opened_by_token();
    m.module().control(HANG, "");
    std::thread::scope(|scope| {
        let test = scope.spawn(|| m.run(&["slots", "test"]));
        until_log_has(&serve, "has not come back from a call for 3");
        assert_eq!(m.value(), SEALED);
        let why = "psi-serve goes on: the cache was opened with the token";
        until_log_has(&serve, why);
        assert_eq!(m.value(), SEALED);
        m.module().release(HANG);
        // Nobody waits for an answer that long.
        test.join().unwrap().ended(69);
    });
    assert!(!m.host.state_dir().join(MARK).exists());
    assert_eq!(m.value(), SEALED);
}
