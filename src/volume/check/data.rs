//! Opening every seal.

use super::Progress;
use super::blocks::Blocks;
use super::report::{Fault, FaultKind, Report};
use crate::meta::{Inspector, Result};
use crate::store::{BLOCK_BYTES, BlockAddr, ReadError, Run, Segments, Wait};
use crate::volume::find::{self, User};
use rustc_hash::{FxHashMap, FxHashSet};

/// Blocks read at a time: 1 MiB.
pub(super) const BATCH: u32 = 256;
/// Damaged blocks whose files are looked for.
const NAMED: usize = 1000;

/// Reads every block. That can take hours, and where the store is in use, no reader may be in the way of its WAL for so long:
/// which blocks there are is known, and whoever checks keeps those that are freed meanwhile.
pub(super) fn check(
    inspector: &mut Inspector,
    segments: &Segments,
    blocks: &Blocks,
    online: bool,
    (progress, report): (&mut dyn FnMut(Progress), &mut Report),
) -> Result<()> {
    if online {
        inspector.let_go()?;
    }
    let mut damaged: Vec<(BlockAddr, String)> = Vec::new();
    let mut buffer = vec![0u8; BATCH as usize * BLOCK_BYTES];
    let total = report.blocks;
    let mut done = 0;
    for id in blocks.segments() {
        for run in blocks.runs_of(id) {
            let mut skip = 0;
            while skip < run.count {
                let part = run.part(skip, (run.count - skip).min(BATCH));
                skip += part.count;
                read(segments, part, &mut buffer, &mut damaged);
                done += u64::from(part.count);
                progress(Progress { phase: "blocks", done, total });
            }
        }
    }
    report.blocks_read += done;
    if online {
        inspector.look_again()?;
    }
    let places = places(inspector, &damaged, NAMED)?;
    for (addr, what) in damaged {
        let files = places.get(&addr).map_or(String::new(), |places| format!(" ({})", places.join(", ")));
        let (message, block) = (format!("{what}{files}"), Some(addr.to_string()));
        report.add(Fault { kind: FaultKind::Block, message, block });
    }
    Ok(())
}

/// Reads a run; if that fails, block by block, to tell which ones are damaged.
pub(super) fn read(segments: &Segments, run: Run, buffer: &mut [u8], damaged: &mut Vec<(BlockAddr, String)>) {
    let bytes = run.count as usize * BLOCK_BYTES;
    match segments.read(run, &mut buffer[..bytes], Wait::Passing) {
        Ok(()) => {}
        Err(ReadError::Unsealed { .. } | ReadError::Io { .. }) if run.count > 1 => {
            for block in 0..run.count {
                read(segments, run.part(block, 1), buffer, damaged);
            }
        }
        Err(e) => damaged.push((run.start, e.to_string())),
    }
}

/// Which files the damaged blocks belong to, of `most` of them.
pub(super) fn places(
    inspector: &Inspector,
    damaged: &[(BlockAddr, String)],
    most: usize,
) -> Result<FxHashMap<BlockAddr, Vec<String>>> {
    let mut out: FxHashMap<BlockAddr, Vec<String>> = FxHashMap::default();
    if damaged.is_empty() {
        return Ok(out);
    }
    let wanted: FxHashSet<BlockAddr> = damaged.iter().take(most).map(|(addr, _)| *addr).collect();
    for row in inspector.views()? {
        let found = find::users(inspector, &row, &wanted)?;
        let paths = find::paths(inspector, &row, &found.iter().map(|user| user.ino).collect(), usize::MAX)?;
        for User { addr, ino, offset } in found {
            let path = paths.get(&ino).and_then(|paths| paths.first().cloned());
            let path = path.unwrap_or_else(|| format!("inode {ino}, which has no name"));
            out.entry(addr).or_default().push(format!("volume {:?}, {path}, at byte {offset}", row.name));
        }
    }
    Ok(out)
}
