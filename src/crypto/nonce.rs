//! Nonces: what may be used once under a key.

use std::fmt;

/// Bytes in a nonce.
pub const NONCE_BYTES: usize = 12;

/// What one message is sealed under. Sealing takes it, so that what was given out once is not used again, whatever becomes of
/// the message.
#[derive(PartialEq, Eq)]
pub struct Nonce([u8; NONCE_BYTES]);

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x?}", self.0)
    }
}

impl Nonce {
    /// The nonce of these bytes, which the caller gives out for one message under a key. In builds with debug assertions,
    /// using them for another one stops the program.
    pub fn once(bytes: [u8; NONCE_BYTES]) -> Self {
        Self(bytes)
    }

    /// The bytes, for the cipher.
    pub(super) fn bytes(&self) -> [u8; NONCE_BYTES] {
        self.0
    }
}

/// What was sealed lately in this process, by whichever object had the key.
#[cfg(debug_assertions)]
pub(super) mod register {
    use super::{NONCE_BYTES, Nonce};
    use crate::crypto::{Key, Tag};
    use parking_lot::Mutex;
    use sha2::{Digest, Sha256};
    use std::collections::HashMap;
    use std::sync::LazyLock;

    /// Messages after which the older half is forgotten: some 20 MB, and 1 GiB of blocks.
    const REMEMBERED: usize = 1 << 18;

    /// Tells keys apart and does not tell them.
    pub(in crate::crypto) type KeyId = [u8; 16];

    pub(in crate::crypto) fn id_of(key: &Key) -> KeyId {
        let digest = Sha256::new().chain_update(b"larder register").chain_update(key.bytes()).finalize();
        let mut id = KeyId::default();
        id.copy_from_slice(&digest[..16]);
        id
    }

    type Used = HashMap<(KeyId, [u8; NONCE_BYTES]), Tag>;

    /// The newer half and the older one.
    static REGISTER: LazyLock<Mutex<(Used, Used)>> = LazyLock::new(Mutex::default);

    /// Takes note of a message by its tag, which another message under the same key and nonce would not have. The same one
    /// may be sealed again, as a segment is whose sealing again was interrupted.
    pub(in crate::crypto) fn note(key: KeyId, nonce: &Nonce, tag: &Tag) {
        let mut register = REGISTER.lock();
        let at = (key, nonce.bytes());
        let first = register.0.get(&at).or_else(|| register.1.get(&at)).copied();
        assert!(
            first.is_none_or(|first| first == *tag),
            "two messages under one key and the nonce {nonce:?}"
        );
        if register.0.len() >= REMEMBERED / 2 {
            register.1 = std::mem::take(&mut register.0);
        }
        register.0.insert(at, *tag);
    }
}
