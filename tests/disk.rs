//! A disk that loses power, and one that fails, for everything that a store keeps: segments, SQLite's files, logs.
//!
//! It keeps two images of every file and of the names: the live one, which a process sees, and the durable one, which is
//! sure to survive. A write is durable after a sync of its file, a name after a sync of its directory; what is not may
//! survive in any part and in any order, torn at 512 bytes.

mod fault;
mod image;
mod slow;

pub use fault::{Access, Fault};

use image::{Change, FileImage, Names};
use larder::backing::{Dir, File, HostSpace, OpenMode};
use parking_lot::Mutex;
use rand::RngExt;
use rand::rngs::StdRng;
use slow::Slow;
use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How much of what was not synced survives a power loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survives {
    Nothing,
    Everything,
    /// A random part of it, in a random order.
    Some,
}

/// What is called before each access takes effect.
type Watcher = Box<dyn Fn(&Disk, Access, &str) + Send + Sync>;

#[derive(Default)]
struct State {
    names: Names,
    files: BTreeMap<u64, FileImage>,
    next_file: u64,
    faults: Vec<Fault>,
    /// Others have taken all room: only what a file has can be written.
    full: bool,
    /// Parts of files that cannot be read.
    bad: Vec<(String, Range<u64>)>,
}

/// The disk. Clones share it.
#[derive(Clone)]
pub struct Disk {
    state: Arc<Mutex<State>>,
    watcher: Arc<Mutex<Option<Arc<Watcher>>>>,
    /// Files whose syncs do nothing and say that they did.
    liar: Option<fn(&str) -> bool>,
    /// Some accesses take much longer than others.
    is_uneven: bool,
    /// The clock says what accesses would take.
    slow: Arc<Mutex<Option<Slow>>>,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").finish_non_exhaustive()
    }
}

impl Disk {
    /// A disk of the same kind with other contents, which nobody watches.
    fn with(&self, state: State) -> Self {
        Self { state: Arc::new(Mutex::new(state)), watcher: Arc::default(), slow: Arc::default(), ..*self }
    }

    /// A disk that holds a copy of a real directory and of those in it, all of it durable.
    pub fn copy_of(dir: &Path) -> Self {
        let mut state = State::default();
        for entry in std::fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if entry.file_type().unwrap().is_file() {
                state.add_durable(name, std::fs::read(entry.path()).unwrap());
            } else if entry.file_type().unwrap().is_dir() {
                for inner in std::fs::read_dir(entry.path()).unwrap() {
                    let inner = inner.unwrap();
                    let path = format!("{name}/{}", inner.file_name().into_string().unwrap());
                    state.add_durable(path, std::fs::read(inner.path()).unwrap());
                }
            }
        }
        Self {
            state: Arc::new(Mutex::new(state)),
            watcher: Arc::default(),
            liar: None,
            is_uneven: false,
            slow: Arc::default(),
        }
    }

    /// The same disk, on which syncs of some files are lies.
    #[must_use]
    pub fn with_liar(mut self, liar: fn(&str) -> bool) -> Self {
        self.liar = Some(liar);
        self
    }

    /// The same disk, some accesses of which take much longer than others, so that what goes on beside them gets further.
    #[must_use]
    pub fn uneven(mut self) -> Self {
        self.is_uneven = true;
        self
    }

    /// From now on, the clock of whoever uses the disk goes on with what accesses to a slow disk would take, and with nothing else. The host
    /// has nothing of the disk in memory, also if it was slow before.
    pub fn slow_down(&self) {
        *self.slow.lock() = Some(Slow::default());
    }

    /// Takes note of an access, if the disk is slow.
    fn take_time(&self, access: Access, name: &str, offset: u64) {
        if let Some(slow) = &mut *self.slow.lock() {
            slow.access(access, name, offset);
        }
    }

    /// Calls `watcher` before each access from now on.
    pub fn watch(&self, watcher: impl Fn(&Disk, Access, &str) + Send + Sync + 'static) {
        *self.watcher.lock() = Some(Arc::new(Box::new(watcher)));
    }

    /// Lets accesses fail from now on.
    pub fn inject(&self, fault: Fault) {
        self.state.lock().faults.push(fault);
    }

    /// A part of a file cannot be read from now on, until all of it is written at once; or it can be again.
    pub fn set_bad(&self, name: &str, part: Range<u64>, is_bad: bool) {
        let mut state = self.state.lock();
        state.bad.retain(|(of, bad)| of != name || *bad != part);
        if is_bad {
            state.bad.push((name.to_owned(), part));
        }
    }

    /// Others fill the disk to the last byte, and take what is given back; or they leave again.
    pub fn fill(&self, full: bool) {
        self.state.lock().full = full;
    }

    /// The room that the disk has for a file, behind its end too.
    pub fn room_of(&self, name: &str) -> u64 {
        let state = self.state.lock();
        state.names.get(name).map_or(0, |id| state.files[&id].room())
    }

    /// Whether an injected fault has struck.
    pub fn has_failed(&self) -> bool {
        self.state.lock().faults.iter().any(Fault::has_struck)
    }

    /// What a new process finds when the one that used the disk was killed.
    pub fn after_kill(&self) -> Self {
        self.with(self.state.lock().after_kill())
    }

    /// What is found when the power comes back.
    pub fn after_power_loss(&self, survives: Survives, rng: &mut StdRng) -> Self {
        self.with(self.state.lock().after_power_loss(survives, rng))
    }

    /// Tells the watcher, and fails if a fault says so.
    fn enter(&self, access: Access, name: &str) -> io::Result<()> {
        if self.is_uneven && rand::rng().random_ratio(1, 100) {
            std::thread::sleep(Duration::from_micros(rand::rng().random_range(0..5000)));
        }
        let watcher = self.watcher.lock().clone();
        if let Some(watcher) = watcher {
            watcher(self, access, name);
        }
        let mut state = self.state.lock();
        match state.faults.iter_mut().find_map(|fault| fault.strike(access, name)) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn lies_about(&self, name: &str) -> bool {
        self.liar.is_some_and(|liar| liar(name))
    }
}

impl State {
    fn add_durable(&mut self, name: String, bytes: Vec<u8>) {
        let id = self.next_file;
        self.next_file += 1;
        self.files.insert(id, FileImage::durable(bytes));
        self.names.add_durable(name, id);
    }

    fn after_kill(&self) -> Self {
        Self {
            names: self.names.clone(),
            files: self.files.clone(),
            next_file: self.next_file,
            faults: vec![],
            full: self.full,
            bad: vec![],
        }
    }

    fn after_power_loss(&self, survives: Survives, rng: &mut StdRng) -> Self {
        let names = self.names.after_power_loss(survives, rng);
        let files =
            names.ids().map(|id| (id, self.files[&id].found_after_power_loss(survives, rng))).collect();
        Self { names, files, next_file: self.next_file, faults: vec![], full: self.full, bad: vec![] }
    }
}

impl Dir for Disk {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let known = self.state.lock().names.get(name);
        let id = match (known, mode) {
            (Some(_), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(id), _) => id,
            (None, OpenMode::Read | OpenMode::ReadWrite) => return Err(io::ErrorKind::NotFound.into()),
            (None, OpenMode::Create | OpenMode::CreateNew) => {
                self.enter(Access::Create, name)?;
                let mut state = self.state.lock();
                let id = state.next_file;
                state.next_file += 1;
                state.files.insert(id, FileImage::default());
                state.names.add(name.to_owned(), id);
                id
            }
        };
        let writable = mode != OpenMode::Read;
        Ok(Arc::new(Handle { disk: self.clone(), name: name.to_owned(), id, writable }))
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        Ok(self.state.lock().names.get(name).is_some())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        if self.state.lock().names.get(name).is_none() {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.enter(Access::Remove, name)?;
        self.state.lock().names.remove(name);
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let id = self.state.lock().names.get(from).ok_or(io::ErrorKind::NotFound)?;
        self.enter(Access::Create, to)?;
        self.state.lock().names.rename(from, to, id);
        Ok(())
    }

    fn list(&self, subdir: &str) -> io::Result<Vec<String>> {
        Ok(self.state.lock().names.list(subdir))
    }

    fn sync(&self, subdir: &str) -> io::Result<()> {
        self.take_time(Access::SyncDir, subdir, 0);
        self.enter(Access::SyncDir, subdir)?;
        if !self.lies_about(subdir) {
            self.state.lock().names.sync(subdir);
        }
        Ok(())
    }

    fn host_space(&self) -> io::Result<HostSpace> {
        let available_bytes = if self.state.lock().full { 0 } else { 1 << 39 };
        Ok(HostSpace { total_bytes: 1 << 40, available_bytes })
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new("/simulated").join(name)
    }

    fn now(&self) -> Instant {
        if self.slow.lock().is_some() { Slow::now() } else { Instant::now() }
    }
}

/// An open file of the disk.
#[derive(Debug)]
struct Handle {
    disk: Disk,
    name: String,
    id: u64,
    writable: bool,
}

impl Handle {
    fn with<T>(&self, look: impl FnOnce(&mut FileImage) -> T) -> T {
        look(self.disk.state.lock().files.get_mut(&self.id).unwrap())
    }

    /// Takes room for the file up to `end`.
    fn take_room(&self, end: u64) -> io::Result<()> {
        let full = self.disk.state.lock().full;
        match self.with(|file| file.take_room(end, full)) {
            true => Ok(()),
            false => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
        }
    }

    fn change(&self, access: Access, change: Change) -> io::Result<()> {
        if !self.writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.disk.enter(access, &self.name)?;
        if let Change::Write { offset, bytes } = &change {
            self.take_room(offset + bytes.len() as u64)?;
        }
        self.with(|file| file.change(change));
        Ok(())
    }
}

impl File for Handle {
    fn read_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        self.disk.take_time(Access::Read, &self.name, offset);
        self.disk.enter(Access::Read, &self.name)?;
        let end = offset + bufs.iter().map(|buf| buf.len() as u64).sum::<u64>();
        let is_bad =
            |(name, part): &(String, Range<u64>)| *name == self.name && part.start < end && part.end > offset;
        if self.disk.state.lock().bad.iter().any(is_bad) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Ok(self.with(|file| {
            let mut at = offset;
            let mut done = 0;
            for buf in bufs {
                let got = file.read(buf, at);
                done += got;
                at += got as u64;
                if got < buf.len() {
                    break;
                }
            }
            done
        }))
    }

    fn read_at_nowait(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<Option<usize>> {
        self.read_at(bufs, offset).map(Some)
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.disk.take_time(Access::Write, &self.name, offset);
        let bytes: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
        let written = offset..offset + bytes.len() as u64;
        self.disk.state.lock().bad.retain(|(name, part)| {
            *name != self.name || part.start < written.start || part.end > written.end
        });
        self.change(Access::Write, Change::Write { offset, bytes: bytes.into() })
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.with(|file| file.len()))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Access::SetLen, Change::SetLen(len))
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.take_time(Access::Sync, &self.name, 0);
        self.disk.enter(Access::Sync, &self.name)?;
        if !self.disk.lies_about(&self.name) {
            self.with(FileImage::sync);
            self.disk.state.lock().files.values_mut().for_each(FileImage::settle_room);
        }
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.change(Access::Punch, Change::Punch { offset, len })
    }

    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        self.disk.enter(Access::Reserve, &self.name)?;
        self.take_room(offset + len)
    }

    fn start_writeback(&self, _: u64, _: u64) {}

    fn prefetch(&self, _: u64, _: u64) {}

    fn allocated(&self) -> io::Result<u64> {
        Ok(self.with(|file| file.room()))
    }

    fn has_data(&self, offset: u64, len: u64) -> io::Result<bool> {
        let (mut buf, none) = (vec![0; len as usize], vec![0; len as usize]);
        self.with(|file| file.read(&mut buf, offset));
        Ok(buf != none)
    }
}
