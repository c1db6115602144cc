//! Opening every seal.

use super::Progress;
use super::blocks::Blocks;
use super::damage::{Suspects, damage};
use super::report::Report;
use crate::meta::{Inspector, Result};
use crate::store::{BLOCK_BYTES, ReadError, Run, Segments, Wait};

/// Blocks read at a time: 1 MiB.
pub(super) const BATCH: u32 = 256;

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
    let mut damaged = Suspects::default();
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
    report.add_damage(damage(inspector, damaged)?);
    Ok(())
}

/// Reads a run; if that fails, block by block, to tell which ones are damaged.
pub(super) fn read(segments: &Segments, run: Run, buffer: &mut [u8], damaged: &mut Suspects) {
    let bytes = run.count as usize * BLOCK_BYTES;
    match segments.read(run, &mut buffer[..bytes], Wait::Passing) {
        Ok(()) => {}
        Err(ReadError::Unsealed { .. } | ReadError::Io { .. }) if run.count > 1 => {
            for block in 0..run.count {
                read(segments, run.part(block, 1), buffer, damaged);
            }
        }
        Err(e) => damaged.add(run.start, e.to_string()),
    }
}
