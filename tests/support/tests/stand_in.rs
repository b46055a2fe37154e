//! The stand-in Infisical over raw sockets: every answer that clients have to tell apart.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use psi_test_support::infisical::{Api, Fault, Identity, Route, StandIn, Times};
use serde_json::{Value, json};

const PROJECT: &str = "11111111-1111-1111-1111-111111111111";
const OTHER: &str = "22222222-2222-2222-2222-222222222222";
const LOGIN: &str = "/api/v1/auth/universal-auth/login";
const JSON: &str = "content-type: application/json\r\n";

/// An answer, taken apart.
struct Reply {
    status: String,
    head: String,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        let prefix = format!("{name}: ");
        self.head
            .lines()
            .find_map(|line| line.strip_prefix(&prefix))
    }

    #[track_caller]
    fn is_error(&self, status: &str, error: &str, message: &str) {
        let body = self.json();
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(body["error"], error);
        assert_eq!(body["message"], message);
        assert_eq!(body["statusCode"].to_string(), status[..3]);
    }

    #[track_caller]
    fn is_invalid(&self, field: &str) {
        let body = self.json();
        assert_eq!(self.status, "401 Unauthorized", "{}", self.body);
        assert_eq!(body["error"], "ValidationFailure");
        assert_eq!(body["message"][0]["path"], json!([field]));
    }

    /// Keys and values of a listing, in the order of the answer.
    #[track_caller]
    fn secrets(&self) -> Vec<(String, String)> {
        assert_eq!(self.status, "200 OK", "{}", self.body);
        pairs(&self.json()["secrets"])
    }

    /// The same in alphabetical order.
    #[track_caller]
    fn sorted(&self) -> Vec<(String, String)> {
        let mut secrets = self.secrets();
        secrets.sort();
        secrets
    }

    /// The value of a secret asked for by name.
    #[track_caller]
    fn value(&self) -> String {
        assert_eq!(self.status, "200 OK", "{}", self.body);
        text(&self.json()["secret"]["secretValue"])
    }
}

fn pairs(secrets: &Value) -> Vec<(String, String)> {
    let secrets = secrets.as_array().unwrap().iter();
    secrets
        .map(|s| (text(&s["secretKey"]), text(&s["secretValue"])))
        .collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let pairs = pairs.iter();
    pairs.map(|(k, v)| ((*k).into(), (*v).into())).collect()
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream
}

/// What comes back until the connection ends; an error of the socket is such an end.
fn raw(server: &StandIn, request: &str) -> Vec<u8> {
    let mut stream = connect(server.address());
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

fn request(method: &str, target: &str, headers: &str, body: &str) -> String {
    let length = match (method, body) {
        ("GET", _) => String::new(),
        _ => format!("content-length: {}\r\n", body.len()),
    };
    format!(
        "{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}{length}\r\n{body}"
    )
}

fn ask(server: &StandIn, method: &str, target: &str, headers: &str, body: &str) -> Reply {
    let answer = raw(server, &request(method, target, headers, body));
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.lines().next().unwrap();
    Reply {
        status: status.strip_prefix("HTTP/1.1 ").unwrap().into(),
        head: head.into(),
        body: body.into(),
    }
}

fn post(server: &StandIn, target: &str, headers: &str, body: &Value) -> Reply {
    ask(
        server,
        "POST",
        target,
        &format!("{headers}{JSON}"),
        &body.to_string(),
    )
}

fn login(server: &StandIn) -> Reply {
    post(
        server,
        LOGIN,
        "",
        &json!({"clientId": "id", "clientSecret": "secret"}),
    )
}

fn bearer(server: &StandIn) -> String {
    let token = text(&login(server).json()["accessToken"]);
    format!("authorization: Bearer {token}\r\n")
}

fn get(server: &StandIn, target: &str) -> Reply {
    ask(server, "GET", target, &bearer(server), "")
}

fn list(server: &StandIn, path: &str, more: &str) -> Reply {
    list_in(server, "prod", path, more)
}

fn list_in(server: &StandIn, environment: &str, path: &str, more: &str) -> Reply {
    get(
        server,
        &format!(
            "/api/v3/secrets/raw?workspaceId={PROJECT}&environment={environment}&secretPath={path}{more}"
        ),
    )
}

fn one(server: &StandIn, name: &str, path: &str, more: &str) -> Reply {
    get(
        server,
        &format!(
            "/api/v3/secrets/raw/{name}?workspaceId={PROJECT}&environment=prod&secretPath={path}{more}"
        ),
    )
}

/// A server with one secret in `/myapp` and an identity that may read all of the project.
fn server() -> StandIn {
    let server = StandIn::start();
    server.set(PROJECT, "prod", "/myapp", "DB_HOST", "db");
    server.add_identity(Identity::new("id", "secret").may_read(PROJECT, "/"));
    server
}

// Status codes.

#[test]
fn a_login_answers_a_token_of_the_usual_form() {
    let server = server();
    server.token_life(Duration::from_secs(300), Duration::from_secs(3600));
    let reply = login(&server);
    assert_eq!(reply.status, "200 OK");
    let body = reply.json();
    assert_eq!(body["expiresIn"], 300);
    assert_eq!(body["accessTokenMaxTTL"], 3600);
    assert_eq!(body["tokenType"], "Bearer");
    let token = text(&body["accessToken"]);
    assert_eq!(token.len(), 407);
    assert_eq!(token.split('.').count(), 3);
    assert!(token.starts_with("eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9."));
}

#[test]
fn a_login_trims_and_tells_an_unknown_id_from_a_wrong_secret() {
    let server = server();
    let attempt = |id: &str, secret: &str| {
        post(
            &server,
            LOGIN,
            "",
            &json!({"clientId": id, "clientSecret": secret}),
        )
    };
    assert_eq!(attempt("id\n", " secret\r\n").status, "200 OK");
    attempt("who", "secret").is_error(
        "404 Not Found",
        "NotFound",
        "No identity with specified client ID was found",
    );
    attempt("id", "wrong").is_error(
        "401 Unauthorized",
        "UnauthorizedError",
        "Invalid credentials",
    );
}

#[test]
fn a_token_that_the_server_does_not_take_is_a_401() {
    let server = server();
    let target = format!("/api/v3/secrets/raw?workspaceId={PROJECT}&environment=prod");
    let ask_with = |headers: &str| ask(&server, "GET", &target, headers, "");
    ask_with("").is_error("401 Unauthorized", "UnauthorizedError", "Token missing");

    let revoked = bearer(&server);
    server.forget_tokens();
    let unknown = "No identity access token found";
    ask_with(&revoked).is_error("401 Unauthorized", "UnauthorizedError", unknown);

    server.token_life(Duration::from_secs(60), Duration::from_secs(3600));
    let old = bearer(&server);
    assert_eq!(ask_with(&old).status, "200 OK");
    server.pass(Duration::from_secs(61));
    ask_with(&old).is_error(
        "401 Unauthorized",
        "UnauthorizedError",
        "Failed to renew MI access token due to TTL expiration",
    );
    ask_with(&old).is_error("401 Unauthorized", "UnauthorizedError", unknown);
    server.pass(Duration::from_secs(3600));
    ask_with(&old).is_error(
        "403 Forbidden",
        "TokenError",
        "Your token has expired. Please re-authenticate.",
    );

    server.token_uses(2);
    let few = bearer(&server);
    assert_eq!(ask_with(&few).status, "200 OK");
    assert_eq!(ask_with(&few).status, "200 OK");
    ask_with(&few).is_error(
        "401 Unauthorized",
        "UnauthorizedError",
        "Unable to renew because access token number of uses limit reached",
    );
}

#[test]
fn a_token_that_is_no_token_of_this_server_is_a_403() {
    let server = server();
    let target = format!("/api/v3/secrets/raw?workspaceId={PROJECT}&environment=prod");
    let before = bearer(&server);
    server.change_key();
    ask(&server, "GET", &target, &before, "").is_error(
        "403 Forbidden",
        "TokenError",
        "invalid signature",
    );
    let malformed = "The provided access token is malformed. \
                     Please use a valid token or generate a new one and try again.";
    for bad in [
        "authorization: Bearer nonsense\r\n",
        "authorization: Bearer a.b.c\r\n",
    ] {
        ask(&server, "GET", &target, bad, "").is_error("403 Forbidden", "TokenError", malformed);
        // Even where no token is needed.
        ask(&server, "GET", "/api/status", bad, "").is_error(
            "403 Forbidden",
            "TokenError",
            malformed,
        );
        post(&server, LOGIN, bad, &json!({})).is_error("403 Forbidden", "TokenError", malformed);
    }
    assert_eq!(ask(&server, "GET", "/api/status", "", "").status, "200 OK");
    let other_scheme = bearer(&server).replace("Bearer ", "XXXXXX ");
    assert_eq!(
        ask(&server, "GET", &target, &other_scheme, "").status,
        "200 OK"
    );
}

#[test]
fn a_request_of_the_wrong_form_is_a_401_with_a_list_of_issues() {
    let server = server();
    list(&server, "/myapp", "&recursive=1").is_invalid("recursive");
    list(&server, "/myapp", "&include_imports=yes").is_invalid("include_imports");
    list(&server, "/myapp", "&secretPath=/other").is_invalid("secretPath");
    post(
        &server,
        LOGIN,
        "",
        &json!({"clientId": 7, "clientSecret": "s"}),
    )
    .is_invalid("clientId");
    post(&server, LOGIN, "", &json!({"clientId": "id"})).is_invalid("clientSecret");
    ask(&server, "POST", LOGIN, "", "").is_invalid("clientId");
    get(&server, "/api/v4/secrets?environment=prod").is_invalid("projectId");
}

#[test]
fn no_access_is_a_403() {
    let server = server();
    server.add_project(OTHER, "prod");
    server.add_identity(Identity::new("id", "secret").may_read(PROJECT, "/myapp"));
    for path in ["/", "/other", "/myapp2"] {
        for reply in [list(&server, path, ""), one(&server, "A", path, "")] {
            reply.is_error(
                "403 Forbidden",
                "PermissionDenied",
                "You are not allowed to read on secrets",
            );
        }
    }
    get(
        &server,
        &format!("/api/v3/secrets/raw?workspaceId={OTHER}&environment=prod"),
    )
    .is_error(
        "403 Forbidden",
        "Identity is not a member of the specified project",
        "You are not allowed to access this resource",
    );
}

#[test]
fn an_unknown_route_is_a_404_that_repeats_the_request() {
    let server = server();
    server.api(Api::V3Only);
    let target = format!("/api/v4/secrets?projectId={PROJECT}&environment=prod");
    for headers in ["", "authorization: Bearer nonsense\r\n"] {
        let reply = ask(&server, "GET", &target, headers, "");
        assert_eq!(reply.status, "404 Not Found");
        assert_eq!(
            reply.body,
            format!(
                r#"{{"message":"Route GET:{target} not found","error":"Not Found","statusCode":404}}"#
            )
        );
    }
    let long = format!("/api/v3/secrets/raw/{}", "N".repeat(101));
    for target in [long.as_str(), "/healthcheck", "/"] {
        let message = format!("Route GET:{target} not found");
        ask(&server, "GET", target, "", "").is_error("404 Not Found", "Not Found", &message);
    }
    ask(&server, "PUT", LOGIN, "", "").is_error(
        "404 Not Found",
        "Not Found",
        &format!("Route PUT:{LOGIN} not found"),
    );
}

#[test]
fn whatever_is_not_there_is_a_404_of_its_own() {
    let server = server();
    one(&server, "NOPE", "/myapp", "").is_error(
        "404 Not Found",
        "NotFound",
        "Secret with name 'NOPE' not found",
    );
    one(&server, "DB_HOST", "/nope", "").is_error(
        "404 Not Found",
        "GetSecretByName",
        "Folder with path '/nope' in environment with slug 'prod' not found",
    );
    get(
        &server,
        &format!("/api/v3/secrets/raw/A?workspaceId={PROJECT}&environment=nope"),
    )
    .is_error(
        "404 Not Found",
        "GetSecretByName",
        "Folder with path '/' in environment with slug 'nope' not found",
    );
    let missing = format!("Project with ID '{OTHER}' not found");
    for rest in ["", "/A"] {
        let target = format!("/api/v3/secrets/raw{rest}?workspaceId={OTHER}&environment=prod");
        get(&server, &target).is_error("404 Not Found", "NotFound", &missing);
    }
    list_in(&server, "nope", "/", "&recursive=true").is_error(
        "404 Not Found",
        "NotFound",
        "Environment with slug 'nope' not found",
    );
}

#[test]
fn a_request_without_project_or_environment_is_a_400() {
    let server = server();
    for query in ["", "environment=prod", &format!("workspaceId={PROJECT}")] {
        get(&server, &format!("/api/v3/secrets/raw?{query}")).is_error(
            "400 Bad Request",
            "BadRequest",
            "Missing workspace id or environment",
        );
    }
}

#[test]
fn a_secret_is_created_once() {
    let server = server();
    let create = |route: &str, project: &str, body: Value| {
        let mut body = body;
        body["environment"] = "prod".into();
        body[project] = PROJECT.into();
        post(&server, route, &bearer(&server), &body)
    };
    let new = json!({"secretPath": "/myapp", "secretValue": "  v\n\n"});
    for (route, project) in [
        ("/api/v3/secrets/raw/NEW_3", "workspaceId"),
        ("/api/v4/secrets/NEW_4", "projectId"),
    ] {
        assert_eq!(create(route, project, new.clone()).value(), "v\n");
        create(route, project, new.clone()).is_error(
            "400 Bad Request",
            "BadRequest",
            "Secret already exist",
        );
    }
    let elsewhere = json!({"secretPath": "/nope", "secretValue": "v"});
    create("/api/v3/secrets/raw/A", "workspaceId", elsewhere).is_error(
        "404 Not Found",
        "GetSecretByName",
        "Folder with path '/nope' in environment with slug 'prod' not found",
    );
}

#[test]
fn what_the_server_does_not_understand_is_a_500() {
    let server = server();
    server.set(PROJECT, "prod", "/myapp", "REF", "${prod.nope.A}");
    let large = format!(r#"{{"clientId":"{}"}}"#, "x".repeat(1024 * 1024));
    for reply in [
        ask(&server, "POST", LOGIN, JSON, "{\"clientId\":"),
        ask(&server, "POST", LOGIN, JSON, ""),
        ask(&server, "POST", LOGIN, JSON, &large),
        ask(&server, "POST", LOGIN, "", "{}"),
        ask(&server, "POST", LOGIN, "content-type: text/plain\r\n", "{}"),
        get(
            &server,
            "/api/v3/secrets/raw?workspaceSlug=nope&environment=prod",
        ),
        list(&server, "/my.app", ""),
        list(&server, "/my%20app", ""),
        list(&server, "/%C3%BC", ""),
        one(&server, "REF", "/myapp", "&expandSecretReferences=true"),
    ] {
        reply.is_error(
            "500 Internal Server Error",
            "InternalServerError",
            "Something went wrong",
        );
    }
}

#[test]
fn the_limiter_counts_per_route_and_says_how_long_to_wait() {
    let server = server();
    server.limit_rate(2, Duration::from_secs(60));
    let token = bearer(&server);
    let target = format!("/api/v3/secrets/raw?workspaceId={PROJECT}&environment=prod");
    let ask_again = || ask(&server, "GET", &target, &token, "");
    let first = ask_again();
    assert_eq!(first.status, "200 OK");
    assert_eq!(first.header("x-ratelimit-limit"), Some("2"));
    assert_eq!(first.header("x-ratelimit-remaining"), Some("1"));
    assert!(first.header("x-ratelimit-reset").is_some());
    // Failed authentication isn't counted, nor is another route.
    ask(&server, "GET", &target, "", "");
    assert_eq!(ask_again().header("x-ratelimit-remaining"), Some("0"));
    let refused = ask_again();
    assert_eq!(refused.status, "429 Too Many Requests");
    assert_eq!(refused.json()["error"], "RateLimitExceeded");
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait));
    let single = target.replace("/raw?", "/raw/DB_HOST?secretPath=/myapp&");
    assert_eq!(ask(&server, "GET", &single, &token, "").value(), "db");
    let elsewhere = format!("{token}x-forwarded-for: 203.0.113.7\r\n");
    assert_eq!(
        ask(&server, "GET", &target, &elsewhere, "").status,
        "200 OK"
    );
    server.pass(Duration::from_secs(60));
    assert_eq!(ask_again().status, "200 OK");
}

#[test]
fn an_answer_that_is_known_already_is_a_304() {
    let server = server();
    let token = bearer(&server);
    let target =
        format!("/api/v3/secrets/raw?workspaceId={PROJECT}&environment=prod&secretPath=/myapp");
    let etag = ask(&server, "GET", &target, &token, "")
        .header("etag")
        .unwrap()
        .to_owned();
    let conditional = |value: &str| {
        let headers = format!("{token}if-none-match: {value}\r\n");
        ask(&server, "GET", &target, &headers, "").status
    };
    assert_eq!(conditional(&etag), "304 Not Modified");
    for other in [format!("W/{etag}"), "*".into(), format!("{etag}, \"x\"")] {
        assert_eq!(conditional(&other), "200 OK");
    }
    server.set(PROJECT, "prod", "/myapp", "DB_HOST", "db2");
    assert_eq!(conditional(&etag), "200 OK");
}

// Listings.

#[test]
fn a_listing_has_the_recorded_fields() {
    let server = server();
    server.api(Api::V3Only);
    let body = list(&server, "/myapp", "").json();
    assert_eq!(body["imports"], Value::Null);
    let secret = &body["secrets"][0];
    assert_eq!(secret["workspace"], PROJECT);
    assert_eq!(secret["environment"], "prod");
    assert_eq!(secret["secretPath"], "/myapp");
    assert_eq!(secret["type"], "shared");
    assert_eq!(secret["tags"], json!([]));
    assert_eq!(secret["secretValueHidden"], Value::Null);
}

#[test]
fn a_folder_or_environment_that_is_not_there_is_an_empty_listing() {
    let server = server();
    for reply in [
        list(&server, "/nope", ""),
        list(&server, "/MYAPP", ""),
        list(&server, "myapp", ""),
        list(&server, "//myapp", ""),
        list(&server, "", ""),
        list(&server, "/nope", "&recursive=true"),
        list_in(&server, "nope", "/myapp", ""),
    ] {
        assert_eq!(reply.status, "200 OK");
        assert_eq!(reply.json(), json!({"secrets": [], "imports": []}));
    }
}

#[test]
fn one_slash_at_the_end_is_cut_off_and_a_second_comes_back() {
    let server = server();
    for (asked, answered) in [("/myapp/", "/myapp"), ("/myapp//", "/myapp/")] {
        let reply = list(&server, asked, "");
        assert_eq!(reply.secrets(), owned(&[("DB_HOST", "db")]));
        assert_eq!(reply.json()["secrets"][0]["secretPath"], answered);
    }
}

#[test]
fn a_listing_is_not_sorted() {
    let server = server();
    for number in 0..20 {
        server.set(PROJECT, "prod", "/many", &format!("K{number:02}"), "v");
    }
    let reply = list(&server, "/many", "");
    assert_eq!(reply.secrets().len(), 20);
    assert_ne!(reply.secrets(), reply.sorted());
}

#[test]
fn a_recursive_listing_takes_every_folder_that_begins_like_the_path() {
    let server = server();
    server.set(PROJECT, "prod", "/myapp/sub", "B", "2");
    server.set(PROJECT, "prod", "/myapp2", "C", "3");
    server.set(PROJECT, "prod", "/other", "D", "4");
    let reply = list(&server, "/myapp", "&recursive=true");
    assert_eq!(
        reply.sorted(),
        owned(&[("B", "2"), ("C", "3"), ("DB_HOST", "db")])
    );
    let body = reply.json();
    let secrets = body["secrets"].as_array().unwrap();
    let of_sub = secrets.iter().find(|s| s["secretKey"] == "B").unwrap();
    assert_eq!(of_sub["secretPath"], "/myapp/sub");
    // A path with a dot breaks only the other kind of listing.
    assert_eq!(list(&server, "/my.app", "&recursive=true").status, "200 OK");
    assert_eq!(list(&server, "/", "&recursive=true").secrets().len(), 4);
}

#[test]
fn a_recursive_listing_shows_what_may_be_seen_and_no_more() {
    let server = server();
    server.set(PROJECT, "prod", "/myapp2", "C", "3");
    server.add_identity(Identity::new("id", "secret").may_read(PROJECT, "/myapp2"));
    let reply = list(&server, "/", "&recursive=true");
    assert_eq!(reply.secrets(), owned(&[("C", "3")]));
    assert!(
        list(&server, "/myapp/", "&recursive=true")
            .secrets()
            .contains(&("C".into(), "3".into()))
    );
    server.add_identity(Identity::new("id", "secret").may_read(PROJECT, "/nothing"));
    assert_eq!(list(&server, "/", "&recursive=true").secrets(), owned(&[]));
}

#[test]
fn a_folder_can_hold_a_key_twice() {
    let server = server();
    server.add_duplicate(PROJECT, "prod", "/myapp", "DB_HOST", "db2");
    let reply = list(&server, "/myapp", "");
    assert_eq!(
        reply.sorted(),
        owned(&[("DB_HOST", "db"), ("DB_HOST", "db2")])
    );
    server.remove(PROJECT, "prod", "/myapp", "DB_HOST");
    assert_eq!(list(&server, "/myapp", "").secrets(), owned(&[]));
}

#[test]
fn many_secrets_come_in_one_answer() {
    let server = server();
    let value = "x".repeat(32 * 1024);
    for number in 0..100 {
        server.set(PROJECT, "prod", "/big", &format!("K{number}"), &value);
    }
    let secrets = list(&server, "/big", "&limit=10&offset=5").secrets();
    assert_eq!(secrets.len(), 100);
    assert!(secrets.iter().all(|(_, v)| *v == value));
}

#[test]
fn values_are_trimmed_when_they_are_written_and_otherwise_kept() {
    let server = server();
    for (written, kept) in [
        ("  a b \t", "a b"),
        ("pem\n\n", "pem\n"),
        ("dos\r\n", "dos\n"),
        ("", ""),
        ("a\0b\u{1f600}\"\\", "a\0b\u{1f600}\"\\"),
    ] {
        server.set(PROJECT, "prod", "/myapp", "DB_HOST", written);
        assert_eq!(
            list(&server, "/myapp", "").secrets(),
            owned(&[("DB_HOST", kept)])
        );
    }
}

// Imports.

/// A server where `/myapp` imports `/one` and `/two` of prod, which share a key with it.
fn server_with_imports() -> StandIn {
    let server = server();
    for (path, keys) in [
        ("/one", ["DB_HOST", "A", "B"]),
        ("/two", ["DB_HOST", "A", "C"]),
    ] {
        for key in keys {
            server.set(PROJECT, "prod", path, key, &path[1..]);
        }
    }
    server.set_imports(
        PROJECT,
        "prod",
        "/myapp",
        &[("prod", "/one"), ("prod", "/two")],
    );
    server
}

const WITH_IMPORTS: &str = "&include_imports=true";

#[test]
fn imports_come_apart_from_the_own_secrets_and_only_when_asked_for() {
    let server = server_with_imports();
    for more in ["", "&include_imports=false", "&includeImports=true"] {
        assert_eq!(list(&server, "/myapp", more).json().get("imports"), None);
    }
    let reply = list(&server, "/myapp", WITH_IMPORTS);
    assert_eq!(reply.secrets(), owned(&[("DB_HOST", "db")]));
    let body = reply.json();
    let imports = body["imports"].as_array().unwrap();
    let labels: Vec<_> = imports
        .iter()
        .map(|i| (&i["environment"], &i["secretPath"]))
        .collect();
    assert_eq!(
        labels,
        [
            (&json!("prod"), &json!("/one")),
            (&json!("prod"), &json!("/two"))
        ]
    );
    assert!(imports.iter().all(|import| import["folderId"].is_string()));
    let secret = imports[0]["secrets"][0].as_object().unwrap();
    for absent in ["secretPath", "createdAt", "updatedAt", "tags"] {
        assert!(!secret.contains_key(absent), "{absent}");
    }
    assert_eq!(secret["workspace"], "");
}

#[test]
fn a_name_is_looked_for_in_the_folder_and_then_in_the_last_import_first() {
    let server = server_with_imports();
    for (name, value) in [("DB_HOST", "db"), ("A", "two"), ("B", "one"), ("C", "two")] {
        assert_eq!(one(&server, name, "/myapp", WITH_IMPORTS).value(), value);
    }
    one(&server, "A", "/myapp", "").is_error(
        "404 Not Found",
        "NotFound",
        "Secret with name 'A' not found",
    );
    let imported = one(&server, "A", "/myapp", WITH_IMPORTS).json();
    assert_eq!(imported["secret"].get("tags"), None);
    assert_eq!(imported["secret"].get("secretPath"), None);
}

#[test]
fn nested_imports_are_part_of_the_direct_one() {
    let server = server_with_imports();
    server.set(PROJECT, "dev", "/deep", "D", "deep");
    server.set(PROJECT, "dev", "/deep", "A", "deep");
    server.set_imports(
        PROJECT,
        "prod",
        "/two",
        &[("dev", "/deep"), ("prod", "/myapp")],
    );
    let body = list(&server, "/myapp", WITH_IMPORTS).json();
    assert_eq!(body["imports"].as_array().unwrap().len(), 2);
    let of_two = pairs(&body["imports"][1]["secrets"]);
    assert_eq!(
        of_two[..5],
        owned(&[
            ("DB_HOST", "two"),
            ("A", "two"),
            ("C", "two"),
            ("D", "deep"),
            ("A", "deep")
        ])
    );
    assert_eq!(one(&server, "D", "/myapp", WITH_IMPORTS).value(), "deep");
}

#[test]
fn denied_imports_are_left_out() {
    let server = server_with_imports();
    let identity = Identity::new("id", "secret");
    server.add_identity(
        identity
            .may_read(PROJECT, "/myapp")
            .may_read(PROJECT, "/two"),
    );
    let body = list(&server, "/myapp", WITH_IMPORTS).json();
    assert_eq!(body["imports"].as_array().unwrap().len(), 1);
    assert_eq!(body["imports"][0]["secretPath"], "/two");
    assert_eq!(
        one(&server, "B", "/myapp", WITH_IMPORTS).status,
        "404 Not Found"
    );
}

#[test]
fn an_import_whose_source_is_gone_shifts_the_later_ones() {
    let server = server_with_imports();
    server.remove_folder(PROJECT, "prod", "/one");
    let body = list(&server, "/myapp", WITH_IMPORTS).json();
    let imports = &body["imports"];
    assert_eq!(imports[0]["secretPath"], "/one");
    assert_eq!(pairs(&imports[0]["secrets"])[1], ("A".into(), "two".into()));
    assert_eq!(imports[1]["secretPath"], "/two");
    assert_eq!(imports[1]["secrets"], json!([]));
    assert_eq!(imports[1].get("folderId"), None);
    assert_eq!(one(&server, "A", "/myapp", WITH_IMPORTS).value(), "two");
}

// References.

const EXPANDED: &str = "&expandSecretReferences=true";

fn expanded(server: &StandIn, value: &str) -> String {
    server.set(PROJECT, "prod", "/myapp", "REF", value);
    let secrets = list(server, "/myapp", EXPANDED).secrets();
    secrets.into_iter().find(|(key, _)| key == "REF").unwrap().1
}

#[test]
fn references_are_resolved_when_asked_for_and_stay_where_they_cannot_be() {
    let server = server_with_imports();
    server.set(PROJECT, "dev", "/shared/deep", "KEY", "k");
    server.set(PROJECT, "dev", "/", "ROOT", "r");
    server.set(PROJECT, "prod", "/myapp", "EMPTY", "");
    server.set(PROJECT, "prod", "/myapp", "CHAIN", "<${DB_HOST}>");
    for (value, result) in [
        ("postgres://${DB_HOST}/${DB_HOST}", "postgres://db/db"),
        ("${ DB_HOST }", "db"),
        ("${dev.ROOT}", "r"),
        ("${dev.shared.deep.KEY}", "k"),
        ("${CHAIN}", "<db>"),
        (
            "${NOPE} ${dev.nope.KEY} ${nope.KEY}",
            "${NOPE} ${dev.nope.KEY} ${nope.KEY}",
        ),
        ("${EMPTY}", "${EMPTY}"),
        ("${B}", "${B}"),
        ("${} ${", "${} ${"),
    ] {
        assert_eq!(expanded(&server, value), result, "{value}");
    }
    server.set(PROJECT, "prod", "/myapp", "REF", "${DB_HOST}");
    for more in ["", "&expandSecretReferences=false"] {
        assert_eq!(one(&server, "REF", "/myapp", more).value(), "${DB_HOST}");
    }
    assert_eq!(one(&server, "REF", "/myapp", EXPANDED).value(), "db");
}

#[test]
fn cycles_and_dollars_leave_the_recorded_garbage() {
    let server = server();
    server.set(PROJECT, "prod", "/myapp", "CYCLE_A", "a${CYCLE_B}");
    server.set(PROJECT, "prod", "/myapp", "CYCLE_B", "b${CYCLE_A}");
    let value = one(&server, "CYCLE_A", "/myapp", EXPANDED).value();
    assert_eq!(value, "abababababab${CYCLE_A}");
    server.set(PROJECT, "dev", "/shared", "DOLLARS", "a$$b$&c");
    assert_eq!(
        expanded(&server, "${dev.shared.DOLLARS}"),
        "a$b${dev.shared.DOLLARS}c"
    );
}

#[test]
fn a_reference_to_what_may_not_be_read_stays_in_listings_and_fails_by_name() {
    let server = server();
    server.set(PROJECT, "prod", "/denied", "A", "secret");
    server.set(PROJECT, "prod", "/myapp", "REF", "${prod.denied.A}");
    server.add_identity(Identity::new("id", "secret").may_read(PROJECT, "/myapp"));
    assert_eq!(expanded(&server, "${prod.denied.A}"), "${prod.denied.A}");
    let reply = one(&server, "REF", "/myapp", EXPANDED);
    assert_eq!(reply.status, "403 Forbidden");
    assert_eq!(reply.json()["error"], "ForbiddenError");
}

#[test]
fn imported_secrets_are_expanded_in_any_case() {
    let server = server_with_imports();
    server.set(PROJECT, "prod", "/one", "B", "${A}!");
    for expand in ["false", "true"] {
        let more = format!("{WITH_IMPORTS}&expandSecretReferences={expand}");
        let body = list(&server, "/myapp", &more).json();
        let secrets = pairs(&body["imports"][0]["secrets"]);
        assert!(
            secrets.contains(&("B".into(), "one!".into())),
            "{secrets:?}"
        );
    }
}

// One secret.

#[test]
fn names_are_case_sensitive_and_decoded() {
    let server = server();
    for (name, encoded) in [("a b.c", "a%20b.c"), ("a/b", "a%2Fb"), ("\u{fc}", "%C3%BC")] {
        server.set(PROJECT, "prod", "/myapp", name, "odd");
        assert_eq!(one(&server, encoded, "/myapp", "").value(), "odd");
    }
    assert_eq!(
        one(&server, "db_host", "/myapp", "").status,
        "404 Not Found"
    );
    let body = one(&server, "DB_HOST", "/myapp", "&version=1").json();
    assert_eq!(body["secret"].get("secretPath"), None);
}

// The newer API.

fn v4(server: &StandIn, rest: &str) -> Reply {
    let (name, query) = rest.split_once('?').unwrap();
    get(
        server,
        &format!(
            "/api/v4/secrets{name}?projectId={PROJECT}&environment=prod&secretPath=/myapp{query}"
        ),
    )
}

#[test]
fn the_newer_api_is_served_beside_the_old_one() {
    let server = server_with_imports();
    let reply = v4(&server, "?&include_imports=true");
    assert_eq!(reply.secrets(), owned(&[("DB_HOST", "db")]));
    assert_eq!(reply.json()["secrets"][0]["secretValueHidden"], false);
    assert_eq!(reply.json()["imports"][1]["secretPath"], "/two");
    let secret = v4(&server, "/DB_HOST?").json();
    assert_eq!(secret["secret"]["secretPath"], "/myapp");
    assert_eq!(secret["secret"]["secretValueHidden"], false);
    assert_eq!(v4(&server, "/A?&include_imports=true").value(), "two");
    assert_eq!(
        list(&server, "/myapp", "").secrets(),
        owned(&[("DB_HOST", "db")])
    );
}

#[test]
fn hidden_values_come_as_a_placeholder() {
    let server = server_with_imports();
    let hidden = owned(&[("DB_HOST", "<hidden-by-infisical>")]);
    let reply = v4(&server, "?&viewSecretValue=false");
    assert_eq!(reply.secrets(), hidden);
    assert_eq!(reply.json()["secrets"][0]["secretValueHidden"], true);

    let identity = Identity::new("id", "secret").may_list(PROJECT, "/myapp");
    server.add_identity(identity.may_read(PROJECT, "/one").may_list(PROJECT, "/two"));
    for reply in [
        v4(&server, "?&viewSecretValue=true"),
        list(&server, "/myapp", ""),
    ] {
        assert_eq!(reply.secrets(), hidden);
    }
    assert_eq!(v4(&server, "/DB_HOST?").value(), "<hidden-by-infisical>");
    assert_eq!(
        v4(&server, "/A?&include_imports=true").value(),
        "<hidden-by-infisical>"
    );
    assert_eq!(v4(&server, "/B?&include_imports=true").value(), "one");
    // Also at the end of a chain of imports that may be read otherwise.
    server.set_imports(PROJECT, "prod", "/one", &[("prod", "/two")]);
    server.set_imports(PROJECT, "prod", "/myapp", &[("prod", "/one")]);
    let chained = v4(&server, "/C?&include_imports=true").value();
    assert_eq!(chained, "<hidden-by-infisical>");
    server.api(Api::V3Only);
    assert_eq!(
        list(&server, "/myapp", "").json()["error"],
        "PermissionDenied"
    );
}

// Faults.

#[test]
fn a_fault_takes_so_many_requests_of_its_route() {
    let server = server();
    server.fault(Route::List, Times::Next(2), Fault::status(502));
    server.fault(Route::List, Times::Next(1), Fault::too_many_requests(7));
    assert_eq!(one(&server, "DB_HOST", "/myapp", "").value(), "db");
    assert_eq!(list(&server, "/myapp", "").status, "502 Bad Gateway");
    assert_eq!(list(&server, "/myapp", "").status, "502 Bad Gateway");
    let limited = list(&server, "/myapp", "");
    assert_eq!(limited.status, "429 Too Many Requests");
    assert_eq!(limited.header("retry-after"), Some("7"));
    assert_eq!(list(&server, "/myapp", "").status, "200 OK");
}

#[test]
fn a_fault_lasts_until_it_is_healed() {
    let server = server();
    server.fault(Route::Login, Times::Always, Fault::status(500));
    for _ in 0..3 {
        assert_eq!(login(&server).status, "500 Internal Server Error");
    }
    server.heal();
    assert_eq!(login(&server).status, "200 OK");
}

#[test]
fn a_page_and_a_redirect_take_the_place_of_the_answer() {
    let server = server();
    server.fault(Route::Any, Times::Next(1), Fault::page());
    let page = login(&server);
    assert_eq!(page.status, "200 OK");
    assert_eq!(page.header("content-type"), Some("text/html"));
    assert!(page.body.starts_with("<!doctype html>"));
    server.fault(
        Route::Any,
        Times::Next(1),
        Fault::redirect("http://127.0.0.1:1/"),
    );
    let redirect = login(&server);
    assert_eq!(redirect.status, "302 Found");
    assert_eq!(redirect.header("location"), Some("http://127.0.0.1:1/"));
}

#[test]
fn a_truncated_answer_has_half_of_what_it_promises() {
    let server = server();
    let whole = login(&server);
    server.fault(Route::Login, Times::Next(1), Fault::Truncated);
    let half = login(&server);
    assert_eq!(half.status, "200 OK");
    assert_eq!(
        half.header("content-length"),
        whole.header("content-length")
    );
    assert_eq!(half.body.len(), whole.body.len() / 2);
}

#[test]
fn a_closed_connection_gives_no_byte() {
    let server = server();
    server.fault(Route::Login, Times::Next(1), Fault::Closed);
    assert_eq!(raw(&server, &request("POST", LOGIN, JSON, "{}")), b"");
    assert_eq!(login(&server).status, "200 OK");
}

#[test]
fn a_delayed_answer_is_the_true_one_and_holds_up_nobody_else() {
    let server = server();
    server.fault(
        Route::Login,
        Times::Next(1),
        Fault::Delay(Duration::from_secs(3600)),
    );
    let mut hanging = connect(server.address());
    hanging
        .write_all(request("POST", LOGIN, JSON, "{}").as_bytes())
        .unwrap();
    wait_for_requests(&server, 1);
    assert_eq!(login(&server).status, "200 OK");
    server.fault(
        Route::Login,
        Times::Next(1),
        Fault::Delay(Duration::from_millis(50)),
    );
    assert_eq!(login(&server).status, "200 OK");
    let statuses: Vec<_> = server.requests().iter().map(|r| r.status).collect();
    assert_eq!(statuses, [None, Some(200), Some(200)]);
}

fn wait_for_requests(server: &StandIn, count: usize) {
    for _ in 0..1000 {
        if server.requests().len() >= count {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("no {count} requests came");
}

#[test]
fn an_endless_body_goes_on_for_as_long_as_it_is_read() {
    let server = server();
    for chunked in [false, true] {
        let fault = Fault::Endless {
            chunked,
            pause: Duration::ZERO,
        };
        server.fault(Route::Login, Times::Next(1), fault);
        let mut stream = connect(server.address());
        stream
            .write_all(request("POST", LOGIN, JSON, "{}").as_bytes())
            .unwrap();
        let mut start = vec![0; 8 * 1024 * 1024];
        stream.read_exact(&mut start).unwrap();
        let head = String::from_utf8_lossy(&start[..300]).into_owned();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"));
        assert_eq!(head.contains("\r\ntransfer-encoding: chunked\r\n"), chunked);
        assert_eq!(
            head.contains("\r\ncontent-length: 1099511627776\r\n"),
            !chunked
        );
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.len() < 80 * 1024 * 1024);
        assert!(
            !rest.ends_with(b"0\r\n\r\n"),
            "it never says that it is whole"
        );
    }
}

#[test]
fn a_stopped_server_refuses_and_a_restarted_one_is_as_before() {
    let mut server = server();
    let address = server.address();
    let token = bearer(&server);
    server.stop();
    let refused = TcpStream::connect(address).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    server.restart();
    assert_eq!(server.address(), address);
    let target = format!("/api/v3/secrets/raw?workspaceId={PROJECT}&environment=prod");
    assert_eq!(ask(&server, "GET", &target, &token, "").status, "200 OK");
    // An open connection is no obstacle.
    let _open = connect(address);
    server.restart();
    assert_eq!(login(&server).status, "200 OK");
}

#[test]
fn the_log_has_every_request_with_its_status() {
    let server = server();
    list(&server, "/nope", "");
    ask(&server, "GET", "/nowhere?a=b", "", "");
    server.fault(Route::Any, Times::Next(1), Fault::Closed);
    raw(&server, &request("GET", "/api/status", "", ""));
    let requests = server.requests();
    let seen: Vec<_> = requests
        .iter()
        .map(|r| (r.method.as_str(), r.path.as_str(), r.status))
        .collect();
    assert_eq!(
        seen,
        [
            ("POST", LOGIN, Some(200)),
            ("GET", "/api/v3/secrets/raw", Some(200)),
            ("GET", "/nowhere", Some(404)),
            ("GET", "/api/status", None),
        ]
    );
    assert_eq!(requests[2].query, "a=b");
    server.clear_requests();
    assert_eq!(server.requests(), []);
}

// TLS and the program.

#[test]
fn tls_is_vouched_for_by_the_authority_of_the_server_alone() {
    let server = StandIn::start_tls();
    assert!(server.url().starts_with("https://127.0.0.1:"));
    let authority = server.ca_cert().unwrap();
    for (trusted, answered) in [(Some(&authority), true), (None, false)] {
        let mut client = Command::new("openssl");
        client.args([
            "s_client",
            "-quiet",
            "-verify_return_error",
            "-verify_ip",
            "127.0.0.1",
        ]);
        client.args(["-connect", &server.address().to_string()]);
        if let Some(file) = trusted {
            client.arg("-CAfile").arg(file);
        }
        let mut client = client
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdin = client.stdin.take().unwrap();
        // A client that trusts nobody may be gone already.
        let _ = stdin.write_all(request("GET", "/api/status", "", "").as_bytes());
        let output = client.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(text.starts_with("HTTP/1.1 200 OK\r\n"), answered, "{text}");
    }
}

/// The program, killed when the test is over.
struct Program(std::process::Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_stand-in-infisical");

fn state(value: &str) -> String {
    json!({
        "projects": {PROJECT: {"prod": {
            "/myapp": {
                "secrets": {"DB_HOST": value},
                "imports": [{"environment": "prod", "path": "/shared"}],
            },
            "/shared": {"secrets": {"LEVEL": "info"}},
        }}},
        "identities": [{
            "client_id": "id",
            "client_secret": "secret",
            "may_read": [{"project": PROJECT, "path": "/myapp"}, {"project": PROJECT, "path": "/shared"}],
        }],
    })
    .to_string()
}

/// The body of one answer of the program at `address`.
fn ask_program(address: SocketAddr, request: &str) -> Value {
    let mut stream = connect(address);
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[test]
fn the_program_follows_its_state_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("state.json");
    fs::write(&file, state("one")).unwrap();
    let mut program = Program(
        Command::new(PROGRAM)
            .args(["--listen", "127.0.0.1:0", "--state"])
            .arg(&file)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut line = String::new();
    let stdout = program.0.stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    let address = line
        .trim_end()
        .strip_prefix("listening on ")
        .unwrap()
        .parse()
        .unwrap();

    let credentials = json!({"clientId": "id", "clientSecret": "secret"}).to_string();
    let login = ask_program(address, &request("POST", LOGIN, JSON, &credentials));
    let token = format!("authorization: Bearer {}\r\n", text(&login["accessToken"]));
    let target = format!(
        "/api/v4/secrets?projectId={PROJECT}&environment=prod&secretPath=/myapp&include_imports=true"
    );
    let listed = || ask_program(address, &request("GET", &target, &token, ""));
    assert_eq!(pairs(&listed()["secrets"]), owned(&[("DB_HOST", "one")]));
    assert_eq!(
        pairs(&listed()["imports"][0]["secrets"]),
        owned(&[("LEVEL", "info")])
    );
    for (written, value) in [
        (state("two"), "two"),
        ("{\"projects\": {".into(), "two"),
        (state("three"), "three"),
    ] {
        fs::write(&file, written).unwrap();
        assert_eq!(pairs(&listed()["secrets"]), owned(&[("DB_HOST", value)]));
    }
}

#[test]
fn the_program_refuses_what_it_cannot_serve() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("state.json");
    let run = |listen: &str| {
        let output = Command::new(PROGRAM)
            .args(["--listen", listen, "--state"])
            .arg(&file)
            .output()
            .unwrap();
        assert!(output.stdout.is_empty());
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    assert_eq!(run("127.0.0.1:0").0, Some(1), "no file");
    fs::write(&file, r#"{"projects": {}, "identities": [], "extra": 1}"#).unwrap();
    let (status, stderr) = run("127.0.0.1:0");
    assert_eq!(status, Some(1));
    assert!(stderr.contains("unknown field `extra`"), "{stderr}");
    fs::write(&file, state("one")).unwrap();
    assert_eq!(run("nowhere").0, Some(1));
    let usage = Command::new(PROGRAM).output().unwrap();
    assert_eq!(usage.status.code(), Some(64));
}
