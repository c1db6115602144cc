//! The kernel's limits for the pages of a mount.

use std::fs;
use std::path::Path;

/// Lifts what the kernel sets for a FUSE mount by default: no more than 1 % of memory dirty, strictly, which throttles
/// every writer, and a read-ahead of 128 KiB. `device` is the mount's device number as `major:minor`. Needs root; a
/// kernel that has no such setting keeps its default.
///
/// Of a volume with a size limit, no more may be dirty than it can hold (Linux 6.2), so that whoever fills it is told soon.
/// Where that is more than the kernel allows for all of memory, it refuses, and needs no limit of ours.
pub fn lift_limits(device: &str, size: Option<u64>) {
    const READ_AHEAD_KIB: u32 = 1024;
    /// What can be gathered in any case.
    const LEAST_DIRTY: u64 = 16 << 20;
    let bdi = Path::new("/sys/class/bdi").join(device);
    for (name, value) in [("max_ratio", 100), ("strict_limit", 0), ("read_ahead_kb", READ_AHEAD_KIB)] {
        if let Err(e) = fs::write(bdi.join(name), value.to_string()) {
            log::debug!("{}: {e}", bdi.join(name).display());
        }
    }
    if let Some(size) = size
        && fs::write(bdi.join("max_bytes"), size.max(LEAST_DIRTY).to_string()).is_ok()
        && let Err(e) = fs::write(bdi.join("strict_limit"), "1")
    {
        log::debug!("{}: {e}", bdi.display());
    }
}
