//! Cache files that are not what was saved, and keys that do not come.

use std::fs;

use psi::cache::{Cache, Opening};
use psi::error::Kind;
use psi::protector::{Credential, Protector};
use serde_json::json;

use crate::fixture::{Host, KEY, fingerprint};

/// A host whose cache has one small value, and its id.
fn filled() -> (Host, String) {
    let host = Host::new();
    let serve = host.start();
    let id = serve.store(1, "A");
    assert_eq!(serve.hand_over(&[("app", &[("A", b"v")])]).status, 200);
    (host, id)
}

/// psi-serve on a file that it can't use keeps it, says why everywhere, and serves live.
fn stays_closed(host: &Host, id: &str, why: &[&str]) {
    let before = fingerprint(&host.cache_file());
    let serve = host.start();
    serve.lookup(id).asked_the_dead_provider();
    let status = serve.status();
    assert_eq!(status["cache"]["state"], "closed", "{status}");
    assert_eq!(status["healthy"], false);
    let health = serve.get("/healthz");
    health.fails(503, "unhealthy");
    for text in why {
        assert!(status["why"].to_string().contains(text), "{text}: {status}");
        assert!(health.detail().contains(text), "{text}: {}", health.text());
        assert!(host.log().contains(text), "{text}: {}", host.log());
    }
    let invalidate = json!({"id": id}).to_string();
    assert_eq!(
        serve
            .post("/cache/invalidate", invalidate.as_bytes())
            .status,
        500
    );
    assert_eq!(serve.post("/cache/verify", b"").status, 500);
    assert_eq!(serve.hand_over(&[("app", &[("A", b"w")])]).status, 500);
    serve.post("/cache/init", b"{}").fails(409, "refused");
    assert_eq!(fingerprint(&host.cache_file()), before);
}

#[test]
fn a_damaged_file_is_kept_and_named() {
    let (host, id) = filled();
    let good = fs::read(host.cache_file()).unwrap();
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 0x80;
    let cases: [(&[u8], &str); 6] = [
        (b"", "too short"),
        (&good[..11], "too short"),
        (&good[..100], "cut short"),
        (&good[..good.len() - 1], "not what was saved"),
        (&flipped, "not what was saved"),
        (b"PSIC\x01\x01whatever there is", "version 1"),
    ];
    for (bytes, why) in cases {
        fs::write(host.cache_file(), bytes).unwrap();
        stays_closed(&host, &id, &[why]);
    }
    fs::write(host.cache_file(), &good).unwrap();
    assert_eq!(host.start().lookup(&id).ok(), b"v");
}

#[test]
fn without_the_right_key_the_slot_that_was_tried_is_named() {
    let (host, id) = filled();
    let credential = host.path("credentials/psi-cache-key");
    fs::write(&credential, [8; 32]).unwrap();
    stays_closed(&host, &id, &["slot 1 (credential)", "is another one"]);
    fs::write(&credential, []).unwrap();
    stays_closed(&host, &id, &["slot 1 (credential)", "is empty"]);
    fs::write(&credential, [7; 31]).unwrap();
    stays_closed(&host, &id, &["slot 1 (credential)", "31 bytes"]);
    fs::remove_file(&credential).unwrap();
    stays_closed(
        &host,
        &id,
        &["slot 1 (credential)", "no credential psi-cache-key"],
    );
    fs::write(&credential, KEY).unwrap();
    assert_eq!(host.start().lookup(&id).ok(), b"v");
}

#[test]
fn a_key_that_comes_late_opens_the_cache_at_the_next_hand_over() {
    let (host, id) = filled();
    let credential = host.path("credentials/psi-cache-key");
    fs::remove_file(&credential).unwrap();
    let serve = host.start();
    serve.lookup(&id).asked_the_dead_provider();
    fs::write(&credential, KEY).unwrap();
    assert_eq!(serve.hand_over(&[("other", &[])]).status, 200);
    assert_eq!(serve.lookup(&id).ok(), b"v");
}

#[test]
fn without_a_key_and_without_a_file_nothing_is_made() {
    let host = Host::new();
    fs::remove_file(host.path("credentials/psi-cache-key")).unwrap();
    let serve = host.start();
    let answer = serve.hand_over(&[("app", &[("A", b"v")])]);
    answer.fails(500, "cache_closed");
    assert!(
        answer.detail().contains("psi-cache-key"),
        "{}",
        answer.text()
    );
    assert_eq!(serve.post("/cache/init", b"{}").status, 500);
    assert!(!host.cache_file().exists());
}

#[test]
fn something_else_in_the_place_of_the_cache_is_left_alone() {
    let (host, id) = filled();
    let good = host.state("elsewhere");
    fs::rename(host.cache_file(), &good).unwrap();
    std::os::unix::fs::symlink(&good, host.cache_file()).unwrap();
    stays_closed(&host, &id, &["cannot read"]);
    fs::remove_file(host.cache_file()).unwrap();
    fs::create_dir(host.cache_file()).unwrap();
    let serve = host.start();
    assert_eq!(serve.status()["cache"]["state"], "closed");
    assert_eq!(serve.hand_over(&[("app", &[("A", b"w")])]).status, 500);
    assert!(host.cache_file().is_dir());
}

#[test]
fn every_cut_and_every_flipped_bit_of_a_real_file_is_noticed_and_the_file_is_kept() {
    let (host, _) = filled();
    let good = fs::read(host.cache_file()).unwrap();
    let open = || {
        let credential = Credential::delivered(Some(host.path("credentials")));
        let protectors: [Box<dyn Protector>; 1] = [Box::new(credential)];
        Cache::open(&host.cache_file(), &protectors)
    };
    let is_noticed = |bytes: &[u8]| {
        fs::write(host.cache_file(), bytes).unwrap();
        let noticed = match open() {
            Ok(Opening::NoSlot(unopened)) => unopened.attempts.iter().all(|a| a.failure.is_some()),
            Ok(_) => false,
            Err(error) => error.kind() == Kind::Damaged,
        };
        noticed && fs::read(host.cache_file()).unwrap() == bytes
    };
    for length in 0..good.len() {
        assert!(is_noticed(&good[..length]), "cut to {length}");
    }
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(is_noticed(&bad), "bit {bit}");
    }
    assert!(
        is_noticed(&[good.clone(), vec![0]].concat()),
        "one byte more"
    );
    fs::write(host.cache_file(), &good).unwrap();
    assert!(matches!(open(), Ok(Opening::Opened(..))));
}
