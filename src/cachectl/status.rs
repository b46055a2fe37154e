//! `psi-cachectl status`: what the cache file says of itself, whether it opens, how psi-serve is.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::cache::{self, Header, Outline, v1};
use crate::cachectl::Outcome;
use crate::cachectl::owner::{self, Owner};
use crate::cachectl::printed::{Slot, age, date, printable};
use crate::cli;
use crate::client::Client;
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::protector::Credential;
use crate::slots;
use crate::wire::{Attempted, Trouble, Verified};

/// How long psi-serve may take to say how it is.
const PATIENCE: Duration = Duration::from_secs(5);

/// Of a credential that can't be decrypted systemd tells neither the name nor the remedy.
const TO_START: &str = "`systemctl start psi-secrets.service`; if that ends with 243/CREDENTIALS, a file in \
/etc/credstore.encrypted can't be decrypted and has to be moved away";

/// For `--help` and the man page, see [`crate::cli::manual`].
pub const MANUAL: &str = "\
Examples:
  psi-cachectl status
      Without touching a device.
  psi-cachectl status --verify
      Open it, and authenticate all of it.

Exit status:
  0   done; with --verify: all of it is what was saved
  65  with --verify: damaged, or of another version
  66  with --verify: there is no cache
  69  with --verify: no slot opens it; or psi-serve does not answer
  78  the configuration has to be changed
";

/// `psi-cachectl status`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Open the cache and authenticate all of it: exit 0 if it is good, 65 if it is damaged or of
    /// another version, 66 if there is none, 69 if no slot opens it.
    #[arg(long)]
    pub verify: bool,
    /// One JSON object on one line.
    #[arg(long)]
    pub json: bool,
}

/// What `--json` prints. Keys are only ever added.
///
/// ```json
/// {"path": "/var/lib/psi/cache.enc", "enabled": true, "backend": "tpm",
///  "file": {"size": 1234, "version": 2, "sealed_by": null, "written_at": 1795553000, "key_id": "0123456789abcdef",
///           "generation": 7, "entries": 12, "local": 0,
///           "slots": [{"id": 1, "kind": "tpm2", "label": "", "created_at": 1795550000, "pcrs": [7]}]},
///  "old_file": {"path": "/var/lib/psi/cache.enc.v1", "size": 1234, "kept_until": 1796154800},
///  "verified": true, "trouble": null,
///  "psi_serve": {"running": true, "status": {…}, "trouble": null}}
/// ```
///
/// Times are in seconds since 1970. `backend` is null if none is set. `file` is null if there is
/// none; of `file` only `size` and `version` are not null if its header can't be read, and
/// `version` is null if it is no cache at all. `sealed_by` is what a file of version 1 says of its
/// seal, `tpm` or `hsm`, and null for others. `pcrs` is null for slots of other kinds. `old_file` is
/// the file of version 1 that the cache was carried over from, null once it is gone. `verified` is
/// null without `--verify`. `status` is
/// the answer of psi-serve to `GET /status`, null if it does not run or did not answer.
#[derive(Debug, Serialize)]
pub struct Status {
    path: PathBuf,
    enabled: bool,
    backend: Option<&'static str>,
    file: Option<File>,
    old_file: Option<OldFile>,
    verified: Option<bool>,
    trouble: Option<Trouble>,
    psi_serve: Serve,
}

#[derive(Debug, Serialize)]
struct File {
    size: u64,
    version: Option<u8>,
    sealed_by: Option<&'static str>,
    written_at: Option<u64>,
    key_id: Option<String>,
    generation: Option<u64>,
    entries: Option<u64>,
    local: Option<u64>,
    slots: Option<Vec<Slot>>,
}

#[derive(Debug, Serialize)]
struct OldFile {
    path: PathBuf,
    size: u64,
    kept_until: u64,
}

#[derive(Debug, Serialize)]
struct Serve {
    running: bool,
    status: Option<serde_json::Value>,
    trouble: Option<Trouble>,
}

/// Describes the cache. Without `--verify` nothing is opened and no device is asked.
///
/// # Errors
/// [`Kind::Io`] if the file can't be read. A file that is damaged, or does not open where that was
/// asked for, is described, and is the outcome's failure.
pub async fn status(config: &Config, credential: Credential, args: &Args) -> Result<Outcome> {
    let outline = cache::outline(&config.cache.path)?;
    let mut failure = outline.as_ref().and_then(header_failure);
    let mut file = outline.map(File::of);
    let mut verified = None;
    if args.verify {
        match verify(config, credential, &file, failure.take()).await {
            Ok(header) => {
                file.iter_mut().for_each(|file| file.take_over(&header));
                verified = Some(true);
            }
            Err(error) => {
                verified = Some(false);
                failure = Some(error);
            }
        }
    }
    let status = Status {
        path: config.cache.path.clone(),
        enabled: config.cache.enabled,
        backend: config.cache.backend.map(crate::config::Backend::as_str),
        file,
        old_file: v1::kept(&config.cache.path)?.map(OldFile::from),
        verified,
        trouble: failure.as_ref().map(Trouble::from),
        psi_serve: ask_psi_serve(config).await?,
    };
    let text = match args.json {
        true => cli::json_line(&status)?,
        false => status.to_text(),
    };
    // An older version is no failure, unless it was to be opened.
    let failure = failure.filter(|_| args.verify || !status.is_of_version_1());
    let end = failure.map_or(Ok(0), Err);
    Ok(Outcome {
        end,
        ..Outcome::done(text)
    })
}

fn header_failure(outline: &Outline) -> Option<Error> {
    let error = outline.header.as_ref().err()?;
    let copy = Error::new(error.kind(), error.to_string());
    Some(copy.hint(error.next_step()?))
}

/// Has all of the file authenticated, by psi-serve or under the lock.
async fn verify(
    config: &Config,
    credential: Credential,
    file: &Option<File>,
    failure: Option<Error>,
) -> Result<Verified> {
    let absent = || slots::no_file(&config.cache.path);
    if file.is_none() {
        return Err(absent());
    }
    if let Some(failure) = failure {
        return Err(failure);
    }
    match owner::find(config).await? {
        Owner::Serve(client) => client.verify().await,
        Owner::Us(_lock) => {
            let cache = owner::open_cache(config, credential)?.ok_or_else(absent)?;
            Ok(Verified::from(&cache.current().header))
        }
    }
}

/// Asks only if psi-serve holds its lock: systemd would start it for the asking.
async fn ask_psi_serve(config: &Config) -> Result<Serve> {
    let mut serve = Serve {
        running: cache::is_owned(&config.state_dir)?,
        status: None,
        trouble: None,
    };
    if !serve.running {
        return Ok(serve);
    }
    let client = Client::of(config)?.with_patience(Duration::ZERO);
    let late = || {
        let what = format!("psi-serve does not answer within {} s", PATIENCE.as_secs());
        Error::new(Kind::Unreachable, what)
            .hint("`journalctl -u psi-secrets` shows what it waits for")
    };
    let answer = tokio::time::timeout(PATIENCE, client.status()).await;
    match answer.unwrap_or_else(|_| Err(late())) {
        Ok(status) => serve.status = Some(status),
        Err(error) => serve.trouble = Some(Trouble::from(&error)),
    }
    Ok(serve)
}

impl From<v1::Kept> for OldFile {
    fn from(kept: v1::Kept) -> Self {
        Self {
            path: kept.path,
            size: kept.size,
            kept_until: kept.until,
        }
    }
}

impl File {
    fn of(outline: Outline) -> Self {
        let header = outline.header.ok();
        let of_header = |field: fn(&Header) -> u64| header.as_ref().map(field);
        Self {
            size: outline.size,
            version: outline.version,
            sealed_by: outline.sealed_by.map(v1::Sealed::as_str),
            written_at: of_header(|h| h.written_at),
            generation: of_header(|h| h.generation),
            entries: of_header(|h| h.entries),
            local: of_header(|h| h.local),
            key_id: header.as_ref().map(|h| h.key_id.clone()),
            slots: header.as_ref().map(Slot::all),
        }
    }

    /// What was authenticated, in the place of what the header says.
    fn take_over(&mut self, verified: &Verified) {
        self.generation = Some(verified.generation);
        self.written_at = Some(verified.written_at);
        self.entries = Some(verified.entries);
        self.local = Some(verified.local);
    }
}

impl Status {
    fn is_of_version_1(&self) -> bool {
        self.file.as_ref().is_some_and(|f| f.version == Some(1))
    }

    fn to_text(&self) -> String {
        let mut lines = Lines::default();
        lines.add("cache", self.path.display());
        lines.add("enabled", if self.enabled { "yes" } else { "no" });
        lines.add("backend", self.backend.unwrap_or("not set"));
        match &self.file {
            Some(file) => self.add_file(&mut lines, file),
            None => lines.add("file", "no cache yet"),
        }
        if let Some(old) = &self.old_file {
            let until = date(old.kept_until);
            let path = old.path.display();
            let why = "of version 1, until the cache was reopened after a hand-over";
            lines.add("old file", format!("{path}, {why} or {until}"));
        }
        lines.add("psi-serve", self.psi_serve.in_words());
        if let Some(next) = self.psi_serve.next() {
            lines.add("next", printable(next));
        }
        if let Some(slots) = self.file.as_ref().and_then(|f| f.slots.as_ref()) {
            lines.0.push('\n');
            lines
                .0
                .push_str(&slot_table(slots, &self.psi_serve.attempts()));
        }
        lines.0
    }

    fn add_file(&self, lines: &mut Lines, file: &File) {
        match file.version {
            Some(1) => {
                let by = file.sealed_by.unwrap_or("nothing that is known");
                lines.add(
                    "version",
                    format!("1, sealed by: {by}; carried over when psi-serve opens it"),
                );
            }
            Some(version) => lines.add("version", version),
            None => lines.add("version", "none: it is no cache file"),
        }
        lines.add("size", format!("{} bytes", file.size));
        if let Some(at) = file.written_at {
            lines.add("written", format!("{}, {}", date(at), age(at)));
        }
        if let Some(key_id) = &file.key_id {
            lines.add("key id", printable(key_id));
        }
        if let Some(generation) = file.generation {
            lines.add("generation", generation);
        }
        let vouched = match self.verified {
            Some(true) => "",
            _ => "; so the header says, not verified",
        };
        match (file.entries, file.local) {
            (Some(entries), Some(local)) => lines.add(
                "entries",
                format!("{entries}, {local} of them kept nowhere else{vouched}"),
            ),
            _ => lines.add("entries", "not counted"),
        }
        match self.verified {
            Some(true) => lines.add("verified", "yes: all of it is what was saved"),
            Some(false) => lines.add("verified", "no"),
            None => {}
        }
    }
}

impl Serve {
    /// What to do about it or its cache.
    fn next(&self) -> Option<&str> {
        if !self.running {
            return Some(TO_START);
        }
        self.status.as_ref()?["cache"]["next"].as_str()
    }

    /// How it tried to open the cache.
    fn attempts(&self) -> Vec<Attempted> {
        let status = self.status.as_ref();
        let attempts = status.map(|status| status["cache"]["attempts"].clone());
        attempts
            .and_then(|attempts| serde_json::from_value(attempts).ok())
            .unwrap_or_default()
    }

    fn in_words(&self) -> String {
        if let Some(trouble) = &self.trouble {
            return format!("holds the lock; {}", printable(&trouble.what));
        }
        let Some(status) = &self.status else {
            return "does not run".to_owned();
        };
        let state = status["cache"]["state"].as_str().unwrap_or("unknown");
        let mut words = format!("runs, cache {}", printable(state));
        let health = match status["healthy"].as_bool() {
            Some(true) => ", healthy",
            _ => ", not healthy",
        };
        words.push_str(health);
        let why = status["why"].as_array().into_iter().flatten();
        for sentence in why.filter_map(serde_json::Value::as_str) {
            words.push_str("; ");
            words.push_str(&printable(sentence));
        }
        words
    }
}

#[derive(Default)]
struct Lines(String);

impl Lines {
    fn add(&mut self, name: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "{name:<12}{value}");
    }
}

/// The slots; how each was tried, and below them what to do about those that did not open.
fn slot_table(slots: &[Slot], attempts: &[Attempted]) -> String {
    let of = |slot: &Slot| attempts.iter().find(|a| a.slot == slot.id);
    let row = |slot: &Slot| {
        vec![
            slot.id.to_string(),
            slot.kind.to_string(),
            date(slot.created_at),
            printable(&slot.label),
            of(slot).map_or("not tried".to_owned(), in_words),
        ]
    };
    let mut rows: Vec<Vec<String>> = slots.iter().map(row).collect();
    let mut headers = vec!["SLOT", "KIND", "CREATED", "LABEL", "LAST OPENING"];
    if attempts.is_empty() {
        headers.pop();
        rows.iter_mut().for_each(|row| row.truncate(headers.len()));
    }
    let mut text = cli::table(&headers, &rows);
    for attempt in attempts.iter().filter(|a| a.tried) {
        let next = attempt.failure.as_ref().and_then(|f| f.next.as_ref());
        if let Some(next) = next {
            let _ = writeln!(text, "next, {}: {}", attempt.name(), printable(next));
        }
    }
    text
}

fn in_words(attempt: &Attempted) -> String {
    match &attempt.failure {
        None => format!("opened the cache in {} ms", attempt.took_ms),
        Some(_) if !attempt.tried => "not tried: it waits for its key".to_owned(),
        Some(failure) => printable(&failure.what),
    }
}
