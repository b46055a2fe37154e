//! The provider against a small scripted server. Whatever must not show up in a message has
//! `MARK` in it.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::config::Environment;
use crate::mapping::ProviderName;

mod tls;

/// What the server does with one request.
enum Reply {
    /// Writes these bytes, then closes.
    Bytes(Vec<u8>),
    /// Writes these bytes after a while.
    Late(Duration, Vec<u8>),
    /// Closes without a byte.
    Close,
    /// Neither answers nor closes.
    Hang,
}

fn reply(status: u16, body: &str) -> Reply {
    reply_with(status, "", body)
}

fn reply_with(status: u16, headers: &str, body: &str) -> Reply {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n"
    );
    Reply::Bytes((head + body).into_bytes())
}

fn refusal(status: u16, error: &str) -> Reply {
    let body = format!(r#"{{"statusCode":{status},"message":"MARK","error":"{error}"}}"#);
    reply(status, &body)
}

fn no_route() -> Reply {
    reply(
        404,
        r#"{"message":"Route GET:/MARK not found","error":"Not Found","statusCode":404}"#,
    )
}

fn granted(token: &str) -> String {
    format!(r#"{{"accessToken":"{token}","expiresIn":3600,"tokenType":"Bearer"}}"#)
}

fn one(key: &str, value: &str) -> Reply {
    let body = format!(r#"{{"secret":{{"secretKey":"{key}","secretValue":"{value}"}}}}"#);
    reply(200, &body)
}

fn listing(secrets: &str) -> Reply {
    reply(200, &format!(r#"{{"secrets":[{secrets}]}}"#))
}

const A: &str = r#"{"secretKey":"A","secretValue":"MARK-a","secretPath":"/app"}"#;

/// A server that answers logins and everything else as it is told.
struct Scripted {
    address: std::net::SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    /// `answer` gets the request and how many of its kind, logins or others, came before it.
    async fn start(answer: impl Fn(&str, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            requests: Arc::default(),
        };
        let (requests, answer) = (Arc::clone(&server.requests), Arc::new(answer));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (requests, answer) = (Arc::clone(&requests), Arc::clone(&answer));
                tokio::spawn(serve(stream, requests, answer));
            }
        });
        server
    }

    /// Grants every login and answers `replies` in turn; closes once they are used up.
    async fn play(replies: impl IntoIterator<Item = Reply>) -> Self {
        let replies: Mutex<VecDeque<_>> = Mutex::new(replies.into_iter().collect());
        Self::start(move |request, n| match is_login(request) {
            true => reply(200, &granted(&format!("MARK-token-{n}"))),
            false => replies.lock().unwrap().pop_front().unwrap_or(Reply::Close),
        })
        .await
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    fn logins(&self) -> Vec<String> {
        self.requests()
            .into_iter()
            .filter(|r| is_login(r))
            .collect()
    }

    /// All requests but the logins.
    fn asked(&self) -> Vec<String> {
        self.requests()
            .into_iter()
            .filter(|r| !is_login(r))
            .collect()
    }

    fn counts(&self) -> (usize, usize) {
        (self.logins().len(), self.asked().len())
    }
}

fn is_login(request: &str) -> bool {
    let line = request.lines().next().unwrap_or_default();
    line.starts_with("POST ") && line.contains("/api/v1/auth/universal-auth/login ")
}

async fn serve(
    mut stream: TcpStream,
    requests: Arc<Mutex<Vec<String>>>,
    answer: Arc<impl Fn(&str, usize) -> Reply>,
) {
    let request = read_request(&mut stream).await;
    let before = {
        let mut requests = requests.lock().unwrap();
        let alike = |r: &&String| is_login(r) == is_login(&request);
        let before = requests.iter().filter(alike).count();
        requests.push(request.clone());
        before
    };
    let bytes = match answer(&request, before) {
        Reply::Bytes(bytes) => bytes,
        Reply::Late(wait, bytes) => {
            sleep(wait).await;
            bytes
        }
        Reply::Close => return,
        Reply::Hang => return sleep(Duration::from_secs(60)).await,
    };
    let _ = stream.write_all(&bytes).await;
}

async fn read_request(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|l| l.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |n| n.parse().unwrap()) {
                return text;
            }
        }
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk).await.unwrap() {
            0 => return text,
            n => request.extend_from_slice(&chunk[..n]),
        }
    }
}

const PROJECTS: &str = "
      auth: {method: universal-auth, client_id: shared, client_secret: MARK-secret}
      projects:
        p: {id: id-p, environment: dev}
        q: {id: id-q}
        own: {id: id-own, auth: {method: universal-auth, client_id: own-id}}
        cloud: {id: id-cloud, auth: {method: aws-iam, identity_id: x}}
";

struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    fn config(&self, api_url: &str, settings: &str) -> Result<Config> {
        let path = self.config_file();
        let text = format!("providers:\n  infisical:\n      api_url: {api_url}{settings}");
        std::fs::write(&path, text).unwrap();
        Config::load(Some(&path), false, &Environment::default())
    }

    fn config_file(&self) -> PathBuf {
        self.dir.path().join("config.yaml")
    }

    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir }
    }
}

fn no_credentials(_: &str) -> Result<Option<SecretValue>> {
    Ok(None)
}

fn open_as(
    server: &Scripted,
    settings: &str,
    credentials: FindCredential<'_>,
    timeout: Duration,
) -> Infisical {
    let api_url = format!("http://{}", server.address);
    let config = Fixture::new().config(&api_url, settings).unwrap();
    let settings = config.providers.infisical.as_ref().unwrap();
    Infisical::with_timeout(&config, settings, credentials, timeout).unwrap()
}

fn open(server: &Scripted) -> Infisical {
    open_as(server, PROJECTS, &no_credentials, Duration::from_secs(20))
}

fn source(path: &str) -> Source {
    Source {
        project: "p".to_owned(),
        path: path.to_owned(),
        recursive: false,
    }
}

fn mapping(project: &str, key: &str) -> Mapping {
    let fields = [("project", project), ("path", "/app"), ("key", key)];
    Mapping::new(ProviderName::Infisical, fields)
}

fn within(time: Duration) -> Instant {
    Instant::now() + time
}

fn soon() -> Instant {
    within(Duration::from_secs(20))
}

async fn discover(provider: &Infisical, until: Instant) -> Result<Vec<Discovered>> {
    Provider::discover(provider, &source("/app"), until).await
}

async fn lookup(provider: &Infisical, project: &str, key: &str) -> Result<SecretValue> {
    Provider::lookup(provider, &mapping(project, key)).await
}

/// The text of an error of that kind, which has a next step and nothing of what is marked.
fn failed<T>(outcome: Result<T>, kind: Kind) -> String {
    let error = outcome.err().expect("a failure");
    let text = format!("{error}; next: {}", error.next_step().expect("a next step"));
    assert_eq!(error.kind(), kind, "{text}");
    assert!(!format!("{text} {error:?}").contains("MARK"), "{error:?}");
    text
}

#[tokio::test]
async fn a_listing_logs_in_and_asks_once() {
    let server = Scripted::play([listing(A)]).await;
    let found = discover(&open(&server), soon()).await.unwrap();
    let [secret] = found.as_slice() else {
        panic!("{found:?}")
    };
    assert_eq!(secret.value.expose(), b"MARK-a");
    assert_eq!(secret.key, "A");
    assert_eq!(secret.mapping, mapping("p", "A"));

    let [login] = server.logins().try_into().unwrap();
    assert!(!login.contains("authorization:"), "{login}");
    let body = login.split_once("\r\n\r\n").unwrap().1;
    assert_eq!(
        body,
        r#"{"clientId":"shared","clientSecret":"MARK-secret"}"#
    );
    let [asked] = server.asked().try_into().unwrap();
    assert_eq!(
        asked.lines().next().unwrap(),
        "GET /api/v4/secrets?projectId=id-p&environment=dev&secretPath=%2Fapp\
         &include_imports=true&includeImports=true&expandSecretReferences=true\
         &viewSecretValue=true&recursive=false HTTP/1.1"
    );
    assert!(asked.contains("\r\nauthorization: Bearer MARK-token-0\r\n"));
    assert!(!asked.contains("accept-encoding"), "{asked}");
}

#[tokio::test]
async fn each_answer_to_a_lookup_is_sorted_and_only_a_rejected_token_is_followed_by_a_login() {
    let validation = r#"{"error":"ValidationFailure","message":[{"path":"MARK"}]}"#;
    let cut = b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{\"secret\": \"MARK".to_vec();
    let cases = [
        (refusal(401, "UnauthorizedError"), Kind::Denied, 2),
        (refusal(403, "TokenError"), Kind::Denied, 2),
        (reply(401, validation), Kind::Config, 1),
        (refusal(403, "PermissionDenied"), Kind::Denied, 1),
        (
            refusal(403, "Identity is not a member of x"),
            Kind::Denied,
            1,
        ),
        (refusal(404, "NotFound"), Kind::NotFound, 1),
        (refusal(400, "BadRequest"), Kind::Config, 1),
        (refusal(429, "RateLimitExceeded"), Kind::Unreachable, 1),
        (refusal(500, "InternalServerError"), Kind::Unreachable, 1),
        (reply(504, "<html>MARK"), Kind::Unreachable, 1),
        (Reply::Close, Kind::Unreachable, 1),
        (Reply::Bytes(cut), Kind::Unreachable, 1),
        (reply(200, "<html>MARK</html>"), Kind::BadAnswer, 1),
        (
            reply(200, r#"{"secret":{"secretKey":"A","secret"#),
            Kind::BadAnswer,
            1,
        ),
        (
            reply(200, r#"{"secret":{"secretKey":"A","secretValue":7}}"#),
            Kind::BadAnswer,
            1,
        ),
        (
            reply(200, r#"{"secret":{"secretKey":"A"}}"#),
            Kind::BadAnswer,
            1,
        ),
        (one("B", "MARK"), Kind::BadAnswer, 1),
        (one("A", "<hidden-by-infisical>"), Kind::Refused, 1),
    ];
    for (answer, kind, logins) in cases {
        let server = Scripted::play([answer, refusal(401, "UnauthorizedError")]).await;
        let text = failed(lookup(&open(&server), "p", "A").await, kind);
        assert!(
            text.starts_with("cannot look up \"A\" in \"/app\" of project \"p\": "),
            "{text}"
        );
        assert_eq!(server.counts(), (logins, logins), "{text}");
    }
}

#[tokio::test]
async fn an_empty_value_is_a_value() {
    let server = Scripted::play([one("A", "")]).await;
    let value = lookup(&open(&server), "p", "A").await.unwrap();
    assert_eq!(value.expose(), b"");
}

#[tokio::test]
async fn what_may_pass_is_asked_again() {
    let cut = b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{\"secrets\": [".to_vec();
    for trouble in [
        refusal(500, "InternalServerError"),
        reply(502, ""),
        reply(503, ""),
        reply(504, ""),
        reply(429, ""),
        Reply::Close,
        Reply::Bytes(cut),
    ] {
        let server = Scripted::play([trouble, listing(A)]).await;
        let found = discover(&open(&server), soon()).await.unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(server.counts(), (1, 2));
    }
}

#[tokio::test]
async fn what_will_not_pass_is_asked_once() {
    for (answer, kind) in [
        (refusal(403, "PermissionDenied"), Kind::Denied),
        (refusal(404, "NotFound"), Kind::NotFound),
        (refusal(400, "BadRequest"), Kind::Config),
        (reply(200, "<html>MARK</html>"), Kind::BadAnswer),
        (reply(200, r#"{"secrets": [{"secretKey"#), Kind::BadAnswer),
        (reply(200, r#"{"secrets": {}}"#), Kind::BadAnswer),
        (reply(200, "[[]]"), Kind::BadAnswer),
        (
            listing(&A.replace("MARK-a", "<hidden-by-infisical>")),
            Kind::Refused,
        ),
        (
            listing(&[A, A].join(",").replacen("MARK-a", "MARK-b", 1)),
            Kind::Refused,
        ),
    ] {
        let server = Scripted::play([answer]).await;
        let text = failed(discover(&open(&server), soon()).await, kind);
        assert!(
            text.starts_with("cannot list \"/app\" of project \"p\": "),
            "{text}"
        );
        assert_eq!(server.counts(), (1, 1), "{text}");
    }
}

#[tokio::test]
async fn a_rejected_token_is_followed_by_one_new_login() {
    let rejected = || refusal(401, "UnauthorizedError");
    let server = Scripted::play([rejected(), listing(A), listing(A)]).await;
    let provider = open(&server);
    for _ in 0..2 {
        assert_eq!(discover(&provider, soon()).await.unwrap().len(), 1);
    }
    assert_eq!(server.counts(), (2, 3));
    assert!(server.asked()[1].contains("Bearer MARK-token-1"));

    let server = Scripted::play([rejected(), reply(503, ""), rejected(), listing(A)]).await;
    failed(discover(&open(&server), soon()).await, Kind::Denied);
    assert_eq!(
        server.counts(),
        (2, 3),
        "once per call, whatever comes between"
    );
}

#[tokio::test]
async fn many_at_once_share_one_login() {
    let server = Scripted::start(|request, n| match is_login(request) {
        true => {
            let Reply::Bytes(bytes) = reply(200, &granted(&format!("MARK-{n}"))) else {
                return Reply::Close;
            };
            Reply::Late(Duration::from_millis(200), bytes)
        }
        // The first token ends after the first request.
        false if n > 0 && request.contains("Bearer MARK-0") => refusal(401, "UnauthorizedError"),
        false => one("A", "1"),
    })
    .await;
    let provider = Arc::new(open(&server));
    lookup(&provider, "p", "A").await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for project in ["p", "q"].repeat(10) {
        let provider = Arc::clone(&provider);
        tasks.spawn(async move { lookup(&provider, project, "A").await });
    }
    let outcomes = tasks.join_all().await;
    assert!(outcomes.iter().all(|outcome| outcome.is_ok()));
    assert_eq!(server.logins().len(), 2, "one, and one after the rejection");
}

#[tokio::test]
async fn many_at_once_share_a_failed_login() {
    let failing = |request: &str, _| match is_login(request) {
        true => Reply::Late(
            Duration::from_millis(200),
            b"HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n".to_vec(),
        ),
        false => Reply::Close,
    };
    let server = Scripted::start(failing).await;
    let provider = Arc::new(open(&server));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let provider = Arc::clone(&provider);
        tasks.spawn(async move { lookup(&provider, "p", "A").await });
    }
    for outcome in tasks.join_all().await {
        failed(outcome, Kind::Unreachable);
    }
    assert_eq!(server.counts(), (1, 0));
    failed(lookup(&provider, "p", "A").await, Kind::Unreachable);
    assert_eq!(server.counts(), (2, 0), "a later call tries again");
}

#[tokio::test]
async fn a_login_is_sorted_like_everything_else() {
    let cases = [
        (refusal(401, "UnauthorizedError"), Kind::Denied),
        (refusal(403, "ForbiddenError"), Kind::Denied),
        (refusal(404, "NotFound"), Kind::Denied),
        (no_route(), Kind::BadAnswer),
        (refusal(422, "ValidationFailure"), Kind::Config),
        (reply(200, "<html>MARK"), Kind::BadAnswer),
        (reply(200, r#"{"accessToken":"MARK"}"#), Kind::BadAnswer),
        (reply(200, &granted("")), Kind::BadAnswer),
        (reply(200, &granted("MARK\\n")), Kind::BadAnswer),
        (reply_with(302, "location: /MARK\r\n", ""), Kind::BadAnswer),
    ];
    for (answer, kind) in cases {
        let answer = Mutex::new(Some(answer));
        let server = Scripted::start(move |_, _| answer.lock().unwrap().take().unwrap()).await;
        failed(discover(&open(&server), soon()).await, kind);
        assert_eq!(server.counts(), (1, 0));
    }
}

#[tokio::test]
async fn a_login_is_tried_again_when_that_may_help() {
    for trouble in [reply(500, ""), reply(429, ""), Reply::Close] {
        let answers = Mutex::new(VecDeque::from([
            trouble,
            reply(200, &granted("t")),
            listing(A),
        ]));
        let server =
            Scripted::start(move |_, _| answers.lock().unwrap().pop_front().unwrap()).await;
        assert_eq!(discover(&open(&server), soon()).await.unwrap().len(), 1);
        assert_eq!(server.counts(), (2, 1));
    }
}

#[tokio::test]
async fn a_denied_login_is_not_repeated_at_once() {
    let server = Scripted::start(|_, _| refusal(401, "UnauthorizedError")).await;
    let provider = open(&server);
    for project in ["p", "q"] {
        let text = failed(lookup(&provider, project, "A").await, Kind::Denied);
        assert!(text.contains("client id shared"), "{text}");
    }
    assert_eq!(server.counts(), (1, 0));
}

#[tokio::test]
async fn a_token_is_reused_no_longer_than_it_or_the_configuration_says() {
    let short = r#"{"accessToken":"t","expiresIn":0}"#;
    let endless = format!(r#"{{"accessToken":"t","expiresIn":{}}}"#, u64::MAX);
    let no_reuse = format!("\n      token: {{ttl: 0}}{PROJECTS}");
    for (settings, login, logins) in [
        (PROJECTS, granted("t"), 1),
        (PROJECTS, short.to_owned(), 2),
        (PROJECTS, endless, 1),
        (no_reuse.as_str(), granted("t"), 2),
    ] {
        let server = Scripted::start(move |request, _| match is_login(request) {
            true => reply(200, &login),
            false => one("A", "1"),
        })
        .await;
        let provider = open_as(&server, settings, &no_credentials, Duration::from_secs(20));
        for _ in 0..2 {
            lookup(&provider, "p", "A").await.unwrap();
        }
        assert_eq!(server.logins().len(), logins);
    }
}

#[tokio::test]
async fn an_older_server_is_asked_in_its_own_way_and_that_is_remembered() {
    let server = Scripted::play([no_route(), listing(A), one("A", "1"), no_route()]).await;
    let provider = open(&server);
    assert_eq!(discover(&provider, soon()).await.unwrap().len(), 1);
    lookup(&provider, "p", "A").await.unwrap();
    failed(lookup(&provider, "p", "A").await, Kind::NotFound);
    let asked: Vec<_> = server.asked();
    assert!(asked[0].starts_with("GET /api/v4/secrets?projectId=id-p&"));
    assert!(asked[1].starts_with("GET /api/v3/secrets/raw?workspaceId=id-p&"));
    assert!(asked[2].starts_with("GET /api/v3/secrets/raw/A?workspaceId=id-p&"));
    assert!(asked[3].starts_with("GET /api/v3/secrets/raw/A?"));
    assert_eq!(server.counts(), (1, 4));
}

#[tokio::test]
async fn a_newer_server_is_not_asked_in_the_old_way() {
    let server = Scripted::play([one("A", "1"), no_route(), refusal(404, "NotFound")]).await;
    let provider = open(&server);
    lookup(&provider, "p", "A").await.unwrap();
    for _ in 0..2 {
        failed(lookup(&provider, "p", "A").await, Kind::NotFound);
    }
    assert!(
        server
            .asked()
            .iter()
            .all(|r| r.starts_with("GET /api/v4/secrets/A?"))
    );
    assert_eq!(server.counts(), (1, 3));
}

#[tokio::test]
async fn a_name_too_long_for_either_version_is_not_found_and_decides_nothing() {
    let server = Scripted::play([no_route(), no_route(), one("A", "1")]).await;
    let provider = open(&server);
    let long = "L".repeat(101);
    failed(lookup(&provider, "p", &long).await, Kind::NotFound);
    lookup(&provider, "p", "A").await.unwrap();
    assert!(server.asked()[2].starts_with("GET /api/v4/"));
}

#[tokio::test]
async fn a_limited_request_waits_as_long_as_the_server_says() {
    let limited = |wait: &str| reply_with(429, &format!("retry-after: {wait}\r\n"), "");
    let server = Scripted::play([limited("1"), listing(A)]).await;
    let start = Instant::now();
    discover(&open(&server), soon()).await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1));

    let server = Scripted::play([limited("3600"), listing(A)]).await;
    let start = Instant::now();
    let text = failed(discover(&open(&server), soon()).await, Kind::Unreachable);
    assert!(text.contains("429"), "{text}");
    assert!(
        start.elapsed() < Duration::from_secs(15),
        "it is no use to wait"
    );
    assert_eq!(server.counts(), (1, 1));
}

#[tokio::test]
async fn nothing_is_asked_once_the_time_is_over() {
    let server = Scripted::play([listing(A)]).await;
    failed(
        discover(&open(&server), Instant::now()).await,
        Kind::Unreachable,
    );
    assert_eq!(server.requests(), [""; 0]);
}

#[tokio::test]
async fn a_server_that_stays_down_is_given_up_in_time_with_the_last_cause() {
    let server = Scripted::start(|_, _| reply(503, "MARK")).await;
    let start = Instant::now();
    let until = within(Duration::from_millis(1500));
    let text = failed(discover(&open(&server), until).await, Kind::Unreachable);
    assert!(text.contains("/login answers 503"), "{text}");
    assert!(server.logins().len() >= 2);
    assert!(start.elapsed() < Duration::from_secs(15));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unreachable() {
    let server = Scripted::play([]).await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = Scripted {
        address: closed.local_addr().unwrap(),
        ..server
    };
    drop(closed);
    let until = within(Duration::from_millis(600));
    let text = failed(discover(&open(&gone), until).await, Kind::Unreachable);
    assert!(text.contains("Connection refused"), "{text}");
}

#[tokio::test]
async fn a_silent_server_costs_one_attempt_or_the_time_there_is() {
    let server = Scripted::play([Reply::Hang, listing(A)]).await;
    let provider = open_as(
        &server,
        PROJECTS,
        &no_credentials,
        Duration::from_millis(300),
    );
    assert_eq!(discover(&provider, soon()).await.unwrap().len(), 1);

    let server = Scripted::play([reply(503, ""), Reply::Hang]).await;
    let until = within(Duration::from_millis(1500));
    let text = failed(discover(&open(&server), until).await, Kind::Unreachable);
    assert!(text.contains("503"), "the last real cause: {text}");
}

#[tokio::test]
async fn an_answer_of_more_than_16_mib_is_refused_as_soon_as_that_is_known() {
    let announced = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n",
        (16 << 20) + 1
    );
    let mut chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..18 {
        chunked.extend_from_slice(b"100000\r\n");
        chunked.extend_from_slice(&[b' '; 1 << 20]);
        chunked.extend_from_slice(b"\r\n");
    }
    for bytes in [announced.into_bytes(), chunked] {
        let server = Scripted::play([Reply::Bytes(bytes)]).await;
        let text = failed(discover(&open(&server), soon()).await, Kind::Refused);
        assert!(text.contains("16 MiB"), "{text}");
        assert_eq!(server.counts(), (1, 1));
    }
}

#[tokio::test]
async fn an_answer_of_several_mib_is_taken() {
    let long = "x".repeat(5 << 20);
    let server = Scripted::play([listing(&A.replace("MARK-a", &long))]).await;
    let found = discover(&open(&server), soon()).await.unwrap();
    assert_eq!(found[0].value.expose(), long.as_bytes());
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let other = Scripted::play([listing(A)]).await;
    let location = format!("location: http://{}/?MARK\r\n", other.address);
    for status in [301, 302, 307, 308] {
        let server = Scripted::play([reply_with(status, &location, "")]).await;
        failed(discover(&open(&server), soon()).await, Kind::BadAnswer);
    }
    assert_eq!(other.requests(), [""; 0]);
}

#[tokio::test]
async fn a_name_is_one_part_of_the_path_whatever_is_in_it() {
    for (name, encoded) in [
        ("a.b", "a.b"),
        ("a/../b", "a%2F..%2Fb"),
        ("a b", "a%20b"),
        ("ü", "%C3%BC"),
        ("%2e%2e", "%252e%252e"),
        ("a?b#c", "a%3Fb%23c"),
        ("a\\\\b", "a%5Cb"),
    ] {
        let server = Scripted::play([one(name, "1")]).await;
        let asked_name = name.replace("\\\\", "\\");
        lookup(&open(&server), "p", &asked_name).await.unwrap();
        let begin = format!("GET /api/v4/secrets/{encoded}?projectId=");
        assert!(
            server.asked()[0].starts_with(&begin),
            "{:?}",
            server.asked()
        );
    }
    let server = Scripted::play([]).await;
    for name in [".", "..", "a\nb"] {
        failed(lookup(&open(&server), "p", name).await, Kind::NotFound);
    }
    assert_eq!(server.requests(), [""; 0]);
}

#[tokio::test]
async fn a_path_in_front_of_the_api_is_kept() {
    let server = Scripted::play([one("A", "1")]).await;
    let api_url = format!("http://{}/secrets", server.address);
    let config = Fixture::new().config(&api_url, PROJECTS).unwrap();
    let settings = config.providers.infisical.as_ref().unwrap();
    let provider = Infisical::open(&config, settings, &no_credentials).unwrap();
    lookup(&provider, "p", "A").await.unwrap();
    let [login, asked] = server.requests().try_into().unwrap();
    assert!(login.starts_with("POST /secrets/api/v1/auth/universal-auth/login "));
    assert!(asked.starts_with("GET /secrets/api/v4/secrets/A?"));
}

/// What is logged, for a look at it later.
#[derive(Clone, Default)]
struct Journal(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Journal {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_reference_that_was_left_and_an_empty_folder_are_logged_without_values() {
    let journal = Journal::default();
    let writer = journal.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let left = A.replace("MARK-a", "MARK ${MARK}");
    let server = Scripted::play([listing(&left), listing("")]).await;
    let provider = open(&server);
    let found = discover(&provider, soon()).await.unwrap();
    assert_eq!(found[0].value.expose(), b"MARK ${MARK}");
    assert_eq!(discover(&provider, soon()).await.unwrap().len(), 0);
    let logged = String::from_utf8(journal.0.lock().unwrap().clone()).unwrap();
    assert!(
        logged.contains("the value of \"A\" in /app of project p"),
        "{logged}"
    );
    assert!(
        logged.contains("folder /app of project p has no secrets"),
        "{logged}"
    );
    assert!(!logged.contains("MARK"), "{logged}");
}

#[tokio::test]
async fn a_folder_that_the_server_cannot_list_is_not_asked_for() {
    let server = Scripted::play([]).await;
    let provider = open(&server);
    for path in ["/my.app", "/my app", "/ü"] {
        let listed = Provider::discover(&provider, &source(path), soon()).await;
        let text = failed(listed, Kind::Config);
        assert!(text.contains(path), "{text}");
    }
    assert_eq!(server.requests(), [""; 0]);
}

#[tokio::test]
async fn the_credential_goes_before_the_configured_secret() {
    let credentials = |name: &str| {
        let secret = match name {
            "infisical-client-secret" => Some("MARK-global\n"),
            "infisical-client-secret.own" => Some("MARK-own"),
            _ => None,
        };
        Ok(secret.map(|text| SecretValue::new(text.into())))
    };
    let server = Scripted::play([one("A", "1"), one("A", "1"), one("A", "1")]).await;
    let provider = open_as(&server, PROJECTS, &credentials, Duration::from_secs(20));
    for project in ["p", "own", "q"] {
        lookup(&provider, project, "A").await.unwrap();
    }
    let [shared, own] = server.logins().try_into().unwrap();
    assert!(shared.ends_with(r#"{"clientId":"shared","clientSecret":"MARK-global"}"#));
    assert!(own.ends_with(r#"{"clientId":"own-id","clientSecret":"MARK-own"}"#));
}

#[tokio::test]
async fn a_login_that_cannot_be_tried_fails_its_own_project_only() {
    let unreadable = |name: &str| match name {
        "infisical-client-secret.own" => Err(Error::new(Kind::Io, "cannot read it").hint("fix it")),
        _ => Ok(None),
    };
    let server = Scripted::play([one("A", "1"), one("A", "1")]).await;
    let provider = open(&server);
    let text = failed(lookup(&provider, "own", "A").await, Kind::Config);
    assert!(
        text.contains("credential infisical-client-secret.own "),
        "{text}"
    );
    assert!(text.contains("`client_secret` in "), "{text}");
    assert!(text.contains("config.yaml"), "{text}");
    let text = failed(lookup(&provider, "cloud", "A").await, Kind::Config);
    assert!(text.contains("aws-iam"), "{text}");
    lookup(&provider, "p", "A").await.unwrap();
    let provider = open_as(&server, PROJECTS, &unreadable, Duration::from_secs(20));
    failed(lookup(&provider, "own", "A").await, Kind::Io);
    lookup(&provider, "p", "A").await.unwrap();
}

#[tokio::test]
async fn a_mapping_that_does_not_lead_anywhere_says_why() {
    let server = Scripted::play([]).await;
    let provider = open(&server);
    let text = failed(lookup(&provider, "gone", "A").await, Kind::Config);
    assert!(
        text.contains("\"gone\"") && text.contains("\"own\", \"p\", \"q\""),
        "{text}"
    );
    for fields in [
        [("project", "p"), ("path", "/app"), ("kee", "A")],
        [("project", "p"), ("path", "/app"), ("key", "")],
        [("project", "p"), ("path", "/../x"), ("key", "A")],
        [("project", ""), ("path", "/app"), ("key", "A")],
    ] {
        let mapping = Mapping::new(ProviderName::Infisical, fields);
        failed(Provider::lookup(&provider, &mapping).await, Kind::Damaged);
    }
    assert_eq!(server.requests(), [""; 0]);
}

#[test]
fn a_trust_root_that_cannot_be_used_is_named() {
    let fixture = Fixture::new();
    let file = fixture.dir.path().join("ca.pem");
    let settings = format!("\n      ca_cert: {}{PROJECTS}", file.display());
    let opened = || {
        let config = fixture.config("https://localhost", &settings).unwrap();
        let found = crate::provider::open(&config, ProviderName::Infisical, &no_credentials);
        found.map(|_| ())
    };
    let garbled = "-----BEGIN CERTIFICATE-----\nMARK\n-----END CERTIFICATE-----\n";
    for content in [None, Some(""), Some("MARK"), Some(garbled)] {
        if let Some(content) = content {
            std::fs::write(&file, content).unwrap();
        }
        let text = failed(opened(), Kind::Config);
        assert!(text.contains("ca.pem"), "{text}");
    }
}
