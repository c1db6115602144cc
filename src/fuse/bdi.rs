//! The kernel's limits for the pages of a mount.

use std::fs;
use std::path::Path;

/// Lifts what the kernel sets for a FUSE mount by default: no more than 1 % of memory dirty, strictly, which throttles
/// every writer, and a read-ahead of 128 KiB. `device` is the mount's device number as `major:minor`. Needs root; a
/// kernel that has no such setting keeps its default.
pub fn lift_limits(device: &str) {
    const READ_AHEAD_KIB: u32 = 1024;
    let bdi = Path::new("/sys/class/bdi").join(device);
    for (name, value) in [("max_ratio", 100), ("strict_limit", 0), ("read_ahead_kb", READ_AHEAD_KIB)] {
        if let Err(e) = fs::write(bdi.join(name), value.to_string()) {
            log::debug!("{}: {e}", bdi.join(name).display());
        }
    }
}
