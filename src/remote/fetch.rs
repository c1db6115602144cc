//! Blocks on demand: what is not here, or is damaged here, from the remote.
//!
//! What comes is whole blocks as they are stored; each is opened before it is put into its segment. At least 256 KiB come at a time, as
//! far as they lie side by side in one object, and more when one piece after the other is asked for.

use super::catalog::{Catalog, Place};
use super::error::{RemoteError, Result};
use super::format::{Commit, Contents, PartRef, part_range, split_blocks};
use super::log::{Log, Seen};
use super::names;
use super::objects::Objects;
use super::seal::RemoteSealer;
use super::ship::read_tables;
use crate::store::{
    BLOCK_BYTES, BlockAddr, Elsewhere, ElsewhereError, Fetched, Run, SEAL_BYTES, StoredBlocks,
};
use lru::LruCache;
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Blocks that come at least, aligned: 256 KiB.
const LEAST: u32 = 64;
/// Blocks that come at most: 4 MiB.
const MOST: u32 = 1024;
/// Records whose blocks are kept in memory.
const RECORDS: NonZeroUsize = NonZeroUsize::new(8).unwrap();

/// Fetches blocks of a store.
#[derive(Debug)]
pub struct Fetcher {
    objects: Arc<dyn Objects>,
    sealer: RemoteSealer,
    catalog: Arc<Mutex<Catalog>>,
    records: Mutex<LruCache<u64, Arc<Commit>>>,
    /// What is being fetched: segment and first block.
    under_way: Mutex<BTreeSet<(u64, u32)>>,
    arrived: Condvar,
    /// Behind what came last, and how much that was.
    last: Mutex<(BlockAddr, u32)>,
    blocks: AtomicU64,
}

impl Fetcher {
    /// Fetches what `catalog` knows, which may come to know more.
    pub fn new(objects: Arc<dyn Objects>, sealer: RemoteSealer, catalog: Arc<Mutex<Catalog>>) -> Self {
        Self {
            objects,
            sealer,
            catalog,
            records: Mutex::new(LruCache::new(RECORDS)),
            under_way: Mutex::default(),
            arrived: Condvar::new(),
            last: Mutex::new((BlockAddr { segment: 0, index: 0 }, 0)),
            blocks: AtomicU64::new(0),
        }
    }

    /// Fetches what a log knows, and nothing that is added later.
    ///
    /// # Errors
    /// Those of requests and of opening.
    pub fn of(log: &Log) -> Result<Self> {
        let mut catalog = Catalog::default();
        let (mut first, mut before) = (1, None);
        let image = log.state().image;
        if image > 0 {
            let record = log.read_needed(image)?;
            let Contents::Image(tables) = &record.contents else {
                let name = names::record(image);
                return Err(RemoteError::damaged(log.sealer().place(), &name, "it is not an image"));
            };
            catalog = read_tables(&**log.objects(), log.sealer(), tables)?;
            (first, before) = (image + 1, Some(record.seal));
        }
        for record in log.chain(first, before) {
            let record = record?;
            if let Contents::Commit(commit) = &record.contents {
                catalog.apply(record.number, commit);
            }
        }
        let objects = Arc::clone(log.objects());
        Ok(Self::new(objects, log.sealer().clone(), Arc::new(Mutex::new(catalog))))
    }

    /// How many of these blocks are nowhere in the remote.
    pub(super) fn missing(&self, runs: &[Run]) -> u64 {
        self.lacking(runs).iter().map(|run| u64::from(run.count)).sum()
    }

    /// Which of these blocks are nowhere in the remote.
    pub(super) fn lacking(&self, runs: &[Run]) -> Vec<Run> {
        let catalog = self.catalog.lock();
        runs.iter().flat_map(|run| catalog.missing(*run, 0)).collect()
    }

    /// The log of where it fetches from, as of now.
    pub(super) fn log(&self, seen: Seen) -> Result<Log> {
        Log::open(Arc::clone(&self.objects), self.sealer.clone(), seen)
    }

    /// The objects that it fetches from.
    pub(super) fn objects(&self) -> &Arc<dyn Objects> {
        &self.objects
    }

    /// Blocks that came so far.
    pub fn fetched_blocks(&self) -> u64 {
        self.blocks.load(Ordering::Relaxed)
    }

    /// What is fetched with the block at `addr`.
    fn piece_of(&self, addr: BlockAddr, count: u32) -> Run {
        let mut last = self.last.lock();
        let in_turn =
            last.0.segment == addr.segment && addr.index <= last.0.index && last.0.index - addr.index < LEAST;
        let wanted = if in_turn { (2 * last.1).clamp(LEAST, MOST) } else { LEAST };
        let first = addr.index / LEAST * LEAST;
        let count = wanted.max((addr.index - first + count).next_multiple_of(LEAST)).min(MOST);
        *last = (BlockAddr { segment: addr.segment, index: first + count }, count);
        Run::new(BlockAddr { segment: addr.segment, index: first }, count)
    }

    fn part_blocks(&self, part: &PartRef, run: Run) -> Result<Vec<StoredBlocks>> {
        let range = part_range(part, run.start.index, run.count);
        let bytes = self.objects.get_range(&names::part(part), range)?;
        let mut out: Vec<StoredBlocks> = Vec::new();
        for block in split_blocks(run.start, &bytes) {
            if block.seal == [0; SEAL_BYTES] && block.stored.iter().all(|byte| *byte == 0) {
                continue;
            }
            match out.last_mut() {
                Some(last) if last.run.end_index() == block.addr.index => {
                    last.run.count += 1;
                    last.seals.extend_from_slice(&block.seal);
                    last.contents.extend_from_slice(&block.stored);
                }
                _ => out.push(StoredBlocks {
                    run: Run::new(block.addr, 1),
                    key_epoch: part.key_epoch.into(),
                    seals: block.seal.to_vec(),
                    contents: block.stored.to_vec(),
                }),
            }
        }
        Ok(out)
    }

    fn commit_of(&self, number: u64) -> Result<Arc<Commit>> {
        if let Some(commit) = self.records.lock().get(&number) {
            return Ok(Arc::clone(commit));
        }
        let name = names::record(number);
        let bytes = self.objects.get(&name, super::log::RECORD_OBJECT_MAX)?;
        let record = self.sealer.open_record(number, bytes)?;
        let Contents::Commit(mut commit) = record.contents else {
            return Err(RemoteError::damaged(
                self.sealer.place(),
                &name,
                "it has no blocks, and others say so",
            ));
        };
        // Only blocks are wanted of it.
        (commit.changed, commit.pieces, commit.redo) = (Vec::new(), Vec::new(), Vec::new());
        let commit = Arc::new(*commit);
        self.records.lock().put(number, Arc::clone(&commit));
        Ok(commit)
    }

    fn record_blocks(&self, number: u64, run: Run) -> Result<Vec<StoredBlocks>> {
        let commit = self.commit_of(number)?;
        let segment = run.start.segment;
        let state = commit.segments.iter().find(|state| state.segment == segment);
        let key_epoch = state.map_or(0, |state| u64::from(state.key_epoch));
        let mut out = Vec::new();
        for blocks in commit.blocks.iter().filter(|blocks| blocks.start.segment == segment) {
            let end = blocks.start.index + blocks.seals.len() as u32;
            let (first, last) = (blocks.start.index.max(run.start.index), end.min(run.end_index()));
            if first >= last {
                continue;
            }
            let (skip, count) = ((first - blocks.start.index) as usize, (last - first) as usize);
            let contents =
                blocks.stored.get(skip * BLOCK_BYTES..(skip + count) * BLOCK_BYTES).unwrap_or_default();
            out.push(StoredBlocks {
                run: Run::new(BlockAddr { segment, index: first }, last - first),
                key_epoch,
                seals: blocks.seals[skip..skip + count].concat(),
                contents: contents.to_vec(),
            });
        }
        Ok(out)
    }

    /// Fetches what is known of a run.
    ///
    /// # Errors
    /// Those of requests and of opening.
    pub fn fetch(&self, run: Run) -> Result<Vec<StoredBlocks>> {
        let places = self.catalog.lock().find(run);
        let mut out = Vec::new();
        for (run, place) in places {
            out.extend(self.fetch_from(&place, run)?);
        }
        Ok(out)
    }

    fn fetch_from(&self, place: &Place, run: Run) -> Result<Vec<StoredBlocks>> {
        let blocks = match place {
            Place::Part(part) => self.part_blocks(part, run)?,
            Place::Record(number) => self.record_blocks(*number, run)?,
        };
        let count: u64 = blocks.iter().map(|blocks| u64::from(blocks.run.count)).sum();
        self.blocks.fetch_add(count, Ordering::Relaxed);
        Ok(blocks)
    }
}

/// Ends a fetch that was begun.
struct UnderWay<'a>(&'a Fetcher, (u64, u32));

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.lock().remove(&self.1);
        self.0.arrived.notify_all();
    }
}

impl Fetcher {
    /// Fetches the block at `addr`, and more ([`Elsewhere::fetch`]), as far as that can be had.
    ///
    /// # Errors
    /// Those of requests and of opening, for the block at `addr`.
    pub(super) fn fetch_around(
        &self,
        addr: BlockAddr,
        count: u32,
        put: &mut dyn FnMut(&StoredBlocks),
    ) -> Result<Fetched> {
        let key = (addr.segment, addr.index / LEAST);
        {
            let mut under_way = self.under_way.lock();
            if under_way.contains(&key) {
                while under_way.contains(&key) {
                    self.arrived.wait(&mut under_way);
                }
                return Ok(Fetched::ByAnother);
            }
            under_way.insert(key);
        }
        let _under_way = UnderWay(self, key);
        let piece = self.piece_of(addr, count);
        let places = self.catalog.lock().find(piece);
        let has = |run: &Run| run.start.index <= addr.index && addr.index < run.end_index();
        let (wanted, around): (Vec<_>, Vec<_>) = places.into_iter().partition(|(run, _)| has(run));
        let mut found = Fetched::Nowhere;
        for (run, place) in wanted {
            for stored in self.fetch_from(&place, run)? {
                if has(&stored.run) {
                    found = Fetched::Given;
                }
                put(&stored);
            }
        }
        // What is wrong with these is said to whoever wants them.
        for (run, place) in around {
            match self.fetch_from(&place, run) {
                Ok(blocks) => blocks.iter().for_each(&mut *put),
                Err(e) => log::debug!("what lies around block {addr} does not come along: {e}"),
            }
        }
        Ok(found)
    }
}

impl Elsewhere for Fetcher {
    fn place(&self) -> &str {
        self.objects.place()
    }

    fn has(&self, addr: BlockAddr) -> bool {
        !self.catalog.lock().find(Run::new(addr, 1)).is_empty()
    }

    fn sealed_before(&self, key_epoch: u64) -> Option<Vec<Run>> {
        Some(self.catalog.lock().sealed_before(key_epoch))
    }

    fn fetch(
        &self,
        addr: BlockAddr,
        count: u32,
        put: &mut dyn FnMut(&StoredBlocks),
    ) -> std::result::Result<Fetched, ElsewhereError> {
        self.fetch_around(addr, count, put).map_err(|e| match e.may_pass() {
            true => ElsewhereError::Away(e.to_string()),
            false => ElsewhereError::Failed(e.to_string()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::directory::Directory;
    use super::super::format::{ObjectSeal, PART_BLOCK_BYTES, PART_BLOCKS_AT};
    use super::*;
    use crate::crypto::Keys;
    use crate::store::StoreId;

    /// It was an error, and whoever wanted it got EIO, because the object of another one was gone.
    #[test]
    fn a_block_is_fetched_although_what_lies_beside_it_is_gone() {
        let tmp = tempfile::tempdir().unwrap();
        let objects: Arc<dyn Objects> = Arc::new(Directory::new(tmp.path()));
        let sealer = RemoteSealer::new(StoreId(7), &Keys::Plain, objects.place());
        let mut catalog = Catalog::default();
        let mut made = Vec::new();
        for first in [0, 5, 10] {
            let (random, seal) = (u64::from(first), ObjectSeal::default());
            let mut part = PartRef { segment: 1, first, count: 5, random, key_epoch: 0, seal };
            let head = sealer.seal_part(&part).unwrap();
            part.seal = head.seal;
            let mut bytes = head.bytes.to_vec();
            assert_eq!(bytes.len() as u64, PART_BLOCKS_AT);
            // (They are not opened here.)
            bytes.resize(bytes.len() + 5 * PART_BLOCK_BYTES as usize, 1);
            objects.put_new(&names::part(&part), bytes.into()).unwrap();
            catalog.add_part(part);
            made.push(names::part(&part));
        }
        let fetcher = Fetcher::new(Arc::clone(&objects), sealer, Arc::new(Mutex::new(catalog)));
        let fetch = |index| {
            let mut came = Vec::new();
            let addr = BlockAddr { segment: 1, index };
            let fetched = fetcher.fetch_around(addr, 1, &mut |blocks| came.push(blocks.run.start.index));
            came.sort_unstable();
            fetched.map(|fetched| (fetched, came))
        };
        assert_eq!(fetch(7).unwrap(), (Fetched::Given, vec![0, 5, 10]));
        objects.delete(&made[0]).unwrap();
        assert_eq!(fetch(7).unwrap(), (Fetched::Given, vec![5, 10]));
        assert_eq!(fetch(12).unwrap(), (Fetched::Given, vec![5, 10]));
        assert!(fetch(3).unwrap_err().is_missing());
        assert_eq!(fetch(20).unwrap(), (Fetched::Nowhere, vec![5, 10]));
    }
}
