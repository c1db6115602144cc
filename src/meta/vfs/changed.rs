//! Which pages of the database have changed, for who keeps a copy of it elsewhere.
//!
//! Noted are the frames that reach the WAL's file: those of commits that are durable, and no others. So what is noted is
//! exactly what a copy of the commit before lacks. A store of which nobody keeps a copy has none of this.
//!
//! Invariants:
//! - `frames` has, for each page, the newest durable frame of the WAL as it is now. A page that is not there is in the database
//!   as it was at the last durable commit, and no checkpoint writes it;
//! - a page that changed since the last look is in `pages`; what the look under way has taken is in `taken` until it is known
//!   what became of that.

use super::MetaFiles;
use super::page::PAGE_BYTES;
use super::wal::WAL_HEADER_BYTES;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// What SQLite writes before the page in a frame.
pub(super) const FRAME_HEADER_BYTES: usize = 24;
/// A frame as SQLite sees it.
pub(super) const FRAME_BYTES: usize = FRAME_HEADER_BYTES + PAGE_BYTES;

/// Where the newest durable frame of a page is, as SQLite counts, and what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) offset: u64,
    /// XXH3-64 of the page: frames have no seal of their own in a plain store.
    pub(super) sum: u64,
}

/// The sum of a page in a frame.
pub(super) fn sum(page: &[u8]) -> u64 {
    xxh3_64(page)
}

/// Numbers of pages, as bits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PageSet(Vec<u64>);

impl PageSet {
    fn add(&mut self, page: u32) {
        let (word, bit) = (page as usize / 64, page % 64);
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << bit;
    }

    fn add_all(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        self.0.iter_mut().zip(&other.0).for_each(|(to, from)| *to |= from);
    }

    fn has(&self, page: u32) -> bool {
        self.0.get(page as usize / 64).is_some_and(|word| word >> (page % 64) & 1 == 1)
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().enumerate().flat_map(|(i, word)| {
            (0..64u32).filter(move |bit| word >> bit & 1 == 1).map(move |bit| i as u32 * 64 + bit)
        })
    }
}

#[derive(Debug, Default)]
struct State {
    /// (Who reads a commit goes on with those of then.)
    frames: Arc<FxHashMap<u32, Frame>>,
    pages: PageSet,
    /// `pages` has everything that changed since the last look.
    complete: bool,
    taken: Option<Taken>,
}

#[derive(Debug)]
struct Taken {
    pages: PageSet,
    complete: bool,
}

/// What has changed, and where it is.
#[derive(Debug, Default)]
pub(super) struct Changed(Mutex<State>);

/// Pages to be read, and where the newest frame of each is, if one is in the WAL.
#[derive(Debug)]
pub(in crate::meta) struct Wanted {
    /// All pages of the database are wanted.
    pub(in crate::meta) whole: bool,
    /// Those that are, or with `whole`, those that are in the WAL.
    pages: Vec<(u32, Option<Frame>)>,
    /// Where the newest frames of all pages are that are in the WAL.
    frames: Arc<FxHashMap<u32, Frame>>,
}

impl Wanted {
    /// Where the newest frame of a page is, wanted or not; `None` if it is in the database.
    pub(super) fn frame(&self, page: u32) -> Option<Frame> {
        self.frames.get(&page).copied()
    }

    /// The pages of a database of `count` pages that are wanted, ascending.
    pub(super) fn of(&self, count: u32) -> impl Iterator<Item = (u32, Option<Frame>)> + '_ {
        let mut listed = self.pages.iter().copied().take_while(move |(page, _)| *page <= count).peekable();
        let mut next = 1u32;
        std::iter::from_fn(move || {
            if !self.whole {
                return listed.next();
            }
            let page = next;
            if page > count || page == 0 {
                return None;
            }
            next = next.wrapping_add(1);
            Some(listed.next_if(|(listed, _)| *listed == page).unwrap_or((page, None)))
        })
    }
}

impl Changed {
    /// Takes note of bytes of the WAL that are durable from now on: whole frames, behind the header if `offset` is 0.
    pub(super) fn note(&self, offset: u64, bytes: &[u8]) {
        let state = &mut *self.0.lock();
        let (mut offset, mut frames) = (offset, bytes);
        if offset == 0 {
            // It starts over: all that was in it is in the database.
            state.frames = Arc::default();
            (offset, frames) = (WAL_HEADER_BYTES, bytes.get(WAL_HEADER_BYTES as usize..).unwrap_or_default());
        }
        let newest = Arc::make_mut(&mut state.frames);
        for frame in frames.chunks_exact(FRAME_BYTES) {
            let (header, content) = frame.split_at(FRAME_HEADER_BYTES);
            let page = header.first_chunk().map_or(0, |number| u32::from_be_bytes(*number));
            newest.insert(page, Frame { offset, sum: sum(content) });
            state.pages.add(page);
            offset += FRAME_BYTES as u64;
        }
    }

    /// The WAL was cut to nothing, after all of it was copied back.
    pub(super) fn cut(&self) {
        self.0.lock().frames = Arc::default();
    }

    /// What has changed since the last look, or everything if that is not known or asked for. To be called while nothing is
    /// committed, and no other look is under way.
    fn take(&self, whole: bool) -> Wanted {
        let mut state = self.0.lock();
        let whole = whole || !state.complete;
        let pages = std::mem::take(&mut state.pages);
        let mut wanted: Vec<(u32, Option<Frame>)> = if whole {
            state.frames.iter().map(|(page, frame)| (*page, Some(*frame))).collect()
        } else {
            pages.iter().map(|page| (page, state.frames.get(&page).copied())).collect()
        };
        wanted.sort_unstable_by_key(|(page, _)| *page);
        state.taken = Some(Taken { pages, complete: state.complete });
        state.complete = true;
        Wanted { whole, pages: wanted, frames: Arc::clone(&state.frames) }
    }

    /// Whether a page of the database is what the copy has: it has not changed since the last look that came to something, nor is a newer one in
    /// the WAL.
    fn is_as_taken(&self, page: u32) -> bool {
        let state = self.0.lock();
        let is_taken = state.taken.as_ref().is_some_and(|taken| !taken.complete || taken.pages.has(page));
        state.complete && !is_taken && !state.pages.has(page) && !state.frames.contains_key(&page)
    }

    fn end(&self, done: bool) {
        let mut state = self.0.lock();
        let Some(taken) = state.taken.take() else { return };
        if !done {
            state.complete &= taken.complete;
            state.pages.add_all(&taken.pages);
        }
    }
}

impl MetaFiles {
    /// From now on, it is noted which pages change. To be called before the database is opened.
    pub fn note_changes(&self) {
        let _ = self.changed.set(Arc::default());
    }

    /// Pages that have changed since they were taken last and are durable; `None` if that is not known.
    pub fn changed_pages(&self) -> Option<u64> {
        let state = self.changed.get()?.0.lock();
        state.complete.then(|| state.pages.count())
    }

    /// The same with those that were taken and are not known to have come to anything, if it is known which those are.
    pub fn lacking_pages(&self) -> Option<u64> {
        let state = self.changed.get()?.0.lock();
        let taken = state.taken.as_ref().filter(|taken| taken.complete);
        let taken = taken.map_or(0, |taken| taken.pages.count());
        state.complete.then(|| state.pages.count() + taken)
    }

    /// Whether a page of the database is known to be what it was when it was taken last, which has come to something.
    pub(super) fn is_as_taken(&self, page: u32) -> bool {
        self.changed.get().is_some_and(|changed| changed.is_as_taken(page))
    }

    /// Whether nothing has changed since they were taken last.
    pub fn is_unchanged(&self) -> bool {
        self.changed.get().is_none_or(|changed| {
            let state = changed.0.lock();
            state.complete && state.pages.is_empty()
        })
    }

    /// Lets everything count as changed.
    pub fn forget_changes(&self) {
        if let Some(changed) = self.changed.get() {
            let mut state = changed.0.lock();
            state.complete = false;
            if let Some(taken) = &mut state.taken {
                taken.complete = false;
            }
        }
    }

    /// See [`Changed::take`].
    pub(in crate::meta) fn take_changed(&self, whole: bool) -> Wanted {
        match self.changed.get() {
            Some(changed) => changed.take(whole),
            None => Wanted { whole: true, pages: Vec::new(), frames: Arc::default() },
        }
    }

    /// What was taken last has come to where it was taken for, or has not: then it counts as changed again.
    pub fn end_changed(&self, done: bool) {
        if let Some(changed) = self.changed.get() {
            changed.end(done);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(page: u32, fill: u8) -> Vec<u8> {
        let mut frame = vec![0; FRAME_HEADER_BYTES];
        frame[..4].copy_from_slice(&page.to_be_bytes());
        frame.extend_from_slice(&[fill; PAGE_BYTES]);
        frame
    }

    fn places(wanted: &Wanted, count: u32) -> Vec<(u32, Option<u64>)> {
        wanted.of(count).map(|(page, frame)| (page, frame.map(|frame| frame.offset))).collect()
    }

    #[test]
    fn what_changed_is_taken_once_and_comes_back_if_it_was_not_used() {
        let changed = Changed::default();
        let at = |frames: u64| WAL_HEADER_BYTES + frames * FRAME_BYTES as u64;
        changed.note(0, &[vec![0; 32], frame(3, 1), frame(70, 1), frame(3, 2)].concat());
        // What was before is not known.
        let all = changed.take(false);
        assert!(all.whole);
        assert!(!changed.is_as_taken(1), "it is not known whether that comes to something");
        assert_eq!(places(&all, 4), [(1, None), (2, None), (3, Some(at(2))), (4, None)]);
        changed.end(false);
        assert!(changed.take(false).whole);
        changed.end(true);
        assert!(places(&changed.take(false), 100).is_empty());
        changed.end(true);
        assert!(changed.is_as_taken(1) && !changed.is_as_taken(3), "a newer one may be in the WAL");
        changed.note(at(3), &frame(5, 1));
        assert!(changed.is_as_taken(1) && !changed.is_as_taken(5));
        assert_eq!(places(&changed.take(false), 100), [(5, Some(at(3)))]);
        changed.note(at(4), &frame(6, 1));
        changed.end(false);
        changed.note(0, &[vec![0; 32], frame(6, 1)].concat());
        let some = changed.take(false);
        assert!(!some.whole);
        // The frame of page 5 is gone, and the page in the database.
        assert_eq!(places(&some, 100), [(5, None), (6, Some(at(0)))]);
        assert!(!changed.is_as_taken(5) && changed.is_as_taken(7));
        assert_eq!(places(&some, 5), [(5, None)], "pages that the database does not have any more");
        changed.cut();
        changed.end(false);
        assert_eq!(places(&changed.take(true), 2), [(1, None), (2, None)]);
    }
}
