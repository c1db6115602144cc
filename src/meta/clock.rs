//! The clock that the kernel stamps files with.
//!
//! Writes that the kernel gathers in its page cache get their times from it, everything else from us; programs compare the
//! two (make(1), rsync(1), tar(1)). So both have to be of one clock, or time runs backwards by up to a tick of the kernel's, some
//! milliseconds, when a file is made first and another one written then.
//!
//! That clock is `CLOCK_REALTIME_COARSE`, the time of the last tick. Since Linux 6.13 it is that or the latest time that any file
//! system with finer times has stamped a file with, whichever is later (`ktime_get_coarse_real_ts64_mg`,
//! Documentation/filesystems/multigrain-ts.rst), which no clock tells. There, an inode in memory is stamped, and asked.

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{fstat, futimens};
use nix::sys::time::TimeSpec;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::LazyLock;

/// Seconds since 1970, and nanoseconds.
pub(super) type Moment = (i64, u32);

/// An inode that is stamped to see with what.
struct Witness(OwnedFd);

impl Witness {
    fn new() -> nix::Result<Self> {
        memfd_create(c"larder-clock", MFdFlags::MFD_CLOEXEC).map(Self)
    }

    /// The time that the kernel stamps with now. Its time of access alone is looked at: of an inode whose other times were, the
    /// next stamp is a fine one, for all file systems.
    fn stamp(&self) -> io::Result<Moment> {
        futimens(&self.0, &TimeSpec::UTIME_NOW, &TimeSpec::UTIME_OMIT)?;
        #[expect(unsafe_code, reason = "neither nix nor std has a statx(2) with a mask")]
        // SAFETY: the path is an empty string, and the structure is plain numbers, which the call fills in.
        let (done, found) = unsafe {
            let mut found: libc::statx = std::mem::zeroed();
            let (fd, path) = (self.0.as_raw_fd(), c"".as_ptr());
            (libc::statx(fd, path, libc::AT_EMPTY_PATH, libc::STATX_ATIME, &raw mut found), found)
        };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((found.stx_atime.tv_sec, found.stx_atime.tv_nsec))
    }
}

/// The time of the last tick.
pub(super) fn coarse() -> Moment {
    #[expect(unsafe_code, reason = "std reads only the fine clock")]
    // SAFETY: the call fills in a structure of plain numbers.
    let now = unsafe {
        let mut now: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_REALTIME_COARSE, &raw mut now);
        now
    };
    (now.tv_sec, now.tv_nsec as u32)
}

/// The inode to ask, on kernels whose stamps are no clock's.
static WITNESS: LazyLock<Option<Witness>> = LazyLock::new(|| {
    let witness = Witness::new().ok()?;
    is_multigrain(&witness).unwrap_or(false).then_some(witness)
});

/// Whether stamps can be later than the coarse clock: makes a fine one, and looks.
fn is_multigrain(witness: &Witness) -> io::Result<bool> {
    const TRIES: usize = 8;
    let mut file = File::from(memfd_create(c"larder-clock", MFdFlags::MFD_CLOEXEC)?);
    for _ in 0..TRIES {
        // What was looked at gets a fine stamp when it changes next.
        fstat(&file)?;
        file.write_all(b"x")?;
        fstat(&file)?;
        // A tick between the two hides what there is; not so often.
        if witness.stamp()? > coarse() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The time that the kernel would stamp a file with now.
pub(super) fn now() -> Moment {
    WITNESS.as_ref().and_then(|witness| witness.stamp().ok()).unwrap_or_else(coarse)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    /// Stamps of a file system, of ours, and of the same again, in turn.
    #[test]
    fn our_stamps_and_the_kernels_are_of_one_clock() {
        let mut fine = tempfile::tempfile().unwrap();
        let mut last = (0, 0);
        for _ in 0..1000 {
            // On Linux 6.13 and later, this is ahead of the coarse clock.
            for _ in 0..2 {
                fine.write_all(b"x").unwrap();
                let meta = fine.metadata().unwrap();
                let stamp = (meta.mtime(), meta.mtime_nsec() as u32);
                assert!(stamp >= last, "the kernel stamps {stamp:?} after {last:?}");
                last = stamp;
            }
            let tick = coarse();
            let stamp = now();
            assert!(tick <= stamp, "the last tick was at {tick:?}, and we stamp {stamp:?}");
            assert!(stamp >= last, "we stamp {stamp:?} after {last:?}");
            last = stamp;
        }
    }

    /// Or files that are made for good measure would be the latest of all.
    #[test]
    fn no_stamp_is_in_the_future() {
        for _ in 0..1000 {
            let stamp = now();
            let fine = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            assert!(stamp <= (fine.as_secs() as i64, fine.subsec_nanos()));
        }
    }
}
