//! Blocks on demand: what is not here, or is damaged here, from the remote.
//!
//! What comes is whole blocks as they are stored; each is opened before it is put into its segment. At least 256 KiB come at a time, as
//! far as they lie side by side in one object, and more when one piece after the other is asked for, or one beside the other. What follows
//! on those who read one piece after the other is fetched before they ask for it.

mod ahead;
mod pattern;
mod reader;

use super::catalog::Catalog;
use super::error::Result;
use super::format::Contents;
use super::log::{Log, Seen};
use super::objects::Objects;
use super::seal::RemoteSealer;
use super::ship::read_tables;
use crate::store::{BlockAddr, Elsewhere, ElsewhereError, Fetched, Run, StoredBlocks};
use ahead::{Ahead, Found};
use parking_lot::{Condvar, Mutex};
use pattern::{LEAST, Piece, behind, run_from};
use reader::Reader;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Fetches blocks of a store.
#[derive(Debug)]
pub struct Fetcher {
    reader: Arc<Reader>,
    /// What is being fetched: segment, and block in units of [`LEAST`].
    under_way: Mutex<BTreeSet<(u64, u32)>>,
    arrived: Condvar,
    ahead: Arc<Ahead>,
}

impl Fetcher {
    /// Fetches what `catalog` knows, which may come to know more.
    pub fn new(objects: Arc<dyn Objects>, sealer: RemoteSealer, catalog: Arc<Mutex<Catalog>>) -> Self {
        let reader = Arc::new(Reader::new(objects, sealer, catalog));
        Self { reader, under_way: Mutex::default(), arrived: Condvar::new(), ahead: Arc::default() }
    }

    /// Fetches what a log knows, and nothing that is added later.
    ///
    /// # Errors
    /// Those of requests and of opening.
    pub fn of(log: &Log) -> Result<Self> {
        let mut catalog = Catalog::default();
        let (mut first, mut before) = (1, None);
        if let Some((tables, at)) = log.read_image()? {
            catalog = read_tables(&**log.objects(), log.sealer(), &tables)?;
            (first, before) = (at.number + 1, Some(at.seal));
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
        let catalog = self.reader.catalog.lock();
        runs.iter().flat_map(|run| catalog.missing(*run, 0)).collect()
    }

    /// See [`Catalog::extent`].
    pub(super) fn extent(&self) -> (u64, u64) {
        self.reader.catalog.lock().extent()
    }

    /// The log of where it fetches from, as of now.
    pub(super) fn log(&self, seen: Seen) -> Result<Log> {
        Log::open(Arc::clone(&self.reader.objects), self.reader.sealer.clone(), seen)
    }

    /// The objects that it fetches from.
    pub(super) fn objects(&self) -> &Arc<dyn Objects> {
        &self.reader.objects
    }

    /// Blocks that came so far.
    pub fn fetched_blocks(&self) -> u64 {
        self.reader.blocks.load(Ordering::Relaxed)
    }

    /// Fetches what is known of a run.
    ///
    /// # Errors
    /// Those of requests and of opening.
    pub fn fetch(&self, run: Run) -> Result<Vec<StoredBlocks>> {
        self.reader.fetch(run)
    }
}

/// Ends a fetch that was begun.
struct UnderWay<'a>(&'a Fetcher, Vec<(u64, u32)>);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut under_way = self.0.under_way.lock();
        for key in &self.1 {
            under_way.remove(key);
        }
        drop(under_way);
        self.0.arrived.notify_all();
    }
}

impl UnderWay<'_> {
    /// All of this comes, too, unless somebody else is at it already.
    fn extend(&mut self, run: Run) {
        let mut under_way = self.0.under_way.lock();
        for unit in run.start.index / LEAST..run.end_index().div_ceil(LEAST) {
            let key = (run.start.segment, unit);
            if under_way.insert(key) {
                self.1.push(key);
            }
        }
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
        let mut under_way = UnderWay(self, vec![key]);
        let has = |run: &Run| run.start.index <= addr.index && addr.index < run.end_index();
        match self.ahead.take(addr) {
            Found::Blocks(run, blocks, _taken) => {
                let piece = self.reader.pattern.lock().arrived(addr, run);
                self.begin_behind(piece);
                let is_given = blocks.iter().any(|stored| has(&stored.run));
                blocks.iter().for_each(&mut *put);
                if is_given {
                    return Ok(Fetched::Given);
                }
            }
            Found::ByAnother => return Ok(Fetched::ByAnother),
            Found::Nothing => {}
        }
        let mut piece = self.reader.pattern.lock().piece_of(addr, count);
        piece.run = self.ahead.outside(addr, piece.run);
        self.begin_behind(piece);
        under_way.extend(piece.run);
        let places = self.reader.catalog.lock().find(piece.run);
        let (wanted, around): (Vec<_>, Vec<_>) = places.into_iter().partition(|(run, _)| has(run));
        let mut found = Fetched::Nowhere;
        for (run, place) in wanted {
            for stored in self.reader.fetch_from(&place, run)? {
                if has(&stored.run) {
                    found = Fetched::Given;
                }
                put(&stored);
            }
        }
        // What is wrong with these is said to whoever wants them.
        for (run, place) in around {
            match self.reader.fetch_from(&place, run) {
                Ok(blocks) => blocks.iter().for_each(&mut *put),
                Err(e) => log::debug!("what lies around block {addr} does not come along: {e}"),
            }
        }
        Ok(found)
    }

    /// Begins to fetch what follows, as far as that is worth it.
    fn begin_behind(&self, piece: Piece) {
        let mut run = piece.run;
        for _ in 0..piece.more {
            run = run_from(behind(run), piece.most.min(2 * run.count));
            self.ahead.begin(run, &self.reader);
        }
    }
}

impl Elsewhere for Fetcher {
    fn place(&self) -> &str {
        self.reader.objects.place()
    }

    fn has(&self, addr: BlockAddr) -> bool {
        !self.reader.catalog.lock().find(Run::new(addr, 1)).is_empty()
    }

    fn sealed_before(&self, key_epoch: u64) -> Option<Vec<Run>> {
        Some(self.reader.catalog.lock().sealed_before(key_epoch))
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
    use super::super::format::{ObjectSeal, PART_BLOCK_BYTES, PART_BLOCKS_AT, PartRef};
    use super::super::names;
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

    #[test]
    fn what_follows_is_there_before_somebody_asks_for_it() {
        let tmp = tempfile::tempdir().unwrap();
        let objects: Arc<dyn Objects> = Arc::new(Directory::new(tmp.path()));
        let sealer = RemoteSealer::new(StoreId(7), &Keys::Plain, objects.place());
        let seal = ObjectSeal::default();
        let mut part = PartRef { segment: 1, first: 0, count: 2048, random: 1, key_epoch: 0, seal };
        let head = sealer.seal_part(&part).unwrap();
        part.seal = head.seal;
        let mut bytes = head.bytes.to_vec();
        bytes.resize(bytes.len() + 2048 * PART_BLOCK_BYTES as usize, 1);
        objects.put_new(&names::part(&part), bytes.into()).unwrap();
        let mut catalog = Catalog::default();
        catalog.add_part(part);
        let fetcher = Fetcher::new(Arc::clone(&objects), sealer, Arc::new(Mutex::new(catalog)));
        let fetch = |index| {
            let mut came = 0;
            let addr = BlockAddr { segment: 1, index };
            fetcher
                .fetch_around(addr, 1, &mut |blocks| came += blocks.run.count)
                .map(|fetched| (fetched, came))
        };
        assert_eq!(fetch(3).unwrap(), (Fetched::Given, 64));
        assert_eq!(fetcher.ahead.count(), (0, 0), "nobody knows how it goes on");
        assert_eq!(fetch(64).unwrap(), (Fetched::Given, 128));
        // It comes however long nobody asks.
        while fetcher.ahead.count() != (1, 0) {
            std::thread::yield_now();
        }
        objects.delete(&names::part(&part)).unwrap();
        assert_eq!(fetch(200).unwrap(), (Fetched::Given, 256));
        // What cannot be had is an error of whoever wants it.
        assert!(fetch(448).unwrap_err().is_missing());
        // Nobody waits for what does not come.
        while fetcher.ahead.count() != (0, 0) {
            std::thread::yield_now();
        }
        assert!(fetch(500).unwrap_err().is_missing());
    }

    /// From three on, what was fetched for one was thrown away for another, and fetched once more.
    #[test]
    fn nothing_comes_twice_however_many_read_on() {
        const BLOCKS: u32 = 2560;
        const STREAMS: u64 = 5;
        let tmp = tempfile::tempdir().unwrap();
        let objects: Arc<dyn Objects> = Arc::new(Directory::new(tmp.path()));
        let sealer = RemoteSealer::new(StoreId(7), &Keys::Plain, objects.place());
        let mut catalog = Catalog::default();
        for segment in 1..=STREAMS {
            let seal = ObjectSeal::default();
            let mut part = PartRef { segment, first: 0, count: BLOCKS, random: segment, key_epoch: 0, seal };
            let head = sealer.seal_part(&part).unwrap();
            part.seal = head.seal;
            let mut bytes = head.bytes.to_vec();
            bytes.resize(bytes.len() + BLOCKS as usize * PART_BLOCK_BYTES as usize, 1);
            objects.put_new(&names::part(&part), bytes.into()).unwrap();
            catalog.add_part(part);
        }
        let fetcher = Fetcher::new(objects, sealer, Arc::new(Mutex::new(catalog)));
        let mut next = [0; STREAMS as usize];
        while next.iter().any(|index| *index < BLOCKS) {
            for (segment, next) in (1..).zip(&mut next).filter(|(_, next)| **next < BLOCKS) {
                let (addr, mut came) = (BlockAddr { segment, index: *next }, Vec::new());
                let fetched = fetcher.fetch_around(addr, 1, &mut |blocks| came.push(blocks.run));
                assert_eq!(fetched.unwrap(), Fetched::Given);
                *next = came.iter().map(|run| run.end_index()).max().unwrap();
            }
            // What comes has come before anybody asks for it.
            while fetcher.ahead.count().1 > 0 {
                std::thread::yield_now();
            }
        }
        assert_eq!(fetcher.fetched_blocks(), u64::from(BLOCKS) * STREAMS);
    }
}
