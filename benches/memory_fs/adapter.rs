//! `fuser`'s requests, one by one.

use crate::kernel::{Agreed, Pinner, negotiate};
use crate::tree::{Body, NewNode, Node, Tree};
use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo, KernelConfig,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The kernel may keep names and attributes for good.
const TTL: Duration = Duration::from_secs(u32::MAX as u64);
const NO_GENERATION: Generation = Generation(0);
/// What statfs says there is, in blocks of 4 KiB.
const BLOCKS: u64 = 1 << 24;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

pub(crate) struct Adapter {
    tree: Tree,
    pinner: Pinner,
    agreed: Agreed,
}

impl Adapter {
    pub(crate) fn new(pinner: Pinner) -> Self {
        Self { tree: Tree::new(), pinner, agreed: Agreed::default() }
    }

    fn make(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        kind: FileType,
        (mode, umask, rdev): (u32, u32, u32),
        target: &[u8],
    ) -> Result<FileAttr, Errno> {
        self.pinner.pin();
        let new = NewNode { kind, mode, umask, rdev, uid: request.uid(), gid: request.gid(), target };
        self.tree.make(parent.0, name, &new).map(|node| node.seen())
    }
}

fn kind_of(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        libc::S_IFSOCK => FileType::Socket,
        _ => FileType::RegularFile,
    }
}

fn entry(reply: ReplyEntry, made: Result<FileAttr, Errno>) {
    match made {
        Ok(attr) => reply.entry(&TTL, &attr, NO_GENERATION),
        Err(e) => reply.error(e),
    }
}

fn empty(reply: ReplyEmpty, done: Result<(), Errno>) {
    match done {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(e),
    }
}

/// The attributes of nothing: the kernel may remember that a name is not there.
fn absent() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

impl fuser::Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        self.agreed = negotiate(config);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.pinner.pin();
        match self.tree.lookup(parent.0, name) {
            Err(e) if e.code() == libc::ENOENT => reply.entry(&TTL, &absent(), NO_GENERATION),
            found => entry(reply, found.map(|node| node.seen())),
        }
    }

    fn forget(&self, _: &Request, ino: INodeNo, count: u64) {
        self.tree.forget(ino.0, count);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.pinner.pin();
        match self.tree.get(ino.0) {
            Ok(node) => reply.attr(&TTL, &node.attr()),
            Err(e) => reply.error(e),
        }
    }

    fn setattr(
        &self,
        _: &Request,
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
        self.pinner.pin();
        let now = SystemTime::now();
        let time = |time: TimeOrNow| match time {
            TimeOrNow::Now => now,
            TimeOrNow::SpecificTime(time) => time,
        };
        let node = match self.tree.get(ino.0) {
            Ok(node) => node,
            Err(e) => return reply.error(e),
        };
        if let (Some(size), Ok(file)) = (size, node.file()) {
            file.write().set_len(size);
        }
        node.change(|attr| {
            attr.perm = mode.map_or(attr.perm, |mode| (mode & 0o7777) as u16);
            attr.uid = uid.unwrap_or(attr.uid);
            attr.gid = gid.unwrap_or(attr.gid);
            attr.atime = atime.map_or(attr.atime, time);
            attr.mtime = mtime.map_or(if size.is_some() { now } else { attr.mtime }, time);
            attr.ctime = ctime.unwrap_or(now);
        });
        reply.attr(&TTL, &node.attr());
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.tree.get(ino.0).as_deref() {
            Ok(Node { body: Body::Symlink(target), .. }) => reply.data(target),
            Ok(_) => reply.error(Errno::EINVAL),
            Err(e) => reply.error(*e),
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
        entry(reply, self.make(request, parent, name, kind_of(mode), (mode, umask, rdev), b""));
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
        entry(reply, self.make(request, parent, name, FileType::Directory, (mode, umask, 0), b""));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let target = target.as_os_str().as_bytes();
        entry(reply, self.make(request, parent, name, FileType::Symlink, (0o777, 0, 0), target));
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
        match self.make(request, parent, name, FileType::RegularFile, (mode, umask, 0), b"") {
            Ok(attr) => {
                reply.created(&TTL, &attr, NO_GENERATION, FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
            }
            Err(e) => reply.error(e),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.pinner.pin();
        empty(reply, self.tree.unlink(parent.0, name, false));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.pinner.pin();
        empty(reply, self.tree.unlink(parent.0, name, true));
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
        self.pinner.pin();
        let replace = !flags.contains(RenameFlags::RENAME_NOREPLACE);
        let exchange = flags.contains(RenameFlags::RENAME_EXCHANGE);
        empty(reply, self.tree.rename((parent.0, name), (new_parent.0, new_name), replace, exchange));
    }

    fn link(&self, _: &Request, ino: INodeNo, new_parent: INodeNo, new_name: &OsStr, reply: ReplyEntry) {
        self.pinner.pin();
        entry(reply, self.tree.link(ino.0, new_parent.0, new_name).map(|node| node.seen()));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        if self.agreed.no_open {
            reply.error(Errno::ENOSYS);
        } else {
            reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
        }
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        if self.agreed.no_opendir {
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
        let node = match self.tree.get(ino.0) {
            Ok(node) => node,
            Err(e) => return reply.error(e),
        };
        BUFFER.with_borrow_mut(|buffer| {
            buffer.clear();
            match node.file() {
                Ok(file) => {
                    file.read().read(offset, size as usize, buffer);
                    reply.data(buffer);
                }
                Err(e) => reply.error(e),
            }
        });
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.pinner.pin();
        let written = self.tree.get(ino.0).and_then(|node| {
            node.file()?.write().write(offset, data);
            Ok(())
        });
        match written {
            Ok(()) => reply.written(data.len() as u32),
            Err(e) => reply.error(e),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    // Answered, not refused: a sync of Larder is a round trip too.
    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        self.pinner.pin();
        let dir = match self.tree.get(ino.0) {
            Ok(dir) => dir,
            Err(e) => return reply.error(e),
        };
        for (cookie, name) in [(1, "."), (2, "..")] {
            if offset < cookie && reply.add(ino, cookie, FileType::Directory, name) {
                return reply.ok();
            }
        }
        match dir.names() {
            Ok(names) => {
                for (cookie, name, ino, kind) in names.lock().after(offset.max(2)) {
                    if reply.add(INodeNo(ino), cookie, kind, name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(e) => reply.error(e),
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
        self.pinner.pin();
        let dir = match self.tree.get(ino.0) {
            Ok(dir) => dir,
            Err(e) => return reply.error(e),
        };
        for (cookie, name) in [(1, "."), (2, "..")] {
            let attr = FileAttr { ino, kind: FileType::Directory, ..absent() };
            if offset < cookie && reply.add(ino, cookie, name, &TTL, &attr, NO_GENERATION) {
                return reply.ok();
            }
        }
        let names = match dir.names() {
            Ok(names) => names.lock(),
            Err(e) => return reply.error(e),
        };
        for (cookie, name, ino, _) in names.after(offset.max(2)) {
            let Ok(node) = self.tree.get(ino) else { continue };
            if reply.add(INodeNo(ino), cookie, name, &TTL, &node.attr(), NO_GENERATION) {
                break;
            }
            node.seen();
        }
        drop(names);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(BLOCKS, BLOCKS, BLOCKS, self.tree.count() + BLOCKS, BLOCKS, 4096, 255, 4096);
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(Errno::NO_XATTR);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, size: u32, reply: ReplyXattr) {
        if size == 0 { reply.size(0) } else { reply.data(b"") }
    }
}
