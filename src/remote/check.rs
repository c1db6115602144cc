//! Reading a remote alone, to see whether an attach would give what is promised: the newest state, whole.

use super::error::{RemoteError, Result};
use super::format::{
    Commit, Contents, HeaderRef, Image, PART_BLOCKS_AT, PIECE_BYTES_MAX, PartRef, Piece, PieceRef,
    SegmentState, part_bytes, part_head, part_range, split_blocks,
};
use super::headers::read_header;
use super::log::{Log, oldest_number};
use super::names;
use super::objects::Objects;
use super::seal::SEALED_HEAD_BYTES;
use crate::store::{BlockAddr, Run, SEAL_BYTES, SEGMENT_BLOCKS, Sealer};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

/// Parts that are looked at side by side.
const AT_ONCE: usize = 8;
/// Blocks that are read with one request.
const RANGE_BLOCKS: u32 = 1024;
/// Faults that are named; the others are counted.
const FAULTS_MAX: usize = 1000;
const WORDS: usize = SEGMENT_BLOCKS as usize / 64;

/// How far to look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckOptions {
    /// Whether to read every block, and not only that it is there.
    pub read_data: bool,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Records read.
    pub records: u64,
    /// Parts of the newest state.
    pub parts: u64,
    /// Pieces of its image, and of records behind that.
    pub pieces: u64,
    /// Blocks that were read and opened.
    pub blocks: u64,
    /// What is wrong, up to a thousand times.
    pub faults: Vec<String>,
    /// How many times something was.
    pub fault_count: u64,
}

impl Checked {
    fn fault(&mut self, what: impl Into<String>) {
        self.fault_count += 1;
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(what.into());
        }
    }
}

/// Blocks of segments that nothing needs any more.
#[derive(Debug, Default)]
struct Freed(BTreeMap<u64, Box<[u64; WORDS]>>);

impl Freed {
    fn add(&mut self, run: Run) {
        let words = self.0.entry(run.start.segment).or_insert_with(|| Box::new([0; WORDS]));
        for index in run.start.index..run.end_index().min(SEGMENT_BLOCKS) {
            words[index as usize / 64] |= 1 << (index % 64);
        }
    }

    fn has(&self, addr: BlockAddr) -> bool {
        self.0
            .get(&addr.segment)
            .is_some_and(|words| words[addr.index as usize / 64] >> (addr.index % 64) & 1 == 1)
    }
}

/// The newest state, as far as a check has to know it.
#[derive(Debug, Default)]
struct State {
    parts: BTreeSet<PartRef>,
    pieces: BTreeSet<PieceRef>,
    freed: Freed,
    header: HeaderRef,
}

impl State {
    fn apply(&mut self, commit: &Commit) {
        self.parts.extend(&commit.parts);
        self.pieces.extend(&commit.pieces);
        for &SegmentState { segment, tail, .. } in &commit.segments {
            if tail == 0 {
                self.parts.retain(|part| part.segment != segment);
            }
        }
        for run in &commit.freed {
            self.freed.add(*run);
        }
    }

    fn needs(&self, part: &PartRef) -> bool {
        (part.first..part.end()).any(|index| !self.freed.has(BlockAddr { segment: part.segment, index }))
    }
}

/// Checks the remote of a log that was just opened.
///
/// # Errors
/// Only what keeps it from going on: the remote cannot be reached, or refuses. What is wrong is in [`Checked::faults`].
pub fn check(log: &Log, options: CheckOptions) -> Result<Checked> {
    let mut found = Checked::default();
    let Some(oldest) = oldest_number(&**log.objects(), log.state().held.as_ref())? else { return Ok(found) };
    let image = log.state().image;
    if image > 0 && image < oldest {
        found.fault(format!("{} is missing: it is the newest image", names::record(image)));
    }
    if image == 0 && oldest > 1 {
        found.fault(format!("{} is missing, and there is no image", names::record(1)));
    }
    let mut state = State { header: log.state().header, ..State::default() };
    for record in log.chain(oldest, None) {
        let record = match record {
            Ok(record) => record,
            Err(e) => {
                found.fault(sorted(e)?);
                break;
            }
        };
        found.records += 1;
        match &record.contents {
            Contents::Commit(commit) => state.apply(commit),
            Contents::Image(newest) if record.number == image => {
                state = State { header: state.header, ..State::default() };
                from_image(log, newest, &mut state, &mut found)?;
            }
            _ => {}
        }
    }
    check_header(log, state.header, &mut found)?;
    let needed: Vec<PartRef> = state.parts.iter().filter(|part| state.needs(part)).copied().collect();
    let results = Mutex::new((needed.iter(), found));
    let work = || -> Result<()> {
        loop {
            let next = results.lock().map_or(None, |mut shared| shared.0.next());
            let Some(part) = next else { return Ok(()) };
            let outcome = check_part(log, part, &state.freed, options);
            let Ok(mut shared) = results.lock() else { return Ok(()) };
            shared.1.parts += 1;
            match outcome {
                Ok(blocks) => shared.1.blocks += blocks,
                Err(e) => shared.1.fault(sorted(e)?),
            }
        }
    };
    let done = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE.min(needed.len())).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or(Err(RemoteError::Interrupted)))
            .collect::<Result<Vec<()>>>()
    });
    let mut found = results.into_inner().map_err(|_| RemoteError::Interrupted)?.1;
    done?;
    for piece in &state.pieces {
        found.pieces += 1;
        if let Err(e) = read_piece(log, piece) {
            found.fault(sorted(e)?);
        }
    }
    Ok(found)
}

/// What an error says is wrong with the remote; or the error, if it does not say that.
fn sorted(e: RemoteError) -> Result<String> {
    match &e {
        RemoteError::Damaged { .. } | RemoteError::Lost { .. } => Ok(e.to_string()),
        _ if e.is_missing() => Ok(e.to_string()),
        _ => Err(e),
    }
}

fn read_piece(log: &Log, piece: &PieceRef) -> Result<Piece> {
    let most = (PIECE_BYTES_MAX + SEALED_HEAD_BYTES) as u64;
    log.sealer().open_piece(&piece.hash, log.objects().get(&names::piece(&piece.hash), most)?)
}

fn from_image(log: &Log, image: &Image, state: &mut State, found: &mut Checked) -> Result<()> {
    state.pieces.extend(&image.database);
    for table in &image.tables {
        found.pieces += 1;
        match read_piece(log, table) {
            Ok(Piece::Parts(parts)) => state.parts.extend(parts),
            Ok(_) => {}
            Err(e) => found.fault(sorted(e)?),
        }
    }
    Ok(())
}

fn check_header(log: &Log, header: HeaderRef, found: &mut Checked) -> Result<()> {
    if header.number == 0 {
        return Ok(());
    }
    if let Err(e) = read_header(&**log.objects(), log.sealer().store(), header) {
        found.fault(sorted(e)?);
    }
    Ok(())
}

/// Reads a part as far as it is to be read; how many blocks that were.
fn check_part(log: &Log, part: &PartRef, freed: &Freed, options: CheckOptions) -> Result<u64> {
    let (name, place) = (names::part(part), log.sealer().place());
    let damaged = |what: String| RemoteError::damaged(place, &name, what);
    let objects: &dyn Objects = &**log.objects();
    let len = objects.head(&name)?.bytes;
    if len != part_bytes(part.count) {
        return Err(damaged(format!("it has {len} bytes, and must have {}", part_bytes(part.count))));
    }
    let head = objects.get_range(&name, part_head())?;
    if head.len() as u64 != PART_BLOCKS_AT {
        return Err(damaged("it ends too early".into()));
    }
    log.sealer().open_part(part, head)?;
    if !options.read_data {
        return Ok(0);
    }
    let sealer = Sealer::new(log.sealer().keys());
    let (mut first, mut opened) = (part.first, 0);
    while first < part.end() {
        let count = RANGE_BLOCKS.min(part.end() - first);
        let bytes = objects.get_range(&name, part_range(part, first, count))?;
        let blocks = split_blocks(BlockAddr { segment: part.segment, index: first }, &bytes);
        if blocks.len() != count as usize {
            return Err(damaged("it ends too early".into()));
        }
        for block in blocks {
            // One that is not needed may have been anything, and one that was free when the part was made is zeros.
            let is_there = block.seal != [0; SEAL_BYTES] || block.stored.iter().any(|byte| *byte != 0);
            if is_there
                && !freed.has(block.addr)
                && !sealer.is_whole(part.key_epoch.into(), block.addr, &block.stored, &block.seal)
            {
                return Err(damaged(format!("block {} does not open", block.addr)));
            }
            opened += 1;
        }
        first += count;
    }
    Ok(opened)
}
