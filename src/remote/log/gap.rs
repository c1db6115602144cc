//! A log that breaks off: records are missing, and others are behind them.
//!
//! A remote that goes back in time loses its newest records. Who is just writing there leaves a record behind the gap, and takes it back as
//! soon as it finds that out ([`presence`](super::super::presence)). Where it is killed before that, the record stays. Nobody can use it:
//! all records from an image on are needed, and the image that it names lies before the gap, or in it.
//!
//! To go on from before the gap, what is behind it has to go first: its numbers would be taken. So that is done by who wrote it, when it
//! comes back, if nothing else says that it counted as shipped; or because a human says so, when nobody shows life: what is behind the gap
//! may also be what somebody has cut off by removing one record, which can be brought back. So where a single one is missing, it is always
//! a human who says so.

use super::super::clock::Clock;
use super::super::error::{RemoteError, Result};
use super::super::names;
use super::super::objects::Objects;
use super::super::presence::patiently;
use super::super::seal::RemoteSealer;
use super::{Log, LogState, Owner, Position, claimed_by, find, newest_number, read};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Names that are listed at a time.
const PAGE: usize = 1000;

/// Where a log breaks off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The newest record before it.
    pub before: u64,
    /// The newest record behind it.
    pub newest: u64,
    /// So many records are missing before the first one that is behind it.
    pub missing: u64,
    /// The records behind it, as they were there when it was found.
    behind: BTreeSet<u64>,
    /// Who wrote the newest one.
    pub by: Owner,
}

/// The numbers of the records up to `newest` that are listed.
fn listed(objects: &dyn Objects, newest: u64) -> Result<BTreeSet<u64>> {
    let (mut numbers, mut last) = (BTreeSet::new(), names::record(0));
    loop {
        let page = objects.list(names::LOG, &last, PAGE)?;
        numbers.extend(page.iter().filter_map(|listed| names::record_number(&listed.name)));
        match page.last() {
            Some(listed) if page.len() == PAGE => last.clone_from(&listed.name),
            _ => break,
        }
    }
    numbers.retain(|number| *number <= newest);
    Ok(numbers)
}

/// Where the log up to record `newest` breaks off; `None` if it does not.
fn find_gap(
    objects: &dyn Objects,
    sealer: &RemoteSealer,
    clock: &dyn Clock,
    newest: u64,
) -> Result<Option<Gap>> {
    let record = read(objects, sealer, newest)?;
    let numbers = listed(objects, newest)?;
    // What is not listed may be there: lists can be late.
    let is_there = |number: u64| {
        let there = patiently(clock, || find::is_there(objects, number).map(|there| there.then_some(())))?;
        Ok::<_, RemoteError>(there.is_some())
    };
    let mut first = newest;
    while first > 1 && (numbers.contains(&(first - 1)) || is_there(first - 1)?) {
        first -= 1;
    }
    // (Older records than the image may go.)
    if first == 1 || record.head.image >= first {
        return Ok(None);
    }
    let Some(before) = numbers.range(..first).next_back().copied() else { return Ok(None) };
    let by = match read(objects, sealer, record.head.claim) {
        Ok(claim) => claimed_by(&claim),
        Err(_) => claimed_by(&record),
    };
    let behind = (first..=newest).collect();
    Ok(Some(Gap { before, newest, missing: first - 1 - before, behind, by }))
}

impl Gap {
    /// The error of who needs what is missing.
    pub fn error(&self, place: &str) -> RemoteError {
        RemoteError::BreaksOff { place: place.into(), before: self.before, newest: self.newest }
    }

    /// Removes what was behind it when it was found, and nothing that came since, from its end on: whoever is interrupted finds the same gap
    /// again.
    ///
    /// # Errors
    /// Those of requests.
    pub fn close(&self, objects: &dyn Objects) -> Result<()> {
        for number in self.behind.iter().rev() {
            objects.delete(&names::record(*number))?;
        }
        Ok(())
    }
}

/// A gap behind which are only `attempts` of an owner that has ended, which never counted as shipped, or of which nothing else says that they
/// did: it would have taken them back itself. `None` if the log does not break off.
///
/// # Errors
/// [`RemoteError::BreaksOff`] where something else is there; those of requests and of opening.
pub fn own_gap(
    objects: &dyn Objects,
    sealer: &RemoteSealer,
    clock: &dyn Clock,
    attempts: &[Position],
) -> Result<Option<Gap>> {
    let newest = newest_number(objects)?;
    if newest == 0 {
        return Ok(None);
    }
    let Some(gap) = find_gap(objects, sealer, clock, newest)? else { return Ok(None) };
    for &number in &gap.behind {
        let record = read(objects, sealer, number)?;
        if !attempts.contains(&Position { number, seal: record.seal }) {
            return Err(gap.error(sealer.place()));
        }
    }
    Ok(Some(gap))
}

impl Log {
    /// As [`Log::open`], but for what is behind a gap, where the log breaks off; and that gap.
    ///
    /// # Errors
    /// Those of requests and of opening.
    pub fn open_before_gap(
        objects: Arc<dyn Objects>,
        sealer: RemoteSealer,
        clock: &dyn Clock,
    ) -> Result<(Self, Option<Gap>)> {
        let mut number = newest_number(&*objects)?;
        let mut gap: Option<Gap> = None;
        while number > 0
            && let Some(found) = find_gap(&*objects, &sealer, clock, number)?
        {
            number = found.before;
            gap = Some(match gap {
                None => found,
                Some(mut gap) => {
                    gap.behind.extend(found.behind);
                    Gap { before: found.before, ..gap }
                }
            });
        }
        let state =
            if number == 0 { LogState::default() } else { find::state_at(&*objects, &sealer, number)? };
        let shared = Arc::new(AtomicU64::new(number));
        Ok((Self { objects, sealer, state, pending: None, shared, kept: None }, gap))
    }

    /// Where the log breaks off; `None` if it does not.
    ///
    /// # Errors
    /// Those of requests and of opening.
    pub(in super::super) fn gap(&self, clock: &dyn Clock) -> Result<Option<Gap>> {
        match self.state.newest.number {
            0 => Ok(None),
            newest => find_gap(&*self.objects, &self.sealer, clock, newest),
        }
    }
}

/// What it means that something is missing which must be there: perhaps the log breaks off.
pub fn or_breaks_off(
    e: RemoteError,
    objects: &dyn Objects,
    sealer: &RemoteSealer,
    clock: &dyn Clock,
) -> RemoteError {
    if !matches!(e, RemoteError::Lost { .. }) {
        return e;
    }
    let found = newest_number(objects).and_then(|newest| match newest {
        0 => Ok(None),
        newest => find_gap(objects, sealer, clock, newest),
    });
    match found {
        Ok(Some(gap)) => gap.error(sealer.place()),
        _ => e,
    }
}
