//! Keeping to what an administrator allows a remote to take: bytes and requests per second.

use super::clock::Clock;
use super::deadline::{Deadline, Deadlines};
use super::names;
use super::objects::{Listed, Objects, Outcome, Trouble, failed};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// What may be used; `None`: as much as there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Limits {
    /// Bytes sent a second.
    pub upload: Option<u64>,
    /// Bytes received a second.
    pub download: Option<u64>,
    /// Requests a second.
    pub requests: Option<u64>,
}

/// How much may be used at once of what was not used before.
const BURST: Duration = Duration::from_secs(1);

/// Something that comes in so and so much a second. Who takes more than there is waits until it has come in; those who come later wait
/// behind.
#[derive(Debug)]
struct Bucket {
    a_second: f64,
    /// When everything that was taken will have come in.
    paid: Mutex<Duration>,
}

impl Bucket {
    fn new(a_second: u64) -> Self {
        Self { a_second: a_second.max(1) as f64, paid: Mutex::default() }
    }

    fn cost(&self, amount: u64) -> Duration {
        Duration::try_from_secs_f64(amount as f64 / self.a_second).unwrap_or(Duration::MAX)
    }

    /// Gives back what was taken and is not used: others wait for less.
    fn give_back(&self, amount: u64) {
        let mut paid = self.paid.lock();
        *paid = paid.saturating_sub(self.cost(amount));
    }

    /// Takes `amount`, and returns how long to wait for it.
    fn take(&self, amount: u64, now: Duration) -> Duration {
        let mut paid = self.paid.lock();
        let cost = self.cost(amount);
        let start = (*paid).max(now.saturating_sub(BURST));
        *paid = start.saturating_add(cost);
        paid.saturating_sub(now)
    }
}

/// What may be used, as it comes in.
#[derive(Debug)]
pub struct Buckets {
    upload: Option<Bucket>,
    download: Option<Bucket>,
    requests: Option<Bucket>,
}

impl Buckets {
    /// What comes in by these limits.
    pub fn new(limits: Limits) -> Self {
        Self {
            upload: limits.upload.map(Bucket::new),
            download: limits.download.map(Bucket::new),
            requests: limits.requests.map(Bucket::new),
        }
    }
}

/// Remotes with limits, by where they are, as connections of this process have them.
static SHARED: Mutex<BTreeMap<(String, Limits), Weak<Buckets>>> = Mutex::new(BTreeMap::new());

/// What all connections of this process to `remote` share by these limits.
pub(super) fn shared(remote: &str, limits: Limits) -> Arc<Buckets> {
    let mut all = SHARED.lock();
    all.retain(|_, buckets| buckets.strong_count() > 0);
    let known = all.get(&(remote.to_owned(), limits)).and_then(Weak::upgrade);
    known.unwrap_or_else(|| {
        let buckets = Arc::new(Buckets::new(limits));
        all.insert((remote.to_owned(), limits), Arc::downgrade(&buckets));
        buckets
    })
}

/// Requests that keep to limits. Retries belong outside of it, so that they count.
#[derive(Debug)]
pub struct Limited {
    inner: Arc<dyn Objects>,
    clock: Arc<dyn Clock>,
    buckets: Arc<Buckets>,
    deadlines: Deadlines,
}

impl Limited {
    /// Limits for `inner`.
    pub fn new(inner: Arc<dyn Objects>, clock: Arc<dyn Clock>, limits: Limits) -> Self {
        Self::until(inner, clock, Arc::new(Buckets::new(limits)), Deadlines::default())
    }

    /// The same with what others have a part in, until a deadline: nobody waits longer, and what was waited for is not sent then.
    pub fn until(
        inner: Arc<dyn Objects>,
        clock: Arc<dyn Clock>,
        buckets: Arc<Buckets>,
        deadlines: Deadlines,
    ) -> Self {
        Self { inner, clock, buckets, deadlines }
    }

    /// Whether it was waited for long enough.
    fn pay(&self, bucket: &Option<Bucket>, amount: u64) -> bool {
        self.pay_until(&self.deadlines.all, bucket, amount)
    }

    fn pay_until(&self, deadline: &Deadline, bucket: &Option<Bucket>, amount: u64) -> bool {
        let Some(bucket) = bucket else { return true };
        let wait = bucket.take(amount, self.clock.now());
        let was_waited_for = wait.is_zero() || deadline.sleep(&*self.clock, wait);
        if !was_waited_for {
            bucket.give_back(amount);
        }
        was_waited_for
    }

    fn sending(&self, name: &str, bytes: usize) -> Outcome<()> {
        let deadline = self.deadlines.of("write", name);
        if self.pay(&self.buckets.requests, 1) && self.pay_until(deadline, &self.buckets.upload, bytes as u64)
        {
            return Ok(());
        }
        let why = "the time for it is over before it may be sent";
        Err(failed(Trouble::Unreachable, "write", self.place(), name, why))
    }

    /// What was received is paid for afterwards: only then it is known how much it is.
    fn received(&self, outcome: Outcome<Bytes>) -> Outcome<Bytes> {
        if let Ok(bytes) = &outcome {
            self.pay(&self.buckets.download, bytes.len() as u64);
        }
        outcome
    }
}

impl Objects for Limited {
    fn place(&self) -> &str {
        self.inner.place()
    }

    fn put_new(&self, name: &str, bytes: Bytes) -> Outcome<()> {
        self.sending(name, bytes.len())?;
        self.inner.put_new(name, bytes)
    }

    fn put(&self, name: &str, bytes: Bytes) -> Outcome<()> {
        // A sign of life waits for nothing: it is small, and there are few. A piece that is put again is neither.
        if names::alive_of(name).is_none() {
            self.sending(name, bytes.len())?;
        }
        self.inner.put(name, bytes)
    }

    fn get(&self, name: &str, most: u64) -> Outcome<Bytes> {
        self.pay(&self.buckets.requests, 1);
        self.received(self.inner.get(name, most))
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Outcome<Bytes> {
        self.pay(&self.buckets.requests, 1);
        self.received(self.inner.get_range(name, range))
    }

    fn head(&self, name: &str) -> Outcome<Listed> {
        // Likewise what tells an owner whether it still is one.
        self.inner.head(name)
    }

    fn list(&self, under: &str, after: &str, most: usize) -> Outcome<Vec<Listed>> {
        self.pay(&self.buckets.requests, 1);
        self.inner.list(under, after, most)
    }

    fn list_dirs(&self, under: &str, most: usize) -> Outcome<Vec<String>> {
        self.pay(&self.buckets.requests, 1);
        self.inner.list_dirs(under, most)
    }

    fn delete(&self, name: &str) -> Outcome<()> {
        self.pay(&self.buckets.requests, 1);
        self.inner.delete(name)
    }
}

#[cfg(test)]
mod tests {
    use super::super::clock::Waited;
    use super::*;

    /// A piece that is there already is put again, and has up to 1 MiB.
    #[test]
    fn what_is_put_again_counts_and_signs_of_life_do_not_wait() {
        let tmp = tempfile::tempdir().unwrap();
        let inner = Arc::new(super::super::Directory::new(tmp.path()));
        let clock = Arc::new(Waited::default());
        let limits = Limits { upload: Some(1000), ..Limits::default() };
        let limited = Limited::new(inner, Arc::clone(&clock) as Arc<dyn Clock>, limits);
        let put = |name: &str| limited.put(name, Bytes::from(vec![0; 10_000])).unwrap();
        let name = format!("{}{}", names::IMAGE, "0".repeat(64));
        put(&name);
        let waited = *clock.0.lock();
        assert!(waited >= Duration::from_secs(9), "{waited:?}");
        put(&format!("{}{}-{}", names::ALIVE, "0".repeat(32), "0".repeat(16)));
        assert_eq!(*clock.0.lock(), waited);
    }

    /// Each had as much as all may have.
    #[test]
    fn connections_to_a_remote_share_what_may_be_used() {
        let tmp = tempfile::tempdir().unwrap();
        let clock = Arc::new(Waited::default());
        let limits = Limits { upload: Some(1000), ..Limits::default() };
        let connected = |remote: &str| {
            let inner = Arc::new(super::super::Directory::new(tmp.path()));
            let clock = Arc::clone(&clock) as Arc<dyn Clock>;
            Limited::until(inner, clock, shared(remote, limits), Deadlines::default())
        };
        let (one, two, other) =
            (connected("s3://shared/a"), connected("s3://shared/a"), connected("s3://shared/b"));
        let put = |by: &Limited, name: &str| by.put(name, Bytes::from(vec![0; 1000])).unwrap();
        put(&one, "one");
        assert_eq!(*clock.0.lock(), Duration::ZERO, "there is a second's worth at the beginning");
        put(&other, "other");
        assert_eq!(*clock.0.lock(), Duration::ZERO);
        put(&two, "two");
        assert!(*clock.0.lock() >= Duration::from_secs(1));
    }

    #[test]
    fn what_is_taken_is_waited_for_and_what_was_saved_is_not_much() {
        let (bucket, at) = (Bucket::new(100), |ms: u64| Duration::from_millis(100_000 + ms));
        // A second's worth is there at the beginning, however long ago that was.
        assert_eq!(bucket.take(100, at(0)), Duration::ZERO);
        assert_eq!(bucket.take(50, at(0)), Duration::from_millis(500));
        assert_eq!(bucket.take(50, at(0)), Duration::from_millis(1000));
        assert_eq!(bucket.take(10, at(500)), Duration::from_millis(600));
        assert_eq!(bucket.take(100, at(60_000)), Duration::ZERO);
        assert_eq!(bucket.take(1000, at(60_000)), Duration::from_secs(10));
        bucket.give_back(1000);
        assert_eq!(bucket.take(1000, at(60_000)), Duration::from_secs(10), "the first was not used");
        assert!(bucket.take(u64::MAX, at(60_000)) > Duration::from_secs(1 << 40));
    }
}
