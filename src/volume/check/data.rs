//! Opening every seal.

use super::Progress;
use super::blocks::Blocks;
use super::report::{FaultKind, Report};
use crate::meta::{CHUNK_BLOCKS, ChunkRow, Ino, Inspector, Place, ROOT_INO, Result, VolumeRow};
use crate::store::{BLOCK_BYTES, BlockAddr, ReadError, Run, Segments, Wait};
use rustc_hash::{FxHashMap, FxHashSet};

/// Blocks read at a time: 1 MiB.
const BATCH: u32 = 256;
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
    let places = places(inspector, &damaged)?;
    for (addr, what) in damaged {
        let files = places.get(&addr).map_or(String::new(), |places| format!(" ({})", places.join(", ")));
        report.fault(FaultKind::Block, format!("{what}{files}"));
    }
    Ok(())
}

/// Reads a run; if that fails, block by block, to tell which ones are damaged.
fn read(segments: &Segments, run: Run, buffer: &mut [u8], damaged: &mut Vec<(BlockAddr, String)>) {
    let bytes = run.count as usize * BLOCK_BYTES;
    match segments.read(run, &mut buffer[..bytes], Wait::Yes) {
        Ok(()) => {}
        Err(ReadError::Unsealed { .. } | ReadError::Io { .. }) if run.count > 1 => {
            for block in 0..run.count {
                read(segments, run.part(block, 1), buffer, damaged);
            }
        }
        Err(e) => damaged.push((run.start, e.to_string())),
    }
}

/// Which files the damaged blocks belong to.
fn places(
    inspector: &Inspector,
    damaged: &[(BlockAddr, String)],
) -> Result<FxHashMap<BlockAddr, Vec<String>>> {
    let mut out: FxHashMap<BlockAddr, Vec<String>> = FxHashMap::default();
    if damaged.is_empty() {
        return Ok(out);
    }
    let wanted: FxHashSet<BlockAddr> = damaged.iter().take(NAMED).map(|(addr, _)| *addr).collect();
    for row in inspector.views()? {
        let mut found: Vec<(BlockAddr, Ino, u64)> = Vec::new();
        inspector.chunks(&row, |ino, row| {
            let ChunkRow::Extents(idx, map) = row else { return Ok(()) };
            for extent in map.as_ref().map_or(&[][..], |map| map.extents()) {
                let Place::Data { addr, .. } = extent.place else { continue };
                for block in (0..extent.count).filter(|block| wanted.contains(&addr.plus(*block))) {
                    let at = idx * u64::from(CHUNK_BLOCKS) + u64::from(extent.first + block);
                    found.push((addr.plus(block), ino, at * BLOCK_BYTES as u64));
                }
            }
            Ok(())
        })?;
        let paths = paths(inspector, &row, found.iter().map(|(_, ino, _)| *ino).collect())?;
        for (addr, ino, offset) in found {
            let path = paths.get(&ino).cloned().unwrap_or_else(|| format!("inode {ino}, which has no name"));
            out.entry(addr).or_default().push(format!("volume {:?}, {path}, at byte {offset}", row.name));
        }
    }
    Ok(out)
}

/// A path for each of the inodes.
fn paths(inspector: &Inspector, row: &VolumeRow, wanted: FxHashSet<Ino>) -> Result<FxHashMap<Ino, String>> {
    let mut up: FxHashMap<Ino, (Ino, String)> = FxHashMap::default();
    inspector.names(row, |parent, entry| {
        if wanted.contains(&entry.ino) || entry.kind == crate::meta::Kind::Directory {
            up.insert(entry.ino, (parent, String::from_utf8_lossy(&entry.name).into_owned()));
        }
        Ok(())
    })?;
    let path = |ino: Ino| {
        let mut names = Vec::new();
        let mut at = ino;
        while at != ROOT_INO && names.len() < 4096 {
            let (parent, name) = up.get(&at)?;
            names.push(name.as_str());
            at = *parent;
        }
        names.reverse();
        Some(format!("/{}", names.join("/")))
    };
    Ok(wanted.iter().filter_map(|ino| path(*ino).map(|path| (*ino, path))).collect())
}
