//! `fuser`'s requests, one by one.

use super::convert::{SNAPSHOTS_TTL, TTL, errno, file_attr, file_type, negative_attr, timestamp};
use super::kernel_cache::KernelCache;
use super::options::FuseOptions;
use super::pin::Pinner;
use super::read_pool::ReadPool;
use super::seek::seek;
use crate::fs::{
    AllocateMode, At, Attr, Caller, Entry, EntryWithAttr, Fs, FsError, Ino, Kind, NewNode, Place, ROOT_INO,
    RenameMode, SNAPSHOTS_NODE, SeekTarget, SetAttr, SyncError, TimeChange, Views, Wait, WriteMode,
    XattrFlags,
};
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, FopenFlags, Generation, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Largest write, and read, that the kernel sends as one request.
const MAX_WRITE_BYTES: u32 = 1 << 20;
/// Requests the kernel may have under way without a caller waiting: read-ahead and write-back.
const MAX_BACKGROUND: u16 = 64;
const NO_GENERATION: Generation = Generation(0);

thread_local! {
    /// Where contents are read to. Kept, because fresh memory costs more than the request that asks for it.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Translates between the kernel and [`Views`].
pub(super) struct Adapter {
    views: Arc<Views>,
    options: FuseOptions,
    pinner: Arc<Pinner>,
    pool: ReadPool,
    cache: KernelCache,
    /// What was agreed on, in [`fuser::Filesystem::init`].
    no_open: bool,
    no_opendir: bool,
}

fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), pid: request.pid() }
}

/// Runs an operation. A panic in it is an I/O error for the caller and the end of all changes, for half a change may
/// have been made; it is not the end of the mount.
pub(super) fn guarded<T>(fs: &Fs, operation: impl FnOnce() -> Result<T, FsError>) -> Result<T, FsError> {
    catch_unwind(AssertUnwindSafe(operation)).unwrap_or_else(|_| {
        fs.store().health().fail("an operation panicked; please report the message above");
        Err(FsError::Io)
    })
}

impl Adapter {
    pub(super) fn new(
        views: Arc<Views>,
        options: FuseOptions,
        pinner: Arc<Pinner>,
        cache: KernelCache,
    ) -> io::Result<Self> {
        Ok(Self { views, options, pinner, pool: ReadPool::new()?, cache, no_open: false, no_opendir: false })
    }

    /// Runs an operation on a node of the volume or of a snapshot.
    fn run<T>(&self, node: INodeNo, operation: impl FnOnce(&At) -> Result<T, FsError>) -> Result<T, FsError> {
        self.pinner.pin();
        let _busy = self.views.busy();
        match self.views.place(node.0)? {
            Place::Inode(at) => guarded(&at.fs, || operation(&at)),
            // What is done with the directory of snapshots itself, its callers have seen to.
            Place::Snapshots => Err(FsError::ReadOnly),
        }
    }

    /// As [`Adapter::run`] on two nodes, which must be in one view.
    fn run_both<T>(
        &self,
        one: INodeNo,
        two: INodeNo,
        operation: impl FnOnce(&At, Ino) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        self.run(one, |at| match self.views.place(two.0)? {
            Place::Inode(other) if at.node(other.ino) == two.0 => operation(at, other.ino),
            _ => Err(FsError::ReadOnly),
        })
    }

    fn make(&self, request: &Request, parent: INodeNo, name: &OsStr, node: &NewNode<'_>, reply: ReplyEntry) {
        match self.create_node(request, parent, name, node) {
            Ok(attr) => reply.entry(&TTL, &file_attr(&attr), NO_GENERATION),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn create_node(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        node: &NewNode<'_>,
    ) -> Result<Attr, FsError> {
        if self.views.is_snapshots(parent.0, name.as_bytes()) {
            return Err(FsError::Exists);
        }
        self.run(parent, |at| {
            at.fs.make(at.ino, name.as_bytes(), node, caller(request)).map(|attr| at.seen(attr))
        })
    }

    /// The directory with the snapshots, whose old listing the kernel is made to drop first.
    fn look_up_snapshots(&self, reply: ReplyEntry) {
        let answer = |views: &Views, reply: ReplyEntry| match views.snapshots_attr() {
            Ok(attr) => reply.entry(&SNAPSHOTS_TTL, &file_attr(&attr), NO_GENERATION),
            Err(e) => reply.error(errno(e)),
        };
        if !matches!(self.views.snapshots_changed(), Ok(true)) {
            return answer(&self.views, reply);
        }
        let (views, cache) = (Arc::clone(&self.views), self.cache.clone());
        self.pool.run(Box::new(move || {
            // It knows nothing of a directory that nobody has looked at.
            if let Err(e) = cache.write_back(SNAPSHOTS_NODE, &(0..u64::MAX)) {
                log::debug!("dropping the listing of snapshots: {e}");
            }
            answer(&views, reply);
        }));
    }

    fn sync(&self, reply: ReplyEmpty) {
        self.pinner.pin();
        self.views.live().sync(Box::new(move |result| match result {
            Ok(()) => reply.ok(),
            Err(SyncError::NoSpace) => reply.error(Errno::ENOSPC),
            Err(SyncError::Failed) => reply.error(Errno::EIO),
        }));
    }
}

fn answer(reply: ReplyEmpty, result: Result<(), FsError>) {
    match result {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(errno(e)),
    }
}

fn answer_xattr(reply: ReplyXattr, size: u32, result: Result<Vec<u8>, FsError>) {
    match result {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(errno(FsError::Range)),
        Ok(value) => reply.data(&value),
        Err(e) => reply.error(errno(e)),
    }
}

/// Reads into this thread's buffer and replies. Gives the reply back if the read would have to wait.
fn read_into_reply(
    views: &Views,
    node: u64,
    offset: u64,
    size: usize,
    wait: Wait,
    reply: ReplyData,
) -> Option<ReplyData> {
    let _busy = views.busy();
    let at = match views.place(node) {
        Ok(Place::Inode(at)) => at,
        Ok(Place::Snapshots) => {
            reply.error(Errno::EISDIR);
            return None;
        }
        Err(e) => {
            reply.error(errno(e));
            return None;
        }
    };
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.len() < size {
            buffer.resize(size, 0);
        }
        let buffer = &mut buffer[..size];
        match guarded(&at.fs, || at.fs.read(at.ino, offset, buffer, wait)) {
            Ok(count) => reply.data(&buffer[..count]),
            Err(FsError::WouldWait) => return Some(reply),
            Err(e) => reply.error(errno(e)),
        }
        None
    })
}

impl fuser::Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let mut wanted = InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_NO_OPEN_SUPPORT
            | InitFlags::FUSE_NO_OPENDIR_SUPPORT
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_POSIX_ACL
            | InitFlags::FUSE_DONT_MASK
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_EXPLICIT_INVAL_DATA
            | InitFlags::FUSE_HANDLE_KILLPRIV_V2;
        if self.options.writeback_cache {
            wanted |= InitFlags::FUSE_WRITEBACK_CACHE;
        }
        if self.options.idmap {
            wanted |= InitFlags::FUSE_ALLOW_IDMAP;
        }
        // An older kernel does without what it does not know.
        let agreed = wanted & config.capabilities();
        if self.options.idmap && !agreed.contains(InitFlags::FUSE_ALLOW_IDMAP) {
            log::warn!("idmap=on: this kernel has no id-mapped mounts of FUSE file systems; Linux 6.12 has");
        }
        if let Err(unsupported) = config.add_capabilities(agreed) {
            log::warn!("the kernel refuses {unsupported:?}");
        }
        self.no_open = agreed.contains(InitFlags::FUSE_NO_OPEN_SUPPORT);
        self.no_opendir = agreed.contains(InitFlags::FUSE_NO_OPENDIR_SUPPORT);
        let _ = config.set_max_write(MAX_WRITE_BYTES);
        let _ = config.set_max_background(MAX_BACKGROUND);
        if let Err(nearest) = config.set_max_readahead(MAX_WRITE_BYTES) {
            let _ = config.set_max_readahead(nearest);
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        // Snapshots come and go without the kernel's doing.
        let (found, ttl) = if self.views.is_snapshots(parent.0, name.as_bytes()) {
            return self.look_up_snapshots(reply);
        } else if parent.0 == SNAPSHOTS_NODE {
            let views = &self.views;
            (guarded(views.live(), || views.lookup_snapshot(name.as_bytes())), &SNAPSHOTS_TTL)
        } else {
            (self.run(parent, |at| at.fs.lookup(at.ino, name.as_bytes()).map(|attr| at.seen(attr))), &TTL)
        };
        match found {
            Ok(attr) => reply.entry(ttl, &file_attr(&attr), NO_GENERATION),
            Err(FsError::NotFound) => reply.entry(ttl, &negative_attr(), NO_GENERATION),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn forget(&self, _: &Request, ino: INodeNo, count: u64) {
        let _ = self.run(ino, |at| {
            at.fs.forget(at.ino, count);
            Ok(())
        });
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let (attr, ttl) = if ino.0 == SNAPSHOTS_NODE {
            (self.views.snapshots_attr(), &SNAPSHOTS_TTL)
        } else {
            (self.run(ino, |at| at.fs.getattr(at.ino).map(|attr| at.seen(attr))), &TTL)
        };
        match attr {
            Ok(attr) => reply.attr(ttl, &file_attr(&attr)),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let time = |time: TimeOrNow| match time {
            TimeOrNow::Now => TimeChange::Now,
            TimeOrNow::SpecificTime(time) => TimeChange::To(timestamp(time)),
        };
        let set = SetAttr {
            permissions: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size,
            atime: atime.map(time),
            mtime: mtime.map(time),
            ctime: ctime.map(timestamp),
        };
        match self.run(ino, |at| at.fs.setattr(at.ino, &set, caller(request)).map(|attr| at.seen(attr))) {
            Ok(attr) => reply.attr(&TTL, &file_attr(&attr)),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.run(ino, |at| at.fs.readlink(at.ino)) {
            Ok(target) => reply.data(&target),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let Some(kind) = Kind::of_mode(mode) else {
            reply.error(Errno::EINVAL);
            return;
        };
        let node = NewNode { kind, permissions: mode & 0o7777, umask, rdev, target: None };
        self.make(request, parent, name, &node, reply);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let node =
            NewNode { kind: Kind::Directory, permissions: mode & 0o7777, umask, rdev: 0, target: None };
        self.make(request, parent, name, &node, reply);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let target = Some(target.as_os_str().as_bytes());
        let node = NewNode { kind: Kind::Symlink, permissions: 0o777, umask: 0, rdev: 0, target };
        self.make(request, parent, name, &node, reply);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let node = NewNode { kind: Kind::Regular, permissions: mode & 0o7777, umask, rdev: 0, target: None };
        match self.create_node(request, parent, name, &node) {
            Ok(attr) => {
                let attr = file_attr(&attr);
                reply.created(&TTL, &attr, NO_GENERATION, FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
            }
            Err(e) => reply.error(errno(e)),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(reply, self.run(parent, |at| at.fs.unlink(at.ino, name.as_bytes())));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(reply, self.run(parent, |at| at.fs.rmdir(at.ino, name.as_bytes())));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mode = if flags.is_empty() {
            RenameMode::Replace
        } else if flags == RenameFlags::RENAME_NOREPLACE {
            RenameMode::NoReplace
        } else if flags == RenameFlags::RENAME_EXCHANGE {
            RenameMode::Exchange
        } else {
            reply.error(Errno::EINVAL);
            return;
        };
        if self.views.is_snapshots(new_parent.0, new_name.as_bytes()) {
            reply.error(Errno::EBUSY);
            return;
        }
        let (old, new) = (name.as_bytes(), new_name.as_bytes());
        let renamed =
            self.run_both(parent, new_parent, |at, to| at.fs.rename((at.ino, old), (to, new), mode));
        answer(reply, renamed);
    }

    fn link(&self, _: &Request, ino: INodeNo, new_parent: INodeNo, new_name: &OsStr, reply: ReplyEntry) {
        if self.views.is_snapshots(new_parent.0, new_name.as_bytes()) {
            reply.error(Errno::EEXIST);
            return;
        }
        let linked = self.run_both(ino, new_parent, |at, parent| {
            at.fs.link(at.ino, parent, new_name.as_bytes()).map(|attr| at.seen(attr))
        });
        match linked {
            Ok(attr) => reply.entry(&TTL, &file_attr(&attr), NO_GENERATION),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        if self.no_open {
            // Told once, the kernel opens files without asking, and keeps their pages.
            reply.error(Errno::ENOSYS);
        } else {
            reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
        }
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        if self.no_opendir {
            reply.error(Errno::ENOSYS);
        } else {
            reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR);
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.pinner.pin();
        let size = size as usize;
        if let Some(reply) = read_into_reply(&self.views, ino.0, offset, size, Wait::No, reply) {
            let views = Arc::clone(&self.views);
            self.pool.run(Box::new(move || {
                read_into_reply(&views, ino.0, offset, size, Wait::Yes, reply);
            }));
        }
    }

    fn write(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let kills = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let direct = flags.0 & libc::O_DIRECT != 0;
        let from_cache = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let mode = WriteMode {
            killer: kills.then(|| caller(request)),
            keeps_times: from_cache && self.options.writeback_cache,
            // The kernel makes EIO of a short direct write, and takes a short write-back for a whole one.
            may_be_short: !direct && !from_cache,
        };
        match self.run(ino, |at| at.fs.write(at.ino, offset, data, mode)) {
            Ok(count) => reply.written(count as u32),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // Nothing is kept per open file. Told once, the kernel closes files without asking.
        reply.error(Errno::ENOSYS);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.sync(reply);
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.sync(reply);
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let mut add = |node: u64, entry: &Entry| {
            let name = OsStr::from_bytes(&entry.name);
            !reply.add(INodeNo(node), entry.cookie, file_type(entry.kind), name)
        };
        let listed = if ino.0 == SNAPSHOTS_NODE {
            self.views.list_snapshots(offset, |(entry, _)| add(entry.ino, entry))
        } else {
            self.run(ino, |at| at.fs.readdir(at.ino, offset, |entry| add(at.node(entry.ino), entry)))
        };
        match listed {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let mut add = |node: u64, ttl: &Duration, (entry, attr): &EntryWithAttr| {
            let name = OsStr::from_bytes(&entry.name);
            // The dots come without attributes; of theirs, the kernel only looks at number and type.
            let mut file_attr = attr.as_ref().map_or_else(negative_attr, file_attr);
            (file_attr.ino, file_attr.kind) = (INodeNo(node), file_type(entry.kind));
            !reply.add(INodeNo(node), entry.cookie, name, ttl, &file_attr, NO_GENERATION)
        };
        let listed = if ino.0 == SNAPSHOTS_NODE {
            self.views.list_snapshots(offset, |entry| add(entry.0.ino, &SNAPSHOTS_TTL, entry))
        } else {
            self.run(ino, |at| {
                at.fs.readdir_plus(at.ino, offset, |entry| add(at.node(entry.0.ino), &TTL, entry))
            })
        };
        match listed {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        match self.run(INodeNo(ROOT_INO), |at| at.fs.statfs()) {
            Ok(s) => {
                let (block, name_max) = (4096, crate::meta::NAME_MAX as u32);
                reply.statfs(
                    s.blocks,
                    s.blocks_free,
                    s.blocks_free,
                    s.inodes,
                    s.inodes_free,
                    block,
                    name_max,
                    block,
                );
            }
            Err(e) => reply.error(errno(e)),
        }
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        let flags =
            XattrFlags { create: flags & libc::XATTR_CREATE != 0, replace: flags & libc::XATTR_REPLACE != 0 };
        answer(
            reply,
            self.run(ino, |at| at.fs.setxattr(at.ino, name.as_bytes(), value, flags, caller(request))),
        );
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let value = match ino.0 {
            SNAPSHOTS_NODE => Err(FsError::NoXattr),
            _ => self.run(ino, |at| at.fs.getxattr(at.ino, name.as_bytes())),
        };
        answer_xattr(reply, size, value);
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let names = match ino.0 {
            SNAPSHOTS_NODE => Ok(Vec::new()),
            _ => self.run(ino, |at| at.fs.listxattr(at.ino, caller(request))),
        };
        answer_xattr(reply, size, names);
    }

    fn removexattr(&self, _: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(reply, self.run(ino, |at| at.fs.removexattr(at.ino, name.as_bytes())));
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn fallocate(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        let mode = match mode & !libc::FALLOC_FL_KEEP_SIZE {
            0 => AllocateMode::Reserve { keep_size },
            libc::FALLOC_FL_PUNCH_HOLE if keep_size => AllocateMode::PunchHole,
            libc::FALLOC_FL_ZERO_RANGE => AllocateMode::ZeroRange { keep_size },
            _ => {
                reply.error(Errno::EOPNOTSUPP);
                return;
            }
        };
        answer(reply, self.run(ino, |at| at.fs.allocate(at.ino, offset, length, mode, caller(request))));
    }

    fn lseek(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let target = match whence {
            libc::SEEK_DATA => SeekTarget::Data,
            libc::SEEK_HOLE => SeekTarget::Hole,
            _ => {
                reply.error(Errno::EINVAL);
                return;
            }
        };
        self.pinner.pin();
        let Ok(offset) = u64::try_from(offset) else { return reply.error(errno(FsError::NoData)) };
        let (views, cache) = (Arc::clone(&self.views), self.cache.clone());
        let answer = move |cache: Option<&KernelCache>| match seek(&views, cache, ino.0, offset, target) {
            Ok(offset) => reply.offset(offset as i64),
            Err(e) => reply.error(errno(e)),
        };
        // A snapshot has nothing to be written back.
        if self.options.writeback_cache && self.views.is_live(ino.0) {
            self.pool.run(Box::new(move || answer(Some(&cache))));
        } else {
            answer(None);
        }
    }

    fn copy_file_range(
        &self,
        request: &Request,
        source: INodeNo,
        _: FileHandle,
        source_offset: u64,
        target: INodeNo,
        _: FileHandle,
        target_offset: u64,
        len: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        // The reply has 32 bits for the count.
        let len = len.min(u64::from(u32::MAX));
        let copied = self.run(source, |other| {
            self.run(target, |at| {
                let (from, to) = ((other.ino, source_offset), (at.ino, target_offset));
                at.fs.copy_range_from(&other.fs, from, to, len, caller(request))
            })
        });
        match copied {
            Ok(count) => reply.written(count as u32),
            Err(e) => reply.error(errno(e)),
        }
    }
}
