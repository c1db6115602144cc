//! One limit for what is cached of all volumes and snapshots together.
//!
//! Each has caches of its own, limited too, so that one that is walked through does not push out what others work with.

use super::db::Db;
use super::{Meta, Result, VolumeId, chunk, inode};

/// Memory for what is cached of all volumes and snapshots: several times what one can take.
const ROWS_MAX: usize = 96 << 20;
/// Memory for what is cached of one of them.
const ROWS_OF_ONE: usize = inode::CACHED_BYTES + chunk::CACHED_BYTES + chunk::CACHED_GROUP_BYTES;
/// Memory for pages of the database.
pub(super) const PAGES_MAX: usize = 24 << 20;
/// Memory for all caches of the metadata, in bytes.
pub const CACHES_MAX: usize = ROWS_MAX + PAGES_MAX;
/// With less, they would be read from the database again and again.
pub const CACHES_MIN: usize = 1 << 20;
/// Entries that leave a cache at a time: when its limit is lowered, it would be all of them.
pub(super) const LEAVE_MAX: usize = 1024;
/// Changed rows that are written at a time where there are too many, if that does not take long: each may have to read pages of the
/// database first.
pub(super) const WRITTEN_AT_ONCE: usize = 32;
/// Of these, as many are written however long it takes, so that they become fewer.
pub(super) const WRITTEN_AT_LEAST: usize = 2;
/// Changed rows that a commit may find unwritten, of all volumes together: it holds the metadata until they are written, and each may
/// have to read several pages.
const UNWRITTEN_FEW: usize = 8;
/// Uses between two looks at it: far less comes in one of them than a volume's own limit.
const LOOK_EVERY: u64 = 256;

/// The limit of a cache of one volume, which may have `most` when there is room for all: in proportion, where there is less.
pub(super) fn limit_of(db: &Db, most: usize) -> usize {
    match db.rows_limit() {
        rows if rows < ROWS_OF_ONE => (most as u64 * rows as u64 / ROWS_OF_ONE as u64) as usize,
        _ => most,
    }
}

/// What is to come that writes all changed rows to the tables, under one hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comes {
    /// A commit.
    Commit,
    /// A step of giving back what removed snapshots held.
    Reclaiming,
}

/// Which of that is to come soon. One of them that has come says nothing of the other.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    commit: bool,
    reclaiming: bool,
}

impl Pace {
    /// Whether whoever changes rows writes as many.
    pub(super) fn is_kept(self) -> bool {
        self.commit || self.reclaiming
    }

    fn of(&mut self, comes: Comes) -> &mut bool {
        match comes {
            Comes::Commit => &mut self.commit,
            Comes::Reclaiming => &mut self.reclaiming,
        }
    }
}

impl Meta {
    /// Memory of all that is cached.
    pub fn caches_bytes(&self) -> usize {
        self.cached_bytes() + self.db.cached_page_bytes()
    }

    /// Caches `bytes` at most from now on, at least [`CACHES_MIN`]. To be called now and then, for what is too much leaves by and by.
    ///
    /// # Errors
    /// As the database; the metadata is then poisoned.
    pub fn limit_caches_to(&mut self, bytes: usize) -> Result<()> {
        let bytes = bytes.clamp(CACHES_MIN, CACHES_MAX);
        let pages = bytes / (CACHES_MAX / PAGES_MAX);
        let limited = self.db.limit_caches(bytes - pages, pages);
        let limited = limited.and_then(|()| self.heads.values_mut().try_for_each(|head| head.trim(&self.db)));
        self.poisoned |= limited.is_err();
        limited
    }

    /// Memory of what is cached of all volumes and snapshots.
    pub fn cached_bytes(&self) -> usize {
        self.heads.values().map(super::Head::cached_bytes).sum()
    }

    /// Volumes and snapshots that are ready for use.
    pub fn heads_open(&self) -> usize {
        self.heads.len()
    }

    /// A volume or snapshot is about to be used: now and then, what was used longest ago makes room.
    pub(super) fn note_use(&mut self, volume: VolumeId) -> Result<()> {
        self.uses += 1;
        if let Some(head) = self.heads.get_mut(&volume) {
            head.used = self.uses;
        }
        if self.uses.is_multiple_of(LOOK_EVERY) { self.limit_caches(volume) } else { Ok(()) }
    }

    fn limit_caches(&mut self, spared: VolumeId) -> Result<()> {
        let mut bytes = self.cached_bytes();
        while bytes > self.db.rows_limit().min(ROWS_MAX) {
            let others = self.heads.iter_mut().filter(|(id, head)| **id != spared && head.cached_bytes() > 0);
            let Some((_, oldest)) = others.min_by_key(|(_, head)| head.used) else { break };
            let cached = oldest.cached_bytes();
            match oldest.drop_caches(&self.db) {
                Ok(true) => bytes -= cached,
                // The next look goes on with it.
                Ok(false) => break,
                Err(e) => {
                    // Something may be lost that was to be written.
                    self.poisoned = true;
                    return Err(e);
                }
            }
        }
        Ok(())
    }

    /// Changed rows that a commit would have to write to the tables.
    pub fn unwritten(&self) -> usize {
        self.heads.values().map(super::Head::unwritten).sum::<usize>() + self.space.unwritten()
    }

    /// Writes one of those rows.
    fn write_one(&mut self) -> Result<()> {
        match self.heads.values_mut().find(|head| head.unwritten() > 0) {
            Some(head) => head.write_one(&self.db),
            None => self.space.write_one(&self.db),
        }
    }

    /// Writes changed rows to the tables for a commit that is to come, and counts them down from `most`, until few are left, or none
    /// may be written any more, or it is late. True if it is to be gone on with. From now on until the commit, or until each who has asked for
    /// that has said [`Meta::relax`], whoever changes rows writes as many: where new ones come as fast as these go, few would never be left.
    ///
    /// # Errors
    /// As the database; the metadata is then poisoned.
    pub fn write_back(&mut self, most: &mut usize, comes: Comes) -> Result<bool> {
        *self.pace.of(comes) = true;
        let mut left = self.unwritten().saturating_sub(UNWRITTEN_FEW);
        if left == 0 {
            return Ok(false);
        }
        self.writing(|meta| {
            while left > 0 && *most > 0 {
                meta.write_one()?;
                (left, *most) = (left - 1, *most - 1);
                if meta.db.is_late() {
                    return Ok(left > 0 && *most > 0);
                }
            }
            Ok(false)
        })
    }

    /// That is not to come soon any more.
    pub fn relax(&mut self, comes: Comes) {
        *self.pace.of(comes) = false;
    }

    /// A mutation was carried out before which so many rows were unwritten. There are not more of them after it while a commit is to come.
    pub(super) fn keep_pace(&mut self, before: usize) -> Result<()> {
        let most = UNWRITTEN_FEW.max(before.saturating_sub(1));
        let left = self.unwritten().saturating_sub(most);
        for written in 1..=left {
            self.write_one()?;
            // One step of many is left to whoever commits.
            if written >= WRITTEN_AT_LEAST && self.db.is_late() {
                break;
            }
        }
        Ok(())
    }

    /// Nobody has used anything for a while: all that is cached goes. False: it has become late, and is to be gone on with.
    ///
    /// # Errors
    /// As the database; the metadata is then poisoned.
    pub fn shed(&mut self) -> Result<bool> {
        for head in self.heads.values_mut() {
            let dropped = head.drop_caches(&self.db);
            self.poisoned |= dropped.is_err();
            if !dropped? {
                return Ok(false);
            }
        }
        self.db.shed();
        Ok(true)
    }

    /// Nobody uses a volume any more: what is cached of it goes. False: it has become late, and is to be gone on with.
    ///
    /// # Errors
    /// As the database; the metadata is then poisoned.
    pub fn rest(&mut self, volume: VolumeId) -> Result<bool> {
        let Some(head) = self.heads.get_mut(&volume) else { return Ok(true) };
        let dropped = head.drop_caches(&self.db);
        self.poisoned |= dropped.is_err();
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Giving back went on while a commit waited for its turn, and the commit had all that was changed meanwhile to write.
    #[test]
    fn who_has_come_lets_the_others_wait_as_before() {
        let mut pace = Pace::default();
        (*pace.of(Comes::Commit), *pace.of(Comes::Reclaiming)) = (true, true);
        *pace.of(Comes::Reclaiming) = false;
        assert!(pace.is_kept());
        *pace.of(Comes::Commit) = false;
        assert!(!pace.is_kept());
    }
}
