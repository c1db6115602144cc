//! Which inodes the kernel knows, and which orphans live only because of that.

use crate::meta::Ino;
use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

const SHARDS: usize = 16;

/// Lookup counts as the FUSE protocol keeps them: every reply that names an inode counts once, and the kernel forgets
/// counts when it drops the inode. An open file keeps its inode from being dropped, so that an orphan is free to go
/// exactly when its count is 0.
///
/// Invariant: whoever makes an inode an orphan adds it here before looking at its count, and whoever brings a count to
/// 0 looks for the orphan after that; so at least one of them sees both, and [`Nodes::take_orphan`] picks one.
#[derive(Default)]
pub(super) struct Nodes {
    counts: [Mutex<FxHashMap<Ino, u64>>; SHARDS],
    orphans: Mutex<FxHashSet<Ino>>,
    /// Inodes whose attributes have changed in a way that the kernel does not notice.
    changed: Mutex<FxHashSet<Ino>>,
    /// Called when there is one more.
    on_change: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// The mount was taken over from another server: the kernel also knows inodes that are not counted here.
    taken_over: AtomicBool,
}

impl std::fmt::Debug for Nodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nodes").field("orphans", &self.orphans).finish_non_exhaustive()
    }
}

impl Nodes {
    /// The kernel knows more than is counted here, and the orphans are among that. It forgets an inode with all of its counts
    /// at once, and an orphan gets no new ones: so the first time that an orphan is forgotten is the last.
    pub(super) fn take_over(&self, orphans: impl IntoIterator<Item = Ino>) {
        self.taken_over.store(true, Ordering::Release);
        self.orphans.lock().extend(orphans);
    }

    /// The inode's blocks have changed.
    pub(super) fn note_changed(&self, ino: Ino) {
        let is_new = self.changed.lock().insert(ino);
        if is_new && let Some(on_change) = self.on_change.get() {
            on_change();
        }
    }

    /// Calls `on_change` whenever there is something to tell the kernel, from any thread; what there is by now is not waited for.
    pub(super) fn on_change(&self, on_change: Box<dyn Fn() + Send + Sync>) {
        let _ = self.on_change.set(on_change);
    }

    pub(super) fn has_changed(&self) -> bool {
        !self.changed.lock().is_empty()
    }

    /// The kernel is told the inode's attributes.
    pub(super) fn told(&self, ino: Ino) {
        self.changed.lock().remove(&ino);
    }

    pub(super) fn take_changed(&self) -> Vec<Ino> {
        self.changed.lock().drain().filter(|ino| self.is_known(*ino)).collect()
    }

    fn shard(&self, ino: Ino) -> &Mutex<FxHashMap<Ino, u64>> {
        &self.counts[ino as usize % SHARDS]
    }

    /// A reply names the inode.
    pub(super) fn learn(&self, ino: Ino) {
        *self.shard(ino).lock().entry(ino).or_insert(0) += 1;
    }

    /// The kernel forgot `count` replies; true if it does not know the inode any more.
    pub(super) fn forget(&self, ino: Ino, count: u64) -> bool {
        let mut shard = self.shard(ino).lock();
        let Some(known) = shard.get_mut(&ino) else { return true };
        *known = known.saturating_sub(count);
        if *known > 0 {
            return false;
        }
        shard.remove(&ino);
        // A million forgotten inodes must not leave their room behind.
        if shard.capacity() > 1024 && shard.len() < shard.capacity() / 8 {
            shard.shrink_to_fit();
        }
        true
    }

    pub(super) fn is_known(&self, ino: Ino) -> bool {
        // No name is removed, and no inode that lost its last, before the kernel has looked it up.
        self.taken_over.load(Ordering::Acquire) || self.shard(ino).lock().contains_key(&ino)
    }

    pub(super) fn add_orphan(&self, ino: Ino) {
        self.orphans.lock().insert(ino);
    }

    pub(super) fn is_orphan(&self, ino: Ino) -> bool {
        self.orphans.lock().contains(&ino)
    }

    /// Takes an orphan out to free it; true for the first who does.
    pub(super) fn take_orphan(&self, ino: Ino) -> bool {
        self.orphans.lock().remove(&ino)
    }

    pub(super) fn orphans(&self) -> Vec<Ino> {
        self.orphans.lock().iter().copied().collect()
    }

    /// Everything that was known is of a state that is gone.
    pub(super) fn forget_state(&self) {
        self.orphans.lock().clear();
        self.clear();
    }

    /// The kernel knows nothing any more.
    pub(super) fn clear(&self) {
        self.taken_over.store(false, Ordering::Release);
        self.changed.lock().clear();
        for shard in &self.counts {
            shard.lock().clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inode_is_known_until_every_reply_is_forgotten() {
        let nodes = Nodes::default();
        nodes.learn(5);
        nodes.learn(5);
        assert!(!nodes.forget(5, 1) && nodes.is_known(5));
        nodes.add_orphan(5);
        assert!(nodes.forget(5, 1) && !nodes.is_known(5) && nodes.is_orphan(5));
        assert!(nodes.take_orphan(5) && !nodes.take_orphan(5));
        assert!(nodes.forget(6, 9));
    }

    #[test]
    fn what_was_known_before_a_take_over_is_known_until_it_is_forgotten() {
        let nodes = Nodes::default();
        nodes.take_over([5]);
        assert!(nodes.is_orphan(5) && nodes.is_known(5) && nodes.is_known(6));
        // Looked up twice before and once since: all of that is forgotten at once.
        nodes.learn(6);
        nodes.add_orphan(6);
        assert!(nodes.forget(6, 3) && nodes.take_orphan(6));
        assert!(nodes.forget(5, 2) && nodes.take_orphan(5));
        nodes.clear();
        assert!(!nodes.is_known(6));
    }
}
