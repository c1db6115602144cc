//! Which request of the kernel a change was made for.
//!
//! A server that takes over a mount gets the requests again that its predecessor had taken and not answered, some of which that
//! one had carried out: a name that was made exists, one that was removed is gone. So each change in the redo log says for which
//! request it was made, and what was made for a request already is only answered again.
//!
//! Each reader of requests works on one at a time and answers it before it takes the next. So the last request of each reader that
//! changed something is all that has to be known; the end of an epoch of the log carries that over to the next one.

use crate::meta::{Ino, Mutation, VolumeId};
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// A request, while it is being carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Who works on it: a number that no other reader of the store has, nor had since the mount was made.
    pub reader: u64,
    /// The kernel's number of the request, which is never used again on the same mount.
    pub unique: u64,
}

/// A request that has changed something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Executed {
    /// The request.
    pub origin: Origin,
    /// The volume that was changed.
    pub volume: VolumeId,
    /// The inode that was asked for: it was made, or got a name.
    pub ino: Option<Ino>,
}

impl Executed {
    pub(super) fn new(origin: Origin, volume: VolumeId, mutation: &Mutation) -> Self {
        let ino = match mutation {
            Mutation::Make { inode, .. } | Mutation::MakeUnnamed { inode, .. } => Some(inode.ino),
            Mutation::Link { ino, .. } | Mutation::LinkUnnamed { ino, .. } => Some(*ino),
            _ => None,
        };
        Self { origin, volume, ino }
    }
}

thread_local! {
    static CURRENT: Cell<Option<Origin>> = const { Cell::new(None) };
    static STEPS: Cell<Option<&'static AtomicU64>> = const { Cell::new(None) };
}

/// Says for which request the changes of this thread are made, as long as it lives.
#[derive(Debug)]
pub struct MadeFor(());

impl MadeFor {
    /// From now on, for `origin`. The steps that are taken for it are counted in `steps`.
    pub fn request(origin: Origin, steps: Option<&'static AtomicU64>) -> Self {
        CURRENT.set(Some(origin));
        STEPS.set(steps);
        Self(())
    }

    /// From now on, for a request that is not remembered as carried out: its steps are counted in `steps`, and that is all.
    pub fn steps_of(steps: Option<&'static AtomicU64>) -> Self {
        STEPS.set(steps);
        Self(())
    }
}

impl Drop for MadeFor {
    fn drop(&mut self) {
        CURRENT.set(None);
        STEPS.set(None);
    }
}

/// Counts a step of the request that this thread works on: whoever takes steps does not hang, however long it takes.
pub(super) fn step() {
    if let Some(steps) = STEPS.get() {
        steps.fetch_add(1, Ordering::Relaxed);
    }
}

/// The request that this thread works on, if it is one.
pub(super) fn current() -> Option<Origin> {
    CURRENT.get()
}

/// What a server leaves to the one that takes over its mounts.
#[derive(Debug, Default)]
pub struct Legacy {
    /// The last request of each reader that changed something.
    pub executed: Vec<Executed>,
    /// Files whose contents changed lately: the kernel may not have been told how many blocks they have.
    pub rewritten: Vec<(VolumeId, Ino)>,
    /// Orphans that the kernel may still know.
    pub orphans: Vec<(VolumeId, Ino)>,
}

/// Told what the predecessor had executed, before the log that says so goes: it is to be kept where it outlives this process.
pub type KeepExecuted<'a> = &'a mut dyn FnMut(&[Executed]);

/// The last request of each reader that changed something.
#[derive(Debug, Default)]
pub(super) struct Latest(Vec<Executed>);

impl Latest {
    /// What a predecessor left.
    pub(super) fn new(executed: Vec<Executed>) -> Self {
        let mut latest = Self::default();
        for executed in executed {
            latest.note(executed);
        }
        latest
    }

    pub(super) fn note(&mut self, executed: Executed) {
        match self.0.iter_mut().find(|other| other.origin.reader == executed.origin.reader) {
            // A request can take several changes: the first is the one that it asked for.
            Some(other) if other.origin == executed.origin => {}
            Some(other) => *other = executed,
            None => self.0.push(executed),
        }
    }

    /// The mount of a volume is gone, and its requests with it.
    pub(super) fn forget(&mut self, volume: VolumeId) {
        self.0.retain(|executed| executed.volume != volume);
    }

    /// What readers with lower numbers than `first_reader` took from the mount of a volume is answered, or was of an earlier mount.
    pub(super) fn forget_before(&mut self, volume: VolumeId, first_reader: u64) {
        self.0.retain(|executed| executed.volume != volume || executed.origin.reader >= first_reader);
    }

    pub(super) fn all(&self) -> &[Executed] {
        &self.0
    }

    pub(super) fn into_all(self) -> Vec<Executed> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn executed(reader: u64, unique: u64, ino: Option<Ino>) -> Executed {
        Executed { origin: Origin { reader, unique }, volume: 1, ino }
    }

    #[test]
    fn the_first_change_of_the_last_request_of_each_reader_is_kept() {
        let (first, second) = (executed(1, 10, Some(7)), executed(2, 12, None));
        let latest = Latest::new(vec![executed(1, 8, None), first, executed(1, 10, None), second]);
        assert_eq!(latest.all(), [first, second]);
    }

    #[test]
    fn what_is_answered_is_forgotten_by_its_reader() {
        let mut latest = Latest::new((0..10).map(|reader| executed(reader, reader, None)).collect());
        let other = Executed { volume: 2, ..executed(20, 1, None) };
        latest.note(other);
        latest.forget_before(1, 8);
        assert_eq!(latest.all(), [executed(8, 8, None), executed(9, 9, None), other]);
    }

    #[test]
    fn what_a_thread_does_is_for_its_request_until_that_is_done() {
        let origin = Origin { reader: 1, unique: 2 };
        static STEPS: AtomicU64 = AtomicU64::new(0);
        let made_for = MadeFor::request(origin, Some(&STEPS));
        step();
        assert_eq!(current(), Some(origin));
        drop(made_for);
        step();
        assert_eq!((current(), STEPS.load(Ordering::Relaxed)), (None, 1));
    }
}
