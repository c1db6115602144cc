//! Blocks on demand from a remote that nobody need reach before: it is connected to when a block is wanted that is not here, and again after
//! it could not be reached.
//!
//! No claim is needed for that, nor that the store is still this host's: what is fetched is what this host last knew to be there. While the
//! remote cannot be reached, whoever asks hears so at once; one of them tries again now and then.

use super::catalog::Catalog;
use super::check::{CheckOptions, Checked, check};
use super::clock::{BootClock, Clock};
use super::connect::connect_until;
use super::counted::Counts;
use super::deadline::Deadlines;
use super::error::{RemoteError, Result};
use super::fetch::Fetcher;
use super::local::Local;
use super::log::{Log, Position, Seen};
use super::names;
use super::objects::{Objects, Trouble};
use super::patient::Patience;
use super::seal::RemoteSealer;
use super::survey::read_store;
use super::url::Scheme;
use crate::crypto::Keys;
use crate::store::{BlockAddr, Elsewhere, ElsewhereError, Fetched, Run, StoreId, StoredBlocks};
use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Somebody waits for what is fetched, and is told soon that it has to wait for longer.
const PATIENCE: Patience = Patience {
    first: Duration::from_millis(100),
    most: Duration::from_millis(500),
    total: Duration::from_secs(1),
};
/// How soon it is tried again, after the first failure and at most.
const AGAIN: Duration = Duration::from_millis(500);
const AGAIN_MAX: Duration = Duration::from_secs(5);
/// And where something is wrong there.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// How long an object store that answers, and says that it holds nothing of the store, is believed to be mistaken, and a directory not to be
/// mounted: the remote was removed after that.
const GONE_AFTER: Duration = Duration::from_secs(30);
const DIRECTORY_GONE_AFTER: Duration = Duration::from_secs(600);

/// Gets ready to fetch; what is where is found out, if that is not known.
type Reach = Box<dyn Fn(Option<Arc<Mutex<Catalog>>>) -> Result<Fetcher> + Send + Sync>;

/// What is known of the way to the remote.
#[derive(Debug, Default)]
struct Way {
    fetcher: Option<Arc<Fetcher>>,
    /// Somebody is trying what has failed before, or was never tried.
    is_tried: bool,
    /// Why it cannot be reached, when it is tried again, and how long is waited then if that fails.
    away: Option<(String, Instant, Duration)>,
    /// The newest record that was appended from here.
    newest: Option<Position>,
    /// What is wrong there, so that nothing can be found, and when it is looked at again: somebody may mend it.
    broken: Option<(String, Instant)>,
    /// Since when it holds nothing at all of the store, as often as it was asked.
    empty: Option<Instant>,
}

struct Inner {
    place: String,
    reach: Reach,
    /// Something may be only there: whoever wants it waits.
    is_partial: AtomicBool,
    /// How soon it is looked again at what is wrong there.
    look_again: Duration,
    /// How long nothing at all may be there before that is taken for a removal.
    gone_after: Duration,
    way: Mutex<Way>,
}

/// Fetches blocks of a store, when the remote can be reached.
pub struct OnDemand {
    inner: Arc<Inner>,
}

impl fmt::Debug for OnDemand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { place, way, .. } = &*self.inner;
        f.debug_struct("OnDemand").field("place", place).field("way", way).finish_non_exhaustive()
    }
}

/// Somebody is trying.
struct Trying(Arc<Inner>);

impl Drop for Trying {
    fn drop(&mut self) {
        self.0.way.lock().is_tried = false;
    }
}

impl Inner {
    fn is_partial(&self) -> bool {
        self.is_partial.load(Ordering::Acquire)
    }

    /// Connects, and finds out what is where.
    fn reach_now(&self) -> std::result::Result<Arc<Fetcher>, ElsewhereError> {
        let reached = (self.reach)(None).map_err(|e| {
            let e = self.failed(&e, None);
            if let (ElsewhereError::Failed(why), true) = (&e, self.is_partial()) {
                let again = (why.clone(), Instant::now() + self.look_again);
                if self.way.lock().broken.replace(again).is_none_or(|(before, _)| before != *why) {
                    log::error!("what is only in {} cannot be found: {why}", self.place);
                }
            }
            e
        })?;
        let mut way = self.way.lock();
        (way.away, way.broken, way.empty) = (None, None, None);
        Ok(Arc::clone(way.fetcher.get_or_insert_with(|| Arc::new(reached))))
    }

    /// Something failed: notes if that is because the remote cannot be reached. `with` is what it failed with, if there is something yet.
    fn failed(&self, e: &RemoteError, with: Option<&Fetcher>) -> ElsewhereError {
        let is_lost = e.is_missing() || matches!(e, RemoteError::Lost { .. });
        // Where all is gone, it is rather a directory that is not mounted.
        let without = with.filter(|_| is_lost).and_then(|with| with.objects().head(names::STORE).err());
        if !(e.may_pass() || without.is_some()) {
            return ElsewhereError::Failed(e.to_string());
        }
        let is_empty = matches!(e, RemoteError::NoStore { .. })
            || without.is_some_and(|without| without.trouble == Trouble::Missing);
        let why = e.to_string();
        let mut way = self.way.lock();
        let now = Instant::now();
        if !is_empty {
            way.empty = None;
        } else if now.saturating_duration_since(*way.empty.get_or_insert(now)) >= self.gone_after {
            return ElsewhereError::Failed(self.is_gone(&mut way, now));
        }
        way.away = Some(match way.away.take() {
            None => {
                log::warn!("what is not here cannot be fetched from {}: {why}; trying again", self.place);
                (why.clone(), now + AGAIN, AGAIN)
            }
            // Of several at a time, the first counts.
            Some((_, again, pause)) if now < again => (why.clone(), again, pause),
            Some((_, _, pause)) => {
                let pause = (pause * 2).min(AGAIN_MAX);
                (why.clone(), now + pause, pause)
            }
        });
        ElsewhereError::Away(why)
    }

    /// Nothing has been there for so long that it does not come again by itself. What to say of that.
    fn is_gone(&self, way: &mut Way, now: Instant) -> String {
        let why = format!(
            "{} holds no store any more: the remote was removed, or its directory is not mounted",
            self.place
        );
        if way.broken.replace((why.clone(), now + self.look_again)).is_none_or(|(before, _)| before != why) {
            log::error!("what is only there cannot be had: {why}");
        }
        way.away = None;
        why
    }

    /// It was reached.
    fn is_back(&self) {
        let mut way = self.way.lock();
        let was_broken = way.broken.take().is_some();
        way.empty = None;
        if way.away.take().is_some() || was_broken {
            log::info!("what is not here can be fetched from {} again", self.place);
        }
    }
}

/// What is where, as of the record that this host knows to be there, and of those that it has tried to append since, if they are. Whoever has the
/// store now lets go of that after a day; what it still needs of it is where it says then, because an address stands for one content.
fn since(objects: Arc<dyn Objects>, sealer: RemoteSealer, seen: Position, local: &Local) -> Result<Fetcher> {
    let taken = local.taken.as_deref();
    let then = Log::at(Arc::clone(&objects), sealer.clone(), seen).and_then(|mut log| {
        log.follow_attempts(&local.known().attempts)?;
        Fetcher::of(&log)
    });
    let now = || Log::open(objects, sealer.clone(), Seen::Nothing).and_then(|log| Fetcher::of(&log));
    match then {
        Err(e) if e.is_missing() || matches!(e, RemoteError::Lost { .. }) => match now() {
            Err(RemoteError::Damaged { place, name, what }) if taken.is_some() => {
                // It may have other keys.
                let why = taken.unwrap_or_default();
                let what = format!(
                    "{what}. {why}; what is only there is not this host's any more: remove the volume here and attach it anew \
                     (`larder rm --now`, `larder attach`)"
                );
                Err(RemoteError::Damaged { place, name, what })
            }
            now => now,
        },
        then => then,
    }
}

impl OnDemand {
    /// From the remote that `local` speaks of, as it was when this host saw it last. What is asked of it is counted.
    pub fn of(local: &Local, store: StoreId, keys: &Keys, counts: &Arc<Counts>) -> Self {
        let (of, keys, counts) = (local.clone(), keys.clone(), Arc::clone(counts));
        let reach = move |known: Option<Arc<Mutex<Catalog>>>| {
            let address = of.address().map_err(|why| RemoteError::Host {
                what: format!("cannot use the remote {}", of.remote),
                why,
            })?;
            let clock: Arc<dyn Clock> = Arc::new(BootClock);
            let objects = connect_until(&address, &clock, PATIENCE, &Deadlines::default(), &counts)?.objects;
            let sealer = RemoteSealer::new(store, &keys, objects.place());
            if let Some(catalog) = known {
                return Ok(Fetcher::new(objects, sealer, catalog));
            }
            if read_store(&*objects)?.is_none() {
                return Err(RemoteError::NoStore { place: objects.place().into() });
            }
            match of.seen() {
                Seen::Newest(seen) => since(objects, sealer, seen, &of),
                Seen::Nothing => Ok(Fetcher::new(objects, sealer, Arc::new(Mutex::new(Catalog::default())))),
            }
        };
        let is_directory = local.address().is_ok_and(|address| address.url.scheme() == Scheme::File);
        let gone_after = if is_directory { DIRECTORY_GONE_AFTER } else { GONE_AFTER };
        Self::by(&local.remote, local.partial, (LOOK_AGAIN, gone_after), Box::new(reach))
    }

    fn by(
        place: &str,
        is_partial: bool,
        (look_again, gone_after): (Duration, Duration),
        reach: Reach,
    ) -> Self {
        let (place, is_partial, way) = (place.into(), AtomicBool::new(is_partial), Mutex::default());
        let inner = Inner { place, reach, is_partial, look_again, gone_after, way };
        Self { inner: Arc::new(inner) }
    }

    /// From now on, something may be only there: whoever wants it waits for it.
    pub fn be_partial(&self) {
        self.inner.is_partial.store(true, Ordering::Release);
    }

    /// From now on, this is what is there, and it can be reached.
    ///
    /// # Errors
    /// What of the address makes no sense, or that there are no credentials.
    pub fn follow(&self, catalog: Arc<Mutex<Catalog>>) -> Result<()> {
        let fetcher = (self.inner.reach)(Some(catalog))?;
        let mut way = self.inner.way.lock();
        (way.fetcher, way.away, way.broken) = (Some(Arc::new(fetcher)), None, None);
        way.empty = None;
        Ok(())
    }

    /// How many of these blocks are nowhere in the remote; `None` as long as that is not known.
    pub fn missing(&self, runs: &[Run]) -> Option<u64> {
        let fetcher = self.inner.way.lock().fetcher.clone();
        fetcher.map(|fetcher| fetcher.missing(runs))
    }

    /// Which of these blocks are nowhere in the remote; `None` as long as that is not known.
    pub fn lacking(&self, runs: &[Run]) -> Option<Vec<Run>> {
        let fetcher = self.inner.way.lock().fetcher.clone();
        fetcher.map(|fetcher| fetcher.lacking(runs))
    }

    /// How many objects there have blocks of the newest state, and how many bytes; `None` as long as that is not known. Nobody is asked.
    pub fn extent(&self) -> Option<(u64, u64)> {
        let fetcher = self.inner.way.lock().fetcher.clone();
        fetcher.map(|fetcher| fetcher.extent())
    }

    /// `newest` is known to be there: it was appended from here.
    pub fn appended(&self, newest: Position) {
        self.inner.way.lock().newest = Some(newest);
    }

    /// The remote was just reached in another way: asks whether what could not be fetched from it can be, if there is such a thing. Nobody may
    /// want something of it again for long.
    pub fn try_again(&self) {
        let inner = &self.inner;
        let (fetcher, _trying) = {
            let mut way = inner.way.lock();
            let is_well = way.away.is_none() && way.broken.is_none();
            let Some(fetcher) = way.fetcher.clone().filter(|_| !is_well && !way.is_tried) else { return };
            way.is_tried = true;
            (fetcher, Trying(Arc::clone(inner)))
        };
        match fetcher.objects().head(names::STORE) {
            Ok(_) => inner.is_back(),
            Err(e) => drop(inner.failed(&e.into(), Some(&fetcher))),
        }
    }

    /// Looks whether all that an attach needs is there, as of now; `seen` is the newest record that was noted. Blocks are not read.
    ///
    /// # Errors
    /// Those of requests and of opening; [`RemoteError::Interrupted`] as long as the remote was not reached.
    pub fn check(&self, seen: Seen) -> Result<Checked> {
        let (fetcher, newest) = {
            let way = self.inner.way.lock();
            (way.fetcher.clone().ok_or(RemoteError::Interrupted)?, way.newest)
        };
        let seen = match (seen, newest) {
            (Seen::Newest(noted), Some(newest)) if noted.number > newest.number => seen,
            (_, Some(newest)) => Seen::Newest(newest),
            (seen, None) => seen,
        };
        match fetcher.log(seen) {
            Ok(log) => check(&log, CheckOptions::default()),
            // The newest record is the one that no other names.
            Err(e @ RemoteError::Older { .. }) => {
                Ok(Checked { faults: vec![e.to_string()], fault_count: 1, ..Checked::default() })
            }
            Err(e) => Err(e),
        }
    }

    /// Connects now, for who is to wait until something is fetched.
    ///
    /// # Errors
    /// Why the remote cannot be reached, or nothing be found there.
    pub fn connect(&self) -> std::result::Result<(), ElsewhereError> {
        let is_known = self.inner.way.lock().fetcher.is_some();
        if is_known { Ok(()) } else { self.inner.reach_now().map(drop) }
    }

    /// Why what is only there has to be waited for, if somebody wanted something of it and it could not be reached.
    pub fn trouble(&self) -> Option<String> {
        let way = self.inner.way.lock();
        way.away
            .as_ref()
            .map(|(why, ..)| why.clone())
            .or_else(|| way.broken.as_ref().map(|(why, _)| why.clone()))
    }

    /// What fetches; with a guard if it is not known whether it can.
    fn fetcher(&self) -> std::result::Result<(Arc<Fetcher>, Option<Trying>), ElsewhereError> {
        let inner = &self.inner;
        let (known, trying) = {
            let mut way = inner.way.lock();
            if let Some((why, again)) = &way.broken
                && (way.is_tried || Instant::now() < *again)
            {
                return Err(ElsewhereError::Failed(why.clone()));
            }
            match (&way.away, &way.fetcher) {
                (None, Some(fetcher)) if way.broken.is_none() => return Ok((Arc::clone(fetcher), None)),
                (Some((why, again, _)), _) if way.is_tried || Instant::now() < *again => {
                    return Err(ElsewhereError::Away(why.clone()));
                }
                (None, None) if way.is_tried => {
                    return Err(ElsewhereError::Away(format!("{} is just being asked", inner.place)));
                }
                _ => {}
            }
            way.is_tried = true;
            (way.fetcher.clone(), Trying(Arc::clone(inner)))
        };
        if let Some(fetcher) = known {
            return Ok((fetcher, Some(trying)));
        }
        if !inner.is_partial() {
            return Ok((inner.reach_now()?, Some(trying)));
        }
        // To find out what is where can take long, and requests are not to be worked on for so long.
        let reaching = Arc::clone(inner);
        let run = move || {
            let _trying = trying;
            let _ = reaching.reach_now();
        };
        match std::thread::Builder::new().name("larder-reach".into()).spawn(run) {
            Ok(_) => Err(ElsewhereError::Away(format!("{} is just being asked", inner.place))),
            Err(e) => Err(ElsewhereError::Away(format!("cannot start a thread to ask {}: {e}", inner.place))),
        }
    }
}

impl Elsewhere for OnDemand {
    fn place(&self) -> &str {
        &self.inner.place
    }

    fn has(&self, addr: BlockAddr) -> bool {
        let fetcher = self.inner.way.lock().fetcher.clone();
        fetcher.is_none_or(|fetcher| fetcher.has(addr))
    }

    fn sealed_before(&self, key_epoch: u64) -> Option<Vec<Run>> {
        let fetcher = self.inner.way.lock().fetcher.clone();
        fetcher?.sealed_before(key_epoch)
    }

    fn is_away(&self) -> bool {
        let way = self.inner.way.lock();
        match &way.away {
            Some((_, again, _)) => way.is_tried || Instant::now() < *again,
            None => way.is_tried && way.fetcher.is_none(),
        }
    }

    fn fetch(
        &self,
        addr: BlockAddr,
        count: u32,
        put: &mut dyn FnMut(&StoredBlocks),
    ) -> std::result::Result<Fetched, ElsewhereError> {
        let inner = &self.inner;
        let mut fetch = || {
            let (fetcher, trying) = self.fetcher()?;
            let fetched = fetcher.fetch_around(addr, count, put);
            let fetched = fetched.map_err(|e| inner.failed(&e, Some(&fetcher)))?;
            if trying.is_some() {
                inner.is_back();
            }
            Ok(fetched)
        };
        fetch().map_err(|e| match e {
            // It is damaged here, and nobody knows when that is mended.
            ElsewhereError::Away(why) if !inner.is_partial() => ElsewhereError::Failed(why),
            e => e,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::directory::Directory;
    use super::super::format::PartRef;
    use super::super::objects::failed;
    use super::*;
    use std::sync::atomic::AtomicU32;

    fn nowhere() -> RemoteError {
        failed(Trouble::Unreachable, "read", "s3://far", "store", "no route to host").into()
    }

    fn until(mut so: impl FnMut() -> bool) {
        let late = Instant::now() + Duration::from_secs(60);
        while !so() {
            assert!(Instant::now() < late);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn nobody_waits_for_what_cannot_be_reached_and_one_of_many_tries_again() {
        let (asked, is_there) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, there) = (Arc::clone(&asked), Arc::clone(&is_there));
        let reach = move |_: Option<Arc<Mutex<Catalog>>>| {
            count.fetch_add(1, Ordering::SeqCst);
            match there.load(Ordering::SeqCst) {
                false => Err(nowhere()),
                true => Err(RemoteError::damaged("s3://far", "store", "it is a test")),
            }
        };
        let addr = BlockAddr { segment: 1, index: 7 };
        for is_partial in [true, false] {
            let far = OnDemand::by("s3://far", is_partial, (LOOK_AGAIN, GONE_AFTER), Box::new(reach.clone()));
            assert!(far.has(addr) && !far.is_away(), "that is not known");
            let ask = || far.fetch(addr, 1, &mut |_| {}).unwrap_err();
            for _ in 0..3 {
                let e = ask();
                assert_eq!(matches!(e, ElsewhereError::Away(_)), is_partial, "{e:?}");
                assert!(far.is_away());
            }
            until(|| far.trouble().is_some());
            assert!(far.trouble().unwrap().contains("no route to host"));
            assert_eq!(asked.swap(0, Ordering::SeqCst), 1);
            until(|| !far.is_away());
            ask();
            until(|| asked.load(Ordering::SeqCst) > 0);
            assert!(far.is_away());
            assert_eq!(asked.swap(0, Ordering::SeqCst), 1);
        }
        is_there.store(true, Ordering::SeqCst);
        let far = OnDemand::by("s3://far", true, (Duration::from_millis(200), GONE_AFTER), Box::new(reach));
        until(|| matches!(far.fetch(addr, 1, &mut |_| {}), Err(ElsewhereError::Failed(_))));
        assert!(far.trouble().unwrap().contains("it is a test"));
        // Somebody may mend it.
        is_there.store(false, Ordering::SeqCst);
        let _ = far.fetch(addr, 1, &mut |_| {});
        until(
            || matches!(far.fetch(addr, 1, &mut |_| {}), Err(ElsewhereError::Away(why)) if why.contains("no route")),
        );
    }

    /// Who wanted something of it waited for ever.
    #[test]
    fn what_was_only_in_a_remote_that_was_removed_is_an_error_after_a_while() {
        let tmp = tempfile::tempdir().unwrap();
        let objects: Arc<dyn Objects> = Arc::new(Directory::new(tmp.path()));
        let (there, sealer) =
            (Arc::clone(&objects), RemoteSealer::new(StoreId(7), &Keys::Plain, "file:///far"));
        let addr = BlockAddr { segment: 1, index: 7 };
        // What is where is known, or not.
        for is_known in [true, false] {
            let (objects, sealer) = (Arc::clone(&there), sealer.clone());
            let reach = move |known: Option<Arc<Mutex<Catalog>>>| match known {
                None => match objects.head(names::STORE) {
                    Ok(_) => Err(RemoteError::damaged("file:///far", "store", "it is a test")),
                    Err(_) => Err(RemoteError::NoStore { place: "file:///far".into() }),
                },
                Some(catalog) => Ok(Fetcher::new(Arc::clone(&objects), sealer.clone(), catalog)),
            };
            let pauses = (Duration::from_millis(100), Duration::from_millis(700));
            let far = OnDemand::by("file:///far", true, pauses, Box::new(reach));
            if is_known {
                let seal = [0; 16];
                let part = PartRef { segment: 1, first: 0, count: 10, random: 1, key_epoch: 0, seal };
                let mut catalog = Catalog::default();
                catalog.add_part(part);
                far.follow(Arc::new(Mutex::new(catalog))).unwrap();
            }
            let ask = || far.fetch(addr, 1, &mut |_| {});
            assert!(
                matches!(ask(), Err(ElsewhereError::Away(_))),
                "it may be a directory that is not mounted"
            );
            until(|| match ask() {
                Err(ElsewhereError::Away(_)) => false,
                Err(ElsewhereError::Failed(why)) => {
                    assert!(why.contains("was removed"), "{why}");
                    true
                }
                Ok(found) => panic!("{found:?}"),
            });
            assert!(far.trouble().unwrap().contains("was removed"));
            // Somebody may have mounted it, after all.
            there.put(names::STORE, "store".into()).unwrap();
            if is_known {
                until(|| {
                    far.try_again();
                    far.trouble().is_none()
                });
            } else {
                until(|| {
                    let _ = ask();
                    far.trouble().is_some_and(|why| why.contains("it is a test"))
                });
            }
            there.delete(names::STORE).unwrap();
        }
    }
}
