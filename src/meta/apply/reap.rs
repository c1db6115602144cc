//! Freeing orphans.

use super::super::chunk::{Effort, Taken};
use super::super::error::{MetaError, Refusal, Result};
use super::super::mutation::Outcome;
use super::super::types::{CHUNK_BLOCKS, Ino, XattrBits};
use super::super::xattr;
use super::Applier;

impl Applier<'_> {
    pub(super) fn reap(&mut self, ino: Ino, chunks: u32) -> Result<Outcome> {
        let mut inode = self.inode(ino)?;
        if inode.nlink != 0 || !self.head.orphans.contains(ino) {
            return Err(Refusal::Invalid.into());
        }
        let wrong = || MetaError::damaged(format!("inode {ino} has a wrong count of blocks"));

        self.begin_writing();
        let limit = chunks.max(1) as usize;
        let mut freed = 0;
        let mut unfinished = false;
        // A file with no blocks has no chunks.
        if inode.blocks > 0 {
            let (rows, next) = self.rows_of(ino, inode.blocks, limit)?;
            for row in &rows {
                freed += match self.head.chunks.take_row(self.db, &self.head.lineage, ino, *row)? {
                    Taken::Extents(map) => self.drop_extents(map.extents())?,
                    Taken::Reserved(chunks) => (chunks * u64::from(CHUNK_BLOCKS)) as i64,
                };
            }
            self.head.reaping.insert(ino, next);
            unfinished = rows.len() == limit && inode.blocks > freed.unsigned_abs();
        }
        inode.blocks = inode.blocks.checked_add_signed(-freed).ok_or_else(wrong)?;
        self.head.usage.blocks = self.head.usage.blocks.checked_add_signed(-freed).ok_or_else(wrong)?;
        if unfinished {
            self.put(inode)?;
            return Ok(Outcome { unfinished, ..Outcome::default() });
        }
        self.head.reaping.remove(&ino);
        let are_gone = self.head.reaping_xattrs.remove(&ino).is_some();
        if inode.xattrs.has(XattrBits::ANY) && !are_gone {
            xattr::remove_all(self.db, &self.head.lineage, &mut self.head.usage, ino)?;
        }
        self.head.inodes.remove(self.db, &self.head.lineage, &mut self.head.usage, &inode)?;
        self.head.usage.inodes = self.head.usage.inodes.checked_sub(1).ok_or_else(wrong)?;
        self.head.orphans.remove(ino);
        Ok(Outcome::default())
    }

    /// The next rows of chunks of a file of `blocks` blocks, at most `limit`, and where to go on. Most files have only the first
    /// chunk, and the table need not be asked.
    fn rows_of(&mut self, ino: Ino, blocks: u64, limit: usize) -> Result<(Vec<u64>, u64)> {
        let (db, lineage) = (self.db, &self.head.lineage);
        if self.head.chunks.own_blocks(db, lineage, (ino, 0))? == blocks {
            return Ok((vec![0], u64::MAX));
        }
        let mut from = self.head.reaping.get(&ino).copied().unwrap_or(0);
        let mut out = Vec::new();
        while out.len() < limit && from < u64::MAX {
            let effort = Effort::rows((limit - out.len()) as u64);
            let (rows, next) = self.head.chunks.rows(db, lineage, ino, from, effort)?;
            out.extend(rows);
            from = next;
        }
        if out.len() > limit {
            from = out[limit];
            out.truncate(limit);
        }
        Ok((out, from))
    }
}
