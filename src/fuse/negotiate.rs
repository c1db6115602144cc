//! What is agreed on with the kernel when a session begins.

use fuser::{InitFlags, KernelConfig};

/// Largest write, and read, that the kernel sends as one request.
const MAX_WRITE_BYTES: u32 = 1 << 20;
/// Requests the kernel may have under way without a caller waiting: read-ahead and write-back.
const MAX_BACKGROUND: u16 = 64;

/// What the kernel can do of what we would like.
#[derive(Clone, Copy, Debug, Default)]
pub struct Agreed {
    /// It opens files without asking, once told so (ENOSYS).
    pub no_open: bool,
    /// It opens directories without asking, once told so.
    pub no_opendir: bool,
}

/// Asks the kernel for all that makes a mount fast. An older kernel does without what it does not know.
pub fn negotiate(config: &mut KernelConfig, writeback_cache: bool) -> Agreed {
    let mut wanted = InitFlags::FUSE_DO_READDIRPLUS
        | InitFlags::FUSE_READDIRPLUS_AUTO
        | InitFlags::FUSE_ASYNC_DIO
        | InitFlags::FUSE_NO_OPEN_SUPPORT
        | InitFlags::FUSE_NO_OPENDIR_SUPPORT
        | InitFlags::FUSE_PARALLEL_DIROPS
        | InitFlags::FUSE_POSIX_ACL
        | InitFlags::FUSE_DONT_MASK
        | InitFlags::FUSE_CACHE_SYMLINKS
        | InitFlags::FUSE_EXPLICIT_INVAL_DATA
        | InitFlags::FUSE_HANDLE_KILLPRIV_V2;
    if writeback_cache {
        wanted |= InitFlags::FUSE_WRITEBACK_CACHE;
    }
    let agreed = wanted & config.capabilities();
    if let Err(unsupported) = config.add_capabilities(agreed) {
        log::warn!("the kernel refuses {unsupported:?}");
    }
    let _ = config.set_max_write(MAX_WRITE_BYTES);
    let _ = config.set_max_background(MAX_BACKGROUND);
    if let Err(nearest) = config.set_max_readahead(MAX_WRITE_BYTES) {
        let _ = config.set_max_readahead(nearest);
    }
    Agreed {
        no_open: agreed.contains(InitFlags::FUSE_NO_OPEN_SUPPORT),
        no_opendir: agreed.contains(InitFlags::FUSE_NO_OPENDIR_SUPPORT),
    }
}
