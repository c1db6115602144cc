//! Writing anew what is left of objects of which little is needed.
//!
//! Where parts and records have much that nothing refers to any more, the blocks that are needed of those with the least are put into new parts,
//! or into a record, and a record says that they are there from now on. The old objects are removed as all is that no state needs
//! which was the newest lately; an image is made for that when there has been enough of it, because what images do not name is not needed.
//!
//! It is a record like any other, which has no new state: whoever attaches the store, or goes on with it, finds the blocks where it says.
//! Blocks are read here, and fetched if they are not; those that do not open stay where they are.

use super::super::catalog::Place;
use super::super::error::{RemoteError, Result};
use super::super::fetch::Fetcher;
use super::super::format::{Blocks, Commit, Contents, PART_BLOCK_BYTES, PartRef, SegmentState, part_bytes};
use super::super::names;
use super::super::objects::Trouble;
use super::super::side_by_side::{AT_ONCE, each, each_of};
use super::blocks::{IN_RECORD, PART_BLOCKS, put_part};
use super::{ShipError, Shipper};
use crate::store::{BLOCK_BYTES, Run, SEAL_BYTES, Sealer, Segments, StoredBlocks};
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// Objects may have so much, in hundredths of what is needed of them; then they are written anew until it is less than that.
const MOST: u64 = 120;
const LEAST: u64 = 110;
/// What an object has beside its blocks that does not count, in bytes; what all of them may have beyond [`MOST`].
const FLOOR: u64 = 256 << 10;
/// Objects of which more is needed than this, in hundredths, are not written anew.
const FULL: u64 = 90;
/// Bytes that are written at a time, roughly.
const STEP: u64 = 16 << 20;
/// Blocks that lie side by side, and are fewer, go into the record.
const WORTH_A_PART: u32 = 64;
/// Blocks that are read at a time.
const READ: u32 = 1024;
/// Records whose lengths are asked for at a time.
const RECORDS: usize = 512;
/// How often it is looked whether there is something to be done.
const LOOK: Duration = Duration::from_secs(60);
/// How often an image is made for it, at most.
const IMAGE: Duration = Duration::from_secs(3600);
/// When an image is old: records behind it stay longer than any state needs them. There is another one if they have more than this part of
/// what is needed.
const OLD_IMAGE: Duration = Duration::from_secs(6 * 3600);
const RECORDS_PART: u64 = 20;

/// How long nothing is asked of an object of which something is missing or damaged: somebody may mend it.
const UNSOUND: Duration = Duration::from_secs(6 * 3600);

/// What was written anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// Blocks.
    pub blocks: u64,
    /// Bytes of objects that are needed no longer but for what was the newest state before.
    pub freed_bytes: u64,
    /// There is more to be done at once.
    pub more: bool,
}

/// How far that is.
#[derive(Debug, Default)]
pub(super) struct Rewrite {
    /// Lengths of records that have blocks.
    lengths: BTreeMap<u64, u64>,
    next_look: Duration,
    /// Something was written since the newest image.
    has_written: bool,
    /// All that was to be done is done.
    is_over: bool,
    /// When the next image may be made for it, and when there is one in any case, if it is worth it.
    next_image: Duration,
    old_image: Duration,
    /// Objects of which something is missing or damaged: nothing is asked of them before then.
    unsound: BTreeMap<Object, Duration>,
    /// What is needed of all objects.
    needed: u64,
    now: Duration,
}

impl Rewrite {
    /// Whether there is to be an image, so that what was written anew can be removed where it was; or so that records can be, which have so
    /// many bytes.
    pub(super) fn wants_image(&self, record_bytes: u64) -> bool {
        let is_worth_it = record_bytes > FLOOR && record_bytes > self.needed / RECORDS_PART;
        let is_written = self.has_written && self.is_over && self.now >= self.next_image;
        is_written || is_worth_it && self.now >= self.old_image
    }

    /// Whether something of an object was found to be missing or damaged by this process.
    pub(super) fn has_found_damage(&self, place: &Place) -> bool {
        let object = match place {
            Place::Part(part) => Object::Part(**part),
            Place::Record(number) => Object::Record(*number),
        };
        self.unsound.contains_key(&object)
    }

    /// There is one.
    pub(super) fn has_image(&mut self, now: Duration) {
        if std::mem::take(&mut self.has_written) {
            self.next_image = now.saturating_add(IMAGE);
        }
        self.old_image = now.saturating_add(OLD_IMAGE);
        self.now = now;
    }
}

/// An object with blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Object {
    Part(PartRef),
    Record(u64),
}

/// How much of it is needed.
#[derive(Clone, Copy, Debug)]
struct Use {
    object: Object,
    /// Its length.
    bytes: u64,
    /// What is needed, as it would be written anew.
    needed: u64,
}

impl Use {
    fn cmp(&self, other: &Self) -> Ordering {
        let (one, two) = (
            u128::from(self.needed) * u128::from(other.bytes),
            u128::from(other.needed) * u128::from(self.bytes),
        );
        one.cmp(&two).then(self.object.cmp(&other.object))
    }
}

/// Which of them are to be written anew, those first of which least is needed, and whether that is all that has to be.
fn chosen(mut uses: Vec<Use>) -> (Vec<Use>, bool) {
    let (mut bytes, needed) =
        uses.iter().fold((0, 0), |(bytes, needed), one| (bytes + one.bytes, needed + one.needed));
    let most = |hundredths: u64| needed / 100 * hundredths + FLOOR;
    if bytes <= most(MOST) {
        return (Vec::new(), true);
    }
    uses.retain(|one| one.needed < one.bytes / 100 * FULL);
    uses.sort_unstable_by(Use::cmp);
    let (mut out, mut written) = (Vec::new(), 0);
    for one in uses {
        if bytes <= most(LEAST) {
            return (out, true);
        }
        if written > 0 && written + one.needed > STEP {
            return (out, false);
        }
        written += one.needed;
        bytes = bytes + one.needed - one.bytes;
        out.push(one);
    }
    (out, true)
}

/// Blocks that lie side by side and are sealed alike, up to the size of a part.
fn stretches(stored: Vec<StoredBlocks>) -> Vec<Vec<StoredBlocks>> {
    let mut out: Vec<Vec<StoredBlocks>> = Vec::new();
    for blocks in stored {
        let joins = |stretch: &Vec<StoredBlocks>| {
            let (Some(first), Some(last)) = (stretch.first(), stretch.last()) else { return false };
            first.run.start.segment == blocks.run.start.segment
                && last.run.end_index() == blocks.run.start.index
                && last.key_epoch == blocks.key_epoch
                && blocks.run.end_index() - first.run.start.index <= PART_BLOCKS
        };
        match out.last_mut() {
            Some(stretch) if joins(stretch) => stretch.push(blocks),
            _ => out.push(vec![blocks]),
        }
    }
    out
}

fn count_of(stretch: &[StoredBlocks]) -> u32 {
    stretch.iter().map(|blocks| blocks.run.count).sum()
}

impl Shipper {
    /// Writes anew what is needed of some objects of which little is, if there are too many of them: some MiB each time. Nothing is done
    /// while everything is being sealed again.
    ///
    /// # Errors
    /// Those of requests, and of reading. What was not done is done the next time.
    pub fn rewrite(&mut self, segments: &Segments) -> std::result::Result<Rewritten, ShipError> {
        let (now, header) = (self.clock.now(), self.log.state().header);
        self.rewrite.now = now;
        let is_ready = !self.log.is_pending() && self.log.state().image > 0 && header.number > 0;
        if !is_ready || now < self.rewrite.next_look || self.log.sealer().keys().epochs().len() > 1 {
            return Ok(Rewritten::default());
        }
        self.rewrite.next_look = now.saturating_add(LOOK);
        let mut uses = self.uses()?;
        uses.retain(|one| self.rewrite.unsound.get(&one.object).is_none_or(|until| *until <= now));
        self.rewrite.needed = uses.iter().map(|one| one.needed).sum();
        let (chosen, is_all) = chosen(uses);
        self.rewrite.is_over = is_all;
        if chosen.is_empty() {
            return Ok(Rewritten::default());
        }
        let (blocks, has_left) = self.write_anew(segments, &chosen)?;
        let mut done = Rewritten { blocks, more: !is_all && blocks > 0, freed_bytes: 0 };
        if !has_left {
            done.freed_bytes = chosen.iter().map(|one| one.bytes).sum();
        }
        if done.more {
            self.rewrite.next_look = now;
        }
        Ok(done)
    }

    /// How much is needed of each object with blocks, but for records that have come since the newest image: they are needed anyway.
    fn uses(&mut self) -> Result<Vec<Use>> {
        let image = self.log.state().image;
        let mut parts: HashMap<(u64, u32, u64), (PartRef, u64)> = HashMap::new();
        let mut records: BTreeMap<u64, u64> = BTreeMap::new();
        {
            let catalog = self.catalog.lock();
            for (run, place, _) in catalog.places() {
                let count = u64::from(run.count);
                match place {
                    Place::Part(part) => {
                        parts.entry((part.segment, part.first, part.random)).or_insert((**part, 0)).1 +=
                            count;
                    }
                    Place::Record(number) if *number < image => *records.entry(*number).or_default() += count,
                    Place::Record(_) => {}
                }
            }
        }
        let lengths = &mut self.rewrite.lengths;
        lengths.retain(|number, _| records.contains_key(number));
        let unknown: Vec<u64> =
            records.keys().filter(|number| !lengths.contains_key(number)).take(RECORDS).copied().collect();
        let objects = self.log.objects();
        let asked = each_of(2 * AT_ONCE, &unknown, |number| match objects.head(&names::record(*number)) {
            Ok(found) => Ok(Some(found.bytes)),
            // Whoever needs it is told.
            Err(e) if e.trouble == Trouble::Missing => Ok(None),
            Err(e) => Err(e.into()),
        })?;
        lengths.extend(unknown.into_iter().zip(asked).filter_map(|(number, bytes)| Some((number, bytes?))));
        let of_parts = parts.into_values().map(|(part, live)| {
            let (bytes, needed) = (part_bytes(part.count), live * PART_BLOCK_BYTES);
            Use { object: Object::Part(part), bytes, needed }
        });
        let of_records = records.iter().filter_map(|(number, live)| {
            let bytes = *lengths.get(number)?;
            Some(Use { object: Object::Record(*number), bytes, needed: live * PART_BLOCK_BYTES })
        });
        Ok(of_parts.chain(of_records).collect())
    }

    /// Writes what is needed of these into new objects. How many blocks that were, and whether some could not be read.
    fn write_anew(
        &mut self,
        segments: &Segments,
        chosen: &[Use],
    ) -> std::result::Result<(u64, bool), ShipError> {
        let (stored, has_left) = self.read_needed(segments, chosen)?;
        let blocks: u64 = stored.iter().map(|blocks| u64::from(blocks.run.count)).sum();
        let mut commit = Commit::default();
        let (mut into_parts, mut into_record) = (Vec::new(), Vec::new());
        {
            let catalog = self.catalog.lock();
            for stretch in stretches(stored) {
                // A record has one key epoch for all blocks of a segment: that of the segment.
                let state = stretch.first().and_then(|first| catalog.state(first.run.start.segment));
                let fits = |state: SegmentState| {
                    stretch.iter().all(|blocks| blocks.key_epoch == u64::from(state.key_epoch))
                };
                match state.filter(|state| count_of(&stretch) < WORTH_A_PART && fits(*state)) {
                    Some(state) => into_record.push((state, stretch)),
                    None => into_parts.push(parking_lot::Mutex::new(stretch)),
                }
            }
        }
        let (objects, sealer) = (Arc::clone(self.log.objects()), self.log.sealer().clone());
        let parts =
            each(&into_parts, |stretch| put_part(&*objects, &sealer, std::mem::take(&mut *stretch.lock())))?;
        commit.parts = parts.into_iter().flatten().collect();
        commit.parts.iter().for_each(|part| self.note_part(part));
        let mut in_record = 0;
        for (state, stretch) in into_record {
            if in_record + count_of(&stretch) > IN_RECORD {
                self.append_anew(std::mem::take(&mut commit))?;
                in_record = 0;
            }
            in_record += count_of(&stretch);
            if commit.segments.last() != Some(&state) {
                commit.segments.push(state);
            }
            commit.blocks.extend(stretch.into_iter().map(|blocks| {
                let seals = blocks.seals.chunks_exact(SEAL_BYTES);
                let seals = seals.filter_map(|seal| seal.first_chunk().copied()).collect();
                Blocks { start: blocks.run.start, seals, stored: blocks.contents.into() }
            }));
        }
        self.append_anew(commit)?;
        Ok((blocks, has_left))
    }

    fn append_anew(&mut self, commit: Commit) -> std::result::Result<(), ShipError> {
        if !commit.parts.is_empty() || !commit.blocks.is_empty() {
            let header = self.log.state().header;
            self.rewrite.has_written = true;
            self.append(Contents::Commit(Box::new(commit)), header)?;
        }
        Ok(())
    }

    /// Reads what is needed of these, from here or from there, in the order of addresses. Whether some could not be read.
    fn read_needed(
        &mut self,
        segments: &Segments,
        chosen: &[Use],
    ) -> std::result::Result<(Vec<StoredBlocks>, bool), ShipError> {
        let chosen: std::collections::BTreeSet<Object> = chosen.iter().map(|one| one.object).collect();
        let runs: Vec<(Run, u64, Object)> = {
            let catalog = self.catalog.lock();
            let object = |place: &Place| match place {
                Place::Part(part) => Object::Part(**part),
                Place::Record(number) => Object::Record(*number),
            };
            let all = catalog.places().map(|(run, place, key_epoch)| (run, object(place), key_epoch));
            all.filter(|(_, object, _)| chosen.contains(object))
                .flat_map(|(run, object, key_epoch)| {
                    let pieces = (0..run.count).step_by(READ as usize);
                    let piece = move |skip| run.part(skip, READ.min(run.count - skip));
                    pieces.map(move |skip| (piece(skip), key_epoch.into(), object))
                })
                .collect()
        };
        let (objects, sealer) = (Arc::clone(self.log.objects()), self.log.sealer());
        let fetcher = Fetcher::new(objects, sealer.clone(), Arc::clone(&self.catalog));
        let opener = Sealer::new(sealer.keys());
        let is_whole = |blocks: &StoredBlocks, at: u32| {
            let at = at as usize;
            let seal = blocks.seals.get(at * SEAL_BYTES..(at + 1) * SEAL_BYTES);
            let contents = blocks.contents.get(at * BLOCK_BYTES..(at + 1) * BLOCK_BYTES);
            let addr = blocks.run.start.plus(at as u32);
            seal.zip(contents)
                .is_some_and(|(seal, contents)| opener.is_whole(blocks.key_epoch, addr, contents, seal))
        };
        let (mut out, mut has_left) = (Vec::new(), false);
        let mut unsound: Vec<(Object, Option<RemoteError>)> = Vec::new();
        for (run, key_epoch, object) in runs {
            let mut here = segments.read_stored(run).map_err(|e| ShipError::Store(e.to_string()))?;
            here.retain(|blocks| blocks.key_epoch == key_epoch);
            let count: u32 = here.iter().map(|blocks| blocks.run.count).sum();
            if count < run.count {
                here = match fetcher.fetch(run) {
                    Ok(here) => here,
                    Err(e) if is_of_object(&e) => {
                        unsound.push((object, Some(e)));
                        has_left = true;
                        continue;
                    }
                    Err(e) => return Err(e.into()),
                };
                here.retain(|blocks| {
                    blocks.key_epoch == key_epoch && (0..blocks.run.count).all(|at| is_whole(blocks, at))
                });
                let count: u32 = here.iter().map(|blocks| blocks.run.count).sum();
                if count < run.count {
                    unsound.push((object, None));
                    has_left = true;
                }
            }
            out.extend(here);
        }
        // Where nothing of the store can be seen, nothing is wrong with these.
        if !unsound.is_empty() {
            self.log.objects().head(names::STORE).map_err(RemoteError::from)?;
        }
        for (object, e) in unsound {
            self.is_unsound(object, e.as_ref());
        }
        out.sort_unstable_by_key(|blocks| blocks.run);
        Ok((out, has_left))
    }
}

impl Shipper {
    /// Something of an object is missing or damaged, which is said once: what else there is goes on.
    fn is_unsound(&mut self, object: Object, e: Option<&RemoteError>) {
        let until = self.rewrite.now.saturating_add(UNSOUND);
        if self.rewrite.unsound.insert(object, until).is_some() {
            return;
        }
        let place = self.log.sealer().place();
        let what = e.map_or_else(
            || {
                let name = match object {
                    Object::Part(part) => names::part(&part),
                    Object::Record(number) => names::record(number),
                };
                format!("{place}/{name} has blocks that do not open")
            },
            ToString::to_string,
        );
        log::warn!(
            "{what}: what is needed of it is not written anew, while all else is; see `larder remote check {place} --read-data`"
        );
    }
}

/// Whether each further attempt would find the same of this object, and not of others.
fn is_of_object(e: &RemoteError) -> bool {
    e.is_missing() || matches!(e, RemoteError::Lost { .. } | RemoteError::Damaged { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(number: u64, bytes: u64, needed: u64) -> Use {
        Use { object: Object::Record(number), bytes: bytes << 20, needed: needed << 20 }
    }

    fn numbers(uses: Vec<Use>) -> (Vec<u64>, bool) {
        let (chosen, is_all) = chosen(uses);
        let number = |one: Use| if let Object::Record(number) = one.object { number } else { 0 };
        (chosen.into_iter().map(number).collect(), is_all)
    }

    #[test]
    fn those_are_written_anew_of_which_least_is_needed_until_it_is_little_enough() {
        assert_eq!(numbers(vec![used(1, 10, 9), used(2, 10, 8)]), (vec![], true));
        // 30 of 20: the worst one makes it 23.
        let uses = vec![used(1, 10, 8), used(2, 10, 3), used(3, 10, 9)];
        assert_eq!(numbers(uses), (vec![2, 1], true));
        // No more than a step at a time, but one at least.
        let uses = vec![used(1, 40, 20), used(2, 10, 1), used(3, 10, 3), used(4, 10, 9)];
        assert_eq!(numbers(uses), (vec![2, 3], false));
        assert_eq!(numbers(vec![used(1, 90, 40)]), (vec![1], true));
        assert_eq!(numbers(vec![used(1, 1, 0), used(2, 1, 0)]), (vec![1, 2], true));
    }
}
