//! The client of Podman's secrets, against a real Podman of the test's own, and against scripted
//! answers where another version is needed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use psi::cli::block_on;
use psi::podman::{NewSecret, Podman, Secret};
use psi::{Error, Kind, Result};
use psi_test_support::http::Message;
use psi_test_support::podman::{Podman as Service, write_program};
use psi_test_support::proxy::Proxy;
use tempfile::TempDir;

type Map = BTreeMap<String, String>;

fn map(entries: &[(&str, &str)]) -> Map {
    let owned = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
    entries.iter().map(owned).collect()
}

fn client(socket: &Path) -> Podman {
    Podman::new(socket).unwrap()
}

fn create(podman: &Podman, name: &str, payload: &[u8], options: &Map) -> Result<String> {
    let labels = map(&[("psi.workload", "app")]);
    block_on(podman.create(&NewSecret {
        name,
        payload,
        options,
        labels: &labels,
    }))
}

fn replace(podman: &Podman, old: &Secret, payload: &[u8], options: &Map) -> Result<String> {
    let labels = map(&[("psi.workload", "replaced")]);
    block_on(podman.replace(
        old,
        &NewSecret {
            name: &old.name,
            payload,
            options,
            labels: &labels,
        },
    ))
}

fn secrets(podman: &Podman) -> Vec<Secret> {
    block_on(podman.secrets()).unwrap()
}

fn only(podman: &Podman) -> Secret {
    let mut all = secrets(podman);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

fn options(driver: &Path) -> Map {
    Service::driver_options(driver).into()
}

/// Where the file driver keeps that secret.
fn stored(driver: &Path, id: &str) -> PathBuf {
    PathBuf::from(format!("{}.data", driver.display())).join(id)
}

/// A driver that runs `script` and keeps nothing.
fn driver(service: &Service, script: &str) -> PathBuf {
    let path = service.dir().join("scripted-driver");
    write_program(&path, &format!("#!/bin/sh\n{script}\n"));
    path
}

fn stdout(output: &Output) -> &str {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    str::from_utf8(&output.stdout).unwrap()
}

fn hint(error: &Error) -> &str {
    error.next_step().unwrap()
}

#[test]
fn a_registered_secret_comes_back_as_it_was_given() {
    let service = Service::start();
    let podman = client(&service.socket());
    assert_eq!(secrets(&podman), []);

    let file_driver = service.file_driver();
    let mut options = options(&file_driver);
    let lookup = format!(": 'a&b=c+d %20;é{{\"x\"}}'; {}", options["lookup"]);
    options.insert("lookup".into(), lookup);
    let labels = map(&[
        ("psi.workload", "my app@1/x"),
        ("odd", "é&=+%2B\"\\\n#?"),
        ("empty", ""),
    ]);
    let payload = b"line\n\0\xff&a=b\r\n";
    let id = block_on(podman.create(&NewSecret {
        name: "app--KEY_1.x",
        payload,
        options: &options,
        labels: &labels,
    }))
    .unwrap();

    let secret = only(&podman);
    assert_eq!((&*secret.id, &*secret.name), (&*id, "app--KEY_1.x"));
    assert_eq!((&*secret.driver, secret.options), ("shell", options));
    assert_eq!(labels_of(&service, "app--KEY_1.x"), labels);
    assert_eq!(fs::read(stored(&file_driver, &id)).unwrap(), payload);
}

/// As Podman keeps them; version 4.3 does not list them.
fn labels_of(service: &Service, name: &str) -> Map {
    let output = service.run(&["secret", "inspect", name]);
    let inspected: serde_json::Value = serde_json::from_str(stdout(&output)).unwrap();
    serde_json::from_value(inspected[0]["Spec"]["Labels"].clone()).unwrap()
}

#[test]
fn a_registered_secret_reaches_containers_and_their_health_checks() {
    let service = Service::start();
    let podman = client(&service.socket());
    let options = options(&service.file_driver());
    create(&podman, "app--KEY", b"the value", &options).unwrap();

    let env = "app--KEY,type=env,target=KEY";
    let mount = "app--KEY,type=mount,target=key";
    let output = service.run_container(&[env, mount], "printenv KEY; cat /run/secrets/key");
    assert_eq!(stdout(&output), "the value\nthe value");

    let check = "test \"$KEY\" = 'the value'";
    stdout(&service.start_container("app", &[env], Some(check)));
    assert_eq!(stdout(&service.exec("app", "printenv KEY")), "the value\n");
    stdout(&service.healthcheck("app"));
}

#[test]
fn secrets_are_listed_by_name_with_those_that_are_not_ours() {
    let service = Service::start();
    let podman = client(&service.socket());
    let options = options(&service.file_driver());
    create(&podman, "b", b"x", &options).unwrap();
    create(&podman, "a", b"x", &options).unwrap();
    let mine = service.dir().join("mine");
    fs::write(&mine, "x").unwrap();
    stdout(&service.run(&["secret", "create", "c", mine.to_str().unwrap()]));

    let all = secrets(&podman);
    let names: Vec<_> = all.iter().map(|s| (&*s.name, &*s.driver)).collect();
    assert_eq!(names, [("a", "shell"), ("b", "shell"), ("c", "file")]);
}

#[test]
fn a_name_that_is_taken_is_refused_and_its_secret_stays() {
    let service = Service::start();
    let podman = client(&service.socket());
    let options = options(&service.file_driver());
    create(&podman, "app--KEY", b"x", &options).unwrap();
    let before = only(&podman);

    let error = create(&podman, "app--KEY", b"y", &options).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.to_string().contains("app--KEY"), "{error}");
    assert!(error.to_string().contains("in use"), "{error}");
    assert!(hint(&error).contains("podman secret ls"));
    assert_eq!(only(&podman), before);
}

#[test]
fn a_name_or_payload_that_podman_will_not_have_is_refused() {
    let service = Service::start();
    let podman = client(&service.socket());
    let options = options(&service.file_driver());
    for (name, payload) in [
        ("a,b", &b"x"[..]),
        ("", b"x"),
        ("empty", b""),
        ("big", &[b'x'; 512_000]),
    ] {
        let error = create(&podman, name, payload, &options).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "{error}");
        assert!(error.to_string().contains(&format!("{name:?}")), "{error}");
    }
    assert_eq!(secrets(&podman), []);
}

#[test]
fn options_that_are_not_a_shell_drivers_are_refused() {
    let service = Service::start();
    let podman = client(&service.socket());
    let error = create(&podman, "app--KEY", b"x", &map(&[("store", "cat")])).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    assert_eq!(secrets(&podman), []);
}

#[test]
fn a_replaced_secret_keeps_its_name_and_gets_a_new_id() {
    let service = Service::start();
    let podman = client(&service.socket());
    let file_driver = service.file_driver();
    let options = options(&file_driver);
    create(&podman, "app--KEY", b"old", &options).unwrap();
    let old = only(&podman);

    let id = replace(&podman, &old, b"new", &options).unwrap();
    let new = only(&podman);
    assert_ne!(new.id, old.id);
    assert_eq!((&*new.id, &*new.name), (&*id, "app--KEY"));
    assert_eq!(
        labels_of(&service, "app--KEY"),
        map(&[("psi.workload", "replaced")])
    );
    assert!(!stored(&file_driver, &old.id).exists());
    assert_eq!(fs::read(stored(&file_driver, &id)).unwrap(), b"new");
}

#[test]
fn a_secret_that_is_gone_already_can_be_removed() {
    let service = Service::start();
    let podman = client(&service.socket());
    let options = options(&service.file_driver());
    let id = create(&podman, "app--KEY", b"x", &options).unwrap();
    block_on(podman.remove(&id)).unwrap();
    assert_eq!(secrets(&podman), []);
    block_on(podman.remove(&id)).unwrap();
}

#[test]
fn only_an_exact_id_is_removed() {
    let service = Service::start();
    let podman = client(&service.socket());
    let options = options(&service.file_driver());
    let id = create(&podman, "app--KEY", b"x", &options).unwrap();
    for no_id in ["", "app--KEY", &id[..24], "../secrets"] {
        let error = block_on(podman.remove(no_id)).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage, "{error}");
    }
    assert_eq!(only(&podman).id, id);
}

#[test]
fn a_driver_that_fails_to_store_registers_nothing() {
    let service = Service::start();
    let podman = client(&service.socket());
    let failing = driver(&service, "echo \"psi-secret: why, in $1\" >&2; exit 7");
    let error = create(&podman, "app--KEY", b"pay-load", &options(&failing)).unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    let text = error.to_string();
    assert!(
        text.contains("app--KEY") && text.contains("exit status 7"),
        "{text}"
    );
    assert!(!text.contains("pay-load"), "{text}");
    assert_eq!(
        hint(&error),
        "`journalctl -u podman.service` shows what the driver said"
    );
    assert!(service.service_log().contains("psi-secret: why, in store"));
    assert_eq!(secrets(&podman), []);
}

#[test]
fn a_driver_that_is_not_there_is_a_wrong_configuration() {
    let service = Service::start();
    let podman = client(&service.socket());
    let absent = service.dir().join("absent");
    let error = create(&podman, "app--KEY", b"x", &options(&absent)).unwrap_err();
    assert_eq!(error.kind(), Kind::Config, "{error}");
    assert!(hint(&error).contains("driver_path"));
}

#[test]
fn a_driver_that_fails_to_delete_leaves_the_secret_for_remove_and_replace() {
    let service = Service::start();
    let podman = client(&service.socket());
    let stubborn = driver(&service, "cat >/dev/null; test \"$1\" = store");
    let stubborn = options(&stubborn);
    let id = create(&podman, "app--KEY", b"x", &stubborn).unwrap();
    let old = only(&podman);

    let error = block_on(podman.remove(&id)).unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    assert!(error.to_string().contains(&id), "{error}");
    let error = replace(&podman, &old, b"y", &stubborn).unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    assert_eq!(only(&podman), old);
}

#[test]
fn a_replacement_that_fails_half_way_says_that_the_secret_may_be_gone() {
    let service = Service::start();
    let podman = client(&service.socket());
    let working = options(&service.file_driver());
    create(&podman, "app--KEY", b"x", &working).unwrap();
    let old = only(&podman);
    let failing = options(&driver(&service, "exit 1"));

    let error = replace(&podman, &old, b"y", &failing).unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    let text = error.to_string();
    assert!(
        text.starts_with("secret \"app--KEY\" was to be replaced and may be gone: "),
        "{text}"
    );
    assert!(
        hint(&error)
            .ends_with("then `systemctl restart 'psi-*-setup.service'` registers what is missing")
    );
    assert_eq!(secrets(&podman), []);
}

#[test]
fn a_podman_that_is_not_running_is_unreachable_and_says_how_to_start_it() {
    let mut service = Service::start();
    service.stop_service();
    let stale = service.socket();
    let absent = service.dir().join("absent.sock");
    for socket in [stale, absent] {
        let error = block_on(client(&socket).secrets()).unwrap_err();
        assert_eq!(error.kind(), Kind::Unreachable);
        assert!(
            error.to_string().contains(socket.to_str().unwrap()),
            "{error}"
        );
        assert!(hint(&error).contains("systemctl start podman.socket"));
    }
}

#[test]
fn a_list_is_one_request_however_many_secrets_there_are() {
    let service = Service::start();
    let proxy = Proxy::start(&service.socket(), &service.dir().join("proxy.sock"));
    let podman = client(proxy.socket());
    let options = options(&service.file_driver());
    create(&podman, "a", b"x", &options).unwrap();
    create(&podman, "b", b"x", &options).unwrap();
    proxy.clear();
    assert_eq!(secrets(&podman).len(), 2);
    assert_eq!(proxy.requests(), ["GET /v4.0.0/libpod/secrets/json"]);
}

/// Answers that another version of Podman would give, one a connection, in this order.
struct Scripted {
    dir: TempDir,
    requests: Receiver<String>,
}

impl Scripted {
    fn play(answers: Vec<String>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        let (sender, requests) = channel();
        thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let request = Message::read_request(&mut reader).unwrap().unwrap();
                let _ = sender.send(request.head.lines().next().unwrap().to_owned());
                // A client that has seen enough hangs up.
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        Self { dir, requests }
    }

    fn client(&self) -> Podman {
        client(&self.dir.path().join("s"))
    }

    fn requests(&self) -> Vec<String> {
        self.requests.try_iter().collect()
    }
}

fn answer(status: u16, version: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} Some Reason\r\nLibpod-API-Version: {version}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

const LISTED: &str = r#"[{"ID":"aaaaaaaaaaaaaaaaaaaaaaaaa","CreatedAt":"x","Spec":
    {"Name":"app--KEY","Driver":{"Name":"shell","Options":{"list":"l"}},"Labels":{"a":"b"}}},
    {"ID":"bbbbbbbbbbbbbbbbbbbbbbbbb","Spec":
    {"Name":"theirs","Driver":{"Name":"shell","Options":null},"Labels":null}}]"#;
const NEW_ID: &str = r#"{"ID":"ccccccccccccccccccccccccc"}"#;

#[test]
fn a_podman_that_lists_labels_is_asked_once() {
    let server = Scripted::play(vec![answer(200, "5.4.2", LISTED)]);
    let all = secrets(&server.client());
    assert_eq!(all[0].labels, map(&[("a", "b")]));
    assert_eq!((&*all[1].name, all[1].labels.len()), ("theirs", 0));
    assert_eq!(
        server.requests(),
        ["GET /v4.0.0/libpod/secrets/json HTTP/1.1"]
    );
}

#[test]
fn podman_4_7_and_newer_replace_in_one_step() {
    for (version, steps) in [("4.6.2", 2), ("4.7.0", 1), ("5.10.0-dev", 1)] {
        let mut answers = vec![answer(200, version, LISTED)];
        if steps == 2 {
            answers.push(answer(204, version, ""));
        }
        answers.push(answer(200, version, NEW_ID));
        let server = Scripted::play(answers);
        let podman = server.client();
        let old = secrets(&podman).remove(0);
        replace(&podman, &old, b"x", &Map::new()).unwrap();
        let requests = server.requests();
        assert_eq!(requests.len(), 1 + steps, "{version}");
        assert_eq!(requests[steps].contains("replace=true"), steps == 1);
    }
}

#[test]
fn a_driver_that_fails_to_delete_is_never_taken_for_a_secret_that_is_gone() {
    let failure = r#"{"cause":"no such secret","message":"deleting secret aaaaaaaaaaaaaaaaaaaaaaaaa: aaaaaaaaaaaaaaaaaaaaaaaaa: no such secret","response":404}"#;
    let server = Scripted::play(vec![answer(404, "5.4.2", failure)]);
    let error = block_on(server.client().remove("aaaaaaaaaaaaaaaaaaaaaaaaa")).unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable, "{error}");
}

#[test]
fn a_podman_that_is_too_old_is_a_wrong_configuration() {
    let unsupported = r#"{"cause":"x","message":"version 4.0.0 is not supported","response":400}"#;
    for old in [
        answer(200, "4.2.1", "[]"),
        answer(200, "3.4.4", "[]"),
        answer(400, "9.0.0", unsupported),
        "HTTP/1.1 404 Not Found\r\nContent-Length: 10\r\n\r\nNot Found\n".into(),
    ] {
        let server = Scripted::play(vec![old]);
        let error = block_on(server.client().secrets()).unwrap_err();
        assert_eq!(error.kind(), Kind::Config, "{error}");
        let text = error.to_string();
        assert!(text.starts_with("Podman 4.3 or newer is needed"), "{text}");
    }
}

#[test]
fn something_else_than_podman_is_not_believed() {
    let endless = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}",
        32 << 20,
        " ".repeat(17 << 20)
    );
    for other in [
        answer(200, "5.0.0", "<html>"),
        answer(200, "5.0.0", r#"[{"Name":"x"}]"#),
        answer(500, "5.0.0", "it broke"),
        endless,
    ] {
        let server = Scripted::play(vec![other]);
        let error = block_on(server.client().secrets()).unwrap_err();
        assert_eq!(error.kind(), Kind::BadAnswer, "{error}");
        assert!(!error.to_string().contains("it broke"), "{error}");
    }
    let no_id = Scripted::play(vec![answer(200, "5.0.0", r#"{"ID":""}"#)]);
    let error = create(&no_id.client(), "app--KEY", b"x", &Map::new()).unwrap_err();
    assert_eq!(error.kind(), Kind::BadAnswer, "{error}");
}

#[test]
fn an_answer_that_breaks_off_is_no_answer() {
    let cut = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[".to_owned();
    let server = Scripted::play(vec![cut]);
    let error = block_on(server.client().secrets()).unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable, "{error}");
}
