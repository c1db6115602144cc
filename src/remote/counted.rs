//! Counting what is asked of a remote: providers send bills for it.

use super::objects::{Listed, Objects, Outcome};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Requests that were sent, whether or not they were answered, and the bytes of objects in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Requests {
    /// Objects that were to be written.
    pub writes: u64,
    /// Objects, parts of some, and what is known of some, that were to be read.
    pub reads: u64,
    /// Lists, each of as many names as were asked for at once.
    pub lists: u64,
    /// Objects that were to be removed.
    pub removals: u64,
    /// Bytes sent.
    pub sent: u64,
    /// Bytes received.
    pub received: u64,
}

impl Requests {
    /// These and those.
    #[must_use]
    pub fn plus(self, more: Self) -> Self {
        Self {
            writes: self.writes.saturating_add(more.writes),
            reads: self.reads.saturating_add(more.reads),
            lists: self.lists.saturating_add(more.lists),
            removals: self.removals.saturating_add(more.removals),
            sent: self.sent.saturating_add(more.sent),
            received: self.received.saturating_add(more.received),
        }
    }

    /// The larger of each: of two times at which they were counted, those at the later one.
    #[must_use]
    pub(super) fn at_least(self, other: Self) -> Self {
        Self {
            writes: self.writes.max(other.writes),
            reads: self.reads.max(other.reads),
            lists: self.lists.max(other.lists),
            removals: self.removals.max(other.removals),
            sent: self.sent.max(other.sent),
            received: self.received.max(other.received),
        }
    }

    /// Whether there were none.
    pub(super) fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// What a process has asked for so far.
#[derive(Debug, Default)]
pub struct Counts {
    writes: AtomicU64,
    reads: AtomicU64,
    lists: AtomicU64,
    removals: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

fn add(count: &AtomicU64, more: u64) {
    count.fetch_add(more, Ordering::Relaxed);
}

impl Counts {
    /// All of it.
    pub fn so_far(&self) -> Requests {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Requests {
            writes: of(&self.writes),
            reads: of(&self.reads),
            lists: of(&self.lists),
            removals: of(&self.removals),
            sent: of(&self.sent),
            received: of(&self.received),
        }
    }
}

/// Objects whose requests are counted, each attempt of its own where they are tried again around this.
#[derive(Debug)]
pub struct Counted {
    inner: Arc<dyn Objects>,
    counts: Arc<Counts>,
}

impl Counted {
    /// Counts what is asked of `inner`.
    pub fn new(inner: Arc<dyn Objects>, counts: Arc<Counts>) -> Self {
        Self { inner, counts }
    }

    fn writing(&self, bytes: &Bytes) {
        add(&self.counts.writes, 1);
        add(&self.counts.sent, bytes.len() as u64);
    }

    fn received(&self, outcome: Outcome<Bytes>) -> Outcome<Bytes> {
        add(&self.counts.reads, 1);
        add(&self.counts.received, outcome.as_ref().map_or(0, |bytes| bytes.len() as u64));
        outcome
    }
}

impl Objects for Counted {
    fn place(&self) -> &str {
        self.inner.place()
    }

    fn put_new(&self, name: &str, bytes: Bytes) -> Outcome<()> {
        self.writing(&bytes);
        self.inner.put_new(name, bytes)
    }

    fn put(&self, name: &str, bytes: Bytes) -> Outcome<()> {
        self.writing(&bytes);
        self.inner.put(name, bytes)
    }

    fn get(&self, name: &str, most: u64) -> Outcome<Bytes> {
        self.received(self.inner.get(name, most))
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Outcome<Bytes> {
        self.received(self.inner.get_range(name, range))
    }

    fn head(&self, name: &str) -> Outcome<Listed> {
        add(&self.counts.reads, 1);
        self.inner.head(name)
    }

    fn list(&self, under: &str, after: &str, most: usize) -> Outcome<Vec<Listed>> {
        add(&self.counts.lists, 1);
        self.inner.list(under, after, most)
    }

    fn list_dirs(&self, under: &str, most: usize) -> Outcome<Vec<String>> {
        add(&self.counts.lists, 1);
        self.inner.list_dirs(under, most)
    }

    fn delete(&self, name: &str) -> Outcome<()> {
        add(&self.counts.removals, 1);
        self.inner.delete(name)
    }
}

#[cfg(test)]
mod tests {
    use super::super::directory::Directory;
    use super::*;

    #[test]
    fn each_request_counts_answered_or_not() {
        let tmp = tempfile::tempdir().unwrap();
        let counts = Arc::<Counts>::default();
        let objects = Counted::new(Arc::new(Directory::new(tmp.path())), Arc::clone(&counts));
        objects.put_new("a", Bytes::from_static(b"1234")).unwrap();
        objects.put_new("a", Bytes::from_static(b"12")).unwrap_err();
        objects.put("b/c", Bytes::from_static(b"1")).unwrap();
        assert_eq!(objects.get("a", 10).unwrap().len(), 4);
        assert_eq!(objects.get_range("a", 1..3).unwrap().len(), 2);
        objects.get("nothing", 10).unwrap_err();
        objects.head("a").unwrap();
        assert_eq!(objects.list("", "", 10).unwrap().len(), 2);
        assert_eq!(objects.list_dirs("", 10).unwrap(), ["b"]);
        objects.delete("a").unwrap();
        let all = Requests { writes: 3, reads: 4, lists: 2, removals: 1, sent: 7, received: 6 };
        assert_eq!(counts.so_far(), all);
        let most = Requests { sent: u64::MAX, ..Requests::default() };
        assert_eq!(all.plus(most), Requests { sent: u64::MAX, ..all });
    }
}
