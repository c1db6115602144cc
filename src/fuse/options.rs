//! What a session asks of the kernel.

/// How a volume is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FuseOptions {
    /// Let the kernel gather writes in its page cache and write them back later, as it does for its own file systems.
    /// Without it every write(2) waits for the server.
    pub writeback_cache: bool,
    /// Show the snapshots of the volume in the hidden directory `.snapshots`.
    pub snapshots: bool,
    /// Allow id-mapped mounts of the volume. The kernel then tells who asks only where something is made.
    pub idmap: bool,
}

impl Default for FuseOptions {
    fn default() -> Self {
        Self { writeback_cache: true, snapshots: true, idmap: false }
    }
}
