//! AES-256-GCM as everything that PSI seals has it: nonce, ciphertext, tag.

use std::ops::Range;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::rand;

use crate::error::{Error, Kind, Result};
use crate::protector::Key;

/// Length of a nonce, in bytes.
pub const NONCE_LEN: usize = aws_lc_rs::aead::NONCE_LEN;
/// Length of a tag, in bytes.
pub const TAG_LEN: usize = 16;

/// A key as the cipher takes it.
///
/// # Errors
/// [`Kind::Internal`], which no 32-byte key gives rise to.
pub fn cipher(key: &Key) -> Result<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, key.expose())
        .map(LessSafeKey::new)
        .map_err(|_| Error::new(Kind::Internal, "AES-256-GCM did not take a 32-byte key"))
}

/// A nonce from the system's random source: an old file may be put back, so nothing is counted.
///
/// # Errors
/// [`Kind::Internal`] if there is no randomness to be had.
fn random_nonce() -> Result<[u8; NONCE_LEN]> {
    let mut nonce = [0; NONCE_LEN];
    rand::fill(&mut nonce)
        .map_err(|_| Error::new(Kind::Internal, "the system's random source gave no bytes"))?;
    Ok(nonce)
}

/// Encrypts in place, under a random nonce. `buffer` has room for the nonce before the plaintext,
/// and for the tag behind it.
///
/// # Errors
/// [`Kind::Internal`] if the cipher does not do its work or there is no randomness. The plaintext
/// is then as it was.
pub fn encrypt_in_place(key: &LessSafeKey, aad: &[u8], buffer: &mut [u8]) -> Result<()> {
    let internal = || Error::new(Kind::Internal, "AES-256-GCM could not encrypt");
    let fresh = random_nonce()?;
    let (nonce, rest) = buffer
        .split_at_mut_checked(NONCE_LEN)
        .ok_or_else(internal)?;
    nonce.copy_from_slice(&fresh);
    let plain = rest.len().checked_sub(TAG_LEN).ok_or_else(internal)?;
    let (plain, room) = rest.split_at_mut(plain);
    let nonce = Nonce::assume_unique_for_key(fresh);
    let tag = key
        .seal_in_place_separate_tag(nonce, Aad::from(aad), plain)
        .map_err(|_| internal())?;
    room.copy_from_slice(tag.as_ref());
    Ok(())
}

/// Decrypts in place what follows the nonce at `nonce_at`: the plaintext's range, if authentic.
pub fn decrypt_after_nonce(
    key: &LessSafeKey,
    aad: &[u8],
    buffer: &mut [u8],
    nonce_at: usize,
) -> Option<Range<usize>> {
    let start = nonce_at + NONCE_LEN;
    let nonce = Nonce::try_assume_unique_for_key(buffer.get(nonce_at..start)?).ok()?;
    let plain = key
        .open_in_place(nonce, Aad::from(aad), &mut buffer[start..])
        .ok()?;
    Some(start..start + plain.len())
}
