//! Remotes from below: object stores, what is in their objects, the log, and who owns it.
//!
//! The same suite runs against a directory, a simulated object store, and a real Ceph.

mod attaching;
mod bucket;
mod cables;
mod ceph;
mod clouds;
mod commands;
mod directory;
mod ended;
mod evicted;
mod full;
mod gaps;
mod golden;
mod healing;
mod history;
mod hosts;
mod leased;
mod left;
mod life;
mod made;
mod mounted;
mod objects;
mod ownership;
mod owning;
mod removing;
mod sealed;
mod shipped;
mod simulated;
mod stopped;
mod suite;
mod synced;
mod told;
mod weather;
mod world;

/// Inputs for the fuzz target `remote`: its kind and number, and the body of an object of each kind.
pub fn sealed_bodies() -> Vec<Vec<u8>> {
    sealed::bodies()
}
