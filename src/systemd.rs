//! What systemd gives a service, and what a service tells systemd.

use std::io::Read;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::config::Scope;
use crate::dbus;
use crate::error::{Error, Kind, Result};
use crate::events;
use crate::protector::decrypt;
use crate::secret::SecretValue;

/// Largest credential, in bytes, as systemd.exec(5) limits them.
const MAX_CREDENTIAL: u64 = 1 << 20;

/// Where systemd looks for sealed credentials that units import.
const SEALED: &str = "/etc/credstore.encrypted";

/// The files in `$CREDENTIALS_DIRECTORY`.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// The directory, if systemd gave one.
    pub directory: Option<PathBuf>,
}

impl Credentials {
    /// Those of this process.
    pub fn from_env() -> Self {
        Self {
            directory: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
        }
    }

    /// The text of the credential `name`, less one trailing newline; nothing if there is none.
    ///
    /// # Errors
    /// [`Kind::Io`] if it is there and cannot be read, [`Kind::Damaged`] if it is larger than
    /// systemd's 1 MiB.
    pub fn read(&self, name: &str) -> Result<Option<SecretValue>> {
        let Some(directory) = &self.directory else {
            return Ok(None);
        };
        let path = directory.join(name);
        let failed = |e| Error::io(format!("cannot read the credential {}", path.display()), e);
        let file = match std::fs::File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(e)),
        };
        let size = file.metadata().map_err(failed)?.len();
        if size > MAX_CREDENTIAL {
            let what = format!("the credential {} is larger than 1 MiB", path.display());
            return Err(Error::new(Kind::Damaged, what).hint("check what the unit loads there"));
        }
        let mut bytes = Vec::with_capacity(size as usize + 1);
        file.take(MAX_CREDENTIAL)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        Ok(Some(SecretValue::new(bytes)))
    }

    /// The same for a tool that root may also run by hand: without a directory of credentials, the
    /// sealed file that a unit would import is opened.
    ///
    /// # Errors
    /// As [`Credentials::read`], and what systemd-creds says.
    pub fn read_or_open(&self, name: &str) -> Result<Option<SecretValue>> {
        match &self.directory {
            Some(_) => self.read(name),
            None => open_sealed(&Path::new(SEALED).join(name), name),
        }
    }
}

/// Nothing if there is no such file, or if it is not for us to see.
fn open_sealed(file: &Path, name: &str) -> Result<Option<SecretValue>> {
    if !file.exists() {
        return Ok(None);
    }
    let shown = file.display().to_string();
    let sealed = std::fs::read(file).map_err(|e| Error::io(format!("cannot read {shown}"), e))?;
    let opened = decrypt(name, &shown, &sealed).map_err(|e| match e.kind() {
        Kind::Unreachable => e,
        _ => e.hint(format!(
            "if it was sealed on another host: `systemd-creds encrypt --tpm2-pcrs= --name={name} - {shown}` seals it here"
        )),
    })?;
    let text = opened.expose();
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    Ok(Some(SecretValue::new(text.to_vec())))
}

/// The Unix sockets that systemd passed to this process; none if it was not socket-activated.
///
/// # Errors
/// [`Kind::Config`] if one of them is no listening Unix stream socket.
pub fn listening_sockets() -> Result<Vec<UnixListener>> {
    // listenfd takes a missing LISTEN_PID for ours; a variable meant for a parent must not count.
    if std::env::var("LISTEN_PID").ok() != Some(std::process::id().to_string()) {
        return Ok(Vec::new());
    }
    let mut passed = listenfd::ListenFd::from_env();
    let mut sockets = Vec::new();
    for index in 0..passed.len() {
        let wrong = |e: std::io::Error| {
            Error::new(
                Kind::Config,
                format!("socket {index} from systemd can't be used"),
            )
            .because(e)
            .hint("the socket unit must have one `ListenStream=` with an absolute path")
        };
        sockets.extend(passed.take_unix_listener(index).map_err(wrong)?);
    }
    Ok(sockets)
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        events::SYSTEMD_NOT_TOLD.say(format_args!(
            "systemd could not be told about the service's state: {error}"
        ));
    }
}

/// The service can do its work.
pub fn notify_ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The service is still starting, and needs `more` time from now on if the unit's own runs out.
pub fn notify_starting(status: &str, more: Duration) {
    let more = u32::try_from(more.as_micros()).unwrap_or(u32::MAX);
    notify(&[
        NotifyState::Status(status),
        NotifyState::ExtendTimeoutUsec(more),
    ]);
}

/// The line that `systemctl status` shows.
pub fn notify_status(status: &str) {
    notify(&[NotifyState::Status(status)]);
}

/// The service is reading its configuration again; [`notify_ready`] ends it.
pub fn notify_reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => {
            events::SYSTEMD_NOT_TOLD.say(format_args!("the clock could not be read: {error}"));
        }
    }
}

/// The service is ending.
pub fn notify_stopping() {
    notify(&[NotifyState::Stopping]);
}

/// How often [`watchdog_ping`] is due: half of what the unit allows. Nothing without a watchdog.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|allowed| allowed / 2)
}

/// Has systemd read its units again.
///
/// # Errors
/// [`Kind::Unreachable`] if systemd does not run here or does not answer; [`Kind::Io`] with what
/// systemctl says.
pub fn daemon_reload(scope: Scope) -> Result<()> {
    let arguments: &[&str] = match scope {
        Scope::System => &["daemon-reload"],
        Scope::User => &["--user", "daemon-reload"],
    };
    let command = format!("systemctl {}", arguments.join(" "));
    let output = Command::new("systemctl").args(arguments).output();
    if output.as_ref().is_ok_and(|o| o.status.success()) {
        return Ok(());
    }
    // What sd_booted(3) looks at.
    if !Path::new("/run/systemd/system").exists() {
        return reload_over_the_bus(scope)
            .map_err(|e| e.hint(format!("run `{command}` on the host")));
    }
    let output = output.map_err(|e| Error::io("cannot run systemctl", e))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().last().unwrap_or("it said nothing").trim();
    Err(Error::new(Kind::Io, format!("`{command}` failed: {said}"))
        .hint(format!("run `{command}`: until then units start as before")))
}

/// In a container, to which the host's bus was passed.
fn reload_over_the_bus(scope: Scope) -> Result<()> {
    let bus = Path::new(dbus::SYSTEM_BUS);
    if scope == Scope::User || !bus.exists() {
        return Err(Error::new(Kind::Unreachable, "systemd does not run here"));
    }
    let what = format!("systemd can't be asked over {}", bus.display());
    dbus::reload(bus).map_err(|e| Error::new(Kind::Unreachable, format!("{what}: {e}")))
}

/// The service is alive.
pub fn watchdog_ping() {
    notify(&[NotifyState::Watchdog]);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `systemd-creds encrypt` seals it here.
    fn seal(name: &str, text: &str, file: &Path) {
        let plain = file.with_extension("plain");
        std::fs::write(&plain, text).unwrap();
        let sealing = Command::new("systemd-creds")
            .args(["encrypt", "--with-key=host", &format!("--name={name}")])
            .args([&plain, file])
            .output()
            .unwrap();
        assert!(sealing.status.success(), "{sealing:?}");
    }

    #[test]
    fn a_sealed_credential_is_opened_for_who_is_not_given_it_by_systemd() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        assert!(open_sealed(&file, "token").unwrap().is_none());
        seal("token", "abc\n\n", &file);
        let token = open_sealed(&file, "token").unwrap().unwrap();
        assert_eq!(token.expose(), b"abc\n");
        let error = open_sealed(&file, "another-name").unwrap_err();
        assert!(error.next_step().unwrap().contains("--name=another-name"));
    }

    #[test]
    fn a_credential_is_read_without_its_trailing_newline() {
        let dir = tempfile::tempdir().unwrap();
        let credentials = Credentials {
            directory: Some(dir.path().to_owned()),
        };
        assert!(credentials.read("token").unwrap().is_none());
        std::fs::write(dir.path().join("token"), "abc\n\n").unwrap();
        let token = credentials.read("token").unwrap().unwrap();
        assert_eq!(token.expose(), b"abc\n");
        std::fs::create_dir(dir.path().join("folder")).unwrap();
        assert!(credentials.read("folder").is_err());
        assert!(Credentials::default().read("token").unwrap().is_none());
    }
}
