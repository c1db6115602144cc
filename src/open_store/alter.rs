//! Changes of the family: snapshots, clones, rollback, limits, removal.
//!
//! They are no mutations and not in the redo log. Instead each is durable before anything else happens: nothing that the
//! log will hold can depend on one that a crash takes back. One that cannot be made durable has not happened.

use super::OpenStore;
use super::commit::{SyncError, alone, begin_locked, commit, make_durable};
use crate::meta::{Meta, MetaError, VolumeId};
use thiserror::Error;

/// Why the family was not changed.
#[derive(Debug, Error)]
pub enum AlterError {
    /// It was refused, or the metadata failed. Nothing was changed.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// There is no space for it, or the store takes no more changes. Nothing was changed.
    #[error(transparent)]
    Sync(#[from] SyncError),
    /// The store is being closed. Nothing was changed: whoever opens it next can do it.
    #[error("the store is being closed")]
    Closing,
    /// It failed half way. The store takes no more changes, and only the next open finds out whether this one has happened.
    #[error("a change of the family failed half way, and it is not known whether it happened")]
    InDoubt,
}

/// What the committer's thread is to do.
pub(super) type Alteration = Box<dyn FnOnce(&OpenStore) + Send>;

impl OpenStore {
    /// Changes the family, durable when this returns. Everything that was changed before is in it, nothing that is
    /// changed later; who changes something meanwhile waits for a moment.
    ///
    /// # Errors
    /// See [`AlterError`].
    pub fn alter<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Meta) -> Result<T, MetaError> + Send + 'static,
    ) -> Result<T, AlterError> {
        self.alter_with(true, work)
    }

    /// As [`OpenStore::alter`], for a change that takes no room, however often it is made: it may use what is kept for removals.
    ///
    /// # Errors
    /// See [`AlterError`].
    pub fn alter_in_place<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Meta) -> Result<T, MetaError> + Send + 'static,
    ) -> Result<T, AlterError> {
        self.alter_with(false, work)
    }

    fn alter_with<T: Send + 'static>(
        &self,
        takes_room: bool,
        work: impl FnOnce(&mut Meta) -> Result<T, MetaError> + Send + 'static,
    ) -> Result<T, AlterError> {
        let (send, receive) = std::sync::mpsc::sync_channel(1);
        let is_taken = self.committer.alter(Box::new(move |store: &OpenStore| {
            let _ = send.send(run(store, takes_room, work));
        }));
        if !is_taken {
            return Err(AlterError::Closing);
        }
        receive.recv().unwrap_or(Err(AlterError::InDoubt))
    }

    /// Frees what is left of inodes that were open and unlinked when a volume began as a copy of another.
    ///
    /// # Errors
    /// As the metadata.
    pub fn reap_orphans(&self, volume: VolumeId) -> Result<(), MetaError> {
        let orphans = self.meta().orphans(volume)?;
        self.caretaker.reap(orphans.into_iter().map(|ino| (volume, ino)));
        Ok(())
    }
}

impl OpenStore {
    /// Does something at a moment at which everything is durable, nothing is under way, and the redo log of the epoch is
    /// empty. `before` is done just before it, when all but what was changed since a moment ago is durable.
    ///
    /// # Errors
    /// When everything cannot be made durable, or as `work`.
    pub(super) fn at_rest<T: Send + 'static, E: From<SyncError> + Send + 'static>(
        &self,
        before: impl FnOnce(&OpenStore) -> Result<(), E> + Send + 'static,
        work: impl FnOnce(&OpenStore, &mut Meta) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let (send, receive) = std::sync::mpsc::sync_channel(1);
        let is_taken = self.committer.alter(Box::new(move |store: &OpenStore| {
            let rested = || {
                commit(store)?;
                before(store)?;
                let (_gate, mut meta) = alone(store);
                meta.touch();
                let begun = begin_locked(store, &mut meta)?;
                make_durable(store, begun.ok_or(SyncError::Failed)?)?;
                work(store, &mut meta)
            };
            let _ = send.send(rested());
        }));
        if !is_taken {
            return Err(SyncError::Failed.into());
        }
        receive.recv().unwrap_or_else(|_| Err(SyncError::Failed.into()))
    }
}

fn run<T>(
    store: &OpenStore,
    takes_room: bool,
    work: impl FnOnce(&mut Meta) -> Result<T, MetaError>,
) -> Result<T, AlterError> {
    // Most of what has to go to the disk goes while nobody waits.
    commit(store)?;
    let (_gate, mut meta) = alone(store);
    if !store.health.is_good() {
        return Err(SyncError::Failed.into());
    }
    // What was changed since.
    if let Some(begun) = begin_locked(store, &mut meta)? {
        make_durable(store, begun)?;
    }
    if takes_room && !store.has_room_to_alter(&meta) {
        return Err(SyncError::NoSpace.into());
    }
    let (value, committed) = meta.alter(work).map_err(|e| explain(store, &meta, e))?;
    if let Some(committed) = committed {
        if let Some(fresh) = store.moments.fresh() {
            fresh.note(&[], &committed.give_back);
        }
        // The WAL has less room than before.
        store.room.begin();
        store.segments.reserve_ids(committed.reserved_segments);
        store.caretaker.give_back([committed.give_back]);
        if meta.has_dead() {
            store.caretaker.reclaim();
        }
        // It has happened, whatever becomes of the log.
        if let Err(e) = store.redo.next_epoch(meta.epoch()) {
            store.health.fail(&format!("writing the redo log failed: {e}"));
        }
        store.redo.before_is_durable();
    }
    Ok(value)
}

/// Why the family was not changed. It is not known whether it was, where the store takes no more changes because of this one.
fn explain(store: &OpenStore, meta: &Meta, e: MetaError) -> AlterError {
    if meta.is_poisoned() {
        store.health.fail(&format!("a change of the family failed half way: {e}"));
        return AlterError::InDoubt;
    }
    if e.host_kind() == std::io::ErrorKind::StorageFull {
        log::error!("{e}: the family is not changed");
        return SyncError::NoSpace.into();
    }
    e.into()
}
