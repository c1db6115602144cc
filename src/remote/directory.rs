//! `file://`: a directory as an object store.
//!
//! An object is a file. It is written beside all others, in `.new/`, synced, and then gets its name: by link(2), which fails where there
//! is one, or by rename(2). The file that is being written is locked, so that what killed writers left can be told from it and swept.
//! Nothing below the directory is reached through a symbolic link.

use super::names;
use super::objects::{Listed, Objects, Outcome, Trouble, failed, is_name, must_make_sense};
use crate::backing::{OpenMode, is_full, open_at, open_dir};
use bytes::Bytes;
use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag, openat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat, mkdirat};
use nix::unistd::{LinkatFlags, UnlinkatFlags, linkat, unlinkat};
use parking_lot::Mutex;
use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Where objects are while they are written. No object's name begins with a dot.
const NEW: &str = ".new";
/// Directories below each other that are looked into.
const DEPTH_MAX: usize = 16;
/// What of the object [`names::STORE`] is compared, in bytes: all of it.
const STORE_BYTES_MAX: u64 = 64 << 10;
/// How often to begin again where somebody removes the directory that is written to.
const RACES_MAX: usize = 100;

/// A directory as an object store.
#[derive(Debug)]
pub struct Directory {
    place: String,
    path: PathBuf,
    /// Which directory it is, once something was written or read there.
    seen: Mutex<Option<Seen>>,
}

/// What tells one directory from all others that may be in its place, as long as it is mounted: numbers of inodes are given again, and each
/// file system has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    /// Not all file systems know it.
    made: Option<SystemTime>,
}

impl Identity {
    fn of(dir: &OwnedFd) -> io::Result<Self> {
        let about = File::from(dir.try_clone()?).metadata()?;
        Ok(Self { device: about.dev(), inode: about.ino(), made: about.created().ok() })
    }
}

/// A directory that was seen.
#[derive(Clone, Debug)]
struct Seen {
    identity: Identity,
    /// What [`names::STORE`] had in it, once there was one: what was moved, or is on a file system that was mounted again, is known by that.
    store: Option<Vec<u8>>,
}

/// What of a place there is in the file system.
enum Found {
    Dir(OwnedFd),
    Nothing,
}

fn trouble(e: &io::Error) -> Trouble {
    match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Trouble::Missing,
        io::ErrorKind::AlreadyExists => Trouble::Exists,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Trouble::Refused,
        // A network file system that does not answer.
        io::ErrorKind::TimedOut | io::ErrorKind::StaleNetworkFileHandle | io::ErrorKind::HostUnreachable => {
            Trouble::Unreachable
        }
        _ if is_full(e) => Trouble::Full,
        _ => Trouble::Other,
    }
}

fn name_of_new() -> io::Result<String> {
    let random = super::format::random::<16>()?;
    Ok(format!("{:032x}", u128::from_be_bytes(random)))
}

/// The directory that a name is in, and what it is called there.
fn split(name: &str) -> (&str, &str) {
    name.rsplit_once('/').map_or(("", name), |(dir, leaf)| (dir, leaf))
}

fn is_regular(stat: &FileStat) -> bool {
    stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits()
}

impl Directory {
    /// The directory at `path`, which is made (0700) when something is first written, with those above it that are missing.
    pub fn new(path: &Path) -> Self {
        let place = format!("file://{}", path.display());
        let directory = Self { place, path: path.into(), seen: Mutex::default() };
        // What killed writers left.
        if let Ok(base) = open_dir_linked(path)
            && let Err(e) = sweep(&base)
        {
            log::debug!("cannot sweep {}: {e}", path.join(NEW).display());
        }
        directory
    }

    fn wrapped<T>(
        &self,
        doing: &'static str,
        name: &str,
        work: impl FnOnce() -> io::Result<T>,
    ) -> Outcome<T> {
        must_make_sense(doing, &self.place, name)?;
        work().map_err(|e| failed(trouble(&e), doing, &self.place, name, e.to_string()))
    }

    /// The directory itself; by a link, if an administrator wants that.
    fn base(&self) -> io::Result<OwnedFd> {
        open_dir_linked(&self.path)
    }

    /// The directory below, for reading.
    fn dir(&self, below: &str) -> io::Result<Found> {
        let Some(base) = self.base_in_sight()? else { return Ok(Found::Nothing) };
        match descend(base, below) {
            Ok(dir) => Ok(Found::Dir(dir)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
            Err(e) => Err(e),
        }
    }

    /// The base, which is made if it is missing.
    fn made_base(&self) -> io::Result<OwnedFd> {
        match self.base() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                // From the first one that is there on, each is durable before something is in it.
                let mut missing: Vec<&Path> =
                    self.path.ancestors().take_while(|path| !path.exists()).collect();
                while let Some(path) = missing.pop() {
                    match DirBuilder::new().mode(0o700).create(path) {
                        Ok(()) => {}
                        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                        Err(e) => return Err(e),
                    }
                    if let Some(above) = path.parent() {
                        File::open(above)?.sync_all()?;
                    }
                }
                self.base()
            }
            base => base,
        }
    }

    /// The base; `None` if there is none yet. Once it was there, it is: if it is missing or another one, it is on a file system that is not
    /// mounted, and nothing of what it has is gone.
    fn base_in_sight(&self) -> io::Result<Option<OwnedFd>> {
        let seen = self.seen.lock().clone();
        let is_gone = |what| Err(io::Error::new(io::ErrorKind::StaleNetworkFileHandle, what));
        let base = match self.base() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return match seen {
                    Some(_) => is_gone("the directory is not there any more; is its file system mounted?"),
                    None => Ok(None),
                };
            }
            base => base?,
        };
        if let Some(Seen { identity, store }) = seen
            && Identity::of(&base)? != identity
            && (store.is_none() || read_store(&base) != store)
        {
            return is_gone("another directory is in its place; is its file system mounted?");
        }
        Ok(Some(base))
    }

    /// The base, to read something that is in it.
    fn read_base(&self) -> io::Result<OwnedFd> {
        self.base_in_sight()?.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The base, to write to.
    fn same_base(&self) -> io::Result<OwnedFd> {
        match self.base_in_sight()? {
            Some(base) => Ok(base),
            None => self.made_base(),
        }
    }

    fn note_base(&self, base: &OwnedFd) {
        let Ok(identity) = Identity::of(base) else { return };
        let mut seen = self.seen.lock();
        let known = seen.take().and_then(|seen| seen.store);
        *seen = Some(Seen { identity, store: known.or_else(|| read_store(base)) });
    }

    fn write(&self, name: &str, bytes: &[u8], only_new: bool) -> io::Result<()> {
        let base = self.same_base()?;
        self.note_base(&base);
        let new_dir = enter(&base, NEW)?;
        let new_name = name_of_new()?;
        let file = open_at(&new_dir, &new_name, OpenMode::CreateNew)?;
        let written = self.write_and_name(&base, &new_dir, &new_name, file, name, bytes, only_new);
        // After a rename there is none any more.
        let _ = unlinkat(&new_dir, new_name.as_str(), UnlinkatFlags::NoRemoveDir);
        if name == names::STORE && written.is_ok() {
            *self.seen.lock() = Some(Seen { identity: Identity::of(&base)?, store: Some(bytes.to_vec()) });
        }
        written
    }

    #[expect(clippy::too_many_arguments, reason = "one step of the function above")]
    fn write_and_name(
        &self,
        base: &OwnedFd,
        new_dir: &OwnedFd,
        new_name: &str,
        file: File,
        name: &str,
        bytes: &[u8],
        only_new: bool,
    ) -> io::Result<()> {
        // Where there are no locks, nothing is swept, either.
        let mut locked = None;
        let mut unlocked = None;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => locked = Some(lock),
            Err((file, _)) => unlocked = Some(file),
        }
        let Some(mut file) = locked.as_deref().or(unlocked.as_ref()) else {
            return Err(io::ErrorKind::Other.into());
        };
        file.write_all(bytes)?;
        file.sync_all()?;
        let (below, leaf) = split(name);
        // Whoever removes the last object of a directory removes that, too, perhaps just now.
        for _ in 0..RACES_MAX {
            let parts = below.split('/').filter(|part| !part.is_empty());
            let dir = match parts.fold(base.try_clone(), |dir, part| enter(&dir?, part)) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                dir => dir?,
            };
            let named = if only_new {
                linkat(new_dir, new_name, &dir, leaf, LinkatFlags::empty())
            } else {
                renameat(new_dir, new_name, &dir, leaf)
            };
            match named {
                Ok(()) => return sync_dir(&dir),
                Err(Errno::ENOENT) => {}
                // Who is told that there is one relies on it.
                Err(Errno::EEXIST) => {
                    sync_dir(&dir)?;
                    return Err(Errno::EEXIST.into());
                }
                Err(e) => return Err(e.into()),
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    fn open(&self, name: &str) -> io::Result<File> {
        let (below, leaf) = split(name);
        let base = self.read_base()?;
        let file = open_at(descend(base.try_clone()?, below)?, leaf, OpenMode::Read)?;
        self.note_base(&base);
        Ok(file)
    }
}

/// Looks for objects in order, those that come after a name, as many as are wanted: directories without any of these are not looked into,
/// and nothing is asked of files that are not among them.
struct Walk<'a> {
    after: &'a str,
    most: usize,
    found: Vec<Listed>,
}

impl Walk<'_> {
    fn walk(&mut self, dir: &OwnedFd, below: &str, depth: usize) -> io::Result<()> {
        for Entry { leaf, is_dir } in leaves(dir)? {
            if self.found.len() >= self.most {
                return Ok(());
            }
            let name = format!("{below}{leaf}");
            if !is_name(&name) {
                continue;
            }
            if !is_dir {
                if name.as_str() > self.after
                    && let Some(stat) = stat_if_there(dir.as_fd(), &leaf)?
                    && is_regular(&stat)
                {
                    let bytes = u64::try_from(stat.st_size).unwrap_or_default();
                    self.found.push(Listed { name, bytes, modified: stat.st_mtime });
                }
                continue;
            }
            let inner = format!("{name}/");
            // All that is in it begins so.
            let may_have = inner.as_str() > self.after || self.after.starts_with(&inner);
            if depth > 0 && may_have {
                match open_below(dir, &leaf) {
                    Ok(below) => self.walk(&below, &inner, depth - 1)?,
                    // It is gone since, or is something else.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(())
    }
}

struct Entry {
    leaf: String,
    is_dir: bool,
}

/// What may be objects or directories with some in a directory, as far as its names are UTF-8, in the order of the names of objects.
fn leaves(dir: &OwnedFd) -> io::Result<Vec<Entry>> {
    let mut found = Vec::new();
    for entry in Dir::from_fd(open_again(dir)?)?.iter() {
        let entry = entry?;
        let Ok(leaf) = entry.file_name().to_str() else { continue };
        if leaf.starts_with('.') {
            continue;
        }
        let is_dir = match entry.file_type() {
            Some(Type::Directory) => true,
            Some(Type::File) => false,
            Some(_) => continue,
            // Not all file systems say.
            None => match stat_if_there(dir.as_fd(), leaf)? {
                Some(stat) => stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits(),
                None => continue,
            },
        };
        found.push(Entry { leaf: leaf.to_owned(), is_dir });
    }
    let order = |entry: &Entry| format!("{}{}", entry.leaf, if entry.is_dir { "/" } else { "" });
    found.sort_by_cached_key(order);
    Ok(found)
}

/// The same directory, to be read from its beginning.
fn open_again(dir: &OwnedFd) -> io::Result<OwnedFd> {
    open_below(dir, ".")
}

fn stat_if_there(dir: BorrowedFd<'_>, name: &str) -> io::Result<Option<FileStat>> {
    match stat_at(dir, name) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::ENOENT) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// What the object [`names::STORE`] in a directory has in it, if there is one.
fn read_store(base: &OwnedFd) -> Option<Vec<u8>> {
    let file = open_at(base, names::STORE, OpenMode::Read).ok()?;
    let mut bytes = Vec::new();
    file.take(STORE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Opens a directory that an administrator named.
fn open_dir_linked(path: &Path) -> io::Result<OwnedFd> {
    match path.canonicalize() {
        Ok(path) => open_dir(&path),
        Err(e) => Err(e),
    }
}

/// The directory `name` in `dir`; not through a symbolic link.
fn open_below(dir: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(openat(dir.as_fd(), name, flags, Mode::empty())?)
}

fn descend(base: OwnedFd, below: &str) -> io::Result<OwnedFd> {
    below.split('/').filter(|part| !part.is_empty()).try_fold(base, |dir, part| open_below(&dir, part))
}

/// The directory `name` in `dir`, which is made if it is missing.
fn enter(dir: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    match open_below(dir, name) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            match mkdirat(dir, name, Mode::S_IRWXU) {
                Ok(()) => sync_dir(dir)?,
                Err(Errno::EEXIST) => {}
                Err(e) => return Err(e.into()),
            }
            open_below(dir, name)
        }
        opened => opened,
    }
}

fn sync_dir(dir: &OwnedFd) -> io::Result<()> {
    Ok(nix::unistd::fsync(dir)?)
}

/// What is in a directory, as far as its names are UTF-8. What goes meanwhile is not there.
fn entries(dir: OwnedFd) -> io::Result<Vec<(String, FileStat)>> {
    let at = dir.try_clone()?;
    let mut found = Vec::new();
    for entry in Dir::from_fd(dir)?.iter() {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        if matches!(name, "." | "..") {
            continue;
        }
        match stat_at(at.as_fd(), name) {
            Ok(stat) => found.push((name.to_owned(), stat)),
            Err(Errno::ENOENT) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(found)
}

fn stat_at(dir: BorrowedFd<'_>, name: &str) -> Result<FileStat, Errno> {
    fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)
}

/// Removes what nobody is writing any more.
fn sweep(base: &OwnedFd) -> io::Result<()> {
    let dir = match open_below(base, NEW) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        dir => dir?,
    };
    for (name, stat) in entries(dir.try_clone()?)? {
        if !is_regular(&stat) {
            continue;
        }
        let Ok(file) = open_at(&dir, &name, OpenMode::ReadWrite) else { continue };
        // One that was made just now is locked in a moment: younger ones than an hour are left alone.
        let fresh = file.metadata()?.modified().ok().and_then(|at| at.elapsed().ok());
        if fresh.is_none_or(|age| age.as_secs() < 3600) {
            continue;
        }
        if let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            unlinkat(&dir, name.as_str(), UnlinkatFlags::NoRemoveDir)?;
            drop(lock);
        }
    }
    Ok(())
}

impl Objects for Directory {
    fn place(&self) -> &str {
        &self.place
    }

    fn put_new(&self, name: &str, bytes: Bytes) -> Outcome<()> {
        self.wrapped("write", name, || self.write(name, &bytes, true))
    }

    fn put(&self, name: &str, bytes: Bytes) -> Outcome<()> {
        self.wrapped("write", name, || self.write(name, &bytes, false))
    }

    fn get(&self, name: &str, most: u64) -> Outcome<Bytes> {
        self.wrapped("read", name, || {
            let file = self.open(name)?;
            let len = file.metadata()?.len();
            if len > most {
                return Err(io::Error::other(format!(
                    "its {len} bytes are more than the {most} that it can have"
                )));
            }
            let mut bytes = Vec::with_capacity(len as usize);
            file.take(most).read_to_end(&mut bytes)?;
            Ok(bytes.into())
        })
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Outcome<Bytes> {
        self.wrapped("read", name, || {
            let file = self.open(name)?;
            let end = range.end.min(file.metadata()?.len());
            let Some(len) = end.checked_sub(range.start).filter(|len| *len > 0 || range.is_empty()) else {
                return Err(io::Error::other("it ends before the range that was asked for"));
            };
            let mut bytes = vec![0; len as usize];
            file.read_exact_at(&mut bytes, range.start)?;
            Ok(bytes.into())
        })
    }

    fn head(&self, name: &str) -> Outcome<Listed> {
        self.wrapped("read", name, || {
            let (below, leaf) = split(name);
            let stat = stat_at(descend(self.read_base()?, below)?.as_fd(), leaf)?;
            if !is_regular(&stat) {
                return Err(io::Error::other("it is not a regular file"));
            }
            let bytes = u64::try_from(stat.st_size).unwrap_or_default();
            Ok(Listed { name: name.into(), bytes, modified: stat.st_mtime })
        })
    }

    fn list(&self, under: &str, after: &str, most: usize) -> Outcome<Vec<Listed>> {
        self.wrapped("list", under, || {
            let mut walk = Walk { after, most, found: Vec::new() };
            if let Found::Dir(dir) = self.dir(under)? {
                walk.walk(&dir, under, DEPTH_MAX)?;
            }
            Ok(walk.found)
        })
    }

    fn list_dirs(&self, under: &str, most: usize) -> Outcome<Vec<String>> {
        self.wrapped("list", under, || {
            let Found::Dir(dir) = self.dir(under)? else { return Ok(Vec::new()) };
            let is_dir = |stat: &FileStat| stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits();
            let found =
                entries(dir)?.into_iter().filter(|(name, stat)| is_dir(stat) && !name.starts_with('.'));
            let mut names: Vec<String> = found.map(|(name, _)| name).collect();
            names.sort_unstable();
            names.truncate(most);
            Ok(names)
        })
    }

    fn delete(&self, name: &str) -> Outcome<()> {
        self.wrapped("remove", name, || {
            let (below, leaf) = split(name);
            let Found::Dir(dir) = self.dir(below)? else { return Ok(()) };
            match unlinkat(&dir, leaf, UnlinkatFlags::NoRemoveDir) {
                Ok(()) => sync_dir(&dir)?,
                Err(Errno::ENOENT) => return Ok(()),
                Err(e) => return Err(e.into()),
            }
            // A directory that is empty now goes, too; one that is not, stays.
            if let (above, last) = split(below)
                && !last.is_empty()
                && let Found::Dir(above) = self.dir(above)?
            {
                let _ = unlinkat(&above, last, UnlinkatFlags::RemoveDir);
            }
            Ok(())
        })
    }
}
