//! The public half of a token's key: it encrypts without the token.

use std::fmt;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rsa::{
    OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepAlgorithm, OaepPublicEncryptingKey,
    PublicEncryptingKey, PublicKeyComponents,
};

use crate::error::{Error, Kind, Result};

/// An RSA public key of 2048 bits or more.
pub struct PublicKey(PublicEncryptingKey);

impl PublicKey {
    /// From its two numbers, big-endian.
    ///
    /// # Errors
    /// [`Kind::Config`] if that is no key that PSI uses.
    pub fn from_numbers(modulus: &[u8], exponent: &[u8]) -> Result<Self> {
        let numbers = PublicKeyComponents {
            n: without_zeros(modulus),
            e: without_zeros(exponent),
        };
        let key: Result<PublicEncryptingKey, _> = numbers.try_into();
        key.map(Self).map_err(|_| unusable("the token's key"))
    }

    /// From a SubjectPublicKeyInfo in DER, as [`PublicKey::to_der`] gives it.
    ///
    /// # Errors
    /// [`Kind::Damaged`] if it is none.
    pub fn from_der(der: &[u8]) -> Result<Self> {
        PublicEncryptingKey::from_der(der).map(Self).map_err(|_| {
            Error::new(Kind::Damaged, "it is no RSA public key in DER")
                .hint("remove the file: `psi-hsm init` reads the key from the token again")
        })
    }

    /// As a SubjectPublicKeyInfo (X.509) in DER.
    ///
    /// # Errors
    /// [`Kind::Internal`], which no key gives rise to.
    pub fn to_der(&self) -> Result<Vec<u8>> {
        let der: Result<PublicKeyX509Der<'_>, _> = self.0.as_der();
        let der = der.map_err(|_| Error::new(Kind::Internal, "a public key has no DER form"))?;
        Ok(der.as_ref().to_vec())
    }

    /// In bits.
    pub fn bits(&self) -> usize {
        self.0.key_size_bits()
    }

    /// `plain` for whoever has the private key: RSA-OAEP with SHA-256 and MGF1 of SHA-256.
    ///
    /// # Errors
    /// [`Kind::Usage`] if it is too long, 190 bytes for a key of 2048 bits.
    pub fn encrypt(&self, plain: &[u8]) -> Result<Vec<u8>> {
        self.encrypt_with(&OAEP_SHA256_MGF1SHA256, plain)
    }

    /// The same with SHA-1, which PSI seals nothing with: it tells what a token can do.
    ///
    /// # Errors
    /// As [`PublicKey::encrypt`].
    pub(super) fn encrypt_with_sha1(&self, plain: &[u8]) -> Result<Vec<u8>> {
        self.encrypt_with(&OAEP_SHA1_MGF1SHA1, plain)
    }

    fn encrypt_with(&self, algorithm: &'static OaepAlgorithm, plain: &[u8]) -> Result<Vec<u8>> {
        let key =
            OaepPublicEncryptingKey::new(self.0.clone()).map_err(|_| unusable("the public key"))?;
        let mut out = vec![0; key.ciphertext_size()];
        let encrypted = key
            .encrypt(algorithm, plain, &mut out, None)
            .map_err(|_| Error::new(Kind::Usage, "it is too long for an RSA key to encrypt"))?;
        Ok(encrypted.to_vec())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({} bits)", self.bits())
    }
}

/// Tokens write numbers with or without a zero before the first digit.
fn without_zeros(number: &[u8]) -> &[u8] {
    let first = number.iter().position(|&b| b != 0);
    &number[first.unwrap_or(number.len())..]
}

fn unusable(what: &str) -> Error {
    let what = format!("{what} is no RSA key of 2048 to 8192 bits");
    Error::new(Kind::Config, what).hint(
        "`pkcs11-tool --list-objects --type pubkey` shows the keys; `pkcs11-tool --login --keypairgen \
         --key-type rsa:2048 --id 02 --label podman-secrets` makes one",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_same_from_its_numbers_and_from_der() {
        let modulus = [[0].as_slice(), [0xc5].as_slice(), &[0x35; 254], &[0x37]].concat();
        let key = PublicKey::from_numbers(&modulus, &[0, 1, 0, 1]).unwrap();
        assert_eq!(key.bits(), 2048);
        let der = key.to_der().unwrap();
        assert_eq!(PublicKey::from_der(&der).unwrap().to_der().unwrap(), der);
        assert_eq!(key.encrypt(&[7; 32]).unwrap().len(), 256);
        assert_eq!(key.encrypt(&[7; 191]).unwrap_err().kind(), Kind::Usage);
        assert_eq!(format!("{key:?}"), "PublicKey(2048 bits)");
    }

    #[test]
    fn what_is_no_rsa_key_is_refused() {
        assert!(PublicKey::from_numbers(&[0xff; 64], &[1, 0, 1]).is_err());
        assert!(PublicKey::from_numbers(&[], &[]).is_err());
        let error = PublicKey::from_der(b"not DER").unwrap_err();
        assert_eq!(error.kind(), Kind::Damaged);
    }
}
