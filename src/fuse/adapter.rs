//! `fuser`'s requests, one by one.

use super::convert::{TTL, errno, file_attr, file_type, negative_attr, timestamp};
use super::kernel_cache::KernelCache;
use super::options::FuseOptions;
use super::pin::Pinner;
use super::read_pool::ReadPool;
use crate::fs::{
    AllocateMode, Caller, Fs, FsError, Kind, NewNode, RenameMode, SeekTarget, SetAttr, SyncError, TimeChange,
    Wait, WriteMode, XattrFlags,
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
use std::time::SystemTime;

/// Largest write, and read, that the kernel sends as one request.
const MAX_WRITE_BYTES: u32 = 1 << 20;
/// Requests the kernel may have under way without a caller waiting: read-ahead and write-back.
const MAX_BACKGROUND: u16 = 64;
const NO_GENERATION: Generation = Generation(0);

thread_local! {
    /// Where contents are read to. Kept, because fresh memory costs more than the request that asks for it.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Translates between the kernel and [`Fs`].
pub(super) struct Adapter {
    fs: Arc<Fs>,
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
fn guarded<T>(fs: &Fs, operation: impl FnOnce() -> Result<T, FsError>) -> Result<T, FsError> {
    catch_unwind(AssertUnwindSafe(operation)).unwrap_or_else(|_| {
        fs.store().health().fail("an operation panicked; please report the message above");
        Err(FsError::Io)
    })
}

impl Adapter {
    pub(super) fn new(
        fs: Arc<Fs>,
        options: FuseOptions,
        pinner: Arc<Pinner>,
        cache: KernelCache,
    ) -> io::Result<Self> {
        Ok(Self { fs, options, pinner, pool: ReadPool::new()?, cache, no_open: false, no_opendir: false })
    }

    fn run<T>(&self, operation: impl FnOnce(&Fs) -> Result<T, FsError>) -> Result<T, FsError> {
        self.pinner.pin();
        guarded(&self.fs, || operation(&self.fs))
    }

    fn make(&self, request: &Request, parent: INodeNo, name: &OsStr, node: &NewNode<'_>, reply: ReplyEntry) {
        match self.run(|fs| fs.make(parent.0, name.as_bytes(), node, caller(request))) {
            Ok(attr) => reply.entry(&TTL, &file_attr(&attr), NO_GENERATION),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn sync(&self, reply: ReplyEmpty) {
        self.pinner.pin();
        self.fs.sync(Box::new(move |result| match result {
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
    fs: &Fs,
    ino: u64,
    offset: u64,
    size: usize,
    wait: Wait,
    reply: ReplyData,
) -> Option<ReplyData> {
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.len() < size {
            buffer.resize(size, 0);
        }
        let buffer = &mut buffer[..size];
        match guarded(fs, || fs.read(ino, offset, buffer, wait)) {
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
        // An older kernel does without what it does not know.
        let agreed = wanted & config.capabilities();
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
        match self.run(|fs| fs.lookup(parent.0, name.as_bytes())) {
            Ok(attr) => reply.entry(&TTL, &file_attr(&attr), NO_GENERATION),
            Err(FsError::NotFound) => reply.entry(&TTL, &negative_attr(), NO_GENERATION),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn forget(&self, _: &Request, ino: INodeNo, count: u64) {
        let _ = self.run(|fs| {
            fs.forget(ino.0, count);
            Ok(())
        });
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.run(|fs| fs.getattr(ino.0)) {
            Ok(attr) => reply.attr(&TTL, &file_attr(&attr)),
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
        match self.run(|fs| fs.setattr(ino.0, &set, caller(request))) {
            Ok(attr) => reply.attr(&TTL, &file_attr(&attr)),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.run(|fs| fs.readlink(ino.0)) {
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
        match self.run(|fs| fs.make(parent.0, name.as_bytes(), &node, caller(request))) {
            Ok(attr) => {
                let attr = file_attr(&attr);
                reply.created(&TTL, &attr, NO_GENERATION, FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
            }
            Err(e) => reply.error(errno(e)),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(reply, self.run(|fs| fs.unlink(parent.0, name.as_bytes())));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(reply, self.run(|fs| fs.rmdir(parent.0, name.as_bytes())));
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
        let (from, to) = ((parent.0, name.as_bytes()), (new_parent.0, new_name.as_bytes()));
        answer(reply, self.run(|fs| fs.rename(from, to, mode)));
    }

    fn link(&self, _: &Request, ino: INodeNo, new_parent: INodeNo, new_name: &OsStr, reply: ReplyEntry) {
        match self.run(|fs| fs.link(ino.0, new_parent.0, new_name.as_bytes())) {
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
        if let Some(reply) = read_into_reply(&self.fs, ino.0, offset, size, Wait::No, reply) {
            let fs = Arc::clone(&self.fs);
            self.pool.run(Box::new(move || {
                read_into_reply(&fs, ino.0, offset, size, Wait::Yes, reply);
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
        let mode = WriteMode {
            killer: kills.then(|| caller(request)),
            // The kernel makes EIO of a short direct write, and takes a short write-back for a whole one.
            may_be_short: !direct && !write_flags.contains(WriteFlags::FUSE_WRITE_CACHE),
        };
        match self.run(|fs| fs.write(ino.0, offset, data, mode)) {
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
        let listed = self.run(|fs| {
            fs.readdir(ino.0, offset, |entry| {
                let name = OsStr::from_bytes(&entry.name);
                !reply.add(INodeNo(entry.ino), entry.cookie, file_type(entry.kind), name)
            })
        });
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
        let listed = self.run(|fs| {
            fs.readdir_plus(ino.0, offset, |(entry, attr)| {
                let name = OsStr::from_bytes(&entry.name);
                // The dots come without attributes; of theirs, the kernel only looks at number and type.
                let mut file_attr = attr.as_ref().map_or_else(negative_attr, file_attr);
                (file_attr.ino, file_attr.kind) = (INodeNo(entry.ino), file_type(entry.kind));
                !reply.add(INodeNo(entry.ino), entry.cookie, name, &TTL, &file_attr, NO_GENERATION)
            })
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        match self.run(Fs::statfs) {
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
        answer(reply, self.run(|fs| fs.setxattr(ino.0, name.as_bytes(), value, flags, caller(request))));
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        answer_xattr(reply, size, self.run(|fs| fs.getxattr(ino.0, name.as_bytes())));
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        answer_xattr(reply, size, self.run(|fs| fs.listxattr(ino.0, caller(request))));
    }

    fn removexattr(&self, _: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(reply, self.run(|fs| fs.removexattr(ino.0, name.as_bytes())));
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
        answer(reply, self.run(|fs| fs.allocate(ino.0, offset, length, mode, caller(request))));
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
        let (fs, cache) = (Arc::clone(&self.fs), self.cache.clone());
        let seek = move || {
            let found = guarded(&fs, || {
                let offset = u64::try_from(offset).map_err(|_| FsError::NoData)?;
                fs.seek(ino.0, offset, target)
            });
            match found {
                Ok(offset) => reply.offset(offset as i64),
                Err(e) => reply.error(errno(e)),
            }
        };
        if !self.options.writeback_cache {
            seek();
            return;
        }
        // The kernel asks without writing back first what it has gathered: data that is not here yet would be called
        // a hole, and a copy of the file would lose it.
        self.pool.run(Box::new(move || {
            if let Err(e) = cache.write_back(ino.0) {
                log::debug!("writing back inode {} before a seek: {e}", ino.0);
            }
            seek();
        }));
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
        let (from, to) = ((source.0, source_offset), (target.0, target_offset));
        // The reply has 32 bits for the count.
        let len = len.min(u64::from(u32::MAX));
        match self.run(|fs| fs.copy_range(from, to, len, caller(request))) {
            Ok(count) => reply.written(count as u32),
            Err(e) => reply.error(errno(e)),
        }
    }
}
