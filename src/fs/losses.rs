//! What the kernel had taken from programs, and could not be kept.
//!
//! With a writeback cache, the kernel takes what programs write and hands it over later. When there is no room then, the programs
//! have gone on: the kernel says so at the next fsync(2) or close(2), once, and goes on itself: it shows the size that the file
//! would have, and hands over what comes behind. So here is noted what is missing from which file, and until that is over:
//! - nothing is kept behind what is missing, unless it was there before: a file ends where its data ends;
//! - whoever writes to the file is told so at once ([`Fs::refuses_writers`]), and every sync of it fails;
//! - the kernel is made to forget the file as soon as nobody has it open.
//!
//! Whoever serves the mount next has to know of it: it is kept where it outlives this process, before anybody hears of it.
//!
//! It is over when the file is cut to where its data ends, or shorter; when what is missing was written again; or when the kernel
//! has forgotten the file, and so its size and what it held.

use super::overtaking::Overtaking;
use super::{Fs, FsError, Ino, Result};
use crate::meta::Meta;
use crate::open_store::nothing_is_held;
use crate::store::BLOCK_BYTES;
use parking_lot::{Mutex, MutexGuard};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Ranges that are missing from one file at most; what lies between those behind counts as missing too.
pub(super) const RANGES: usize = 256;

/// What is missing from a file.
#[derive(Clone, Debug)]
pub(super) struct Loss {
    /// In order, and never next to each other. At least one.
    missing: Vec<Range<u64>>,
    error: FsError,
    /// Room that the largest write wanted, in bytes.
    wanted: u64,
    /// A program has been told since the last write that was not kept.
    told: bool,
    /// Something was not kept only because of what is missing in front of it: there was room for all.
    has_gap: bool,
    /// All that is known of it is from the server before this one: of the file that the kernel knew then.
    is_inherited: bool,
    /// See [`Lost::is_given_up`].
    is_given_up: bool,
}

impl Loss {
    /// The room that it takes to write again what is known to be missing, in bytes. Less may be no more than what was given back
    /// here when others had overtaken the loss, and its end may still be under way.
    fn room_to_end(&self) -> u64 {
        // The last of as many as there may be stands for what lies between those behind, too.
        let exact = self.missing.iter().take(RANGES - 1);
        exact.map(|range| range.end - range.start).sum::<u64>().max(self.wanted)
    }

    /// Where the data of the file ends.
    fn start(&self) -> u64 {
        self.missing.first().map_or(0, |range| range.start)
    }

    /// The end of what is missing.
    #[cfg(test)]
    fn end(&self) -> u64 {
        self.missing.last().map_or(0, |range| range.end)
    }

    pub(super) fn add(&mut self, range: &Range<u64>) {
        let (mut whole, mut others) = (range.clone(), Vec::new());
        for other in self.missing.drain(..) {
            if other.end < whole.start || whole.end < other.start {
                others.push(other);
            } else {
                whole = whole.start.min(other.start)..whole.end.max(other.end);
            }
        }
        others.push(whole);
        others.sort_unstable_by_key(|range| range.start);
        if others.len() > RANGES {
            let end = others.last().map_or(0, |range| range.end);
            others.truncate(RANGES);
            others[RANGES - 1].end = end;
        }
        self.missing = others;
    }

    fn give_up(&mut self) {
        self.missing.clear();
        self.is_given_up = true;
    }

    fn remove(&mut self, range: &Range<u64>) {
        let parts = self.missing.iter().flat_map(|other| {
            [other.start..other.end.min(range.start), other.start.max(range.end)..other.end]
        });
        self.missing = parts.filter(|part| !part.is_empty()).collect();
    }
}

/// What is missing from a file, for whoever takes over the mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// The file.
    pub ino: Ino,
    /// Starts and ends of ranges of its bytes, in order. None: nothing is missing any more.
    pub missing: Vec<(u64, u64)>,
    /// Why.
    pub error: FsError,
    /// Room that the largest write wanted, in bytes.
    pub wanted: u64,
    /// Something was not kept though there was room.
    pub has_gap: bool,
    /// The kernel has forgotten the file: nothing is missing from it any more because nobody will write it again. Not for whoever takes
    /// over.
    #[serde(skip)]
    pub is_given_up: bool,
}

impl Lost {
    fn of(ino: Ino, loss: &Loss) -> Self {
        let missing = loss.missing.iter().map(|range| (range.start, range.end)).collect();
        Self {
            ino,
            missing,
            error: loss.error,
            wanted: loss.wanted,
            has_gap: loss.has_gap,
            is_given_up: loss.is_given_up,
        }
    }
}

/// Told of what is missing before anybody hears of it.
pub type KeepLost = Box<dyn Fn(Lost) + Send + Sync>;

/// The files from which something is missing.
pub(super) struct Losses {
    /// Locked while [`KeepLost`] is told, so that it hears of what is so last.
    files: Mutex<FxHashMap<Ino, Loss>>,
    keep: OnceLock<KeepLost>,
    /// Whether there are any.
    any: AtomicBool,
    /// What was kept lately, and may have to be given back.
    pub(super) overtaking: Overtaking,
}

impl std::fmt::Debug for Losses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Losses").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Default for Losses {
    fn default() -> Self {
        Self {
            files: Mutex::default(),
            keep: OnceLock::new(),
            any: AtomicBool::new(false),
            overtaking: Overtaking::default(),
        }
    }
}

impl Losses {
    /// The files. Whoever has the lock may be telling the holder: the metadata are not to wait for that.
    fn files(&self) -> MutexGuard<'_, FxHashMap<Ino, Loss>> {
        nothing_is_held();
        self.files.lock()
    }

    fn with<T>(&self, ino: Ino, look: impl FnOnce(&mut Loss) -> T) -> Option<T> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        self.files().get_mut(&ino).map(look)
    }

    fn keep(&self, ino: Ino, loss: &Loss) {
        if let Some(keep) = self.keep.get() {
            keep(Lost::of(ino, loss));
        }
    }

    /// Changes what is missing from a file, if anything is.
    pub(super) fn change(&self, ino: Ino, change: impl FnOnce(&mut Loss)) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        let mut files = self.files();
        let Some(loss) = files.get_mut(&ino) else { return };
        let before = loss.missing.clone();
        change(loss);
        if loss.missing != before {
            self.keep(ino, loss);
        }
        if loss.missing.is_empty() {
            files.remove(&ino);
            self.any.store(!files.is_empty(), Ordering::Release);
            drop(files);
            self.settle(ino);
        }
    }

    /// The mount was taken over from a server that is gone.
    fn take_over(&self, lost: &[Lost]) {
        let mut files = self.files();
        for Lost { ino, missing, error, wanted, has_gap, .. } in lost {
            let mut loss = Loss {
                missing: Vec::new(),
                error: *error,
                wanted: *wanted,
                told: false,
                has_gap: *has_gap,
                is_inherited: true,
                is_given_up: false,
            };
            let ranges = missing.iter().map(|(start, end)| *start..*end);
            ranges.filter(|range| !range.is_empty()).for_each(|range| loss.add(&range));
            if !loss.missing.is_empty() {
                files.insert(*ino, loss);
            }
        }
        self.any.store(!files.is_empty(), Ordering::Release);
    }

    /// Why a write-back of `range` cannot be kept: something in front of it is missing. Only asked for what was not there before.
    /// What is missing itself may be written again, in any order. The volume has room for so many bytes.
    pub(super) fn refuse_behind(&self, ino: Ino, range: &Range<u64>, room: u64) -> Option<FsError> {
        self.with(ino, |loss| {
            let again = |missing: &Range<u64>| missing.start <= range.start && range.end <= missing.end;
            let is_behind = range.start > loss.start() && !loss.missing.iter().any(again);
            loss.has_gap |= is_behind && room >= loss.room_to_end();
            is_behind.then_some(loss.error)
        })?
    }

    /// Whether anything is missing from a file.
    pub(super) fn has(&self, ino: Ino) -> bool {
        self.with(ino, |_| ()).is_some()
    }

    /// A write-back of `range` was not kept.
    pub(super) fn note(&self, ino: Ino, range: &Range<u64>, error: FsError) {
        let mut files = self.files();
        if !files.contains_key(&ino) {
            log::warn!("inode {ino}: what programs wrote from byte {} on is lost: {error:?}", range.start);
        }
        self.any.store(true, Ordering::Release);
        let new = Loss {
            missing: Vec::new(),
            error,
            wanted: 0,
            told: false,
            has_gap: false,
            is_inherited: false,
            is_given_up: false,
        };
        let loss = files.entry(ino).or_insert(new);
        loss.add(range);
        loss.wanted = loss.wanted.max(range.end - range.start);
        (loss.told, loss.is_inherited) = (false, false);
        self.keep(ino, loss);
    }

    /// `range` was written.
    pub(super) fn note_written(&self, ino: Ino, range: &Range<u64>) {
        self.change(ino, |loss| loss.remove(range));
    }

    /// The file was cut, or extended, to `size`.
    pub(super) fn note_size(&self, ino: Ino, size: u64) {
        self.settle(ino);
        // What was missing behind that is so no more: nobody wants it.
        self.change(ino, |loss| loss.remove(&(size..u64::MAX)));
    }

    /// The kernel knows nothing of the file any more.
    pub(super) fn forget(&self, ino: Ino) {
        self.settle(ino);
        self.change(ino, Loss::give_up);
    }

    /// The kernel knew nothing of the file a moment ago: of what is missing from it since, it does.
    fn forget_inherited(&self, ino: Ino) {
        self.change(ino, |loss| {
            if loss.is_inherited {
                loss.give_up();
            }
        });
    }

    /// The kernel knows nothing any more.
    pub(super) fn clear(&self) {
        self.overtaking.clear();
        let mut files = self.files();
        for (ino, mut loss) in files.drain() {
            loss.give_up();
            self.keep(ino, &loss);
        }
        self.any.store(false, Ordering::Release);
    }

    /// What the file has now, it keeps, whatever comes.
    pub(super) fn settle(&self, ino: Ino) {
        self.overtaking.settle(ino);
    }
}

impl Fs {
    /// From now on, what is missing from files is kept there. To be called before the mount is served.
    pub fn keep_losses(&self, keep: KeepLost) {
        let _ = self.losses.keep.set(keep);
    }

    /// The mount was taken over from a server that knew that something is missing from files.
    pub fn take_over_losses(&self, lost: &[Lost]) {
        self.losses.take_over(lost);
    }

    /// Why programs that write to a file are to be refused: something that they wrote before was not kept, and there is still
    /// no room for it, or what comes behind could not be kept either.
    pub fn refuses_writers(&self, ino: Ino) -> Option<FsError> {
        let (error, room, told, has_gap) = self.losses.with(ino, |loss| {
            let told = std::mem::replace(&mut loss.told, true);
            (loss.error, loss.room_to_end(), told, loss.has_gap)
        })?;
        let refuses = match error {
            _ if has_gap => true,
            FsError::NoSpace => !self.has_room_for(room),
            FsError::ReadOnly | FsError::Io => !self.store.health().is_good(),
            _ => !told,
        };
        refuses.then_some(error)
    }

    /// Why a file cannot be synced: something is missing from it.
    pub fn sync_error(&self, ino: Ino) -> Option<FsError> {
        let error = self.losses.with(ino, |loss| loss.error);
        if error.is_none() {
            self.losses.settle(ino);
        }
        error
    }

    /// Files from which something is missing: the kernel is to ask before anybody writes to them, and to forget them as soon as
    /// it can.
    pub fn lossy_files(&self) -> Vec<Ino> {
        if !self.losses.any.load(Ordering::Acquire) {
            return Vec::new();
        }
        self.losses.files().keys().copied().collect()
    }

    /// Whether anything is missing from a file.
    pub fn is_lossy(&self, ino: Ino) -> bool {
        self.losses.has(ino)
    }

    /// Forgets what the server before this one knew to be missing from files that the kernel does not know. It is asked of each with
    /// `may_know`.
    pub fn forget_losses_unless(&self, mut may_know: impl FnMut(Ino) -> bool) {
        for ino in self.lossy_files() {
            if !may_know(ino) {
                self.losses.forget_inherited(ino);
            }
        }
    }

    /// Looks for names of an inode in the directory that it was last made in or moved to, behind `after` (0: from the start), and
    /// calls `found` with each and the directory. It looks at as many names as is work for one hold of the metadata, and returns what
    /// to go on behind; `None` at the end.
    ///
    /// # Errors
    /// As the metadata.
    pub fn some_names_of(
        &self,
        ino: Ino,
        after: u64,
        mut found: impl FnMut(Ino, Box<[u8]>),
    ) -> Result<Option<u64>> {
        const BATCH: usize = 512;
        let mut meta = self.store.meta();
        let parent = meta.inode(self.volume, ino)?.parent;
        let batch = meta.entries(self.volume, parent, after, BATCH)?;
        batch.entries.into_iter().filter(|e| e.ino == ino).for_each(|e| found(parent, e.name));
        Ok(batch.next)
    }

    /// Whether a write of so many bytes would find room.
    fn has_room_for(&self, bytes: u64) -> bool {
        let fits = self.room(&mut self.store.meta()).is_ok_and(|room| room >= bytes);
        fits && self.store.host_space().is_ok_and(|space| space.available_bytes >= bytes)
    }

    /// Bytes that the limit of the volume leaves.
    pub(super) fn room(&self, meta: &mut Meta) -> Result<u64> {
        let (usage, limits) = meta.usage(self.volume)?;
        let blocks = limits.blocks.map(|limit| limit.saturating_sub(usage.blocks));
        Ok(blocks.map_or(u64::MAX, |blocks| blocks.saturating_mul(BLOCK_BYTES as u64)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_refused_behind_and_taken_again() {
        let losses = Losses::default();
        assert_eq!(losses.refuse_behind(5, &(0..10), 0), None);
        losses.note(5, &(100..200), FsError::NoSpace);
        losses.note(5, &(300..400), FsError::NoSpace);
        assert_eq!(losses.refuse_behind(5, &(400..500), 0), Some(FsError::NoSpace));
        assert_eq!(losses.refuse_behind(5, &(100..200), 0), None);
        assert_eq!(losses.refuse_behind(5, &(350..400), 0), None);
        // One that others have overtaken.
        assert_eq!(losses.refuse_behind(5, &(210..290), 0), Some(FsError::NoSpace));
        assert_eq!(losses.refuse_behind(5, &(210..350), 0), Some(FsError::NoSpace));
        assert_eq!(losses.refuse_behind(5, &(50..500), 0), None);
        assert_eq!(losses.refuse_behind(6, &(400..500), 0), None);
        // In any order, and in parts.
        losses.note_written(5, &(350..500));
        losses.note_written(5, &(50..150));
        losses.note(5, &(170..180), FsError::NoSpace);
        assert_eq!(losses.with(5, |loss| loss.start()), Some(150));
        losses.note_written(5, &(150..340));
        assert!(losses.has(5));
        losses.note_written(5, &(340..350));
        assert!(!losses.has(5));
    }

    #[test]
    fn what_is_missing_in_many_places_takes_a_bounded_room() {
        let losses = Losses::default();
        for i in (0..10 * RANGES as u64).rev() {
            losses.note(5, &(i * 10..i * 10 + 5), FsError::NoSpace);
        }
        let missing = losses.with(5, |loss| (loss.missing.len(), loss.start()..loss.end()));
        assert_eq!(missing, Some((RANGES, 0..100 * RANGES as u64 - 5)));
    }

    #[test]
    fn who_takes_over_knows_what_is_missing_and_what_is_not() {
        let kept: std::sync::Arc<Mutex<FxHashMap<Ino, Lost>>> = std::sync::Arc::default();
        let (losses, for_losses) = (Losses::default(), std::sync::Arc::clone(&kept));
        let keep = move |lost: Lost| {
            if lost.missing.is_empty() {
                for_losses.lock().remove(&lost.ino);
            } else {
                for_losses.lock().insert(lost.ino, lost);
            }
        };
        assert!(losses.keep.set(Box::new(keep)).is_ok());
        for ino in 1..7 {
            losses.note(ino, &(100..200), FsError::NoSpace);
        }
        losses.note(6, &(300..400), FsError::NoSpace);
        losses.note_written(1, &(100..150));
        losses.note_written(2, &(100..200));
        losses.note_size(3, 100);
        losses.forget(4);
        assert_eq!(losses.refuse_behind(5, &(200..300), 1 << 20), Some(FsError::NoSpace));
        losses.note(5, &(200..300), FsError::NoSpace);
        let next = Losses::default();
        next.take_over(&kept.lock().values().cloned().collect::<Vec<_>>());
        for ino in 0..8 {
            let known = |losses: &Losses| losses.with(ino, |loss| Lost::of(ino, loss));
            assert_eq!(known(&next), known(&losses), "{ino}");
            assert_eq!(next.has(ino), [1, 5, 6].contains(&ino));
        }
        assert_eq!(next.with(5, |loss| loss.has_gap), Some(true));
        losses.clear();
        assert!(kept.lock().is_empty());
    }

    #[test]
    fn what_is_written_again_is_told_from_what_is_given_up() {
        let told: std::sync::Arc<Mutex<Vec<(Ino, bool, bool)>>> = std::sync::Arc::default();
        let (losses, for_losses) = (Losses::default(), std::sync::Arc::clone(&told));
        let keep =
            move |lost: Lost| for_losses.lock().push((lost.ino, lost.missing.is_empty(), lost.is_given_up));
        assert!(losses.keep.set(Box::new(keep)).is_ok());
        for ino in 1..4 {
            losses.note(ino, &(100..200), FsError::NoSpace);
        }
        losses.note_written(1, &(100..200));
        losses.forget(2);
        losses.clear();
        let of = |ino| {
            told.lock().iter().filter(|told| told.0 == ino).map(|told| (told.1, told.2)).collect::<Vec<_>>()
        };
        assert_eq!(of(1), [(false, false), (true, false)]);
        for ino in [2, 3] {
            assert_eq!(of(ino), [(false, false), (true, true)], "{ino}");
        }
    }

    /// Blocks that had overtaken the loss were given back, and the last part of the same write-back comes after that.
    #[test]
    fn room_that_the_file_itself_gave_back_does_not_refuse_its_writers_for_good() {
        let losses = Losses::default();
        losses.note(5, &(300..400), FsError::NoSpace);
        losses.note(5, &(100..200), FsError::NoSpace);
        losses.change(5, |loss| loss.add(&(200..300)));
        assert_eq!(losses.refuse_behind(5, &(400..500), 100), Some(FsError::NoSpace));
        assert_eq!(losses.with(5, |loss| loss.has_gap), Some(false));
        assert_eq!(losses.refuse_behind(5, &(400..500), 300), Some(FsError::NoSpace));
        assert_eq!(losses.with(5, |loss| loss.has_gap), Some(true));
    }

    #[test]
    fn what_lies_between_many_losses_needs_no_room() {
        let losses = Losses::default();
        for i in 0..10 * RANGES as u64 {
            losses.note(5, &(i * 1000..i * 1000 + 5), FsError::NoSpace);
        }
        let room = losses.with(5, |loss| loss.room_to_end()).unwrap();
        assert!((5..=10 * RANGES as u64 * 5).contains(&room), "{room}");
    }

    #[test]
    fn what_the_kernel_has_forgotten_is_not_what_is_missing_since() {
        let losses = Losses::default();
        let lost = |ino| {
            let (missing, error) = (vec![(100, 200)], FsError::NoSpace);
            Lost { ino, missing, error, wanted: 1, has_gap: false, is_given_up: false }
        };
        losses.take_over(&[lost(5), lost(6)]);
        losses.note(6, &(300..400), FsError::NoSpace);
        for ino in [5, 6] {
            losses.forget_inherited(ino);
        }
        assert!(!losses.has(5) && losses.has(6));
    }

    #[test]
    fn what_is_cut_off_is_not_missing() {
        let losses = Losses::default();
        losses.note(5, &(100..200), FsError::NoSpace);
        losses.note(5, &(300..400), FsError::NoSpace);
        losses.note_size(5, 250);
        losses.note_written(5, &(100..200));
        assert!(!losses.has(5));
    }

    #[test]
    fn a_cut_ends_it_only_where_the_data_ends() {
        let losses = Losses::default();
        losses.note(5, &(100..200), FsError::NoSpace);
        losses.note_size(5, 150);
        assert!(losses.has(5));
        losses.note_size(5, 100);
        assert!(!losses.has(5));
    }
}
