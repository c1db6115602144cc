//! Finding the newest record.
//!
//! From the newest image that is old enough ([`collect`](super::super::collect)) on, records follow each other without gaps; before it, there
//! are gaps: claims, and records with blocks that are still needed. Lists, which may be late, but not by so much, and can be asked for what
//! comes after a number, lead to where the log ends; from there on, each record is asked for.

use super::super::error::{RemoteError, Result};
use super::super::format::OwnerId;
use super::super::names;
use super::super::objects::{Objects, Trouble};
use super::super::seal::RemoteSealer;
use super::{Held, LogState, Position, Seen, claim_of, read, read_needed};
use std::collections::BTreeMap;

/// Records that are listed at a time.
const LISTED: usize = 1000;

/// The state at the newest record; that of an empty log if there is none.
pub(super) fn newest(objects: &dyn Objects, sealer: &RemoteSealer, seen: Seen) -> Result<LogState> {
    let older = |seen: u64, now: String| RemoteError::Older { place: sealer.place().into(), seen, now };
    let known = match seen {
        Seen::Newest(seen) if seen.number > 0 => match read(objects, sealer, seen.number) {
            Ok(record) if record.seal == seen.seal => Some(seen.number),
            Ok(_) => return Err(older(seen.number, "another one has its number now".into())),
            // It may have been given up since, if there are newer ones.
            Err(e) if e.is_missing() => None,
            Err(e) => return Err(e),
        },
        _ => None,
    };
    // What was seen may lie before a gap.
    let newest = newest_from(objects, known.unwrap_or(0))?;
    if let Seen::Newest(seen) = seen
        && newest < seen.number
    {
        let now =
            if newest == 0 { "there is none now".into() } else { format!("now {newest} is the newest") };
        return Err(older(seen.number, now));
    }
    if newest == 0 { Ok(LogState::default()) } else { state_at(objects, sealer, newest) }
}

/// The number of the newest record, which is not looked at; 0 if there is none.
pub(in super::super) fn newest_number(objects: &dyn Objects) -> Result<u64> {
    newest_from(objects, 0)
}

/// The same, where `known` is there; 0: nothing is known.
fn newest_from(objects: &dyn Objects, known: u64) -> Result<u64> {
    let Some((mut there, mut is_end)) = listed_behind(objects, known)? else {
        let first = known.max(1);
        return if known > 0 || is_there(objects, first)? { last(objects, first) } else { Ok(0) };
    };
    // No listed record is behind this one.
    let (mut end, mut step) = (None, LISTED as u64);
    while !is_end && end.is_none_or(|end| there < end) {
        let next = end.map_or(there.saturating_add(step), |end| there + (end - there) / 2);
        match listed_behind(objects, next)? {
            Some(found) => ((there, is_end), step) = (found, step.saturating_mul(2)),
            None => end = Some(next),
        }
    }
    last(objects, there)
}

/// The last of the first records behind `number` that are listed, and whether no others are.
fn listed_behind(objects: &dyn Objects, number: u64) -> Result<Option<(u64, bool)>> {
    // Something else may be there, too.
    let listed = objects.list(names::LOG, &names::record(number), LISTED)?;
    let found = listed.iter().rev().find_map(|listed| names::record_number(&listed.name));
    Ok(found.filter(|found| *found > number).map(|found| (found, listed.len() < LISTED)))
}

/// The first record behind `number` that is listed.
pub(in super::super) fn listed_after(objects: &dyn Objects, number: u64) -> Result<Option<u64>> {
    // Something else may be there, too.
    let listed = objects.list(names::LOG, &names::record(number), 8)?;
    Ok(listed.iter().find_map(|listed| names::record_number(&listed.name)).filter(|found| *found > number))
}

/// The lengths of the records behind `number` up to `last`, of those that are listed, in bytes by number; and the number up to which there
/// are no others in the list.
pub(in super::super) fn listed_lengths(
    objects: &dyn Objects,
    number: u64,
    last: u64,
) -> Result<(BTreeMap<u64, u64>, u64)> {
    let listed = objects.list(names::LOG, &names::record(number), LISTED)?;
    let is_all = listed.len() < LISTED;
    let numbered = listed.iter().map(|listed| (names::record_number(&listed.name), listed.bytes));
    let lengths: BTreeMap<u64, u64> = numbered
        .filter_map(|(found, bytes)| Some((found?, bytes)))
        .filter(|(found, _)| (number + 1..=last).contains(found))
        .collect();
    let up_to = lengths.last_key_value().filter(|_| !is_all).map_or(last, |(found, _)| *found);
    Ok((lengths, up_to))
}

pub(super) fn is_there(objects: &dyn Objects, number: u64) -> Result<bool> {
    match objects.head(&names::record(number)) {
        Ok(_) => Ok(true),
        Err(e) if e.trouble == Trouble::Missing => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// The newest, from one that is there on.
fn last(objects: &dyn Objects, start: u64) -> Result<u64> {
    let (mut there, mut step) = (start, 1u64);
    let mut missing = loop {
        let next = there.saturating_add(step).min(names::NUMBER_MAX + 1);
        if next > names::NUMBER_MAX || !is_there(objects, next)? {
            break next;
        }
        (there, step) = (next, step.saturating_mul(2));
    };
    while missing - there > 1 {
        let middle = there + (missing - there) / 2;
        if is_there(objects, middle)? { there = middle } else { missing = middle }
    }
    Ok(there)
}

pub(super) fn state_at(objects: &dyn Objects, sealer: &RemoteSealer, number: u64) -> Result<LogState> {
    let record = read(objects, sealer, number)?;
    let head = &record.head;
    let held = match head.claim {
        0 => None,
        claim if claim == number => claim_of(&record),
        claim => Some(held(objects, sealer, claim, head.owner)?),
    };
    let newest = Position { number, seal: record.seal };
    Ok(LogState { newest, time: head.time, held, image: head.image, header: head.header })
}

/// The claim that a record says is in force.
fn held(objects: &dyn Objects, sealer: &RemoteSealer, claim: u64, owner: OwnerId) -> Result<Held> {
    let record = read_needed(objects, sealer, claim)?;
    let what = "it is not the claim that later records name";
    let held = claim_of(&record).filter(|held| held.by.id == owner);
    held.ok_or_else(|| RemoteError::damaged(sealer.place(), &names::record(claim), what))
}

#[cfg(test)]
mod tests {
    use super::super::super::counted::{Counted, Counts};
    use super::super::super::directory::Directory;
    use super::*;
    use bytes::Bytes;
    use std::sync::Arc;

    /// Each look listed a few names, a dozen times.
    #[test]
    fn the_newest_record_is_found_with_few_lists() {
        let tmp = tempfile::tempdir().unwrap();
        let counts = Arc::<Counts>::default();
        let objects = Counted::new(Arc::new(Directory::new(tmp.path())), Arc::clone(&counts));
        let put = |number: u64| objects.put_new(&names::record(number), Bytes::new()).unwrap();
        let looked = |known: u64| {
            let before = counts.so_far();
            let newest = newest_from(&objects, known).unwrap();
            let now = counts.so_far();
            (newest, now.lists - before.lists, now.reads - before.reads)
        };
        assert_eq!(looked(0), (0, 1, 1));
        put(1);
        assert_eq!((looked(0), looked(1)), ((1, 1, 1), (1, 1, 1)));
        // Claims, and gaps between them; and then all numbers.
        [2, 40, 900].into_iter().chain(1000..1400).for_each(put);
        for known in [0, 1, 2, 900, 1200, 1399] {
            assert_eq!(looked(known), (1399, 1, 1), "{known}");
        }
        (1400..5200).for_each(put);
        for known in [0, 900, 1399, 2600, 5000, 5199] {
            let (newest, lists, reads) = looked(known);
            assert!(newest == 5199 && lists <= 6 && reads <= 2, "{known}: {newest}, {lists}, {reads}");
        }
        // Something that is no record, and the end of all numbers.
        objects.put_new("log/x", Bytes::new()).unwrap();
        assert_eq!(looked(0).0, 5199);
        put(names::NUMBER_MAX);
        assert_eq!((looked(0).0, looked(5199).0), (names::NUMBER_MAX, names::NUMBER_MAX));
    }
}
