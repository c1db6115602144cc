//! Blocks, into parts or into the record.

use super::super::catalog::Place;
use super::super::error::RemoteError;
use super::super::format::{
    Blocks, Commit, HeaderRef, ObjectSeal, PART_BLOCK_BYTES, PartRef, part_bytes, random,
};
use super::super::names;
use super::super::objects::{Objects, Trouble};
use super::super::seal::RemoteSealer;
use super::super::side_by_side::{AT_ONCE, each};
use super::super::source::State;
use super::{ShipError, Shipper, brought_by, catalog_of};
use crate::store::{BLOCK_BYTES, Run, SEAL_BYTES, StoredBlocks};
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};

/// Blocks in a part at most: 16 MiB.
pub(super) const PART_BLOCKS: u32 = 4096;
/// Stretches that are shorter go into the record: a request costs more than their bytes. 1 MiB.
const WORTH_A_PART: u32 = 256;
/// The same where there is too much for one record, which is read whole by whoever wants a block of it: as much as is read of a part at least.
const WORTH_A_PART_OF_MANY: u32 = 64;
/// Blocks in a record at most: 4 MiB.
pub(super) const IN_RECORD: u32 = 1024;
/// Names that a part is given, one after the other, while something else has them.
const NAMES: u32 = 3;
/// Blocks between two others that are taken along, if they are still there: a part more costs more.
const GAP: u32 = 16;

/// Blocks of one segment that go somewhere together: from the first to behind the last.
fn stretches(runs: &[Run]) -> Vec<Run> {
    let mut out: Vec<Run> = Vec::new();
    for run in runs {
        let mut rest = *run;
        while rest.count > 0 {
            let joined = out.last_mut().filter(|last| {
                let near = rest.start.index >= last.end_index() && rest.start.index - last.end_index() <= GAP;
                last.start.segment == rest.start.segment
                    && near
                    && rest.start.index - last.start.index < PART_BLOCKS
            });
            let taken = match joined {
                Some(last) => {
                    let room = PART_BLOCKS - (rest.start.index - last.start.index);
                    let taken = rest.count.min(room);
                    last.count = rest.start.index + taken - last.start.index;
                    taken
                }
                None => {
                    let taken = rest.count.min(PART_BLOCKS);
                    out.push(rest.part(0, taken));
                    taken
                }
            };
            rest = rest.part(taken, rest.count - taken);
        }
    }
    out
}

/// How many blocks are worth a part; where there is much that is smaller, or not.
fn worth_a_part(is_much: bool, in_record: u32) -> u32 {
    if is_much { WORTH_A_PART_OF_MANY.min(in_record) } else { WORTH_A_PART }
}

/// Stretches that go into records, of so many blocks each at most, and those that become parts.
fn divided(stretches: Vec<Run>, in_record: u32) -> (Vec<Run>, Vec<Run>) {
    let small = stretches.iter().map(|run| u64::from(run.count)).filter(|count| *count < WORTH_A_PART.into());
    let worth_a_part = worth_a_part(small.sum::<u64>() > in_record.into(), in_record);
    stretches.into_iter().partition(|run| run.count < worth_a_part)
}

/// Blocks of the record that is being made.
#[derive(Debug, Default)]
pub(super) struct Small {
    pub(super) count: u32,
    /// The key epoch in which those of each segment were read.
    pub(super) read_in: BTreeMap<u64, u32>,
}

/// What became of a run that was to be put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Put {
    Done,
    NotYet(Run),
    Late,
}

/// Blocks that lie side by side. What is between two stretches could not be read: it was free, or is not on this host, and a part must not
/// stand for it.
fn side_by_side(stored: Vec<StoredBlocks>) -> Vec<Vec<StoredBlocks>> {
    let mut out: Vec<Vec<StoredBlocks>> = Vec::new();
    for blocks in stored {
        let follows = |last: &StoredBlocks| last.run.end_index() == blocks.run.start.index;
        match out.last_mut() {
            Some(stretch) if stretch.last().is_some_and(follows) => stretch.push(blocks),
            _ => out.push(vec![blocks]),
        }
    }
    out
}

/// The bytes of a part's blocks, which lie side by side, and which they are; `None` if there are none.
fn body_of(stored: &[StoredBlocks]) -> Option<(Run, u64, Vec<u8>)> {
    let (first, last) = (stored.first()?, stored.last()?);
    let run = Run::new(first.run.start, last.run.end_index() - first.run.start.index);
    let mut body = vec![0; run.count as usize * PART_BLOCK_BYTES as usize];
    for blocks in stored {
        let skip = (blocks.run.start.index - run.start.index) as usize;
        let each = blocks.seals.chunks_exact(SEAL_BYTES).zip(blocks.contents.chunks_exact(BLOCK_BYTES));
        let places = body.chunks_exact_mut(PART_BLOCK_BYTES as usize).skip(skip);
        for (place, (seal, contents)) in places.zip(each) {
            place[..SEAL_BYTES].copy_from_slice(seal);
            place[SEAL_BYTES..].copy_from_slice(contents);
        }
    }
    Some((run, first.key_epoch, body))
}

fn failed(why: String) -> RemoteError {
    RemoteError::Host { what: "cannot read blocks that are to be shipped".into(), why }
}

fn sealed_again() -> RemoteError {
    failed("they are being sealed again; the next attempt finds them done".into())
}

fn read(state: &dyn State, run: Run) -> Result<Vec<StoredBlocks>, RemoteError> {
    let stored = state.read(run).map_err(|e| failed(e.to_string()))?;
    let epoch = stored.first().map(|blocks| blocks.key_epoch);
    if stored.iter().any(|blocks| Some(blocks.key_epoch) != epoch) {
        return Err(sealed_again());
    }
    Ok(stored)
}

/// Makes a part of blocks that lie side by side; `None` if there are none.
pub(super) fn put_part(
    objects: &dyn Objects,
    sealer: &RemoteSealer,
    stretch: Vec<StoredBlocks>,
) -> Result<Option<PartRef>, RemoteError> {
    let Some((run, key_epoch, body)) = body_of(&stretch) else { return Ok(None) };
    drop(stretch);
    let mut body = Bytes::from(body);
    for _ in 0..NAMES {
        let number = random().map_err(|e| RemoteError::host("cannot get random bytes", &e))?;
        let mut part = PartRef {
            segment: run.start.segment,
            first: run.start.index,
            count: run.count,
            random: u64::from_le_bytes(number),
            key_epoch: u32::try_from(key_epoch).unwrap_or(u32::MAX),
            seal: ObjectSeal::default(),
        };
        let head = sealer.seal_part(&part)?;
        part.seal = head.seal;
        let mut bytes = BytesMut::with_capacity(part_bytes(part.count) as usize);
        bytes.extend_from_slice(&head.bytes);
        bytes.extend_from_slice(&body);
        let (name, bytes) = (names::part(&part), bytes.freeze());
        // (It is in memory once.)
        body = bytes.slice(head.bytes.len()..);
        match objects.put_new(&name, bytes.clone()) {
            Ok(()) => return Ok(Some(part)),
            // Its name is random. It is this one, if its bytes say so; whatever else is there stays, and is no part that a record names.
            Err(e) if e.trouble == Trouble::Exists => match objects.get(&name, bytes.len() as u64) {
                Ok(there) if there == bytes => return Ok(Some(part)),
                Err(e) if !matches!(e.trouble, Trouble::Other | Trouble::Missing) => return Err(e.into()),
                _ => log::warn!(
                    "{}/{name} is something else already; what was to be there gets another name",
                    sealer.place()
                ),
            },
            Err(e) => return Err(e.into()),
        }
    }
    let name = format!("{}*", names::parts_of(run.start.segment));
    Err(RemoteError::damaged(
        sealer.place(),
        &name,
        "each name that a new object is given there is taken by another one",
    ))
}

impl Shipper {
    /// Puts the blocks of the state that the remote lacks where the record can name them, or into it. Returns the key epoch in which those
    /// in the record were read, of each segment; `None` if that takes too long for this state: what was done is in records then.
    pub(super) fn put_blocks(
        &mut self,
        state: &dyn State,
        commit: &mut Commit,
        header: HeaderRef,
    ) -> Result<Option<BTreeMap<u64, u32>>, ShipError> {
        let mut epochs: BTreeMap<u64, u64> = BTreeMap::new();
        let mut wanted: Vec<Run> = Vec::new();
        for run in state.blocks() {
            let segment = run.start.segment;
            let epoch = *epochs.entry(segment).or_insert_with(|| state.key_epoch(segment).unwrap_or(0));
            let missing = self.catalog.lock().missing(*run, epoch);
            for run in missing {
                wanted.extend(self.spare.missing(run, epoch));
                for (_, place) in self.spare.find(run) {
                    if let Place::Part(part) = place
                        && u64::from(part.key_epoch) >= epoch
                        && !commit.parts.contains(&*part)
                    {
                        commit.parts.push(*part);
                    }
                }
            }
        }
        let (into_records, into_parts) = divided(stretches(&wanted), self.limits.record_blocks);
        self.uploading.begin(wanted.iter().map(|run| u64::from(run.count)).sum());
        let mut small = Small::default();
        if !self.put_parts(state, &into_parts, commit, &mut small, header)?
            || !self.put_small(state, &into_records, commit, &mut small, header)?
        {
            return Ok(None);
        }
        let left_out = self.left_out_of(&wanted, &epochs, commit);
        self.left_out.extend(left_out);
        Ok(Some(small.read_in))
    }

    /// Puts blocks into the record; where there are more than it may have, into records without a state before it. False if that takes too long
    /// for this state.
    fn put_small(
        &mut self,
        state: &dyn State,
        runs: &[Run],
        commit: &mut Commit,
        small: &mut Small,
        header: HeaderRef,
    ) -> Result<bool, ShipError> {
        let began = self.clock.now();
        for (number, run) in (1..).zip(runs) {
            // (One record more is worth it, however late it is.)
            if !self.add_small(read(state, *run)?, commit, small, header)? {
                continue;
            }
            if number < runs.len() && self.is_over(state, began) {
                self.put_slice(commit, small, header)?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Adds blocks to those of the record. Where it would have too many, or a segment in two key epochs, those that it has go into one before:
    /// whether that was so.
    fn add_small(
        &mut self,
        stored: Vec<StoredBlocks>,
        commit: &mut Commit,
        small: &mut Small,
        header: HeaderRef,
    ) -> Result<bool, ShipError> {
        let mut was_put = false;
        for StoredBlocks { run, key_epoch, seals, contents } in stored {
            let key_epoch = u32::try_from(key_epoch).unwrap_or(u32::MAX);
            let is_other = small.read_in.get(&run.start.segment).is_some_and(|known| *known != key_epoch);
            if is_other || small.count > 0 && small.count + run.count > self.limits.record_blocks {
                self.put_slice(commit, small, header)?;
                was_put = true;
            }
            small.read_in.insert(run.start.segment, key_epoch);
            small.count += run.count;
            self.uploading.count(run.count);
            let seals =
                seals.chunks_exact(SEAL_BYTES).filter_map(|seal| seal.first_chunk().copied()).collect();
            commit.blocks.push(Blocks { start: run.start, seals, stored: contents.into() });
        }
        Ok(was_put)
    }

    /// Those of these blocks that are neither in `commit` nor in a record before it.
    fn left_out_of(&self, wanted: &[Run], epochs: &BTreeMap<u64, u64>, commit: &Commit) -> Vec<Run> {
        let brought = catalog_of(brought_by(commit));
        let catalog = self.catalog.lock();
        let epoch_of = |run: &Run| epochs.get(&run.start.segment).copied().unwrap_or(0);
        let left = wanted.iter().flat_map(|run| brought.missing(*run, 0));
        left.flat_map(|run| catalog.missing(run, epoch_of(&run))).collect()
    }

    /// Uploads parts, several at a time; what is too small for one goes into records. Those that are done are not done again if the others
    /// fail. False if it takes too long for the state.
    fn put_parts(
        &mut self,
        state: &dyn State,
        runs: &[Run],
        commit: &mut Commit,
        small: &mut Small,
        header: HeaderRef,
    ) -> Result<bool, ShipError> {
        let began = self.clock.now();
        let (mut slice_began, mut slice_bytes) = (began, 0);
        let mut left: VecDeque<Run> = runs.iter().copied().collect();
        let at_once =
            (self.limits.slice_bytes / part_bytes(PART_BLOCKS)).clamp(1, 2 * AT_ONCE as u64) as usize;
        let (in_record, worth_a_part) =
            (self.limits.record_blocks, worth_a_part(true, self.limits.record_blocks));
        while !left.is_empty() {
            let some: Vec<Run> = left.drain(..at_once.min(left.len())).collect();
            let (objects, sealer) = (self.log.objects(), self.log.sealer());
            let (done, pieces) = (Mutex::new(Vec::new()), Mutex::new((Vec::new(), 0)));
            let is_late = || self.deadline.is_past(self.clock.now());
            let put = each(&some, |run| {
                if is_late() {
                    return Ok(Put::Late);
                }
                // Not all that is small is kept in memory.
                if pieces.lock().1 >= in_record {
                    return Ok(Put::NotYet(*run));
                }
                for stretch in side_by_side(read(state, *run)?) {
                    let count = stretch.iter().map(|blocks| blocks.run.count).sum::<u32>();
                    if count < worth_a_part {
                        let (pieces, total) = &mut *pieces.lock();
                        pieces.extend(stretch);
                        *total += count;
                    } else {
                        done.lock().extend(put_part(&**objects, sealer, stretch)?);
                        self.uploading.count(count);
                    }
                }
                Ok(Put::Done)
            });
            for part in done.into_inner() {
                slice_bytes += part_bytes(part.count);
                self.spare.add_part(part);
                self.note_part(&part);
                commit.parts.push(part);
            }
            let put = match put {
                Ok(put) => put,
                Err(e) => {
                    // Whoever goes on with it later, perhaps another process, finds what there is.
                    if self.deadline.is_past(self.clock.now()) {
                        self.put_slice(commit, small, header)?;
                    }
                    return Err(e.into());
                }
            };
            self.add_small(pieces.into_inner().0, commit, small, header)?;
            let is_late = put.contains(&Put::Late);
            for put in put.into_iter().rev() {
                if let Put::NotYet(run) = put {
                    left.push_front(run);
                }
            }
            let is_over = is_late || !left.is_empty() && self.is_over(state, began);
            let now = self.clock.now();
            let is_slice = slice_bytes >= self.limits.slice_bytes
                || now.saturating_sub(slice_began) >= self.limits.slice_time;
            if is_over || !left.is_empty() && is_slice {
                self.put_slice(commit, small, header)?;
                (slice_began, slice_bytes) = (now, 0);
            }
            if is_over {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::BlockAddr;

    fn run(segment: u64, index: u32, count: u32) -> Run {
        Run::new(BlockAddr { segment, index }, count)
    }

    #[test]
    fn runs_near_each_other_go_together_up_to_the_size_of_a_part() {
        assert!(stretches(&[]).is_empty());
        let runs = [run(1, 0, 10), run(1, 20, 5), run(1, 100, 1), run(2, 0, 9000), run(2, 9001, 1)];
        assert_eq!(
            stretches(&runs),
            [run(1, 0, 25), run(1, 100, 1), run(2, 0, 4096), run(2, 4096, 4096), run(2, 8192, 810)]
        );
        assert_eq!(stretches(&[run(1, 0, 4090), run(1, 4095, 10)]), [run(1, 0, 4096), run(1, 4096, 9)]);
    }

    #[test]
    fn what_is_small_goes_into_records() {
        let few = vec![run(1, 0, 255), run(1, 1000, 256), run(1, 2000, 1)];
        assert_eq!(divided(few, IN_RECORD), (vec![run(1, 0, 255), run(1, 2000, 1)], vec![run(1, 1000, 256)]));
        let many: Vec<Run> = (0..40).map(|i| run(1, i * 100, 30 + i)).collect();
        let (into_records, into_parts) = divided(many, IN_RECORD);
        assert_eq!((into_records.len(), into_parts.len()), (34, 6));
        assert!(into_parts.iter().all(|run| run.count >= WORTH_A_PART_OF_MANY));
    }

    #[test]
    fn a_part_has_no_block_that_could_not_be_read() {
        let stored = |index, fill: u8| StoredBlocks {
            run: run(1, index, 1),
            key_epoch: 3,
            seals: vec![fill; SEAL_BYTES],
            contents: vec![fill; BLOCK_BYTES],
        };
        let stretches = side_by_side(vec![stored(5, 1), stored(6, 2), stored(8, 3)]);
        let found: Vec<_> = stretches.iter().map(|stretch| body_of(stretch).unwrap()).collect();
        assert_eq!((found[0].0, found[0].1, found[0].2.len()), (run(1, 5, 2), 3, 2 * 4112));
        assert!(found[0].2[..4112].iter().all(|b| *b == 1) && found[0].2[4112..].iter().all(|b| *b == 2));
        assert_eq!((found[1].0, found.len()), (run(1, 8, 1), 2));
        assert!(side_by_side(Vec::new()).is_empty() && body_of(&[]).is_none());
    }
}
