//! Backing files on a real directory.

#![expect(
    unsafe_code,
    reason = "preadv2 and pwritev2 with flags, readahead and sync_file_range have no safe wrapper"
)]

use super::regular::{component, open_at, open_dir, open_dir_at};
use super::{Dir, File, HostSpace, OpenMode};
use nix::dir::Dir as Entries;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, FallocateFlags, OFlag, fallocate, renameat};
use nix::sys::stat::fstatat;
use nix::unistd::{UnlinkatFlags, Whence, fsync, lseek, unlinkat};
use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// Directories in directories that nobody of ours has made. More of them are left for an administrator to look at.
const DEPTH_MAX: u32 = 64;

/// A real directory, which is no symbolic link; nor is anything that is opened in it. It stays the same one when its name
/// comes to mean another.
#[derive(Debug)]
pub struct OsDir {
    path: PathBuf,
    dir: OnceLock<OwnedFd>,
}

impl OsDir {
    /// The backing directory at `path`, which must exist before files are opened in it.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), dir: OnceLock::new() }
    }

    /// Where it is.
    pub fn as_path(&self) -> &Path {
        &self.path
    }

    fn dir(&self) -> io::Result<&OwnedFd> {
        match self.dir.get() {
            Some(dir) => Ok(dir),
            None => {
                let dir = open_dir(&self.path)?;
                Ok(self.dir.get_or_init(|| dir))
            }
        }
    }

    /// Calls `work` with the directory that `name` is in, and its name there.
    fn at<T>(&self, name: &str, work: impl FnOnce(BorrowedFd<'_>, &str) -> io::Result<T>) -> io::Result<T> {
        let dir = self.dir()?;
        match name.split_once('/') {
            Some((subdir, name)) => work(open_dir_at(dir, subdir)?.as_fd(), component(name)?),
            None => work(dir.as_fd(), component(name)?),
        }
    }

    /// The directory `subdir`, or this one if that is empty.
    fn subdir(&self, subdir: &str) -> io::Result<OwnedFd> {
        let dir = self.dir()?;
        if subdir.is_empty() { dir.try_clone() } else { open_dir_at(dir, subdir) }
    }

    /// Removes whatever has the name, with all that is in it; nothing is no error. Links are removed, not followed.
    ///
    /// # Errors
    /// As unlink(2) and rmdir(2).
    pub fn remove_tree(&self, name: &str) -> io::Result<()> {
        self.at(name, |dir, name| remove_tree(dir, name.as_bytes(), DEPTH_MAX))
    }
}

/// The entries of a directory.
fn entries(dir: OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    // A description of its own: the position in a directory is shared by duplicates.
    for entry in Entries::openat(dir, ".", OPEN_ENTRIES, nix::sys::stat::Mode::empty())?.iter() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}

fn remove_tree(dir: BorrowedFd<'_>, name: &[u8], depth: u32) -> io::Result<()> {
    match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(()),
        Err(Errno::EISDIR) if depth > 0 => {}
        Err(e) => return Err(e.into()),
    }
    let inside = nix::fcntl::openat(dir, name, OPEN_ENTRIES, nix::sys::stat::Mode::empty())?;
    for entry in entries(inside.try_clone()?)? {
        remove_tree(inside.as_fd(), &entry, depth - 1)?;
    }
    match unlinkat(dir, name, UnlinkatFlags::RemoveDir) {
        Err(e) if e != Errno::ENOENT => Err(e.into()),
        _ => Ok(()),
    }
}

const OPEN_ENTRIES: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

impl Dir for OsDir {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let file = self.at(name, |dir, name| open_at(dir, name, mode))?;
        Ok(Arc::new(OsFile { file, cached_only: AtomicBool::new(false) }))
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        match self.at(name, |dir, name| Ok(fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)?)) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.at(name, |dir, name| Ok(unlinkat(dir, name, UnlinkatFlags::NoRemoveDir)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.at(from, |from_dir, from| self.at(to, |to_dir, to| Ok(renameat(from_dir, from, to_dir, to)?)))
    }

    fn list(&self, subdir: &str) -> io::Result<Vec<String>> {
        // A name that is not UTF-8 is none of ours.
        Ok(entries(self.subdir(subdir)?)?
            .into_iter()
            .filter_map(|name| String::from_utf8(name).ok())
            .collect())
    }

    fn sync(&self, subdir: &str) -> io::Result<()> {
        Ok(fsync(self.subdir(subdir)?)?)
    }

    fn host_space(&self) -> io::Result<HostSpace> {
        let stat = nix::sys::statvfs::fstatvfs(self.dir()?)?;
        Ok(HostSpace {
            total_bytes: stat.blocks().saturating_mul(stat.fragment_size()),
            available_bytes: stat.blocks_available().saturating_mul(stat.fragment_size()),
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

#[derive(Debug)]
struct OsFile {
    file: fs::File,
    /// The host has refused to read or write without keeping a copy in its cache.
    cached_only: AtomicBool,
}

/// What the kernel's headers call it; libc does not know it yet. Linux 6.14 does, for some file systems.
const RWF_DONTCACHE: libc::c_int = 0x80;

/// Drops the first `count` bytes from `bufs`, as after a short read or write.
fn advance_mut<'a, 'b>(mut bufs: &'a mut [IoSliceMut<'b>], count: usize) -> &'a mut [IoSliceMut<'b>] {
    IoSliceMut::advance_slices(&mut bufs, count);
    bufs
}

impl File for OsFile {
    fn read_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        let mut bufs = bufs;
        let mut done = 0usize;
        loop {
            match nix::sys::uio::preadv(&self.file, bufs, signed(offset + done as u64)?) {
                Ok(0) => return Ok(done),
                Ok(n) => {
                    done += n;
                    bufs = advance_mut(bufs, n);
                    if bufs.is_empty() {
                        return Ok(done);
                    }
                }
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn read_at_nowait(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<Option<usize>> {
        let wanted: usize = bufs.iter().map(|b| b.len()).sum();
        let count = i32::try_from(bufs.len()).map_err(|_| Errno::EINVAL)?;
        // SAFETY: IoSliceMut has the layout of iovec (std guarantees it), the descriptor is open, and the kernel
        // writes only inside the buffers.
        let got = unsafe {
            libc::preadv2(
                self.file.as_raw_fd(),
                bufs.as_mut_ptr().cast::<libc::iovec>(),
                count,
                signed(offset)?,
                libc::RWF_NOWAIT,
            )
        };
        match usize::try_from(got) {
            // A short count is the end of the file or of what is in memory; only a waiting read can tell.
            Ok(n) if n == wanted => Ok(Some(n)),
            Ok(_) => Ok(None),
            Err(_) => match Errno::last() {
                // Not every host file system knows RWF_NOWAIT.
                Errno::EAGAIN | Errno::EOPNOTSUPP | Errno::EINTR => Ok(None),
                e => Err(e.into()),
            },
        }
    }

    fn read_at_uncached(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        if self.cached_only.load(Ordering::Relaxed) {
            return self.read_at(bufs, offset);
        }
        let wanted: usize = bufs.iter().map(|b| b.len()).sum();
        let count = i32::try_from(bufs.len()).map_err(|_| Errno::EINVAL)?;
        // SAFETY: IoSliceMut has the layout of iovec (std guarantees it), the descriptor is open, and the kernel
        // writes only inside the buffers.
        let got = unsafe {
            libc::preadv2(
                self.file.as_raw_fd(),
                bufs.as_mut_ptr().cast::<libc::iovec>(),
                count,
                signed(offset)?,
                RWF_DONTCACHE,
            )
        };
        match usize::try_from(got) {
            Ok(n) if n == wanted => Ok(n),
            // The end of the file, perhaps.
            Ok(_) => self.read_at(bufs, offset),
            Err(_) => {
                self.cached_only.store(Errno::last() == Errno::EOPNOTSUPP, Ordering::Relaxed);
                // Anything else happens again, or was EINTR.
                self.read_at(bufs, offset)
            }
        }
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let wanted: usize = bufs.iter().map(|b| b.len()).sum();
        let mut done = 0usize;
        while done == 0 && wanted > 0 {
            match nix::sys::uio::pwritev(&self.file, bufs, signed(offset)?) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => done = n,
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        self.write_rest(bufs, offset, done)
    }

    fn write_at_uncached(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        if self.cached_only.load(Ordering::Relaxed) {
            return self.write_at(bufs, offset);
        }
        let count = i32::try_from(bufs.len()).map_err(|_| Errno::EINVAL)?;
        // SAFETY: IoSlice has the layout of iovec (std guarantees it), the descriptor is open, and the kernel only reads
        // the buffers.
        let written = unsafe {
            libc::pwritev2(
                self.file.as_raw_fd(),
                bufs.as_ptr().cast::<libc::iovec>(),
                count,
                signed(offset)?,
                RWF_DONTCACHE,
            )
        };
        match usize::try_from(written) {
            Ok(done) => self.write_rest(bufs, offset, done),
            Err(_) => {
                self.cached_only.store(Errno::last() == Errno::EOPNOTSUPP, Ordering::Relaxed);
                // Anything else happens again, or was EINTR.
                self.write_at(bufs, offset)
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        match self.fallocate(flags, offset, len) {
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(()),
            other => Ok(other?),
        }
    }

    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        match self.fallocate(FallocateFlags::FALLOC_FL_KEEP_SIZE, offset, len) {
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Err(io::ErrorKind::Unsupported.into()),
            other => Ok(other?),
        }
    }

    fn start_writeback(&self, offset: u64, len: u64) {
        if let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) {
            // SAFETY: sync_file_range takes no memory of ours; a failure of this hint changes nothing.
            let _ = unsafe {
                libc::sync_file_range(self.file.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE)
            };
        }
    }

    fn prefetch(&self, offset: u64, len: u64) {
        if let (Ok(offset), Ok(len)) = (i64::try_from(offset), usize::try_from(len)) {
            // SAFETY: readahead takes no memory of ours; a failure of this hint changes nothing.
            let _ = unsafe { libc::readahead(self.file.as_raw_fd(), offset, len) };
        }
    }

    fn allocated(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.blocks() * 512)
    }

    fn has_data(&self, offset: u64, len: u64) -> io::Result<bool> {
        // (The position of the file changes; nothing here reads or writes there.)
        match lseek(&self.file, signed(offset)?, Whence::SeekData) {
            Ok(found) => Ok(u64::try_from(found).is_ok_and(|found| found < offset.saturating_add(len))),
            Err(Errno::ENXIO) => Ok(false),
            Err(Errno::EINVAL) => Ok(true),
            Err(e) => Err(e.into()),
        }
    }
}

impl OsFile {
    /// Writes what a short write of `done` bytes has left, buffer by buffer.
    fn write_rest(&self, bufs: &[IoSlice<'_>], offset: u64, done: usize) -> io::Result<()> {
        let mut start = 0usize;
        for buf in bufs {
            let end = start + buf.len();
            if end > done {
                let from = done.max(start);
                self.file.write_all_at(&buf[from - start..], offset + from as u64)?;
            }
            start = end;
        }
        Ok(())
    }

    fn fallocate(&self, flags: FallocateFlags, offset: u64, len: u64) -> Result<(), Errno> {
        let signed = |value| i64::try_from(value).map_err(|_| Errno::EINVAL);
        let (offset, len) = (signed(offset)?, signed(len)?);
        loop {
            match fallocate(&self.file, flags, offset, len) {
                Err(Errno::EINTR) => {}
                other => return other,
            }
        }
    }
}

fn signed(value: u64) -> io::Result<i64> {
    i64::try_from(value).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_the_rest_is_short() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = OsDir::new(tmp.path());
        let file = dir.open("a", OpenMode::CreateNew).unwrap();
        file.write_at(&[IoSlice::new(b"hello "), IoSlice::new(b"world")], 10).unwrap();
        let (mut one, mut two) = ([1u8; 12], [1u8; 32]);
        let got = file.read_at(&mut [IoSliceMut::new(&mut one), IoSliceMut::new(&mut two)], 0).unwrap();
        assert_eq!(got, 21);
        assert_eq!(&one, b"\0\0\0\0\0\0\0\0\0\0he");
        assert_eq!(&two[..9], b"llo world");
        // Whether or not the host can do it so.
        file.write_at_uncached(&[IoSlice::new(b"a"), IoSlice::new(b" well")], 15).unwrap();
        file.read_at(&mut [IoSliceMut::new(&mut two)], 10).unwrap();
        assert_eq!(&two[..11], b"helloa well");
        let (mut one, mut two) = ([1u8; 5], [1u8; 32]);
        let both = &mut [IoSliceMut::new(&mut one), IoSliceMut::new(&mut two)];
        assert_eq!(file.read_at_uncached(both, 10).unwrap(), 11);
        assert_eq!((&one[..], &two[..6]), (&b"hello"[..], &b"a well"[..]));
        assert!(dir.open("a", OpenMode::CreateNew).is_err());
        assert!(dir.open("b", OpenMode::ReadWrite).is_err());
    }

    #[test]
    fn punched_bytes_are_zero_and_the_space_comes_back() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = OsDir::new(tmp.path());
        let file = dir.open("a", OpenMode::Create).unwrap();
        file.write_at(&[IoSlice::new(&[7u8; 64 * 1024])], 0).unwrap();
        file.sync().unwrap();
        let before = file.allocated().unwrap();
        file.punch(4096, 32 * 1024).unwrap();
        let mut buf = [1u8; 8192];
        read_padded_for_test(&*file, &mut buf, 0);
        assert!(buf[..4096].iter().all(|b| *b == 7) && buf[4096..].iter().all(|b| *b == 0));
        assert!(file.allocated().unwrap() < before);
        let has_data = |offset, len| file.has_data(offset, len).unwrap();
        assert!(has_data(0, 4096) && !has_data(4096, 32 * 1024) && has_data(4096, 32 * 1024 + 1));
        assert!(!has_data(64 * 1024, 4096), "behind the end");
        assert_eq!(file.len().unwrap(), 64 * 1024);
    }

    fn read_padded_for_test(file: &dyn File, buf: &mut [u8], offset: u64) {
        super::super::read_padded(file, buf, offset).unwrap();
    }
}
