//! An owner's sign of life, and how it learns that it was fenced, that the remote has gone back in time, or that the store is not there.

use super::clock::Clock;
use super::error::{Fenced, RemoteError, Result};
use super::format::{Alive, LeaseKind, Life, ObjectSeal, Record, random};
use super::lease::{Permit, Stopped};
use super::log::{Log, Owner, Position, claimed_by, listed_after, listed_lengths, read};
use super::names;
use super::objects::{Objects, Trouble};
use super::presence::{must_hold, seal_of};
use super::seal::RemoteSealer;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often an owner shows life, unless it is told otherwise.
pub const HEARTBEAT: Duration = Duration::from_secs(10);
/// How soon it tries again when that failed.
const AGAIN: Duration = Duration::from_secs(1);
/// And how soon at the very least, when somebody waits for it.
const LEAST: Duration = Duration::from_millis(100);
/// With a strict lease it must not be slower than this, or an answer that takes its time would be missed too often.
const STRICT_MAX: Duration = Duration::from_secs(10);

/// How long a record that was the newest is there for sure: what is removed is older.
const STAYS: Duration = Duration::from_secs(3600);

/// When it is asked again for a record that was there and seems to be missing, until it is: an object store may say late what it has.
pub(super) const ASK_AGAIN: [Duration; 3] =
    [Duration::from_millis(300), Duration::from_millis(700), Duration::from_secs(2)];

/// Records that are looked for one by one since the last round; where there are more, those that are listed are not.
const FEW: u64 = 8;

/// What a round found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Round {
    /// This owner has the store.
    Owner,
    /// It has not, any more, and its sign of life says that it has stopped; or the remote has gone back, or has no store any more.
    Stopped,
}

/// The newest record at the last round.
#[derive(Clone, Copy, Debug)]
struct Known {
    number: u64,
    /// `None` where it was not looked for.
    seal: Option<ObjectSeal>,
    /// When that was.
    at: Duration,
}

/// One owner's signs of life: a round at a time, for whoever has a thread for it ([`Heartbeat`]).
#[derive(Debug)]
pub struct Beat {
    objects: Arc<dyn Objects>,
    sealer: RemoteSealer,
    me: Owner,
    sign: u64,
    newest: Arc<AtomicU64>,
    known: Known,
    permit: Arc<Permit>,
    clock: Arc<dyn Clock>,
    counter: u64,
    period: Duration,
}

/// Writes a sign of life.
pub(super) fn put_alive(
    objects: &dyn Objects,
    sealer: &RemoteSealer,
    me: &Owner,
    (sign, counter): (u64, u64),
    period: Duration,
    life: Life,
) -> Result<()> {
    let period = u32::try_from(period.as_secs()).unwrap_or(u32::MAX);
    let alive = Alive { owner: me.id, sign, counter, lease: me.lease, period, life };
    Ok(objects.put(&names::alive(me.id, sign), sealer.seal_alive(&alive)?.bytes)?)
}

/// A random number: of a claim's sign of life, and where a process begins to count, so that no two of an owner write the same.
pub(super) fn random_number() -> Result<u64> {
    let random = random().map_err(|e| RemoteError::host("cannot get random bytes", &e))?;
    Ok(u64::from_le_bytes(random) >> 1)
}

impl Beat {
    /// The signs of life of `me`, the owner of `log`. `objects` are those of the log, but must not repeat a PUT by itself: each attempt
    /// has a number of its own, so that one which arrives late is not taken for standing still.
    ///
    /// # Errors
    /// [`RemoteError::NotOwner`]; when the operating system has no randomness to give.
    pub fn new(
        objects: Arc<dyn Objects>,
        log: &Log,
        me: &Owner,
        permit: Arc<Permit>,
        clock: Arc<dyn Clock>,
        period: Duration,
    ) -> Result<Self> {
        let held = log.state().held.as_ref().filter(|held| held.by.id == me.id);
        let record = log.state().newest.number + 1;
        let not_owner = || RemoteError::NotOwner { place: log.sealer().place().into(), record };
        let sign = held.ok_or_else(not_owner)?.sign;
        let strictly = if permit.kind() == LeaseKind::Strict { STRICT_MAX } else { Duration::MAX };
        let Position { number, seal } = log.state().newest;
        let known = Known { number, seal: Some(seal), at: clock.now() };
        Ok(Self {
            objects,
            known,
            sealer: log.sealer().clone(),
            me: me.clone(),
            sign,
            newest: log.newest_number(),
            permit,
            clock,
            counter: random_number()?,
            period: period.clamp(AGAIN, strictly),
        })
    }

    /// How often it is to be called.
    pub fn period(&self) -> Duration {
        self.period
    }

    /// Shows life, then looks whether the store is still this owner's, and renews the permit.
    ///
    /// # Errors
    /// Those of requests, after which the permit is as it was.
    pub fn round(&mut self) -> Result<Round> {
        match self.permit.stopped() {
            None => {}
            Some(Stopped::Fenced(_)) => return self.over(),
            // The claim may still be in force, and a successor go on with it.
            Some(Stopped::Ended | Stopped::Older(_) | Stopped::Gone(_)) => return Ok(Round::Stopped),
        }
        // From the beginning: when a claimer has seen nothing new for long enough, this was long before.
        let since = self.clock.now();
        // No sign of life is where nobody has a store.
        if let Err(e) = must_hold(&*self.objects, &self.sealer, &*self.clock) {
            let RemoteError::Gone { what, .. } = e else { return Err(e) };
            self.permit.stop(Stopped::Gone(what));
            self.objects.delete(&names::alive(self.me.id, self.sign))?;
            return Ok(Round::Stopped);
        }
        // Who cannot write is to learn as well that somebody else has the store. (A lease that is about to end waits for no other request.)
        let shown = self.put(Life::On);
        if self.permit.kind() == LeaseKind::Strict && shown.as_ref().is_err_and(RemoteError::is_passing) {
            return shown.map(|()| Round::Owner);
        }
        let mut number = self.newest.load(Ordering::Acquire) + 1;
        loop {
            match self.objects.head(&names::record(number)) {
                Err(e) if e.trouble == Trouble::Missing => break,
                Err(e) => return Err(e.into()),
                Ok(_) => {}
            }
            let record = read(&*self.objects, &self.sealer, number)?;
            if record.head.owner != self.me.id {
                self.permit.stop(Stopped::Fenced(fenced_by(&record, number)));
                return self.over();
            }
            // This owner's own, which is just being written.
            number += 1;
        }
        // A number may be free that was taken: records go that nothing needs. Whoever finds a gap behind the newest that it knows was asleep
        // for long, or is what a machine was before it went back in time.
        if let Some(found) = listed_after(&*self.objects, number)?
            && found > self.newest.load(Ordering::Acquire) + 1
        {
            let record = read(&*self.objects, &self.sealer, found)?;
            let mut fenced = fenced_by(&record, found);
            if record.head.owner == self.me.id {
                fenced.host =
                    "that is what this machine was before it went back in time, or a copy of it".into();
            }
            self.permit.stop(Stopped::Fenced(fenced));
            return self.over();
        }
        if let Some(lost) = self.lost(since)? {
            let Some(by) = self.who_has(lost)? else {
                self.permit.stop(Stopped::Older(lost));
                return Ok(Round::Stopped);
            };
            self.permit.stop(Stopped::Fenced(by));
            return self.over();
        }
        shown?;
        self.permit.renew(since);
        Ok(Round::Owner)
    }

    /// The first of the records that were written since the round before, and of the one that was the newest then, that is missing, or that is not
    /// what it was. Each is looked for: a remote that has lost its last seconds has what was written behind them.
    fn lost(&mut self, now: Duration) -> Result<Option<u64>> {
        let Known { number: known, seal, at } = self.known;
        let newest = self.newest.load(Ordering::Acquire);
        if now.saturating_sub(at) > STAYS {
            self.known = Known { number: newest, seal: seal.filter(|_| newest == known), at: now };
            return Ok(None);
        }
        let listed = match newest.saturating_sub(known) < FEW {
            true => BTreeMap::new(),
            false => listed_lengths(&*self.objects, known, newest)?.0,
        };
        // (Of the newest, the next round is to know which one it was.)
        for number in (known..=newest).filter(|number| *number == newest || !listed.contains_key(number)) {
            let Some(mut found) = self.seal_of(number)? else { return Ok(Some(number)) };
            if let Some(was) = seal.filter(|was| number == known && found != *was) {
                // What is no record is damage, of which nothing follows: perhaps the answer was.
                found = match read(&*self.objects, &self.sealer, number) {
                    Ok(record) => record.seal,
                    Err(RemoteError::Damaged { .. }) => continue,
                    Err(e) => return Err(e),
                };
                if found != was {
                    return Ok(Some(number));
                }
            }
            // The next round goes on here, if this one comes no further.
            self.known = Known { number, seal: Some(found), at: now };
        }
        Ok(None)
    }

    /// The seal of a record; `None` if it is missing although it was there, however often it is asked for.
    fn seal_of(&self, number: u64) -> Result<Option<ObjectSeal>> {
        let mut pauses = ASK_AGAIN.into_iter();
        loop {
            if let Some(seal) = seal_of(&*self.objects, number)? {
                return Ok(Some(seal));
            }
            // Where all is gone, it is rather a directory that is not mounted.
            self.objects.head(names::STORE)?;
            let Some(pause) = pauses.next() else { return Ok(None) };
            self.clock.sleep(pause);
        }
    }

    /// Who has written the record that is there in the place of this owner's; `None` if nobody has.
    fn who_has(&self, number: u64) -> Result<Option<Fenced>> {
        match read(&*self.objects, &self.sealer, number) {
            Ok(record) if record.head.owner != self.me.id => Ok(Some(fenced_by(&record, number))),
            Ok(_) => Ok(None),
            Err(e) if e.is_missing() => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn put(&mut self, life: Life) -> Result<()> {
        self.counter += 1;
        put_alive(&*self.objects, &self.sealer, &self.me, (self.sign, self.counter), self.period, life)
    }

    /// Says that nothing is answered any more, for who waits for that: it is so for good, since the claim is past.
    fn over(&mut self) -> Result<Round> {
        self.put(Life::Over)?;
        Ok(Round::Stopped)
    }
}

/// Who has the store, as record `number` of somebody else says.
fn fenced_by(record: &Record, number: u64) -> Fenced {
    let by = claimed_by(record);
    Fenced { record: number, by: by.id, host: by.host, at: record.head.time }
}

/// A thread that shows life until it is dropped, or has found that there is none any more.
#[derive(Debug)]
pub struct Heartbeat {
    thread: Option<JoinHandle<()>>,
    permit: Arc<Permit>,
    ends: Arc<AtomicBool>,
}

impl Heartbeat {
    /// Starts it, with a first round at once.
    ///
    /// # Errors
    /// When the host has no thread to give.
    pub fn start(beat: Beat) -> Result<Self> {
        Self::start_telling(beat, |_| {})
    }

    /// The same, and tells why it ends when it has found out that the store was taken, or that the remote has gone back, or has none any more.
    ///
    /// # Errors
    /// As [`Heartbeat::start`].
    pub fn start_telling(mut beat: Beat, stopped: impl FnOnce(Stopped) + Send + 'static) -> Result<Self> {
        let (permit, ends) = (Arc::clone(&beat.permit), Arc::new(AtomicBool::new(false)));
        let ending = Arc::clone(&ends);
        let mut told = Some(stopped);
        let run = move || {
            while !ending.load(Ordering::Acquire) {
                // Whoever waits for a sign of life goes on waiting for the next one.
                let round = catch_unwind(AssertUnwindSafe(|| beat.round()));
                if let Some(why @ (Stopped::Fenced(_) | Stopped::Older(_) | Stopped::Gone(_))) =
                    beat.permit.stopped()
                    && let Some(told) = told.take()
                {
                    told(why);
                }
                let round = round.unwrap_or_else(|_| {
                    log::error!(
                        "the thread that shows life in {} panicked, and goes on; please report the message above",
                        beat.objects.place()
                    );
                    Err(RemoteError::Interrupted)
                });
                let pause = match round {
                    Ok(Round::Owner) => beat.period,
                    Ok(Round::Stopped) => return,
                    Err(e) => {
                        log::debug!("no sign of life: {e}");
                        // However many want to know.
                        std::thread::sleep(LEAST);
                        AGAIN
                    }
                };
                beat.permit.wait_wanted(pause);
            }
        };
        let thread = std::thread::Builder::new().name("heartbeat".into()).spawn(run);
        let thread = thread.map_err(|e| RemoteError::host("cannot start a thread", &e))?;
        Ok(Self { thread: Some(thread), permit, ends })
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Release);
        self.permit.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
