//! Changes that could not be made because they need contents that are elsewhere, and cannot be had at present: they are put aside, with all
//! they are about, and made when that is over. Nothing of them was done before.

use super::adapter::Answered;
use super::kernel_cache::KernelCache;
use super::long::{Long, Step, Turn};
use super::operate::{read_now, run, run_on};
use super::options::FuseOptions;
use super::reply::{Answer, Reply, errno};
use super::request::WriteFlags;
use super::workers::Workers;
use crate::fs::{Caller, FsError, Node, Views, Wait, WriteMode};
use nix::errno::Errno;
use std::sync::Arc;

/// What [`FsError::Away`] is among the others, none of which is the same.
pub(super) const AWAY: Errno = Errno::ENOLINK;

/// A change; it refers to none of the bytes of its request.
#[derive(Debug)]
pub(super) enum Again {
    Write { node: Node, offset: u64, data: Vec<u8>, mode: WriteFlags, caller: Caller },
    Copy { from: (Node, u64), to: (Node, u64), len: u64, caller: Caller },
}

/// Writes, and has the kernel's attributes looked after.
pub(super) fn write(
    views: &Views,
    cache: &KernelCache,
    options: &FuseOptions,
    (node, offset, data): (Node, u64, &[u8]),
    mode: WriteFlags,
    caller: Caller,
) -> Result<u32, FsError> {
    let mode = WriteMode {
        killer: mode.kills_privileges.then_some(caller),
        keeps_times: mode.from_cache && options.writeback_cache,
        is_write_back: mode.from_cache,
        // The kernel makes EIO of a short direct write, and takes a short write-back for a whole one.
        may_be_short: !mode.direct && !mode.from_cache,
    };
    let written = run(views, node, |at| at.fs.write(at.ino, offset, data, mode));
    if written.is_err() && mode.is_write_back {
        // If that cannot be, what else changes tries again.
        let _ = cache.look();
    }
    written.map(|count| count as u32)
}

pub(super) fn copy_range(
    views: &Views,
    from: (Node, u64),
    to: (Node, u64),
    len: u64,
    caller: Caller,
) -> Answered {
    // The answer has 32 bits for the count.
    let len = len.min(u64::from(u32::MAX));
    let copied = run(views, from.0, |source| {
        run_on(views, to.0, |at| {
            at.fs.copy_range_from(&source.fs, (source.ino, from.1), (at.ino, to.1), len, caller)
        })
    });
    copied.map(|count| Answer::Written(count as u32)).map_err(errno)
}

/// Answers a write past the kernel's cache once nothing that it has made wrong is in there.
fn written(
    cache: &KernelCache,
    workers: &Workers,
    (node, offset, count): (Node, u64, u32),
    mut reply: impl Reply,
) {
    let direct = cache.direct_writes();
    let (task, may_wait) = (reply.hand_on(), reply.may_wait_for_kernel());
    let answer = move || reply.send(Ok(Answer::Written(count)));
    let written = offset..offset + u64::from(count);
    let Some(held) = direct.written(node, written, answer) else { return };
    // Where nobody can look after those that wait, none does.
    let has_help = !direct.has_many() || cache.look();
    if !may_wait || !has_help {
        held.answer_now();
    }
    let (direct, cache) = (Arc::clone(direct), cache.clone());
    workers.drop_pages(task, move |may_wait| {
        direct.drop_pages(held, |node, range| {
            // It may have dropped the node since.
            if let Err(e) = cache.write_back(node, range, may_wait) {
                log::debug!("cannot drop pages of node {node}: {e}");
            }
        });
    });
}

/// Answers that so many bytes were written; `past_cache`: where, if that was past the kernel's cache.
pub(super) fn answer_written(
    cache: &KernelCache,
    workers: &Workers,
    past_cache: Option<(Node, u64)>,
    count: u32,
    reply: impl Reply,
) {
    match past_cache {
        Some((node, offset)) => written(cache, workers, (node, offset, count), reply),
        None => reply.send(Ok(Answer::Written(count))),
    }
}

/// The mount, for those who come back to a request later.
#[derive(Clone)]
pub(super) struct Mount {
    pub(super) views: Arc<Views>,
    pub(super) cache: KernelCache,
    pub(super) workers: Arc<Workers>,
    pub(super) options: FuseOptions,
    pub(super) long: Long,
}

impl Mount {
    /// Makes a change when what it needs can be had.
    pub(super) fn make_later(self, again: Again, mut reply: impl Reply) {
        let mut task = reply.hand_on();
        if let (Again::Write { mode: WriteFlags { from_cache: true, .. }, .. }, Some(task)) =
            (&again, &mut task)
        {
            // Whoever wrote that has gone on long ago, and relies on it.
            task.pid = 0;
        }
        let long = self.long.clone();
        let mut reply = Some(reply);
        let job = move |turn| {
            let answer = match turn {
                Turn::GiveUp => Err(Errno::EINTR),
                Turn::Step => self.make(&again),
            };
            if answer == Err(AWAY) {
                return Step::Away;
            }
            let Some(reply) = reply.take() else { return Step::Done };
            match (answer, &again) {
                (Ok(Answer::Written(count)), Again::Write { node, offset, mode, .. }) if mode.past_cache => {
                    written(&self.cache, &self.workers, (*node, *offset, count), reply);
                }
                (answer, _) => reply.send(answer),
            }
            Step::Done
        };
        long.put_aside(task, Box::new(job));
    }

    fn make(&self, again: &Again) -> Answered {
        match again {
            Again::Write { node, offset, data, mode, caller } => {
                let what = (*node, *offset, data.as_slice());
                let written = write(&self.views, &self.cache, &self.options, what, *mode, *caller);
                written.map(Answer::Written).map_err(errno)
            }
            Again::Copy { from, to, len, caller } => copy_range(&self.views, *from, *to, *len, *caller),
        }
    }

    /// Reads when it can.
    pub(super) fn read_later(self, (node, offset, size): (Node, u64, usize), mut reply: impl Reply) {
        let task = reply.hand_on();
        let mut reply = Some(reply);
        let views = self.views;
        let job = move |turn| {
            let Some(now) = reply.take() else { return Step::Done };
            if turn == Turn::GiveUp {
                now.send(Err(Errno::EINTR));
                return Step::Done;
            }
            reply = read_now(&views, node, offset, size, Wait::Yes, now);
            if reply.is_some() { Step::Away } else { Step::Done }
        };
        self.long.put_aside(task, Box::new(job));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_away_is_told_from_everything_else() {
        assert_eq!(errno(FsError::Away), AWAY);
    }
}
