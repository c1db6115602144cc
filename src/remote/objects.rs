//! What is asked of an object store: synchronous, and the same for all of them.
//!
//! Implementations: [`Cloud`](super::Cloud) (S3, GCS, Azure), [`Directory`](super::Directory) (`file://`), and those that wrap another
//! one: [`Patient`](super::Patient) (retries), [`Limited`](super::Limited) (bandwidth, requests), [`Counted`](super::Counted).

use bytes::Bytes;
use std::fmt::Debug;
use std::ops::Range;
use thiserror::Error;

/// Kinds of failure, which callers treat differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// No answer, or one that says to come back later. Whether a PUT was done is not known.
    Unreachable,
    /// The credentials are missing, wrong, or do not allow this.
    Refused,
    /// There is no such object (or no such bucket).
    Missing,
    /// There is one already.
    Exists,
    /// There is no room.
    Full,
    /// Anything else; trying again does not help.
    Other,
}

/// A request that failed. Its text has no credentials, no signatures and no query of a URL in it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("cannot {doing} {place}/{name}: {why}")]
pub struct ObjectError {
    /// The kind of failure.
    pub trouble: Trouble,
    /// What was asked for: `read`, `write`, `list`, `remove`.
    pub doing: &'static str,
    /// URL of the remote.
    pub place: String,
    /// Name of the object, or what was to be listed.
    pub name: String,
    /// Why it failed.
    pub why: String,
}

/// The result of a request.
pub type Outcome<T> = std::result::Result<T, ObjectError>;

/// What is known of an object without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name, below the prefix of the remote.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// When it was written, by the clock of the object store, in seconds since 1970; to be shown, never to be compared with a clock of a host.
    pub modified: i64,
}

/// An object store below one prefix. Names are relative to that, and consist of components of `a-z 0-9 - _ .` with `/` between them.
///
/// All implementations promise:
/// - an object is there whole or not at all;
/// - what a write was acknowledged for is durable, and read by every later `get`, `get_range` and `head` of any host;
/// - of several [`Objects::put_new`] of one name, one succeeds.
///
/// Lists may be late. Methods may be called from many threads. They block; those of [`Cloud`](super::Cloud) time out.
pub trait Objects: Send + Sync + Debug {
    /// URL of the remote, without credentials.
    fn place(&self) -> &str;

    /// Makes an object that is not there yet.
    ///
    /// # Errors
    /// [`Trouble::Exists`] when there is one: also after this one's own request whose answer was lost ([`Patient`](super::Patient) finds
    /// that out).
    fn put_new(&self, name: &str, bytes: Bytes) -> Outcome<()>;

    /// Makes an object, or puts it in the place of the one that is there. Decides nothing: the last one wins.
    ///
    /// # Errors
    /// See [`Trouble`].
    fn put(&self, name: &str, bytes: Bytes) -> Outcome<()>;

    /// Reads an object of at most `most` bytes.
    ///
    /// # Errors
    /// [`Trouble::Missing`]; [`Trouble::Other`] when it is longer.
    fn get(&self, name: &str, most: u64) -> Outcome<Bytes>;

    /// Reads a part of an object: fewer bytes than asked for when it ends before that.
    ///
    /// # Errors
    /// [`Trouble::Missing`]; [`Trouble::Other`] when it ends before the range begins.
    fn get_range(&self, name: &str, range: Range<u64>) -> Outcome<Bytes>;

    /// What is known of an object.
    ///
    /// # Errors
    /// [`Trouble::Missing`].
    fn head(&self, name: &str) -> Outcome<Listed>;

    /// The first `most` objects whose names begin with `under` (empty, or up to and with a `/`) and come after `after` (empty: all),
    /// sorted by name, bytewise. Nothing there is an empty list.
    ///
    /// # Errors
    /// See [`Trouble`].
    fn list(&self, under: &str, after: &str, most: usize) -> Outcome<Vec<Listed>>;

    /// The components that follow on `under` (as in [`Objects::list`]) and have something below them, sorted; at most `most`.
    ///
    /// # Errors
    /// See [`Trouble`].
    fn list_dirs(&self, under: &str, most: usize) -> Outcome<Vec<String>>;

    /// Removes an object. That it is not there is no error.
    ///
    /// # Errors
    /// See [`Trouble`].
    fn delete(&self, name: &str) -> Outcome<()>;
}

/// Whether a name may be given to [`Objects`].
pub fn is_name(name: &str) -> bool {
    let plain = |c: u8| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
    let component = |part: &str| !part.is_empty() && !part.starts_with('.') && part.bytes().all(plain);
    name.len() <= 512 && name.split('/').all(component)
}

/// Whether something may be listed: empty, or a name and a `/`.
fn is_under(under: &str) -> bool {
    under.is_empty() || under.strip_suffix('/').is_some_and(is_name)
}

/// Refuses a request that makes no sense.
pub(super) fn must_make_sense(doing: &'static str, place: &str, name: &str) -> Outcome<()> {
    if is_name(name) || doing == "list" && is_under(name) {
        return Ok(());
    }
    Err(failed(Trouble::Other, doing, place, name, "it is not a valid name of an object"))
}

/// Makes the error of a request.
pub(super) fn failed(
    trouble: Trouble,
    doing: &'static str,
    place: &str,
    name: &str,
    why: impl Into<String>,
) -> ObjectError {
    ObjectError { trouble, doing, place: place.into(), name: name.into(), why: why.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_nowhere_else() {
        for good in ["store", "log/0000000000000001", "data/0a/0000-0100-ff", "a_b/c.d"] {
            assert!(is_name(good) && is_under(&format!("{good}/")), "{good}");
        }
        for bad in ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", ".new/x", "A", "a b", "a\0", "ä"] {
            assert!(!is_name(bad), "{bad:?}");
        }
        assert!(is_under("") && !is_under("log"));
    }
}
