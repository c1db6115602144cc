//! The bytes of a key.

#![expect(unsafe_code, reason = "mlock has no safe wrapper")]

use std::fmt;
use std::io;
use std::ptr::NonNull;
use zeroize::{Zeroize, Zeroizing};

/// Bytes in every key there is.
pub const KEY_BYTES: usize = 32;

/// 256 secret bits. They stay where they are, out of swap where that is allowed, until they are erased.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    bytes: Box<[u8; KEY_BYTES]>,
}

impl Key {
    /// A key of zeros, to be filled.
    pub(super) fn zero() -> Self {
        let mut bytes = Box::new([0; KEY_BYTES]);
        // SAFETY: the range is the box's own; locking its page changes nothing that could be seen. The page stays
        // locked, because it may hold other keys. A limit on locked memory is no error.
        let _ = unsafe { nix::sys::mman::mlock(NonNull::from(&mut *bytes).cast(), KEY_BYTES) };
        Self { bytes }
    }

    /// A copy of these bytes.
    pub fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Self {
        let mut key = Self::zero();
        key.bytes.copy_from_slice(bytes);
        key
    }

    /// A new random key.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn random() -> io::Result<Self> {
        let mut key = Self::zero();
        random(&mut *key.bytes)?;
        Ok(key)
    }

    pub(super) fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.bytes
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8; KEY_BYTES] {
        &mut self.bytes
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

/// Fills `buf` with random bytes.
pub(super) fn random(buf: &mut [u8]) -> io::Result<()> {
    getrandom::fill(buf).map_err(io::Error::other)
}

/// Lower-case hexadecimal digits.
pub(super) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The bytes that hexadecimal digits stand for.
pub(super) fn from_hex(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.chunks_exact(2).map(byte).collect::<Option<Vec<u8>>>().map(Zeroizing::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_random_and_never_printed() {
        let (one, two) = (Key::random().unwrap(), Key::random().unwrap());
        assert!(one != two && one != Key::zero());
        assert_eq!(format!("{one:?}"), "Key");
    }

    #[test]
    fn hexadecimal_digits_there_and_back() {
        assert_eq!(to_hex(&[0, 0xab, 0xff]), "00abff");
        assert_eq!(from_hex("00abff").unwrap()[..], [0, 0xab, 0xff]);
        for bad in ["0", "0g", "+0", "ä"] {
            assert!(from_hex(bad).is_none(), "{bad}");
        }
    }
}
