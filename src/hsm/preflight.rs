//! `psi-hsm preflight`: everything that a lookup needs, one after the other.

use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::cli;
use crate::client::Client;
use crate::config::{Config, NitrokeyHsm};
use crate::error::{Error, Kind, Result};
use crate::hsm::{Outcome, PATIENCE, init, pin, public_key, settings, status, token};
use crate::mapping::{ProviderName, Store};
use crate::pkcs11::{CheckedLogin, PinState, PublicKey, Token, TokenInfo};

/// For `--help` and the man page, see [`crate::cli::manual`].
pub const MANUAL: &str = "\
Examples:
  psi-hsm preflight
      After each step of setting up, and when a lookup fails.
  psi-hsm preflight --no-login
      Without using the PIN.

Exit status:
  0   nothing is wrong; there may be warnings
  1   something is, as listed
  78  no token is configured
";

/// Where pcscd listens, unless `PCSCLITE_CSOCK_NAME` says otherwise (libpcsclite).
const PCSCD_SOCKET: &str = "/run/pcscd/pcscd.comm";

/// `psi-hsm preflight`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Leave the PIN and what needs it alone.
    #[arg(long)]
    pub no_login: bool,
    /// One JSON object on one line.
    #[arg(long)]
    pub json: bool,
}

/// What `--json` prints: `{"result": "WARN", "checks": [{"check": "module", "result": "PASS",
/// "says": "…", "fix": null}]}`. Keys and checks are only ever added.
#[derive(Debug, Serialize)]
struct Preflight {
    result: Verdict,
    checks: Vec<Check>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum Verdict {
    Pass,
    /// Not tried, since something before it failed.
    Skip,
    Warn,
    Fail,
}

impl Verdict {
    fn as_str(self) -> &'static str {
        match self {
            Verdict::Pass => "PASS",
            Verdict::Skip => "SKIP",
            Verdict::Warn => "WARN",
            Verdict::Fail => "FAIL",
        }
    }
}

#[derive(Debug, Serialize)]
struct Check {
    check: &'static str,
    result: Verdict,
    says: String,
    fix: Option<String>,
}

/// The checks so far.
#[derive(Default)]
struct Checks(Vec<Check>);

impl Checks {
    fn pass(&mut self, check: &'static str, says: impl Into<String>) {
        self.add(check, Verdict::Pass, says.into(), None);
    }

    fn warn(&mut self, check: &'static str, says: impl Into<String>, fix: impl Into<String>) {
        self.add(check, Verdict::Warn, says.into(), Some(fix.into()));
    }

    fn fail(&mut self, check: &'static str, says: impl Into<String>, fix: impl Into<String>) {
        self.add(check, Verdict::Fail, says.into(), Some(fix.into()));
    }

    fn failed(&mut self, check: &'static str, error: &Error) {
        let fix = error.next_step().map(str::to_owned);
        self.add(check, Verdict::Fail, cli::one_line(error), fix);
    }

    fn skip(&mut self, check: &'static str, why: &str) {
        self.add(check, Verdict::Skip, why.to_owned(), None);
    }

    fn add(&mut self, check: &'static str, result: Verdict, says: String, fix: Option<String>) {
        self.0.push(Check {
            check,
            result,
            says: says.replace(char::is_control, " "),
            fix,
        });
    }

    fn has_failed(&self, check: &str) -> bool {
        let mut failed = self.0.iter().filter(|c| c.result == Verdict::Fail);
        failed.any(|c| c.check == check)
    }
}

/// Checks it all. What is wrong is in the outcome.
///
/// # Errors
/// [`Kind::Config`] if no token is configured.
pub async fn preflight(config: &Config, args: &Args) -> Result<Outcome> {
    let hsm = settings(config)?;
    let token = token(hsm);
    let mut checks = Checks::default();
    module(&mut checks, hsm, &token);
    pcscd(&mut checks, hsm);
    let info = the_token(&mut checks, &token);
    pin_source(&mut checks, hsm, info.as_ref());
    let login = info
        .as_ref()
        .and_then(|info| login(&mut checks, &token, info, args));
    let public_key = key(&mut checks, &token, login);
    kept_public_key(&mut checks, hsm, public_key.as_ref());
    state_directory(&mut checks, config);
    psi_serve(&mut checks, config).await;
    outcome(checks, args)
}

fn outcome(Checks(checks): Checks, args: &Args) -> Result<Outcome> {
    let result = checks
        .iter()
        .map(|c| c.result)
        .filter(|r| *r != Verdict::Skip);
    let result = result.max().unwrap_or(Verdict::Pass);
    let preflight = Preflight { result, checks };
    Ok(Outcome {
        text: match args.json {
            true => cli::json_line(&preflight)?,
            false => text(&preflight),
        },
        end: Ok(u8::from(result == Verdict::Fail)),
    })
}

fn text(preflight: &Preflight) -> String {
    let mut text = String::new();
    for check in &preflight.checks {
        let result = check.result.as_str();
        text.push_str(&format!("{result}  {:16}{}\n", check.check, check.says));
        if let Some(fix) = &check.fix {
            text.push_str(&format!("{:22}fix: {fix}\n", ""));
        }
    }
    text
}

fn module(checks: &mut Checks, hsm: &NitrokeyHsm, token: &Token) {
    let module = hsm.pkcs11_module.display();
    match token.all_tokens(PATIENCE) {
        Ok(tokens) => {
            let names: Vec<String> = tokens.iter().map(TokenInfo::name).collect();
            let shows = match names.is_empty() {
                true => "no token".to_owned(),
                false => names.join(", "),
            };
            checks.pass("module", format!("{module} shows {shows}"));
        }
        Err(error) => checks.failed("module", &error),
    }
}

/// OpenSC asks pcscd for its readers; other modules have ways of their own.
fn pcscd(checks: &mut Checks, hsm: &NitrokeyHsm) {
    let name = hsm.pkcs11_module.file_name().unwrap_or_default();
    if !name.to_string_lossy().contains("opensc") {
        return checks.pass("pcscd", "this module does without");
    }
    let socket = std::env::var_os("PCSCLITE_CSOCK_NAME").map_or(PCSCD_SOCKET.into(), PathBuf::from);
    let shown = socket.display();
    match UnixStream::connect(&socket) {
        Ok(_) => checks.pass("pcscd", format!("listens on {shown}")),
        Err(error) => checks.fail(
            "pcscd",
            format!("does not listen on {shown}: {error}"),
            "`systemctl enable --now pcscd.socket`; on a host without pcscd `psi-hsm setup-pcscd`, \
             run from the image where PSI is in containers: docs/deployment.md",
        ),
    }
}

fn the_token(checks: &mut Checks, token: &Token) -> Option<TokenInfo> {
    if checks.has_failed("module") {
        checks.skip("token", "the module can't be used");
        return None;
    }
    match token.info(PATIENCE) {
        Ok(info) => {
            checks.pass("token", format!("{}, {}", info.name(), info.model));
            Some(info)
        }
        Err(error) => {
            checks.failed("token", &error);
            None
        }
    }
}

fn pin_source(checks: &mut Checks, hsm: &NitrokeyHsm, info: Option<&TokenInfo>) {
    let serial = info.map_or("", |info| &info.serial);
    let is_wanted = info.is_none_or(|info| info.needs_login);
    match pin::Source::of(hsm, serial) {
        _ if !is_wanted => checks.pass("PIN source", "the token wants no PIN"),
        Ok(source @ pin::Source::Credential) => checks.pass("PIN source", source.as_str()),
        Ok(source @ pin::Source::Configuration) => {
            let says = format!("{}: whoever reads that has it", source.as_str());
            checks.warn("PIN source", says, pin::SEAL_IT);
        }
        Ok(pin::Source::Nowhere) => checks.fail("PIN source", "there is no PIN", pin::SEAL_IT),
        Err(error) => checks.failed("PIN source", &error),
    }
}

/// Whether the token may be logged in, and what it shows then: its public key, if it can decrypt.
fn login(
    checks: &mut Checks,
    token: &Token,
    info: &TokenInfo,
    args: &Args,
) -> Option<CheckedLogin> {
    let state = status::pin_state(info);
    match info.pin {
        _ if !info.needs_login => {}
        PinState::Fine => checks.pass("PIN tries", state),
        PinState::TriedWrong => checks.warn(
            "PIN tries",
            state,
            "make sure that the PIN is right: `psi-hsm test-pin`; the right one gives the tries back",
        ),
        PinState::LastTry | PinState::Locked | PinState::NotSet => {
            // Refused before the PIN is sent, with the way out.
            match token.check_login(PATIENCE) {
                Err(error) => checks.failed("PIN tries", &error),
                Ok(_) => checks.warn("PIN tries", state, "`psi-hsm status` shows them"),
            }
        }
    }
    if checks.has_failed("PIN tries") || checks.has_failed("PIN source") {
        checks.skip("login", "the PIN is not tried");
        return None;
    }
    if args.no_login {
        checks.skip("login", "not wanted");
        return None;
    }
    match token.check_login(PATIENCE) {
        Ok(checked) => {
            checks.pass("login", "the token takes it");
            Some(checked)
        }
        Err(error) => {
            checks.failed("login", &error);
            None
        }
    }
}

/// The key and what it can do; its public half if all is well.
fn key(checks: &mut Checks, token: &Token, login: Option<CheckedLogin>) -> Option<PublicKey> {
    let Some(login) = login else {
        checks.skip("key", "it is seen after a login only");
        checks.skip("decryption", "there was no login");
        return token.shown_public_key(PATIENCE).ok().flatten();
    };
    let public = login.key.and_then(|()| token.public_key(PATIENCE));
    match public {
        Ok(public) => {
            checks.pass("key", format!("RSA, {} bits", public.bits()));
            match init::check(token, &public) {
                Ok(()) => checks.pass("decryption", "RSA-OAEP with SHA-256"),
                Err(error) => checks.failed("decryption", &error),
            }
            Some(public)
        }
        Err(error) if error.kind() == Kind::NotFound => {
            checks.fail("key", cli::one_line(&error), "`psi-hsm init` makes one");
            checks.skip("decryption", "there is no key");
            None
        }
        Err(error) => {
            checks.failed("key", &error);
            checks.skip("decryption", "the key can't be used");
            None
        }
    }
}

fn kept_public_key(checks: &mut Checks, hsm: &NitrokeyHsm, on_token: Option<&PublicKey>) {
    let (file, check) = (&hsm.public_key_cache, "public key");
    let shown = file.display();
    let same = |kept: &PublicKey| {
        on_token
            .map(|key| public_key::is_same(kept, key))
            .transpose()
    };
    match public_key::read(file).and_then(|kept| Ok((kept.as_ref().map(same).transpose()?, kept))) {
        Ok((_, None)) => checks.warn(
            check,
            format!("none in {shown}: nothing can be stored without the token"),
            "`psi-hsm init` puts it there",
        ),
        Ok((Some(Some(false)), _)) => checks.failed(check, &public_key::differs(file)),
        Ok((Some(Some(true)), _)) => checks.pass(check, format!("{shown} has the token's")),
        Ok(_) => checks.pass(check, format!("{shown}, not compared with the token's")),
        Err(error) => checks.failed(check, &error),
    }
}

fn state_directory(checks: &mut Checks, config: &Config) {
    let (directory, check) = (config.state_dir.as_path(), "state directory");
    match Store::open_existing(directory).and_then(|_| metadata(directory)) {
        Ok(metadata) if metadata.mode() & 0o077 != 0 => checks.warn(
            check,
            format!(
                "{} is open to others: mode {:03o}",
                directory.display(),
                metadata.mode() & 0o777
            ),
            format!("`chmod 0700 {}`", directory.display()),
        ),
        Ok(metadata) => checks.pass(
            check,
            format!("{}, of user {}", directory.display(), metadata.uid()),
        ),
        Err(error) => checks.failed(check, &error),
    }
}

fn metadata(directory: &Path) -> Result<std::fs::Metadata> {
    let metadata = std::fs::metadata(directory);
    metadata.map_err(|e| Error::io(format!("cannot read {}", directory.display()), e))
}

/// It has another user, other groups and a sandbox, so that it may fail where root does not.
async fn psi_serve(checks: &mut Checks, config: &Config) {
    let check = "psi-serve";
    let asked = match Client::of(config) {
        Ok(client) => client.with_patience(Duration::ZERO).status().await,
        Err(error) => Err(error),
    };
    match asked {
        Ok(status) => match trouble(&status) {
            None => checks.pass(check, "runs, and knows of no trouble with the token"),
            Some(trouble) => checks.warn(
                check,
                format!("its last try with the token failed: {trouble}"),
                "`journalctl -u psi-secrets.service` says why; it may be over by now",
            ),
        },
        Err(error) => checks.warn(
            check,
            cli::one_line(&error),
            "`systemctl start psi-secrets.socket psi-secrets.service`",
        ),
    }
}

/// What psi-serve says of its last try with the token.
fn trouble(status: &serde_json::Value) -> Option<String> {
    let providers = status["providers"].as_array()?;
    let name = ProviderName::NitrokeyHsm.as_str();
    let ours = providers.iter().find(|provider| provider["name"] == name)?;
    ours["trouble"].as_str().map(str::to_owned)
}
