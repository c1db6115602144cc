//! AES-256-GCM (NIST SP 800-38D), by aws-lc-rs: the fastest of the well-kept ones on 4 KiB (`benches/crypto.rs`).
//!
//! The format knows only the standard: `tests/encryption.rs` opens with another implementation what this one sealed, and
//! the other way round.

use super::key::Key;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce as RawNonce, UnboundKey};
use std::fmt;

/// Bytes in a nonce.
pub const NONCE_BYTES: usize = 12;
/// Bytes in a tag.
pub const TAG_BYTES: usize = 16;

/// What may be used once under a key.
pub type Nonce = [u8; NONCE_BYTES];
/// What tells whether a message is the one that was sealed.
pub type Tag = [u8; TAG_BYTES];

/// The cipher library refused, which it has no reason to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cipher failed")]
pub struct CipherError;

impl From<CipherError> for std::io::Error {
    fn from(e: CipherError) -> Self {
        Self::other(e)
    }
}

/// A key, ready for use. The caller sees to it that no nonce seals twice.
pub struct Cipher {
    key: LessSafeKey,
}

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cipher")
    }
}

impl Cipher {
    /// A cipher with this key.
    ///
    /// # Errors
    /// When the library refuses.
    pub fn new(key: &Key) -> Result<Self, CipherError> {
        let key = UnboundKey::new(&AES_256_GCM, key.bytes()).map_err(|_| CipherError)?;
        Ok(Self { key: LessSafeKey::new(key) })
    }

    /// Encrypts `buf` in place; `aad` is bound to it and not part of it.
    ///
    /// # Errors
    /// When the library refuses.
    pub fn seal(&self, nonce: Nonce, aad: &[u8], buf: &mut [u8]) -> Result<Tag, CipherError> {
        let nonce = RawNonce::assume_unique_for_key(nonce);
        let tag = self.key.seal_in_place_separate_tag(nonce, Aad::from(aad), buf).map_err(|_| CipherError)?;
        tag.as_ref().try_into().map_err(|_| CipherError)
    }

    /// Encrypts `plain` into `out`, which is as long.
    ///
    /// # Errors
    /// When the library refuses.
    pub fn seal_into(
        &self,
        nonce: Nonce,
        aad: &[u8],
        plain: &[u8],
        out: &mut [u8],
    ) -> Result<Tag, CipherError> {
        let nonce = RawNonce::assume_unique_for_key(nonce);
        let mut tag = [0; TAG_BYTES];
        self.key
            .seal_out_of_place_scatter(nonce, Aad::from(aad), plain, out, &[], &mut tag)
            .map_err(|_| CipherError)?;
        Ok(tag)
    }

    /// Decrypts `buf` in place, if it is what was sealed. If not, `buf` holds zeros.
    #[must_use]
    pub fn open(&self, nonce: Nonce, aad: &[u8], buf: &mut [u8], tag: &[u8]) -> bool {
        let nonce = RawNonce::assume_unique_for_key(nonce);
        let opened = tag.len() == TAG_BYTES
            && self.key.open_in_place_separate_tag(nonce, Aad::from(aad), tag, buf).is_ok();
        if !opened {
            buf.fill(0);
        }
        opened
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_sealed_message_opens() {
        let cipher = Cipher::new(&Key::from_bytes(&[3; 32])).unwrap();
        let mut sealed = [7u8; 100];
        let tag = cipher.seal([1; 12], b"place", &mut sealed).unwrap();
        let mut apart = [0u8; 100];
        assert_eq!(cipher.seal_into([1; 12], b"place", &[7; 100], &mut apart).unwrap(), tag);
        assert_eq!(apart, sealed);
        let opens = |nonce, aad: &[u8], bytes: &[u8; 100], tag: &[u8]| {
            let mut buf = *bytes;
            let opened = cipher.open(nonce, aad, &mut buf, tag);
            assert_eq!(buf, if opened { [7; 100] } else { [0; 100] });
            opened
        };
        assert!(opens([1; 12], b"place", &sealed, &tag));
        assert!(!opens([2; 12], b"place", &sealed, &tag));
        assert!(!opens([1; 12], b"other", &sealed, &tag));
        assert!(!opens([1; 12], b"place", &sealed, &tag[..15]));
        let mut bad = sealed;
        bad[99] ^= 1;
        assert!(!opens([1; 12], b"place", &bad, &tag));
    }
}
