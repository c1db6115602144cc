//! Ciphers, keys and how secrets open them. The only layer that names a cipher crate.
//!
//! It knows nothing of stores, files or disks: it is given bytes and gives bytes. `docs/crypto.md` has the threat model and
//! the reasons; this is where each rule of it is kept:
//! - a pair of key and nonce seals at most one message: sealing uses a [`Nonce`] up, [`SessionKey`] counts its own, and with
//!   debug assertions each one that is used is registered;
//! - every key has one purpose, and is derived or random;
//! - key bytes are erased when they are dropped, and never printed.

mod cipher;
mod derive;
mod guard;
mod hash;
mod key;
mod keyring;
mod keys;
mod nonce;
mod recovery;
mod session;
mod slot;

pub use cipher::{Cipher, CipherError, TAG_BYTES, Tag};
pub use guard::guard_process;
pub use hash::{HASH_BYTES, Hash, HashKey, hash};
pub use key::{KEY_BYTES, Key};
pub use keyring::{Keyring, KeyringError, Unlocked};
pub use keys::{EpochKeys, Epochs, Keys, KeysError, Subkeys};
pub use nonce::{NONCE_BYTES, Nonce};
pub use recovery::RecoveryKey;
pub use session::{ENVELOPE_BYTES, SESSION_BYTES, Session, SessionKey};
pub use slot::{KEY_FILE_MIN, KdfCost, KeySlot, Secret};
