//! `psi-secret` as Podman runs it, against small scripted servers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_psi-secret");
const ID: &str = "0123456789abcdef012345678";
const TOKEN: &str = "Token-for.tests_1";

/// What the server does with one connection.
enum Step {
    /// Reads the request and writes these bytes, then closes.
    Answer(Vec<u8>),
    /// Closes with the request unread, which resets the connection.
    Reset,
}

/// A psi-serve that plays `steps`, one a connection, and is gone after the last one.
struct Server {
    dir: TempDir,
    requests: Receiver<Vec<u8>>,
}

impl Server {
    fn play(steps: Vec<Step>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let requests = listen(dir.path().join("s"), steps);
        Self { dir, requests }
    }

    fn answers(status: &str, body: &[u8]) -> Self {
        Self::play(vec![Step::Answer(answer(status, body))])
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    /// The next request, as it came.
    fn request(&self) -> String {
        let bytes = self.requests.recv_timeout(Duration::from_secs(20)).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    fn asked_again(&self) -> bool {
        self.requests.try_recv().is_ok()
    }
}

fn listen(socket: PathBuf, steps: Vec<Step>) -> Receiver<Vec<u8>> {
    let listener = UnixListener::bind(&socket).unwrap();
    let (sender, requests) = channel();
    thread::spawn(move || {
        for step in steps {
            let (mut stream, _) = listener.accept().unwrap();
            if let Step::Answer(bytes) = step {
                let _ = sender.send(read_request(&mut stream));
                let _ = stream.write_all(&bytes);
            }
        }
        drop(listener);
        let _ = fs::remove_file(socket);
    });
    requests
}

fn read_request(stream: &mut UnixStream) -> Vec<u8> {
    let mut request = Vec::new();
    let mut chunk = [0; 4096];
    while !is_whole(&request) {
        match stream.read(&mut chunk).unwrap() {
            0 => break,
            n => request.extend_from_slice(&chunk[..n]),
        }
    }
    request
}

fn is_whole(request: &[u8]) -> bool {
    let Some(end) = request.windows(4).position(|w| w == b"\r\n\r\n") else {
        return false;
    };
    let head = str::from_utf8(&request[..end]).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: "))
        .map_or(0, |n| n.parse().unwrap());
    request.len() >= end + 4 + length
}

fn answer(status: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: x/y\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// The program in Podman's place for a health check: no environment but PATH and the id.
fn driver(command: &str, id: &[u8], socket: &Path) -> Command {
    let mut program = Command::new(PROGRAM);
    program
        .args([command, "--socket"])
        .arg(socket)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("SECRET_ID", std::ffi::OsStr::from_bytes(id));
    program
}

fn lookup(socket: &Path) -> Output {
    driver("lookup", ID.as_bytes(), socket).output().unwrap()
}

fn run_with_input(mut command: Command, input: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that refuses the input stops reading it.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn succeeded(output: &Output) -> &[u8] {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert_eq!(stderr, "", "nothing to say on success");
    &output.stdout
}

/// The one line of a failure with that exit status.
fn failed(output: &Output, status: i32) -> String {
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(status), "{stderr}");
    assert!(output.stdout.is_empty(), "nothing on stdout");
    assert!(stderr.starts_with("<3>psi-secret: "), "{stderr}");
    assert!(stderr.contains("; next: "), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.ends_with('\n'));
    stderr
}

fn token_file(dir: &Path, text: &str, mode: u32) -> PathBuf {
    let path = dir.join("token");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

#[test]
fn a_value_is_written_byte_for_byte() {
    let large: Vec<u8> = (0..1_000_000u32).map(|i| (i * 7 / 3) as u8).collect();
    for value in [&b"plain"[..], b"\0\n\r\n\xff\n\n", b"", &large] {
        let server = Server::answers("200 OK", value);
        assert!(succeeded(&lookup(&server.socket())) == value);
        let request = server.request();
        assert!(request.starts_with(&format!("GET /lookup/{ID} HTTP/1.1\r\nHost: psi\r\n")));
        assert!(request.contains("\r\nConnection: close\r\n"));
        assert!(request.ends_with("\r\n\r\n"));
    }
}

#[test]
fn a_name_can_be_looked_up() {
    let server = Server::answers("200 OK", b"v");
    let output = driver("lookup", b"_my.name-1", &server.socket())
        .output()
        .unwrap();
    assert_eq!(succeeded(&output), b"v");
    assert!(server.request().starts_with("GET /lookup/_my.name-1 "));
}

#[test]
fn a_refusal_is_told_with_its_cause_and_the_next_step_and_not_repeated() {
    for status in ["400 Bad", "401 No", "404 No", "500 Oh", "502 Oh", "504 Oh"] {
        let body = r#"{"error":"code","detail":"no \"mapping\"\nhere","hint":"run it"}"#;
        let server = Server::play(vec![
            Step::Answer(answer(status, body.as_bytes())),
            Step::Answer(answer("200 OK", b"late")),
        ]);
        let line = failed(&lookup(&server.socket()), 1);
        let code = &status[..3];
        assert_eq!(
            line,
            format!(
                "<3>psi-secret: cannot look up {ID}: psi-serve answers {code}: \
                 no \"mapping\" here; next: run it\n"
            )
        );
        server.request();
        assert!(!server.asked_again());
    }
}

#[test]
fn a_refusal_without_readable_text_still_has_a_next_step() {
    for body in ["", "<html>oops</html>", "{\"detail\":"] {
        let server = Server::answers("502 Bad Gateway", body.as_bytes());
        let line = failed(&lookup(&server.socket()), 1);
        assert!(
            line.contains("psi-serve answers 502; next: journalctl"),
            "{line}"
        );
    }
}

#[test]
fn an_answer_that_was_cut_short_is_asked_for_again_and_printed_once() {
    let whole = answer("200 OK", b"the value");
    let cut = |at: usize| Step::Answer(whole[..at].to_vec());
    let server = Server::play(vec![
        cut(whole.len() - 1),
        cut(20),
        cut(0),
        Step::Answer(whole.clone()),
    ]);
    assert_eq!(succeeded(&lookup(&server.socket())), b"the value");
}

#[test]
fn resets_and_unavailability_are_waited_out() {
    let busy = || Step::Answer(answer("503 Busy", b"{\"detail\":\"opening the cache\"}"));
    let server = Server::play(vec![
        Step::Reset,
        Step::Reset,
        busy(),
        Step::Reset,
        busy(),
        Step::Answer(answer("200 OK", b"v")),
    ]);
    assert_eq!(succeeded(&lookup(&server.socket())), b"v");
}

#[test]
fn a_socket_that_is_not_there_yet_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("run/s");
    let child = driver("lookup", ID.as_bytes(), &socket)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_secs(1));
    fs::create_dir(socket.parent().unwrap()).unwrap();
    // Bound, but refusing: as after a kill -9 without socket activation.
    drop(UnixListener::bind(&socket).unwrap());
    thread::sleep(Duration::from_millis(200));
    fs::remove_file(&socket).unwrap();
    let _requests = listen(socket, vec![Step::Answer(answer("200 OK", b"v"))]);
    assert_eq!(succeeded(&child.wait_with_output().unwrap()), b"v");
}

#[test]
fn what_is_not_an_answer_is_refused_at_once() {
    for bytes in [
        &b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nv\r\n0\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\r\n\r\nv",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nvalue",
        b"220 mail.example.com\r\n\r\n",
    ] {
        let server = Server::play(vec![Step::Answer(bytes.to_vec())]);
        let line = failed(&lookup(&server.socket()), 1);
        assert!(line.contains("does not answer like psi-serve"), "{line}");
    }
}

#[test]
fn a_value_that_is_too_large_is_refused_before_it_is_read() {
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 70000000\r\n\r\n".to_vec();
    let server = Server::play(vec![Step::Answer(head)]);
    let line = failed(&lookup(&server.socket()), 1);
    assert!(line.contains("70000000 bytes"), "{line}");
}

#[test]
fn a_mapping_is_stored_byte_for_byte() {
    let server = Server::answers("200 OK", b"ok");
    let mapping = "{\"provider\":\"local\",\n\"key\":\"\u{0}A\"}\n\n";
    let output = run_with_input(
        driver("store", ID.as_bytes(), &server.socket()),
        mapping.as_bytes(),
    );
    assert_eq!(succeeded(&output), b"");
    let request = server.request();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with(&format!("POST /store/{ID} HTTP/1.1\r\n")));
    assert!(head.contains("\r\nContent-Type: application/octet-stream"));
    assert_eq!(body, mapping);
}

#[test]
fn the_largest_mapping_is_stored_and_one_byte_more_is_refused() {
    let mut mapping = vec![b'x'; 512_000];
    let server = Server::answers("200 OK", b"ok");
    let output = run_with_input(driver("store", ID.as_bytes(), &server.socket()), &mapping);
    succeeded(&output);
    let request = server.request();
    assert_eq!(request.split_once("\r\n\r\n").unwrap().1.len(), 512_000);

    mapping.push(b'x');
    let nobody = server.dir.path().join("nobody");
    let line = failed(
        &run_with_input(driver("store", ID.as_bytes(), &nobody), &mapping),
        1,
    );
    assert!(line.contains("over 512000 bytes"), "{line}");
}

#[test]
fn an_early_refusal_of_a_large_store_is_understood() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 16]).unwrap();
        let body = br#"{"error":"token","detail":"wrong token","hint":"fix the token"}"#;
        stream.write_all(&answer("401 No", body)).unwrap();
    });
    let output = run_with_input(driver("store", ID.as_bytes(), &socket), &[b'x'; 500_000]);
    server.join().unwrap();
    let line = failed(&output, 1);
    assert!(
        line.contains("401: wrong token; next: fix the token"),
        "{line}"
    );
}

#[test]
fn a_mapping_is_deleted() {
    let server = Server::answers("200 OK", b"ok");
    let output = driver("delete", ID.as_bytes(), &server.socket())
        .output()
        .unwrap();
    assert_eq!(succeeded(&output), b"");
    assert!(
        server
            .request()
            .starts_with(&format!("DELETE /delete/{ID} HTTP/1.1\r\n"))
    );
}

#[test]
fn an_empty_or_malformed_id_fails_without_asking() {
    let dir = tempfile::tempdir().unwrap();
    let nobody = dir.path().join("nobody");
    for command in ["lookup", "store", "delete"] {
        let line = failed(&driver(command, b"", &nobody).output().unwrap(), 64);
        assert!(line.contains("$SECRET_ID is empty"), "{line}");
        let hostile = b"../cache.enc\n\x1b[2J\xff";
        let line = failed(&driver(command, hostile, &nobody).output().unwrap(), 64);
        assert!(line.contains("not a secret id"), "{line}");
        let mut unset = driver(command, b"", &nobody);
        let line = failed(&unset.env_remove("SECRET_ID").output().unwrap(), 64);
        assert!(line.contains("$SECRET_ID is not set"), "{line}");
    }
    for command in ["store", "delete"] {
        failed(&driver(command, b"a-name", &nobody).output().unwrap(), 64);
    }
}

#[test]
fn the_list_is_printed_as_it_came() {
    let list = format!("{ID}\na-name\n");
    let server = Server::answers("200 OK", list.as_bytes());
    let mut command = driver("list", b"", &server.socket());
    let output = command.env_remove("SECRET_ID").output().unwrap();
    assert_eq!(succeeded(&output), list.as_bytes());
    assert!(server.request().starts_with("GET /list HTTP/1.1\r\n"));
}

#[test]
fn the_token_is_sent_and_never_shown() {
    let refusal = Server::answers("401 No", b"{\"detail\":\"wrong token\"}");
    let path = token_file(refusal.dir.path(), &format!("{TOKEN}\n"), 0o600);
    let mut command = driver("lookup", ID.as_bytes(), &refusal.socket());
    let output = command.arg("--token-file").arg(&path).output().unwrap();
    let line = failed(&output, 1);
    assert!(
        line.contains("wrong token") && !line.contains(TOKEN),
        "{line}"
    );
    let request = refusal.request();
    let header = format!("\r\nAuthorization: Bearer {TOKEN}\r\n");
    assert!(request.contains(&header), "{request}");
}

#[test]
fn a_token_file_that_is_open_to_others_or_holds_no_token_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let nobody = dir.path().join("nobody");
    let refused = |path: &Path| {
        let mut command = driver("lookup", ID.as_bytes(), &nobody);
        let output = command.arg("--token-file").arg(path).output().unwrap();
        let line = failed(&output, 1);
        assert!(!line.contains(TOKEN), "{line}");
        line
    };
    for mode in [0o640, 0o604, 0o620] {
        let path = token_file(dir.path(), TOKEN, mode);
        assert!(refused(&path).contains("next: chmod 600"));
    }
    for text in ["", "short", "two words here", "line\nbreak-in-it"] {
        let path = token_file(dir.path(), text, 0o600);
        assert!(refused(&path).contains("holds no token"));
    }
    assert!(refused(&dir.path().join("none")).contains("No such file"));
    assert!(refused(dir.path()).contains("not a regular file"));
}

#[test]
fn the_socket_may_come_from_the_environment() {
    let server = Server::answers("200 OK", b"v");
    let output = Command::new(PROGRAM)
        .arg("lookup")
        .env_clear()
        .env("SECRET_ID", ID)
        .env("PSI_SOCKET", server.socket())
        .output()
        .unwrap();
    assert_eq!(succeeded(&output), b"v");
}

#[test]
fn rootless_podman_uses_the_users_socket() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("psi")).unwrap();
    let _requests = listen(
        dir.path().join("psi/psi.sock"),
        vec![Step::Answer(answer("200 OK", b"v"))],
    );
    let output = Command::new(PROGRAM)
        .arg("lookup")
        .env_clear()
        .env("SECRET_ID", ID)
        .env("_CONTAINERS_ROOTLESS_UID", "1000")
        .env("XDG_RUNTIME_DIR", dir.path())
        .output()
        .unwrap();
    assert_eq!(succeeded(&output), b"v");
}

#[test]
fn a_reader_that_went_away_is_a_failure() {
    let server = Server::answers("200 OK", &[b'x'; 1_000_000]);
    let mut command = driver("lookup", ID.as_bytes(), &server.socket());
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let line = failed(&child.wait_with_output().unwrap(), 1);
    assert!(line.contains("cannot write to stdout"), "{line}");
}

#[test]
fn a_wrong_command_line_says_where_help_is() {
    for words in [
        &["lok"][..],
        &[],
        &["lookup", "extra"],
        &["lookup", "--socket"],
    ] {
        let output = Command::new(PROGRAM).args(words).output().unwrap();
        assert!(failed(&output, 64).contains("next: psi-secret --help"));
    }
    for word in ["--help", "--version"] {
        let output = Command::new(PROGRAM).arg(word).output().unwrap();
        assert!(String::from_utf8_lossy(succeeded(&output)).contains("psi-secret"));
    }
}

#[test]
fn the_program_needs_no_library_but_libc() {
    let output = Command::new("readelf")
        .arg("-d")
        .arg(PROGRAM)
        .output()
        .unwrap();
    let dynamic = String::from_utf8_lossy(succeeded(&output)).into_owned();
    let needed: Vec<&str> = dynamic.lines().filter(|l| l.contains("(NEEDED)")).collect();
    for library in &needed {
        let ours = ["[libc.so", "[libgcc_s.so", "[ld-linux"];
        assert!(ours.iter().any(|l| library.contains(l)), "{library}");
    }
    assert!(!needed.is_empty());
}
