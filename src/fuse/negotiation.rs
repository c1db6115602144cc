//! What is asked of the kernel when a connection begins.

use super::options::{FuseOptions, Transport};
use super::uring;
use std::io;

/// Largest write, and read, that the kernel sends as one request.
pub(super) const MAX_WRITE_BYTES: u32 = 1 << 20;
/// Requests the kernel may have under way without a caller waiting: read-ahead and write-back.
pub(super) const MAX_BACKGROUND: u16 = 64;

/// Bits of INIT, as `<linux/fuse.h>` has them.
pub(super) mod flag {
    pub(in crate::fuse) const ASYNC_READ: u64 = 1 << 0;
    pub(in crate::fuse) const EXPORT_SUPPORT: u64 = 1 << 4;
    pub(in crate::fuse) const BIG_WRITES: u64 = 1 << 5;
    pub(in crate::fuse) const DONT_MASK: u64 = 1 << 6;
    pub(in crate::fuse) const AUTO_INVAL_DATA: u64 = 1 << 12;
    pub(in crate::fuse) const DO_READDIRPLUS: u64 = 1 << 13;
    pub(in crate::fuse) const READDIRPLUS_AUTO: u64 = 1 << 14;
    pub(in crate::fuse) const ASYNC_DIO: u64 = 1 << 15;
    pub(in crate::fuse) const WRITEBACK_CACHE: u64 = 1 << 16;
    pub(in crate::fuse) const NO_OPEN_SUPPORT: u64 = 1 << 17;
    pub(in crate::fuse) const PARALLEL_DIROPS: u64 = 1 << 18;
    pub(in crate::fuse) const POSIX_ACL: u64 = 1 << 20;
    pub(in crate::fuse) const MAX_PAGES: u64 = 1 << 22;
    pub(in crate::fuse) const CACHE_SYMLINKS: u64 = 1 << 23;
    pub(in crate::fuse) const NO_OPENDIR_SUPPORT: u64 = 1 << 24;
    pub(in crate::fuse) const EXPLICIT_INVAL_DATA: u64 = 1 << 25;
    pub(in crate::fuse) const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    pub(in crate::fuse) const INIT_EXT: u64 = 1 << 30;
    pub(in crate::fuse) const HAS_RESEND: u64 = 1 << 39;
    pub(in crate::fuse) const ALLOW_IDMAP: u64 = 1 << 40;
    pub(in crate::fuse) const OVER_IO_URING: u64 = 1 << 41;
}

/// What the kernel is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Bits of [`flag`]. A kernel does without those that it does not offer.
    pub(super) flags: u64,
    /// Bytes that a request moves at most.
    pub(super) max_write: u32,
}

/// What is asked for with these options.
pub(super) fn wanted(options: FuseOptions) -> Wanted {
    let always = flag::EXPORT_SUPPORT
        | flag::DONT_MASK
        | flag::DO_READDIRPLUS
        | flag::READDIRPLUS_AUTO
        | flag::ASYNC_DIO
        | flag::PARALLEL_DIROPS
        | flag::POSIX_ACL
        | flag::HANDLE_KILLPRIV_V2
        | flag::HAS_RESEND;
    // With AUTO_INVAL_DATA, each read(2) asks for attributes that are too old, and is not answered from the page cache before they are there.
    let kept = match options.leased {
        true => flag::AUTO_INVAL_DATA,
        false => {
            flag::NO_OPEN_SUPPORT
                | flag::CACHE_SYMLINKS
                | flag::NO_OPENDIR_SUPPORT
                | flag::EXPLICIT_INVAL_DATA
        }
    };
    let mut flags = always | kept;
    for (set, flag) in [(options.writeback_cache, flag::WRITEBACK_CACHE), (options.idmap, flag::ALLOW_IDMAP)]
    {
        if set {
            flags |= flag;
        }
    }
    if options.transport == Transport::Uring {
        // What came by a ring is not given again: nothing is to believe that it is.
        flags = flags & !flag::HAS_RESEND | flag::OVER_IO_URING;
        return Wanted { flags, max_write: uring::MAX_WRITE_BYTES };
    }
    Wanted { flags, max_write: MAX_WRITE_BYTES }
}

/// In the environment of the process that starts servers: the kernel is taken not to have this, for tests of what happens on older
/// ones; `resend` (Linux 6.9), `idmap` (6.12), `uring` (6.14), `uring-on` (it is turned off) and `async_dio`, with commas between.
const WITHOUT: &str = "LARDER_KERNEL_WITHOUT";

/// Whether the kernel is taken not to have something.
pub(super) fn is_without(what: &str) -> bool {
    std::env::var(WITHOUT).is_ok_and(|without| without.split(',').any(|name| name == what))
}

/// What the kernel offers, as far as it is to be believed.
pub(super) fn believed(offered: u64) -> u64 {
    let of_names = [
        ("resend", flag::HAS_RESEND),
        ("idmap", flag::ALLOW_IDMAP),
        ("uring", flag::OVER_IO_URING),
        ("async_dio", flag::ASYNC_DIO),
    ];
    of_names
        .into_iter()
        .filter(|(name, _)| is_without(name))
        .fold(offered, |offered, (_, flag)| offered & !flag)
}

/// Whether the kernel has what somebody has asked for.
///
/// # Errors
/// What it does not have.
pub(super) fn demand(options: FuseOptions, agreed: u64) -> io::Result<()> {
    if options.leased && agreed & flag::AUTO_INVAL_DATA == 0 {
        let what =
            "lease=strict needs a kernel that asks before it reads from its page cache (AUTO_INVAL_DATA)";
        return Err(io::Error::new(io::ErrorKind::Unsupported, what));
    }
    if options.idmap && agreed & flag::ALLOW_IDMAP == 0 {
        let what =
            "idmap=on needs Linux 6.12 or later; this kernel has no id-mapped mounts of FUSE file systems";
        return Err(io::Error::new(io::ErrorKind::Unsupported, what));
    }
    if options.transport == Transport::Uring && agreed & flag::OVER_IO_URING == 0 {
        // Between the look before the mount and now, it can have been turned off.
        uring::available()?;
        return Err(io::Error::new(io::ErrorKind::Unsupported, uring::OFF));
    }
    Ok(())
}
