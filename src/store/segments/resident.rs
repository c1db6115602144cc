//! How much of the segments is on this host, and when each piece of it was used last: in a store whose blocks may go from here, because they
//! are elsewhere as well ([`Segments::evict`]). Other stores have none of that.
//!
//! A *piece* is the blocks of a group, 1 MiB. Used is what is read from the host's files or written to them; what the kernel or the cache of
//! blocks has in memory is not seen to be used.

use super::super::layout::{GROUP_BLOCKS, SEGMENT_BLOCKS};
use super::super::segment::{SegmentFile, segment_name};
use super::Segments;
use crate::backing::OpenMode;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

/// Pieces of a segment.
const PIECES: usize = (SEGMENT_BLOCKS / GROUP_BLOCKS) as usize;
/// How fine times of use are, in milliseconds.
const TICK_MS: u128 = 16;
/// Nothing of a piece is here.
const NOTHING: u32 = u32::MAX;

/// A piece of a segment that is here, or may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Piece {
    /// When it was used last, in units of 16 ms since that is noted; 0: not since then.
    pub used: u32,
    /// The segment.
    pub segment: u64,
    /// Which of the pieces of the segment it is.
    pub number: u32,
    /// It was just used: what is seen of it now may not be all that came then.
    pub is_fresh: bool,
}

/// When the pieces of a segment were used last.
#[derive(Debug)]
pub(in crate::store) struct Used {
    began: Instant,
    pieces: [AtomicU32; PIECES],
    /// The file may have become larger or smaller since it was measured.
    changed: AtomicBool,
}

impl Used {
    fn new(began: Instant) -> Self {
        Self { began, pieces: std::array::from_fn(|_| AtomicU32::new(0)), changed: AtomicBool::new(true) }
    }

    /// The block at `index` is used.
    pub(in crate::store) fn touch(&self, index: u32) {
        let Some(piece) = self.pieces.get((index / GROUP_BLOCKS) as usize) else { return };
        let now = now(self.began);
        // Most blocks are used many at a time.
        if piece.load(Ordering::Relaxed) != now {
            piece.store(now, Ordering::Relaxed);
        }
    }
}

fn now(began: Instant) -> u32 {
    u32::try_from(began.elapsed().as_millis() / TICK_MS).unwrap_or(NOTHING).clamp(1, NOTHING - 1)
}

/// A segment file.
#[derive(Debug)]
struct Counted {
    used: Arc<Used>,
    /// What the host has allocated for it when it was measured, in bytes.
    bytes: u64,
}

/// What is known of all segments that are here.
pub(super) struct Resident {
    began: Instant,
    files: Mutex<BTreeMap<u64, Counted>>,
    /// Bytes that have come since that is noted.
    came: AtomicU64,
    /// When so many have, somebody is told.
    tell_at: AtomicU64,
    tell: Box<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for Resident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resident").field("came", &self.came).finish_non_exhaustive()
    }
}

impl Resident {
    fn of(&self, id: u64) -> Arc<Used> {
        let mut files = self.files.lock();
        let counted =
            files.entry(id).or_insert_with(|| Counted { used: Arc::new(Used::new(self.began)), bytes: 0 });
        Arc::clone(&counted.used)
    }

    fn tell(&self) {
        self.tell_at.store(u64::MAX, Ordering::Relaxed);
        (self.tell)();
    }
}

impl Segments {
    /// From now on, it is noted what is used, and how much is here. `tell` is called, from any thread that reads or writes blocks, when so
    /// much has come as [`Segments::tell_after`] says, or the host has no room for more; it waits for nothing. Asking for it once more
    /// changes nothing.
    pub fn note_use(&self, tell: Box<dyn Fn() + Send + Sync>) {
        let resident = Resident {
            began: Instant::now(),
            files: Mutex::default(),
            came: AtomicU64::new(0),
            tell_at: AtomicU64::new(u64::MAX),
            tell,
        };
        if self.resident.set(resident).is_err() {
            return;
        }
        // Whoever opens a file from here on sees to it.
        let open: Vec<Arc<SegmentFile>> = self.open.lock().iter().map(|(_, file)| Arc::clone(file)).collect();
        let active = self.tail.lock().active.as_ref().map(|active| Arc::clone(&active.segment));
        open.iter().chain(&active).for_each(|segment| self.note_use_of(segment));
    }

    /// A file was opened: what is used of it is noted, if that is noted.
    pub(super) fn note_use_of(&self, segment: &SegmentFile) {
        if let Some(resident) = self.resident.get() {
            let _ = segment.used.set(resident.of(segment.id));
        }
    }

    /// Blocks have come into a segment.
    pub(super) fn note_came(&self, segment: u64, blocks: u64) {
        let Some(resident) = self.resident.get() else { return };
        resident.of(segment).changed.store(true, Ordering::Relaxed);
        let bytes = blocks * super::BLOCK_BYTES as u64;
        let came = resident.came.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if came >= resident.tell_at.load(Ordering::Relaxed) {
            resident.tell();
        }
    }

    /// The host has no room for something that was to come.
    pub(super) fn note_full(&self) {
        if let Some(resident) = self.resident.get()
            && resident.tell_at.load(Ordering::Relaxed) < u64::MAX
        {
            resident.tell();
        }
    }

    /// Something of a segment has gone.
    pub(super) fn note_went(&self, segment: u64) {
        let Some(resident) = self.resident.get() else { return };
        if let Some(counted) = resident.files.lock().get(&segment) {
            counted.used.changed.store(true, Ordering::Relaxed);
        }
    }

    /// Who asked for it is told once when so many bytes more have come, or the host has no room. Nothing happens where nobody did.
    pub fn tell_after(&self, bytes: u64) {
        if let Some(resident) = self.resident.get() {
            let at = resident.came.load(Ordering::Relaxed).saturating_add(bytes);
            resident.tell_at.store(at, Ordering::Relaxed);
        }
    }

    /// What the host has allocated for all segments, in bytes, by [`Segments::note_use`]; 0 where that is not noted.
    ///
    /// # Errors
    /// When a file or the directory cannot be looked at.
    pub fn resident_bytes(&self) -> io::Result<u64> {
        let Some(resident) = self.resident.get() else { return Ok(0) };
        if !self.has_listed.load(Ordering::Relaxed) {
            self.list()?.into_iter().for_each(|id| drop(resident.of(id)));
            self.has_listed.store(true, Ordering::Relaxed);
        }
        let changed: Vec<(u64, Arc<Used>)> = {
            let files = resident.files.lock();
            let changed = files.iter().filter(|(_, counted)| counted.used.changed.load(Ordering::Relaxed));
            changed.map(|(id, counted)| (*id, Arc::clone(&counted.used))).collect()
        };
        for (id, used) in changed {
            used.changed.store(false, Ordering::Relaxed);
            let file = self.dir.open(&segment_name(id), OpenMode::Read);
            let bytes = match file.and_then(|file| file.allocated()) {
                Ok(bytes) => Some(bytes),
                Err(e) if e.kind() == io::ErrorKind::NotFound => None,
                Err(e) => {
                    used.changed.store(true, Ordering::Relaxed);
                    return Err(e);
                }
            };
            let mut files = resident.files.lock();
            match bytes {
                Some(bytes) => files.entry(id).and_modify(|counted| counted.bytes = bytes),
                // (One that comes back meanwhile has changed again.)
                None if !used.changed.load(Ordering::Relaxed) => {
                    files.remove(&id);
                    continue;
                }
                None => continue,
            };
        }
        Ok(resident.files.lock().values().map(|counted| counted.bytes).sum())
    }

    /// The pieces that were used least recently, at most so many of them, the least recent first. Whoever writes to a piece uses it when its
    /// seals are written: so a piece that has more blocks than is seen, and is not fresh, is used once more before long.
    pub fn least_used(&self, most: usize) -> Vec<Piece> {
        let Some(resident) = self.resident.get() else { return Vec::new() };
        let now = now(resident.began);
        let files: Vec<(u64, Arc<Used>)> =
            resident.files.lock().iter().map(|(id, counted)| (*id, Arc::clone(&counted.used))).collect();
        let mut least: BinaryHeap<Piece> = BinaryHeap::with_capacity(most + 1);
        for (segment, used) in files {
            for (number, piece) in (0..).zip(&used.pieces) {
                let used = piece.load(Ordering::Relaxed);
                let piece = Piece { used, segment, number, is_fresh: used >= now };
                if piece.used == NOTHING {
                    continue;
                }
                if least.len() < most {
                    least.push(piece);
                } else if least.peek().is_some_and(|worst| piece < *worst) {
                    least.pop();
                    least.push(piece);
                }
            }
        }
        least.into_sorted_vec()
    }

    /// What can go of a piece has gone: all of it, or it is not looked at again before those that are used later. Unless it was used since, or
    /// just before.
    pub fn set_aside(&self, piece: &Piece, is_all: bool) {
        let Some(resident) = self.resident.get() else { return };
        let next = if is_all && !piece.is_fresh { NOTHING } else { now(resident.began) };
        let used = resident.of(piece.segment);
        if let Some(place) = used.pieces.get(piece.number as usize) {
            let _ = place.compare_exchange(piece.used, next, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{BLOCK_BYTES, Run, SEGMENT_DIR, Sealer, StoreId};
    use super::super::Wait;
    use super::*;
    use crate::backing::OsDir;
    use std::sync::atomic::AtomicU32 as Count;
    use std::thread::sleep;
    use std::time::Duration;

    #[test]
    fn what_is_read_or_written_last_is_looked_at_last() {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::create_dir(tmp.path().join(SEGMENT_DIR)).unwrap();
        let segments = Segments::new(Arc::new(OsDir::new(tmp.path())), StoreId(5), Sealer::Checksum, 1..10);
        let data = vec![7; 4 * GROUP_BLOCKS as usize * BLOCK_BYTES];
        let run = segments.append(&[&data]).unwrap()[0];
        assert_eq!(
            (segments.resident_bytes().unwrap(), segments.least_used(9).len()),
            (0, 0),
            "nobody asked"
        );
        let told = Arc::new(Count::new(0));
        let count = Arc::clone(&told);
        segments.note_use(Box::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        }));
        let here = segments.resident_bytes().unwrap();
        assert!(here >= data.len() as u64 && here < data.len() as u64 + (1 << 20), "{here}");
        let pause = || sleep(Duration::from_millis(2 * TICK_MS as u64));
        let mut out = vec![0; BLOCK_BYTES];
        for number in [2, 0, 3, 1] {
            pause();
            segments.read(run.part(number * GROUP_BLOCKS + 7, 1), &mut out, Wait::Yes).unwrap();
        }
        let order = |segments: &Segments, most| -> Vec<u32> {
            let pieces = segments.least_used(most).into_iter();
            pieces.filter(|piece| piece.used > 0).map(|piece| piece.number).collect()
        };
        assert_eq!(order(&segments, PIECES), [2, 0, 3, 1]);
        pause();
        let least = segments.least_used(PIECES);
        let find = |number| least.iter().find(|piece| piece.number == number).unwrap();
        segments.set_aside(find(2), false);
        segments.set_aside(find(0), true);
        assert_eq!(order(&segments, PIECES), [3, 1, 2]);
        // What comes is new, and is told when it is as much as was said.
        segments.tell_after(3 * BLOCK_BYTES as u64);
        assert_eq!(told.load(Ordering::Relaxed), 0);
        pause();
        segments.append(&[&data[..4 * BLOCK_BYTES]]).unwrap();
        segments.append(&[&data[..4 * BLOCK_BYTES]]).unwrap();
        assert_eq!(told.load(Ordering::Relaxed), 1, "once");
        assert_eq!(order(&segments, PIECES), [3, 1, 2, 4]);
        segments.set_aside(find(1), true);
        pause();
        segments.read(Run::new(run.start.plus(GROUP_BLOCKS), 1), &mut out, Wait::Yes).unwrap();
        let least = segments.least_used(PIECES);
        assert_eq!(least.last().unwrap().number, 1, "it is used again");
        // What is seen of a piece that is just being written is not all of it.
        let fresh = Piece { is_fresh: true, ..*least.last().unwrap() };
        segments.set_aside(&fresh, true);
        assert_eq!(segments.least_used(PIECES).last().unwrap().number, 1, "it is looked at again");
        segments.remove(1).unwrap();
        assert_eq!(segments.resident_bytes().unwrap(), 0);
    }
}
