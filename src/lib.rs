//! Larder: a file system for container volumes, in user space.
//!
//! See `ARCHITECTURE.md` for the map. Layers point one way:
//! `fuse -> fs -> open_store -> meta, store -> backing, crypto`.

pub mod backing;
pub mod cli;
pub mod config;
pub mod crypto;
pub mod durable;
pub mod exit_code;
pub mod fs;
pub mod fuse;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod health;
pub mod host;
pub mod memory;
pub mod meta;
pub mod mount;
pub mod nearest;
pub mod open_store;
pub mod period;
pub mod plugin;
pub mod printable;
pub mod remote;
pub mod root;
pub mod scheduling;
pub mod server;
pub mod size;
pub mod store;
pub mod volume;
