//! What is asked of the kernel, and where the readers of the device run: as Larder does in `src/fuse/`.

use fuser::{InitFlags, KernelConfig};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Largest write, and read, that the kernel sends as one request.
const MAX_WRITE_BYTES: u32 = 1 << 20;
/// Requests the kernel may have under way without a caller waiting.
const MAX_BACKGROUND: u16 = 64;

/// What the kernel agreed to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Agreed {
    /// It opens files, or directories, without asking, once told so (ENOSYS).
    pub(crate) no_open: bool,
    pub(crate) no_opendir: bool,
}

pub(crate) fn negotiate(config: &mut KernelConfig) -> Agreed {
    let wanted = InitFlags::FUSE_DO_READDIRPLUS
        | InitFlags::FUSE_READDIRPLUS_AUTO
        | InitFlags::FUSE_ASYNC_DIO
        | InitFlags::FUSE_NO_OPEN_SUPPORT
        | InitFlags::FUSE_NO_OPENDIR_SUPPORT
        | InitFlags::FUSE_PARALLEL_DIROPS
        | InitFlags::FUSE_POSIX_ACL
        | InitFlags::FUSE_DONT_MASK
        | InitFlags::FUSE_CACHE_SYMLINKS
        | InitFlags::FUSE_EXPLICIT_INVAL_DATA
        | InitFlags::FUSE_HANDLE_KILLPRIV_V2
        | InitFlags::FUSE_WRITEBACK_CACHE;
    let agreed = wanted & config.capabilities();
    let _ = config.add_capabilities(agreed);
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

/// The CPUs this process may run on, dealt out to threads in turn.
#[derive(Debug)]
pub(crate) struct Pinner {
    cpus: Vec<usize>,
    next: AtomicUsize,
}

thread_local! {
    static PINNED: Cell<bool> = const { Cell::new(false) };
}

impl Pinner {
    pub(crate) fn new() -> Self {
        let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
        let cpus = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false)).collect();
        Self { cpus, next: AtomicUsize::new(0) }
    }

    /// Number of CPUs, at least 1.
    pub(crate) fn cpus(&self) -> usize {
        self.cpus.len().max(1)
    }

    /// Pins the calling thread to the next CPU, once.
    pub(crate) fn pin(&self) {
        if PINNED.replace(true) || self.cpus.is_empty() {
            return;
        }
        let cpu = self.cpus[self.next.fetch_add(1, Ordering::Relaxed) % self.cpus.len()];
        let mut set = CpuSet::new();
        let _ = set.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
    }
}
