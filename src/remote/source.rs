//! What is shipped: the state of a store at one commit, as its remote needs it.

use crate::store::{ReadError, Run, StoredBlocks};
use std::fmt::Debug;
use std::io;

/// A store that is shipped.
pub trait Source: Send + Sync {
    /// Whether something that is durable has changed since the last state that was shipped, or that is not known.
    fn has_news(&self) -> bool;

    /// The same, also of what is not durable yet: whether a state that is taken now would have something new.
    fn has_changes(&self) -> bool;

    /// The bytes of the store's header as it is now.
    ///
    /// # Errors
    /// Why it cannot be read, as a sentence without its end.
    fn header(&self) -> Result<Vec<u8>, String>;

    /// Bytes of pages and blocks that have changed since then, roughly; `None` if that is not known.
    fn news_bytes(&self) -> Option<u64>;

    /// The state at a commit that is made for it. It has the pages and blocks that have changed since the last state that was
    /// shipped; with `whole`, all pages. Where it is not known what has changed, it has everything.
    ///
    /// # Errors
    /// Why there is none, as a sentence without its end.
    fn state(&self, whole: bool) -> Result<Box<dyn State>, String>;
}

/// The state of a store at one commit. As long as it is there, its blocks can be read. If it goes without [`State::shipped`], what it
/// had counts as changed again.
pub trait State: Send + Sync + Debug {
    /// The first epoch of the redo log that is not in it.
    fn redo_epoch(&self) -> u64;

    /// Length of the database in pages.
    fn page_count(&self) -> u32;

    /// Bytes of a page, as SQLite sees it.
    fn page_bytes(&self) -> usize;

    /// Whether it has all pages of the database that were ever written.
    fn is_whole(&self) -> bool;

    /// The numbers of the pages that it has, ascending.
    fn pages(&self) -> &[u32];

    /// Reads the page at a place of [`State::pages`] into `out`, of [`State::page_bytes`] bytes.
    ///
    /// # Errors
    /// As pread(2), and when it is damaged.
    fn read_page(&self, place: usize, out: &mut [u8]) -> io::Result<()>;

    /// The blocks that it has, ascending. Some may hold nothing.
    fn blocks(&self) -> &[Run];

    /// Segments that have been filled further, with the index behind the last block; 0: nothing lives in it any more.
    fn segments(&self) -> &[(u64, u32)];

    /// Whether [`State::blocks`] and [`State::segments`] have all there is in the store.
    fn has_all_blocks(&self) -> bool;

    /// Blocks that were freed since the last state; `None` if that is not known.
    fn freed(&self) -> Option<&[Run]>;

    /// The key epoch of a segment, 0 in a plain store; `None` if the segment is not there.
    fn key_epoch(&self, segment: u64) -> Option<u64>;

    /// Reads blocks as they are stored; those that do not open are left out.
    ///
    /// # Errors
    /// As the store; also when they were sealed again with keys that [`State::header`] does not have.
    fn read(&self, run: Run) -> Result<Vec<StoredBlocks>, ReadError>;

    /// The bytes of the store's header.
    fn header(&self) -> &[u8];

    /// Whether every block that it has can still be read. The host may have needed the space of some that were freed since: what was read
    /// before is good.
    fn is_sound(&self) -> bool;

    /// It is in the remote.
    fn shipped(self: Box<Self>);
}
