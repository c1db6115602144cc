//! Where in the remote each block is, and how far the segments have got, at some record: what images keep and records change.

use super::format::{
    Commit, InRecord, LiveBlocks, PART_BLOCK_BYTES, PartRef, Piece, SegmentState, part_bytes,
};
use crate::store::{BlockAddr, Run};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Entries of a piece that lists something: about 1 MiB, and less than the most that a piece may hold.
const PER_PIECE: usize = 20_000;

/// Where blocks are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a part.
    Part(Arc<PartRef>),
    /// In the record of this number.
    Record(u64),
}

#[derive(Clone, Debug)]
struct Entry {
    count: u32,
    place: Place,
    /// Key epoch of the blocks.
    key_epoch: u32,
}

#[derive(Debug, Default)]
struct Segment {
    /// `None`: only some blocks are known.
    state: Option<SegmentState>,
    /// By index of the first block. They do not overlap.
    entries: BTreeMap<u32, Entry>,
}

/// Where everything is. Of two places for a block, the one that was added last counts.
#[derive(Debug, Default)]
pub struct Catalog {
    segments: BTreeMap<u64, Segment>,
    extent: Extent,
}

/// Which objects the entries of all segments are in: each of them is counted when it comes and when it goes, so that nobody has to look at all
/// of them.
#[derive(Debug, Default)]
struct Extent {
    /// How many entries each part has, and each record.
    parts: BTreeMap<Arc<PartRef>, u64>,
    records: BTreeMap<u64, u64>,
    /// Bytes of these parts, and of the blocks in these records.
    bytes: u64,
}

impl Extent {
    fn add(&mut self, entry: &Entry) {
        match &entry.place {
            Place::Part(part) => {
                let entries = self.parts.entry(Arc::clone(part)).or_default();
                if *entries == 0 {
                    self.bytes += part_bytes(part.count);
                }
                *entries += 1;
            }
            Place::Record(number) => {
                *self.records.entry(*number).or_default() += 1;
                self.bytes += u64::from(entry.count) * PART_BLOCK_BYTES;
            }
        }
    }

    fn remove(&mut self, entry: &Entry) {
        let (entries, bytes) = match &entry.place {
            Place::Part(part) => (self.parts.get_mut(part), part_bytes(part.count)),
            Place::Record(number) => {
                self.bytes -= u64::from(entry.count) * PART_BLOCK_BYTES;
                (self.records.get_mut(number), 0)
            }
        };
        let Some(entries) = entries else { return };
        *entries -= 1;
        if *entries > 0 {
            return;
        }
        self.bytes -= bytes;
        match &entry.place {
            Place::Part(part) => drop(self.parts.remove(part)),
            Place::Record(number) => drop(self.records.remove(number)),
        }
    }
}

impl Segment {
    fn insert(&mut self, first: u32, entry: Entry, extent: &mut Extent) {
        extent.add(&entry);
        self.entries.insert(first, entry);
    }

    /// Takes out what is known of some blocks.
    fn cut(&mut self, first: u32, end: u32, extent: &mut Extent) {
        while let Some((at, entry)) =
            self.entries.range(..end).next_back().map(|(at, entry)| (*at, entry.clone()))
        {
            if at + entry.count <= first {
                return;
            }
            self.entries.remove(&at);
            if at + entry.count > end {
                self.insert(end, Entry { count: at + entry.count - end, ..entry.clone() }, extent);
            }
            if at < first {
                self.insert(at, Entry { count: first - at, ..entry.clone() }, extent);
            }
            extent.remove(&entry);
            if at < first {
                return;
            }
        }
    }

    fn put(&mut self, first: u32, entry: Entry, extent: &mut Extent) {
        self.cut(first, first.saturating_add(entry.count), extent);
        self.insert(first, entry, extent);
    }
}

fn end_of(run: Run) -> u32 {
    run.start.index.saturating_add(run.count)
}

impl Catalog {
    /// What tables of an image say.
    pub fn of(pieces: impl IntoIterator<Item = Piece>) -> Self {
        let mut catalog = Self::default();
        let mut last: Option<Arc<PartRef>> = None;
        for piece in pieces {
            match piece {
                Piece::Segments(states) => states.into_iter().for_each(|state| catalog.grow(state)),
                Piece::Parts(some) => {
                    for LiveBlocks { part, from, count } in some {
                        let known = last.take().filter(|known| **known == part);
                        let part = known.unwrap_or_else(|| Arc::new(part));
                        last = Some(Arc::clone(&part));
                        let start = BlockAddr { segment: part.segment, index: from };
                        let key_epoch = part.key_epoch;
                        catalog.put(Run::new(start, count), Place::Part(part), key_epoch);
                    }
                }
                Piece::InRecords(some) => {
                    for InRecord { record, blocks, key_epoch } in some {
                        catalog.put(blocks, Place::Record(record), key_epoch);
                    }
                }
                Piece::Pages { .. } => {}
            }
        }
        catalog
    }

    /// The tables of an image.
    pub fn to_tables(&self) -> Vec<Piece> {
        let states: Vec<SegmentState> = self.states().collect();
        let (mut parts, mut in_records) = (Vec::new(), Vec::new());
        for (blocks, entry) in self.all() {
            match &entry.place {
                Place::Part(part) => {
                    let (from, count) = (blocks.start.index, blocks.count);
                    parts.push(LiveBlocks { part: **part, from, count });
                }
                Place::Record(record) => {
                    in_records.push(InRecord { record: *record, blocks, key_epoch: entry.key_epoch });
                }
            }
        }
        let states = states.chunks(PER_PIECE).map(|some| Piece::Segments(some.to_vec()));
        let parts = parts.chunks(PER_PIECE).map(|some| Piece::Parts(some.to_vec()));
        let in_records = in_records.chunks(PER_PIECE).map(|some| Piece::InRecords(some.to_vec()));
        states.chain(parts).chain(in_records).collect()
    }

    fn all(&self) -> impl Iterator<Item = (Run, &Entry)> {
        self.segments.iter().flat_map(|(&segment, blocks)| {
            let each = blocks.entries.iter();
            each.map(move |(&index, entry)| (Run::new(BlockAddr { segment, index }, entry.count), entry))
        })
    }

    /// All blocks that are somewhere, ascending, with where that is and the key epoch that they are sealed in there.
    pub(super) fn places(&self) -> impl Iterator<Item = (Run, &Place, u32)> {
        self.all().map(|(run, entry)| (run, &entry.place, entry.key_epoch))
    }

    /// What of which parts is worth something: the parts in order, with the index of the first block and the count of each run.
    pub fn parts(&self) -> BTreeMap<PartRef, Vec<(u32, u32)>> {
        let mut out: BTreeMap<PartRef, Vec<(u32, u32)>> = BTreeMap::new();
        for (blocks, entry) in self.all() {
            if let Place::Part(part) = &entry.place {
                out.entry(**part).or_default().push((blocks.start.index, blocks.count));
            }
        }
        out
    }

    /// How many objects have blocks that are worth something, and how many bytes: those of whole parts, and those of blocks in records. Nothing
    /// is looked through for it.
    pub fn extent(&self) -> (u64, u64) {
        let Extent { parts, records, bytes } = &self.extent;
        ((parts.len() + records.len()) as u64, *bytes)
    }

    /// Which blocks are in which records.
    pub fn records(&self) -> BTreeMap<u64, Vec<Run>> {
        let mut out: BTreeMap<u64, Vec<Run>> = BTreeMap::new();
        for (blocks, entry) in self.all() {
            if let Place::Record(number) = entry.place {
                out.entry(number).or_default().push(blocks);
            }
        }
        out
    }

    /// Blocks that are there only as they were sealed before this key epoch, ascending.
    pub fn sealed_before(&self, key_epoch: u64) -> Vec<Run> {
        let older = self.all().filter(|(_, entry)| u64::from(entry.key_epoch) < key_epoch);
        older.map(|(blocks, _)| blocks).collect()
    }

    /// What is somewhere and not in `blocks`, which are in ascending order: nobody needs it, if they are all that anybody needs.
    pub fn outside(&self, blocks: &[Run]) -> Vec<Run> {
        let mut out = Vec::new();
        for (run, _) in self.all() {
            let mut next = run.start.index;
            let from = blocks.partition_point(|other| {
                (other.start.segment, other.end_index()) <= (run.start.segment, run.start.index)
            });
            let near = blocks[from..].iter().take_while(|other| {
                other.start.segment == run.start.segment && other.start.index < run.end_index()
            });
            for other in near {
                if next < other.start.index {
                    out.push(run.part(next - run.start.index, other.start.index - next));
                }
                next = next.max(other.end_index());
            }
            if next < run.end_index() {
                out.push(run.part(next - run.start.index, run.end_index() - next));
            }
        }
        out
    }

    /// How far the segments have got, ascending.
    pub fn states(&self) -> impl Iterator<Item = SegmentState> + '_ {
        self.segments.values().filter_map(|segment| segment.state)
    }

    /// How far a segment has got.
    pub fn state(&self, segment: u64) -> Option<SegmentState> {
        self.segments.get(&segment)?.state
    }

    /// The highest id of a segment.
    pub fn highest(&self) -> u64 {
        self.segments.keys().next_back().copied().unwrap_or(0)
    }

    fn grow(&mut self, state: SegmentState) {
        if state.tail == 0 {
            let gone = self.segments.remove(&state.segment);
            gone.iter()
                .flat_map(|segment| segment.entries.values())
                .for_each(|entry| self.extent.remove(entry));
        } else {
            self.segments.entry(state.segment).or_default().state = Some(state);
        }
    }

    fn put(&mut self, run: Run, place: Place, key_epoch: u32) {
        let segment = self.segments.entry(run.start.segment).or_default();
        segment.put(run.start.index, Entry { count: run.count, place, key_epoch }, &mut self.extent);
    }

    /// A part is in the remote.
    pub fn add_part(&mut self, part: PartRef) {
        self.put(part.run(), Place::Part(Arc::new(part)), part.key_epoch);
    }

    /// These blocks are somewhere.
    pub(super) fn add_blocks(&mut self, run: Run) {
        self.put(run, Place::Record(0), 0);
    }

    /// Takes in what record `number` says.
    ///
    /// What it frees stays free also where one of its parts has it: that was uploaded with what lies around it. Only what was known as it
    /// was sealed in an earlier key epoch, and comes anew, is there then.
    pub fn apply(&mut self, number: u64, commit: &Commit) {
        let known =
            |run: &Run| self.entries(*run).into_iter().map(|(run, entry)| (run, entry.key_epoch)).collect();
        let before: Vec<Vec<(Run, u32)>> = commit.freed.iter().map(known).collect();
        for run in &commit.freed {
            if let Some(segment) = self.segments.get_mut(&run.start.segment) {
                segment.cut(run.start.index, end_of(*run), &mut self.extent);
            }
        }
        commit.segments.iter().for_each(|state| self.grow(*state));
        commit.parts.iter().for_each(|part| self.add_part(*part));
        for blocks in &commit.blocks {
            let mut states = commit.segments.iter();
            let state = states.find(|state| state.segment == blocks.start.segment);
            let key_epoch = state.map_or(0, |state| state.key_epoch);
            self.put(blocks.run(), Place::Record(number), key_epoch);
        }
        for (run, before) in commit.freed.iter().zip(before) {
            self.cut_but_sealed_again(*run, &before);
        }
    }

    /// Takes out the blocks of `run`, but those that were there before in an earlier key epoch than they are now.
    fn cut_but_sealed_again(&mut self, run: Run, before: &[(Run, u32)]) {
        let mut gone: Vec<(u32, u32)> = Vec::new();
        for (now, entry) in self.entries(run) {
            let mut next = now.start.index;
            for (then, _) in before.iter().filter(|(_, key_epoch)| *key_epoch < entry.key_epoch) {
                let (first, end) = (then.start.index.max(next), end_of(*then).min(end_of(now)));
                if first < end {
                    gone.push((next, first));
                    next = end;
                }
            }
            gone.push((next, end_of(now)));
        }
        if let Some(segment) = self.segments.get_mut(&run.start.segment) {
            let gone = gone.iter().filter(|(first, end)| first < end);
            gone.for_each(|(first, end)| segment.cut(*first, *end, &mut self.extent));
        }
    }

    fn entries(&self, run: Run) -> Vec<(Run, &Entry)> {
        let Some(segment) = self.segments.get(&run.start.segment) else { return Vec::new() };
        let (start, end) = (run.start.index, end_of(run));
        let before = segment.entries.range(..start).next_back();
        let mut out = Vec::new();
        for (at, entry) in before.into_iter().chain(segment.entries.range(start..end)) {
            let (first, last) = ((*at).max(start), (at + entry.count).min(end));
            if first < last {
                let start = BlockAddr { segment: run.start.segment, index: first };
                out.push((Run::new(start, last - first), entry));
            }
        }
        out
    }

    /// Where blocks of `run` are: those that are somewhere, in order.
    pub fn find(&self, run: Run) -> Vec<(Run, Place)> {
        self.entries(run).into_iter().map(|(run, entry)| (run, entry.place.clone())).collect()
    }

    /// As [`Catalog::find`], those that are sealed in this key epoch there, or a later one.
    pub fn find_sealed(&self, run: Run, key_epoch: u64) -> Vec<(Run, Place)> {
        let entries = self.entries(run).into_iter();
        let sealed = entries.filter(|(_, entry)| u64::from(entry.key_epoch) >= key_epoch);
        sealed.map(|(run, entry)| (run, entry.place.clone())).collect()
    }

    /// The blocks of `run` that are nowhere, or only as they were sealed in an earlier key epoch than `key_epoch`.
    pub fn missing(&self, run: Run, key_epoch: u64) -> Vec<Run> {
        let mut out = Vec::new();
        let mut next = run.start.index;
        let addr = |index| BlockAddr { segment: run.start.segment, index };
        for (found, entry) in self.entries(run) {
            if u64::from(entry.key_epoch) < key_epoch {
                continue;
            }
            if next < found.start.index {
                out.push(Run::new(addr(next), found.start.index - next));
            }
            next = found.end_index();
        }
        if next < run.end_index() {
            out.push(Run::new(addr(next), run.end_index() - next));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::Blocks;
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn run(segment: u64, index: u32, count: u32) -> Run {
        Run::new(BlockAddr { segment, index }, count)
    }

    fn part(segment: u64, first: u32, count: u32, key_epoch: u32) -> PartRef {
        PartRef { segment, first, count, random: u64::from(first), key_epoch, seal: [first as u8; 16] }
    }

    fn state(segment: u64, tail: u32, key_epoch: u32) -> SegmentState {
        SegmentState { segment, tail, key_epoch }
    }

    fn places(catalog: &Catalog, run: Run) -> Vec<(u32, u32, Option<u64>)> {
        let record = |place| match place {
            Place::Part(_) => None,
            Place::Record(number) => Some(number),
        };
        let found = catalog.find(run).into_iter();
        found.map(|(run, place)| (run.start.index, run.count, record(place))).collect()
    }

    #[test]
    fn blocks_are_found_where_they_were_put_last() {
        let mut catalog = Catalog::default();
        let blocks = |index, count: u32| Blocks {
            start: BlockAddr { segment: 1, index },
            seals: vec![[0; 16]; count as usize],
            stored: Bytes::new(),
        };
        let commit = Commit {
            segments: vec![state(1, 120, 1), state(2, 10, 1)],
            parts: vec![part(1, 0, 100, 1), part(2, 0, 10, 1)],
            blocks: vec![blocks(100, 20)],
            ..Commit::default()
        };
        catalog.apply(7, &commit);
        assert_eq!(places(&catalog, run(1, 90, 20)), [(90, 10, None), (100, 10, Some(7))]);
        assert_eq!(catalog.missing(run(1, 90, 50), 1), [run(1, 120, 20)]);
        assert_eq!(catalog.missing(run(1, 90, 50), 2), [run(1, 90, 50)], "sealed again");
        assert_eq!(catalog.missing(run(3, 5, 5), 0), [run(3, 5, 5)]);
        // Sealed again, some of it freed, and a segment gone.
        let commit = Commit {
            segments: vec![state(1, 120, 2), state(2, 0, 0)],
            parts: vec![part(1, 10, 50, 2)],
            freed: vec![run(1, 95, 10)],
            ..Commit::default()
        };
        catalog.apply(8, &commit);
        assert_eq!(
            places(&catalog, run(1, 0, 200)),
            [(0, 10, None), (10, 50, None), (60, 35, None), (105, 15, Some(7))]
        );
        assert_eq!(catalog.missing(run(1, 0, 60), 2), [run(1, 0, 10)]);
        assert!(catalog.find(run(2, 0, 10)).is_empty() && catalog.highest() == 1);
        // An image has all of that.
        let again = Catalog::of(catalog.to_tables());
        assert_eq!(again.states().collect::<Vec<_>>(), [state(1, 120, 2)]);
        assert_eq!(again.find(run(1, 0, 200)), catalog.find(run(1, 0, 200)));
        assert_eq!((again.sealed_before(2), catalog.sealed_before(1)), (catalog.sealed_before(2), vec![]));
        assert_eq!(catalog.sealed_before(2), [run(1, 0, 10), run(1, 60, 35), run(1, 105, 15)]);
        assert_eq!(catalog.outside(&[run(1, 5, 70), run(1, 80, 100)]), [run(1, 0, 5), run(1, 75, 5)]);
        assert_eq!(catalog.outside(&[run(0, 5, 70)]).len(), 4);
        assert_eq!(catalog.outside(&[run(1, 0, 10), run(1, 10, 50), run(1, 60, 9999)]), []);
    }

    /// What is uploaded beside what is needed, and is free, is kept by nobody. What is sealed again is said to be free as it was before.
    #[test]
    fn what_a_record_frees_stays_free_also_where_its_parts_have_it() {
        let mut catalog = Catalog::default();
        let sealed = Blocks { start: run(1, 50, 1).start, seals: vec![[0; 16]; 9], stored: Bytes::new() };
        catalog.apply(
            1,
            &Commit {
                freed: vec![run(1, 5, 3), run(1, 52, 2)],
                segments: vec![state(1, 100, 1)],
                parts: vec![part(1, 0, 20, 1)],
                blocks: vec![sealed],
                ..Commit::default()
            },
        );
        let all = run(1, 0, 100);
        let first = [(0, 5, None), (8, 12, None), (50, 2, Some(1)), (54, 5, Some(1))];
        assert_eq!(places(&catalog, all), first);
        catalog.apply(
            2,
            &Commit {
                freed: vec![run(1, 0, 5), run(1, 8, 12), run(1, 50, 2), run(1, 54, 5), run(1, 5, 3)],
                segments: vec![state(1, 100, 2)],
                parts: vec![part(1, 0, 10, 2)],
                ..Commit::default()
            },
        );
        // (Between those that were sealed again, there was nothing.)
        assert_eq!(places(&catalog, all), [(0, 5, None), (8, 2, None)]);
        catalog.apply(3, &Commit { freed: vec![run(1, 0, 10)], ..Commit::default() });
        assert_eq!(places(&catalog, all), []);
    }

    /// What was freed, or has come later from a part that begins earlier, is so after an image, too.
    #[test]
    fn an_image_keeps_which_of_two_parts_counts() {
        let mut catalog = Catalog::default();
        let parts = |parts: &[PartRef]| Commit { parts: parts.to_vec(), ..Commit::default() };
        catalog.apply(1, &parts(&[part(1, 50, 50, 0)]));
        catalog.apply(2, &parts(&[PartRef { random: 7, ..part(1, 0, 60, 0) }]));
        catalog.apply(3, &Commit { freed: vec![run(1, 20, 10)], ..Commit::default() });
        let again = Catalog::of(catalog.to_tables());
        for index in (0..100).filter(|index| !(20..30).contains(index)) {
            let Place::Part(found) = &again.find(run(1, index, 1))[0].1 else { panic!("{index}") };
            assert_eq!(found.random, if index < 60 { 7 } else { 50 }, "{index}");
        }
        assert!(again.find(run(1, 20, 10)).is_empty(), "it is free");
        let live: Vec<_> = again.parts().into_values().collect();
        assert_eq!(live, [vec![(0, 20), (30, 30)], vec![(60, 40)]]);
    }

    /// The same as [`Catalog::extent`], by looking at all there is.
    fn looked_through(catalog: &Catalog) -> (u64, u64) {
        let (mut parts, mut records, mut bytes) = (BTreeSet::new(), BTreeSet::new(), 0);
        for (blocks, entry) in catalog.all() {
            match &entry.place {
                Place::Part(part) if parts.insert(**part) => bytes += part_bytes(part.count),
                Place::Part(_) => {}
                Place::Record(number) => {
                    records.insert(*number);
                    bytes += u64::from(blocks.count) * PART_BLOCK_BYTES;
                }
            }
        }
        ((parts.len() + records.len()) as u64, bytes)
    }

    proptest! {
        /// All entries were looked at, under a lock that fetches need, each time somebody asked.
        #[test]
        fn objects_and_bytes_are_counted_as_they_come_and_go(
            steps in prop::collection::vec((0u8..5, 1u64..4, 0u32..60, 1u32..20), 0..60)
        ) {
            let mut catalog = Catalog::default();
            for (number, (kind, segment, index, count)) in (1..).zip(steps) {
                let run = run(segment, index, count);
                match kind {
                    0 => catalog.add_part(part(segment, index, count, 1)),
                    1 => catalog.put(run, Place::Record(number % 3), 1),
                    2 => catalog.apply(number, &Commit { freed: vec![run], ..Commit::default() }),
                    3 => catalog.grow(state(segment, index, 1)),
                    _ => {
                        let (freed, parts) = (vec![run], vec![part(segment, index, count, 2)]);
                        catalog.apply(number, &Commit { freed, parts, ..Commit::default() });
                    }
                }
                prop_assert_eq!(catalog.extent(), looked_through(&catalog));
                let again = Catalog::of(catalog.to_tables());
                prop_assert_eq!(catalog.extent().0, again.extent().0);
            }
        }
    }
}
