//! The log of a remote: one history, whose numbers are each taken once.
//!
//! Who appends does so at the next number, with a create-only PUT. Three things can come of it: it was done; it is not known (the answer
//! is outstanding or lost); or the number is taken. An append whose outcome is not known stays *pending*: it is repeated, the same
//! bytes, before anything else is appended, because it may still get there, however late.
//!
//! What an owner is about to append is noted in the directory of its store before ([`Kept`]). So whoever opens that directory later can
//! tell the records that were shipped from it from those that were not: from a copy of it, or from what it was before it went back in
//! time.

mod chain;
mod continues;
mod find;
mod gap;

pub use chain::Chain;
pub(super) use continues::who_took;
pub(super) use find::{listed_after, listed_lengths, newest_number};
pub use gap::{Gap, or_breaks_off, own_gap};

use super::error::{Fenced, RemoteError, Result};
use super::format::{
    Claim, Contents, HeaderRef, Image, LeaseKind, ObjectSeal, OwnerId, RECORD_BYTES_MAX, Record, RecordHead,
    When, random,
};
use super::local::Kept;
use super::names;
use super::objects::{Objects, Trouble};
use super::seal::{RemoteSealer, SEALED_HEAD_BYTES, Sealed};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A record, by its number and its seal. It stands for all of the history up to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Its number; 0: before the first one.
    pub number: u64,
    /// Its seal; zeros before the first one.
    pub seal: ObjectSeal,
}

/// Somebody who writes, or wants to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its id.
    pub id: OwnerId,
    /// The name of its host, to be shown.
    pub host: String,
    /// Its lease.
    pub lease: LeaseKind,
}

/// A claim that is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Whose it is.
    pub by: Owner,
    /// The record by which it was made.
    pub record: u64,
    /// What its owner's sign of life is named by, beside its id.
    pub sign: u64,
}

/// What the newest record known says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// Which one it is.
    pub newest: Position,
    /// When it was written, by the clock of its owner.
    pub time: When,
    /// Who may append.
    pub held: Option<Held>,
    /// Number of the newest image; 0: there is none.
    pub image: u64,
    /// The version of the header that is in force.
    pub header: HeaderRef,
}

/// An append whose outcome is not known.
#[derive(Debug)]
struct Pending {
    sealed: Sealed,
    head: RecordHead,
    contents: Contents,
}

/// The log of a remote, as far as it was read.
#[derive(Debug)]
pub struct Log {
    objects: Arc<dyn Objects>,
    sealer: RemoteSealer,
    state: LogState,
    pending: Option<Pending>,
    /// [`LogState::newest`]'s number, for the heartbeat.
    shared: Arc<AtomicU64>,
    /// Where what is appended is noted before.
    kept: Option<Arc<Kept>>,
}

/// The most bytes in a record's object.
pub(super) const RECORD_OBJECT_MAX: u64 = RECORD_BYTES_MAX + SEALED_HEAD_BYTES as u64;
/// The most bytes in a claim's object. Records that are not longer are kept for good: what follows on the last record of an owner that was
/// fenced is a claim, and so that number stays taken, however late it comes.
pub(super) const CLAIM_OBJECT_MAX: u64 = 1024;

/// What a log that was seen before is to be like now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nobody has seen it, or does not care.
    Nothing,
    /// It had this record.
    Newest(Position),
}

impl Log {
    /// Finds the newest record. `seen` is the newest one that this host has ever seen, kept locally: a remote that does not have it, or
    /// nothing newer, is refused.
    ///
    /// # Errors
    /// [`RemoteError::Older`]; those of requests and of opening.
    pub fn open(objects: Arc<dyn Objects>, sealer: RemoteSealer, seen: Seen) -> Result<Self> {
        let state = find::newest(&*objects, &sealer, seen)?;
        let shared = Arc::new(AtomicU64::new(state.newest.number));
        Ok(Self { objects, sealer, state, pending: None, shared, kept: None })
    }

    /// From now on, what is appended is noted there before.
    pub fn note_in(&mut self, kept: Arc<Kept>) {
        self.kept = Some(kept);
    }

    /// The log as it was at a record that was seen, whoever has written what since then: to be read.
    ///
    /// # Errors
    /// Those of requests and of opening; [`RemoteError::Damaged`] if another record is there.
    pub fn at(objects: Arc<dyn Objects>, sealer: RemoteSealer, seen: Position) -> Result<Self> {
        let record = read(&*objects, &sealer, seen.number)?;
        if record.seal != seen.seal {
            let what = "it is another one than was there before";
            return Err(RemoteError::damaged(sealer.place(), &names::record(seen.number), what));
        }
        let RecordHead { time, image, header, .. } = record.head;
        let state = LogState { newest: seen, time, held: None, image, header };
        let shared = Arc::new(AtomicU64::new(seen.number));
        Ok(Self { objects, sealer, state, pending: None, shared, kept: None })
    }

    /// Goes on to the records behind the newest known that were `attempts` from here, as far as they are there. Whoever has written what else
    /// since then: to be read.
    ///
    /// # Errors
    /// Those of requests.
    pub(super) fn follow_attempts(&mut self, attempts: &[Position]) -> Result<()> {
        loop {
            let number = self.state.newest.number + 1;
            if attempts.iter().all(|attempt| attempt.number != number) {
                return Ok(());
            }
            let record = match self.read(number) {
                Ok(record) => record,
                // What somebody else has written need not open here.
                Err(e) if e.is_missing() || matches!(e, RemoteError::Damaged { .. }) => return Ok(()),
                Err(e) => return Err(e),
            };
            let newest = Position { number, seal: record.seal };
            if !attempts.contains(&newest) {
                return Ok(());
            }
            let RecordHead { time, image, header, .. } = record.head;
            self.state = LogState { newest, time, held: None, image, header };
            self.shared.store(number, Ordering::Release);
        }
    }

    /// The log as it is now, to be read.
    pub(super) fn to_read(&self) -> Self {
        let shared = Arc::new(AtomicU64::new(self.state.newest.number));
        let (objects, sealer) = (Arc::clone(&self.objects), self.sealer.clone());
        Self { objects, sealer, state: self.state.clone(), pending: None, shared, kept: None }
    }

    /// What the newest record known says.
    pub fn state(&self) -> &LogState {
        &self.state
    }

    /// The lease of whoever has the store, or had it last; `None` where that is not to be found any more.
    ///
    /// # Errors
    /// Those of requests and of opening.
    pub fn last_lease(&self) -> Result<Option<LeaseKind>> {
        if let Some(held) = &self.state.held {
            return Ok(Some(held.by.lease));
        }
        // The newest is a goodbye, and the one before it is of the same owner.
        let before = self.state.newest.number.saturating_sub(1);
        let found = |number: u64| match number {
            0 => Ok(None),
            number => match self.read(number) {
                Ok(record) => Ok(Some(record)),
                Err(e) if e.is_missing() => Ok(None),
                Err(e) => Err(e),
            },
        };
        let Some(record) = found(before)? else { return Ok(None) };
        let claim = found(record.head.claim)?;
        Ok(claim.and_then(|record| claim_of(&record)).map(|held| held.by.lease))
    }

    /// The objects of the remote.
    pub fn objects(&self) -> &Arc<dyn Objects> {
        &self.objects
    }

    /// What seals them.
    pub fn sealer(&self) -> &RemoteSealer {
        &self.sealer
    }

    /// The number of the newest record known, kept up to date.
    pub fn newest_number(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.shared)
    }

    /// Reads one record; its place in the chain is not checked.
    ///
    /// # Errors
    /// [`RemoteError::is_missing`] when there is none; those of opening.
    pub fn read(&self, number: u64) -> Result<Record> {
        read(&*self.objects, &self.sealer, number)
    }

    /// Reads one record that must be there: nothing removes it as long as it is needed. Its place in the chain is not checked.
    ///
    /// # Errors
    /// [`RemoteError::Lost`] when there is none; those of requests and of opening.
    pub(super) fn read_needed(&self, number: u64) -> Result<Record> {
        read_needed(&*self.objects, &self.sealer, number)
    }

    /// Reads the newest image, which must be there and be one; `None` if no record is one.
    ///
    /// # Errors
    /// As for any record that must be there; [`RemoteError::Damaged`] by the name of the record that is to be the image, and is not.
    pub(super) fn read_image(&self) -> Result<Option<(Image, Position)>> {
        let number = self.state.image;
        if number == 0 {
            return Ok(None);
        }
        let record = self.read_needed(number)?;
        let at = Position { number, seal: record.seal };
        let damaged =
            |what: String| Err(RemoteError::damaged(self.sealer.place(), &names::record(number), what));
        if number == self.state.newest.number && at != self.state.newest {
            return damaged("it is another one than was there before".into());
        }
        match record.contents {
            Contents::Image(image) => Ok(Some((*image, at))),
            other => damaged(format!("it is a {}, and later records say that it is an image", other.kind())),
        }
    }

    /// From now on, what is appended is noted nowhere: the store goes.
    pub fn note_nowhere(&mut self) {
        self.kept = None;
    }

    /// Reads the records from `first` on, up to the newest known, in order, several at a time; `before` is the record before `first`, if
    /// it is known (else the first one is believed: the chain proves it from its end, when the newest is reached).
    pub fn chain(&self, first: u64, before: Option<ObjectSeal>) -> Chain {
        Chain::new(Arc::clone(&self.objects), self.sealer.clone(), first, before, self.state.newest)
    }

    /// Reads the record behind the newest known, if somebody has written it.
    ///
    /// # Errors
    /// Those of requests and of opening; a record that does not follow is damage.
    pub fn read_next(&mut self) -> Result<Option<Record>> {
        match self.read(self.state.newest.number + 1) {
            Ok(record) => {
                self.take(&record)?;
                Ok(Some(record))
            }
            Err(e) if e.is_missing() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Reads all that is behind the newest known.
    ///
    /// # Errors
    /// As [`Log::read_next`].
    pub fn follow(&mut self) -> Result<()> {
        while self.read_next()?.is_some() {}
        Ok(())
    }

    /// Makes `record` the newest known.
    fn take(&mut self, record: &Record) -> Result<()> {
        self.state = follows(&self.sealer, &self.state, record)?;
        self.shared.store(record.number, Ordering::Release);
        Ok(())
    }

    /// Appends a record of the owner `me`, whose claim must be in force, or which is one. When an earlier append is still pending, that
    /// one is done first.
    ///
    /// `header` is the version of the header from this record on; `None`: as before.
    ///
    /// # Errors
    /// [`RemoteError::is_passing`] and other trouble of requests: the record is pending ([`Log::is_pending`]), and may be there or get
    /// there. [`RemoteError::Fenced`]: somebody else has the store now. [`RemoteError::NotOwner`]. [`RemoteError::TooLong`]; when it cannot
    /// be noted here before; and when there is no randomness to be had: nothing has happened.
    pub fn append(
        &mut self,
        me: &Owner,
        contents: Contents,
        header: Option<HeaderRef>,
        time: When,
    ) -> Result<Position> {
        self.settle()?;
        let number = self.state.newest.number + 1;
        if number > names::NUMBER_MAX {
            let what = "there is no number behind it";
            return Err(RemoteError::damaged(self.sealer.place(), &names::record(number - 1), what));
        }
        let is_claim = matches!(contents, Contents::Claim(_));
        let held = self.state.held.as_ref().filter(|held| held.by.id == me.id);
        if !is_claim && held.is_none() {
            return Err(match &self.state.held {
                Some(held) => self.fenced(held.record, &held.by, self.state.time),
                None => RemoteError::NotOwner { place: self.sealer.place().into(), record: number },
            });
        }
        let head = RecordHead {
            before: self.state.newest.seal,
            owner: me.id,
            nonce: random().map_err(|e| RemoteError::host("cannot get random bytes", &e))?,
            time: time.max(self.state.time),
            claim: match &contents {
                Contents::Claim(_) => number,
                Contents::Goodbye => 0,
                Contents::Commit(_) | Contents::Image(_) => held.map_or(0, |held| held.record),
            },
            image: if matches!(contents, Contents::Image(_)) { number } else { self.state.image },
            header: header.unwrap_or(self.state.header),
        };
        let sealed = self.sealer.seal_record(number, &head, &contents)?;
        let most = if is_claim { CLAIM_OBJECT_MAX } else { RECORD_OBJECT_MAX };
        if sealed.bytes.len() as u64 > most {
            let name = names::record(number);
            return Err(RemoteError::TooLong { place: self.sealer.place().into(), name });
        }
        if let Some(kept) = &self.kept {
            let attempt = Position { number, seal: sealed.seal };
            let noted = kept.note(self.state.newest, attempt, sealed.bytes.len() as u64);
            noted.map_err(|e| RemoteError::host("cannot note what is about to be shipped", &e))?;
        }
        self.pending = Some(Pending { sealed, head, contents });
        let done = self.settle()?;
        Ok(done.unwrap_or(self.state.newest))
    }

    /// Whether there is an append whose outcome is not known.
    pub fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Finds out what became of the append that is pending, by repeating it; `None` if none is.
    ///
    /// # Errors
    /// As [`Log::append`]. Those that tell what became of it end it.
    pub fn settle(&mut self) -> Result<Option<Position>> {
        let Some(pending) = &self.pending else { return Ok(None) };
        let number = self.state.newest.number + 1;
        let name = names::record(number);
        match self.objects.put_new(&name, pending.sealed.bytes.clone()) {
            Ok(()) => self.done(number).map(Some),
            Err(e) if e.trouble == Trouble::Exists => {
                let there = self.objects.get(&name, RECORD_OBJECT_MAX)?;
                if there == pending.sealed.bytes {
                    return self.done(number).map(Some);
                }
                let found = self.sealer.open_record(number, there)?;
                // Its head is the one that was to be written, and the rest of it is not: nobody has gone on with the store, and nothing of
                // what was to be written is there.
                if found.head.owner == pending.head.owner && found.head.nonce == pending.head.nonce {
                    let what = "it has the head of what this host wrote there, and not its contents";
                    return Err(RemoteError::damaged(self.sealer.place(), &name, what));
                }
                // It cannot get there any more: its number is taken for good.
                let mine = pending.head.owner;
                self.pending = None;
                let mut by = claimed_by(&found);
                if found.head.owner == mine {
                    // Each opening has an owner of its own. Only a copy of this very process, as of a machine that was cloned while it
                    // ran, can have written that.
                    by.host = "that is a copy of this machine".into();
                }
                Err(self.fenced(number, &by, found.head.time))
            }
            Err(e) => Err(e.into()),
        }
    }

    fn done(&mut self, number: u64) -> Result<Position> {
        if let Some(Pending { sealed, head, contents }) = self.pending.take() {
            self.take(&Record { number, seal: sealed.seal, head, contents })?;
        }
        Ok(self.state.newest)
    }

    fn fenced(&self, record: u64, by: &Owner, at: When) -> RemoteError {
        fenced(&self.sealer, record, by, at)
    }
}

pub(super) fn fenced(sealer: &RemoteSealer, record: u64, by: &Owner, at: When) -> RemoteError {
    let by = Fenced { record, by: by.id, host: by.host.clone(), at };
    RemoteError::Fenced { place: sealer.place().into(), by }
}

/// Reads a record and opens it.
pub(super) fn read(objects: &dyn Objects, sealer: &RemoteSealer, number: u64) -> Result<Record> {
    open_up_to(objects, sealer, number, RECORD_OBJECT_MAX)
}

/// The same for one that has at most `most` bytes.
fn open_up_to(objects: &dyn Objects, sealer: &RemoteSealer, number: u64, most: u64) -> Result<Record> {
    sealer.open_record(number, objects.get(&names::record(number), most)?)
}

/// The same for one that must be there.
fn read_needed(objects: &dyn Objects, sealer: &RemoteSealer, number: u64) -> Result<Record> {
    read(objects, sealer, number).map_err(|e| e.or_lost(sealer.place(), || names::record(number)))
}

/// Who wrote a record, as far as that says.
pub(super) fn claimed_by(record: &Record) -> Owner {
    let (host, lease) = match &record.contents {
        Contents::Claim(Claim { host, lease, .. }) => (host.clone(), *lease),
        _ => ("unknown".into(), LeaseKind::None),
    };
    Owner { id: record.head.owner, host, lease }
}

/// The claim that a record makes.
pub(super) fn claim_of(record: &Record) -> Option<Held> {
    match &record.contents {
        Contents::Claim(claim) => {
            Some(Held { by: claimed_by(record), record: record.number, sign: claim.sign })
        }
        _ => None,
    }
}

/// The state at `record`, which must follow on `state`.
fn follows(sealer: &RemoteSealer, state: &LogState, record: &Record) -> Result<LogState> {
    let head = &record.head;
    let damaged = |what: String| RemoteError::damaged(sealer.place(), &names::record(record.number), what);
    if record.number != state.newest.number + 1 || head.before != state.newest.seal {
        return Err(damaged(format!("it does not follow on record {}", state.newest.number)));
    }
    let held = match &record.contents {
        Contents::Claim(_) => claim_of(record),
        contents => {
            let held = state.held.clone().filter(|held| held.by.id == head.owner);
            let Some(held) = held else {
                return Err(damaged(format!("{} wrote it, and had not claimed the store", head.owner)));
            };
            (!matches!(contents, Contents::Goodbye)).then_some(held)
        }
    };
    let image = if matches!(record.contents, Contents::Image(_)) { record.number } else { state.image };
    let claim = held.as_ref().map_or(0, |held| held.record);
    if head.image != image || head.claim != claim || head.header.number < state.header.number {
        return Err(damaged("it contradicts the records before it".into()));
    }
    let newest = Position { number: record.number, seal: record.seal };
    Ok(LogState { newest, time: head.time, held, image, header: head.header })
}
