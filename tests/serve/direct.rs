//! Lookups that are answered as they are accepted, beside all that is nearly one.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::thread;

use psi_test_support::psi;
use rustix::process::Signal;

use crate::fixture::{
    Answer, Host, PATIENCE, PROGRAM, Serve, finish, hand_over, id, mapping, read_to_end,
};

/// A header of no driver's: psi-serve answers such a request in its event loop.
const UNUSUAL: &str = "X-Unusual: 1\r\n";

fn lookup(id: &str, headers: &str) -> Vec<u8> {
    format!("GET /lookup/{id} HTTP/1.1\r\nHost: psi\r\n{headers}\r\n").into_bytes()
}

/// All that comes back.
fn answer(serve: &Serve, request: &[u8]) -> Vec<u8> {
    let mut stream = serve.connect();
    stream.write_all(request).unwrap();
    read_to_end(&mut stream)
}

fn one_value(host: &Host) -> (Serve, String) {
    let serve = host.start();
    assert_eq!(serve.hand_over(&[("app", &[("A", b"v")])]).status, 200);
    let id = serve.store(1, "A");
    (serve, id)
}

#[test]
fn the_answer_is_byte_for_byte_that_of_the_event_loop() {
    let host = Host::new();
    let serve = host.start();
    let large = vec![b'x'; 1 << 20];
    let values: [(&str, &[u8]); 4] = [
        ("EMPTY", b""),
        ("BYTES", b"\r\n\r\n\0\xff"),
        ("PAGE", &large[..4096]),
        ("LARGE", &large),
    ];
    assert_eq!(serve.hand_over(&[("app", &values)]).status, 200);
    for (n, (key, value)) in (1..).zip(values) {
        let id = serve.store(n, key);
        for headers in [
            "",
            "Connection: close\r\n",
            "User-Agent: curl/7.88.1\r\nAccept: */*\r\n",
        ] {
            let direct = answer(&serve, &lookup(&id, headers));
            let other = answer(&serve, &lookup(&id, &format!("{headers}{UNUSUAL}")));
            assert!(direct == other, "{key}");
            assert!(direct.ends_with(value), "{key}");
        }
    }
}

#[test]
fn what_is_refused_is_refused_alike() {
    let host = Host::new();
    host.deliver("psi-socket-token", b"the-token");
    let serve = host.start_with(&mut host.command());
    let token = "Authorization: Bearer the-token\r\n";
    let post = |path: &str, body: &[u8]| serve.request_with("POST", path, token, body).status;
    let store = format!("/store/{}", id(1));
    let value = hand_over(&[("app", &[("A", b"v")])]);
    assert_eq!(post("/cache/infisical", &value), 200);
    assert_eq!(post(&store, mapping("A").to_string().as_bytes()), 200);
    host.write_state("broken", b"{");
    for (name, headers, status) in [
        (id(1).as_str(), token, "200"),
        (&id(1), "", "401"),
        (&id(1), "Authorization: Bearer the-tokem\r\n", "401"),
        (&id(1), "Authorization: Bearer\r\n", "401"),
        (
            &id(1),
            &format!("Authorization: Bearer no\r\n{token}"),
            "401",
        ),
        (&id(2), token, "404"),
        ("broken", token, "500"),
        ("../state", token, "400"),
        (".lock", token, "400"),
    ] {
        println!("{name} {headers}");
        let direct = answer(&serve, &lookup(name, headers));
        let other = answer(&serve, &lookup(name, &format!("{headers}{UNUSUAL}")));
        assert!(direct == other);
        assert_eq!(&direct[9..12], status.as_bytes());
    }
}

#[test]
fn a_request_that_comes_in_two_parts_is_answered_wherever_it_is_cut() {
    let host = Host::new();
    let (serve, id) = one_value(&host);
    let request = lookup(&id, "Authorization: Bearer x\r\n");
    for cut in 0..request.len() {
        let mut stream = serve.connect();
        stream.write_all(&request[..cut]).unwrap();
        // Its first part has been read once a later caller is answered.
        assert_eq!(serve.lookup(&id).ok(), b"v");
        stream.write_all(&request[cut..]).unwrap();
        assert_eq!(Answer::read(&mut stream).ok(), b"v", "{cut}");
    }
}

#[test]
fn a_caller_that_sends_more_than_one_request_gets_one_answer() {
    let host = Host::new();
    let (serve, id) = one_value(&host);
    let one = lookup(&id, "");
    for more in [lookup(&id, ""), b"GET /hea".to_vec(), b"\0".to_vec()] {
        let request = [one.clone(), more].concat();
        assert_eq!(serve.raw(&request).ok(), b"v");
    }
}

#[test]
fn a_caller_that_says_that_it_has_said_all_gets_its_answer() {
    let host = Host::new();
    let (serve, id) = one_value(&host);
    let mut stream = serve.connect();
    stream.write_all(&lookup(&id, "")).unwrap();
    finish(&stream);
    assert_eq!(Answer::read(&mut stream).ok(), b"v");
}

#[test]
fn a_mapping_that_somebody_changes_counts_from_the_next_lookup_on() {
    let host = Host::new();
    let serve = host.start();
    changes_count_from_the_next_lookup_on(&host, &serve);
    assert!(!host.log().contains("can't be watched"), "{}", host.log());
}

#[test]
fn where_mappings_can_not_be_watched_changes_count_all_the_same() {
    let host = Host::new();
    let mut command = Command::new("unshare");
    let hide_proc = "mount -t tmpfs none /proc && exec \"$@\"";
    command.args(["--mount", "sh", "-c", hide_proc, "sh", PROGRAM, "--config"]);
    command.arg(host.path("config.yaml"));
    host.environment(&mut command);
    let serve = host.start_with(&mut command);
    changes_count_from_the_next_lookup_on(&host, &serve);
    assert!(host.log().contains("can't be watched"), "{}", host.log());
}

fn changes_count_from_the_next_lookup_on(host: &Host, serve: &Serve) {
    let values: [(&str, &[u8]); 2] = [("A", b"one"), ("B", b"two")];
    assert_eq!(serve.hand_over(&[("app", &values)]).status, 200);
    let id = serve.store(1, "A");
    let other = host.path("other");
    let file = host.state(&id);
    for _ in 0..20 {
        assert_eq!(serve.lookup(&id).ok(), b"one");
        std::fs::write(&file, mapping("B").to_string()).unwrap();
        assert_eq!(serve.lookup(&id).ok(), b"two", "written");
        std::fs::write(&other, mapping("A").to_string()).unwrap();
        std::fs::rename(&other, &file).unwrap();
        assert_eq!(serve.lookup(&id).ok(), b"one", "replaced");
        std::fs::rename(&file, &other).unwrap();
        serve.lookup(&id).fails(404, "no_mapping");
        std::fs::rename(&other, &file).unwrap();
        assert_eq!(serve.lookup(&id).ok(), b"one", "back");
    }
    std::fs::remove_file(&file).unwrap();
    serve.lookup(&id).fails(404, "no_mapping");
}

#[test]
fn values_in_memory_are_answered_while_all_places_in_the_event_loop_are_taken() {
    let host = Host::new();
    let (serve, id) = one_value(&host);
    let silent: Vec<_> = (0..600).map(|_| serve.connect()).collect();
    for _ in 0..100 {
        assert_eq!(serve.lookup(&id).ok(), b"v");
    }
    drop(silent);
    assert_eq!(serve.get("/list").status, 200);
}

#[test]
fn lookups_go_on_while_the_configuration_is_read_again() {
    let host = Host::new();
    let (serve, id) = one_value(&host);
    thread::scope(|scope| {
        let reloads = scope.spawn(|| {
            for n in 1..=20 {
                serve.signal(Signal::HUP);
                let was_read = || host.log().matches("was read again").count() >= n;
                crate::fixture::wait_until("a reload", was_read);
            }
        });
        while !reloads.is_finished() {
            assert_eq!(serve.lookup(&id).ok(), b"v");
        }
    });
}

#[test]
fn a_restart_behind_systemds_socket_loses_no_lookup() {
    let host = psi::Host::new();
    host.write_config(
        "providers: {infisical: {api_url: 'http://127.0.0.1:1', auth: {method: universal-auth, \
         client_id: c, client_secret: s}, projects: {p: {id: i}}}}\ncache: {backend: tpm}\n",
    );
    let service = host.serve_activated(Path::new(PROGRAM));
    let body = hand_over(&[("app", &[("A", b"v")])]);
    let length = body.len();
    let head = format!("POST /cache/infisical HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
    let request = [head.as_bytes(), &body].concat();
    assert_eq!(psi::ask(&host.socket(), &request).0, 200);
    let text = mapping("A").to_string();
    std::fs::write(host.state_dir().join(id(1)), text).unwrap();
    let ask = |_| {
        let mut stream = UnixStream::connect(host.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&lookup(&id(1), "")).unwrap();
        stream
    };
    thread::scope(|scope| {
        let restarts = scope.spawn(|| {
            for _ in 0..5 {
                assert!(service.sigterm().success());
                service.restart();
            }
        });
        while !restarts.is_finished() {
            let mut asked = [0; 4].map(ask);
            for stream in &mut asked {
                assert_eq!(Answer::read(stream).ok(), b"v");
            }
        }
    });
}
