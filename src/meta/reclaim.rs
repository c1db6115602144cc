//! Giving back what dead generations held, in small steps.
//!
//! Nothing of this is recorded in the redo log: it changes what is stored and not what can be seen, and a step that was
//! lost with a crash is done again.

use super::Meta;
use super::chunk;
use super::chunk_map::{ChunkMap, Extent, Place};
use super::contents::WORK_AT_ONCE;
use super::db::Db;
use super::error::Result;
use super::generation::{Death, Generations};
use super::rows::{self, Row};
use super::shadow::{self, Cursor, Key};
use super::share;
use super::types::{Gen, Ino};
use crate::store::{BlockAddr, Run};

/// Keys handled under one hold of the metadata, at most: some milliseconds.
const ROWS_AT_ONCE: usize = 128;
/// How much a step of reclaiming does, in rows, where nothing speaks against it.
pub const RECLAIMED_AT_ONCE: u64 = WORK_AT_ONCE;

/// New notes after which a dead generation that has settled is looked at again.
const NOTES_UNSETTLE: u64 = 1024;

/// A dead generation with several children, of which nothing more can go until something changes.
#[derive(Debug)]
struct Settled {
    generation: Gen,
    children: Vec<Vec<Gen>>,
    notes: u64,
}

/// How far the reclaiming of a generation is.
#[derive(Debug, Default)]
pub(super) struct Progress {
    generation: Gen,
    /// Which of the group's generations the notes are looked at of.
    part: usize,
    after: Cursor,
    /// Notes that had been written when the walk began: later ones need another walk.
    notes: u64,
    settled: Vec<Settled>,
    /// Of which key it was looked at last what belongs to it.
    warmed: Option<Warmed>,
    /// When nothing was left to do, and how long that holds.
    idle: Option<Idle>,
}

/// How far it was looked at what belongs to a key.
#[derive(Debug)]
struct Warmed {
    key: Key,
    /// Rows of generations below this one are left.
    below: Gen,
    /// Of so many runs it is known who else refers to them.
    runs: usize,
}

/// Nothing is left to do as long as the tree does not change and no more notes have been written than so many.
#[derive(Debug)]
struct Idle {
    changes: u64,
    notes: u64,
}

impl Meta {
    /// Whether there may be something to reclaim. That is asked with each commit, and rarely another than the last time.
    pub fn has_dead(&mut self) -> bool {
        let (changes, notes) = (self.generations.changes(), self.db.notes_written());
        if self.reclaiming.idle.as_ref().is_some_and(|idle| idle.changes == changes && notes < idle.notes) {
            return false;
        }
        let has_dead = self.next_death().is_some();
        self.reclaiming.idle = (!has_dead).then(|| {
            let dead: Vec<Gen> = self.generations.deaths().map(|(generation, _)| generation).collect();
            self.reclaiming.settled.retain(|settled| dead.contains(&settled.generation));
            let settled = self.reclaiming.settled.iter().map(|settled| settled.notes + NOTES_UNSETTLE);
            Idle { changes, notes: settled.min().unwrap_or(u64::MAX) }
        });
        has_dead
    }

    fn next_death(&self) -> Option<(Gen, Death)> {
        let notes = self.db.notes_written();
        let is_settled = |generation: Gen, children: &[Vec<Gen>]| {
            self.reclaiming.settled.iter().any(|settled| {
                settled.generation == generation
                    && settled.children == children
                    && notes < settled.notes + NOTES_UNSETTLE
            })
        };
        self.generations.deaths().find(|(generation, death)| match death {
            Death::Drop(_) => true,
            Death::Absorb { children, .. } => !is_settled(*generation, children),
        })
    }

    /// One step of reclaiming, of about `work` rows, that begins with no other key when it is late: what belongs to one key is done
    /// whole. What has changed otherwise is written before, so that should be little: see [`Meta::write_back`]. False when there is
    /// nothing left to do.
    ///
    /// # Errors
    /// As the database; the metadata is then poisoned.
    pub fn reclaim_step(&mut self, work: u64) -> Result<bool> {
        let Some((generation, death)) = self.next_death() else { return Ok(false) };
        let work = Work { rows: work };
        self.writing(|meta| {
            for head in meta.heads.values_mut() {
                head.flush(&meta.db)?;
            }
            if meta.reclaiming.generation != generation {
                let settled = std::mem::take(&mut meta.reclaiming.settled);
                let notes = meta.db.notes_written();
                meta.reclaiming = Progress { generation, notes, settled, ..Progress::default() };
            }
            match death {
                Death::Drop(group) => meta.drop_step(&group, work),
                Death::Absorb { group, children } => meta.absorb_step(generation, (&group, &children), work),
            }
        })?;
        Ok(true)
    }

    /// Removes rows that nobody sees.
    fn drop_step(&mut self, group: &[Gen], work: Work) -> Result<()> {
        let limit = work.keys();
        let begun = self.db.rows_touched();
        for generation in group {
            for key in keys_of_generation(&self.db, *generation, limit)? {
                if !self.warm(&key, *generation, group, &[])? {
                    return Ok(());
                }
                self.drop_row(&key, *generation, group)?;
                if work.is_done(&self.db, begun) {
                    return Ok(());
                }
            }
            if !keys_of_generation(&self.db, *generation, 1)?.is_empty() {
                return Ok(());
            }
            if !shadow::forget_generation(&self.db, *generation, limit)? {
                return Ok(());
            }
        }
        for generation in group {
            self.db.execute("DELETE FROM generation WHERE gen = ?1", [*generation as i64])?;
        }
        self.generations.forget(group);
        Ok(())
    }

    /// Reads what is done whole because it belongs to one key, before it is done, until it is late: with several branches below, rows of all
    /// of their generations, and who else refers to blocks, which is anywhere. False: that is to be gone on with.
    fn warm(&mut self, key: &Key, old: Gen, group: &[Gen], children: &[Vec<Gen>]) -> Result<bool> {
        let Key::Chunk(ino, idx) = *key else { return Ok(true) };
        let known = self.reclaiming.warmed.take().filter(|warmed| warmed.key == *key);
        let below = if children.len() > 1 { Gen::MAX } else { 0 };
        let mut warmed = known.unwrap_or_else(|| Warmed { key: key.clone(), below, runs: 0 });
        let shared = self.space.may_have_shares();
        if warmed.below > 0 {
            warmed.below = chunk::read_some(&self.db, (ino, idx), warmed.below)?;
        }
        let mut is_warm = warmed.below == 0;
        if is_warm && shared {
            let map = chunk::read_row(&self.db, (ino, idx), old)?;
            let before = warmed.runs;
            for (run, _) in references(&map, group).skip(before) {
                if warmed.runs > before && self.db.is_late() {
                    is_warm = false;
                    break;
                }
                share::references(&self.db, run)?;
                warmed.runs += 1;
            }
        }
        self.reclaiming.warmed = Some(warmed);
        Ok(is_warm)
    }

    fn drop_row(&mut self, key: &Key, generation: Gen, group: &[Gen]) -> Result<()> {
        if let Key::Chunk(ino, idx) = *key {
            let map = chunk::read_row(&self.db, (ino, idx), generation)?;
            for (run, _) in references(&map, group) {
                self.space.drop_reference(&self.db, run)?;
            }
        }
        rows::delete(&self.db, key, generation)
    }

    /// Removes rows that every group below hides.
    fn absorb_step(
        &mut self,
        generation: Gen,
        (group, children): (&[Gen], &[Vec<Gen>]),
        work: Work,
    ) -> Result<()> {
        let limit = work.keys();
        while let Some(old) = group.get(self.reclaiming.part).copied() {
            let keys = shadow::keys(&self.db, old, &self.reclaiming.after, limit)?;
            let begun = self.db.rows_touched();
            for key in &keys {
                if !self.warm(key, old, group, children)? {
                    return Ok(());
                }
                self.absorb_key(key, old, group, children)?;
                self.reclaiming.after = Some(key.clone());
                if work.is_done(&self.db, begun) {
                    return Ok(());
                }
            }
            if keys.len() == limit {
                return Ok(());
            }
            self.reclaiming.part += 1;
            self.reclaiming.after = None;
        }
        let notes = self.db.notes_written();
        let complete = std::mem::replace(&mut self.reclaiming.notes, notes) == notes;
        self.reclaiming.part = 0;
        if !complete {
            return Ok(());
        }
        self.reclaiming.generation = 0;
        if children.len() > 1 {
            self.reclaiming.settled.retain(|settled| settled.generation != generation);
            self.reclaiming.settled.push(Settled { generation, children: children.to_vec(), notes });
            return Ok(());
        }
        self.db.execute("UPDATE generation SET merged = 1 WHERE gen = ?1", [generation as i64])?;
        self.generations.merge(generation);
        for head in self.heads.values_mut() {
            head.lineage = self.generations.lineage(head.lineage.head())?;
        }
        Ok(())
    }

    /// Removes the row of `key` in generation `old` if each child's group has a row of its own for it.
    fn absorb_key(&mut self, key: &Key, old: Gen, group: &[Gen], children: &[Vec<Gen>]) -> Result<()> {
        let Some(above) = rows_above(&self.db, key, children)? else { return Ok(()) };
        if let Key::Chunk(ino, idx) = *key {
            self.absorb_chunk((ino, idx), old, group, children, &above)?;
        }
        rows::delete(&self.db, key, old)?;
        shadow::forget_row(&self.db, key, old)?;
        // Whiteouts above nothing say nothing.
        let beneath = newest_above(&self.db, &self.generations, key, old)?;
        for row in above.iter().filter(|row| row.whiteout) {
            if beneath.is_none_or(|hidden| hidden.whiteout) {
                rows::delete(&self.db, key, row.generation)?;
            }
        }
        for head in self.heads.values_mut() {
            head.evict(key);
        }
        Ok(())
    }

    /// Hands the references of a chunk's row over to the rows that hide it, or gives them up.
    ///
    /// A reference is known by its place and by the generation it was born in, and the rows of newer generations have
    /// copies of it. With one child below, it stays what it is: the dead generation counts as the child's soon. Only if
    /// the child is a head it is born again there, because its owner could give it up before that. With several children,
    /// each gets a reference of its own, born again in all rows of its branch.
    fn absorb_chunk(
        &mut self,
        key: (Ino, u64),
        old: Gen,
        group: &[Gen],
        children: &[Vec<Gen>],
        above: &[Row],
    ) -> Result<()> {
        let mut branches = Vec::with_capacity(above.len());
        for (child, row) in children.iter().zip(above) {
            let mut branch = Branch::read(&self.db, &self.generations, key, child, *row)?;
            if children.len() > 1 {
                branch.read_below(&self.db, &self.generations, key)?;
            }
            branches.push(branch);
        }
        let reborn = branches.len() > 1 || branches.iter().all(|branch| branch.is_leaf);
        let map = chunk::read_row(&self.db, key, old)?;
        for (run, extent) in references(&map, group) {
            let mut at = 0;
            while at < run.count {
                // Blocks side by side that the same number of branches keep.
                let start = at;
                let kept = keep(&mut branches, &extent, at, reborn);
                at += 1;
                while at < run.count && holders(&branches, &extent, at) == kept {
                    keep(&mut branches, &extent, at, reborn);
                    at += 1;
                }
                let part = run.part(start, at - start);
                match kept {
                    0 => self.space.drop_reference(&self.db, part)?,
                    n => (1..n).try_for_each(|_| self.space.share(&self.db, part))?,
                }
            }
        }
        branches.iter().try_for_each(|branch| branch.write(&self.db, key))
    }
}

/// How much is done in a step.
#[derive(Clone, Copy)]
struct Work {
    rows: u64,
}

impl Work {
    /// How many keys are looked at.
    fn keys(self) -> usize {
        (self.rows as usize).clamp(1, ROWS_AT_ONCE)
    }

    /// Whether what was done since `begun` rows had been touched is enough.
    fn is_done(self, db: &Db, begun: u64) -> bool {
        db.rows_touched() - begun >= self.rows || db.is_late()
    }
}

/// The rows of a chunk in one of the branches below a dead generation.
struct Branch {
    /// The generation of the row that hides the dead one's.
    top: Gen,
    /// Whether the branch is one group only.
    is_leaf: bool,
    /// Maps by generation; the row at the top is the first.
    rows: Vec<(Gen, ChunkMap)>,
    changed: bool,
}

impl Branch {
    fn read(db: &Db, generations: &Generations, key: (Ino, u64), child: &[Gen], top: Row) -> Result<Self> {
        let rows = vec![(top.generation, chunk::read_row(db, key, top.generation)?)];
        let is_leaf = child.first().is_some_and(|foot| generations.children(*foot).is_empty());
        Ok(Self { top: top.generation, is_leaf, rows, changed: false })
    }

    fn read_below(&mut self, db: &Db, generations: &Generations, key: (Ino, u64)) -> Result<()> {
        for generation in chunk::generations_of(db, key)? {
            if generation > self.top && generations.is_below(generation, self.top) {
                self.rows.push((generation, chunk::read_row(db, key, generation)?));
            }
        }
        Ok(())
    }

    fn holds(&self, extent: &Extent, block: u32) -> bool {
        holds(&self.rows[0].1, extent, block)
    }

    /// Lets the reference to a block be one of this branch's own.
    fn bear(&mut self, extent: &Extent, block: u32) {
        let Place::Data { addr, .. } = extent.place else { return };
        let (first, place) = (extent.first + block, Place::Data { addr: addr.plus(block), born: self.top });
        for (_, map) in self.rows.iter_mut().filter(|(_, map)| holds(map, extent, block)) {
            map.replace(first, first + 1, Some(place));
        }
        self.changed = true;
    }

    fn write(&self, db: &Db, key: (Ino, u64)) -> Result<()> {
        if !self.changed {
            return Ok(());
        }
        self.rows.iter().try_for_each(|(generation, map)| chunk::write_row(db, key, *generation, map))
    }
}

/// How many branches have a block of an extent of an older row.
fn holders(branches: &[Branch], extent: &Extent, block: u32) -> usize {
    branches.iter().filter(|branch| branch.holds(extent, block)).count()
}

/// Lets the branches that have a block keep it, as one of their own if it is to be `reborn`; returns how many they are.
fn keep(branches: &mut [Branch], extent: &Extent, block: u32, reborn: bool) -> usize {
    let mut kept = 0;
    for branch in branches.iter_mut().filter(|branch| branch.holds(extent, block)) {
        kept += 1;
        if reborn {
            branch.bear(extent, block);
        }
    }
    kept
}

/// The blocks of a map that were born in a group, with the extents they are in.
fn references<'a>(map: &'a ChunkMap, group: &'a [Gen]) -> impl Iterator<Item = (Run, Extent)> + 'a {
    map.extents().iter().filter_map(|extent| match extent.place {
        Place::Data { born, .. } if group.contains(&born) => extent.run().map(|run| (run, *extent)),
        _ => None,
    })
}

/// Whether a map still has, at the same place, block `block` of an extent of an older row.
fn holds(map: &ChunkMap, extent: &Extent, block: u32) -> bool {
    let Place::Data { addr, born } = extent.place else { return false };
    let at = extent.first + block;
    map.within(at, at + 1).any(|found| found.place == Place::Data { addr: addr.plus(block), born })
}

/// The row of each child's group for `key`, if all of them have one: if so, nobody sees the row that they hide.
fn rows_above(db: &Db, key: &Key, children: &[Vec<Gen>]) -> Result<Option<Vec<Row>>> {
    let row_of = |child: &Vec<Gen>| {
        let last = child.first().copied().unwrap_or(0);
        rows::newest(db, key, last, |generation| child.contains(&generation)).transpose()
    };
    let rows = children.iter().map_while(row_of).collect::<Result<Vec<Row>>>()?;
    Ok((rows.len() == children.len()).then_some(rows))
}

/// The newest row of `key` above the group that `generation` is in: what a row there hides.
fn newest_above(db: &Db, generations: &Generations, key: &Key, generation: Gen) -> Result<Option<Row>> {
    let lineage = generations.lineage(generation)?;
    rows::newest(db, key, generation.saturating_sub(1), |at| lineage.contains(at))
}

/// Keys of rows of a generation after the first.
fn keys_of_generation(db: &Db, generation: Gen, limit: usize) -> Result<Vec<Key>> {
    let mut out = Vec::new();
    let params = (generation as i64, limit as i64);
    let read = |sql: &str, out: &mut Vec<Key>, key: &dyn Fn(&rusqlite::Row<'_>) -> rusqlite::Result<Key>| {
        let mut statement = db.prepare(sql)?;
        let found = statement.query_map(params, |row| key(row)).map_err(|e| db.explain(e))?;
        for row in found {
            out.push(row.map_err(|e| db.explain(e))?);
        }
        Ok::<(), super::MetaError>(())
    };
    let ino = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0).map(|ino| ino as Ino);
    read("SELECT ino FROM inode WHERE gen = ?1 AND gen > 1 LIMIT ?2", &mut out, &|row| {
        Ok(Key::Inode(ino(row)?))
    })?;
    read("SELECT parent, hash, name FROM dentry WHERE gen = ?1 AND gen > 1 LIMIT ?2", &mut out, &|row| {
        Ok(Key::Dentry(ino(row)?, row.get::<_, i64>(1)? as u64, row.get::<_, Vec<u8>>(2)?.into()))
    })?;
    read("SELECT ino, name FROM xattr WHERE gen = ?1 AND gen > 1 LIMIT ?2", &mut out, &|row| {
        Ok(Key::Xattr(ino(row)?, row.get::<_, Vec<u8>>(1)?.into()))
    })?;
    read("SELECT ino, idx FROM chunk WHERE gen = ?1 AND gen > 1 LIMIT ?2", &mut out, &|row| {
        Ok(Key::Chunk(ino(row)?, row.get::<_, i64>(1)? as u64))
    })?;
    Ok(out)
}

/// What only some generations hold: blocks that would be freed if the snapshot of `generation` were removed.
pub(super) fn unique_blocks(db: &Db, generations: &Generations, generation: Gen) -> Result<u64> {
    let group = generations.group(generation);
    let children = generations.children(generation);
    let mut shared: std::collections::BTreeMap<BlockAddr, u32> = std::collections::BTreeMap::new();
    let mut blocks = 0;
    let mut drop_run = |run: Run| -> Result<()> {
        for piece in share::references(db, run)? {
            if piece.refs == 1 {
                blocks += u64::from(piece.run.count);
                continue;
            }
            for i in 0..piece.run.count {
                let dropped = shared.entry(piece.run.start.plus(i)).or_default();
                *dropped += 1;
                blocks += u64::from(*dropped == piece.refs);
            }
        }
        Ok(())
    };
    for old in &group {
        if children.is_empty() {
            for key in keys_of_generation(db, *old, usize::MAX >> 1)? {
                let Key::Chunk(ino, idx) = key else { continue };
                let map = chunk::read_row(db, (ino, idx), *old)?;
                references(&map, &group).try_for_each(|(run, _)| drop_run(run))?;
            }
            continue;
        }
        for key in shadow::keys(db, *old, &None, usize::MAX >> 1)? {
            let Key::Chunk(ino, idx) = key else { continue };
            let Some(above) = rows_above(db, &key, &children)? else { continue };
            let maps = above.iter().map(|row| chunk::read_row(db, (ino, idx), row.generation));
            let maps = maps.collect::<Result<Vec<_>>>()?;
            let map = chunk::read_row(db, (ino, idx), *old)?;
            for (run, extent) in references(&map, &group) {
                for block in (0..run.count).filter(|i| !maps.iter().any(|map| holds(map, &extent, *i))) {
                    drop_run(run.part(block, 1))?;
                }
            }
        }
    }
    Ok(blocks)
}
