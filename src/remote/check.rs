//! Reading a remote alone, to see whether an attach would give what is promised: the newest state, whole.

use super::catalog::Catalog;
use super::error::{RemoteError, Result};
use super::format::{
    Commit, Contents, HeaderRef, Image, PART_BLOCKS_AT, PIECE_BYTES_MAX, PartRef, Piece, PieceRef,
    part_bytes, part_head, part_range, split_blocks,
};
use super::headers::read_header;
use super::log::Log;
use super::names;
use super::objects::Objects;
use super::seal::SEALED_HEAD_BYTES;
use super::side_by_side::each_of;
use crate::store::{BLOCK_BYTES, BlockAddr, Seal, Sealer};
use std::collections::BTreeSet;

/// Parts that are looked at side by side.
const AT_ONCE: usize = 8;
/// Blocks that are read with one request.
const RANGE_BLOCKS: u32 = 1024;
/// Faults that are named; the others are counted.
const FAULTS_MAX: usize = 1000;

/// How far to look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckOptions {
    /// Whether to read every block, and not only that it is there.
    pub read_data: bool,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Records that were read: the newest image, and those behind it.
    pub records: u64,
    /// Parts of the newest state.
    pub parts: u64,
    /// Pieces of its image, and of the records behind it.
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

/// The newest state, as far as a check has to know it.
#[derive(Debug, Default)]
struct State {
    catalog: Catalog,
    pieces: BTreeSet<PieceRef>,
    /// There are metadata: an image, or a commit that has some.
    is_there: bool,
}

/// Checks the remote of a log that was just opened: the newest image, what it needs, and what has come since. What is older is needed by
/// nobody.
///
/// # Errors
/// Only what keeps it from going on: the remote cannot be reached, or refuses. What is wrong is in [`Checked::faults`].
pub fn check(log: &Log, options: CheckOptions) -> Result<Checked> {
    let mut found = Checked::default();
    let mut state = State::default();
    if log.state().newest.number == 0 {
        found.fault(format!("{} has no record: nothing was shipped yet, or all of it is gone", names::LOG));
        return Ok(found);
    }
    read_state(log, &mut state, &mut found)?;
    if !state.is_there && found.fault_count == 0 {
        found.fault(
            "no record has metadata: nothing but contents was shipped yet, and there is nothing to attach",
        );
        return Ok(found);
    }
    check_header(log, log.state().header, &mut found)?;
    check_records(log, &state.catalog, options, &mut found)?;
    let parts: Vec<_> = state.catalog.parts().into_iter().collect();
    let outcomes = each_of(AT_ONCE, &parts, |(part, live)| match check_part(log, part, live, options) {
        Ok(blocks) => Ok(Ok(blocks)),
        Err(e) => sorted(e).map(Err),
    })?;
    for outcome in outcomes {
        found.parts += 1;
        match outcome {
            Ok(blocks) => found.blocks += blocks,
            Err(fault) => found.fault(fault),
        }
    }
    for piece in &state.pieces {
        found.pieces += 1;
        if let Err(e) = read_piece(log, piece) {
            found.fault(sorted(e)?);
        }
    }
    Ok(found)
}

/// Reads the newest image, and the records behind it.
fn read_state(log: &Log, state: &mut State, found: &mut Checked) -> Result<()> {
    let image = log.state().image;
    let (mut first, mut before) = (1, None);
    if image > 0 {
        state.is_there = true;
        first = image + 1;
        match log.read(image) {
            Ok(record) => {
                found.records += 1;
                before = Some(record.seal);
                match &record.contents {
                    Contents::Image(image) => from_image(log, image, state, found)?,
                    _ => found.fault(format!("{} is not an image, and others say so", names::record(image))),
                }
            }
            Err(e) if e.is_missing() => {
                found.fault(format!("{} is missing: it is the newest image", names::record(image)));
            }
            Err(e) => found.fault(sorted(e)?),
        }
    }
    for record in log.chain(first, before) {
        match record {
            Ok(record) => {
                found.records += 1;
                if let Contents::Commit(commit) = &record.contents {
                    state.is_there |= commit.pages > 0;
                    state.catalog.apply(record.number, commit);
                    state.pieces.extend(&commit.pieces);
                }
            }
            Err(e) => {
                found.fault(sorted(e)?);
                break;
            }
        }
    }
    Ok(())
}

/// Reads the records before the newest image that have blocks of the state; all that have some, if contents are to be read.
fn check_records(log: &Log, catalog: &Catalog, options: CheckOptions, found: &mut Checked) -> Result<()> {
    let sealer = Sealer::new(log.sealer().keys());
    for (number, live) in catalog.records() {
        if number > log.state().image && !options.read_data {
            continue;
        }
        let record = match log.read(number) {
            Ok(record) => record,
            Err(e) => {
                found.fault(sorted(e)?);
                continue;
            }
        };
        let Contents::Commit(commit) = &record.contents else {
            found.fault(format!("{} has no blocks, and an image says so", names::record(number)));
            continue;
        };
        for run in live {
            let state = commit.segments.iter().find(|state| state.segment == run.start.segment);
            let key_epoch = state.map_or(0, |state| u64::from(state.key_epoch));
            for addr in (0..run.count).map(|skip| run.start.plus(skip)) {
                let opens = block_of(commit, addr)
                    .is_some_and(|(seal, stored)| sealer.is_whole(key_epoch, addr, stored, seal));
                if !opens {
                    found.fault(format!("{}: block {addr} does not open", names::record(number)));
                }
                found.blocks += u64::from(options.read_data);
            }
        }
    }
    Ok(())
}

/// The seal and the contents of a block that is in a record.
fn block_of(commit: &Commit, addr: BlockAddr) -> Option<(&Seal, &[u8])> {
    let mut all = commit.blocks.iter().filter(|blocks| blocks.start.segment == addr.segment);
    all.find_map(|blocks| {
        let skip = addr.index.checked_sub(blocks.start.index)? as usize;
        Some((blocks.seals.get(skip)?, blocks.stored.get(skip * BLOCK_BYTES..(skip + 1) * BLOCK_BYTES)?))
    })
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
    let mut tables = Vec::new();
    for table in &image.tables {
        found.pieces += 1;
        match read_piece(log, table) {
            Ok(piece) => tables.push(piece),
            Err(e) => found.fault(sorted(e)?),
        }
    }
    state.catalog = Catalog::of(tables);
    Ok(())
}

fn check_header(log: &Log, header: HeaderRef, found: &mut Checked) -> Result<()> {
    if header.number == 0 {
        if found.fault_count == 0 {
            found.fault("no record names a version of the header");
        }
        return Ok(());
    }
    if let Err(e) = read_header(&**log.objects(), log.sealer().store(), header) {
        found.fault(sorted(e)?);
    }
    Ok(())
}

/// Reads a part as far as it is to be read; how many blocks that were. `live` are those of its blocks that are needed.
fn check_part(log: &Log, part: &PartRef, live: &[(u32, u32)], options: CheckOptions) -> Result<u64> {
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
    let mut opened = 0;
    for (from, count) in live {
        let (mut first, end) = (*from, from + count);
        while first < end {
            let count = RANGE_BLOCKS.min(end - first);
            let bytes = objects.get_range(&name, part_range(part, first, count))?;
            let blocks = split_blocks(BlockAddr { segment: part.segment, index: first }, &bytes);
            if blocks.len() != count as usize {
                return Err(damaged("it ends too early".into()));
            }
            for block in blocks {
                if !sealer.is_whole(part.key_epoch.into(), block.addr, &block.stored, &block.seal) {
                    return Err(damaged(format!("block {} does not open", block.addr)));
                }
                opened += 1;
            }
            first += count;
        }
    }
    Ok(opened)
}
