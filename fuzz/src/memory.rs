//! A directory in memory, which costs nothing to copy, damage and throw away.

use larder::backing::{Dir, File, HostSpace, OpenMode};
use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// No file of a fuzzed store may become larger than this: a damaged number must not be taken for a length.
const MAX_FILE_BYTES: u64 = 256 << 20;

#[derive(Debug, Default)]
pub struct MemoryDir {
    files: Mutex<BTreeMap<String, Arc<MemoryFile>>>,
    syncs_fail: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct MemoryFile {
    bytes: Mutex<Vec<u8>>,
    syncs_fail: Arc<AtomicBool>,
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryDir {
    /// A directory with these files.
    pub fn with_files(files: &BTreeMap<String, Vec<u8>>) -> Arc<Self> {
        let dir = Self::default();
        for (name, bytes) in files {
            hold(&dir.files).insert(name.clone(), dir.file(bytes.clone()));
        }
        Arc::new(dir)
    }

    fn file(&self, bytes: Vec<u8>) -> Arc<MemoryFile> {
        Arc::new(MemoryFile { bytes: Mutex::new(bytes), syncs_fail: Arc::clone(&self.syncs_fail) })
    }

    /// Whether the next syncs of files fail.
    pub fn fail_syncs(&self, fail: bool) {
        self.syncs_fail.store(fail, Ordering::Relaxed);
    }

    /// A copy of all files.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        hold(&self.files).iter().map(|(name, file)| (name.clone(), hold(&file.bytes).clone())).collect()
    }
}

impl Dir for MemoryDir {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut files = hold(&self.files);
        let found = files.get(name).cloned();
        let file = match (found, mode) {
            (Some(_), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(file), _) => file,
            (None, OpenMode::Create | OpenMode::CreateNew) => {
                Arc::clone(files.entry(name.to_owned()).or_insert_with(|| self.file(Vec::new())))
            }
            (None, OpenMode::Read | OpenMode::ReadWrite) => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(file)
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        Ok(hold(&self.files).contains_key(name))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        hold(&self.files).remove(name).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = hold(&self.files);
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn list(&self, subdir: &str) -> io::Result<Vec<String>> {
        let files = hold(&self.files);
        Ok(files
            .keys()
            .filter_map(|name| {
                let (dir, name) = name.rsplit_once('/').unwrap_or(("", name));
                (dir == subdir).then(|| name.to_owned())
            })
            .collect())
    }

    fn sync(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn host_space(&self) -> io::Result<HostSpace> {
        Ok(HostSpace { total_bytes: 1 << 40, available_bytes: 1 << 39 })
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("/memory").join(name)
    }
}

impl File for MemoryFile {
    fn read_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        let bytes = hold(&self.bytes);
        let mut rest = usize::try_from(offset).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
        let mut got = 0;
        for buf in bufs {
            let count = buf.len().min(rest.len());
            buf[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            got += count;
        }
        Ok(got)
    }

    fn read_at_nowait(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<Option<usize>> {
        self.read_at(bufs, offset).map(Some)
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let len: usize = bufs.iter().map(|buf| buf.len()).sum();
        let end = offset.checked_add(len as u64).filter(|end| *end <= MAX_FILE_BYTES);
        let end = end.ok_or(io::ErrorKind::StorageFull)? as usize;
        let mut bytes = hold(&self.bytes);
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        let mut at = offset as usize;
        for buf in bufs {
            bytes[at..at + buf.len()].copy_from_slice(buf);
            at += buf.len();
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(hold(&self.bytes).len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if len > MAX_FILE_BYTES {
            return Err(io::ErrorKind::StorageFull.into());
        }
        hold(&self.bytes).resize(len as usize, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        if self.syncs_fail.load(Ordering::Relaxed) {
            Err(io::Error::other("a disk that fails"))
        } else {
            Ok(())
        }
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut bytes = hold(&self.bytes);
        let end = bytes.len() as u64;
        let (from, to) = (offset.min(end), offset.saturating_add(len).min(end));
        bytes[from as usize..to as usize].fill(0);
        Ok(())
    }

    fn reserve(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn start_writeback(&self, _: u64, _: u64) {}

    fn prefetch(&self, _: u64, _: u64) {}

    fn allocated(&self) -> io::Result<u64> {
        self.len()
    }

    fn has_data(&self, _: u64, _: u64) -> io::Result<bool> {
        Ok(true)
    }
}
