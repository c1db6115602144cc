//! SHA-256, plain and keyed (HMAC, RFC 2104).

use aws_lc_rs::{digest, hmac};

/// Bytes in a hash.
pub const HASH_BYTES: usize = 32;
/// SHA-256 of something, or HMAC-SHA256.
pub type Hash = [u8; HASH_BYTES];

fn array(bytes: &[u8]) -> Hash {
    let mut hash = [0; HASH_BYTES];
    // Both algorithms give exactly so many.
    for (to, from) in hash.iter_mut().zip(bytes) {
        *to = *from;
    }
    hash
}

/// SHA-256 of `bytes`.
pub fn hash(bytes: &[u8]) -> Hash {
    array(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// A key of HMAC-SHA256.
#[derive(Debug)]
pub struct HashKey(hmac::Key);

impl HashKey {
    /// A key of these bytes.
    pub fn new(key: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// HMAC-SHA256 of `bytes`.
    pub fn hash(&self, bytes: &[u8]) -> Hash {
        array(hmac::sign(&self.0, bytes).as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::super::key::to_hex;
    use super::*;

    #[test]
    fn hashes_are_the_standards() {
        // FIPS 180-4 and RFC 4231, test case 2.
        assert_eq!(to_hex(&hash(b"abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let keyed = HashKey::new(b"Jefe").hash(b"what do ya want for nothing?");
        assert_eq!(to_hex(&keyed), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }
}
