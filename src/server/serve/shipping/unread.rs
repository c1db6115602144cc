//! What can neither be read here nor is in the remote. Shipping leaves out what does not open, because nothing may refer to it any more; whether
//! something does is only known when all metadata are looked at. That is done where somebody wants to know that everything is there, and when
//! something was left out that was not given back to the host: it is damaged, or the disk cannot read it. (What is given back is a hole.)
//!
//! A disk may read later what it could not read at first: it is tried again now and then, and where somebody wants all to be there.

use crate::meta::VolumeId;
use crate::open_store::OpenStore;
use crate::remote::{OnDemand, RemoteError, ShipError, Shipper};
use crate::store::{ReadError, Run, coalesce};
use crate::volume::check::live_blocks;
use crate::volume::{overlaps, volumes_with};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Blocks that are read at a time: 4 MiB.
const AT_ONCE: u32 = 1024;

/// How soon it is tried again to read what could not be read, at first and at most.
const AGAIN: Duration = Duration::from_secs(600);
const AGAIN_MAX: Duration = Duration::from_secs(6 * 3600);

/// What could not be read of the states that were shipped.
#[derive(Debug, Default)]
pub(super) struct Unread {
    /// Of what was left out, so much was looked at.
    seen: usize,
    /// Segments with blocks that were left out, and not given back to the host.
    segments: BTreeSet<u64>,
    /// When it is tried again, and how long after that if it fails.
    again: Option<(Instant, Duration)>,
    /// What the remote is known to lack of files, ascending.
    lost: Vec<Run>,
    /// Volumes of which something else was found to be lacking, and who has synced them was not told of it yet.
    owed: BTreeSet<VolumeId>,
    /// What the remote lacks was known at some time: of what is lacking then, nobody knows when it came to that.
    is_known: bool,
}

impl Unread {
    /// Before a state is shipped: what could not be read before is in it once more, if it is time for that or somebody wants all to be there.
    /// Whether it is to be found out afterwards what the remote lacks.
    pub(super) fn try_again(
        &mut self,
        store: &Arc<OpenStore>,
        shipper: &mut Shipper,
        is_wanted: bool,
    ) -> bool {
        let is_due = self.again.is_some_and(|(at, _)| Instant::now() >= at);
        if !is_due && !is_wanted {
            return false;
        }
        if !self.segments.is_empty() {
            std::mem::take(&mut self.segments).into_iter().for_each(|id| store.copy_again(id));
            shipper.is_complete();
            self.seen = 0;
        }
        true
    }

    /// Of these volumes, whose syncs wait, those of which the remote lacks something that it did not lack when this was last asked for: who syncs
    /// them is not to be told that all is there.
    pub(super) fn lacks_more(&mut self, synced: impl Iterator<Item = VolumeId>) -> BTreeSet<VolumeId> {
        synced.filter_map(|volume| self.owed.take(&volume)).collect()
    }

    /// After a state was shipped: what to say of what the remote lacks; `None` if nothing new is known of that. `looks`: it is to be found out.
    ///
    /// # Errors
    /// When it cannot be found out.
    pub(super) fn found(
        &mut self,
        store: &Arc<OpenStore>,
        on_demand: &OnDemand,
        shipper: &mut Shipper,
        remote: &str,
        looks: bool,
    ) -> Result<Option<Option<String>>, ShipError> {
        let left = shipper.left_out();
        if left.is_empty() {
            *self = Self { is_known: true, ..Self::default() };
            return Ok(looks.then_some(None));
        }
        let new = left.get(self.seen..).unwrap_or_default();
        let damaged = new.iter().filter(|run| !store.segments().are_given_back(**run));
        let damaged: BTreeSet<u64> = damaged.map(|run| run.start.segment).collect();
        self.seen = left.len();
        if !looks && damaged.is_empty() {
            return Ok(None);
        }
        self.segments.extend(damaged);
        let pause = self.again.map_or(AGAIN, |(_, pause)| (pause * 2).min(AGAIN_MAX));
        self.again = Some((Instant::now() + pause, pause));
        // (As long as that is not known, nobody is told that all is there, either: a round that fails is repeated.)
        let (lost, is_back) = lost(store, on_demand, left).inspect_err(|_| self.seen = 0)?;
        if is_back {
            self.segments.iter().for_each(|id| store.copy_again(*id));
        } else if !lost.is_empty() {
            let new: Vec<Run> = lost.iter().copied().filter(|run| !is_in(&self.lost, *run)).collect();
            if self.is_known && !new.is_empty() {
                self.owed.extend(whose(store, &new).inspect_err(|_| self.seen = 0)?);
            }
            self.is_known = true;
            let said = said(remote, &lost);
            self.lost = lost;
            return Ok(Some(Some(said)));
        }
        shipper.is_complete();
        let known = if is_back { std::mem::take(&mut self.lost) } else { Vec::new() };
        *self = Self { lost: known, is_known: true, ..Self::default() };
        if is_back {
            let why =
                "blocks that the disk here could not read at first can be read now; they are shipped next";
            return Err(ShipError::Store(why.into()));
        }
        Ok(Some(None))
    }
}

/// The volumes that have some of these blocks now.
fn whose(store: &Arc<OpenStore>, runs: &[Run]) -> Result<BTreeSet<VolumeId>, ShipError> {
    let inspector = store.meta().inspector();
    let whose = inspector.and_then(|inspector| volumes_with(&inspector, runs));
    whose.map_err(|e| ShipError::Store(e.to_string()))
}

/// What to say of blocks that the remote lacks.
fn said(remote: &str, lost: &[Run]) -> String {
    let blocks = match lost.iter().map(|run| u64::from(run.count)).sum() {
        1u64 => "1 block".to_owned(),
        n => format!("{n} blocks"),
    };
    format!(
        "{remote} lacks {blocks} of files, which this host cannot read either; everything else is there; `larder check --read-data` names the files"
    )
}

/// Blocks that something refers to, that do not open here, and that the remote lacks, ascending. And whether some of `left` are among those that
/// it lacks, and open now.
///
/// # Errors
/// When it cannot be found out.
fn lost(store: &Arc<OpenStore>, on_demand: &OnDemand, left: &[Run]) -> Result<(Vec<Run>, bool), ShipError> {
    let of_meta = |e: crate::meta::MetaError| ShipError::Store(e.to_string());
    let mut left = left.to_vec();
    coalesce(&mut left);
    // What is freed meanwhile stays where it is.
    let _held = store.hold_freed();
    let inspector = store.meta().inspector().map_err(of_meta)?;
    let live = live_blocks(&inspector).map_err(of_meta)?;
    drop(inspector);
    let lacking = on_demand.lacking(&live).ok_or(RemoteError::Interrupted)?;
    let (mut lost, mut is_back) = (Vec::new(), false);
    for run in lacking {
        let opened = opened(store, run).map_err(|e| ShipError::Store(e.to_string()))?;
        is_back |= opened.iter().any(|run| overlaps(&left, *run));
        // What was written since the last state was shipped is lacking, too, and opens.
        let mut at = 0;
        for there in opened {
            let from = there.start.index - run.start.index;
            lost.extend((from > at).then(|| run.part(at, from - at)));
            at = from + there.count;
        }
        lost.extend((run.count > at).then(|| run.part(at, run.count - at)));
    }
    coalesce(&mut lost);
    Ok((lost, is_back))
}

/// Whether all of `run` is in `runs`, which are ascending, and do not touch each other.
fn is_in(runs: &[Run], run: Run) -> bool {
    let from = runs.partition_point(|other| {
        (other.start.segment, other.end_index()) < (run.start.segment, run.end_index())
    });
    runs.get(from)
        .is_some_and(|other| other.start.segment == run.start.segment && other.start.index <= run.start.index)
}

/// Those blocks of a run that can be read here.
fn opened(store: &OpenStore, run: Run) -> Result<Vec<Run>, ReadError> {
    let (mut done, mut out) = (0, Vec::new());
    while done < run.count {
        let some = run.part(done, AT_ONCE.min(run.count - done));
        out.extend(store.segments().read_stored(some)?.iter().map(|blocks| blocks.run));
        done += some.count;
    }
    Ok(out)
}
