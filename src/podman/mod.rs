//! Podman's secrets and containers, through the libpod REST API on its Unix socket.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::error::{Error, Kind, Result};
use crate::secret::{SecretId, quote_name};
use crate::unix_http;

mod containers;

pub use containers::Container;

/// Where the API is. Podman takes an older version than its own, down to this one.
const API: &str = "http://podman/v4.0.0/libpod";

/// How long a request may take. A create runs the driver, and Podman holds one lock for all
/// secrets of the host while a driver's command runs.
const REQUEST_LIFE: Duration = Duration::from_secs(60);

/// Largest answer, in bytes: some 20,000 secrets.
const MAX_ANSWER: usize = 16 << 20;

/// How much of Podman's own words goes into an error, in characters.
const MAX_WORDS: usize = 300;

/// The driver whose commands are ours.
const DRIVER: &str = "shell";

/// The header in which Podman tells its version.
const VERSION_HEADER: &str = "libpod-api-version";

/// A version's first two numbers.
pub(crate) type Version = (u32, u32);

/// The first version that keeps a secret's labels.
const OLDEST: Version = (4, 3);

/// The first version whose create takes `replace`.
const REPLACES: Version = (4, 7);

/// One secret as Podman lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// New at each registration.
    pub id: String,
    /// What `--secret` and `Secret=` name.
    pub name: String,
    /// `file`, `pass` or `shell`.
    pub driver: String,
    /// The driver's options; for `shell` its four commands.
    pub options: BTreeMap<String, String>,
    /// What it was labelled with at its registration. Podman 4.3 keeps labels and does not list
    /// them: nothing is known of them then.
    pub labels: BTreeMap<String, String>,
}

/// A secret to register with the shell driver.
pub struct NewSecret<'a> {
    /// Its name; which ones Podman takes depends on its version.
    pub name: &'a str,
    /// What the driver stores, 1 to 511,999 bytes.
    pub payload: &'a [u8],
    /// All of `store`, `lookup`, `delete` and `list`.
    pub options: &'a BTreeMap<String, String>,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
}

/// Asks Podman, version 4.3 or newer.
pub struct Podman {
    socket: PathBuf,
    http: reqwest::Client,
    version: OnceLock<Version>,
}

impl Podman {
    /// For the API on `socket`; nothing is asked yet.
    ///
    /// # Errors
    /// [`Kind::Internal`] if there can be no HTTP client.
    pub fn new(socket: &Path) -> Result<Self> {
        Ok(Self {
            socket: socket.to_owned(),
            http: unix_http::client(socket, REQUEST_LIFE)?,
            version: OnceLock::new(),
        })
    }

    /// Every secret, by name, with one request.
    ///
    /// # Errors
    /// [`Kind::Unreachable`] or [`Kind::Denied`] if the socket can't be used, [`Kind::Config`] if
    /// Podman is too old, [`Kind::BadAnswer`] if something else answers there.
    pub async fn secrets(&self) -> Result<Vec<Secret>> {
        let doing = "cannot list Podman's secrets";
        let url = url("secrets/json", &[])?;
        let answer = self.ask(doing, Method::GET, url, None).await?;
        let listed: Vec<Listed> = self.expect(doing, &answer)?;
        let mut secrets: Vec<Secret> = listed.into_iter().map(Secret::from).collect();
        secrets.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(secrets)
    }

    /// Registers a secret and returns its id. The driver's `store` gets the payload.
    ///
    /// # Errors
    /// [`Kind::Refused`] if the name is taken or Podman won't have the secret,
    /// [`Kind::Unreachable`] if the driver's command failed, [`Kind::Config`] if it can't be run;
    /// else as [`Podman::secrets`]. Nothing is registered then.
    pub async fn create(&self, new: &NewSecret<'_>) -> Result<String> {
        self.register(new, false).await
    }

    /// Registers `new` in the place of `old`, which has the same name, and returns its id. Podman
    /// 4.7 and newer does it in one step; before, the name is away for a moment. A Podman that was
    /// not asked for its secrets yet counts as older.
    ///
    /// # Errors
    /// As [`Podman::create`]. The message says if the old secret may be gone.
    pub async fn replace(&self, old: &Secret, new: &NewSecret<'_>) -> Result<String> {
        let in_one_step = self.version.get().is_some_and(|v| *v >= REPLACES);
        if !in_one_step {
            self.remove(&old.id).await?;
        }
        let id = self.register(new, in_one_step).await;
        id.map_err(|e| half_replaced(new.name, e))
    }

    /// Removes the secret with exactly that id. One that is gone already is no error.
    ///
    /// # Errors
    /// [`Kind::Usage`] if that is no id, [`Kind::Unreachable`] if the driver's command failed;
    /// else as [`Podman::secrets`].
    pub async fn remove(&self, id: &str) -> Result<()> {
        let doing = format!("cannot remove secret {}", quote_name(id));
        let id = SecretId::parse(id)?;
        let url = url(&format!("secrets/{}", id.as_str()), &[])?;
        let answer = self.ask(&doing, Method::DELETE, url, None).await?;
        if answer.status.is_success() || answer.says_gone() {
            return Ok(());
        }
        Err(self.failed(&doing, &answer))
    }

    async fn register(&self, new: &NewSecret<'_>, replace: bool) -> Result<String> {
        let doing = format!("cannot register secret {}", quote_name(new.name));
        let options = json(new.options)?;
        let labels = json(new.labels)?;
        let mut query = vec![
            ("name", new.name),
            ("driver", DRIVER),
            ("driveropts", &options),
            ("labels", &labels),
        ];
        query.extend(replace.then_some(("replace", "true")));
        let url = url("secrets/create", &query)?;
        let answer = self
            .ask(&doing, Method::POST, url, Some(new.payload))
            .await?;
        let created: Created = self.expect(&doing, &answer)?;
        match SecretId::parse(&created.id) {
            Ok(_) => Ok(created.id),
            Err(_) => Err(self.nonsense(&doing)),
        }
    }

    async fn ask(
        &self,
        doing: &str,
        method: Method,
        url: Url,
        body: Option<&[u8]>,
    ) -> Result<Answer> {
        let mut request = self.http.request(method, url);
        if let Some(body) = body {
            // With curl's default, a form, Podman would drop the body.
            request = request
                .header(CONTENT_TYPE, "application/octet-stream")
                .body(body.to_vec());
        }
        let unreachable = |e| self.unreachable(doing, e);
        let mut answer = request.send().await.map_err(unreachable)?;
        let version = answer.headers().get(VERSION_HEADER);
        if let Some(version) = version.and_then(|v| parse_version(v.to_str().ok()?)) {
            self.note(version)?;
        }
        let status = answer.status();
        let mut body = Zeroizing::new(Vec::new());
        while let Some(chunk) = answer.chunk().await.map_err(unreachable)? {
            if body.len() + chunk.len() > MAX_ANSWER {
                return Err(self.nonsense(doing));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { status, body })
    }

    fn note(&self, version: Version) -> Result<()> {
        let (major, minor) = *self.version.get_or_init(|| version);
        if (major, minor) < OLDEST {
            return Err(self.too_old(&format!("is Podman {major}.{minor}")));
        }
        Ok(())
    }

    fn expect<T: DeserializeOwned>(&self, doing: &str, answer: &Answer) -> Result<T> {
        if !answer.status.is_success() {
            return Err(self.failed(doing, answer));
        }
        serde_json::from_slice(&answer.body).map_err(|_| self.nonsense(doing))
    }

    /// What Podman's refusal means. Its status is 500 for nearly everything.
    fn failed(&self, doing: &str, answer: &Answer) -> Error {
        let Some(failure) = answer.failure() else {
            return match answer.status {
                StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST => {
                    self.too_old("has no libpod API of version 4.0")
                }
                _ => self.nonsense(doing),
            };
        };
        if failure.message.contains("not supported") && answer.status == StatusCode::BAD_REQUEST {
            return self.too_old("has no libpod API of version 4.0");
        }
        let words = words(&failure.message);
        if failure.is_of_the_driver() {
            return driver_failed(doing, &words, &failure.cause);
        }
        let hint = match failure.cause.as_str() {
            "secret name in use" => {
                "`podman secret ls` shows it; `podman secret rm` frees the name"
            }
            "invalid secret name" => "Podman 4.7 and newer takes more names",
            _ => "`journalctl -u podman.service` may have more",
        };
        Error::new(Kind::Refused, doing).because(words).hint(hint)
    }

    fn unreachable(&self, doing: &str, error: reqwest::Error) -> Error {
        let what = format!(
            "{doing}: Podman does not answer on {}",
            self.socket.display()
        );
        let (kind, hint) = if is_denied(&error) {
            (
                Kind::Denied,
                "run it as root, or as the user whose Podman it is",
            )
        } else if error.is_timeout() {
            (
                Kind::Unreachable,
                "a secret driver's command may be stuck: `journalctl -u podman.service`",
            )
        } else {
            (
                Kind::Unreachable,
                "`systemctl start podman.socket`, with `--user` for a rootless Podman",
            )
        };
        Error::new(kind, what)
            .because(error.without_url())
            .hint(hint)
    }

    fn nonsense(&self, doing: &str) -> Error {
        let socket = self.socket.display();
        Error::new(
            Kind::BadAnswer,
            format!("{doing}: {socket} gives an answer that is none of Podman's"),
        )
        .hint("`podman_socket` in config.yaml must name the socket of `systemctl status podman.socket`")
    }

    fn too_old(&self, why: &str) -> Error {
        let what = format!(
            "Podman 4.3 or newer is needed: {} {why}",
            self.socket.display()
        );
        Error::new(Kind::Config, what).hint("`podman version` shows it; upgrade Podman")
    }
}

/// What came back, whole. A running container's environment has its secrets in clear.
struct Answer {
    status: StatusCode,
    body: Zeroizing<Vec<u8>>,
}

impl Answer {
    fn failure(&self) -> Option<Failure> {
        serde_json::from_slice(&self.body).ok()
    }

    /// Whether Podman has no such secret. A driver that failed makes some versions say "no such
    /// secret" as well, with the same status: only these words are Podman's own.
    fn says_gone(&self) -> bool {
        !self.status.is_success()
            && self
                .failure()
                .is_some_and(|f| f.message.starts_with("no secret with name or id"))
    }

    /// Whether Podman has no such container.
    fn says_no_container(&self) -> bool {
        self.status == StatusCode::NOT_FOUND && self.failure().is_some()
    }
}

/// Podman's account of what failed.
#[derive(Deserialize)]
struct Failure {
    cause: String,
    message: String,
}

impl Failure {
    /// Whether a command of the secret's driver failed, not Podman.
    fn is_of_the_driver(&self) -> bool {
        let ended = self.cause.starts_with("exit status") || self.cause.starts_with("signal:");
        ended || self.message.starts_with("deleting secret")
    }
}

#[derive(Deserialize)]
struct Created {
    #[serde(rename = "ID")]
    id: String,
}

#[derive(Deserialize)]
struct Listed {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Spec")]
    spec: Spec,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    name: String,
    driver: Driver,
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Driver {
    name: String,
    options: Option<BTreeMap<String, String>>,
}

impl From<Listed> for Secret {
    fn from(listed: Listed) -> Self {
        Self {
            id: listed.id,
            name: listed.spec.name,
            driver: listed.spec.driver.name,
            options: listed.spec.driver.options.unwrap_or_default(),
            labels: listed.spec.labels.unwrap_or_default(),
        }
    }
}

fn url(path: &str, query: &[(&str, &str)]) -> Result<Url> {
    let address = format!("{API}/{path}");
    let parsed = if query.is_empty() {
        Url::parse(&address)
    } else {
        Url::parse_with_params(&address, query)
    };
    parsed.map_err(|e| Error::new(Kind::Internal, "cannot write a request to Podman").because(e))
}

fn json(map: &BTreeMap<String, String>) -> Result<String> {
    serde_json::to_string(map)
        .map_err(|e| Error::new(Kind::Internal, "cannot write a request to Podman").because(e))
}

/// The first two numbers of a version like `4.3.1` or `5.6.0-dev`.
pub(crate) fn parse_version(text: &str) -> Option<Version> {
    let mut numbers = text.split(['.', '-']).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Podman's words on one line of bounded length.
fn words(message: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    message.chars().take(MAX_WORDS).map(plain).collect()
}

/// Podman loses what the driver said on stderr, and keeps its exit status only.
fn driver_failed(doing: &str, words: &str, cause: &str) -> Error {
    let (kind, hint) = match cause {
        "exit status 126" | "exit status 127" => (
            Kind::Config,
            "the driver can't be run: `driver_path` in config.yaml must name psi-secret, and it must be on the host: \
             `make install`, for containers the `podman run … psi-install units … --root /host` of docs/deployment.md",
        ),
        _ => (
            Kind::Unreachable,
            "`journalctl -u podman.service` shows what the driver said",
        ),
    };
    Error::new(kind, format!("{doing}: its driver failed"))
        .because(words)
        .hint(hint)
}

fn half_replaced(name: &str, error: Error) -> Error {
    let hint = error.next_step().unwrap_or("see the cause").to_owned();
    let name = quote_name(name);
    Error::new(
        error.kind(),
        format!("secret {name} was to be replaced and may be gone"),
    )
    .because(error)
    .hint(format!(
        "{hint}; then `systemctl restart 'psi-*-setup.service'` registers what is missing"
    ))
}

fn is_denied(error: &reqwest::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return io.kind() == ErrorKind::PermissionDenied;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_down_to_its_second_number() {
        assert_eq!(parse_version("4.3.1"), Some((4, 3)));
        assert_eq!(parse_version("5.10.0-dev"), Some((5, 10)));
        assert_eq!(parse_version("5.7-rc1"), Some((5, 7)));
        for none in ["", "5", "v5.1", "five.one"] {
            assert_eq!(parse_version(none), None, "{none}");
        }
        assert!(parse_version("4.10.0") > Some(REPLACES));
    }

    #[test]
    fn podmans_words_are_one_line_of_bounded_length() {
        assert_eq!(words("a\nb\u{1b}c"), "a b c");
        assert_eq!(words(&"é".repeat(1000)).chars().count(), MAX_WORDS);
    }
}
