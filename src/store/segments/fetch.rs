//! Blocks that are not here, or damaged here, from where they are once more.

use super::super::SEGMENT_DIR;
use super::super::address::{BlockAddr, Run};
use super::super::layout::{BLOCK_BYTES, SEAL_BYTES, SEGMENT_BLOCKS, data_offset, in_group, seal_offset};
use super::stored::StoredBlocks;
use super::{ReadError, Segments, Wait};
use crate::backing::{is_unreadable, read_padded};
use rustc_hash::{FxHashMap, FxHashSet};
use std::fmt::{self, Debug};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// How often a block is fetched before it is damaged.
const FETCHES: u32 = 3;

/// Why blocks could not be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ElsewhereError {
    /// Where they are cannot be reached at present, which passes; where that is, and why.
    Away(String),
    /// They are not there, or not what was put there; where that is, and what is wrong.
    Failed(String),
}

/// What came of fetching a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// It was given to who asked.
    Given,
    /// Somebody else has just fetched it, or has tried to.
    ByAnother,
    /// It is not there.
    Nowhere,
}

/// Where blocks are once more, for when one is not here, or damaged.
pub trait Elsewhere: Send + Sync + Debug {
    /// Where that is, for people.
    fn place(&self) -> &str;

    /// Whether a block is there, or may be.
    fn has(&self, addr: BlockAddr) -> bool;

    /// Whether it is known that it cannot be reached at present: asking for something would be answered so at once.
    fn is_away(&self) -> bool {
        false
    }

    /// The blocks that are there only as they were sealed before this key epoch, ascending; `None` where that is not known.
    fn sealed_before(&self, _key_epoch: u64) -> Option<Vec<Run>> {
        None
    }

    /// Fetches the block at `addr`, what follows of `count` blocks, and what lies around them, as far as it is right to fetch it in one
    /// piece; gives all of that to `put`.
    ///
    /// # Errors
    /// When it cannot be fetched.
    fn fetch(
        &self,
        addr: BlockAddr,
        count: u32,
        put: &mut dyn FnMut(&StoredBlocks),
    ) -> Result<Fetched, ElsewhereError>;
}

/// Contents of blocks of a run that were fetched and could not be kept, by index.
type Loose = FxHashMap<u32, Box<[u8; BLOCK_BYTES]>>;

/// Told of a block that was damaged here and came back. It waits for nothing.
pub type HealedWatcher = Box<dyn Fn(BlockAddr) + Send + Sync>;

/// Blocks that were damaged here and came back.
#[derive(Default)]
pub(super) struct Healed {
    blocks: AtomicU64,
    watcher: OnceLock<HealedWatcher>,
}

impl Debug for Healed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Healed").field(&self.blocks).finish()
    }
}

impl Healed {
    fn note(&self, blocks: &[BlockAddr]) {
        self.blocks.fetch_add(blocks.len() as u64, Ordering::Relaxed);
        if let Some(watcher) = self.watcher.get() {
            blocks.iter().for_each(|addr| watcher(*addr));
        }
    }
}

/// Blocks that were given back to the host since the store was opened: what is fetched is not put there any more, where nobody would
/// give it back again.
#[derive(Debug, Default)]
pub(super) struct Gone {
    /// A bit for each block.
    blocks: Bits,
    segments: FxHashSet<u64>,
    /// Blocks that are just going, because they are elsewhere.
    going: Bits,
}

type Bits = FxHashMap<u64, Box<[u64; SEGMENT_BLOCKS as usize / 64]>>;

fn set(bits: &mut Bits, run: Run) {
    let bits = bits.entry(run.start.segment).or_insert_with(|| Box::new([0; SEGMENT_BLOCKS as usize / 64]));
    for index in run.start.index..run.end_index() {
        if let Some(word) = bits.get_mut(index as usize / 64) {
            *word |= 1 << (index % 64);
        }
    }
}

fn is_set(bits: &Bits, addr: BlockAddr) -> bool {
    let word = |bits: &[u64]| bits.get(addr.index as usize / 64).copied().unwrap_or(0);
    bits.get(&addr.segment).is_some_and(|bits| word(&bits[..]) >> (addr.index % 64) & 1 == 1)
}

impl Gone {
    fn add(&mut self, run: Run) {
        set(&mut self.blocks, run);
    }

    /// These blocks are going.
    pub(super) fn are_going(&mut self, runs: impl Iterator<Item = Run>) {
        runs.for_each(|run| set(&mut self.going, run));
    }

    /// They have gone, and may come again.
    pub(super) fn have_gone(&mut self) {
        self.going.clear();
    }

    fn has(&self, addr: BlockAddr) -> bool {
        self.segments.contains(&addr.segment) || is_set(&self.blocks, addr) || is_set(&self.going, addr)
    }
}

impl Segments {
    /// From now on, blocks that do not open here are fetched from elsewhere. There can be one such place.
    pub fn fetch_from(&self, elsewhere: Arc<dyn Elsewhere>) {
        let _ = self.elsewhere.set(elsewhere);
    }

    /// Where blocks are fetched from that do not open here, if there is such a place.
    pub fn elsewhere(&self) -> Option<&Arc<dyn Elsewhere>> {
        self.elsewhere.get()
    }

    /// Blocks that were never here are no damage from now on, if `is_partial`: they are elsewhere.
    pub fn set_partial(&self, is_partial: bool) {
        self.is_partial.store(is_partial, Ordering::Release);
    }

    /// See [`Segments::set_partial`].
    pub fn is_partial(&self) -> bool {
        self.is_partial.load(Ordering::Acquire)
    }

    /// Whether all that was fetched could be put in its place.
    pub fn has_kept_all(&self) -> bool {
        !self.cannot_keep.load(Ordering::Relaxed)
    }

    /// Makes what was put in its place durable.
    ///
    /// # Errors
    /// As the backing files.
    pub fn sync_all(&self) -> io::Result<()> {
        for id in self.list()? {
            let segment = self.file(id).map_err(|e| io::Error::other(e.to_string()))?;
            segment.file.sync()?;
        }
        self.dir.sync(SEGMENT_DIR)
    }

    /// Blocks that were fetched and put in their places, because they were not here, or damaged.
    pub fn fetched_blocks(&self) -> u64 {
        self.fetched_blocks.load(Ordering::Relaxed)
    }

    /// Of these, blocks that were here, and damaged, or that the host could not read.
    pub fn healed_blocks(&self) -> u64 {
        self.healed.blocks.load(Ordering::Relaxed)
    }

    /// From now on, each of those is told to this. There can be one.
    pub fn tell_healed(&self, watcher: HealedWatcher) {
        let _ = self.healed.watcher.set(watcher);
    }

    /// As [`Segments::read`](super::Segments::read), for blocks that are in their segment, or were fetched.
    pub(super) fn read_files(&self, run: Run, out: &mut [u8], wait: Wait) -> Result<(), ReadError> {
        let mut loose = Loose::default();
        // What comes with one fetch can be less than all, and a fetch of somebody else's can have failed.
        let (mut before, mut tries) = (run.start, 0);
        loop {
            let error = match self.read_around(run, out, wait, &loose) {
                Ok(()) => return Ok(()),
                Err(e) => e,
            };
            let addr = match &error {
                ReadError::Unsealed { addr, .. } => *addr,
                ReadError::Io { source, .. } if self.elsewhere.get().is_some() && is_unreadable(source) => {
                    self.first_unreadable(run, wait, &loose)
                }
                ReadError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                    let mut all = (0..run.count).map(|skip| run.start.plus(skip));
                    all.find(|addr| !loose.contains_key(&addr.index)).unwrap_or(run.start)
                }
                _ => return Err(error),
            };
            if addr > before {
                (before, tries) = (addr, 0);
            }
            let count = run.end_index().saturating_sub(addr.index).max(1);
            // What goes from here again at once is there for this one still.
            let does_hold = tries > 0;
            match self.fetch(&error, Run::new(addr, count), wait, (&mut loose, does_hold))? {
                Fetched::Nowhere => return Err(error),
                Fetched::ByAnother => {}
                // However often it goes from here: this one has it.
                Fetched::Given if does_hold && loose.contains_key(&addr.index) => {}
                Fetched::Given => tries += 1,
            }
            if tries >= FETCHES {
                let place = self.elsewhere.get().map_or("", |elsewhere| elsewhere.place());
                let why = format!("what {place} has in its place does not open");
                return Err(ReadError::Unfetched { addr, path: self.path(addr.segment), why });
            }
        }
    }

    /// The first block of a run that cannot be read here, of those that are not in `loose`.
    fn first_unreadable(&self, run: Run, wait: Wait, loose: &Loose) -> BlockAddr {
        let mut block = vec![0; BLOCK_BYTES];
        let mut all = (0..run.count).filter(|skip| !loose.contains_key(&(run.start.index + skip)));
        let found = all.find(|skip| self.read_here(run.part(*skip, 1), &mut block, wait).is_err());
        run.start.plus(found.unwrap_or(0))
    }

    /// Reads a run but for what is in `loose`, which is copied.
    fn read_around(&self, run: Run, out: &mut [u8], wait: Wait, loose: &Loose) -> Result<(), ReadError> {
        if loose.is_empty() {
            return self.read_here(run, out, wait);
        }
        let is_loose = |skip: u32| loose.get(&(run.start.index + skip));
        let mut skip = 0;
        while skip < run.count {
            let at = skip as usize * BLOCK_BYTES;
            if let Some(contents) = is_loose(skip) {
                out[at..at + BLOCK_BYTES].copy_from_slice(&contents[..]);
                skip += 1;
                continue;
            }
            let end = (skip..run.count).find(|skip| is_loose(*skip).is_some()).unwrap_or(run.count);
            let part = &mut out[at..end as usize * BLOCK_BYTES];
            self.read_here(run.part(skip, end - skip), part, wait)?;
            skip = end;
        }
        Ok(())
    }

    /// Fetches the first block of `run`, and more, because of `error`.
    fn fetch(
        &self,
        error: &ReadError,
        run: Run,
        wait: Wait,
        loose: (&mut Loose, bool),
    ) -> Result<Fetched, ReadError> {
        let addr = run.start;
        if wait == Wait::Here && self.is_partial() {
            let is_unreadable = matches!(error, ReadError::Io { source, .. } if is_unreadable(source));
            let all = matches!(error, ReadError::Io { .. }) && !is_unreadable;
            if all || (!is_unreadable && self.was_never_here(addr)?) {
                return Err(ReadError::Absent { addr, path: self.path(addr.segment), all });
            }
        }
        if self.elsewhere.get().is_none_or(|elsewhere| !elsewhere.has(addr)) {
            return Ok(Fetched::Nowhere);
        }
        if wait == Wait::No {
            return Err(ReadError::WouldWait);
        }
        self.bring(run, loose)
    }

    /// Fetches the first block of `run`, and more. What cannot be kept is put into `loose`; also what can, if so said.
    fn bring(&self, run: Run, (loose, does_hold): (&mut Loose, bool)) -> Result<Fetched, ReadError> {
        let addr = run.start;
        let Some(elsewhere) = self.elsewhere.get() else { return Ok(Fetched::Nowhere) };
        let fetched = elsewhere.fetch(addr, run.count, &mut |blocks| {
            self.keep(blocks, run, loose);
            if does_hold {
                self.open_loose(blocks, run, loose);
            }
        });
        let path = || self.path(addr.segment);
        fetched.map_err(|e| match e {
            ElsewhereError::Away(why) => ReadError::Away { addr, path: path(), why },
            ElsewhereError::Failed(why) => ReadError::Unfetched { addr, path: path(), why },
        })
    }

    /// Fetches those blocks of a run that are elsewhere and do not open here; how many times something came.
    ///
    /// # Errors
    /// When they cannot be fetched or not be kept, or as the backing files.
    pub fn fetch_absent(&self, run: Run) -> Result<u64, ReadError> {
        let Some(elsewhere) = self.elsewhere.get() else { return Ok(0) };
        let mut count = 0;
        let mut index = run.start.index;
        while index < run.end_index() {
            let rest = run.part(index - run.start.index, run.end_index() - index);
            let here = self.read_stored(rest)?;
            // The first that is not here.
            index = here.iter().fold(index, |next, found| {
                if found.run.start.index == next { found.run.end_index() } else { next }
            });
            let addr = BlockAddr { segment: run.start.segment, index };
            if index < run.end_index() && elsewhere.has(addr) {
                let until = here.iter().map(|found| found.run.start.index).find(|start| *start > index);
                let wanted = until.unwrap_or(run.end_index()) - index;
                let mut loose = Loose::default();
                count +=
                    u64::from(self.bring(Run::new(addr, wanted), (&mut loose, false))? != Fetched::Nowhere);
                let gone = self.gone.read();
                if loose.keys().any(|index| !gone.has(BlockAddr { index: *index, ..addr })) {
                    let source =
                        io::Error::new(io::ErrorKind::StorageFull, "what was fetched cannot be kept");
                    return Err(ReadError::Io { path: self.path(addr.segment), source });
                }
            }
            index += 1;
        }
        Ok(count)
    }

    /// Puts blocks that were fetched in their places. Those of `run` that cannot be put there are opened into `loose`.
    fn keep(&self, blocks: &StoredBlocks, run: Run, loose: &mut Loose) {
        let gone = self.gone.read();
        let mut skip = 0;
        let is_gone = |skip: u32| gone.has(blocks.run.start.plus(skip));
        while skip < blocks.run.count {
            let does_go = is_gone(skip);
            let end = (skip..blocks.run.count).find(|skip| is_gone(*skip) != does_go);
            let end = end.unwrap_or(blocks.run.count);
            let part = blocks.part(skip, end - skip);
            // While this is held, nobody gives back what is just being put there.
            if does_go {
                self.open_loose(&part, run, loose);
            } else {
                self.keep_some(&part, run, loose);
            }
            skip = end;
        }
    }

    fn keep_some(&self, blocks: &StoredBlocks, run: Run, loose: &mut Loose) {
        let damaged = self.damaged_in(blocks.run, run);
        match self.put_stored(blocks) {
            Ok(()) => {
                self.fetched_blocks.fetch_add(blocks.run.count.into(), Ordering::Relaxed);
                self.healed.note(&damaged);
            }
            // Of what came along, some may be damaged there.
            Err(ReadError::Unsealed { .. }) if blocks.run.count > 1 => {
                for skip in 0..blocks.run.count {
                    self.keep_some(&blocks.part(skip, 1), run, loose);
                }
            }
            Err(ReadError::Unsealed { .. }) => {}
            Err(e) => {
                self.note_full();
                if !self.cannot_keep.swap(true, Ordering::Relaxed) {
                    log::warn!(
                        "what is fetched cannot be kept, and is fetched again whenever it is read: {e}"
                    );
                }
                self.open_loose(blocks, run, loose);
            }
        }
    }

    /// The blocks of a run that are here and do not open: those that have seals, and contents. (Of what was given back, seals may be left; what
    /// was fetched when the power went may have no contents.) Where nothing is elsewhere only, all that is `wanted` was here.
    fn damaged_in(&self, run: Run, wanted: Run) -> Vec<BlockAddr> {
        let was_all_here = !self.is_partial();
        let is_wanted = |addr: BlockAddr| {
            addr.segment == wanted.start.segment
                && (wanted.start.index..wanted.end_index()).contains(&addr.index)
        };
        let file = self.file(run.start.segment).ok();
        // Fills `bytes`. What the host cannot read is there: it is filled with something.
        let read = |offset: u64, bytes: &mut [u8]| {
            let Some(segment) = &file else { return };
            if read_padded(&*segment.file, bytes, offset).is_err() {
                bytes.fill(u8::MAX);
            }
        };
        let is_something = |bytes: &[u8]| bytes.iter().any(|byte| *byte != 0);
        let has_contents = |addr: BlockAddr| {
            let mut contents = [0; BLOCK_BYTES];
            read(data_offset(addr.index), &mut contents);
            is_something(&contents)
        };
        let opens = |addr: BlockAddr| {
            let sound = self.read_stored(Run::new(addr, 1));
            sound.is_ok_and(|sound| !sound.is_empty())
        };
        let mut damaged = Vec::new();
        let mut skip = 0;
        while skip < run.count {
            let some = run.part(skip, in_group(run.start.index + skip, run.count - skip));
            skip += some.count;
            let mut seals = vec![0; some.count as usize * SEAL_BYTES];
            read(seal_offset(some.start.index), &mut seals);
            // Mostly, nothing of it was ever here.
            let all = (0..some.count).map(|skip| some.start.plus(skip)).zip(seals.chunks_exact(SEAL_BYTES));
            let was_here = all.filter(|(addr, seal)| {
                (was_all_here && is_wanted(*addr)) || (is_something(seal) && has_contents(*addr))
            });
            damaged.extend(was_here.map(|(addr, _)| addr).filter(|addr| !opens(*addr)));
        }
        damaged
    }

    /// Opens those of the blocks that belong to `run`.
    fn open_loose(&self, blocks: &StoredBlocks, run: Run, loose: &mut Loose) {
        let Some(sealer) = self.sealer.of_epoch(blocks.key_epoch) else { return };
        let each = blocks.seals.chunks_exact(SEAL_BYTES).zip(blocks.contents.chunks_exact(BLOCK_BYTES));
        for (skip, (seal, content)) in (0..blocks.run.count).zip(each) {
            let addr = blocks.run.start.plus(skip);
            let is_wanted =
                addr.segment == run.start.segment && (run.start.index..run.end_index()).contains(&addr.index);
            let mut opened = Box::new([0; BLOCK_BYTES]);
            opened.copy_from_slice(content);
            if is_wanted && sealer.open(addr, &mut opened[..], seal) {
                loose.insert(addr.index, opened);
            }
        }
    }

    /// Whether nothing was ever put where a block is: not even what seals it.
    fn was_never_here(&self, addr: BlockAddr) -> Result<bool, ReadError> {
        let io = |source| ReadError::Io { path: self.path(addr.segment), source };
        let segment = self.file(addr.segment)?;
        let mut seal = [0; SEAL_BYTES];
        read_padded(&*segment.file, &mut seal, seal_offset(addr.index)).map_err(io)?;
        Ok(seal == [0; SEAL_BYTES])
    }

    /// Whether something may be put where blocks are, or were.
    fn may_be_fetched(&self) -> bool {
        self.is_partial() || self.elsewhere.get().is_some()
    }

    /// Blocks are given back: nothing is to be put there from now on. When this returns, nobody is just doing so.
    pub(super) fn note_gone(&self, run: Run) {
        if self.may_be_fetched() {
            self.gone.write().add(run);
        }
    }

    /// The same for a whole segment.
    pub(super) fn note_segment_gone(&self, id: u64) {
        if self.may_be_fetched() {
            let mut gone = self.gone.write();
            gone.blocks.remove(&id);
            gone.segments.insert(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backing::OsDir;
    use crate::store::{SEGMENT_DIR, Sealer, StoreId};
    use parking_lot::Mutex;
    use std::fs;
    use tempfile::TempDir;

    /// Another host that has the segments; it gives all of a segment.
    #[derive(Debug)]
    struct Other {
        segments: Segments,
        run: Run,
        away: Mutex<Option<ElsewhereError>>,
    }

    impl Elsewhere for Other {
        fn place(&self) -> &str {
            "the other host"
        }

        fn has(&self, addr: BlockAddr) -> bool {
            addr.segment == self.run.start.segment
        }

        fn fetch(
            &self,
            _: BlockAddr,
            _: u32,
            put: &mut dyn FnMut(&StoredBlocks),
        ) -> Result<Fetched, ElsewhereError> {
            if let Some(e) = &*self.away.lock() {
                return Err(e.clone());
            }
            self.segments.read_stored(self.run).unwrap().iter().for_each(put);
            Ok(Fetched::Given)
        }
    }

    const BLOCKS: u32 = 20;

    fn contents() -> Vec<u8> {
        (0..BLOCKS as usize * BLOCK_BYTES).map(|i| (i / 11) as u8).collect()
    }

    fn on(dir: &TempDir, ids: std::ops::Range<u64>) -> Segments {
        Segments::new(Arc::new(OsDir::new(dir.path())), StoreId(5), Sealer::Checksum, ids)
    }

    /// Segments of which nothing is here, where they are, and what keeps both.
    fn absent() -> (Segments, Arc<Other>, Run, [TempDir; 2]) {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        fs::create_dir(dirs[1].path().join(SEGMENT_DIR)).unwrap();
        let segments = on(&dirs[1], 1..10);
        let run = segments.append(&[&contents()]).unwrap()[0];
        let other = Arc::new(Other { segments, run, away: Mutex::default() });
        let here = on(&dirs[0], 0..0);
        here.set_partial(true);
        here.fetch_from(Arc::clone(&other) as Arc<dyn Elsewhere>);
        (here, other, run, dirs)
    }

    fn read(segments: &Segments, run: Run, wait: Wait) -> Result<Vec<u8>, ReadError> {
        let mut out = vec![0; run.count as usize * BLOCK_BYTES];
        segments.read(run, &mut out, wait).map(|()| out)
    }

    /// It was thrown away, and the reader got EIO.
    #[test]
    fn what_cannot_be_kept_is_given_to_who_reads_it() {
        let (here, other, run, _dirs) = absent();
        // There is not even a directory that a segment could be made in.
        for run in [run, run.part(3, 5)] {
            let skip = (run.start.index - other.run.start.index) as usize * BLOCK_BYTES;
            let found = read(&here, run, Wait::Yes).unwrap();
            assert!(found == contents()[skip..skip + run.count as usize * BLOCK_BYTES]);
        }
        assert!(!here.has_kept_all() && here.fetched_blocks() == 0);
    }

    #[test]
    fn what_is_here_is_not_fetched_again_and_what_is_not_is_no_damage() {
        let (here, other, run, dirs) = absent();
        fs::create_dir(dirs[0].path().join(SEGMENT_DIR)).unwrap();
        assert!(matches!(read(&here, run, Wait::Here), Err(ReadError::Absent { all: true, .. })));
        assert!(matches!(read(&here, run, Wait::No), Err(ReadError::WouldWait)));
        assert!(read(&here, run, Wait::Yes).unwrap() == contents());
        *other.away.lock() = Some(ElsewhereError::Away("no route to host".into()));
        for wait in [Wait::Yes, Wait::Here] {
            assert!(read(&here, run, wait).unwrap() == contents());
        }
        assert!(here.has_kept_all() && here.fetched_blocks() == u64::from(BLOCKS));
        assert_eq!(here.healed_blocks(), 0, "nothing of it was here");
        here.sync_all().unwrap();
        let behind = Run::new(run.start.plus(BLOCKS), 1);
        assert!(matches!(read(&here, behind, Wait::Here), Err(ReadError::Absent { all: false, .. })));
    }

    #[test]
    fn what_cannot_be_reached_is_no_damage_and_what_is_wrong_there_is_named() {
        let (here, other, run, _dirs) = absent();
        *other.away.lock() = Some(ElsewhereError::Away("far away".into()));
        let e = read(&here, run, Wait::Yes).unwrap_err();
        assert!(matches!(e, ReadError::Away { .. }) && e.to_string().contains("far away"));
        *other.away.lock() = Some(ElsewhereError::Failed("s3://far/data/1 is damaged".into()));
        let e = read(&here, run, Wait::Yes).unwrap_err();
        assert!(matches!(e, ReadError::Unfetched { .. }) && e.to_string().contains("s3://far/data/1"));
    }

    /// It came back with what lies beside it, and nobody would have given it back to the host again.
    #[test]
    fn what_was_given_back_does_not_come_again() {
        for was_partial in [true, false] {
            does_not_come_again(was_partial);
        }
    }

    fn does_not_come_again(was_partial: bool) {
        let (here, _, run, dirs) = absent();
        fs::create_dir(dirs[0].path().join(SEGMENT_DIR)).unwrap();
        here.set_partial(was_partial);
        here.punch(run.part(0, 10)).unwrap();
        here.set_partial(true);
        read(&here, run.part(15, 1), Wait::Yes).unwrap();
        let is_here = |block: u32| read(&here, run.part(block, 1), Wait::Here).is_ok();
        assert!((0..10).all(|block| !is_here(block)) && (10..BLOCKS).all(is_here));
        // Whoever still reads it, as the file was before, is given it.
        assert!(read(&here, run, Wait::Yes).unwrap() == contents());
        assert!(!is_here(0));
        here.remove(run.start.segment).unwrap();
        assert!(read(&here, run, Wait::Yes).unwrap() == contents());
        assert!(here.list().unwrap().is_empty());
    }

    #[test]
    fn one_damaged_block_there_keeps_no_other_from_coming() {
        let (here, other, run, dirs) = absent();
        fs::create_dir(dirs[0].path().join(SEGMENT_DIR)).unwrap();
        let mut stored = other.segments.read_stored(run).unwrap();
        stored[0].contents[3 * BLOCK_BYTES] ^= 1;
        let mut loose = Loose::default();
        here.keep(&stored[0], run, &mut loose);
        assert!(loose.is_empty());
        assert_eq!(here.fetched_blocks(), u64::from(BLOCKS) - 1);
        assert!(read(&here, run.part(4, 5), Wait::Here).is_ok());
        assert!(matches!(read(&here, run.part(3, 1), Wait::Here), Err(ReadError::Absent { .. })));
    }

    /// What came for the first time was counted with what was damaged.
    #[test]
    fn what_was_damaged_here_is_told_from_what_was_not_here() {
        let (here, other, run, dirs) = absent();
        fs::create_dir(dirs[0].path().join(SEGMENT_DIR)).unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let telling = Arc::clone(&told);
        here.tell_healed(Box::new(move |addr| telling.lock().push(addr)));
        // Some of it is here before the rest comes.
        let stored = other.segments.read_stored(run.part(2, 6)).unwrap();
        here.put_stored(&stored[0]).unwrap();
        let damage = |block: u32, offset: u64| {
            let file = here.file(run.start.segment).unwrap();
            let at = offset + data_offset(run.start.index + block);
            file.file.write_at(&[std::io::IoSlice::new(b"damage")], at).unwrap();
        };
        damage(3, 100);
        damage(6, 4000);
        assert!(read(&here, run, Wait::Yes).unwrap() == contents());
        assert_eq!(*told.lock(), [run.start.plus(3), run.start.plus(6)]);
        assert_eq!(here.healed_blocks(), 2);
        // Where nothing can be elsewhere only, what is missing was here.
        here.set_partial(false);
        let seal = seal_offset(run.start.index + 9);
        let file = here.file(run.start.segment).unwrap();
        file.file.write_at(&[std::io::IoSlice::new(&[0; SEAL_BYTES])], seal).unwrap();
        assert!(read(&here, run, Wait::Yes).unwrap() == contents());
        assert_eq!(here.healed_blocks(), 3);
    }

    /// Another host that gives blocks, and lets them go here at once.
    #[derive(Debug)]
    struct Hasty(Arc<Other>, std::sync::OnceLock<std::sync::Weak<Segments>>);

    impl Elsewhere for Hasty {
        fn place(&self) -> &str {
            "the other host"
        }

        fn has(&self, addr: BlockAddr) -> bool {
            self.0.has(addr)
        }

        fn fetch(
            &self,
            addr: BlockAddr,
            count: u32,
            put: &mut dyn FnMut(&StoredBlocks),
        ) -> Result<Fetched, ElsewhereError> {
            let fetched = self.0.fetch(addr, count, put)?;
            let here = self.1.get().unwrap().upgrade().unwrap();
            assert!(here.evict(&[(self.0.run, 0)]).unwrap().blocks > 0);
            Ok(fetched)
        }
    }

    /// Another host that gives a part at a time, and lets all go here when it has given the second, and each one after that.
    #[derive(Debug)]
    struct InParts(Arc<Other>, std::sync::OnceLock<std::sync::Weak<Segments>>, Mutex<u32>);

    impl Elsewhere for InParts {
        fn place(&self) -> &str {
            "the other host"
        }

        fn has(&self, addr: BlockAddr) -> bool {
            self.0.has(addr)
        }

        fn fetch(
            &self,
            addr: BlockAddr,
            _: u32,
            put: &mut dyn FnMut(&StoredBlocks),
        ) -> Result<Fetched, ElsewhereError> {
            let skip = addr.index - self.0.run.start.index;
            let part = self.0.run.part(skip / 10 * 10, 10);
            self.0.segments.read_stored(part).unwrap().iter().for_each(put);
            *self.2.lock() += 1;
            if *self.2.lock() > 1 {
                let here = self.1.get().unwrap().upgrade().unwrap();
                assert!(here.evict(&[(self.0.run, 0)]).unwrap().blocks > 0);
            }
            Ok(Fetched::Given)
        }
    }

    /// Who read it got EIO, with all of it in hand.
    #[test]
    fn what_comes_in_parts_and_goes_again_at_once_is_given_to_who_reads_it() {
        let (_, other, run, dirs) = absent();
        fs::create_dir(dirs[0].path().join(SEGMENT_DIR)).unwrap();
        let here = Arc::new(on(&dirs[0], 0..0));
        let in_parts = Arc::new(InParts(other, std::sync::OnceLock::new(), Mutex::default()));
        in_parts.1.set(Arc::downgrade(&here)).unwrap();
        here.fetch_from(Arc::clone(&in_parts) as Arc<dyn Elsewhere>);
        here.set_partial(true);
        assert!(read(&here, run, Wait::Yes).unwrap() == contents());
        assert!(*in_parts.2.lock() < 6, "nothing is fetched again and again");
    }

    /// Who read it would have got EIO after some attempts.
    #[test]
    fn what_goes_again_at_once_is_given_to_who_reads_it() {
        let (_, other, run, dirs) = absent();
        fs::create_dir(dirs[0].path().join(SEGMENT_DIR)).unwrap();
        let here = Arc::new(on(&dirs[0], 0..0));
        let hasty = Arc::new(Hasty(other, std::sync::OnceLock::new()));
        hasty.1.set(Arc::downgrade(&here)).unwrap();
        here.fetch_from(hasty);
        assert!(here.evict(&[(run, 0)]).is_err(), "it is not known that some may not be here");
        here.set_partial(true);
        for part in [run, run.part(7, 3), run.part(0, 1)] {
            let skip = (part.start.index - run.start.index) as usize * BLOCK_BYTES;
            let found = read(&here, part, Wait::Yes).unwrap();
            assert!(found == contents()[skip..skip + part.count as usize * BLOCK_BYTES]);
            assert!(matches!(read(&here, part, Wait::Here), Err(ReadError::Absent { .. })));
        }
        // What is not here takes next to nothing, its seals included.
        let taken = here.file(run.start.segment).unwrap().file.allocated().unwrap();
        assert!(taken <= 2 * BLOCK_BYTES as u64, "{taken}");
    }
}
