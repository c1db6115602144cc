//! Checking extents: who refers to which block, and whether all counts agree.

use super::report::{FaultKind, Report};
use super::tree::Inodes;
use super::{CheckOptions, Progress};
use crate::meta::{
    CHUNK_BLOCKS, ChunkMap, ChunkRow, Extent, Ino, Inspector, Kind, Place, Result, SegmentRow, Shared,
    VolumeRow,
};
use crate::store::{
    BLOCK_BYTES, BlockAddr, HeaderState, ReadError, Run, SEGMENT_BLOCKS, Segments, segment_len,
};
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::BTreeMap;
use std::ops::Range;

/// Checks that nothing that was written lies behind the end of a file of `size` bytes; reserved blocks may.
fn check_end(ino: Ino, size: u64, (idx, map): (u64, &ChunkMap), report: &mut Report) {
    let end = size.div_ceil(BLOCK_BYTES as u64);
    let last = |extent: &Extent| idx * u64::from(CHUNK_BLOCKS) + u64::from(extent.end());
    if map.extents().iter().any(|extent| extent.run().is_some() && last(extent) > end) {
        report.fault(FaultKind::Extent, format!("inode {ino} has contents behind its end"));
    }
}

/// A bit for each block of a segment.
type Bits = Vec<u64>;

/// Which blocks are referred to, and how often.
pub(super) struct Blocks {
    rows: BTreeMap<u64, SegmentRow>,
    shares: Vec<Shared>,
    /// Blocks with at least one reference, by segment.
    live: BTreeMap<u64, Bits>,
    /// References beyond the first.
    more: FxHashMap<BlockAddr, u32>,
}

fn bit(bits: &Bits, index: u32) -> bool {
    bits[index as usize / 64] >> (index % 64) & 1 == 1
}

impl Blocks {
    pub(super) fn new(rows: Vec<SegmentRow>, shares: Vec<Shared>) -> Self {
        Self {
            rows: rows.into_iter().map(|row| (row.id, row)).collect(),
            shares,
            live: BTreeMap::new(),
            more: FxHashMap::default(),
        }
    }

    /// With references to these blocks, and nothing else.
    #[cfg(test)]
    pub(super) fn of_runs(runs: &[Run]) -> Self {
        let mut blocks = Self::new(Vec::new(), Vec::new());
        runs.iter().for_each(|run| (0..run.count).for_each(|i| blocks.refer(run.start.plus(i))));
        blocks
    }

    /// Counts every reference once, in however many generations it can be seen.
    pub(super) fn refer_all(&mut self, inspector: &Inspector, report: &mut Report) -> Result<()> {
        let mut chunk = (0, 0);
        let mut seen: FxHashSet<(u32, BlockAddr, u64)> = FxHashSet::default();
        inspector.chunk_rows(|ino, idx, map| {
            if chunk != (ino, idx) {
                chunk = (ino, idx);
                seen.clear();
            }
            // A map that cannot be read was reported where it was seen.
            for extent in map.as_ref().map_or(&[][..], |map| map.extents()) {
                let Place::Data { addr, born } = extent.place else { continue };
                if !self.is_known(addr, extent.count) {
                    report.fault(
                        FaultKind::Extent,
                        format!("inode {ino} refers to block {addr}, which was never written"),
                    );
                    continue;
                }
                for block in 0..extent.count {
                    let one = addr.plus(block);
                    if seen.insert((extent.first + block, one, born)) {
                        self.refer(one);
                    }
                }
            }
            Ok(())
        })
    }

    fn is_known(&self, addr: BlockAddr, count: u32) -> bool {
        self.rows.get(&addr.segment).is_some_and(|row| addr.index + count <= row.tail)
    }

    fn refer(&mut self, addr: BlockAddr) {
        let bits = self.live.entry(addr.segment).or_insert_with(|| vec![0; SEGMENT_BLOCKS as usize / 64]);
        if bit(bits, addr.index) {
            *self.more.entry(addr).or_insert(0) += 1;
        } else {
            bits[addr.index as usize / 64] |= 1 << (addr.index % 64);
        }
    }

    /// Checks the blocks of a volume's inodes, and its usage.
    pub(super) fn count(
        &self,
        inspector: &Inspector,
        row: &VolumeRow,
        inodes: &Inodes,
        progress: &mut dyn FnMut(Progress),
        report: &mut Report,
    ) -> Result<()> {
        let mut allocated: FxHashMap<Ino, u64> = FxHashMap::default();
        let mut rows = 0u64;
        // Of the inode that the scan is at: runs of chunks that have extents.
        let mut written: (Ino, Vec<Range<u64>>) = (0, Vec::new());
        inspector.chunks(row, |ino, row| {
            rows += 1;
            if rows.is_multiple_of(4096) {
                progress(Progress { phase: "extents", done: rows, total: 0 });
            }
            if written.0 != ino {
                written = (ino, Vec::new());
            }
            let facts = inodes.get(&ino);
            let blocks = match row {
                ChunkRow::Extents(idx, Ok(map)) => {
                    match written.1.last_mut() {
                        _ if map.is_empty() => {}
                        Some(run) if run.end == idx => run.end += 1,
                        _ => written.1.push(idx..idx + 1),
                    }
                    check_end(ino, facts.map_or(u64::MAX, |facts| facts.size), (idx, &map), report);
                    map.blocks()
                }
                ChunkRow::Reserved(first, Ok(map)) => {
                    for run in map.runs().map(|run| first + run.start..first + run.end) {
                        let at = written.1.partition_point(|other| other.end <= run.start);
                        if written.1.get(at).is_some_and(|other| other.start < run.end) {
                            let what =
                                format!("inode {ino} has extents in chunks that are reserved as a whole");
                            report.fault(FaultKind::Extent, what);
                        }
                    }
                    map.count() * u64::from(CHUNK_BLOCKS)
                }
                ChunkRow::Extents(idx, Err(e)) | ChunkRow::Reserved(idx, Err(e)) => {
                    report.fault(FaultKind::Extent, format!("chunk {idx} of inode {ino}: {e}"));
                    return Ok(());
                }
            };
            *allocated.entry(ino).or_insert(0) += blocks;
            if facts.is_some_and(|facts| facts.kind != Kind::Regular) && blocks > 0 {
                report
                    .fault(FaultKind::Extent, format!("inode {ino} has contents, but is not a regular file"));
            }
            Ok(())
        })?;
        let mut total = 0;
        for (ino, facts) in inodes {
            let found = allocated.get(ino).copied().unwrap_or(0);
            total += found;
            if found != facts.blocks {
                let said = facts.blocks;
                report.fault(FaultKind::Count, format!("inode {ino} counts {said} blocks, but has {found}"));
            }
        }
        if total != row.usage.blocks {
            let (name, said) = (&row.name, row.usage.blocks);
            report.fault(FaultKind::Count, format!("volume {name:?} counts {said} blocks, but has {total}"));
        }
        Ok(())
    }

    /// Checks shared blocks, live counts, freed blocks and segment files against the references counted.
    pub(super) fn check(
        &mut self,
        inspector: &Inspector,
        segments: &Segments,
        options: CheckOptions,
        report: &mut Report,
    ) -> Result<()> {
        self.check_shares(report);
        for run in inspector.freed()? {
            let live = self.live.get(&run.start.segment);
            if live.is_some_and(|bits| (run.start.index..run.end_index()).any(|index| bit(bits, index))) {
                report.fault(
                    FaultKind::Extent,
                    format!("blocks from {} on are in use, but listed as free", run.start),
                );
            }
        }
        for row in self.rows.values() {
            let live = self.live_in(row.id);
            report.blocks += live;
            report.segments += 1;
            if live != u64::from(row.live) {
                let (id, said) = (row.id, row.live);
                report.fault(
                    FaultKind::Count,
                    format!("segment {id:016x} counts {said} live blocks, but has {live}"),
                );
            }
            if live > 0 {
                self.check_file(row.id, segments, report);
            }
        }
        if !options.online {
            self.note_leftovers(segments, report);
        }
        Ok(())
    }

    fn check_shares(&mut self, report: &mut Report) {
        let mut expected = std::mem::take(&mut self.more);
        for shared in &self.shares {
            for index in shared.run.start.index..shared.run.end_index() {
                let addr = BlockAddr { segment: shared.run.start.segment, index };
                let found = expected.remove(&addr).unwrap_or(0) + u32::from(self.is_live(addr));
                if found != shared.refs {
                    let said = shared.refs;
                    report.fault(
                        FaultKind::Count,
                        format!("block {addr} counts {said} references, but has {found}"),
                    );
                }
            }
        }
        for (addr, more) in expected {
            let found = more + 1;
            report.fault(
                FaultKind::Count,
                format!("block {addr} has {found} references, but is not listed as shared"),
            );
        }
    }

    fn is_live(&self, addr: BlockAddr) -> bool {
        self.live.get(&addr.segment).is_some_and(|bits| bit(bits, addr.index))
    }

    fn check_file(&self, id: u64, segments: &Segments, report: &mut Report) {
        let path = segments.path(id);
        let path = path.display();
        match segments.check_file(id) {
            Ok((HeaderState::Good, len)) => {
                let last = self.runs_of(id).last().map_or(0, |run| run.end_index());
                if len < segment_len(last) && !segments.is_partial() {
                    report
                        .fault(FaultKind::Segment, format!("{path}: the segment is cut off at {len} bytes"));
                }
            }
            Ok((HeaderState::Damaged(what), _)) => {
                report.fault(FaultKind::Segment, format!("{path}: {what}"));
            }
            Ok((HeaderState::Foreign(what), _)) => {
                report.fault(FaultKind::Segment, format!("{path}: {what}"));
            }
            Err(ReadError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound && segments.is_partial() => {}
            Err(ReadError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                report.fault(FaultKind::Segment, format!("{path}: the segment is missing"));
            }
            Err(e) => report.fault(FaultKind::Segment, e.to_string()),
        }
    }

    fn note_leftovers(&self, segments: &Segments, report: &mut Report) {
        match segments.list() {
            Ok(ids) => {
                for id in ids.iter().filter(|id| !self.rows.contains_key(id)) {
                    let path = segments.path(*id);
                    report.notes.push(format!(
                        "{}: left by an interruption; the next mount removes it",
                        path.display()
                    ));
                }
            }
            Err(e) => report.fault(FaultKind::Segment, format!("cannot list the segments: {e}")),
        }
    }

    /// Segments in which something lives.
    pub(super) fn segments(&self) -> impl Iterator<Item = u64> + '_ {
        self.live.keys().copied()
    }

    /// How many blocks of a segment live.
    pub(super) fn live_in(&self, segment: u64) -> u64 {
        let bits = self.live.get(&segment);
        bits.map_or(0, |bits| bits.iter().map(|word| u64::from(word.count_ones())).sum())
    }

    /// The live blocks of a segment, in runs.
    pub(super) fn runs_of(&self, segment: u64) -> Vec<Run> {
        let mut out: Vec<Run> = Vec::new();
        let Some(bits) = self.live.get(&segment) else { return out };
        for index in (0..SEGMENT_BLOCKS).filter(|index| bit(bits, *index)) {
            match out.last_mut() {
                Some(run) if run.end_index() == index => run.count += 1,
                _ => out.push(Run::new(BlockAddr { segment, index }, 1)),
            }
        }
        out
    }
}
