//! Values that only the provider has, with a provider that answers when the test says so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use psi::config::{self, Config};
use psi::error::{Error, Kind, Result};
use psi::mapping::Mapping;
use psi::provider::{Answer, Discovered, Provider, Source};
use psi::secret::SecretValue;
use psi::serve;
use psi::systemd::Credentials;
use serde_json::json;
use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::fixture::{Caller, Host, wait_until};

type Said = Result<SecretValue>;

/// Gives each call the next thing to say, in the order of the calls.
struct Scripted {
    calls: Arc<AtomicUsize>,
    says: Arc<Mutex<UnboundedReceiver<Said>>>,
}

impl Provider for Scripted {
    fn discover<'a>(&'a self, _: &'a Source, _: Instant) -> Answer<'a, Vec<Discovered>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn lookup<'a>(&'a self, _: &'a Mapping) -> Answer<'a, SecretValue> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        Box::pin(async {
            let mut says = self.says.lock().await;
            says.recv().await.unwrap()
        })
    }
}

/// psi-serve in a thread of the test; it ends with the test.
struct Live {
    caller: Caller,
    calls: Arc<AtomicUsize>,
    say: UnboundedSender<Said>,
}

impl Live {
    /// With a deadline that no test reaches.
    fn start(host: &Host) -> Self {
        Self::start_with_deadline(host, "15s")
    }

    fn start_with_deadline(host: &Host, deadline: &str) -> Self {
        let (say, says) = unbounded_channel();
        let says = Arc::new(Mutex::new(says));
        let calls = Arc::new(AtomicUsize::new(0));
        let path = host.path("config.yaml");
        let started_with = config::Environment {
            uid: 0,
            variables: BTreeMap::from([("PSI_LOOKUP_TIMEOUT".to_owned(), deadline.to_owned())]),
        };
        let load = move || Config::load(Some(&path), false, &started_with);
        let config = load().unwrap();
        let counted = Arc::clone(&calls);
        let environment = serve::Environment {
            load_config: Box::new(load),
            open_provider: Box::new(move |_, _| {
                Ok(Box::new(Scripted {
                    calls: Arc::clone(&counted),
                    says: Arc::clone(&says),
                }))
            }),
            credentials: Credentials {
                directory: Some(host.path("credentials")),
            },
        };
        thread::spawn(move || serve::run(&config, &environment).unwrap());
        let caller = host.caller();
        wait_until("an answer", || {
            host.socket().exists() && caller.try_get("/healthz").is_some()
        });
        Self { caller, calls, say }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    fn wait_for_calls(&self, count: usize) {
        wait_until("a provider call", || self.calls() == count);
    }

    fn answer(&self, value: &[u8]) {
        self.say.send(Ok(SecretValue::new(value.to_vec()))).unwrap();
    }

    fn fail(&self, kind: Kind) {
        self.say.send(Err(Error::new(kind, "scripted"))).unwrap();
    }
}

#[test]
fn fifty_lookups_of_one_unknown_value_are_one_provider_call() {
    let host = Host::new();
    let live = Live::start(&host);
    let id = live.caller.store(1, "A");
    thread::scope(|scope| {
        let lookups: Vec<_> = (0..50)
            .map(|_| scope.spawn(|| live.caller.lookup(&id)))
            .collect();
        live.wait_for_calls(1);
        live.answer(b"v");
        for lookup in lookups {
            assert_eq!(lookup.join().unwrap().ok(), b"v");
        }
    });
    assert_eq!(live.caller.lookup(&id).ok(), b"v");
    assert_eq!(live.calls(), 1, "it is remembered");
    assert!(!host.cache_file().exists(), "in memory only");
}

#[test]
fn a_slow_provider_holds_up_nobody_who_asks_for_something_else() {
    let host = Host::new();
    let live = Live::start_with_deadline(&host, "1s");
    assert_eq!(
        live.caller.hand_over(&[("app", &[("KNOWN", b"v")])]).status,
        200
    );
    let (known, slow) = (live.caller.store(1, "KNOWN"), live.caller.store(2, "SLOW"));
    thread::scope(|scope| {
        let waiting = scope.spawn(|| live.caller.lookup(&slow));
        live.wait_for_calls(1);
        for _ in 0..20 {
            assert_eq!(live.caller.lookup(&known).ok(), b"v");
        }
        assert!(!waiting.is_finished());
        let answer = waiting.join().unwrap();
        answer.fails(502, "provider_failed");
        assert!(
            answer.detail().contains("no answer within 1s"),
            "{}",
            answer.text()
        );
    });
}

#[test]
fn a_failure_is_remembered_for_a_moment_and_then_tried_again() {
    let host = Host::new();
    let live = Live::start(&host);
    let id = live.caller.store(1, "A");
    live.fail(Kind::Unreachable);
    live.caller.lookup(&id).fails(502, "provider_failed");
    live.caller.get("/healthz").fails(503, "unhealthy");
    live.caller.lookup(&id).fails(502, "provider_failed");
    assert_eq!(live.calls(), 1);
    live.answer(b"v");
    wait_until("the next try", || live.caller.lookup(&id).status == 200);
    assert_eq!(live.calls(), 2);
    assert_eq!(live.caller.get("/healthz").ok(), b"ok");
}

#[test]
fn each_outcome_of_the_provider_has_its_status_and_never_a_value() {
    let host = Host::new();
    let live = Live::start(&host);
    let kinds = [
        (Kind::Unreachable, 502, "provider_failed"),
        (Kind::Denied, 502, "provider_failed"),
        (Kind::NotFound, 502, "provider_failed"),
        (Kind::BadAnswer, 502, "provider_failed"),
        (Kind::Refused, 502, "provider_failed"),
        (Kind::Config, 500, "configuration"),
    ];
    for (n, (kind, status, code)) in (1..).zip(kinds) {
        let id = live.caller.store(n, &format!("KEY_{n}"));
        live.fail(kind);
        let answer = live.caller.lookup(&id);
        assert_eq!(
            (answer.status, &answer.json()["error"]),
            (status, &json!(code))
        );
        assert_eq!(answer.detail(), "scripted");
    }
}

#[test]
fn a_hand_over_takes_the_place_of_what_was_learned() {
    let host = Host::new();
    let live = Live::start(&host);
    let id = live.caller.store(1, "A");
    live.answer(b"learned");
    assert_eq!(live.caller.lookup(&id).ok(), b"learned");
    assert_eq!(
        live.caller
            .hand_over(&[("app", &[("A", b"rotated")])])
            .status,
        200
    );
    assert_eq!(live.caller.lookup(&id).ok(), b"rotated");
    assert_eq!(live.caller.hand_over(&[("other", &[])]).status, 200);
    assert_eq!(live.caller.lookup(&id).ok(), b"rotated");
    assert_eq!(live.calls(), 1);
}

#[test]
fn a_call_from_before_an_invalidation_answers_nobody_who_asks_after_it() {
    let host = Host::new();
    let live = Live::start(&host);
    let id = live.caller.store(1, "A");
    let invalidate = json!({"id": id}).to_string();
    thread::scope(|scope| {
        let before = scope.spawn(|| live.caller.lookup(&id));
        live.wait_for_calls(1);
        let answer = live.caller.post("/cache/invalidate", invalidate.as_bytes());
        assert_eq!(answer.json(), json!({"dropped": false}));
        let after = scope.spawn(|| live.caller.lookup(&id));
        live.wait_for_calls(2);
        live.answer(b"old");
        live.answer(b"new");
        assert_eq!(before.join().unwrap().ok(), b"old");
        assert_eq!(after.join().unwrap().ok(), b"new");
    });
    assert_eq!(live.caller.lookup(&id).ok(), b"new");
    let answer = live.caller.post("/cache/invalidate", invalidate.as_bytes());
    assert_eq!(answer.json(), json!({"dropped": true}));
    live.answer(b"newest");
    assert_eq!(live.caller.lookup(&id).ok(), b"newest");
}

#[test]
fn a_caller_that_goes_away_does_not_stop_the_call_for_the_others() {
    let host = Host::new();
    let live = Live::start(&host);
    let id = live.caller.store(1, "A");
    let request = format!("GET /lookup/{id} HTTP/1.1\r\nHost: psi\r\n\r\n");
    let mut first = live.caller.connect();
    std::io::Write::write_all(&mut first, request.as_bytes()).unwrap();
    live.wait_for_calls(1);
    thread::scope(|scope| {
        let second = scope.spawn(|| live.caller.lookup(&id));
        drop(first);
        live.answer(b"v");
        assert_eq!(second.join().unwrap().ok(), b"v");
    });
    assert_eq!(live.calls(), 1);
}

#[test]
fn without_a_cache_every_lookup_asks_the_provider() {
    let host = Host::new();
    host.configure("cache: {enabled: false}");
    let live = Live::start(&host);
    let id = live.caller.store(1, "A");
    for value in [b"one".as_slice(), b"two", b""] {
        live.answer(value);
        assert_eq!(live.caller.lookup(&id).ok(), value);
    }
    assert_eq!(live.calls(), 3);
}
