//! Key slots: each holds the master key, wrapped with what one secret gives.

use super::cipher::{Cipher, CipherError, TAG_BYTES};
use super::derive::{Domain, derive, stretch, tuned_cost};
use super::key::{KEY_BYTES, Key, from_hex, random, to_hex};
use super::nonce::{NONCE_BYTES, Nonce};
use super::recovery::RecoveryKey;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use zeroize::Zeroizing;

/// Least bytes of a key file: those of a key.
pub const KEY_FILE_MIN: usize = 32;

const PASSPHRASE: &str = "passphrase";
pub(super) const KEY_FILE: &str = "key-file";
pub(super) const RECOVERY: &str = "recovery-key";
const ARGON2ID: &str = "argon2id";
const HKDF: &str = "hkdf-sha256";
const SALT_BYTES: usize = 16;
/// What a header may ask for at most: it may have been written by an enemy.
const MEMORY_MAX_KIB: u32 = 1 << 20;
const LANES_MAX: u32 = 16;
/// Memory times passes: some ten seconds.
const WORK_MAX_KIB: u64 = 16 << 20;

/// A secret, as a user gives it.
#[derive(Clone)]
pub enum Secret {
    /// What somebody remembers, or reads from a recovery key.
    Passphrase(Zeroizing<Vec<u8>>),
    /// The contents of a file of random bytes.
    KeyFile(Zeroizing<Vec<u8>>),
    /// A recovery key.
    Recovery(RecoveryKey),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Secret").field(&self.kind()).finish()
    }
}

impl Secret {
    /// The kind of slot that it opens.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Passphrase(_) => PASSPHRASE,
            Self::KeyFile(_) => KEY_FILE,
            Self::Recovery(_) => RECOVERY,
        }
    }

    /// The recovery key that a passphrase may be.
    pub(super) fn as_recovery(&self) -> Option<Self> {
        match self {
            Self::Passphrase(text) => std::str::from_utf8(text).ok()?.parse().ok().map(Self::Recovery),
            _ => None,
        }
    }
}

/// What Argon2id costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KdfCost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

/// A slot as it stands in the header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySlot {
    /// Its number.
    pub id: u32,
    /// `passphrase`, `key-file` or `recovery-key`.
    pub kind: String,
    /// How the secret becomes a key: `argon2id` or `hkdf-sha256`.
    pub kdf: String,
    /// Of Argon2id, in KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_kib: Option<u32>,
    /// Of Argon2id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passes: Option<u32>,
    /// Of Argon2id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lanes: Option<u32>,
    salt: String,
    /// The master key: nonce, ciphertext and tag in hexadecimal digits.
    key: String,
}

/// Wraps a key with another; bound to `aad`. The nonce is random: a wrapping key is used a few times at most.
pub(super) fn wrap(with: &Key, aad: &[u8], key: &Key) -> io::Result<String> {
    let mut out = Zeroizing::new([0; NONCE_BYTES + KEY_BYTES + TAG_BYTES]);
    let mut nonce = [0; NONCE_BYTES];
    random(&mut nonce)?;
    out[..NONCE_BYTES].copy_from_slice(&nonce);
    let body = &mut out[NONCE_BYTES..NONCE_BYTES + KEY_BYTES];
    body.copy_from_slice(key.bytes());
    let tag = Cipher::new(with)?.seal(Nonce::once(nonce), aad, body)?;
    out[NONCE_BYTES + KEY_BYTES..].copy_from_slice(&tag);
    Ok(to_hex(&*out))
}

/// Bytes of a wrapped key; `None` if the digits are none.
fn wrapped(digits: &str) -> Option<Zeroizing<Vec<u8>>> {
    from_hex(digits).filter(|bytes| bytes.len() == NONCE_BYTES + KEY_BYTES + TAG_BYTES)
}

/// What [`wrap`] wrapped; `None` if it was wrapped with another key, or is damaged.
pub(super) fn unwrap(with: &Key, aad: &[u8], digits: &str) -> Option<Key> {
    let mut bytes = wrapped(digits)?;
    let nonce = *bytes.first_chunk()?;
    let (body, tag) = bytes[NONCE_BYTES..].split_at_mut(KEY_BYTES);
    if !Cipher::new(with).ok()?.open(nonce, aad, body, tag) {
        return None;
    }
    body.first_chunk().map(Key::from_bytes)
}

impl KeySlot {
    /// A slot that `secret` opens, with the master key in it. `cost` is for passphrases; `None` lets this machine be
    /// measured.
    pub(super) fn new(
        id: u32,
        secret: &Secret,
        master: &Key,
        store: &[u8; 16],
        cost: Option<KdfCost>,
    ) -> io::Result<Self> {
        let mut salt = [0; SALT_BYTES];
        random(&mut salt)?;
        let cost = match secret {
            Secret::Passphrase(_) => Some(cost.unwrap_or_else(tuned_cost)),
            _ => None,
        };
        let mut slot = Self {
            id,
            kind: secret.kind().into(),
            kdf: if cost.is_some() { ARGON2ID } else { HKDF }.into(),
            memory_kib: cost.map(|cost| cost.memory_kib),
            passes: cost.map(|cost| cost.passes),
            lanes: cost.map(|cost| cost.lanes),
            salt: to_hex(&salt),
            key: String::new(),
        };
        let with = slot.wrapping_key(secret, &salt)?;
        slot.key = wrap(&with, &slot.aad(store), master)?;
        Ok(slot)
    }

    fn cost(&self) -> Option<KdfCost> {
        Some(KdfCost { memory_kib: self.memory_kib?, passes: self.passes?, lanes: self.lanes? })
    }

    fn wrapping_key(&self, secret: &Secret, salt: &[u8]) -> Result<Key, CipherError> {
        match secret {
            Secret::Passphrase(bytes) => stretch(bytes, salt, self.cost().ok_or(CipherError)?),
            Secret::KeyFile(bytes) => derive(bytes, salt, Domain::KeyFile),
            Secret::Recovery(key) => derive(key.secret(), salt, Domain::Recovery),
        }
    }

    /// Everything about the slot but the wrapped key itself is bound to it.
    fn aad(&self, store: &[u8; 16]) -> Vec<u8> {
        let number = |n: Option<u32>| n.unwrap_or(0);
        let text = format!(
            "larder 1 slot\n{}\n{}\n{}\n{}\n{}\n{}\n{}\n{}",
            to_hex(store),
            self.id,
            self.kind,
            self.kdf,
            number(self.memory_kib),
            number(self.passes),
            number(self.lanes),
            self.salt
        );
        text.into_bytes()
    }

    /// What is wrong with the slot, whatever the secret.
    pub(super) fn fault(&self) -> Option<String> {
        let fault = |what: String| Some(format!("key slot {}: {what}", self.id));
        let expected = match self.kind.as_str() {
            PASSPHRASE => ARGON2ID,
            KEY_FILE | RECOVERY => HKDF,
            other => return fault(format!("unknown kind {other:?}")),
        };
        if self.kdf != expected {
            return fault(format!("unknown key derivation {:?}", self.kdf));
        }
        if expected == ARGON2ID {
            let Some(KdfCost { memory_kib, passes, lanes }) = self.cost() else {
                return fault("the parameters of Argon2id are missing".into());
            };
            if memory_kib > MEMORY_MAX_KIB
                || lanes > LANES_MAX
                || u64::from(memory_kib) * u64::from(passes) > WORK_MAX_KIB
            {
                return fault(format!(
                    "it asks for {memory_kib} KiB, {passes} passes and {lanes} lanes, which no version of larder writes"
                ));
            }
            if lanes == 0 || passes == 0 || memory_kib < 8 * lanes {
                return fault("impossible parameters of Argon2id".into());
            }
        }
        if from_hex(&self.salt).is_none_or(|salt| salt.len() != SALT_BYTES) || wrapped(&self.key).is_none() {
            return fault("it is damaged".into());
        }
        None
    }

    /// The master key, if this is the secret's slot. The work is the same whether it is or not.
    pub(super) fn open(&self, secret: &Secret, store: &[u8; 16]) -> Option<Key> {
        let salt = from_hex(&self.salt)?;
        let with = self.wrapping_key(secret, &salt).ok()?;
        unwrap(&with, &self.aad(store), &self.key)
    }
}
