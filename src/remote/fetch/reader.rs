//! Reading blocks out of the objects that have them.

use super::super::catalog::{Catalog, Place};
use super::super::error::{RemoteError, Result};
use super::super::format::{Commit, Contents, PartRef, part_range, split_blocks};
use super::super::log::RECORD_OBJECT_MAX;
use super::super::names;
use super::super::objects::Objects;
use super::super::seal::RemoteSealer;
use super::pattern::Pattern;
use crate::store::{BLOCK_BYTES, BlockAddr, Run, SEAL_BYTES, StoredBlocks};
use lru::LruCache;
use parking_lot::Mutex;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Records whose blocks are kept in memory.
const RECORDS: NonZeroUsize = NonZeroUsize::new(8).unwrap();

/// Reads what a catalog knows.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) objects: Arc<dyn Objects>,
    pub(super) sealer: RemoteSealer,
    pub(super) catalog: Arc<Mutex<Catalog>>,
    records: Mutex<LruCache<u64, Arc<Commit>>>,
    /// How those go on who read.
    pub(super) pattern: Mutex<Pattern>,
    /// Blocks that came so far.
    pub(super) blocks: AtomicU64,
}

impl Reader {
    pub(super) fn new(objects: Arc<dyn Objects>, sealer: RemoteSealer, catalog: Arc<Mutex<Catalog>>) -> Self {
        let records = Mutex::new(LruCache::new(RECORDS));
        Self { objects, sealer, catalog, records, pattern: Mutex::default(), blocks: AtomicU64::new(0) }
    }

    fn part_blocks(&self, part: &PartRef, run: Run) -> Result<Vec<StoredBlocks>> {
        let range = part_range(part, run.start.index, run.count);
        let began = Instant::now();
        let bytes = self.objects.get_range(&names::part(part), range)?;
        self.pattern.lock().came(bytes.len(), began.elapsed());
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
        let bytes = self.objects.get(&name, RECORD_OBJECT_MAX)?;
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

    /// Reads what is known of a run.
    pub(super) fn fetch(&self, run: Run) -> Result<Vec<StoredBlocks>> {
        let places = self.catalog.lock().find(run);
        let mut out = Vec::new();
        for (run, place) in places {
            out.extend(self.fetch_from(&place, run)?);
        }
        Ok(out)
    }

    pub(super) fn fetch_from(&self, place: &Place, run: Run) -> Result<Vec<StoredBlocks>> {
        let blocks = match place {
            Place::Part(part) => self.part_blocks(part, run)?,
            Place::Record(number) => self.record_blocks(*number, run)?,
        };
        let count: u64 = blocks.iter().map(|blocks| u64::from(blocks.run.count)).sum();
        self.blocks.fetch_add(count, Ordering::Relaxed);
        Ok(blocks)
    }
}
