//! The `segment` and `freed` tables: what lives where, and what may be given back.

use super::db::Db;
use super::error::{MetaError, Result};
use super::share;
use crate::store::{BlockAddr, Run, SEGMENT_BLOCKS, SegmentState, coalesce};
use integer_encoding::VarInt;
use rustc_hash::FxHashMap;

/// What the metadata knows of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentRow {
    /// Its id.
    pub id: u64,
    /// Blocks that something refers to.
    pub live: u32,
    /// Index behind the last block allocated.
    pub tail: u32,
    /// No block will be added.
    pub full: bool,
}

/// Freed runs that are remembered for [`super::Meta::drain_freed`].
const LATELY: usize = 64;
/// Runs in a row of the table `freed`, at most: so many are written at a time, and gone with it.
const RUNS_OF_A_ROW: usize = 1024;

/// What a commit allows to be given back to the host once it is durable.
#[derive(Debug, Default)]
pub struct GiveBack {
    /// The runs freed, each part of them under the id to report with [`super::Meta::punched`].
    pub freed: Vec<(i64, Vec<Run>)>,
    /// Segments in which nothing lives, to be reported with [`super::Meta::removed`].
    pub empty_segments: Vec<u64>,
}

#[derive(Debug)]
struct Slot {
    row: SegmentRow,
    dirty: bool,
    stored: bool,
}

/// Space of a store: live blocks by segment, blocks freed in the open transaction, shared blocks.
///
/// Invariant: a block is live exactly as long as a chunk map refers to it; `live` changes in the transaction that
/// changes the map.
#[derive(Debug)]
pub(super) struct Space {
    segments: FxHashMap<u64, Slot>,
    /// Segments whose rows have changed.
    dirty: Vec<u64>,
    /// The highest id that any of them has, or had.
    highest: u64,
    /// Freed in the open transaction, and in no row yet.
    freed: Vec<Run>,
    /// Freed lately, and not asked for yet.
    lately: Vec<Run>,
    /// Freed in the open transaction, with their rows.
    freed_rows: Vec<(i64, Vec<Run>)>,
    /// Nothing lives in these segments since the open transaction, and nothing will.
    empty: Vec<u64>,
    /// Ids of `freed` rows whose runs were punched, to be deleted with the next commit.
    punched: Vec<i64>,
    /// Ids of segments whose files are gone.
    removed: Vec<u64>,
    /// Whether the `share` table may have rows.
    has_shares: bool,
}

impl Space {
    /// Reads the tables.
    pub(super) fn open(db: &Db) -> Result<Self> {
        let mut segments = FxHashMap::default();
        let mut highest = 0;
        for row in segment_rows(db)? {
            highest = highest.max(row.id);
            segments.insert(row.id, Slot { row, dirty: false, stored: true });
        }
        let has_shares = db.value::<i64>("SELECT count(*) FROM (SELECT 1 FROM share LIMIT 1)")? > 0;
        Ok(Self {
            segments,
            dirty: Vec::new(),
            highest,
            freed: Vec::new(),
            lately: Vec::new(),
            freed_rows: Vec::new(),
            empty: Vec::new(),
            punched: Vec::new(),
            removed: Vec::new(),
            has_shares,
        })
    }

    /// The row of a segment, to be changed.
    fn row(&mut self, id: u64) -> &mut SegmentRow {
        let slot = self.segments.entry(id).or_insert_with(|| Slot {
            row: SegmentRow { id, live: 0, tail: 0, full: false },
            dirty: false,
            stored: false,
        });
        if !std::mem::replace(&mut slot.dirty, true) {
            self.dirty.push(id);
        }
        self.highest = self.highest.max(id);
        &mut slot.row
    }

    /// The highest id of a segment that there is, or was since the store was opened.
    pub(super) fn highest(&self) -> u64 {
        self.highest
    }

    /// New blocks got their first reference.
    pub(super) fn born(&mut self, run: Run) {
        let row = self.row(run.start.segment);
        row.live += run.count;
        row.tail = row.tail.max(run.end_index());
    }

    /// Live blocks got another reference.
    pub(super) fn share(&mut self, db: &Db, run: Run) -> Result<()> {
        self.has_shares = true;
        share::add(db, run)
    }

    /// Live blocks lost a reference; what has none left is freed.
    pub(super) fn drop_reference(&mut self, db: &Db, run: Run) -> Result<()> {
        if !self.has_shares {
            self.free(run)?;
        } else {
            for run in share::drop_reference(db, run)? {
                self.free(run)?;
            }
        }
        if self.freed.len() < RUNS_OF_A_ROW { Ok(()) } else { self.write_freed(db) }
    }

    /// Whether there may be blocks with several references.
    pub(super) fn may_have_shares(&self) -> bool {
        self.has_shares
    }

    fn free(&mut self, run: Run) -> Result<()> {
        let row = self.row(run.start.segment);
        row.live = row.live.checked_sub(run.count).ok_or_else(|| {
            MetaError::damaged(format!(
                "segment {:016x} has fewer live blocks than are freed",
                run.start.segment
            ))
        })?;
        self.freed.push(run);
        if self.lately.len() < LATELY {
            self.lately.push(run);
        }
        Ok(())
    }

    /// See [`super::Meta::drain_freed`].
    pub(super) fn drain_freed(&mut self) -> impl Iterator<Item = Run> {
        self.lately.drain(..)
    }

    /// Addresses that were allocated and never became live.
    pub(super) fn wasted(&mut self, runs: &[Run]) {
        for run in runs {
            let row = self.row(run.start.segment);
            row.tail = row.tail.max(run.end_index());
        }
        self.freed.extend_from_slice(runs);
    }

    /// The runs of `freed` row `id` were punched.
    pub(super) fn punched(&mut self, id: i64) {
        self.punched.push(id);
    }

    /// The file of an empty segment was removed.
    pub(super) fn removed(&mut self, id: u64) {
        self.removed.push(id);
    }

    /// Whether the open transaction has something of this to write.
    pub(super) fn is_dirty(&self) -> bool {
        !self.freed.is_empty() || !self.punched.is_empty() || !self.removed.is_empty()
    }

    /// How many rows are not as they are in the tables.
    pub(super) fn unwritten(&self) -> usize {
        self.punched.len() + self.removed.len() + self.dirty.len()
    }

    /// Writes one of those rows.
    pub(super) fn write_one(&mut self, db: &Db) -> Result<()> {
        if let Some(id) = self.punched.pop() {
            db.execute("DELETE FROM freed WHERE id = ?1", [id])?;
        } else if let Some(id) = self.removed.pop() {
            self.segments.remove(&id);
            db.execute("DELETE FROM segment WHERE id = ?1", [id as i64])?;
        } else if let Some(id) = self.dirty.pop()
            // One that was removed is not there any more.
            && let Some(slot) = self.segments.get_mut(&id)
        {
            let SegmentRow { id, live, tail, full } = slot.row;
            let sql = if slot.stored {
                "UPDATE segment SET live = ?2, tail = ?3, full = ?4 WHERE id = ?1"
            } else {
                "INSERT INTO segment VALUES (?1, ?2, ?3, ?4)"
            };
            db.execute(sql, (id as i64, live, tail, full))?;
            (slot.dirty, slot.stored) = (false, true);
            if live == 0 && full {
                self.empty.push(id);
            }
        }
        Ok(())
    }

    /// Writes some of the freed runs as a row.
    fn write_freed(&mut self, db: &Db) -> Result<()> {
        let mut runs = self.freed.split_off(self.freed.len().saturating_sub(RUNS_OF_A_ROW));
        coalesce(&mut runs);
        db.execute("INSERT INTO freed (runs) VALUES (?1)", [encode_runs(&runs)])?;
        self.freed_rows.push((db.conn().last_insert_rowid(), runs));
        Ok(())
    }

    /// Writes all changes to the tables; returns what may be given back once they are durable.
    pub(super) fn flush(&mut self, db: &Db, states: &[SegmentState]) -> Result<GiveBack> {
        for state in states {
            let row = self.row(state.id);
            row.tail = row.tail.max(state.tail);
            row.full |= state.full;
        }
        while self.unwritten() > 0 {
            self.write_one(db)?;
        }
        let mut empty_segments = std::mem::take(&mut self.empty);
        empty_segments.retain(|id| self.segments.get(id).is_some_and(|slot| slot.row.live == 0));
        empty_segments.sort_unstable();
        empty_segments.dedup();
        let is_empty = |segment: u64| empty_segments.binary_search(&segment).is_ok();
        // The whole file goes; punching it first would be work for nothing. What is in a row already is not punched either.
        self.freed.retain(|run| !is_empty(run.start.segment));
        if !empty_segments.is_empty() {
            for (_, runs) in &mut self.freed_rows {
                let mut last = (0, false);
                runs.retain(|run| {
                    let segment = run.start.segment;
                    if last.0 != segment {
                        last = (segment, is_empty(segment));
                    }
                    !last.1
                });
            }
        }
        while !self.freed.is_empty() {
            self.write_freed(db)?;
        }
        Ok(GiveBack { freed: std::mem::take(&mut self.freed_rows), empty_segments })
    }

    /// Marks every segment as full: a reopened store starts a new one.
    pub(super) fn retire_all(&mut self) {
        let open: Vec<u64> = self.rows().filter(|row| !row.full).map(|row| row.id).collect();
        open.into_iter().for_each(|id| self.row(id).full = true);
    }

    /// What is known of the segments, in no order.
    pub(super) fn rows(&self) -> impl Iterator<Item = SegmentRow> + '_ {
        self.segments.values().map(|slot| slot.row)
    }
}

/// The rows of the `segment` table.
pub(super) fn segment_rows(db: &Db) -> Result<Vec<SegmentRow>> {
    let mut statement = db.prepare("SELECT id, live, tail, full FROM segment ORDER BY id")?;
    let mut rows = statement.query([]).map_err(|e| db.explain(e))?;
    let mut out = Vec::new();
    while let Some(row) = rows.next().map_err(|e| db.explain(e))? {
        let id: i64 = row.get(0)?;
        let (live, tail): (u32, u32) = (row.get(1)?, row.get(2)?);
        if id < 1 || live > tail || tail > SEGMENT_BLOCKS {
            return Err(MetaError::damaged(format!("the row of segment {id:016x} is invalid")));
        }
        out.push(SegmentRow { id: id as u64, live, tail, full: row.get(3)? });
    }
    Ok(out)
}

/// The rows of the `freed` table: ids and runs.
pub(super) fn freed_rows(db: &Db) -> Result<Vec<(i64, Vec<Run>)>> {
    let mut statement = db.prepare("SELECT id, runs FROM freed ORDER BY id")?;
    let mut rows = statement.query([]).map_err(|e| db.explain(e))?;
    let mut out = Vec::new();
    while let Some(row) = rows.next().map_err(|e| db.explain(e))? {
        let blob = row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?;
        out.push((row.get(0)?, decode_runs(blob)?));
    }
    Ok(out)
}

/// Runs in ascending order: for each the difference of the segment ids, the first index, the count.
fn encode_runs(runs: &[Run]) -> Vec<u8> {
    let mut out = Vec::with_capacity(runs.len() * 6);
    let mut last = 0;
    for run in runs {
        let delta = run.start.segment - last;
        last = run.start.segment;
        for value in [delta, u64::from(run.start.index), u64::from(run.count)] {
            let mut bytes = [0; 10];
            let len = value.encode_var(&mut bytes);
            out.extend_from_slice(&bytes[..len]);
        }
    }
    out
}

pub(super) fn decode_runs(mut bytes: &[u8]) -> Result<Vec<Run>> {
    let damaged = || MetaError::damaged("a list of freed blocks is invalid");
    let mut out = Vec::new();
    let mut segment = 0u64;
    while !bytes.is_empty() {
        let mut values = [0u64; 3];
        for value in &mut values {
            let (got, used) = u64::decode_var(bytes).ok_or_else(damaged)?;
            *value = got;
            bytes = &bytes[used..];
        }
        let [delta, index, count] = values;
        segment = segment.checked_add(delta).ok_or_else(damaged)?;
        if segment == 0 || count == 0 || index.saturating_add(count) > u64::from(SEGMENT_BLOCKS) {
            return Err(damaged());
        }
        out.push(Run::new(BlockAddr { segment, index: index as u32 }, count as u32));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backing::OsDir;
    use crate::meta::vfs::MetaFiles;
    use crate::store::StoreId;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn database() -> (tempfile::TempDir, Db) {
        let tmp = tempfile::tempdir().unwrap();
        let files = MetaFiles::new(Arc::new(OsDir::new(tmp.path())), false).unwrap();
        (tmp, Db::create(files, StoreId(1), [0; 16]).unwrap())
    }

    fn run(segment: u64, index: u32, count: u32) -> Run {
        Run::new(BlockAddr { segment, index }, count)
    }

    /// So many segments, full of blocks that somebody refers to.
    fn filled(db: &Db, segments: u64) -> Space {
        let mut space = Space::open(db).unwrap();
        let states: Vec<SegmentState> =
            (1..=segments).map(|id| SegmentState { id, tail: SEGMENT_BLOCKS, full: true }).collect();
        states.iter().for_each(|state| space.born(run(state.id, 0, SEGMENT_BLOCKS)));
        space.flush(db, &states).unwrap();
        space
    }

    /// As those of a large file that was written in small pieces, and goes.
    #[test]
    fn a_commit_finds_what_was_freed_in_its_tables() {
        const SEGMENTS: u64 = 300;
        const PIECES: u32 = 50;
        let (_tmp, db) = database();
        let mut space = filled(&db, SEGMENTS);
        for piece in 0..PIECES {
            for id in 1..=SEGMENTS {
                space.drop_reference(&db, run(id, 2 * piece, 1)).unwrap();
            }
        }
        assert_eq!(space.unwritten(), SEGMENTS as usize);
        while space.unwritten() > 0 {
            space.write_one(&db).unwrap();
        }
        let before = db.rows_touched();
        let given = space.flush(&db, &[]).unwrap();
        assert_eq!(db.rows_touched() - before, 1, "what was freed last");
        assert!(given.freed.iter().all(|(_, runs)| runs.len() <= RUNS_OF_A_ROW));
        assert_eq!(freed_rows(&db).unwrap(), given.freed);
        let count: usize = given.freed.iter().map(|(_, runs)| runs.len()).sum();
        assert_eq!(count, SEGMENTS as usize * PIECES as usize);
        // When they are punched, their rows go, and not all of them in the commit.
        given.freed.iter().for_each(|(id, _)| space.punched(*id));
        assert_eq!(space.unwritten(), given.freed.len());
        while space.unwritten() > 0 {
            space.write_one(&db).unwrap();
        }
        assert!(freed_rows(&db).unwrap().is_empty());
    }

    /// However early its row was written.
    #[test]
    fn a_segment_in_which_nothing_lives_is_given_back_as_a_whole() {
        let (_tmp, db) = database();
        let mut space = filled(&db, 3);
        for id in [1, 2] {
            for index in 0..SEGMENT_BLOCKS / 4 {
                space.drop_reference(&db, run(id, 4 * index, 2)).unwrap();
                if id == 1 {
                    space.drop_reference(&db, run(id, 4 * index + 2, 2)).unwrap();
                }
            }
            while space.unwritten() > 0 {
                space.write_one(&db).unwrap();
            }
        }
        space.drop_reference(&db, run(3, 7, 1)).unwrap();
        let given = space.flush(&db, &[]).unwrap();
        assert_eq!(given.empty_segments, [1]);
        let mut runs: Vec<Run> = given.freed.into_iter().flat_map(|(_, runs)| runs).collect();
        coalesce(&mut runs);
        assert_eq!(runs.len(), SEGMENT_BLOCKS as usize / 4 + 1);
        assert!(runs.iter().all(|run| run.start.segment != 1));
        assert!(space.flush(&db, &[]).unwrap().empty_segments.is_empty(), "once");
    }

    proptest! {
        #[test]
        fn runs_survive_their_bytes(
            mut runs in prop::collection::vec((1u64..1_000_000, 0u32..16_000, 1u32..384), 0..50)
        ) {
            runs.sort_unstable();
            let runs: Vec<Run> =
                runs.into_iter().map(|(segment, index, n)| Run::new(BlockAddr { segment, index }, n)).collect();
            prop_assert_eq!(decode_runs(&encode_runs(&runs)).unwrap(), runs);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = decode_runs(&bytes);
        }
    }
}
