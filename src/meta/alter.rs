//! Changes of the family, each of them whole or not at all.
//!
//! A commit of mutations takes effect in memory and becomes durable later; if the disk is full then, it is kept and tried
//! again, because what it holds was promised to callers and is in the redo log. A change of the family is promised to nobody
//! before it is durable, and is in no log. So it is a transaction of its own, and its frames are on the disk before SQLite lets
//! it take effect. If they cannot be written, SQLite takes the transaction back, and what is known of the store in memory is read
//! from the tables again: nothing has happened.

use super::cache::Pace;
use super::generation::Generations;
use super::space::Space;
use super::{Committed, Head, Meta, MetaError, Result, next_number, reclaim, volume};
use crate::meta::VolumeId;
use std::sync::Arc;

/// Who has which snapshot open.
type Users = Vec<(VolumeId, Arc<()>)>;

impl Meta {
    /// Lets `work` change the family, and commits that: it is durable when this returns, or has not happened. Everything that
    /// was changed before must be committed and durable. Of the commit, only its segments and what it gives back are left to be
    /// seen to; `None` if nothing was changed.
    ///
    /// # Errors
    /// As `work`, or as the backing files. If it is not known what is on the disk, the metadata is poisoned then.
    pub fn alter<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<(T, Option<Committed>)> {
        if self.is_poisoned() {
            return Err(MetaError::Poisoned);
        }
        debug_assert!(!self.has_work() && self.db.files().held_bytes() == 0);
        let users: Users = self
            .heads
            .iter()
            .filter_map(|(id, head)| head.users().map(|users| (*id, Arc::clone(users))))
            .collect();
        let done = work(self).and_then(|value| Ok((value, self.commit_through()?)));
        // What is refused has changed nothing.
        if done.is_err() && (self.touched || self.is_poisoned()) {
            self.poisoned = true;
            self.undo(&users)?;
            // What is read until the next open is what was there before.
            self.poisoned = self.db.files().is_in_doubt();
        }
        done
    }

    /// Commits what there is, past the memory in which other commits wait to become durable.
    fn commit_through(&mut self) -> Result<Option<Committed>> {
        if !self.has_work() {
            return Ok(None);
        }
        let files = self.files();
        files.write_through(true);
        let committed = self.commit_inner(&[]);
        files.write_through(false);
        committed.map(Some)
    }

    /// Gives up the open transaction, and reads everything that it may have changed in memory from the tables.
    fn undo(&mut self, users: &Users) -> Result<()> {
        self.db.begin_again()?;
        self.space = Space::open(&self.db)?;
        self.generations = Generations::read(&self.db)?;
        self.reclaiming = reclaim::Progress::default();
        self.next_ino = next_number(&self.db, "SELECT next_ino FROM store")?;
        self.stored_next_ino = self.next_ino;
        self.reserved_segments = next_number(&self.db, "SELECT next_segment FROM store")?;
        self.epoch = next_number(&self.db, "SELECT epoch FROM store")?;
        self.heads.clear();
        for row in volume::list(&self.db)? {
            self.open_head(&row)?;
        }
        for (id, users) in users {
            let row = self.snapshot_row(*id)?;
            let lineage = self.generations.lineage(row.generation)?;
            self.heads.insert(*id, Head::frozen(&row, lineage, Arc::clone(users)));
        }
        self.db.forget_lost_rows();
        (self.mutations, self.touched, self.pace, self.poisoned) = (0, false, Pace::default(), false);
        Ok(())
    }
}
