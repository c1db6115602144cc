//! A session that `fuser` runs: its callbacks as requests, and answers as its replies.

use super::adapter::{Adapter, Agreed};
use super::convert::{file_attr, file_type, negative_attr, timestamp};
use super::fault;
use super::ledger::Ledger;
use super::negotiation::{self, MAX_BACKGROUND, MAX_WRITE_BYTES};
use super::pin::Pinner;
use super::reply::{Answer, List, Listed, Reply, TTL, errno};
use super::request::{Op, Request, WriteFlags};
use super::wire::opcode;
use crate::fs::{Attr, Caller, MadeFor, SetAttr, TimeChange};
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, FopenFlags, Generation, INodeNo, InitFlags, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite,
    ReplyXattr, Session, SessionACL, TimeOrNow,
};
use nix::errno::Errno;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

const NO_GENERATION: Generation = Generation(0);

fn generation(attr: &Attr) -> Generation {
    Generation(u64::from(attr.generation))
}

/// Agrees with the kernel on the protocol. The session serves when it is run.
///
/// # Errors
/// When the kernel is too old, or the mount is gone already.
pub(super) fn open(
    adapter: Adapter,
    device: OwnedFd,
    ledger: Arc<Ledger>,
) -> io::Result<Session<impl fuser::Filesystem>> {
    let pinner = Pinner::new();
    let mut config = fuser::Config::default();
    config.n_threads = Some(pinner.readers());
    // The kernel checks permissions and who may use the mount.
    Session::from_fd(Front { adapter, pinner, ledger }, device, SessionACL::All, config)
}

/// The way back to a caller, by what `fuser` lets one say.
enum Back {
    Entry(ReplyEntry),
    Attr(ReplyAttr),
    Data(ReplyData),
    Create(ReplyCreate),
    Empty(ReplyEmpty),
    Open(ReplyOpen),
    Write(ReplyWrite),
    Statfs(ReplyStatfs),
    Xattr(ReplyXattr),
    Ioctl(ReplyIoctl),
    Lseek(ReplyLseek),
    Directory(ReplyDirectory),
    DirectoryPlus(ReplyDirectoryPlus),
}

impl Back {
    fn fail(self, e: Errno) {
        let e = fuser::Errno::from_i32(e as i32);
        match self {
            Self::Entry(reply) => reply.error(e),
            Self::Attr(reply) => reply.error(e),
            Self::Data(reply) => reply.error(e),
            Self::Create(reply) => reply.error(e),
            Self::Empty(reply) => reply.error(e),
            Self::Open(reply) => reply.error(e),
            Self::Write(reply) => reply.error(e),
            Self::Statfs(reply) => reply.error(e),
            Self::Xattr(reply) => reply.error(e),
            Self::Ioctl(reply) => reply.error(e),
            Self::Lseek(reply) => reply.error(e),
            Self::Directory(reply) => reply.error(e),
            Self::DirectoryPlus(reply) => reply.error(e),
        }
    }
}

impl Reply for Back {
    fn send(self, answer: Result<Answer, Errno>) {
        match (self, answer) {
            (back, Err(e)) => back.fail(e),
            (Self::Entry(reply), Ok(Answer::Entry { attr, ttl })) => {
                reply.entry(&ttl, &file_attr(&attr), generation(&attr));
            }
            (Self::Entry(reply), Ok(Answer::NoEntry { ttl })) => {
                reply.entry(&ttl, &negative_attr(), NO_GENERATION);
            }
            (Self::Attr(reply), Ok(Answer::Attr { attr, ttl })) => reply.attr(&ttl, &file_attr(&attr)),
            (Self::Data(reply), Ok(Answer::Bytes(bytes))) => reply.data(&bytes),
            (Self::Create(reply), Ok(Answer::Created { attr })) => {
                let keep = FopenFlags::FOPEN_KEEP_CACHE;
                reply.created(&TTL, &file_attr(&attr), generation(&attr), FileHandle(0), keep);
            }
            (Self::Empty(reply), Ok(Answer::Done)) => reply.ok(),
            (Self::Open(reply), Ok(Answer::Opened)) => {
                reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
            }
            (Self::Open(reply), Ok(Answer::OpenedDir)) => {
                reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR);
            }
            (Self::Write(reply), Ok(Answer::Written(count))) => reply.written(count),
            (Self::Statfs(reply), Ok(Answer::Space(s))) => {
                let (block, name_max) = (4096, crate::meta::NAME_MAX as u32);
                let (total, free, available) = (s.blocks, s.blocks_free, s.blocks_available);
                reply.statfs(total, free, available, s.inodes, s.inodes_free, block, name_max, block);
            }
            (Self::Xattr(reply), Ok(Answer::Size(size))) => reply.size(size),
            (Self::Xattr(reply), Ok(Answer::Bytes(bytes))) => reply.data(&bytes),
            (Self::Ioctl(reply), Ok(Answer::Ioctl(bytes))) => reply.ioctl(0, &bytes),
            (Self::Lseek(reply), Ok(Answer::Offset(offset))) => reply.offset(offset as i64),
            (back, Ok(answer)) => {
                log::error!("{answer:?} is not an answer to what was asked");
                back.fail(Errno::EIO);
            }
        }
    }

    fn send_bytes(self, bytes: &[u8]) {
        match self {
            Self::Data(reply) => reply.data(bytes),
            other => other.fail(Errno::EIO),
        }
    }

    /// `fuser` knows how much room there is, and does the encoding.
    fn list(self, _: usize, _: bool, list: List<'_>) {
        match self {
            Self::Directory(mut reply) => {
                let mut add = |Listed { node, entry, .. }: &Listed<'_>| {
                    let name = OsStr::from_bytes(&entry.name);
                    !reply.add(INodeNo(*node), entry.cookie, file_type(entry.kind), name)
                };
                let listed = list(&mut |group| group.iter().take_while(|one| add(one)).count());
                match listed {
                    Ok(()) => reply.ok(),
                    Err(e) => Self::Directory(reply).fail(errno(e)),
                }
            }
            Self::DirectoryPlus(mut reply) => {
                let mut add = |Listed { node, entry, attr, ttl }: &Listed<'_>| {
                    let name = OsStr::from_bytes(&entry.name);
                    let generation = attr.map_or(NO_GENERATION, |attr| generation(&attr));
                    let mut file_attr = attr.map_or_else(negative_attr, |attr| file_attr(&attr));
                    (file_attr.ino, file_attr.kind) = (INodeNo(*node), file_type(entry.kind));
                    !reply.add(INodeNo(*node), entry.cookie, name, ttl, &file_attr, generation)
                };
                let listed = list(&mut |group| group.iter().take_while(|one| add(one)).count());
                match listed {
                    Ok(()) => reply.ok(),
                    Err(e) => Self::DirectoryPlus(reply).fail(errno(e)),
                }
            }
            other => other.fail(Errno::EIO),
        }
    }
}

struct Front {
    adapter: Adapter,
    pinner: Pinner,
    ledger: Arc<Ledger>,
}

impl Front {
    fn pass(&self, from: &fuser::Request, node: INodeNo, op: Op<'_>, back: Back) {
        self.pinner.pin_next();
        let caller = Caller { uid: from.uid(), gid: from.gid(), pid: from.pid() };
        // Only what others wait for. It has no number here: a mount that nothing can take over is given nothing again.
        let working = op.is_write_back().then(|| self.ledger.work(self.adapter.volume(), 0, opcode::WRITE));
        let _counted = working.as_ref().map(|working| {
            fault::slow_down();
            MadeFor::steps_of(working.steps())
        });
        self.adapter.handle(&Request { node: node.0, caller, op }, back);
    }
}

impl fuser::Filesystem for Front {
    fn init(&mut self, _: &fuser::Request, config: &mut KernelConfig) -> io::Result<()> {
        // An older kernel does without what it does not know.
        let wanted = InitFlags::from_bits_retain(negotiation::wanted(self.adapter.options()).flags);
        let offered = negotiation::believed(config.capabilities().bits());
        let agreed = wanted & InitFlags::from_bits_retain(offered);
        negotiation::demand(self.adapter.options(), agreed.bits())?;
        if let Err(unsupported) = config.add_capabilities(agreed) {
            log::warn!("the kernel refuses {unsupported:?}");
        }
        self.adapter.agree(Agreed {
            no_open: agreed.contains(InitFlags::FUSE_NO_OPEN_SUPPORT),
            no_opendir: agreed.contains(InitFlags::FUSE_NO_OPENDIR_SUPPORT),
            handles: agreed.contains(InitFlags::FUSE_EXPORT_SUPPORT),
        });
        let _ = config.set_max_write(MAX_WRITE_BYTES);
        let _ = config.set_max_background(MAX_BACKGROUND);
        if let Err(nearest) = config.set_max_readahead(MAX_WRITE_BYTES) {
            let _ = config.set_max_readahead(nearest);
        }
        Ok(())
    }

    fn lookup(&self, from: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.pass(from, parent, Op::Lookup { name: name.as_bytes() }, Back::Entry(reply));
    }

    fn forget(&self, _: &fuser::Request, ino: INodeNo, count: u64) {
        self.pinner.pin_next();
        self.adapter.forget(ino.0, count);
    }

    fn getattr(&self, from: &fuser::Request, ino: INodeNo, file: Option<FileHandle>, reply: ReplyAttr) {
        self.pass(from, ino, Op::GetAttr { by_writer: file.is_some() }, Back::Attr(reply));
    }

    fn setattr(
        &self,
        from: &fuser::Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        file: Option<FileHandle>,
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
            is_kept_times: file.is_some()
                && mtime.is_some()
                && (mode, uid, gid, size, atime) == (None, None, None, None, None),
        };
        self.pass(from, ino, Op::SetAttr { set }, Back::Attr(reply));
    }

    fn readlink(&self, from: &fuser::Request, ino: INodeNo, reply: ReplyData) {
        self.pass(from, ino, Op::ReadLink, Back::Data(reply));
    }

    fn mknod(
        &self,
        from: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let op = Op::MakeNode { name: name.as_bytes(), mode, umask, rdev };
        self.pass(from, parent, op, Back::Entry(reply));
    }

    fn mkdir(
        &self,
        from: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        self.pass(from, parent, Op::MakeDir { name: name.as_bytes(), mode, umask }, Back::Entry(reply));
    }

    fn symlink(
        &self,
        from: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let op = Op::Symlink { name: name.as_bytes(), target: target.as_os_str().as_bytes() };
        self.pass(from, parent, op, Back::Entry(reply));
    }

    fn create(
        &self,
        from: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        self.pass(from, parent, Op::Create { name: name.as_bytes(), mode, umask }, Back::Create(reply));
    }

    fn unlink(&self, from: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.pass(from, parent, Op::Unlink { name: name.as_bytes() }, Back::Empty(reply));
    }

    fn rmdir(&self, from: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.pass(from, parent, Op::RemoveDir { name: name.as_bytes() }, Back::Empty(reply));
    }

    fn rename(
        &self,
        from: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (name, new_name) = (name.as_bytes(), new_name.as_bytes());
        let op = Op::Rename { name, new_parent: new_parent.0, new_name, flags: flags.bits() };
        self.pass(from, parent, op, Back::Empty(reply));
    }

    fn link(
        &self,
        from: &fuser::Request,
        ino: INodeNo,
        new_parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
    ) {
        self.pass(from, new_parent, Op::Link { target: ino.0, name: name.as_bytes() }, Back::Entry(reply));
    }

    fn open(&self, from: &fuser::Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.pass(from, ino, Op::Open { flags: flags.0 }, Back::Open(reply));
    }

    fn opendir(&self, from: &fuser::Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.pass(from, ino, Op::OpenDir, Back::Open(reply));
    }

    fn read(
        &self,
        from: &fuser::Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        // As in `wire::decode`.
        let op = Op::Read { offset, size, past_cache: owner.is_some() };
        self.pass(from, ino, op, Back::Data(reply));
    }

    fn write(
        &self,
        from: &fuser::Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: fuser::WriteFlags,
        flags: OpenFlags,
        owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mode = WriteFlags {
            from_cache: write_flags.contains(fuser::WriteFlags::FUSE_WRITE_CACHE),
            kills_privileges: write_flags.contains(fuser::WriteFlags::FUSE_WRITE_KILL_SUIDGID),
            direct: flags.0 & libc::O_DIRECT != 0,
            past_cache: flags.0 & libc::O_DIRECT != 0 && owner.is_some(),
        };
        self.pass(from, ino, Op::Write { offset, data, mode }, Back::Write(reply));
    }

    fn flush(&self, from: &fuser::Request, ino: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.pass(from, ino, Op::Flush, Back::Empty(reply));
    }

    fn fsync(&self, from: &fuser::Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.pass(from, ino, Op::Sync, Back::Empty(reply));
    }

    fn fsyncdir(&self, from: &fuser::Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.pass(from, ino, Op::Sync, Back::Empty(reply));
    }

    fn readdir(
        &self,
        from: &fuser::Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        self.pass(from, ino, Op::List { offset, size: 0, plus: false }, Back::Directory(reply));
    }

    fn readdirplus(
        &self,
        from: &fuser::Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.pass(from, ino, Op::List { offset, size: 0, plus: true }, Back::DirectoryPlus(reply));
    }

    fn statfs(&self, from: &fuser::Request, ino: INodeNo, reply: ReplyStatfs) {
        self.pass(from, ino, Op::StatFs, Back::Statfs(reply));
    }

    fn setxattr(
        &self,
        from: &fuser::Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        self.pass(from, ino, Op::SetXattr { name: name.as_bytes(), value, flags }, Back::Empty(reply));
    }

    fn getxattr(&self, from: &fuser::Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.pass(from, ino, Op::GetXattr { name: name.as_bytes(), size }, Back::Xattr(reply));
    }

    fn listxattr(&self, from: &fuser::Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.pass(from, ino, Op::ListXattr { size }, Back::Xattr(reply));
    }

    fn removexattr(&self, from: &fuser::Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.pass(from, ino, Op::RemoveXattr { name: name.as_bytes() }, Back::Empty(reply));
    }

    fn ioctl(
        &self,
        from: &fuser::Request,
        ino: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        cmd: u32,
        data: &[u8],
        out_size: u32,
        reply: ReplyIoctl,
    ) {
        // The address is not told: only what comes from the kernel by its size is known to.
        let arg = if data.len() == 4 { 0 } else { u64::MAX };
        self.pass(from, ino, Op::Ioctl { cmd, arg, data, out_size }, Back::Ioctl(reply));
    }

    fn fallocate(
        &self,
        from: &fuser::Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        len: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.pass(from, ino, Op::Allocate { offset, len, mode }, Back::Empty(reply));
    }

    fn lseek(
        &self,
        from: &fuser::Request,
        ino: INodeNo,
        _: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        self.pass(from, ino, Op::Seek { offset, whence }, Back::Lseek(reply));
    }

    fn copy_file_range(
        &self,
        from: &fuser::Request,
        source: INodeNo,
        _: FileHandle,
        offset: u64,
        target: INodeNo,
        _: FileHandle,
        target_offset: u64,
        len: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let op = Op::CopyRange { offset, target: target.0, target_offset, len };
        self.pass(from, source, op, Back::Write(reply));
    }
}
