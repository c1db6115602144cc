//! Freeing orphans.

use super::super::error::{MetaError, Refusal, Result};
use super::super::mutation::Outcome;
use super::super::types::Ino;
use super::super::xattr;
use super::Applier;

impl Applier<'_> {
    pub(super) fn reap(&mut self, ino: Ino, chunks: u32) -> Result<Outcome> {
        let mut inode = self.inode(ino)?;
        if inode.nlink != 0 || !self.head.orphans.contains_key(&ino) {
            return Err(Refusal::Invalid.into());
        }
        let wrong = || MetaError::damaged(format!("inode {ino} has a wrong count of blocks"));

        self.begin_writing();
        let limit = chunks.max(1) as usize;
        let mut freed = 0;
        let mut unfinished = false;
        // A file with no blocks has no chunks.
        if inode.blocks > 0 {
            let indices = self.chunks_of(ino, inode.blocks, limit + 1)?;
            unfinished = indices.len() > limit;
            for idx in indices.into_iter().take(limit) {
                let map = self.head.chunks.remove(self.db, &self.head.lineage, (ino, idx))?;
                freed += self.drop_extents(map.extents())?;
            }
        }
        inode.blocks = inode.blocks.checked_add_signed(-freed).ok_or_else(wrong)?;
        self.head.usage.blocks = self.head.usage.blocks.checked_add_signed(-freed).ok_or_else(wrong)?;
        if unfinished {
            self.put(inode)?;
            return Ok(Outcome { orphan: None, unfinished });
        }
        if inode.xattrs.0 != 0 {
            xattr::remove_all(self.db, &self.head.lineage, &mut self.head.usage, ino)?;
        }
        self.head.inodes.remove(self.db, &self.head.lineage, &mut self.head.usage, &inode)?;
        self.head.usage.inodes = self.head.usage.inodes.checked_sub(1).ok_or_else(wrong)?;
        if self.head.orphans.remove(&ino) == Some(true) {
            self.head.reaped.push(ino);
        }
        Ok(Outcome::default())
    }

    /// The chunks of a file of `blocks` blocks that are no holes, at most `limit`. Most files have only the first, and the
    /// table need not be asked.
    fn chunks_of(&mut self, ino: Ino, blocks: u64, limit: usize) -> Result<Vec<u64>> {
        let (db, lineage) = (self.db, &self.head.lineage);
        if self.head.chunks.blocks(db, lineage, (ino, 0))? == blocks {
            return Ok(vec![0]);
        }
        self.head.chunks.indices(db, lineage, ino, 0..u64::MAX, limit)
    }
}
