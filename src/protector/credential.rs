//! The slot `credential`: 32 bytes that systemd decrypts before the service starts.
//!
//! systemd-creds seals them to the TPM or to the host's key. A credential that cannot be
//! decrypted stops the unit before any of PSI runs, so it is not bound to PCRs unless asked.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Error, Kind, Result};
use crate::protector::{Key, Protector, SlotFields, SlotKind};
use crate::secret::SecretValue;

/// The credential's name, part of what systemd-creds authenticates.
pub const CREDENTIAL_NAME: &str = "psi-cache-key";

/// Where systemd looks for sealed credentials that units import.
pub const SEALED_FILE: &str = "/etc/credstore.encrypted/psi-cache-key";

/// Reads the slot key from the credentials directory, or, for a root tool that systemd did not
/// start, opens the sealed file with systemd-creds.
#[derive(Debug, Clone)]
pub struct Credential {
    /// `$CREDENTIALS_DIRECTORY`, if systemd gave one.
    pub directory: Option<PathBuf>,
    /// The sealed file to fall back to.
    pub sealed: Option<PathBuf>,
}

impl Credential {
    /// For a service: only what systemd delivered.
    pub fn delivered(directory: Option<PathBuf>) -> Self {
        Self {
            directory,
            sealed: None,
        }
    }

    /// For a tool that root runs: the sealed file as well.
    pub fn for_root_tool(directory: Option<PathBuf>, sealed: &Path) -> Self {
        Self {
            directory,
            sealed: Some(sealed.to_owned()),
        }
    }

    /// Whether systemd delivered the key. An empty one is none: a helper that could not decrypt it
    /// delivers that, for the unit to start nonetheless.
    pub fn is_delivered(&self) -> bool {
        let file = self.delivered_file().and_then(|file| file.metadata().ok());
        file.is_some_and(|file| !file.is_file() || file.len() > 0)
    }

    fn delivered_file(&self) -> Option<PathBuf> {
        self.directory.as_ref().map(|d| d.join(CREDENTIAL_NAME))
    }

    fn key(&self) -> Result<Key> {
        if let Some(file) = self.delivered_file().filter(|_| self.is_delivered()) {
            let bytes = std::fs::read(&file)
                .map(SecretValue::new)
                .map_err(|e| Error::io(format!("cannot read {}", file.display()), e))?;
            return key_from(&bytes, &file);
        }
        match self.sealed.as_ref().filter(|file| file.exists()) {
            Some(file) => {
                let sealed = std::fs::read(file)
                    .map_err(|e| Error::io(format!("cannot read {}", file.display()), e))?;
                let opened = decrypt(CREDENTIAL_NAME, &file.display().to_string(), &sealed);
                key_from(&opened.map_err(not_of_this_host)?, file)
            }
            None => Err(self.absent()),
        }
    }

    fn absent(&self) -> Error {
        let what = match self.delivered_file().is_some_and(|file| file.exists()) {
            false => format!("there is no credential {CREDENTIAL_NAME}"),
            true => {
                format!("the credential {CREDENTIAL_NAME} is empty: systemd could not decrypt it")
            }
        };
        Error::new(Kind::Unreachable, what).hint(format!(
            "`psi-cachectl init --backend credential` makes one for a new cache, `psi-cachectl slots \
             reseal ID --with-key auto` for a slot that is there; then `systemctl restart psi-secrets.service`, \
             so that systemd delivers {SEALED_FILE}"
        ))
    }

    /// What a slot is opened with. Another key would open nothing, so none is to be made.
    fn key_to_open(&self) -> Result<Key> {
        self.key().map_err(|error| match error.kind() {
            Kind::Unreachable => error.hint(TO_OPEN),
            _ => error,
        })
    }
}

const TO_OPEN: &str = "have systemd deliver the key that sealed it (`systemctl cat psi-secrets.service` and \
`ls /etc/credstore.encrypted` show what it is looked for as), then `systemctl restart psi-secrets.service`";

impl Protector for Credential {
    fn kind(&self) -> SlotKind {
        SlotKind::Credential
    }

    fn seal(&self) -> Result<(Key, SlotFields)> {
        Ok((self.key()?, SlotFields::new()))
    }

    fn unseal(&self, _: &SlotFields) -> Result<Key> {
        self.key_to_open()
    }
}

/// A key that a root tool has in hand, which systemd delivers from the next start on.
#[derive(Debug)]
pub struct NewCredential(pub Key);

impl Protector for NewCredential {
    fn kind(&self) -> SlotKind {
        SlotKind::Credential
    }

    fn seal(&self) -> Result<(Key, SlotFields)> {
        Ok((self.0.copy(), SlotFields::new()))
    }

    fn unseal(&self, _: &SlotFields) -> Result<Key> {
        Ok(self.0.copy())
    }
}

fn key_from(bytes: &SecretValue, file: &Path) -> Result<Key> {
    Key::from_bytes(bytes.expose()).ok_or_else(|| {
        let length = bytes.expose().len();
        let what = format!("{} has {length} bytes, not 32", file.display());
        Error::new(Kind::Damaged, what)
            .hint("it is no key of PSI's: put back the one that sealed the cache, or move it away")
    })
}

fn not_of_this_host(error: Error) -> Error {
    match error.kind() {
        Kind::Unreachable => error,
        _ => error.hint(
            "it was sealed for another TPM, host key or boot chain, and keeps psi-secrets.service from \
             starting: move it away, `systemctl restart psi-secrets.service`, then `psi-cachectl slots reseal \
             --recovery`; without another slot `psi-cachectl init --backend credential` seals a new key",
        ),
    }
}

/// The PCR that stands for "none" where systemd-creds can't read back what it sealed to none
/// (version 252): the debug PCR, which no part of a boot measures into.
const DEBUG_PCR: &str = "16";

/// How `systemd-creds encrypt` is to seal a new key.
#[derive(Debug, Clone, Default)]
pub struct SealOptions {
    /// `auto`, `host`, `tpm2` or `host+tpm2`; systemd's default if absent.
    pub with_key: Option<String>,
    /// PCRs to bind to, e.g. `7`. Unset: none.
    pub pcrs: Option<String>,
}

impl SealOptions {
    fn arguments(&self, pcrs: &str) -> Vec<String> {
        let mut arguments = vec!["encrypt".to_owned(), format!("--name={CREDENTIAL_NAME}")];
        arguments.extend(self.with_key.iter().map(|key| format!("--with-key={key}")));
        arguments.push(format!("--tpm2-pcrs={pcrs}"));
        arguments
    }

    /// The command that does the same by hand, for a host where PSI runs in a container.
    pub fn command_line(&self, file: &Path) -> String {
        format!(
            "head -c 32 /dev/urandom | systemd-creds {} - {}",
            self.arguments(self.pcrs.as_deref().unwrap_or_default())
                .join(" "),
            file.display()
        )
    }

    /// Seals `key` with systemd-creds into the new file `file`; the key goes by standard input.
    /// What was sealed is opened again before it is kept, and the file is there whole or not at
    /// all: half of one would keep the service from starting.
    ///
    /// # Errors
    /// [`Kind::Refused`] if `file` exists, [`Kind::Unreachable`] if there is no systemd-creds,
    /// [`Kind::Io`] with its message if it fails. Nothing is written then.
    pub fn seal(&self, key: &Key, file: &Path) -> Result<()> {
        refuse_existing(file)?;
        let sealed = match &self.pcrs {
            Some(pcrs) => self.seal_to(key, pcrs),
            None => self.seal_to(key, "").or_else(|error| match error.kind() {
                Kind::Unreachable => Err(error),
                _ => self.seal_to(key, DEBUG_PCR),
            }),
        };
        let on_host = |e: Error| match e.kind() {
            Kind::Unreachable => e.hint(format!("on the host, run: {}", self.command_line(file))),
            _ => e,
        };
        write_new(file, &sealed.map_err(on_host)?)
    }

    fn seal_to(&self, key: &Key, pcrs: &str) -> Result<Vec<u8>> {
        let mut arguments = self.arguments(pcrs);
        arguments.extend(["-".to_owned(), "-".to_owned()]);
        let sealed = systemd_creds("seal a new key", &arguments, key.expose())?;
        let opened = decrypt(CREDENTIAL_NAME, "what it sealed", &sealed)?;
        if opened.expose() == key.expose() {
            return Ok(sealed);
        }
        Err(Error::new(
            Kind::Io,
            "systemd-creds sealed a key and opened another",
        ))
    }
}

fn refuse_existing(file: &Path) -> Result<()> {
    if !file.exists() {
        return Ok(());
    }
    Err(
        Error::new(Kind::Refused, format!("{} exists already", file.display())).hint(
            "it may be the only key of a cache: `psi-cachectl init --backend credential` uses it; \
             move it away for a new one",
        ),
    )
}

fn write_new(file: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |e| {
        Error::io(format!("cannot write {}", file.display()), e)
            .hint("name a file in a directory that can be written with `--sealed-key FILE`")
    };
    let parent = file.parent().unwrap_or(Path::new("/"));
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let temporary = parent.join(format!(".{name}.{}", std::process::id()));
    // Left by a crash: no other process has this number.
    let _ = std::fs::remove_file(&temporary);
    let written = write_private(parent, &temporary, bytes).and_then(|()| {
        // Unlike a rename, a link never takes the place of another file.
        std::fs::hard_link(&temporary, file)
    });
    let _ = std::fs::remove_file(&temporary);
    written
        .and_then(|()| std::fs::File::open(parent)?.sync_all())
        .map_err(failed)
}

fn write_private(directory: &Path, file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut make = std::fs::DirBuilder::new();
    make.recursive(true).mode(0o700).create(directory)?;
    let mut out = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)?;
    out.write_all(bytes)?;
    out.sync_all()
}

/// The credential `name` that systemd-creds sealed as `sealed`, which messages call `what`.
///
/// # Errors
/// [`Kind::Unreachable`] if there is no systemd-creds, [`Kind::Io`] with its message if it fails.
pub fn decrypt(name: &str, what: &str, sealed: &[u8]) -> Result<SecretValue> {
    let name = format!("--name={name}");
    let arguments = ["decrypt".to_owned(), name, "-".to_owned(), "-".to_owned()];
    systemd_creds(&format!("open {what}"), &arguments, sealed).map(SecretValue::new)
}

/// Runs systemd-creds with `input` on its standard input; its standard output, if it succeeds.
fn systemd_creds(what: &str, arguments: &[String], input: &[u8]) -> Result<Vec<u8>> {
    let failed = |e: std::io::Error| {
        let kind = match e.kind() {
            std::io::ErrorKind::NotFound => Kind::Unreachable,
            _ => Kind::Io,
        };
        Error::new(kind, "cannot run systemd-creds")
            .because(e)
            .hint("run the command on the host, where systemd is")
    };
    let mut child = Command::new("systemd-creds")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // It may end before it has read everything; its exit status tells why.
        let _ = stdin.write_all(input);
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().last().unwrap_or("it said nothing").trim();
    Err(
        Error::new(Kind::Io, format!("systemd-creds could not {what}: {said}")).hint(
            "check the TPM with `systemd-creds has-tpm2`; `--with-key host` does without one",
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivered_key_is_used_and_must_be_32_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let credential = Credential::delivered(Some(dir.path().to_owned()));
        assert_eq!(credential.seal().unwrap_err().kind(), Kind::Unreachable);
        for wrong in [31, 33] {
            std::fs::write(dir.path().join(CREDENTIAL_NAME), vec![7; wrong]).unwrap();
            assert_eq!(credential.seal().unwrap_err().kind(), Kind::Damaged);
        }
        std::fs::write(dir.path().join(CREDENTIAL_NAME), []).unwrap();
        assert_eq!(credential.seal().unwrap_err().kind(), Kind::Unreachable);
        assert!(!credential.is_delivered());
        std::fs::write(dir.path().join(CREDENTIAL_NAME), [7; 32]).unwrap();
        let (key, fields) = credential.seal().unwrap();
        assert_eq!(credential.unseal(&fields).unwrap().expose(), key.expose());
    }

    #[test]
    fn an_existing_sealed_key_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("psi-cache-key");
        std::fs::write(&file, "old").unwrap();
        let error = SealOptions::default()
            .seal(&Key::generate().unwrap(), &file)
            .unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert_eq!(std::fs::read(&file).unwrap(), b"old");
    }

    #[test]
    fn the_command_for_the_host_binds_to_no_pcr_unless_asked() {
        let file = Path::new("/etc/credstore.encrypted/psi-cache-key");
        assert_eq!(
            SealOptions::default().command_line(file),
            "head -c 32 /dev/urandom | systemd-creds encrypt --name=psi-cache-key --tpm2-pcrs= - /etc/credstore.encrypted/psi-cache-key"
        );
        let bound = SealOptions {
            with_key: Some("tpm2".into()),
            pcrs: Some("7".into()),
        };
        assert!(
            bound
                .command_line(file)
                .contains("--with-key=tpm2 --tpm2-pcrs=7 -")
        );
    }
}
