//! The target's own programs: systemd-sysusers, systemctl, journalctl. They know the system they
//! came with, also where psi-install runs in a container and has entered the host's root.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::cli;
use crate::config::Scope;
use crate::error::{Error, Kind, Result};
use crate::podman;

/// The system that psi-install works on.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// Whose units it is about.
    pub scope: Scope,
    /// Whether its systemd runs.
    pub is_up: bool,
    /// Whether its root is not the one that this program was started in.
    pub is_entered: bool,
}

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ran {
    /// It did its work.
    Done,
    /// The target has no such program.
    Missing,
}

impl Host {
    /// As it is now.
    pub fn look(scope: Scope, is_entered: bool) -> Self {
        // What sd_booted(3) looks at. A host's /run is seen only where it was mounted with its root.
        let is_up = Path::new("/run/systemd/system").exists();
        Self {
            scope,
            is_up,
            is_entered,
        }
    }

    /// A command of systemctl's, as somebody would type it.
    pub fn systemctl(self, arguments: &[&str]) -> Vec<String> {
        let user: &[&str] = match self.scope {
            Scope::System => &["systemctl"],
            Scope::User => &["systemctl", "--user"],
        };
        [user, arguments]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect()
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// [`Kind::Io`] with the last line it said.
    pub fn run(self, command: &[String]) -> Result<Ran> {
        let shown = command.join(" ");
        let output = match self.output(command) {
            Ok(output) => output,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Ran::Missing),
            Err(e) => return Err(Error::io(format!("cannot run `{shown}`"), e)),
        };
        if output.status.success() {
            return Ok(Ran::Done);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().last().unwrap_or("it said nothing").trim();
        let what = format!("`{shown}` failed: {said}");
        let error = Error::new(Kind::Io, what);
        let one_line = cli::one_line(&error);
        // systemd answers nobody whose process it can't see.
        let in_container = match self.is_entered && self.is_up {
            true => "in a container it is `podman run --pid host …`; or ",
            false => "",
        };
        Err(Error::new(Kind::Io, one_line).hint(format!(
            "{in_container}`{shown}` by hand, then run psi-install again"
        )))
    }

    fn output(self, command: &[String]) -> std::io::Result<Output> {
        let (program, arguments) = command
            .split_first()
            .ok_or(std::io::ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        if self.is_up {
            // The root we have entered is that of the systemd that runs.
            command.env("SYSTEMD_IGNORE_CHROOT", "1");
        }
        // A root directory that no system runs from has no /dev/null.
        command.args(arguments).stdin(Stdio::inherit()).output()
    }

    /// Whether its systemd has such a unit; also if nobody can say.
    pub fn has_unit(self, name: &str) -> bool {
        self.property(name, "LoadState").as_deref() != Some("not-found")
    }

    /// Whether that unit runs, or waits for what it is about.
    pub fn is_active(self, name: &str) -> bool {
        let state = self.property(name, "ActiveState");
        state.is_some_and(|state| ["active", "activating", "reloading"].contains(&state.as_str()))
    }

    fn property(self, unit: &str, name: &str) -> Option<String> {
        let property = format!("--property={name}");
        let output = self.output(&self.systemctl(&["show", "--value", &property, unit]));
        Some(
            String::from_utf8_lossy(&output.ok()?.stdout)
                .trim()
                .to_owned(),
        )
    }

    /// What keeps a program from running here, if anything does: `--version` is all that it is asked.
    pub fn why_not(self, program: &Path) -> Option<String> {
        let output = match self.output(&[program.display().to_string(), "--version".to_owned()]) {
            Ok(output) if output.status.success() => return None,
            Ok(output) => output,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Some("the program that loads it, glibc's, is not there".to_owned());
            }
            Err(e) => return Some(e.to_string()),
        };
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().last().unwrap_or_default().trim();
        Some(match last {
            "" => output.status.to_string(),
            said => said.to_owned(),
        })
    }

    /// The version of its systemd, if it says so.
    pub fn systemd_version(self) -> Option<u32> {
        let output = self.output(&["systemctl".to_owned(), "--version".to_owned()]);
        version(&String::from_utf8_lossy(&output.ok()?.stdout))
    }

    /// The version of its Podman, if it says so.
    pub fn podman_version(self) -> Option<podman::Version> {
        let output = self.output(&["podman".to_owned(), "--version".to_owned()]);
        let text = String::from_utf8_lossy(&output.ok()?.stdout).into_owned();
        podman::parse_version(text.trim().strip_prefix("podman version ")?)
    }
}

/// Of `systemd 257 (257.13-1~deb13u1)`.
fn version(text: &str) -> Option<u32> {
    let word = text.strip_prefix("systemd ")?.split_whitespace().next()?;
    word.split(|c: char| !c.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_a_number() {
        assert_eq!(version("systemd 252 (252.39-1~deb12u2)\n+PAM"), Some(252));
        assert_eq!(version("systemd 257.4-1 (x)"), Some(257));
        assert_eq!(version("busybox"), None);
    }

    #[test]
    fn a_command_fails_with_what_it_said_last() {
        let host = Host {
            scope: Scope::System,
            is_up: false,
            is_entered: false,
        };
        let command = |script: &str| ["sh", "-c", script].map(str::to_owned);
        assert_eq!(host.run(&command("true")).unwrap(), Ran::Done);
        let missing = ["no-such-program".to_owned()];
        assert_eq!(host.run(&missing).unwrap(), Ran::Missing);
        let error = host
            .run(&command("echo one >&2; echo two >&2; exit 3"))
            .unwrap_err();
        assert!(error.to_string().ends_with("failed: two"), "{error}");
        assert!(error.next_step().unwrap().contains("by hand"));
    }
}
