//! A PKCS#11 module that does not come back. Nothing can end its call but the end of the process: so
//! psi-serve says so, and where that may help ends itself, for systemd to start it anew.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::fs::Mode;
use tokio::task::JoinError;
use tracing::info;

use crate::cache::Keyslot;
use crate::directory::{Directory, Owner};
use crate::error::{Error, Kind, Result};
use crate::events;
use crate::pkcs11::{self, Stuck};
use crate::protector::SlotKind;
use crate::serve::sealed::{Sealed, State};

/// A call that takes longer is told. A Nitrokey HSM behind OpenSC has been seen to take 25 s.
const TOLD_AFTER: Duration = Duration::from_secs(30);

/// A call that takes longer will not come back.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(90);

/// How long after such an end there is no other: a token that hangs at each start must not take down
/// what can be served without it again and again.
const ONCE_IN: Duration = Duration::from_secs(3600);

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The file in the state directory whose age is the time since the last such end.
const MARK: &str = ".token-stuck";

/// Watches until psi-serve has to end; why is returned.
pub async fn watch(sealed: Arc<Sealed>, state_dir: PathBuf) -> Error {
    let mut look = tokio::time::interval(LOOK_EVERY);
    let mut told = None;
    loop {
        look.tick().await;
        let stuck = pkcs11::stuck();
        told = tell(told, stuck.as_ref());
        let Some(stuck) = stuck.filter(|stuck| stuck.lasts >= GIVEN_UP_AFTER) else {
            continue;
        };
        match may_end(&sealed, &state_dir) {
            Ok(()) => return given_up(&stuck),
            Err(why) if told != Some(Told::GivenUp) => {
                told = Some(Told::GivenUp);
                events::TOKEN_STUCK.say(format_args!(
                    "{}; psi-serve goes on: {why}; next: `systemctl restart pcscd psi-secrets.service` once \
                     the token is well",
                    describe(&stuck)
                ));
            }
            Err(_) => {}
        }
    }
}

/// Why [`watch`] has ended.
pub fn ended(why: std::result::Result<Error, JoinError>) -> Error {
    why.unwrap_or_else(|e| {
        Error::new(Kind::Internal, "the watch over PKCS#11 modules broke off").because(e)
    })
}

/// What has been said of the call that is at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    IsSlow,
    GivenUp,
}

fn tell(told: Option<Told>, stuck: Option<&Stuck>) -> Option<Told> {
    match (told, stuck) {
        (None, Some(stuck)) if stuck.lasts >= TOLD_AFTER => {
            events::TOKEN_STUCK.say(format_args!(
                "{}: what needs the token waits, all else is answered; next: `systemctl status pcscd`, and \
                 whether `pkcs11-tool --module {} --list-slots` answers",
                describe(stuck),
                stuck.module.display()
            ));
            Some(Told::IsSlow)
        }
        (Some(_), None) => {
            info!("the PKCS#11 module answers again");
            None
        }
        (Some(_), Some(stuck)) if stuck.lasts < TOLD_AFTER => None,
        (told, _) => told,
    }
}

fn describe(stuck: &Stuck) -> String {
    let (module, seconds) = (stuck.module.display(), stuck.lasts.as_secs());
    format!("the PKCS#11 module {module} has not come back from a call for {seconds} s")
}

fn given_up(stuck: &Stuck) -> Error {
    let what = format!(
        "{}: psi-serve ends, so that it is started anew with another session",
        describe(stuck)
    );
    Error::new(Kind::Unreachable, what)
        .hint("`systemctl status pcscd`; the next hour it is not done again")
}

/// Whether an end may help and takes nothing away; that there was one is remembered then.
///
/// # Errors
/// What speaks against it.
fn may_end(sealed: &Sealed, state_dir: &Path) -> Result<(), String> {
    if is_opened_by_token(sealed) {
        return Err("the cache was opened with the token, and might not open again".to_owned());
    }
    remember(state_dir)
}

/// Remembers that psi-serve ends now.
///
/// # Errors
/// It has done so within the hour, or it can't be remembered.
fn remember(state_dir: &Path) -> Result<(), String> {
    let failed = |e| format!("{}: {e}", state_dir.join(MARK).display());
    let directory = Directory::open(state_dir).map_err(failed)?;
    let last = directory.stat(OsStr::new(MARK)).map_err(failed)?;
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = since_1970.map_or(0, |d| d.as_secs());
    // One of the future was made when the clock was wrong.
    let age = last.and_then(|stat| now.checked_sub(u64::try_from(stat.st_mtime).ok()?));
    if let Some(age) = age.filter(|age| *age < ONCE_IN.as_secs()) {
        return Err(format!("it ended for that {} min ago", age / 60));
    }
    let mode = Mode::RUSR | Mode::WUSR;
    directory
        .replace(OsStr::new(MARK), &[], mode, Owner::OfDirectory)
        .map_err(failed)
}

/// What is served now may be out of reach once this process is gone.
fn is_opened_by_token(sealed: &Sealed) -> bool {
    let State::Open(cache) = sealed.state() else {
        return false;
    };
    let opens_unasked = |kind| matches!(kind, SlotKind::Credential | SlotKind::Tpm2);
    match sealed.attempts().last() {
        Some(attempt) => !opens_unasked(attempt.kind),
        None => {
            let header = &cache.current().header;
            !header
                .slots
                .iter()
                .any(|slot: &Keyslot| opens_unasked(slot.kind))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(seconds: u64) -> Option<Stuck> {
        Some(Stuck {
            module: PathBuf::from("/usr/lib/opensc-pkcs11.so"),
            lasts: Duration::from_secs(seconds),
        })
    }

    #[test]
    fn a_slow_call_is_told_once_and_so_is_the_next_one() {
        let mut told = None;
        let mut after = |seconds: Option<u64>| {
            told = tell(told, seconds.and_then(call).as_ref());
            told
        };
        assert_eq!(after(Some(29)), None);
        assert_eq!(after(Some(30)), Some(Told::IsSlow));
        assert_eq!(after(Some(200)), Some(Told::IsSlow));
        assert_eq!(after(None), None);
        assert_eq!(after(Some(31)), Some(Told::IsSlow));
        assert_eq!(after(Some(1)), None, "another call");
    }

    #[test]
    fn it_ends_at_most_once_an_hour_and_never_if_that_can_not_be_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = directory.path();
        remember(state_dir).unwrap();
        let again = remember(state_dir).unwrap_err();
        assert!(again.contains("0 min ago"), "{again}");

        let made = |at| {
            let mark = std::fs::File::options()
                .write(true)
                .open(state_dir.join(MARK));
            mark.unwrap().set_modified(at).unwrap();
        };
        let now = SystemTime::now();
        made(now - ONCE_IN + Duration::from_secs(60));
        let again = remember(state_dir).unwrap_err();
        assert!(again.contains("59 min ago"), "{again}");
        made(now - ONCE_IN);
        remember(state_dir).unwrap();
        made(now + ONCE_IN);
        remember(state_dir).unwrap();

        let gone = state_dir.join("gone");
        assert!(remember(&gone).unwrap_err().contains("gone/.token-stuck"));
    }
}
