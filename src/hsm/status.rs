//! `psi-hsm status`: which token and key are meant, and how they are.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Serialize;

use crate::cli;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::hsm::{Outcome, PATIENCE, list, pin, public_key, settings, token};
use crate::mapping::Store;
use crate::pkcs11::{PinState, TokenInfo};
use crate::wire::Trouble;

/// `psi-hsm status`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// One JSON object on one line.
    #[arg(long)]
    pub json: bool,
}

/// What `--json` prints. Keys are only ever added. `token` is null if it is not there, `pin_from` if a
/// credential can't be opened, `public_key` if none is kept or it is none, `stored` if there is no
/// state directory; `trouble` then says why.
#[derive(Debug, Serialize)]
struct Status {
    module: PathBuf,
    token: Option<Token>,
    key_id: String,
    key_label: String,
    pin_from: Option<&'static str>,
    public_key: Option<PublicKey>,
    public_key_file: PathBuf,
    stored: Option<usize>,
    trouble: Option<Trouble>,
}

#[derive(Debug, Serialize)]
struct Token {
    label: String,
    serial: String,
    model: String,
    manufacturer: String,
    pin: &'static str,
}

#[derive(Debug, Serialize)]
struct PublicKey {
    bits: usize,
    fingerprint: String,
}

impl From<TokenInfo> for Token {
    fn from(info: TokenInfo) -> Self {
        Self {
            pin: pin_state(&info),
            label: info.label,
            serial: info.serial,
            model: info.model,
            manufacturer: info.manufacturer,
        }
    }
}

/// How the PIN is, in a few words.
pub fn pin_state(info: &TokenInfo) -> &'static str {
    match info.pin {
        _ if !info.needs_login => "not wanted",
        PinState::NotSet => "not set yet",
        PinState::Fine => "all tries left",
        PinState::TriedWrong => "a wrong one was tried",
        PinState::LastTry => "one try left",
        PinState::Locked => "locked",
    }
}

/// Describes all that is known without a login.
///
/// # Errors
/// [`crate::Kind::Config`] if no token is configured. What can't be known of one that is, is said,
/// and the first such trouble is the outcome's failure.
pub fn status(config: &Config, args: &Args) -> Result<Outcome> {
    let hsm = settings(config)?;
    let mut trouble = None;
    let token = note(&mut trouble, token(hsm).info(PATIENCE));
    let serial = token.as_ref().map_or("", |token| &token.serial);
    let pin_from = note(&mut trouble, pin::Source::of(hsm, serial));
    let store = note(&mut trouble, Store::open_existing(&config.state_dir));
    let found = store.and_then(|store| note(&mut trouble, list::find(config, &store)));
    let stored = found.map(|found| {
        trouble = trouble.take().or(found.unreadable.into_iter().next());
        found.stored.len()
    });
    let kept = note(&mut trouble, public_key::read(&hsm.public_key_cache)).flatten();
    let status = Status {
        module: hsm.pkcs11_module.clone(),
        key_id: hsm.key_id.iter().map(|b| format!("{b:02x}")).collect(),
        key_label: hsm.key_label.clone(),
        pin_from: pin_from.map(pin::Source::as_str),
        public_key: kept.as_ref().map(describe).transpose()?,
        public_key_file: hsm.public_key_cache.clone(),
        stored,
        token: token.map(Token::from),
        trouble: trouble.as_ref().map(Trouble::from),
    };
    Ok(Outcome {
        text: match args.json {
            true => cli::json_line(&status)?,
            false => text(&status),
        },
        end: trouble.map_or(Ok(0), Err),
    })
}

/// Notes the first failure.
fn note<T>(trouble: &mut Option<Error>, outcome: Result<T>) -> Option<T> {
    match outcome {
        Ok(found) => Some(found),
        Err(error) => {
            trouble.get_or_insert(error);
            None
        }
    }
}

fn describe(key: &crate::pkcs11::PublicKey) -> Result<PublicKey> {
    Ok(PublicKey {
        bits: key.bits(),
        fingerprint: public_key::fingerprint(key)?,
    })
}

fn text(status: &Status) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(
            text,
            "{name:12}{}",
            value.replace(char::is_control, "\u{fffd}")
        );
    };
    line("module", status.module.display().to_string());
    match &status.token {
        Some(token) => {
            line(
                "token",
                format!("{:?} (serial {:?})", token.label, token.serial),
            );
            line("model", format!("{} {}", token.manufacturer, token.model));
            line("PIN", token.pin.to_owned());
        }
        None => line("token", "not there".to_owned()),
    }
    line(
        "PIN from",
        status.pin_from.unwrap_or("not known").to_owned(),
    );
    line(
        "key",
        format!("id {}, else label {:?}", status.key_id, status.key_label),
    );
    let file = status.public_key_file.display();
    line(
        "public key",
        match &status.public_key {
            Some(key) => format!("{} bits, {}, in {file}", key.bits, key.fingerprint),
            None => format!("none in {file}: `psi-hsm init`"),
        },
    );
    line(
        "stored",
        match status.stored {
            Some(count) => format!("{count} secrets: `psi-hsm list`"),
            None => "not known".to_owned(),
        },
    );
    text
}
