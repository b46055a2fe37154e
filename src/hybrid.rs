//! The hybrid envelope: what an RSA key pair on a token seals, of any length.
//!
//! ```text
//! key_len u16 BE | RSA-OAEP(SHA-256, MGF1-SHA-256) of a 32-byte AES key
//!                | nonce 12 | AES-256-GCM(ciphertext || tag), nothing else authenticated
//! ```

use std::ops::Range;

use crate::error::{Error, Kind, Result};
use crate::gcm::{NONCE_LEN, TAG_LEN, cipher, decrypt_after_nonce};
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

fn wrapped_key(envelope: &[u8]) -> Result<Range<usize>> {
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
}
