//! The file that has the public half of the token's key: values are sealed with it while the token lies
//! in a drawer.

use std::io::{self, Read};
use std::path::Path;

use aws_lc_rs::digest;
use rustix::fs::{Mode, OFlags};

use crate::directory::{Directory, Owner};
use crate::error::{Error, Kind, Result};
use crate::pkcs11::PublicKey;

/// Larger than any RSA key's file, in bytes.
const MAX_FILE: u64 = 1 << 14;

/// The key in `file`; nothing if there is no such file.
///
/// # Errors
/// [`Kind::Damaged`] if it holds something else, [`Kind::Io`] if it can't be read.
pub fn read(file: &Path) -> Result<Option<PublicKey>> {
    let shown = file.display();
    let failed = |e| Error::io(format!("cannot read the public key in {shown}"), e);
    let Some((directory, name)) = place(file).map_err(failed)? else {
        return Ok(None);
    };
    let Some(opened) = directory.open_file(name, OFlags::RDONLY).map_err(failed)? else {
        return Ok(None);
    };
    let mut der = Vec::new();
    opened
        .take(MAX_FILE)
        .read_to_end(&mut der)
        .map_err(failed)?;
    let key = PublicKey::from_der(&der).map_err(|e| e.during(format!("cannot use {shown}")))?;
    Ok(Some(key))
}

/// Nothing if there is no directory.
fn place(file: &Path) -> io::Result<Option<(Directory, &std::ffi::OsStr)>> {
    match Directory::of(file) {
        Ok(place) => Ok(Some(place)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Puts `key` into `file`, which then belongs to whoever owns the directory.
///
/// # Errors
/// [`Kind::Io`] if it can't be written. The file is then as it was.
pub fn write(file: &Path, key: &PublicKey) -> Result<()> {
    let der = key.to_der()?;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
    let written = Directory::of(file).and_then(|(directory, name)| {
        directory.replace(name, &[&der], mode, Owner::OfDirectory)?;
        directory.sync()
    });
    written.map_err(|e| {
        Error::io(
            format!("cannot write the public key to {}", file.display()),
            e,
        )
        .hint(
            "its directory must be there; `systemctl start psi-secrets.service` makes psi-serve's",
        )
    })
}

/// Tells one key from another: the first half of the SHA-256 of its DER form, in hexadecimal.
///
/// # Errors
/// As [`PublicKey::to_der`].
pub fn fingerprint(key: &PublicKey) -> Result<String> {
    let digest = digest::digest(&digest::SHA256, &key.to_der()?);
    let half = &digest.as_ref()[..16];
    Ok(half.iter().map(|b| format!("{b:02x}")).collect())
}

/// Whether both are the same key.
///
/// # Errors
/// As [`PublicKey::to_der`].
pub fn is_same(one: &PublicKey, other: &PublicKey) -> Result<bool> {
    Ok(one.to_der()? == other.to_der()?)
}

/// What was sealed for the key in the file can't be opened by the one on the token.
pub fn differs(file: &Path) -> Error {
    let what = format!(
        "the public key in {} is not that of the key on the token",
        file.display()
    );
    Error::new(Kind::Refused, what).hint(
        "plug in the token it was read from, or name it with `providers.nitrokeyhsm.token_serial`; \
         if the key is meant to be another one now: `psi-hsm init --force`, then store every value again",
    )
}
