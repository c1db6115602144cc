//! What can be done with volumes from outside: make, remove, look at, check.

pub mod check;
mod create;
mod error;
mod info;
mod keys;
mod remove;

pub use create::{VolumeSpec, create, create_encrypted};
pub use error::{Result, VolumeError};
pub use info::{VolumeInfo, info_from_meta, read_info};
pub use keys::{
    add_key, is_encrypted, key_slots, new_recovery_key, remove_key, rotate_key, unlock, unlock_keys,
};
pub use remove::remove;
