//! Changing the size of files.

use super::attr::{SetAttr, kill_privileges_of};
use super::content::{BLOCK, Block, ContentChange};
use super::types::{Attr, Caller, Rights};
use super::{Fs, FsError, Ino, Result};
use crate::meta::{FILE_MAX, MapRun, MapTo, Part, Side, Timestamp};
use std::ops::Range;

const FILE_BLOCKS: u64 = FILE_MAX / BLOCK;

/// A change of size under way: see [`Fs::resize_some`].
#[derive(Clone, Copy, Debug)]
pub struct Resizing {
    ino: Ino,
    size: u64,
    set: SetAttr,
    caller: Caller,
    /// From this block on there is nothing any more.
    end: u64,
    /// The block that the new end cuts through is as it is to be.
    has_tail: bool,
    /// What is cut off already: from where to where the file ended before.
    cut: Option<(u64, u64)>,
}

impl Resizing {
    fn new(ino: Ino, size: u64, set: SetAttr, caller: Caller) -> Self {
        Self { ino, size, set, caller, end: FILE_BLOCKS, has_tail: false, cut: None }
    }
}

fn hole(blocks: Range<u64>) -> MapRun {
    MapRun { first: blocks.start, count: blocks.end - blocks.start, to: MapTo::Hole }
}

impl Fs {
    /// A change of the size of a file and of other attributes, that is to be carried out by [`Fs::resize_some`]; `None` if `set`
    /// has no size.
    pub fn resizing(ino: Ino, set: &SetAttr, caller: Caller) -> Option<Resizing> {
        set.size.map(|size| Resizing::new(ino, size, *set, caller))
    }

    /// Cuts a file to `size` bytes, of which no program knows. The caller has the content lock to itself.
    pub(super) fn cut_unasked(&self, ino: Ino, size: u64) -> Result<()> {
        let mut resizing = Resizing::new(ino, size, SetAttr::default(), Caller::ROOT);
        while self.resize_locked(&mut resizing)?.is_none() {}
        Ok(())
    }

    /// Carries on with a change of size, as far as little enough work for one hold of the metadata goes; the new attributes when
    /// all of it is done. What is cut off goes from the end of the file to its new end, and each step is an operation of its own:
    /// after each the file is a shorter one. The block that the new end cuts through is read and written anew by the first step, so
    /// that damage to it and a full disk refuse the whole; from then on it is zero behind the new end.
    ///
    /// # Errors
    /// As truncate(2). What was done before stays, and programs that go on with the file are told that something is missing: the
    /// kernel does not learn of another size than the one that it knows.
    pub fn resize_some(&self, resizing: &mut Resizing) -> Result<Option<Attr>> {
        let result = self.resize_step(resizing);
        if let (Err(e), Some((now, before))) = (&result, resizing.cut)
            && now < before
            && *e != FsError::Away
        {
            self.losses.note(resizing.ino, &(now..before), *e);
        }
        result
    }

    fn resize_step(&self, resizing: &mut Resizing) -> Result<Option<Attr>> {
        self.begin_change()?;
        let Resizing { ino, size, ref set, .. } = *resizing;
        if self.store.may_have_flags() {
            self.may_set_attr(&self.store.meta().inode(self.volume, ino)?, set)?;
        }
        if size > FILE_MAX {
            return Err(FsError::TooLarge);
        }
        let _order = self.locks.alone(ino);
        let done = self.resize_locked(resizing)?;
        if done.is_some() {
            self.losses.note_size(ino, size);
        }
        Ok(done)
    }

    /// As [`Fs::resize_some`], for a caller that has the content lock to itself.
    fn resize_locked(&self, resizing: &mut Resizing) -> Result<Option<Attr>> {
        let Resizing { ino, size, ref set, caller, .. } = *resizing;
        let mut change = ContentChange::default();
        let mut tail: Option<Block> = None;
        self.prepare_part(ino, size.div_ceil(BLOCK)..resizing.end, Side::End)?;
        let (inode, part) = {
            let mut meta = self.store.meta();
            let inode = self.regular(&mut meta, ino)?;
            let first_gone = size.div_ceil(BLOCK);
            // Also at its own end: what was reserved behind that goes, as on ext4 and XFS.
            let has_more = size <= inode.size && inode.blocks > 0 && first_gone < resizing.end;
            let part = match has_more {
                true => Some(meta.part(self.volume, ino, first_gone..resizing.end, Side::End)?),
                false => None,
            };
            (inode, part)
        };
        let (old_size, rights) = (inode.size, caller.rights(&inode));
        if let Some(Part { blocks, is_hole }) = part {
            if blocks.start > size.div_ceil(BLOCK) {
                let mut tail = None;
                if !std::mem::replace(&mut resizing.has_tail, true) {
                    // What would refuse the last step refuses the first.
                    let mut meta = self.store.meta();
                    let inode = self.regular(&mut meta, ino)?;
                    self.attr_change(&mut meta, &inode, set, rights)?;
                    drop(meta);
                    if size < old_size {
                        tail = self.cut_block(ino, size)?;
                    }
                }
                resizing.end = blocks.start;
                if !is_hole || tail.is_some() {
                    self.cut_to(resizing, blocks, (old_size, rights), tail.as_ref())?;
                }
                return Ok(None);
            }
            change.ranges.push(hole(blocks));
        }
        if size < old_size {
            tail = self.cut_block(ino, size)?;
        }
        if let Some(block) = &tail {
            change.data.push((size / BLOCK, &block[..]));
        }
        let turn = self.store.long_turn();
        self.change_content(ino, &change, |meta, inode| {
            let now = Timestamp::now();
            let mut attr = self.attr_change(meta, inode, set, rights)?;
            let kill = kill_privileges_of(inode, rights);
            attr.permissions = attr.permissions.or(kill.permissions);
            attr.drop_capability |= kill.drop_capability;
            attr.mtime = attr.mtime.or(Some(now));
            Ok((Some(size), attr))
        })?;
        drop(turn);
        // Not counted as telling the kernel: when it only brings its own times here, it does not look at the reply.
        Ok(Some(self.attr(&self.store.meta().inode(self.volume, ino)?)))
    }

    /// Frees `blocks`, behind which there is nothing, and lets the file of `old_size` end before them; `tail` becomes the block that
    /// the new end is to cut through. The caller has the content lock.
    fn cut_to(
        &self,
        resizing: &mut Resizing,
        blocks: Range<u64>,
        (old_size, rights): (u64, Rights),
        tail: Option<&Block>,
    ) -> Result<()> {
        let size = (blocks.start * BLOCK).min(old_size);
        let mut change = ContentChange { ranges: vec![hole(blocks)], ..Default::default() };
        change.data.extend(tail.map(|block| (resizing.size / BLOCK, &block[..])));
        let _turn = self.store.long_turn();
        self.change_content(resizing.ino, &change, |_, inode| {
            let now = Timestamp::now();
            let mut attr = kill_privileges_of(inode, rights);
            (attr.mtime, attr.ctime) = (Some(now), Some(now));
            Ok((Some(size), attr))
        })?;
        let before = resizing.cut.map_or(old_size, |(_, before)| before);
        resizing.cut = Some((size, before));
        Ok(())
    }

    /// The block that `size` cuts through, with zeros behind the cut; `None` if it is so already. What lies behind
    /// the end of a file is always zero, so that a file can grow without a look at its last block.
    fn cut_block(&self, ino: Ino, size: u64) -> Result<Option<Block>> {
        let within = (size % BLOCK) as usize;
        if within == 0 {
            return Ok(None);
        }
        let mut block = self.block(ino, size / BLOCK)?;
        if block[within..].iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        block[within..].fill(0);
        Ok(Some(block))
    }
}
