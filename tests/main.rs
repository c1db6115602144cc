//! All integration tests, in one binary: modules are named by what they are about.
//!
//! Everything below needs root and `/dev/fuse`, because it uses real mounts; only `model` and `layers` do without.
//! Nothing that a test starts or mounts outlives it, also when it fails: see `support::Host`.

#![expect(unreachable_pub, reason = "a binary of tests has no outside")]
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod aio;
mod bad_input;
mod book;
mod bounded;
mod caches;
mod commands;
mod compat32;
mod completions;
mod concurrency;
mod configuration;
mod conformance;
mod containers;
mod content;
mod crash;
mod damage;
mod disk;
mod encryption;
mod family_faults;
mod faults;
mod flags;
mod full_host;
mod fuzz;
mod golden;
mod handles;
mod health;
mod holds;
mod hostile;
mod json;
mod layers;
mod limits;
mod links;
mod listing;
mod locks;
mod logs;
mod many_snapshots;
mod messages;
mod million;
mod model;
mod mount_helper;
mod mountpoints;
mod names;
mod overlay;
mod page_cache;
mod permissions;
mod plugin;
mod power;
mod programs;
mod pruning;
mod refusals;
mod remotes;
mod removals;
mod rename;
mod replica;
mod rootless;
mod scrub;
mod shipping;
mod snapshot_sets;
mod snapshot_views;
mod snapshots;
mod starter;
mod support;
mod takeover;
mod times;
mod transports;
mod trash;
mod uring;
mod xattrs;
