//! Keys from other keys, and keys from what people remember.

use super::cipher::CipherError;
use super::key::{KEY_BYTES, Key};
use super::slot::KdfCost;
use argon2::{Algorithm, Argon2, Block, Params, Version};
use hkdf::Hkdf;
use sha2::Sha256;
use std::time::{Duration, Instant};
use zeroize::Zeroize;

/// Every purpose that a key is derived for. The texts are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Domain {
    /// Sealing blocks.
    Data,
    /// Sealing pages of the database and frames of its WAL.
    Metadata,
    /// Sealing records of the redo log.
    RedoLog,
    /// One process's use of a metadata or redo key.
    Session,
    /// Wrapping the keys of epochs.
    Epochs,
    /// Sealing objects of a remote.
    Remote,
    /// Naming pieces of a remote by what is in them.
    RemoteNames,
    /// A key slot that a key file opens.
    KeyFile,
    /// A key slot that a recovery key opens.
    Recovery,
}

impl Domain {
    fn text(self) -> &'static [u8] {
        match self {
            Self::Data => b"larder 1 data",
            Self::Metadata => b"larder 1 metadata",
            Self::RedoLog => b"larder 1 redo log",
            Self::Session => b"larder 1 session",
            Self::Epochs => b"larder 1 epochs",
            Self::Remote => b"larder 1 remote",
            Self::RemoteNames => b"larder 1 remote names",
            Self::KeyFile => b"larder 1 key file",
            Self::Recovery => b"larder 1 recovery key",
        }
    }
}

/// HKDF-SHA256 (RFC 5869).
pub(super) fn derive(from: &[u8], salt: &[u8], domain: Domain) -> Result<Key, CipherError> {
    let mut key = Key::zero();
    Hkdf::<Sha256>::new(Some(salt), from).expand(domain.text(), key.bytes_mut()).map_err(|_| CipherError)?;
    Ok(key)
}

#[cfg(test)]
thread_local! {
    /// Passphrases that this thread has stretched.
    pub(super) static STRETCHED: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

/// Argon2id (RFC 9106), version 0x13.
pub(super) fn stretch(passphrase: &[u8], salt: &[u8], cost: KdfCost) -> Result<Key, CipherError> {
    #[cfg(test)]
    STRETCHED.set(STRETCHED.get() + 1);
    let KdfCost { memory_kib, passes, lanes } = cost;
    let params = Params::new(memory_kib, passes, lanes, Some(KEY_BYTES)).map_err(|_| CipherError)?;
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let mut blocks = vec![Block::default(); argon.params().block_count()];
    let mut key = Key::zero();
    let stretched = argon.hash_password_into_with_memory(passphrase, salt, key.bytes_mut(), &mut blocks);
    for block in &mut blocks {
        block.zeroize();
    }
    stretched.map_err(|_| CipherError)?;
    Ok(key)
}

/// The cost at which a guess takes about half a second here: up to 256 MiB of memory, and at least what RFC 9106
/// recommends for small machines.
pub(super) fn tuned_cost() -> KdfCost {
    const TARGET: Duration = Duration::from_millis(500);
    const LESS: KdfCost = KdfCost { memory_kib: 64 << 10, passes: 3, lanes: 1 };
    const MORE: u32 = 256 << 10;
    let measure = |passes| {
        let started = Instant::now();
        let _ = stretch(b"how fast is this machine?", &[0; 16], KdfCost { passes, ..LESS });
        started.elapsed()
    };
    // The first pass also costs the memory itself.
    let (one, two) = (measure(1), measure(2));
    let pass = two.saturating_sub(one).max(Duration::from_millis(1));
    let memory = one.saturating_sub(pass);
    let passes = |time: Duration| (time.saturating_sub(memory).as_micros() / pass.as_micros()).min(64) as u32;
    match passes(TARGET / (MORE / LESS.memory_kib)) {
        0 | 1 => KdfCost { passes: passes(TARGET).max(LESS.passes), ..LESS },
        n => KdfCost { memory_kib: MORE, passes: n, lanes: 1 },
    }
}

#[cfg(test)]
mod tests {
    use super::super::key::to_hex;
    use super::*;

    #[test]
    fn keys_depend_on_everything() {
        let key = |from: &[u8], salt: &[u8], domain| to_hex(derive(from, salt, domain).unwrap().bytes());
        let one = key(b"a", b"s", Domain::Data);
        assert_eq!(one, key(b"a", b"s", Domain::Data));
        assert_ne!(one, key(b"b", b"s", Domain::Data));
        assert_ne!(one, key(b"a", b"t", Domain::Data));
        assert_ne!(one, key(b"a", b"s", Domain::Metadata));
        // Changing this value changes the format.
        assert_eq!(one, "9de658aa807218f1dd73fa2117de9db43f834411bee7e9890d5f1732d87edc0b");
    }

    #[test]
    fn passphrases_are_stretched_as_the_standard_says() {
        let cost = KdfCost { memory_kib: 64, passes: 2, lanes: 1 };
        let key = stretch(b"password", b"somesaltsomesalt", cost).unwrap();
        // From the reference implementation: `echo -n password | argon2 somesaltsomesalt -id -t 2 -k 64 -p 1 -r`.
        assert_eq!(to_hex(key.bytes()), "1a98fba8e6394425c9bdc333a9c750aaf811df070f5fb4a5788e1cf4db5793a1");
    }
}
