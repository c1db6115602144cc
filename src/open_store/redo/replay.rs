//! Replaying the redo log on top of the last durable commit.
//!
//! The log is read twice: once for its length and the blocks in it, once to apply. A mutation that names blocks is applied
//! only if their seals open: after a power cut the log may know more than the segments. The first mutation whose blocks
//! are neither in their segment nor in the log ends the replay, so that what results is a state that once was.

use super::super::OpenError;
use super::super::requests::{Executed, Latest, Origin};
use super::reader::{Reader, Spot};
use super::record::Entry;
use crate::backing::{Dir, is_full};
use crate::crypto::Keys;
use crate::meta::{Ino, MapTo, Meta, MetaError, Mutation, VolumeId};
use crate::store::{BLOCK_BYTES, BlockAddr, ReadError, Run, SEAL_BYTES, Segments, StoreId, Wait};
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// Blocks that are verified with one read.
const VERIFIED_AT_ONCE: u32 = 256;
/// Epochs that can wait for a replay: the one that was being committed and the one after it.
const EPOCHS: u64 = 2;

/// What a replay did.
#[derive(Debug, Default)]
pub(in crate::open_store) struct Replayed {
    /// Mutations applied.
    pub(in crate::open_store) mutations: u64,
    /// Blocks that they name, to be synced before the next commit.
    pub(in crate::open_store) named: Vec<Run>,
    /// Last requests that changed something, of each reader.
    pub(in crate::open_store) executed: Vec<Executed>,
    /// Files whose contents changed lately: in this epoch, or in the one before.
    pub(in crate::open_store) rewritten: BTreeSet<(VolumeId, Ino)>,
}

struct Replay<'a> {
    dir: &'a dyn Dir,
    store: StoreId,
    keys: &'a Keys,
    segments: &'a Segments,
    /// See [`replay`].
    more_room: &'a dyn Fn() -> bool,
    /// Where the log has blocks.
    copies: BTreeMap<BlockAddr, Spot>,
    latest: Latest,
    done: Replayed,
    /// Segments whose headers are good.
    headers: BTreeSet<u64>,
    buf: Vec<u8>,
}

/// Applies what the log holds behind the commit that `meta` was opened with, in the open transaction. `more_room` is called where
/// the host's disk has no room for blocks that only the log has; false if it could not give any.
///
/// # Errors
/// As the backing files and the metadata.
pub(in crate::open_store) fn replay(
    dir: &dyn Dir,
    store: StoreId,
    keys: &Keys,
    meta: &mut Meta,
    (segments, more_room): (&Segments, &dyn Fn() -> bool),
) -> Result<Replayed, OpenError> {
    let mut replay = Replay {
        dir,
        store,
        keys,
        segments,
        more_room,
        copies: BTreeMap::new(),
        latest: Latest::default(),
        done: Replayed::default(),
        headers: BTreeSet::new(),
        buf: vec![0; VERIFIED_AT_ONCE as usize * BLOCK_BYTES],
    };
    let first = meta.epoch();
    if let Some(before) = first.checked_sub(1) {
        replay.look_at(before)?;
    }
    for epoch in first..first + EPOCHS {
        if !replay.collect(epoch)? {
            break;
        }
    }
    for epoch in first..first + EPOCHS {
        if !replay.apply(epoch, meta)? {
            break;
        }
    }
    replay.done.executed = replay.latest.into_all();
    Ok(replay.done)
}

impl Replay<'_> {
    fn io(&self, source: io::Error) -> OpenError {
        OpenError::Io { path: self.dir.path(""), source }
    }

    fn reader(&self, epoch: u64) -> Result<Reader, OpenError> {
        Reader::open(self.dir, self.store, self.keys, epoch).map_err(|e| self.io(e))
    }

    /// Takes note of what was done in an epoch that is committed, as far as its log is still there.
    fn look_at(&mut self, epoch: u64) -> Result<(), OpenError> {
        let mut reader = self.reader(epoch)?;
        while let Some((entry, _)) = reader.next().map_err(|e| self.io(e))? {
            match entry {
                Entry::Mutation(volume, mutation, origin) => self.note(volume, &mutation, origin),
                Entry::End(executed) => executed.into_iter().for_each(|executed| self.latest.note(executed)),
                Entry::Blocks { .. } => {}
            }
        }
        Ok(())
    }

    fn note(&mut self, volume: VolumeId, mutation: &Mutation, origin: Option<Origin>) {
        if let Some(origin) = origin {
            self.latest.note(Executed::new(origin, volume, mutation));
        }
        if let Mutation::Remap { ino, .. } = mutation {
            self.done.rewritten.insert((volume, *ino));
        }
    }

    /// Notes the blocks that the log of an epoch holds; true if the epoch is whole.
    fn collect(&mut self, epoch: u64) -> Result<bool, OpenError> {
        let mut reader = self.reader(epoch)?;
        loop {
            match reader.next() {
                Ok(Some((Entry::Blocks { run, .. }, spot))) => {
                    self.copies.extend((0..run.count).map(|i| (run.start.plus(i), spot)));
                }
                Ok(Some((Entry::Mutation(..), _))) => {}
                Ok(Some((Entry::End(..), _))) => return Ok(true),
                Ok(None) => return Ok(false),
                Err(e) => return Err(self.io(e)),
            }
        }
    }

    /// Applies the mutations of an epoch; true if the epoch is whole.
    fn apply(&mut self, epoch: u64, meta: &mut Meta) -> Result<bool, OpenError> {
        let mut reader = self.reader(epoch)?;
        loop {
            let (volume, mutation, origin, key_epoch) = match reader.next() {
                Ok(Some((Entry::Mutation(volume, mutation, origin), spot))) => {
                    (volume, mutation, origin, spot.key_epoch)
                }
                Ok(Some((Entry::Blocks { .. }, _))) => continue,
                Ok(Some((Entry::End(executed), _))) => {
                    executed.into_iter().for_each(|executed| self.latest.note(executed));
                    return Ok(true);
                }
                Ok(None) => return Ok(false),
                Err(e) => return Err(self.io(e)),
            };
            let named = named_blocks(&mutation);
            for run in &named {
                if !self.has_blocks(*run, key_epoch)? {
                    return Ok(false);
                }
            }
            match meta.apply(volume, &mutation) {
                Ok(_) => {}
                // What was applied once is never refused on the same state.
                Err(e @ MetaError::Refused(_)) => {
                    log::error!("the redo log holds an impossible change: {e}; what follows it is lost");
                    return Ok(false);
                }
                Err(e) => return Err(e.into()),
            }
            self.note(volume, &mutation, origin);
            self.done.mutations += 1;
            self.done.named.extend(named);
        }
    }

    /// Whether the blocks of a run are what was written; those that only the log has are put in their place first.
    fn has_blocks(&mut self, run: Run, key_epoch: u64) -> Result<bool, OpenError> {
        if self.headers.insert(run.start.segment) {
            let path = || self.segments.path(run.start.segment);
            let restored = self.with_room(|| self.segments.restore_header(run.start.segment, key_epoch));
            restored.map_err(|source| OpenError::Io { path: path(), source })?;
        }
        let mut skip = 0;
        while skip < run.count {
            let part = run.part(skip, (run.count - skip).min(VERIFIED_AT_ONCE));
            if !self.opens(part)? {
                for i in 0..part.count {
                    let block = part.part(i, 1);
                    if !self.opens(block)? && !self.restore(block.start)? {
                        return Ok(false);
                    }
                }
            }
            skip += part.count;
        }
        Ok(true)
    }

    /// Writes something that was synced before; on a full disk, to room that the store has kept for itself.
    fn with_room(&self, write: impl Fn() -> io::Result<()>) -> io::Result<()> {
        loop {
            match write() {
                Err(e) if is_full(&e) && (self.more_room)() => {}
                Err(e) if is_full(&e) => {
                    let what = "the host's disk is full, and what was synced lately must first be written to its place; free \
                                2 MiB";
                    return Err(io::Error::new(e.kind(), what));
                }
                other => return other,
            }
        }
    }

    fn opens(&mut self, run: Run) -> Result<bool, OpenError> {
        let out = &mut self.buf[..run.count as usize * BLOCK_BYTES];
        match self.segments.read(run, out, Wait::Yes) {
            Ok(()) => Ok(true),
            Err(ReadError::Unsealed { .. } | ReadError::Foreign { .. }) => Ok(false),
            Err(ReadError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(ReadError::Io { path, source }) => Err(OpenError::Io { path, source }),
            // (Nothing is fetched before a store is open.)
            Err(
                ReadError::WouldWait
                | ReadError::Absent { .. }
                | ReadError::Away { .. }
                | ReadError::Unfetched { .. },
            ) => Ok(false),
        }
    }

    /// Writes a block from the log to its place; false if the log does not have it.
    fn restore(&mut self, addr: BlockAddr) -> Result<bool, OpenError> {
        let Some(spot) = self.copies.get(&addr).copied() else { return Ok(false) };
        let mut reader = Reader::from(self.dir, self.store, self.keys, spot).map_err(|e| self.io(e))?;
        let Some((Entry::Blocks { run, seals, contents }, _)) = reader.next().map_err(|e| self.io(e))? else {
            return Ok(false);
        };
        let part = addr.index.checked_sub(run.start.index).map(|i| i as usize);
        let seal = part.and_then(|i| seals.get(i * SEAL_BYTES..)?.first_chunk::<SEAL_BYTES>());
        let contents = part.and_then(|i| contents.get(i * BLOCK_BYTES..)?.first_chunk::<BLOCK_BYTES>());
        let (Some(seal), Some(contents)) = (seal, contents) else { return Ok(false) };
        self.with_room(|| self.segments.restore(addr, spot.key_epoch, seal, contents))
            .map_err(|source| OpenError::Io { path: self.segments.path(addr.segment), source })?;
        self.opens(Run::new(addr, 1))
    }
}

/// The new blocks that a mutation names.
fn named_blocks(mutation: &Mutation) -> Vec<Run> {
    let Mutation::Remap { remap, .. } = mutation else { return Vec::new() };
    remap
        .runs
        .iter()
        .filter_map(|run| match run.to {
            MapTo::Data(addr) => Some(Run::new(addr, run.count as u32)),
            _ => None,
        })
        .collect()
}
