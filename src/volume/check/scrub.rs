//! Reading everything, for as long as it takes, in nobody's way.
//!
//! A check with `read_data` keeps what is freed while it reads, or the store to itself. A scrub does neither: it finds out which blocks
//! there are, lets go of everything, and reads them. Addresses are never used again; so what does not open and has nobody any more
//! who refers to it was freed meanwhile, and what somebody refers to is damaged. It can be broken off, and gone on with behind the last
//! segment that was read to its end: what is written later lies in later ones, or was whole when it was written.

use super::blocks::Blocks;
use super::damage::{Suspects, damage};
use super::data::{BATCH, read};
use super::report::Report;
use super::{CheckOptions, Progress, check_metadata};
use crate::meta::Inspector;
use crate::store::{BLOCK_BYTES, Segments};
use crate::volume::error::Result;

/// The way to the store while it is read.
pub trait Access {
    /// Before each batch of blocks: whether the store may still be read. What was read since has so many bytes; it waits for as long as
    /// that is to have taken.
    ///
    /// # Errors
    /// The host's.
    fn next(&mut self, read_bytes: u64) -> Result<bool>;

    /// A look at the last commit.
    ///
    /// # Errors
    /// As the store.
    fn look(&mut self) -> Result<Inspector>;
}

/// How far a scrub has come.
#[derive(Clone, Debug)]
pub struct Step {
    /// All segments up to this one were read.
    pub after: u64,
    /// Blocks that were read or lie in segments that were read before.
    pub done: u64,
    /// Blocks that there are.
    pub total: u64,
    /// What was found since the last step.
    pub found: Report,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All was read.
    Complete,
    /// Nothing was: which blocks there are is not known, because the metadata are damaged.
    Blind,
    /// Whoever is told of the steps wanted no more of them.
    Stopped,
    /// Another process has opened the store.
    Taken,
}

/// What is known before anything is read.
pub struct Survey {
    /// What is wrong with the metadata.
    pub report: Report,
    blocks: Option<Blocks>,
}

/// The end of it, with the report: of the metadata, and how many blocks were read.
pub type Surveyed = (Ended, Report);

impl Survey {
    /// Checks the metadata.
    pub fn make(
        inspector: &mut Inspector,
        segments: &Segments,
        online: bool,
        progress: &mut dyn FnMut(Progress),
    ) -> Self {
        let options = CheckOptions { read_data: false, online };
        let (report, blocks) = check_metadata(inspector, segments, options, progress);
        Self { report, blocks }
    }

    /// Reads everything behind segment `after`. `step` is told of each segment, and now and then in between; it says whether to go on.
    ///
    /// # Errors
    /// As `access`.
    pub fn read_on(
        self,
        segments: &Segments,
        after: u64,
        access: &mut dyn Access,
        step: &mut dyn FnMut(Step) -> bool,
    ) -> Result<Surveyed> {
        let Self { mut report, blocks } = self;
        let Some(blocks) = blocks else { return Ok((Ended::Blind, report)) };
        let (mut after, total) = (after, report.blocks);
        let before = blocks.segments().filter(|id| *id <= after);
        let mut done: u64 = before.map(|id| blocks.live_in(id)).sum();
        let mut buffer = vec![0u8; BATCH as usize * BLOCK_BYTES];
        let mut read_bytes = 0;
        let ids: Vec<u64> = blocks.segments().filter(|id| *id > after).collect();
        for id in ids {
            let mut suspects = Suspects::default();
            for run in blocks.runs_of(id) {
                let mut skip = 0;
                while skip < run.count {
                    let part = run.part(skip, (run.count - skip).min(BATCH));
                    skip += part.count;
                    if !access.next(read_bytes)? {
                        return Ok((Ended::Taken, report));
                    }
                    let absent = read(segments, part, &mut buffer, &mut suspects);
                    let here = u64::from(part.count) - absent;
                    read_bytes = here * BLOCK_BYTES as u64;
                    done += u64::from(part.count);
                    report.blocks_absent += absent;
                    report.blocks_read += here;
                    if !step(Step { after, done, total, found: Report::default() }) {
                        return Ok((Ended::Stopped, report));
                    }
                }
            }
            let mut found = Report::default();
            if !suspects.is_empty() {
                found.add_damage(damage(&access.look()?, suspects)?);
            }
            after = id;
            if !step(Step { after, done, total, found }) {
                return Ok((Ended::Stopped, report));
            }
        }
        Ok((Ended::Complete, report))
    }
}
