//! The files a store is made of, behind the one seam that tests need.
//!
//! Everything a store keeps (segments, the metadata database and its WAL) goes through [`Dir`] and [`File`], so
//! that the same store runs on a real directory ([`OsDir`]), on files that fail on demand, or on a simulated disk
//! that loses power.
//!
//! Durability rules that callers rely on, and that every implementation keeps:
//! - bytes written are durable after [`File::sync`] of that file returned;
//! - a name created, renamed or removed is durable after [`Dir::sync`] of its directory returned;
//! - nothing else is durable, and what is not may survive in part and in any order.

mod os;
mod regular;
mod socket;

pub use os::OsDir;
pub use regular::{open_at, open_dir, open_file, open_linked, open_to_append};
pub use socket::{connect_within, listen_private};

use std::fmt::Debug;
use std::io::{self, IoSlice, IoSliceMut};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Whether the host has no room, on its disk or in the quota of who asks: that passes, and damages nothing.
pub fn is_full(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether the host's disk could not read something that is there.
pub fn is_unreadable(e: &io::Error) -> bool {
    e.raw_os_error() == Some(libc::EIO)
}

/// How [`Dir::open`] treats a file that is there, or is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Open an existing file for reading; writing to it fails.
    Read,
    /// Open an existing file for reading and writing.
    ReadWrite,
    /// Open a file for reading and writing, creating it (mode 0600) when it does not exist.
    Create,
    /// Create a file (mode 0600) that must not exist yet.
    CreateNew,
}

/// Space on the host file system that holds a store, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostSpace {
    /// Size of the host file system.
    pub total_bytes: u64,
    /// What an unprivileged process could still write.
    pub available_bytes: u64,
}

/// A directory of backing files. Names are relative, and may have one level of sub-directory (`segments/x.seg`).
pub trait Dir: Send + Sync + Debug {
    /// Opens a file; see [`OpenMode`].
    ///
    /// # Errors
    /// As open(2): `NotFound`, `AlreadyExists`, `PermissionDenied`, and so on.
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn File>>;

    /// Whether a file of that name exists.
    ///
    /// # Errors
    /// As stat(2), except that a missing file is `Ok(false)`.
    fn exists(&self, name: &str) -> io::Result<bool>;

    /// Removes a file. Its space comes back when the last open handle goes.
    ///
    /// # Errors
    /// As unlink(2).
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Gives a file another name, in the same directory, at once in the place of a file that has it.
    ///
    /// # Errors
    /// As rename(2).
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Names of the files in `subdir` (`""` is the directory itself), in no particular order.
    ///
    /// # Errors
    /// As readdir(3).
    fn list(&self, subdir: &str) -> io::Result<Vec<String>>;

    /// Makes the names in `subdir` durable.
    ///
    /// # Errors
    /// As fsync(2) on the directory.
    fn sync(&self, subdir: &str) -> io::Result<()>;

    /// Space on the file system below.
    ///
    /// # Errors
    /// As statvfs(3).
    fn host_space(&self) -> io::Result<HostSpace>;

    /// The path of `name` for messages: real where there is one.
    fn path(&self, name: &str) -> PathBuf;

    /// The time, for whoever measures how long something takes. On a simulated disk, what its accesses would take has passed.
    fn now(&self) -> Instant {
        Instant::now()
    }
}

/// An open backing file. All methods may be called from many threads.
pub trait File: Send + Sync + Debug {
    /// Fills the buffers from `offset` and returns the number of bytes read, which is short only at the end of
    /// the file.
    ///
    /// # Errors
    /// As preadv(2).
    fn read_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize>;

    /// As [`File::read_at`] where no disk has to be waited for; `None` says that it would have to.
    ///
    /// # Errors
    /// As preadv2(2) with `RWF_NOWAIT`.
    fn read_at_nowait(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<Option<usize>>;

    /// As [`File::read_at`], for contents that need not stay in memory: where the host can, it uses their pages again at once, unless
    /// somebody else has them there.
    ///
    /// # Errors
    /// As [`File::read_at`].
    fn read_at_uncached(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        self.read_at(bufs, offset)
    }

    /// Writes all buffers at `offset`.
    ///
    /// # Errors
    /// As pwritev(2). After an error any part of the range may have been written.
    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()>;

    /// As [`File::write_at`], for contents that need not stay in memory: where the host can, it begins to write them to
    /// the disk at once and then uses their pages again. Until then they are in its page cache like any other.
    ///
    /// # Errors
    /// As [`File::write_at`].
    fn write_at_uncached(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.write_at(bufs, offset)
    }

    /// Length in bytes.
    ///
    /// # Errors
    /// As fstat(2).
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    ///
    /// # Errors
    /// As [`File::len`].
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts the file to, or extends it with zeros to, `len` bytes.
    ///
    /// # Errors
    /// As ftruncate(2).
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes the contents (and the length) durable: fdatasync(2).
    ///
    /// # Errors
    /// After an error the caller must not assume that a second call makes up for it: the kernel may have dropped
    /// the pages it failed to write.
    fn sync(&self) -> io::Result<()>;

    /// Gives the range back to the host file system; it reads as zeros from then on. A host file system that
    /// cannot punch holes is not an error: the space then comes back with the whole file.
    ///
    /// # Errors
    /// As fallocate(2).
    fn punch(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Reserves host space for the range without changing the length.
    ///
    /// # Errors
    /// As fallocate(2), above all `StorageFull`; `Unsupported` where the host file system cannot.
    fn reserve(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Hints that the range was written for good, and may as well begin to go to disk. Never fails, waits for nothing,
    /// promises nothing.
    fn start_writeback(&self, offset: u64, len: u64);

    /// Hints that the range will be read soon. Never fails; may do nothing.
    fn prefetch(&self, offset: u64, len: u64);

    /// Bytes that the host file system has allocated for the file.
    ///
    /// # Errors
    /// As fstat(2).
    fn allocated(&self) -> io::Result<u64>;

    /// Whether the host file system keeps anything for some of the range; true where it cannot tell.
    ///
    /// # Errors
    /// As lseek(2).
    fn has_data(&self, offset: u64, len: u64) -> io::Result<bool>;
}

/// Fills `buf` from `offset`; bytes past the end of the file become zeros. Returns the bytes really read.
///
/// # Errors
/// As [`File::read_at`].
pub fn read_padded(file: &dyn File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let got = file.read_at(&mut [IoSliceMut::new(buf)], offset)?;
    buf[got..].fill(0);
    Ok(got)
}
