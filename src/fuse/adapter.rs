//! What each request means, whatever transport brought it.

use super::again::{AWAY, Again, Mount, answer_written, copy_range, write};
use super::awaited::Awaited;
use super::device::SMALL_BYTES;
use super::fault::strike;
use super::ioctl::{Asked, answer, asked};
use super::kernel_cache::{KernelCache, MayWait};
use super::long::{Long, Step, Turn};
use super::operate::{drop_kept, guarded, list_now, read_now, run};
use super::options::FuseOptions;
use super::reply::{Answer, Listed, Reply, SNAPSHOTS_TTL, TTL, errno};
use super::request::{Op, Request, WriteFlags};
use super::seek::seek;
use super::slowed::Slowed;
use super::workers::Workers;
use crate::fs::{
    AllocateMode, At, Attr, Caller, Executed, Fs, FsError, Ino, Kind, NewNode, Node, Place, ROOT_INO,
    RenameMode, SNAPSHOTS_NODE, SeekTarget, SetAttr, Slowing, SyncError, Views, VolumeId, Wait, XattrFlags,
};
use crate::scheduling::be_urgent;
use nix::errno::Errno;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Steps of a request that are done where it was taken; what takes more goes to threads of its own.
const STEPS_AT_ONCE: usize = 2;

/// What was agreed on with the kernel, as far as answers depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Agreed {
    /// Told once, the kernel opens files without asking.
    pub(super) no_open: bool,
    /// The same for directories.
    pub(super) no_opendir: bool,
    /// It makes file handles of nodes and their generations, and looks them up by those.
    pub(super) handles: bool,
}

/// A request that was begun.
pub(super) enum Begun {
    /// And is finished.
    Answered(Answered),
    /// It needs the reply: to fill it in place, or to answer later.
    Later(Later),
}

/// The rest of a request; it refers to none of its bytes.
#[derive(Debug)]
pub(super) enum Later {
    /// A change that needs contents which cannot be had at present.
    Again(Again),
    LookupSnapshots,
    Read {
        node: Node,
        offset: u64,
        size: usize,
        past_cache: bool,
    },
    /// Bytes were written past the kernel's cache.
    Written {
        node: Node,
        offset: u64,
        count: u32,
    },
    Sync {
        node: Node,
    },
    List {
        node: Node,
        offset: u64,
        size: usize,
        plus: bool,
    },
    Seek {
        node: Node,
        offset: i64,
        whence: i32,
    },
    Resize {
        node: Node,
        set: SetAttr,
        caller: Caller,
    },
    Allocate {
        node: Node,
        range: (u64, u64),
        mode: i32,
        caller: Caller,
    },
    Ioctl {
        node: Node,
        asked: Asked,
    },
}

/// Translates between requests and [`Views`].
pub(super) struct Adapter {
    views: Arc<Views>,
    options: FuseOptions,
    workers: Arc<Workers>,
    long: Long,
    awaited: Awaited,
    slowed: Slowed,
    cache: KernelCache,
    agreed: Agreed,
    executed: Vec<Executed>,
}

/// What a request is answered with, or an errno.
pub(super) type Answered = Result<Answer, Errno>;

fn done((): ()) -> Answer {
    Answer::Done
}

fn synced(result: Result<(), SyncError>) -> Answered {
    match result {
        Ok(()) => Ok(Answer::Done),
        Err(SyncError::NoSpace) => Err(Errno::ENOSPC),
        Err(SyncError::Failed) => Err(Errno::EIO),
    }
}

fn entry(attr: Attr) -> Answer {
    Answer::Entry { attr, ttl: TTL }
}

impl Adapter {
    pub(super) fn new(views: Arc<Views>, options: FuseOptions, cache: KernelCache) -> io::Result<Self> {
        let of_it = Arc::clone(&views);
        Ok(Self {
            views,
            options,
            workers: Arc::new(Workers::new()?),
            long: Long::new(Box::new(move || of_it.live().is_away())),
            awaited: Awaited::default(),
            slowed: Slowed::default(),
            cache,
            agreed: Agreed::default(),
            executed: Vec::new(),
        })
    }

    /// Requests that a server before this one has carried out, and perhaps not answered. Before the first request.
    pub(super) fn take_over(&mut self, executed: Vec<Executed>) {
        self.executed = executed;
    }

    /// Before the first request.
    pub(super) fn agree(&mut self, agreed: Agreed) {
        self.agreed = agreed;
        self.views.with_handles(agreed.handles);
    }

    /// What is mounted.
    pub(super) fn volume(&self) -> VolumeId {
        self.views.live().volume()
    }

    /// The volume as it is now.
    pub(super) fn live(&self) -> &Arc<Fs> {
        self.views.live()
    }

    /// What it was made with.
    pub(super) fn options(&self) -> FuseOptions {
        self.options
    }

    /// Carries out a request and answers it, now or later.
    pub(super) fn handle(&self, request: &Request<'_>, reply: impl Reply) {
        match self.begin(request) {
            Begun::Answered(Ok(Answer::Written(count))) => self.slow_down(count, None, reply),
            Begun::Answered(answer) => reply.send(self.durable(&request.op, answer)),
            Begun::Later(later) => self.finish(later, reply),
        }
    }

    /// Answers that so many bytes were written, once whoever wrote them may go on; `past_cache`: where, if that was past the kernel's cache.
    fn slow_down(&self, count: u32, past_cache: Option<(Node, u64)>, mut reply: impl Reply) {
        let slowing = self.views.live().store().slow_by();
        if slowing == Slowing::No || !reply.may_be_slowed() {
            return answer_written(&self.cache, &self.workers, past_cache, count, reply);
        }
        let pid = reply.put_aside().map_or(0, |task| task.pid);
        let (cache, workers) = (self.cache.clone(), Arc::clone(&self.workers));
        let answer: Box<dyn FnOnce() + Send> =
            Box::new(move || answer_written(&cache, &workers, past_cache, count, reply));
        match slowing {
            Slowing::UntilLess(most) => {
                let store = Arc::downgrade(self.views.live().store());
                let is_over = move || {
                    store.upgrade().is_none_or(|store| !matches!(store.slow_by(), Slowing::UntilLess(_)))
                };
                self.slowed.until(Box::new(is_over), (pid, most), answer);
            }
            Slowing::For(delay) => self.slowed.after(delay, answer),
            Slowing::No => answer(),
        }
    }

    /// The answer to a request, once what it changed is durable, if the mount wants that of changes of names (`sync`,
    /// `dirsync`). The thread waits: what it changed for a request is known until it changes something for the next.
    pub(super) fn durable(&self, op: &Op<'_>, answer: Answered) -> Answered {
        let answer = answer?;
        if !op.changes_names() || !self.views.live().syncs_names() {
            return Ok(answer);
        }
        let (done, result) = std::sync::mpsc::channel();
        self.views.live().sync(Box::new(move |result| {
            let _ = done.send(result);
        }));
        synced(result.recv().unwrap_or(Err(SyncError::Failed))).map(|_| answer)
    }

    /// The answer to a request that comes a second time, if it was carried out at the first and doing it twice would not come to
    /// the same. Nobody else can have changed what it names meanwhile: the kernel holds the directories until it is answered.
    pub(super) fn answer_again(&self, unique: u64, request: &Request<'_>) -> Option<Answered> {
        let executed = self.executed.iter().find(|executed| executed.origin.unique == unique)?;
        let made = |ino: Ino| {
            // It is looked up by its number, and counted.
            let made = self.run(request.node, |at| at.fs.lookup(ino, b".").map(|attr| at.seen(attr)));
            made.map_err(errno)
        };
        match (request.op, executed.ino) {
            (Op::Create { .. } | Op::CreateUnnamed { .. }, Some(ino)) => {
                Some(made(ino).map(|attr| Answer::Created { attr }))
            }
            (Op::MakeNode { .. } | Op::MakeDir { .. } | Op::Symlink { .. } | Op::Link { .. }, Some(ino)) => {
                Some(made(ino).map(entry))
            }
            (
                Op::Unlink { .. }
                | Op::RemoveDir { .. }
                | Op::Rename { .. }
                | Op::SetXattr { .. }
                | Op::RemoveXattr { .. },
                _,
            ) => Some(Ok(Answer::Done)),
            // All others come to the same.
            _ => None,
        }
    }

    /// Carries out what is carried out at once. The bytes of the request are not needed after this.
    pub(super) fn begin(&self, request: &Request<'_>) -> Begun {
        let Request { node, caller, op } = *request;
        Begun::Later(match op {
            Op::Lookup { name } if self.views.is_snapshots(node, name) => Later::LookupSnapshots,
            Op::Read { offset, size, past_cache } => {
                Later::Read { node, offset, size: size as usize, past_cache }
            }
            Op::Write { offset, data, mode } => match self.write(node, offset, data, mode, caller) {
                Ok(Answer::Written(count)) if mode.past_cache => Later::Written { node, offset, count },
                Err(AWAY) => Later::Again(Again::Write { node, offset, data: data.to_vec(), mode, caller }),
                answered => return Begun::Answered(answered),
            },
            Op::CopyRange { offset, target, target_offset, len } => {
                let (from, to) = ((node, offset), (target, target_offset));
                match copy_range(&self.views, from, to, len, caller) {
                    Err(AWAY) => Later::Again(Again::Copy { from, to, len, caller }),
                    answered => return Begun::Answered(answered),
                }
            }
            Op::Sync => Later::Sync { node },
            Op::List { offset, size, plus } => Later::List { node, offset, size: size as usize, plus },
            Op::Seek { offset, whence } => Later::Seek { node, offset, whence },
            Op::SetAttr { set } if set.size.is_some() => Later::Resize { node, set, caller },
            Op::Allocate { offset, len, mode } => {
                Later::Allocate { node, range: (offset, len), mode, caller }
            }
            Op::Ioctl { cmd, arg, data, out_size } => match asked(cmd, arg, data, out_size) {
                Ok(asked) => Later::Ioctl { node, asked },
                Err(e) => return Begun::Answered(Err(e)),
            },
            _ => return Begun::Answered(self.answer(node, caller, &op)),
        })
    }

    /// Carries out the others.
    pub(super) fn finish(&self, later: Later, reply: impl Reply) {
        match later {
            Later::Again(again) => self.mount().make_later(again, reply),
            Later::LookupSnapshots => self.look_up_snapshots(reply),
            Later::Read { node, offset, size, past_cache } => {
                self.read(node, offset, size, past_cache, reply);
            }
            Later::Written { node, offset, count } => {
                self.slow_down(count, Some((node, offset)), reply);
            }
            Later::Sync { node } => self.sync(node, reply),
            Later::List { node, offset, size, plus } => self.list(node, offset, size, plus, reply),
            Later::Seek { node, offset, whence } => self.seek(node, offset, whence, reply),
            Later::Resize { node, set, caller } => self.resize(node, set, caller, reply),
            Later::Allocate { node, range, mode, caller } => self.allocate(node, range, mode, caller, reply),
            Later::Ioctl { node, asked } => self.ioctl(node, asked, reply),
        }
    }

    /// Lets the kernel drop what it keeps of a node, without waiting for it.
    pub(super) fn drop_kept(&self, node: Node) {
        drop_kept(&self.workers, &self.cache, node);
    }

    /// The kernel has forgotten `count` answers that named a node.
    pub(super) fn forget(&self, node: Node, count: u64) {
        // Of snapshots nothing is counted, and one that was closed is not opened for this.
        if !self.views.is_live(node) {
            return;
        }
        let _ = self.run(node, |at| {
            if at.fs.is_lossy(at.ino) {
                strike(b"forget-lossy\0");
            }
            at.fs.forget(at.ino, count);
            Ok(())
        });
    }

    /// The answer to what is answered at once.
    fn answer(&self, node: Node, caller: Caller, op: &Op<'_>) -> Answered {
        match *op {
            Op::Lookup { name } => self.lookup(node, name),
            Op::GetAttr { by_writer } => self.getattr(node, by_writer),
            Op::Statx => self.getattr(node, false).map(|answer| match answer {
                Answer::Attr { attr, ttl } => Answer::Statx { attr, ttl },
                other => other,
            }),
            Op::Release => Ok(Answer::Done),
            Op::SetAttr { set } => {
                let attr = self.run(node, |at| at.fs.setattr(at.ino, &set, caller).map(|attr| at.seen(attr)));
                attr.map(|attr| Answer::Attr { attr, ttl: TTL }).map_err(errno)
            }
            Op::ReadLink => self.run(node, |at| at.fs.readlink(at.ino)).map(Answer::Bytes).map_err(errno),
            Op::Unlink { name } => self.run(node, |at| at.fs.unlink(at.ino, name)).map(done).map_err(errno),
            Op::RemoveDir { name } => self.run(node, |at| at.fs.rmdir(at.ino, name)).map(done).map_err(errno),
            Op::Rename { name, new_parent, new_name, flags } => {
                self.rename((node, name), (new_parent, new_name), flags, caller)
            }
            Op::Link { target, name } => self.link(target, node, name),
            Op::StatFs => self.run(ROOT_INO, |at| at.fs.statfs()).map(Answer::Space).map_err(errno),
            Op::Open { flags } => self.open(node, flags),
            Op::OpenDir if self.agreed.no_opendir => Err(Errno::ENOSYS),
            // What is gone is not opened.
            Op::OpenDir => self.getattr(node, false).map(|_| Answer::OpenedDir),
            Op::MakeNode { .. } | Op::MakeDir { .. } | Op::Symlink { .. } | Op::Create { .. } => {
                self.make(node, caller, op)
            }
            Op::CreateUnnamed { mode, umask } => {
                let made = self.run(node, |at| {
                    at.fs.make_unnamed(at.ino, mode & 0o7777, umask, caller).map(|attr| at.seen(attr))
                });
                made.map(|attr| Answer::Created { attr }).map_err(errno)
            }
            Op::SetXattr { .. } | Op::GetXattr { .. } | Op::ListXattr { .. } | Op::RemoveXattr { .. } => {
                self.xattr(node, caller, op)
            }
            // Nothing is kept per open file: told once, the kernel closes files without asking.
            Op::Flush => Err(Errno::ENOSYS),
            Op::Read { .. }
            | Op::Write { .. }
            | Op::CopyRange { .. }
            | Op::Sync
            | Op::List { .. }
            | Op::Seek { .. }
            | Op::Allocate { .. }
            | Op::Ioctl { .. } => Err(Errno::EIO),
        }
    }

    /// Runs an operation on a node of the volume or of a snapshot.
    fn run<T>(&self, node: Node, operation: impl FnOnce(&At) -> Result<T, FsError>) -> Result<T, FsError> {
        run(&self.views, node, operation)
    }

    /// What those need who come back to a request later.
    fn mount(&self) -> Mount {
        Mount {
            views: Arc::clone(&self.views),
            cache: self.cache.clone(),
            workers: Arc::clone(&self.workers),
            options: self.options,
            long: self.long.clone(),
        }
    }

    /// Runs steps of an operation until one says what the answer is. Between them everything can change, also what the node
    /// stands for. If a step fails after others were done, the kernel is made to drop what it keeps of the file: it takes a change
    /// that fails for one that was not made.
    fn in_steps(
        &self,
        node: Node,
        mut step: impl FnMut(&At) -> Result<Option<Answer>, FsError> + Send + 'static,
        mut reply: impl Reply,
    ) {
        let views = Arc::clone(&self.views);
        // One that panics before it comes to the store has failed like any other.
        let mut step = move || {
            let stepped = catch_unwind(AssertUnwindSafe(|| run(&views, node, &mut step)));
            stepped.unwrap_or(Err(FsError::Io)).map_err(errno).transpose()
        };
        let mut is_away = false;
        for i in 0..STEPS_AT_ONCE {
            match step() {
                None => {}
                Some(Err(AWAY)) => {
                    is_away = true;
                    break;
                }
                Some(answer) => {
                    let failed = i > 0 && answer.is_err();
                    reply.send(answer);
                    if failed {
                        self.drop_kept(node);
                    }
                    return;
                }
            }
        }
        let (workers, cache) = (Arc::clone(&self.workers), self.cache.clone());
        let task = reply.hand_on();
        let mut reply = Some(reply);
        let job = move |turn| {
            let answer = match turn {
                Turn::GiveUp => Err(Errno::EINTR),
                Turn::Step => match step() {
                    None => return Step::More,
                    Some(Err(AWAY)) => return Step::Away,
                    Some(answer) => answer,
                },
            };
            let failed = answer.is_err();
            if let Some(reply) = reply.take() {
                reply.send(answer);
            }
            if failed {
                drop_kept(&workers, &cache, node);
            }
            Step::Done
        };
        match is_away {
            true => self.long.put_aside(task, Box::new(job)),
            false => self.long.run(task, Box::new(job)),
        }
    }

    /// As [`Adapter::run`] on two nodes, which must be in one view.
    fn run_both<T>(
        &self,
        one: Node,
        two: Node,
        operation: impl FnOnce(&At, Ino) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        self.run(one, |at| match self.views.place(two)? {
            Place::Inode(other) if at.node(other.ino) == two => operation(at, other.ino),
            _ => Err(FsError::ReadOnly),
        })
    }

    fn lookup(&self, parent: Node, name: &[u8]) -> Answered {
        // Snapshots come and go without the kernel's doing.
        let views = &self.views;
        let (found, ttl) = match (parent, name) {
            (SNAPSHOTS_NODE, b".") => (views.snapshots_attr(), SNAPSHOTS_TTL),
            (SNAPSHOTS_NODE, b"..") => (self.look_up(ROOT_INO, b"."), TTL),
            (SNAPSHOTS_NODE, _) => (guarded(views.live(), || views.lookup_snapshot(name)), SNAPSHOTS_TTL),
            (_, b"..") if self.run(parent, |at| Ok(at.is_snapshot_root())) == Ok(true) => {
                (views.snapshots_attr(), SNAPSHOTS_TTL)
            }
            _ => (self.look_up(parent, name), TTL),
        };
        match found {
            Ok(attr) => Ok(Answer::Entry { attr, ttl }),
            Err(FsError::NotFound) => Ok(Answer::NoEntry { ttl }),
            Err(e) => Err(errno(e)),
        }
    }

    fn look_up(&self, parent: Node, name: &[u8]) -> Result<Attr, FsError> {
        self.run(parent, |at| at.fs.lookup(at.ino, name).map(|attr| at.seen(attr)))
    }

    /// The directory with the snapshots, whose old listing the kernel is made to drop first.
    fn look_up_snapshots(&self, mut reply: impl Reply) {
        let answer = |views: &Views| {
            views.snapshots_attr().map(|attr| Answer::Entry { attr, ttl: SNAPSHOTS_TTL }).map_err(errno)
        };
        if !matches!(self.views.snapshots_changed(), Ok(true)) {
            return reply.send(answer(&self.views));
        }
        if !reply.may_wait_for_kernel() {
            reply.send(answer(&self.views));
            return self.drop_kept(SNAPSHOTS_NODE);
        }
        let (views, cache) = (Arc::clone(&self.views), self.cache.clone());
        self.workers.ask(reply.hand_on(), move |may_wait| {
            // It knows nothing of a directory that nobody has looked at.
            if let Err(e) = cache.write_back(SNAPSHOTS_NODE, &(0..u64::MAX), may_wait) {
                log::debug!("cannot drop the listing of snapshots: {e}");
            }
            reply.send(answer(&views));
        });
    }

    /// The kernel does not ask before it takes what programs write, but for attributes that it has dropped; and programs get
    /// the answer to that, if it is an error.
    fn getattr(&self, node: Node, by_writer: bool) -> Answered {
        if by_writer
            && self.options.writeback_cache
            && let Ok(Some(e)) = self.run(node, |at| Ok(at.fs.refuses_writers(at.ino)))
        {
            return Err(errno(e));
        }
        let (attr, ttl) = if node == SNAPSHOTS_NODE {
            (self.views.snapshots_attr(), SNAPSHOTS_TTL)
        } else {
            (self.run(node, |at| at.fs.getattr(at.ino).map(|attr| at.seen(attr))), TTL)
        };
        attr.map(|attr| Answer::Attr { attr, ttl }).map_err(errno)
    }

    fn make(&self, parent: Node, caller: Caller, op: &Op<'_>) -> Answered {
        let (name, kind, mode, umask) = match *op {
            Op::MakeNode { name, mode, umask, .. } => {
                (name, Kind::of_mode(mode).ok_or(Errno::EINVAL)?, mode, umask)
            }
            Op::MakeDir { name, mode, umask } => (name, Kind::Directory, mode, umask),
            Op::Create { name, mode, umask } => (name, Kind::Regular, mode, umask),
            Op::Symlink { name, .. } => (name, Kind::Symlink, 0o777, 0),
            _ => return Err(Errno::EIO),
        };
        let rdev = if let Op::MakeNode { rdev, .. } = *op { rdev } else { 0 };
        let target = if let Op::Symlink { target, .. } = *op { Some(target) } else { None };
        if self.views.is_snapshots(parent, name) {
            return Err(Errno::EEXIST);
        }
        let node = NewNode { kind, permissions: mode & 0o7777, umask, rdev, target };
        let made = self.run(parent, |at| at.fs.make(at.ino, name, &node, caller).map(|attr| at.seen(attr)));
        let attr = made.map_err(errno)?;
        Ok(if matches!(op, Op::Create { .. }) { Answer::Created { attr } } else { entry(attr) })
    }

    fn rename(&self, from: (Node, &[u8]), to: (Node, &[u8]), flags: u32, caller: Caller) -> Answered {
        let leaves_whiteout = flags & libc::RENAME_WHITEOUT != 0;
        let mode = match flags & !libc::RENAME_WHITEOUT {
            0 => RenameMode::Replace,
            libc::RENAME_NOREPLACE => RenameMode::NoReplace,
            libc::RENAME_EXCHANGE if !leaves_whiteout => RenameMode::Exchange,
            _ => return Err(Errno::EINVAL),
        };
        if self.views.is_snapshots(to.0, to.1) {
            return Err(Errno::EBUSY);
        }
        let renamed = self.run_both(from.0, to.0, |at, parent| {
            let (from, to) = ((at.ino, from.1), (parent, to.1));
            match leaves_whiteout {
                true => at.fs.rename_leaving_whiteout(from, to, mode == RenameMode::NoReplace, caller),
                false => at.fs.rename(from, to, mode),
            }
        });
        renamed.map(done).map_err(errno)
    }

    fn link(&self, target: Node, parent: Node, name: &[u8]) -> Answered {
        if self.views.is_snapshots(parent, name) {
            return Err(Errno::EEXIST);
        }
        let linked = self.run_both(target, parent, |at, parent| {
            at.fs.link(at.ino, parent, name).map(|attr| at.seen(attr))
        });
        linked.map(entry).map_err(errno)
    }

    fn read(&self, node: Node, offset: u64, size: usize, past_cache: bool, reply: impl Reply) {
        let direct = self.cache.direct_writes();
        if !past_cache {
            direct.note_cached(node, offset, size as u64);
        }
        let reading = direct.reading();
        let Some(mut reply) = read_now(&self.views, node, offset, size, Wait::No, reply) else { return };
        let (views, scheduling, mount) = (Arc::clone(&self.views), self.options.scheduling, self.mount());
        self.workers.read(reply.hand_on(), move || {
            be_urgent(scheduling, size <= SMALL_BYTES);
            let not_yet = read_now(&views, node, offset, size, Wait::Yes, reply);
            drop(reading);
            if let Some(reply) = not_yet {
                mount.read_later((node, offset, size), reply);
            }
        });
    }

    fn write(&self, node: Node, offset: u64, data: &[u8], mode: WriteFlags, caller: Caller) -> Answered {
        if !mode.past_cache {
            self.cache.direct_writes().note_cached(node, offset, data.len() as u64);
        }
        let what = (node, offset, data);
        let written = write(&self.views, &self.cache, &self.options, what, mode, caller);
        if written == Err(FsError::NotPermitted) {
            // What flags forbid, the kernel may have done in its cache.
            self.drop_kept(node);
        }
        written.map(Answer::Written).map_err(errno)
    }

    fn sync(&self, node: Node, mut reply: impl Reply) {
        // The kernel says only once that something was not kept.
        let lost = self.run(node, |at| Ok(at.fs.sync_error(at.ino))).ok().flatten();
        reply.leave_in_hand();
        let (fs, awaited) = (Arc::clone(self.views.live()), self.awaited.clone());
        self.views.live().sync(Box::new(move |result| {
            let answer = match (result, lost) {
                (Ok(()), Some(e)) => Err(errno(e)),
                (result, _) => synced(result),
            };
            if answer.is_err() || !fs.syncs_remotely() {
                return reply.send(answer);
            }
            let done = awaited.put_aside(reply);
            fs.sync_remotely(Box::new(move |result| done(synced(result))));
        }));
    }

    fn list(&self, node: Node, offset: u64, size: usize, plus: bool, mut reply: impl Reply) {
        if node == SNAPSHOTS_NODE {
            return reply.list(size, plus, &mut |add| {
                self.views.list_snapshots(offset, |(entry, attr)| {
                    add(&[Listed { node: entry.ino, entry, attr: *attr, ttl: SNAPSHOTS_TTL }]) == 1
                })
            });
        }
        let mut cookie = offset;
        let mut pass = move |views: &Views| {
            // What is wrong, the listing itself finds out.
            let passed = run(views, node, |at| at.fs.pass_gone(at.ino, &mut cookie)).unwrap_or(true);
            passed.then_some(cookie)
        };
        for _ in 0..STEPS_AT_ONCE {
            if let Some(cookie) = pass(&self.views) {
                return list_now(&self.views, node, cookie, size, plus, reply);
            }
        }
        let (views, task) = (Arc::clone(&self.views), reply.hand_on());
        let mut reply = Some(reply);
        let job = move |_| {
            let Some(cookie) = pass(&views) else { return Step::More };
            if let Some(reply) = reply.take() {
                list_now(&views, node, cookie, size, plus, reply);
            }
            Step::Done
        };
        self.long.run(task, Box::new(job));
    }

    fn xattr(&self, node: Node, caller: Caller, op: &Op<'_>) -> Answered {
        let (size, value) = match *op {
            Op::SetXattr { name, value, flags } => {
                let flags = XattrFlags {
                    create: flags & libc::XATTR_CREATE != 0,
                    replace: flags & libc::XATTR_REPLACE != 0,
                };
                let set = self.run(node, |at| at.fs.setxattr(at.ino, name, value, flags, caller));
                return set.map(done).map_err(errno);
            }
            Op::RemoveXattr { name } => {
                return self.run(node, |at| at.fs.removexattr(at.ino, name)).map(done).map_err(errno);
            }
            Op::GetXattr { size, .. } if node == SNAPSHOTS_NODE => (size, Err(FsError::NoXattr)),
            Op::GetXattr { name, size } => (size, self.run(node, |at| at.fs.getxattr(at.ino, name))),
            Op::ListXattr { size } if node == SNAPSHOTS_NODE => (size, Ok(Vec::new())),
            Op::ListXattr { size } => (size, self.run(node, |at| at.fs.listxattr(at.ino, caller))),
            _ => return Err(Errno::EIO),
        };
        match value.map_err(errno)? {
            value if size == 0 => Ok(Answer::Size(value.len() as u32)),
            value if value.len() > size as usize => Err(Errno::ERANGE),
            value => Ok(Answer::Bytes(value)),
        }
    }

    fn resize(&self, node: Node, set: SetAttr, caller: Caller, reply: impl Reply) {
        let mut resizing = None;
        let step = move |at: &At| {
            if resizing.is_none() {
                resizing = Fs::resizing(at.ino, &set, caller);
            }
            let resizing = resizing.as_mut().ok_or(FsError::Invalid)?;
            let attr = at.fs.resize_some(resizing)?;
            Ok(attr.map(|attr| Answer::Attr { attr: at.seen(attr), ttl: TTL }))
        };
        self.in_steps(node, step, reply);
    }

    fn allocate(&self, node: Node, (offset, len): (u64, u64), mode: i32, caller: Caller, reply: impl Reply) {
        let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        let mode = match mode & !libc::FALLOC_FL_KEEP_SIZE {
            0 => AllocateMode::Reserve { keep_size },
            libc::FALLOC_FL_PUNCH_HOLE if keep_size => AllocateMode::PunchHole,
            libc::FALLOC_FL_ZERO_RANGE => AllocateMode::ZeroRange { keep_size },
            _ => return reply.send(Err(Errno::EOPNOTSUPP)),
        };
        let mut allocation = None;
        let step = move |at: &At| {
            let allocation = match &mut allocation {
                Some(begun) => begun,
                none => none.insert(Fs::allocation(at.ino, offset, len, mode, caller)?),
            };
            Ok(at.fs.allocate_some(allocation)?.then_some(Answer::Done))
        };
        self.in_steps(node, step, reply);
    }

    fn seek(&self, node: Node, offset: i64, whence: i32, mut reply: impl Reply) {
        let target = match whence {
            libc::SEEK_DATA => SeekTarget::Data,
            libc::SEEK_HOLE => SeekTarget::Hole,
            _ => return reply.send(Err(Errno::EINVAL)),
        };
        let Ok(offset) = u64::try_from(offset) else { return reply.send(Err(errno(FsError::NoData))) };
        let (views, cache) = (Arc::clone(&self.views), self.cache.clone());
        // A snapshot has nothing to be written back.
        let asks = self.options.writeback_cache && self.views.is_live(node);
        if asks && !reply.may_wait_for_kernel() {
            log::info!(
                "too many seeks wait for the kernel: from now on it takes all of each file of the mount for data"
            );
            return reply.send(Err(Errno::ENOSYS));
        }
        let task = if asks { reply.hand_on() } else { None };
        let answer = move |cache: Option<(&KernelCache, &MayWait)>| {
            reply.send(seek(&views, cache, node, offset, target).map(Answer::Offset).map_err(errno));
        };
        if asks {
            self.workers.ask(task, move |may_wait| answer(Some((&cache, may_wait))));
        } else {
            answer(None);
        }
    }

    /// What a file is opened for matters where there are flags. Elsewhere the kernel does without asking, if it can.
    fn open(&self, node: Node, flags: i32) -> Answered {
        if !self.views.live().may_have_flags() {
            // What is gone is not opened.
            return if self.agreed.no_open {
                Err(Errno::ENOSYS)
            } else {
                self.getattr(node, false).map(|_| Answer::Opened)
            };
        }
        if flags & libc::O_ACCMODE == libc::O_RDONLY {
            return self.getattr(node, false).map(|_| Answer::Opened);
        }
        let append = flags & libc::O_APPEND != 0;
        let may = self.run(node, |at| at.fs.may_open_for_writing(at.ino, append));
        may.map(|()| Answer::Opened).map_err(errno)
    }

    fn ioctl(&self, node: Node, asked: Asked, mut reply: impl Reply) {
        let Asked::Set(flags) = asked else {
            let flags = self.run(node, |at| at.fs.flags(at.ino));
            return reply.send(match flags {
                // The directory of the snapshots is none of the volume's.
                Err(FsError::ReadOnly) => Err(Errno::ENOTTY),
                flags => flags.map(|flags| Answer::Ioctl(answer(asked, flags))).map_err(errno),
            });
        };
        let (views, cache) = (Arc::clone(&self.views), self.cache.clone());
        let set = move || {
            let _busy = views.busy();
            let Place::Inode(at) = views.place(node)? else { return Err(FsError::ReadOnly) };
            guarded(&at.fs, || at.fs.set_flags(at.ino, flags))
        };
        let set = move || set().map(|()| Answer::Ioctl(Vec::new())).map_err(errno);
        if !flags.forbid() || !self.views.is_live(node) {
            return reply.send(set());
        }
        if !reply.may_wait_for_kernel() {
            return reply.send(Err(Errno::EAGAIN));
        }
        // What was written before is written still.
        self.workers.ask(reply.hand_on(), move |may_wait| {
            if let Err(e) = cache.write_back(node, &(0..u64::MAX), may_wait) {
                log::debug!("cannot write back a file before its flags change: {e}");
            }
            reply.send(set());
        });
    }
}

impl Drop for Adapter {
    fn drop(&mut self) {
        self.long.end();
        self.awaited.end();
        self.slowed.end();
    }
}
