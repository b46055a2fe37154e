//! A device that takes its time: psi-serve listens, says what it waits for, and lookups wait with it.

use std::path::Path;
use std::thread;

use psi_test_support::done::Done;
use psi_test_support::notify::Manager;

use crate::fixture::{ID, INIT, INIT_HSM, Machine, SEALED, SERVE};

#[test]
fn while_a_slot_is_slow_systemd_hears_which_and_every_lookup_waits_and_succeeds() {
    let m = Machine::new();
    m.filled(&INIT);
    let manager = Manager::new(&m.host.notify_socket());
    m.tpm.freeze();
    let serve = m.host.serve(Path::new(SERVE));
    thread::scope(|scope| {
        let lookups: Vec<_> = (0..20)
            .map(|_| scope.spawn(|| Done::run(m.lookup(ID), b"")))
            .collect();
        let mut seconds = Vec::new();
        while seconds.len() < 3 {
            let message = manager.next_message();
            assert!(!message.contains("READY=1"), "{message}");
            let Some((status, "EXTEND_TIMEOUT_USEC=15000000")) = message.trim().split_once('\n')
            else {
                continue;
            };
            let slot = status.strip_prefix("STATUS=opening the cache: slot 1 (tpm2) for ");
            let waited = slot.and_then(|rest| rest.strip_suffix(" s"));
            seconds.push(waited.unwrap().parse::<u64>().unwrap());
        }
        assert!(
            seconds.is_sorted() && seconds[0] < seconds[2],
            "{seconds:?}"
        );
        assert_eq!(m.status()["cache"]["state"], "opening");
        let why = m.status()["why"].to_string();
        assert!(
            why.contains("opening the cache: slot 1 (tpm2) for "),
            "{why}"
        );
        m.tpm.thaw();
        for lookup in lookups {
            assert_eq!(lookup.join().unwrap().ended(0).stdout, SEALED);
        }
    });
    let ready = manager.wait_for("READY=1");
    assert!(ready.contains("STATUS=cache open, 1 values"), "{ready}");
    assert_eq!(m.opened_by(), 1);
    assert!(serve.sigterm().success());
}

#[test]
fn a_psi_serve_that_waits_for_a_device_ends_when_it_is_asked_to() {
    let m = Machine::new();
    m.filled(&INIT);
    m.tpm.freeze();
    let serve = m.host.serve(Path::new(SERVE));
    assert_eq!(m.status()["cache"]["state"], "opening");
    assert!(serve.sigterm().success());
    m.tpm.thaw();
}

#[test]
fn a_module_that_takes_25_s_to_start_costs_no_lookup_of_the_first_second() {
    let m = Machine::with_token("hsm");
    m.filled(&INIT_HSM);
    m.module().control("delay.C_Initialize", "25000");
    let manager = Manager::new(&m.host.notify_socket());
    let serve = m.host.serve(Path::new(SERVE));
    thread::scope(|scope| {
        let lookups: Vec<_> = (0..20)
            .map(|_| scope.spawn(|| Done::run(m.lookup(ID), b"")))
            .collect();
        let mut extended = 0;
        while !manager.next_message().contains("READY=1") {
            extended += 1;
        }
        // Once a second, whatever the unit's own time limit is.
        assert!(extended > 15, "{extended}");
        for lookup in lookups {
            assert_eq!(lookup.join().unwrap().ended(0).stdout, SEALED);
        }
    });
    assert!(serve.sigterm().success());
}
