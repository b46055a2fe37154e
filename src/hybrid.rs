//! The hybrid envelope: what an RSA key pair on a token seals, of any length.
//!
//! ```text
//! key_len u16 BE | RSA-OAEP(SHA-256, MGF1-SHA-256) of a 32-byte AES key
//!                | nonce 12 | AES-256-GCM(ciphertext || tag), nothing else authenticated
//! ```

use std::ops::Range;

use crate::error::{Error, Kind, Result};
use crate::gcm::{NONCE_LEN, TAG_LEN, cipher, decrypt_after_nonce, encrypt_in_place};
use crate::pkcs11::PublicKey;
use crate::protector::Key;

/// The encrypted AES keys' lengths, in bytes: of RSA keys with 1024 to 8192 bits.
const KEY_LENGTHS: std::ops::RangeInclusive<usize> = 128..=1024;

/// Decrypts `envelope` in place. `unwrap` is given the encrypted AES key, once, and nothing is asked
/// of it for an envelope that can't be one. The range of the plaintext is returned.
///
/// # Errors
/// [`Kind::Damaged`] if it is no envelope or was altered, and what `unwrap` says.
pub fn open(
    envelope: &mut [u8],
    unwrap: impl FnOnce(&[u8]) -> Result<Key>,
) -> Result<Range<usize>> {
    let wrapped = wrapped_key(envelope)?;
    let nonce_at = wrapped.end;
    let key = unwrap(&envelope[wrapped])?;
    decrypt_after_nonce(&cipher(&key)?, &[], envelope, nonce_at)
        .ok_or_else(|| damaged("its contents are not what was sealed"))
}

/// Encrypts `plain` for whoever has the private half of `public_key`.
///
/// # Errors
/// [`Kind::Internal`] if there is no randomness to be had.
pub fn seal(public_key: &PublicKey, plain: &[u8]) -> Result<Vec<u8>> {
    let key = Key::generate()?;
    let wrapped = public_key.encrypt(key.expose())?;
    let length = u16::try_from(wrapped.len())
        .map_err(|_| Error::new(Kind::Internal, "an encrypted key of such a length"))?;
    let sealed_at = 2 + wrapped.len();
    // As long as it will be, so that no copy of the plaintext stays behind.
    let mut envelope = vec![0; sealed_at + NONCE_LEN + plain.len() + TAG_LEN];
    envelope[..2].copy_from_slice(&length.to_be_bytes());
    envelope[2..sealed_at].copy_from_slice(&wrapped);
    let start = sealed_at + NONCE_LEN;
    envelope[start..start + plain.len()].copy_from_slice(plain);
    encrypt_in_place(&cipher(&key)?, &[], &mut envelope[sealed_at..])?;
    Ok(envelope)
}

/// Where the encrypted AES key is in `envelope`.
///
/// # Errors
/// [`Kind::Damaged`] if it can't be an envelope.
pub fn wrapped_key(envelope: &[u8]) -> Result<Range<usize>> {
    let Some((length, rest)) = envelope.split_first_chunk::<2>() else {
        return Err(damaged("it is cut short"));
    };
    let length = usize::from(u16::from_be_bytes(*length));
    if !KEY_LENGTHS.contains(&length) {
        return Err(damaged(
            "it does not begin with the length of an encrypted key",
        ));
    }
    if rest.len() < length + NONCE_LEN + TAG_LEN {
        return Err(damaged("it is cut short"));
    }
    Ok(2..2 + length)
}

fn damaged(why: &str) -> Error {
    Error::new(
        Kind::Damaged,
        format!("the hybrid envelope is damaged: {why}"),
    )
    .hint("restore it from a backup, or seal the value again")
}

#[cfg(test)]
pub mod tests {
    use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
    use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey};
    use psi_test_support::vectors::version1;

    use super::*;

    /// Decrypts with the vectors' RSA key, as the token would that has it.
    pub fn decrypt(wrapped: &[u8]) -> Result<Key> {
        let key = PrivateDecryptingKey::from_pkcs8(&version1("rsa_private_key_pkcs8")).unwrap();
        let key = OaepPrivateDecryptingKey::new(key).unwrap();
        let mut out = [0; 256];
        let plain = key.decrypt(&OAEP_SHA256_MGF1SHA256, wrapped, &mut out, None);
        let plain = plain
            .map_err(|_| Error::new(Kind::Denied, "it is another key's").hint("use another token"));
        Ok(Key::from_bytes(plain?).unwrap())
    }

    #[test]
    fn an_envelope_matches_the_known_answer_and_an_altered_one_is_damage() {
        let mut asked = 0;
        let mut open_it = |envelope: &[u8]| {
            let mut envelope = envelope.to_vec();
            let plain = open(&mut envelope, |wrapped| {
                asked += 1;
                decrypt(wrapped)
            })?;
            Ok::<_, Error>(envelope[plain].to_vec())
        };
        let good = version1("envelope");
        assert_eq!(open_it(&good).unwrap(), version1("envelope_plaintext"));
        let (empty, huge) = ([0, 0, 1], [0xff; 400]);
        for bad in [
            &good[..0],
            &good[..1],
            &good[..2],
            &good[..285],
            &empty,
            &huge,
        ] {
            assert_eq!(open_it(bad).unwrap_err().kind(), Kind::Damaged);
        }
        for at in [258, 270, good.len() - 1] {
            let mut altered = good.clone();
            altered[at] ^= 1;
            assert_eq!(open_it(&altered).unwrap_err().kind(), Kind::Damaged);
        }
        assert_eq!(asked, 4, "once each, and never for what is no envelope");
    }

    #[test]
    fn what_is_sealed_opens_with_the_private_key_and_is_another_envelope_each_time() {
        let key = PrivateDecryptingKey::from_pkcs8(&version1("rsa_private_key_pkcs8")).unwrap();
        let der: PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
        let public_key = PublicKey::from_der(der.as_ref()).unwrap();
        for plain in [b"".as_slice(), b"\0the value\n", &[7; 100_000]] {
            let mut envelope = seal(&public_key, plain).unwrap();
            assert_ne!(seal(&public_key, plain).unwrap(), envelope);
            let range = open(&mut envelope, decrypt).unwrap();
            assert_eq!(&envelope[range], plain);
        }
    }
}
