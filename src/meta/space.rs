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

/// What a commit allows to be given back to the host once it is durable.
#[derive(Debug, Default)]
pub struct GiveBack {
    /// The runs freed, under the id to report with [`super::Meta::punched`].
    pub freed: Option<(i64, Vec<Run>)>,
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
    /// Freed in the open transaction.
    freed: Vec<Run>,
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
            return self.free(run);
        }
        for run in share::drop_reference(db, run)? {
            self.free(run)?;
        }
        Ok(())
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
        Ok(())
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

    /// Writes all changes to the tables; returns what may be given back once they are durable.
    pub(super) fn flush(&mut self, db: &Db, states: &[SegmentState]) -> Result<GiveBack> {
        for state in states {
            let row = self.row(state.id);
            row.tail = row.tail.max(state.tail);
            row.full |= state.full;
        }
        for id in std::mem::take(&mut self.punched) {
            db.execute("DELETE FROM freed WHERE id = ?1", [id])?;
        }
        for id in std::mem::take(&mut self.removed) {
            self.segments.remove(&id);
            db.execute("DELETE FROM segment WHERE id = ?1", [id as i64])?;
        }
        let mut empty = Vec::new();
        for id in std::mem::take(&mut self.dirty) {
            // One that was removed is not there any more.
            let Some(slot) = self.segments.get_mut(&id) else { continue };
            let SegmentRow { id, live, tail, full } = slot.row;
            let sql = if slot.stored {
                "UPDATE segment SET live = ?2, tail = ?3, full = ?4 WHERE id = ?1"
            } else {
                "INSERT INTO segment VALUES (?1, ?2, ?3, ?4)"
            };
            db.execute(sql, (id as i64, live, tail, full))?;
            (slot.dirty, slot.stored) = (false, true);
            if live == 0 && full {
                empty.push(id);
            }
        }
        let mut runs = std::mem::take(&mut self.freed);
        // The whole file goes; punching it first would be work for nothing.
        runs.retain(|run| !empty.contains(&run.start.segment));
        if runs.is_empty() {
            return Ok(GiveBack { freed: None, empty_segments: empty });
        }
        coalesce(&mut runs);
        db.execute("INSERT INTO freed (runs) VALUES (?1)", [encode_runs(&runs)])?;
        let freed = Some((db.conn().last_insert_rowid(), runs));
        Ok(GiveBack { freed, empty_segments: empty })
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
            out.extend_from_slice(&value.encode_var_vec());
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
    use proptest::prelude::*;

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
