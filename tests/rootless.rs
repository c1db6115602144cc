//! Larder as an ordinary user has it: without root, with fusermount3(1) or in a user namespace of the user's own.
//!
//! `scripts/test` installs what they need: fuse3, uidmap. Each user lives in a namespace of mounts, and nothing of the host is touched:
//! see `user`.

mod commands;
mod mounts;
mod namespaces;
mod plugin;
mod refusals;
mod takeover;
mod user;
