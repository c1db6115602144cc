//! Larder: a file system for container volumes, in user space.
//!
//! See `ARCHITECTURE.md` for the map. Layers point one way:
//! `fuse -> fs -> open_store -> meta, store -> backing`.

pub mod backing;
pub mod meta;
pub mod store;
