//! Reading files.

use super::content::{BLOCK, block_of};
use super::{Fs, FsError, Ino, Result, Wait};
use crate::meta::Piece;
use crate::open_store::Incident;
use crate::store::{BLOCK_BYTES, ReadError, Run};

/// Requests up to this size go through the block cache; larger ones are streams, which would only wash it out.
const CACHED_READ_BYTES: usize = 64 * 1024;

impl Fs {
    /// Reads from `offset` into `out`; returns the bytes read, fewer only at the end of the file.
    ///
    /// # Errors
    /// `Io` for a damaged block (the log names it), `WouldWait` with [`Wait::No`], `Away`, `IsDirectory`, `Invalid`.
    pub fn read(&self, ino: Ino, offset: u64, out: &mut [u8], wait: Wait) -> Result<usize> {
        loop {
            let (pieces, len) = {
                let mut meta = self.store.meta();
                let inode = self.regular(&mut meta, ino)?;
                let len = inode.size.saturating_sub(offset).min(out.len() as u64) as usize;
                if len == 0 {
                    return Ok(0);
                }
                let first = offset / BLOCK;
                let count = (offset + len as u64).div_ceil(BLOCK) - first;
                let ahead = self.readahead.note(ino, offset, len, inode.size);
                let pieces = meta.pieces(self.volume, ino, first, count)?;
                let ahead = match ahead {
                    Some((first, count)) => meta.pieces(self.volume, ino, first, count)?,
                    None => Vec::new(),
                };
                self.accessed(&mut meta, &inode);
                drop(meta);
                self.store.segments().prefetch(ahead.iter().filter_map(|piece| piece.run));
                (pieces, len)
            };
            match self.fetch(&pieces, offset, out, len, wait) {
                Ok(()) => return Ok(len),
                Err(e) => {
                    let ranges: Vec<(u64, u64)> =
                        pieces.iter().map(|piece| (piece.first, u64::from(piece.count))).collect();
                    self.explain_read(ino, &ranges, e)?;
                }
            }
        }
    }

    /// Decides about a read that failed: `Ok` says that the file has changed meanwhile, and to try again.
    pub(super) fn explain_read(&self, ino: Ino, ranges: &[(u64, u64)], error: ReadError) -> Result<()> {
        let suspect = match &error {
            ReadError::WouldWait => return Err(FsError::WouldWait),
            ReadError::Unsealed { addr, .. }
            | ReadError::Absent { addr, .. }
            | ReadError::Away { addr, .. }
            | ReadError::Unfetched { addr, .. } => Some(Run::new(*addr, 1)),
            // The segment's file is gone or not ours: true damage, unless nothing refers to it any more.
            ReadError::Io { .. } | ReadError::Foreign { .. } => None,
        };
        let mut meta = self.store.meta();
        for (first, count) in ranges {
            let pieces = meta.pieces(self.volume, ino, *first, *count)?;
            let is_in = |run: Run| error.is_in(&self.store.segments().path(run.start.segment));
            let at = match suspect {
                Some(block) => block_of(&pieces, block),
                None => pieces.iter().find(|piece| piece.run.is_some_and(is_in)).map(|piece| piece.first),
            };
            if let Some(block) = at {
                drop(meta);
                if matches!(error, ReadError::Away { .. }) {
                    return Err(FsError::Away);
                }
                self.store.segments().report(&error);
                self.store.health().met(Incident::Unreadable {
                    volume: self.volume,
                    ino,
                    offset: block * BLOCK,
                    addr: suspect.map(|run| run.start),
                    why: error.to_string(),
                });
                return Err(FsError::Io);
            }
        }
        Ok(())
    }

    /// Fills the first `len` bytes of `out` with the file's bytes from `offset` on, as `pieces` has them.
    fn fetch(
        &self,
        pieces: &[Piece],
        offset: u64,
        out: &mut [u8],
        len: usize,
        wait: Wait,
    ) -> Result<(), ReadError> {
        // Where the buffer has room for the whole last block, it is read in place.
        let room = len.next_multiple_of(BLOCK_BYTES).min(out.len());
        let out = &mut out[..room];
        let mut done = 0usize;
        for piece in pieces {
            let Some(run) = piece.run else { continue };
            let start = (piece.first * BLOCK).max(offset);
            let end = ((piece.first + u64::from(piece.count)) * BLOCK).min(offset + room as u64);
            let (from, to) = ((start - offset) as usize, (end - offset) as usize);
            out[done..from].fill(0);
            self.fetch_run(run, start - piece.first * BLOCK, &mut out[from..to], wait)?;
            done = to;
        }
        out[done..].fill(0);
        Ok(())
    }

    /// Fills `out` with the bytes of `run` from byte `skip` on.
    fn fetch_run(&self, run: Run, skip: u64, out: &mut [u8], wait: Wait) -> Result<(), ReadError> {
        let mut out = out;
        let mut block = (skip / BLOCK) as u32;
        let within = (skip % BLOCK) as usize;
        if within != 0 {
            let count = out.len().min(BLOCK_BYTES - within);
            let (part, rest) = out.split_at_mut(count);
            self.fetch_part(run.part(block, 1), within, part, wait)?;
            out = rest;
            block += 1;
        }
        let whole = (out.len() / BLOCK_BYTES) as u32;
        let (middle, tail) = out.split_at_mut(whole as usize * BLOCK_BYTES);
        if whole > 0 {
            self.read_run(run.part(block, whole), middle, wait)?;
        }
        if !tail.is_empty() {
            self.fetch_part(run.part(block + whole, 1), 0, tail, wait)?;
        }
        Ok(())
    }

    fn fetch_part(&self, block: Run, within: usize, out: &mut [u8], wait: Wait) -> Result<(), ReadError> {
        let mut whole = [0u8; BLOCK_BYTES];
        self.read_run(block, &mut whole, wait)?;
        out.copy_from_slice(&whole[within..within + out.len()]);
        Ok(())
    }

    /// Reads whole blocks, through the cache where that pays.
    pub(super) fn read_run(&self, run: Run, out: &mut [u8], wait: Wait) -> Result<(), ReadError> {
        let (segments, cache) = (self.store.segments(), self.store.cache());
        if out.len() > CACHED_READ_BYTES {
            return segments.read(run, out, wait);
        }
        let mut block = 0;
        while block < run.count {
            let at = block as usize * BLOCK_BYTES;
            if cache.get(run.start.plus(block), &mut out[at..at + BLOCK_BYTES]) {
                block += 1;
                continue;
            }
            // A run of blocks that are missing is read in one piece.
            let mut end = block + 1;
            while end < run.count && {
                let at = end as usize * BLOCK_BYTES;
                !cache.get(run.start.plus(end), &mut out[at..at + BLOCK_BYTES])
            } {
                end += 1;
            }
            let missing = &mut out[at..end as usize * BLOCK_BYTES];
            segments.read(run.part(block, end - block), missing, wait)?;
            for (i, bytes) in missing.chunks_exact(BLOCK_BYTES).enumerate() {
                cache.put(run.start.plus(block + i as u32), bytes);
            }
            // The block at `end`, if any, has just been copied from the cache.
            block = end + 1;
        }
        Ok(())
    }
}
