//! AES-256-GCM (NIST SP 800-38D), by aws-lc-rs: the fastest of the well-kept ones on 4 KiB (`benches/crypto.rs`).
//!
//! The format knows only the standard: `tests/encryption.rs` opens with another implementation what this one sealed, and
//! the other way round.

use super::key::Key;
use super::nonce::{NONCE_BYTES, Nonce};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce as RawNonce, UnboundKey};
use std::fmt;

/// Bytes in a tag.
pub const TAG_BYTES: usize = 16;

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

/// A key, ready for use.
pub struct Cipher {
    key: LessSafeKey,
    #[cfg(debug_assertions)]
    id: super::nonce::register::KeyId,
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
        let unbound = UnboundKey::new(&AES_256_GCM, key.bytes()).map_err(|_| CipherError)?;
        Ok(Self {
            key: LessSafeKey::new(unbound),
            #[cfg(debug_assertions)]
            id: super::nonce::register::id_of(key),
        })
    }

    /// Enforces that no nonce seals two messages, where assertions are on.
    fn note(&self, nonce: &Nonce, tag: Tag) -> Tag {
        #[cfg(debug_assertions)]
        super::nonce::register::note(self.id, nonce, &tag);
        #[cfg(not(debug_assertions))]
        let _ = nonce;
        tag
    }

    /// Encrypts `buf` in place; `aad` is bound to it and not part of it.
    ///
    /// # Errors
    /// When the library refuses.
    pub fn seal(&self, nonce: Nonce, aad: &[u8], buf: &mut [u8]) -> Result<Tag, CipherError> {
        let raw = RawNonce::assume_unique_for_key(nonce.bytes());
        let tag = self.key.seal_in_place_separate_tag(raw, Aad::from(aad), buf).map_err(|_| CipherError)?;
        let tag = tag.as_ref().try_into().map_err(|_| CipherError)?;
        Ok(self.note(&nonce, tag))
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
        let raw = RawNonce::assume_unique_for_key(nonce.bytes());
        let mut tag = [0; TAG_BYTES];
        self.key
            .seal_out_of_place_scatter(raw, Aad::from(aad), plain, out, &[], &mut tag)
            .map_err(|_| CipherError)?;
        Ok(self.note(&nonce, tag))
    }

    /// Encrypts `buf` in place as it was once before, with a nonce that has sealed already: if that gives this tag, it was this very message. If
    /// not, `buf` holds zeros, so that nobody has two messages under one nonce.
    #[must_use]
    pub fn seal_again(&self, nonce: [u8; NONCE_BYTES], aad: &[u8], buf: &mut [u8], tag: &[u8]) -> bool {
        let nonce = RawNonce::assume_unique_for_key(nonce);
        let sealed = self.key.seal_in_place_separate_tag(nonce, Aad::from(aad), buf);
        let is_it = sealed.is_ok_and(|sealed| sealed.as_ref() == tag);
        if !is_it {
            buf.fill(0);
        }
        is_it
    }

    /// Decrypts `buf` in place, if it is what was sealed. If not, `buf` holds zeros.
    #[must_use]
    pub fn open(&self, nonce: [u8; NONCE_BYTES], aad: &[u8], buf: &mut [u8], tag: &[u8]) -> bool {
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
        let nonce = || Nonce::once([1; 12]);
        let tag = cipher.seal(nonce(), b"place", &mut sealed).unwrap();
        let mut apart = [0u8; 100];
        assert_eq!(cipher.seal_into(nonce(), b"place", &[7; 100], &mut apart).unwrap(), tag);
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
        let again = |message: u8, aad: &[u8]| {
            let mut buf = [message; 100];
            cipher.seal_again([1; 12], aad, &mut buf, &tag).then_some(buf).ok_or(buf)
        };
        assert_eq!(again(7, b"place"), Ok(sealed));
        assert_eq!((again(8, b"place"), again(7, b"other")), (Err([0; 100]), Err([0; 100])));
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "two messages under one key")]
    fn a_nonce_that_is_used_for_two_messages_stops_the_program() {
        // Whichever object has the key.
        for message in [[1u8; 10], [2; 10]] {
            let cipher = Cipher::new(&Key::from_bytes(&[4; 32])).unwrap();
            cipher.seal(Nonce::once([9; 12]), b"place", &mut message.clone()).unwrap();
        }
    }
}
