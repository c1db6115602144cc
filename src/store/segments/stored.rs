//! Blocks as they are stored: reading them for a copy of the store elsewhere, and putting them in their places.

use super::super::address::{BlockAddr, Run};
use super::super::layout::{BLOCK_BYTES, GROUP_BLOCKS, SEAL_BYTES, data_offset, in_group, seal_offset};
use super::super::segment::{SegmentFile, segment_name};
use super::{ReadError, Segments, Wait};
use crate::backing::{OpenMode, is_unreadable};
use std::borrow::Cow;
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;

/// Blocks of a run as they are stored, those of them whose seals open.
#[derive(Debug)]
pub struct StoredBlocks {
    /// Where they lie: blocks that follow each other.
    pub run: Run,
    /// The key epoch that they are sealed in; 0 in a plain store.
    pub key_epoch: u64,
    /// 16 bytes for each block.
    pub seals: Vec<u8>,
    /// 4096 bytes for each block.
    pub contents: Vec<u8>,
}

impl StoredBlocks {
    /// `count` of them, from the one at `skip` on.
    pub(super) fn part(&self, skip: u32, count: u32) -> Self {
        let of = |bytes: &[u8], each: usize| {
            bytes.get(skip as usize * each..(skip + count) as usize * each).unwrap_or_default().to_vec()
        };
        Self {
            run: self.run.part(skip, count),
            key_epoch: self.key_epoch,
            seals: of(&self.seals, SEAL_BYTES),
            contents: of(&self.contents, BLOCK_BYTES),
        }
    }
}

impl Segments {
    /// The key epoch of a segment, 0 in a plain store; `None` if that is not known.
    pub fn key_epoch(&self, id: u64) -> Option<u64> {
        self.file(id).ok()?.sealer.key_epoch()
    }

    /// Reads the blocks of `run` as they are in the file. Blocks that are not whole, because they were given back or are damaged, or because
    /// the host's disk cannot read them or their seals, are left out, also where all of the segment is missing; so there can be several runs,
    /// or none.
    ///
    /// # Errors
    /// As the backing files.
    pub fn read_stored(&self, run: Run) -> Result<Vec<StoredBlocks>, ReadError> {
        let mut out = Vec::new();
        let segment = match self.file(run.start.segment) {
            Ok(segment) => segment,
            Err(ReadError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(out),
            // Nothing in it is of this store, or it can be opened by nobody.
            Err(ReadError::Foreign { .. }) => return Ok(out),
            Err(e) => return Err(e),
        };
        let mut index = run.start.index;
        while index < run.end_index() {
            let count = in_group(index, run.end_index() - index);
            let first = BlockAddr { segment: segment.id, index };
            self.read_stored_group(&segment, Run::new(first, count), &mut out)?;
            index += count;
        }
        Ok(out)
    }

    /// Puts blocks in their places that were read elsewhere, as they are if the segment here is sealed with the same keys, and sealed
    /// again if not. They are durable after a sync of the segment. Blocks that do not open are an error, and not written.
    ///
    /// # Errors
    /// As the backing files; [`ReadError::Unsealed`] and [`ReadError::Foreign`].
    pub fn put_stored(&self, blocks: &StoredBlocks) -> Result<(), ReadError> {
        let id = blocks.run.start.segment;
        let io = |source| ReadError::Io { path: self.path(id), source };
        let foreign = |what: &str| ReadError::Foreign { path: self.path(id), what: what.into() };
        let from = self.sealer.of_epoch(blocks.key_epoch);
        let from =
            from.ok_or_else(|| foreign("blocks for it are sealed with keys that this store does not have"))?;
        let segment = self.file_for(id, blocks.key_epoch).map_err(io)?;
        let count = blocks.run.count as usize;
        if blocks.seals.len() != count * SEAL_BYTES || blocks.contents.len() != count * BLOCK_BYTES {
            return Err(foreign("blocks for it are cut off"));
        }
        let (mut seals, mut contents) = (Cow::Borrowed(&blocks.seals), Cow::Borrowed(&blocks.contents));
        let same = segment.sealer.key_epoch() == Some(blocks.key_epoch);
        let each = blocks.seals.chunks_exact(SEAL_BYTES).zip(blocks.contents.chunks_exact(BLOCK_BYTES));
        let mut opened = [0; BLOCK_BYTES];
        for (skip, (seal, content)) in (0..).zip(each) {
            let addr = blocks.run.start.plus(skip);
            opened.copy_from_slice(content);
            if !from.open(addr, &mut opened, seal) {
                return Err(self.unsealed(addr));
            }
            if !same {
                let at = skip as usize;
                let content = &mut contents.to_mut()[at * BLOCK_BYTES..(at + 1) * BLOCK_BYTES];
                // The message that its address stands for under any key.
                let seal = segment.sealer.seal(addr, &opened, content).map_err(|e| io(e.into()))?;
                seals.to_mut()[at * SEAL_BYTES..(at + 1) * SEAL_BYTES].copy_from_slice(&seal);
            }
        }
        let mut done = 0;
        while done < count {
            let index = blocks.run.start.index + done as u32;
            let next = in_group(index, (count - done) as u32) as usize;
            let content = &contents[done * BLOCK_BYTES..(done + next) * BLOCK_BYTES];
            let seal = &seals[done * SEAL_BYTES..(done + next) * SEAL_BYTES];
            segment.file.write_at(&[IoSlice::new(content)], data_offset(index)).map_err(io)?;
            segment.file.write_at(&[IoSlice::new(seal)], seal_offset(index)).map_err(io)?;
            segment.touch(index);
            done += next;
        }
        self.note_came(id, count as u64);
        Ok(())
    }

    /// The file of a segment, made with a header of this key epoch if it is not there.
    fn file_for(&self, id: u64, key_epoch: u64) -> io::Result<Arc<SegmentFile>> {
        match self.file(id) {
            Ok(segment) if segment.sealer.key_epoch().is_some() => return Ok(segment),
            // Its header is damaged, or not there yet.
            Ok(_) => drop(self.open.lock().pop(&id)),
            Err(ReadError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(ReadError::Io { source, .. }) => return Err(source),
            Err(e) => return Err(io::Error::new(io::ErrorKind::InvalidData, e.to_string())),
        }
        let file = self.dir.open(&segment_name(id), OpenMode::Create)?;
        self.restore_header_of(id, key_epoch, &*file)?;
        self.file(id).map_err(|e| io::Error::other(e.to_string()))
    }

    fn read_stored_group(
        &self,
        segment: &SegmentFile,
        run: Run,
        out: &mut Vec<StoredBlocks>,
    ) -> Result<(), ReadError> {
        let io = |source| ReadError::Io { path: self.dir.path(&segment_name(segment.id)), source };
        let mut page = [0u8; BLOCK_BYTES];
        let mut contents = vec![0u8; run.count as usize * BLOCK_BYTES];
        let seals = run.count as usize * SEAL_BYTES;
        let first = run.start.index;
        let got = if first.is_multiple_of(GROUP_BLOCKS) {
            let both = &mut [IoSliceMut::new(&mut page), IoSliceMut::new(&mut contents)];
            let got = segment.read(both, seal_offset(first), Wait::Passing);
            got.map(|got| got.map(|got| got.saturating_sub(BLOCK_BYTES)))
        } else {
            segment.read_apart(&mut page[..seals], &mut contents, first, Wait::Passing)
        };
        match got {
            Ok(got) => contents[got.unwrap_or(0)..].fill(0),
            Err(e) if is_unreadable(&e) => {
                segment.read_each(&mut page[..seals], &mut contents, first).map_err(io)?;
            }
            Err(e) => return Err(io(e)),
        }
        let blocks = page[..seals].chunks_exact(SEAL_BYTES).zip(contents.chunks_exact(BLOCK_BYTES));
        for (skip, (seal, content)) in (0..).zip(blocks) {
            let block = run.part(skip, 1);
            let Some(key_epoch) = segment.sealer.epoch_of(block.start, content, seal) else { continue };
            match out.last_mut() {
                Some(last) if last.run.end_index() == block.start.index && last.key_epoch == key_epoch => {
                    last.run.count += 1;
                    last.seals.extend_from_slice(seal);
                    last.contents.extend_from_slice(content);
                }
                _ => out.push(StoredBlocks {
                    run: block,
                    key_epoch,
                    seals: seal.to_vec(),
                    contents: content.to_vec(),
                }),
            }
        }
        Ok(())
    }
}
