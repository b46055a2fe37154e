//! Faults under a psi-serve that runs.

use std::fs;

use psi_test_support::disk::{Fault, SmallDisk};

use crate::fixture::{ID, Machine};

const OLD: &str = "b2xk";
const NEW: &str = "bmV3";

#[test]
fn a_change_that_can_not_be_written_leaves_the_last_good_state_in_memory_and_on_disk() {
    let m = Machine::new();
    m.map();
    let serve = m.serve();
    m.put("old").ok();
    m.hand_over(OLD).ok();
    for fault in m.replacing("cache.enc") {
        let before = fs::read(m.cache()).unwrap();
        let struck = fault.strike(serve.pid());
        for answer in [
            m.put("new"),
            m.hand_over(NEW),
            m.ask("DELETE", "/local/A", b""),
            m.ask("POST", "/cache/invalidate", br#"{"id": "b"}"#),
        ] {
            answer.fails_on(&m.cache());
        }
        assert_eq!(fs::read(m.cache()).unwrap(), before, "{fault:?}");
        drop(struck);
        assert_eq!(m.lookup("a").ok(), b"old", "{fault:?}");
        assert_eq!(m.lookup("b").ok(), b"old", "{fault:?}");
        assert!(m.temporary_files().is_empty(), "{fault:?}");
        m.verify().ok();
        serve.kill9();
        serve.restart();
        assert_eq!(m.lookup("a").ok(), b"old", "{fault:?}");
        m.put("new").ok();
        m.hand_over(NEW).ok();
        assert_eq!(m.lookup("b").ok(), b"new");
        m.put("old").ok();
        m.hand_over(OLD).ok();
    }
}

#[test]
fn a_change_that_may_not_outlive_a_power_cut_is_taken_back_in_memory_and_on_disk() {
    let m = Machine::new();
    m.map();
    let serve = m.serve();
    m.put("old").ok();
    m.hand_over(OLD).ok();
    let struck = m.making_durable().strike(serve.pid());
    for _ in 0..2 {
        m.put("new").fails_on(&m.cache());
        m.hand_over(NEW).fails_on(&m.cache());
        m.ask("DELETE", "/local/A", b"").fails_on(&m.cache());
        assert_eq!(m.lookup("a").ok(), b"old");
        m.verify().ok();
    }
    drop(struck);
    serve.kill9();
    serve.restart();
    assert_eq!(m.lookup("a").ok(), b"old");
    assert_eq!(m.lookup("b").ok(), b"old");
    m.put("new").ok();
    m.hand_over(NEW).ok();
    m.verify().ok();
    assert_eq!(m.lookup("a").ok(), b"new");
    assert_eq!(m.lookup("b").ok(), b"new");
}

#[test]
fn a_first_save_that_fails_leaves_no_file_and_the_next_one_works() {
    let whole = Machine::new();
    let faults = whole.replacing("cache.enc").len() + 1;
    for n in 0..faults {
        let m = Machine::new();
        m.map();
        let fault = m.replacing("cache.enc").get(n).cloned();
        let fault = fault.unwrap_or_else(|| m.making_durable());
        let serve = m.serve();
        let struck = fault.strike(serve.pid());
        m.put("v").fails_on(&m.cache());
        drop(struck);
        assert!(!m.cache().exists(), "{fault:?}");
        assert_eq!(m.state(), "absent", "{fault:?}");
        m.put("v").ok();
        m.verify().ok();
        assert_eq!(m.lookup("a").ok(), b"v");
    }
}

#[test]
fn a_forced_init_that_fails_keeps_the_old_cache_and_only_it() {
    let m = Machine::new();
    m.map();
    let serve = m.serve();
    m.put("old").ok();
    let mut faults = m.replacing("cache.enc");
    faults.push(m.making_durable());
    faults.push(Fault::new("linkat", "EIO", m.host.state_dir()));
    for fault in faults {
        let struck = fault.strike(serve.pid());
        let answer = m.ask("POST", "/cache/init", br#"{"force": true}"#);
        answer.fails_on(&m.cache());
        drop(struck);
        let names = fs::read_dir(m.host.state_dir()).unwrap();
        let names: Vec<_> = names.map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 4, "{fault:?}: {names:?}");
        assert_eq!(m.lookup("a").ok(), b"old", "{fault:?}");
        m.verify().ok();
    }
    serve.kill9();
    serve.restart();
    assert_eq!(m.lookup("a").ok(), b"old");
}

#[test]
fn a_mapping_that_can_not_be_written_or_removed_stays_as_it_was() {
    let m = Machine::new();
    let serve = m.serve();
    m.put("v").ok();
    let mapping = m.host.state_dir().join(ID);
    let store = |key: &str| {
        let text = format!(r#"{{"provider":"local","key":"{key}"}}"#);
        m.ask("POST", &format!("/store/{ID}"), text.as_bytes())
    };
    let delete = || m.ask("DELETE", &format!("/delete/{ID}"), b"");
    store("A").ok();
    for fault in m.replacing(ID) {
        let struck = fault.strike(serve.pid());
        store("B").fails_on(&mapping);
        drop(struck);
        assert_eq!(m.lookup(ID).ok(), b"v", "{fault:?}");
        assert!(m.temporary_files().is_empty(), "{fault:?}");
    }
    let struck = Fault::new("unlinkat", "EROFS", m.host.state_dir()).strike(serve.pid());
    delete().fails_on(&mapping);
    drop(struck);
    assert_eq!(m.lookup(ID).ok(), b"v");
    let struck = m.making_durable().strike(serve.pid());
    store("A").fails_on(&mapping);
    // Podman forgets the secret only if this succeeds, and the mapping is gone already.
    delete().ok();
    drop(struck);
    assert_eq!(m.lookup(ID).status, 404);
    store("A").ok();
    assert_eq!(m.lookup(ID).ok(), b"v");
}

#[test]
fn a_full_disk_keeps_what_is_there_and_takes_changes_again_once_there_is_room() {
    let m = Machine::new();
    let disk = SmallDisk::mount(&m.host.state_dir());
    m.map();
    let serve = m.serve();
    disk.fill();
    m.put("v").fails_on(&m.cache());
    assert!(!m.cache().exists());
    disk.free();
    m.put("old").ok();
    disk.fill();
    for answer in [m.put("new"), m.hand_over(NEW)] {
        answer.fails_on(&m.cache());
        assert!(answer.text().contains("No space left"), "{}", answer.text());
        assert!(answer.text().contains("df"), "{}", answer.text());
    }
    let store = format!("/store/{ID}");
    let mapping = br#"{"provider":"local","key":"A"}"#;
    m.ask("POST", &store, mapping)
        .fails_on(&m.host.state_dir().join(ID));
    assert!(m.temporary_files().is_empty());
    serve.kill9();
    serve.restart();
    assert_eq!(m.lookup("a").ok(), b"old");
    disk.free();
    m.put("new").ok();
    m.ask("POST", &store, mapping).ok();
    assert_eq!(m.lookup(ID).ok(), b"new");
    drop(serve);
}

#[test]
fn a_disk_that_is_read_only_is_served_from_even_after_a_restart() {
    let m = Machine::new();
    let disk = SmallDisk::mount(&m.host.state_dir());
    m.map();
    let serve = m.serve();
    m.put("old").ok();
    disk.make_read_only();
    let refuses = || {
        for answer in [m.put("new"), m.hand_over(NEW)] {
            answer.fails_on(&m.cache());
            assert!(
                answer.text().contains("Read-only file system"),
                "{}",
                answer.text()
            );
        }
        let delete = m.ask("DELETE", &format!("/delete/{ID}"), b"");
        assert!([200, 500].contains(&delete.status), "{}", delete.text());
        assert_eq!(m.lookup("a").ok(), b"old");
        m.verify().ok();
    };
    refuses();
    serve.kill9();
    serve.restart();
    refuses();
    disk.make_writable();
    m.put("new").ok();
    assert_eq!(m.lookup("a").ok(), b"new");
    drop(serve);
}
