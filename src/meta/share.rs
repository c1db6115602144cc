//! The `share` table: how many places refer to a block, where it is more than one.

use super::db::Db;
use super::error::{MetaError, Result};
use crate::store::{BlockAddr, Run, SEGMENT_BLOCKS};

/// A range of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shared {
    /// The blocks.
    pub run: Run,
    /// References to each of them, at least 2.
    pub refs: u32,
}

/// The range of a row.
fn shared(segment: u64, index: u32, count: u32, refs: u32) -> Result<Shared> {
    let fits = index.checked_add(count).is_some_and(|end| end <= SEGMENT_BLOCKS);
    if count == 0 || refs < 2 || !fits {
        return Err(MetaError::damaged(format!("shared range {segment:016x}:{index} is invalid")));
    }
    Ok(Shared { run: Run::new(BlockAddr { segment, index }, count), refs })
}

/// The ranges that overlap `run`, ascending.
fn overlapping(db: &Db, run: Run) -> Result<Vec<Shared>> {
    // A range that begins before the run can reach into it; ranges do not overlap, so only the last such one can.
    let mut statement = db.prepare(
        "SELECT first, count, refs FROM share WHERE segment = ?1 AND first < ?3 AND first >= \
         (SELECT coalesce(max(first), 0) FROM share WHERE segment = ?1 AND first <= ?2) ORDER BY first",
    )?;
    let segment = run.start.segment;
    let params = (segment as i64, run.start.index, run.end_index());
    db.count_rows(1);
    let mut rows = statement.query(params).map_err(|e| db.explain(e))?;
    let mut out = Vec::new();
    while let Some(row) = rows.next().map_err(|e| db.explain(e))? {
        db.count_rows(1);
        let shared = shared(segment, row.get(0)?, row.get(1)?, row.get(2)?)?;
        if shared.run.end_index() > run.start.index {
            out.push(shared);
        }
    }
    Ok(out)
}

fn delete(db: &Db, start: BlockAddr) -> Result<()> {
    db.execute("DELETE FROM share WHERE segment = ?1 AND first = ?2", (start.segment as i64, start.index))?;
    Ok(())
}

fn insert(db: &Db, shared: Shared) -> Result<()> {
    let Shared { run, refs } = shared;
    db.execute(
        "INSERT INTO share VALUES (?1, ?2, ?3, ?4)",
        (run.start.segment as i64, run.start.index, run.count, refs),
    )?;
    Ok(())
}

/// Splits `run` along the ranges of the table: pieces with the references they have now (1 where there is no range).
fn pieces(run: Run, ranges: &[Shared]) -> Vec<Shared> {
    let mut out = Vec::new();
    let mut at = run.start.index;
    for range in ranges {
        let (from, to) =
            (range.run.start.index.max(run.start.index), range.run.end_index().min(run.end_index()));
        if at < from {
            out.push(Shared { run: run.part(at - run.start.index, from - at), refs: 1 });
        }
        out.push(Shared { run: run.part(from - run.start.index, to - from), refs: range.refs });
        at = to;
    }
    if at < run.end_index() {
        out.push(Shared { run: run.part(at - run.start.index, run.end_index() - at), refs: 1 });
    }
    out
}

/// How many references the blocks of a live run have.
pub(super) fn references(db: &Db, run: Run) -> Result<Vec<Shared>> {
    Ok(pieces(run, &overlapping(db, run)?))
}

/// Adds a reference to each block of `run`, which has at least one.
pub(super) fn add(db: &Db, run: Run) -> Result<()> {
    change(db, run, |refs| {
        refs.checked_add(1).ok_or_else(|| MetaError::damaged("a block has too many references"))
    })
    .map(|_| ())
}

/// Takes a reference from each block of `run`; returns the runs that have none left.
pub(super) fn drop_reference(db: &Db, run: Run) -> Result<Vec<Run>> {
    change(db, run, |refs| Ok(refs - 1))
}

fn change(db: &Db, run: Run, new_refs: impl Fn(u32) -> Result<u32>) -> Result<Vec<Run>> {
    let ranges = overlapping(db, run)?;
    let mut unreferenced = Vec::new();
    let mut kept: Vec<Shared> = Vec::new();
    for range in &ranges {
        delete(db, range.run.start)?;
    }
    // What sticks out on both sides stays as it is.
    if let Some(first) = ranges.first().filter(|r| r.run.start.index < run.start.index) {
        kept.push(Shared {
            run: first.run.part(0, run.start.index - first.run.start.index),
            refs: first.refs,
        });
    }
    for piece in pieces(run, &ranges) {
        match new_refs(piece.refs)? {
            0 => unreferenced.push(piece.run),
            1 => {}
            refs => kept.push(Shared { run: piece.run, refs }),
        }
    }
    if let Some(last) = ranges.last().filter(|r| r.run.end_index() > run.end_index()) {
        let skip = run.end_index() - last.run.start.index;
        kept.push(Shared { run: last.run.part(skip, last.run.count - skip), refs: last.refs });
    }
    let mut joined: Vec<Shared> = Vec::new();
    for next in kept {
        match joined.last_mut() {
            Some(last) if last.refs == next.refs && last.run.end_index() == next.run.start.index => {
                last.run.count += next.run.count;
            }
            _ => joined.push(next),
        }
    }
    for shared in joined {
        insert(db, shared)?;
    }
    Ok(unreferenced)
}

/// All ranges, ascending.
pub(super) fn list(db: &Db) -> Result<Vec<Shared>> {
    let mut statement =
        db.prepare("SELECT segment, first, count, refs FROM share ORDER BY segment, first")?;
    let mut rows = statement.query([]).map_err(|e| db.explain(e))?;
    let mut out = Vec::new();
    while let Some(row) = rows.next().map_err(|e| db.explain(e))? {
        out.push(shared(row.get::<_, i64>(0)? as u64, row.get(1)?, row.get(2)?, row.get(3)?)?);
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

    fn run(index: u32, count: u32) -> Run {
        Run::new(BlockAddr { segment: 3, index }, count)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn ranges_count_as_blocks_do_one_by_one(
            steps in prop::collection::vec((any::<bool>(), 0u32..60, 1u32..20), 1..60)
        ) {
            let tmp = tempfile::tempdir().unwrap();
            let files = MetaFiles::new(Arc::new(OsDir::new(tmp.path())), false).unwrap();
            let db = Db::create(files, StoreId(1), [0; 16]).unwrap();
            // References of each block; all are live at the start.
            let mut model = vec![1u32; 80];
            for (adding, first, count) in steps {
                let range = first as usize..(first + count) as usize;
                if adding {
                    if model[range.clone()].contains(&0) {
                        continue;
                    }
                    add(&db, run(first, count)).unwrap();
                    model[range].iter_mut().for_each(|r| *r += 1);
                } else {
                    if model[range.clone()].contains(&0) {
                        continue;
                    }
                    let gone = drop_reference(&db, run(first, count)).unwrap();
                    model[range.clone()].iter_mut().for_each(|r| *r -= 1);
                    let gone: Vec<u32> = gone.iter().flat_map(|r| r.start.index..r.end_index()).collect();
                    let expected: Vec<u32> = range.map(|i| i as u32).filter(|i| model[*i as usize] == 0).collect();
                    prop_assert_eq!(gone, expected);
                }
                let mut stored = vec![1u32; 80];
                for shared in list(&db).unwrap() {
                    prop_assert!(shared.refs >= 2);
                    for i in shared.run.start.index..shared.run.end_index() {
                        prop_assert_eq!(stored[i as usize], 1, "ranges overlap");
                        stored[i as usize] = shared.refs;
                    }
                }
                for (i, refs) in model.iter().enumerate() {
                    prop_assert_eq!(stored[i], (*refs).max(1), "block {}", i);
                }
            }
        }
    }
}
