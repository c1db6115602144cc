//! What a host keeps of the remote of one of its stores: `remote.json`, in the store's directory, and [`attempt`](super::attempt) beside it.
//!
//! Each opening of the store for shipping is an owner of its own. The files say which the last one was, and which records it has appended
//! or may have: one of them is written before each append. So it tells, at the next opening, whether what is in the remote was shipped from this
//! directory, and is in it. It does not if the directory was brought back from a copy, or if a copy of it has been shipped since.

use super::attempt::{self, Note, Slots};
use super::connect::Address;
use super::counted::{Counts, Requests};
use super::format::{LeaseKind, ObjectSeal, OwnerId};
use super::heartbeat::HEARTBEAT;
use super::log::{Owner, Position, Seen};
use super::passed::Passed;
use crate::durable;
use crate::store::HeaderLock;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Its name.
pub const LOCAL_NAME: &str = "remote.json";

/// What is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Local {
    /// The remote: its URL.
    pub remote: String,
    /// The remote of `/etc/larder/remotes.toml` that says how to speak to it, if it was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub named: Option<String>,
    /// The owner that this store was when it was opened last, as it stands in records.
    pub owner: String,
    /// Owners that it was before, where it is not known which of them has the remote now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<String>,
    /// Where the last one of them ran that is known to have had the remote: the start of the host, and the directory of the store.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub place: String,
    /// How often it is shipped, in seconds.
    #[serde(default = "every")]
    pub ship: u64,
    /// How many bytes it may lack before writers are slowed; 0: any number.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub max_lag: u64,
    /// For how long what was needed stays there, in seconds: each record of that time can be attached.
    #[serde(default = "a_day", skip_serializing_if = "is_a_day")]
    pub history: u64,
    /// The record that this is the state of: nothing is shipped, and nothing changes. None of a store that is shipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Frozen>,
    /// How many bytes of the store's contents stay here that are there as well; 0: all of them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub local_size: u64,
    /// `none` or `strict`.
    #[serde(default = "none")]
    pub lease: String,
    /// How often its owner shows life, in seconds.
    #[serde(default = "heartbeat", skip_serializing_if = "is_usual_heartbeat")]
    pub heartbeat: u64,
    /// Whether something of the store may be in the remote only.
    #[serde(default)]
    pub partial: bool,
    /// The newest record that was seen.
    #[serde(default)]
    pub seen: u64,
    /// Its seal, as digits.
    #[serde(default)]
    pub seal: String,
    /// Records behind it that were about to be appended, and may have been.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<Attempt>,
    /// Another host has taken the store: who, and when. That stays so, unless it has given it back and done nothing with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken: Option<String>,
    /// How much time has passed for sure since records were the newest, where the times of objects may be wrong by more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passed: Option<Passed>,
    /// What was asked of the remote by servers of this store, up to when this was written last.
    #[serde(default, skip_serializing_if = "Requests::is_none")]
    pub requests: Requests,
}

/// A record whose state was attached, and is nobody's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frozen {
    /// Its number.
    pub record: u64,
    /// When it was written, by the clock of who wrote it, as RFC 3339 has it.
    pub time: String,
}

impl fmt::Display for Frozen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record {} of {}", self.record, self.time)
    }
}

/// A record that may be there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Its number.
    pub record: u64,
    /// Its seal, as digits.
    pub seal: String,
}

/// What a store knows of what was shipped from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The newest record that is known to be there.
    pub seen: Seen,
    /// Records behind it that may be there.
    pub attempts: Vec<Position>,
    /// Owners that it was, and that may have the remote.
    pub owners: Vec<OwnerId>,
}

/// Attempts that are kept at most: each is of another process that ended without knowing what had become of it.
const ATTEMPTS_MAX: usize = 1000;

/// How far behind the remote may be where nobody has said, in seconds.
pub const SHIP: u64 = 5;

/// For how long what was needed stays in a remote where nobody has said, in seconds.
pub const HISTORY: u64 = 24 * 3600;
/// And at least: whoever has begun to attach a store, and hosts that it was taken from, need it for that long.
pub const HISTORY_MIN: u64 = 3600;

fn every() -> u64 {
    SHIP
}

fn a_day() -> u64 {
    HISTORY
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives it so")]
fn is_a_day(seconds: &u64) -> bool {
    *seconds == HISTORY
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn heartbeat() -> u64 {
    HEARTBEAT.as_secs()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives it so")]
fn is_usual_heartbeat(seconds: &u64) -> bool {
    *seconds == heartbeat()
}

fn none() -> String {
    LeaseKind::None.to_string()
}

impl Local {
    /// For a store that gets a remote, with a new owner.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn new(remote: &str) -> io::Result<Self> {
        let (owner, seal) = (OwnerId::random()?.to_string(), String::new());
        let (ship, lease) = (every(), none());
        Ok(Self {
            remote: remote.into(),
            named: None,
            owner,
            before: Vec::new(),
            place: String::new(),
            ship,
            max_lag: 0,
            history: HISTORY,
            at: None,
            local_size: 0,
            lease,
            heartbeat: heartbeat(),
            partial: false,
            seen: 0,
            seal,
            attempts: Vec::new(),
            taken: None,
            passed: None,
            requests: Requests::default(),
        })
    }

    /// What is kept in the directory of a store; `None` if it has no remote.
    ///
    /// # Errors
    /// As open(2) and read(2); `InvalidData` for what is none.
    pub fn read(store: &Path) -> io::Result<Option<Self>> {
        let Some(mut local) = durable::read::<Self>(&store.join(LOCAL_NAME))? else { return Ok(None) };
        if let Some(note) = attempt::read(store)? {
            local.heed(&note);
        }
        Ok(Some(local))
    }

    /// Takes in what its owner has noted since this was written.
    fn heed(&mut self, note: &Note) {
        if self.owner() != Some(note.owner) {
            return;
        }
        if note.newest.number > self.seen {
            self.saw(note.newest);
        }
        if note.attempt.number > self.seen {
            self.attempts(note.attempt);
        }
        self.requests = self.requests.at_least(note.requests);
    }

    /// This is about to be appended.
    fn attempts(&mut self, attempt: Position) {
        let attempt = Attempt { record: attempt.number, seal: digits(attempt.seal) };
        if !self.attempts.contains(&attempt) {
            let excess = (self.attempts.len() + 1).saturating_sub(ATTEMPTS_MAX);
            self.attempts.drain(..excess);
            self.attempts.push(attempt);
        }
    }

    /// Keeps this, durably.
    ///
    /// # Errors
    /// As the host.
    pub fn write(&self, store: &Path) -> io::Result<()> {
        durable::write_kept(&store.join(LOCAL_NAME), self)
    }

    /// Keeps nothing any more in the directory of a store, durably.
    ///
    /// # Errors
    /// As the host; `NotFound` where nothing was kept.
    pub fn remove(store: &Path) -> io::Result<()> {
        durable::remove_kept(&store.join(LOCAL_NAME))
    }

    /// Where the remote is, and how to speak to it.
    ///
    /// # Errors
    /// What is wrong with it, without secrets.
    pub fn address(&self) -> Result<Address, String> {
        let Some(name) = &self.named else { return Address::of(&self.remote, None) };
        let settings = Address::of(name, None)?.settings;
        Ok(Address { url: self.remote.parse()?, settings })
    }

    /// What users call the remote in a command: below its name, where it has one.
    pub fn called(&self) -> String {
        let named = self.named.as_deref().and_then(|name| Address::called(name, &self.remote));
        named.unwrap_or_else(|| self.remote.clone())
    }

    /// For how long what was needed stays there, in seconds, if that is another time than usual: what the store's header says, so that whoever
    /// attaches the store goes on with it.
    pub fn unusual_history(&self) -> Option<u64> {
        Some(self.history).filter(|seconds| *seconds != HISTORY)
    }

    /// The owner, if the text is one.
    pub fn owner(&self) -> Option<OwnerId> {
        self.owner.parse().ok()
    }

    /// A new owner, for the next opening of the store.
    fn next_owner(&self) -> io::Result<OwnerId> {
        self.owner().map_or_else(OwnerId::random, OwnerId::next)
    }

    /// The lease, if the text is one.
    pub fn lease(&self) -> Option<LeaseKind> {
        self.lease.parse().ok()
    }

    /// The owner that the store was last; `None` if what is kept names none.
    pub fn me(&self) -> Option<Owner> {
        let host = nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned();
        Some(Owner { id: self.owner()?, host, lease: self.lease()? })
    }

    /// The newest record that was seen.
    pub fn seen(&self) -> Seen {
        match of_digits(&self.seal) {
            Some(seal) if self.seen > 0 => Seen::Newest(Position { number: self.seen, seal }),
            _ => Seen::Nothing,
        }
    }

    /// From now on, this is the newest.
    pub fn saw(&mut self, newest: Position) {
        self.seen = newest.number;
        self.seal = digits(newest.seal);
        self.attempts.retain(|attempt| attempt.record > newest.number);
    }

    /// The remote has gone back in time to `newest`, where `held` has it, if that is another one: what was there before is not to be seen again. So
    /// this is another owner from here on, of which nothing was noted beside this file yet.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn went_back(&mut self, newest: Position, held: Option<OwnerId>) -> io::Result<()> {
        let next = self.next_owner()?.to_string();
        let old = std::mem::replace(&mut self.owner, next);
        self.before.push(old);
        self.before.extend(held.map(|owner| owner.to_string()));
        (self.passed, self.taken) = (None, None);
        self.attempts.clear();
        self.saw(newest);
        Ok(())
    }

    /// The last owner ran here, on the store in this directory.
    pub fn ran_in(&mut self, store: &Path) {
        self.place = place_of(store);
    }

    /// What is known of what was shipped.
    pub fn known(&self) -> Known {
        let attempts = self
            .attempts
            .iter()
            .filter_map(|attempt| Some(Position { number: attempt.record, seal: of_digits(&attempt.seal)? }));
        let owners = self.before.iter().chain([&self.owner]).filter_map(|owner| owner.parse().ok());
        Known { seen: self.seen(), attempts: attempts.collect(), owners: owners.collect() }
    }
}

fn digits(seal: ObjectSeal) -> String {
    format!("{:032x}", u128::from_be_bytes(seal))
}

fn of_digits(text: &str) -> Option<ObjectSeal> {
    u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
}

/// The start of this host; empty if that cannot be told.
fn boot_id() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    boot.map_or_else(|_| String::new(), |boot| boot.trim().to_owned())
}

/// The start of this host, and the directory `store`: another one's processes are not known to have ended because a store's lock is free.
/// Empty if that cannot be told.
fn place_of(store: &Path) -> String {
    match (boot_id(), std::fs::metadata(store)) {
        (boot, Ok(dir)) if !boot.is_empty() => format!("{boot} {:x} {:x}", dir.dev(), dir.ino()),
        _ => String::new(),
    }
}

/// A store's [`Local`], and the file that it is in.
#[derive(Debug)]
pub struct Kept {
    /// The directory; `None`: nothing is written.
    store: Option<PathBuf>,
    place: String,
    /// What was asked for before this opening, and since.
    requests: Requests,
    counts: Arc<Counts>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    local: Local,
    /// The owner of this opening, as long as it has not appended anything, nor tried to: nobody else needs to know of it.
    new: Option<OwnerId>,
    /// Somebody else keeps it now.
    is_left: bool,
    /// Where attempts are noted, if that is not in the same file as all else.
    slots: Option<Slots>,
}

impl Kept {
    /// That of the store in a directory, as it was read there.
    pub fn new(store: &Path, local: Local) -> Self {
        Self { store: Some(store.into()), ..Self::in_memory(&place_of(store), local) }
    }

    /// One of which no file is written, of a store at a place with this name: for those who keep it themselves.
    pub fn in_memory(place: &str, local: Local) -> Self {
        Self {
            store: None,
            place: place.into(),
            requests: local.requests,
            counts: Arc::default(),
            state: Mutex::new(State { local, new: None, is_left: false, slots: None }),
        }
    }

    /// What is known.
    pub fn local(&self) -> Local {
        self.state.lock().local.clone()
    }

    /// What is asked of the remote from now on is counted here.
    pub fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// What was asked of it in all.
    pub fn requests(&self) -> Requests {
        self.requests.plus(self.counts.so_far())
    }

    /// Changes it, durably. Where the store was detached from the remote meanwhile, nothing is written.
    fn change(&self, change: impl FnOnce(&mut Local)) -> io::Result<()> {
        self.change_before(Requests::default(), change)
    }

    /// The same before these requests are sent: they count, whatever happens then.
    fn change_before(&self, coming: Requests, change: impl FnOnce(&mut Local)) -> io::Result<()> {
        let State { local, new, is_left, .. } = &mut *self.state.lock();
        let next = new.as_ref().map(ToString::to_string);
        let alter = |changed: &mut Local| {
            if let Some(next) = &next
                && changed.owner != *next
            {
                let old = std::mem::replace(&mut changed.owner, next.clone());
                changed.before.push(old);
            }
            change(changed);
            changed.requests = self.requests().plus(coming);
        };
        let mut changed = local.clone();
        if let Some(store) = &self.store {
            // Whoever detaches it, or changes something else of it, has this, too.
            let _lock = HeaderLock::acquire(store)?;
            if *is_left {
                return Err(io::Error::other("another process keeps it now"));
            }
            let is_this = |now: &Local| now.owner == local.owner || Some(&now.owner) == next.as_ref();
            if let Some(now) = Local::read(store)?.filter(is_this) {
                changed = now;
                alter(&mut changed);
                changed.write(store)?;
            } else {
                alter(&mut changed);
            }
        } else {
            alter(&mut changed);
        }
        (*local, *new) = (changed, None);
        Ok(())
    }

    /// Heeds how the store is to be shipped according to its file, which another process has written. What it says of who has the remote
    /// is this one's.
    ///
    /// # Errors
    /// As [`Local::read`].
    pub fn reread(&self) -> io::Result<()> {
        let Some(store) = &self.store else { return Ok(()) };
        let mut state = self.state.lock();
        if let Some(now) = Self::now(store, &state)? {
            let Local { ship, max_lag, history, local_size, .. } = now;
            (state.local.ship, state.local.max_lag) = (ship, max_lag);
            (state.local.history, state.local.local_size) = (history, local_size);
        }
        Ok(())
    }

    /// Something of the store may be in the remote only from now on. Durable when this returns.
    ///
    /// # Errors
    /// As the host; also when the store was detached from the remote, or another process keeps it: nothing may be there only then.
    pub fn be_partial(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        if let Some(store) = &self.store {
            // Whoever detaches it has this, too, and looks.
            let _lock = HeaderLock::acquire(store)?;
            let now = if state.is_left { None } else { Self::now(store, &state)? };
            let gone = || io::Error::other("the store is not kept in this remote any more");
            let mut changed = now.ok_or_else(gone)?;
            // (A host that is full has no room for it, and wants something to go.)
            if !changed.partial {
                changed.partial = true;
                changed.write(store)?;
            }
            state.local = changed;
        }
        state.local.partial = true;
        Ok(())
    }

    /// What the file says, if it is still this one's.
    fn now(store: &Path, state: &State) -> io::Result<Option<Local>> {
        let next = state.new.as_ref().map(ToString::to_string);
        let is_this = |now: &Local| now.owner == state.local.owner || Some(&now.owner) == next.as_ref();
        Ok(Local::read(store)?.filter(is_this))
    }

    /// A new owner, for this opening of the store. It is noted together with the first record that it is about to append.
    pub(super) fn begin(&self) -> io::Result<OwnerId> {
        let mut state = self.state.lock();
        let id = state.local.next_owner()?;
        state.new = Some(id);
        Ok(id)
    }

    /// The owner has the remote, and nobody else.
    pub(super) fn began(&self, newest: Position) -> io::Result<()> {
        self.change(|local| {
            local.saw(newest);
            local.before.clear();
            local.place.clone_from(&self.place);
        })
    }

    /// Whether the processes of all owners that the store was have ended: it is where they had it, and nobody else has it open there.
    pub(super) fn has_ended(&self) -> bool {
        !self.place.is_empty() && self.state.lock().local.place == self.place
    }

    /// From now on, what is about to be appended is noted in a file of its own, which takes one sync. The header of the store names
    /// [`RemoteAttempts`](crate::store::Feature::RemoteAttempts) already.
    ///
    /// # Errors
    /// As the host; it is noted as before then.
    pub fn note_apart(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        if let (Some(store), None) = (&self.store, &state.slots) {
            state.slots = Some(Slots::open(store)?);
        }
        Ok(())
    }

    /// `attempt`, an object of so many bytes, is about to be appended right behind `newest`.
    pub(super) fn note(&self, newest: Position, attempt: Position, bytes: u64) -> io::Result<()> {
        let coming = Requests { writes: 1, sent: bytes, ..Requests::default() };
        if self.noted_apart(newest, attempt, coming)? {
            return Ok(());
        }
        self.change_before(coming, |local| {
            local.saw(newest);
            local.attempts(attempt);
        })
    }

    /// Whether that was noted in the file of its own: not where a new owner is to be noted with it.
    fn noted_apart(&self, newest: Position, attempt: Position, coming: Requests) -> io::Result<bool> {
        let State { local, new, is_left, slots } = &mut *self.state.lock();
        let (Some(slots), Some(owner), None, false) = (slots, local.owner(), &new, *is_left) else {
            return Ok(false);
        };
        let requests = self.requests().plus(coming);
        slots.put(&Note { owner, newest, attempt, requests })?;
        local.saw(newest);
        local.attempts(attempt);
        local.requests = requests;
        Ok(true)
    }

    /// Another host has taken the store: who, and when.
    ///
    /// # Errors
    /// As the host.
    pub fn was_taken(&self, why: &str) -> io::Result<()> {
        self.change(|local| local.taken = Some(why.to_owned()))
    }

    /// The host that had taken the store has given it back, and done nothing with it.
    ///
    /// # Errors
    /// As the host.
    pub fn was_given_back(&self) -> io::Result<()> {
        self.change(|local| local.taken = None)
    }

    /// The newest record that is known to have been there for so long, whatever clocks of the day say ([`Passed`]); 0: none is. `now` is
    /// [`Clock::now`](super::Clock::now), and `newest` the newest record.
    pub fn known_to_be_old(&self, newest: u64, now: Duration, history: Duration) -> u64 {
        let mut passed = self.state.lock().local.passed.clone().unwrap_or_default();
        let is_news = passed.go_on(&boot_id(), now, newest, history);
        let old = passed.old(history);
        self.state.lock().local.passed = Some(passed.clone());
        if is_news && let Err(e) = self.change(|local| local.passed = Some(passed)) {
            log::debug!("{LOCAL_NAME}: {e}");
        }
        old
    }

    /// From now on, nothing is kept: what is appended from here, the next one would not know to be its own, so nothing is.
    pub fn leave(&self) {
        self.state.lock().is_left = true;
    }

    /// `newest` is the newest record, and shipped from here.
    ///
    /// # Errors
    /// As the host.
    pub fn saw(&self, newest: Position) -> io::Result<()> {
        self.change(|local| local.saw(newest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_kept() {
        let tmp = tempfile::tempdir().unwrap();
        assert_eq!(Local::read(tmp.path()).unwrap(), None);
        let mut local = Local::new("file:///remote").unwrap();
        assert_eq!((local.seen(), local.lease()), (Seen::Nothing, Some(LeaseKind::None)));
        let newest = Position { number: 7, seal: [9; 16] };
        local.saw(newest);
        local.write(tmp.path()).unwrap();
        let read = Local::read(tmp.path()).unwrap().unwrap();
        assert_eq!((read.seen(), read.owner()), (Seen::Newest(newest), local.owner()));
        // What may be appended is known before it is, whatever becomes of it.
        let kept = Kept::new(tmp.path(), read);
        assert!(!kept.has_ended());
        let first = kept.begin().unwrap();
        let (eight, other) = (Position { number: 8, seal: [1; 16] }, Position { number: 8, seal: [2; 16] });
        kept.note(newest, eight, 0).unwrap();
        let kept = Kept::new(tmp.path(), Local::read(tmp.path()).unwrap().unwrap());
        // (One that has appended nothing is forgotten.)
        kept.begin().unwrap();
        let second = kept.begin().unwrap();
        kept.note(newest, other, 0).unwrap();
        let read = Local::read(tmp.path()).unwrap().unwrap();
        let known = read.known();
        assert_eq!((known.seen, known.attempts), (Seen::Newest(newest), vec![eight, other]));
        assert_eq!(known.owners, [local.owner().unwrap(), first, second]);
        kept.began(other).unwrap();
        let read = Local::read(tmp.path()).unwrap().unwrap();
        assert_eq!((read.known().owners, read.known().attempts), (vec![second], vec![]));
        assert!(Kept::new(tmp.path(), read.clone()).has_ended());
        let copy = tempfile::tempdir().unwrap();
        assert!(!Kept::new(copy.path(), read).has_ended(), "it is elsewhere");
        // Who was detached writes nothing.
        std::fs::remove_file(tmp.path().join(LOCAL_NAME)).unwrap();
        kept.saw(Position { number: 9, seal: [3; 16] }).unwrap();
        assert_eq!((Local::read(tmp.path()).unwrap(), kept.local().seen), (None, 9));
        std::fs::write(tmp.path().join(LOCAL_NAME), r#"{"remote":"x","owner":"y"}"#).unwrap();
        let read = Local::read(tmp.path()).unwrap().unwrap();
        assert_eq!((read.ship, read.max_lag, read.owner(), read.seen()), (5, 0, None, Seen::Nothing));
        assert_eq!((read.history, read.at), (24 * 3600, None));
    }

    #[test]
    fn how_it_is_shipped_may_change_beside_what_was_seen() {
        let tmp = tempfile::tempdir().unwrap();
        let local = Local::new("file:///remote").unwrap();
        local.write(tmp.path()).unwrap();
        let kept = Kept::new(tmp.path(), local.clone());
        let other = Local { ship: 60, max_lag: 7, history: 7200, local_size: 9, ..local.clone() };
        other.write(tmp.path()).unwrap();
        kept.reread().unwrap();
        assert_eq!((kept.local().ship, kept.local().max_lag), (60, 7));
        assert_eq!((kept.local().history, kept.local().local_size), (7200, 9));
        let newest = Position { number: 7, seal: [9; 16] };
        kept.saw(newest).unwrap();
        let read = Local::read(tmp.path()).unwrap().unwrap();
        assert_eq!((read.ship, read.max_lag, read.seen()), (60, 7, Seen::Newest(newest)));
        // That of another owner is none of this one's.
        Local { ship: 1, ..Local::new("file:///elsewhere").unwrap() }.write(tmp.path()).unwrap();
        kept.reread().unwrap();
        assert_eq!((kept.local().ship, kept.local().remote), (60, local.remote));
    }

    /// Whoever forgets the remote refuses where something is there only: of the two, one comes first.
    #[test]
    fn nothing_is_only_there_once_the_remote_is_forgotten() {
        let tmp = tempfile::tempdir().unwrap();
        let local = Local::new("file:///remote").unwrap();
        local.write(tmp.path()).unwrap();
        let kept = Kept::new(tmp.path(), local.clone());
        kept.be_partial().unwrap();
        assert!(Local::read(tmp.path()).unwrap().unwrap().partial && kept.local().partial);
        // What somebody else has changed meanwhile stays so; and so does what was said before, where it was made whole.
        Local { ship: 9, partial: false, ..local.clone() }.write(tmp.path()).unwrap();
        kept.be_partial().unwrap();
        let read = Local::read(tmp.path()).unwrap().unwrap();
        assert!(read.partial && read.ship == 9);
        Local::new("file:///elsewhere").unwrap().write(tmp.path()).unwrap();
        assert!(kept.be_partial().is_err());
        std::fs::remove_file(tmp.path().join(LOCAL_NAME)).unwrap();
        assert!(kept.be_partial().is_err());
        assert_eq!(Local::read(tmp.path()).unwrap(), None);
    }

    /// Each attempt wrote the whole file anew, with two syncs and a rename.
    #[test]
    fn what_is_attempted_is_noted_beside_what_changes_rarely() {
        let tmp = tempfile::tempdir().unwrap();
        let local = Local::new("file:///remote").unwrap();
        local.write(tmp.path()).unwrap();
        let at = |number: u64| Position { number, seal: [number as u8; 16] };
        let json = || std::fs::read(tmp.path().join(LOCAL_NAME)).unwrap();
        let read = || Local::read(tmp.path()).unwrap().unwrap();
        let kept = Kept::new(tmp.path(), local.clone());
        kept.note_apart().unwrap();
        let first = kept.begin().unwrap();
        // The owner is noted with its first attempt.
        kept.note(at(6), at(7), 0).unwrap();
        kept.began(at(7)).unwrap();
        assert_eq!((read().owner(), read().known().seen), (Some(first), Seen::Newest(at(7))));
        let before = json();
        for number in 7..20 {
            kept.note(at(number), at(number + 1), 0).unwrap();
            assert_eq!(read(), kept.local(), "{number}");
            let known = read().known();
            assert_eq!((known.seen, known.attempts), (Seen::Newest(at(number)), vec![at(number + 1)]));
        }
        assert!(json() == before, "it was not written");
        // Whoever changes something else of it writes that, too.
        let mut other = read();
        other.ship = 60;
        other.write(tmp.path()).unwrap();
        kept.note(at(20), at(21), 0).unwrap();
        assert_eq!((read().ship, read().known().attempts), (60, vec![at(21)]));
        kept.saw(at(21)).unwrap();
        assert_eq!((read().ship, read().known().seen, read().attempts), (60, Seen::Newest(at(21)), vec![]));
        // It dies with an attempt under way. What that one has noted is not the next one's: it is noted once more.
        kept.note(at(21), at(22), 0).unwrap();
        let kept = Kept::new(tmp.path(), read());
        kept.note_apart().unwrap();
        let second = kept.begin().unwrap();
        let late = Position { number: 22, seal: [99; 16] };
        kept.note(at(21), late, 0).unwrap();
        let known = read().known();
        assert_eq!((known.seen, known.attempts), (Seen::Newest(at(21)), vec![at(22), late]));
        assert_eq!(known.owners, [first, second]);
        kept.began(late).unwrap();
        kept.note(late, at(23), 0).unwrap();
        assert_eq!(read().known().attempts, [at(23)]);
        // Once another process keeps it, nothing is noted.
        kept.leave();
        assert!(kept.note(at(23), at(24), 0).is_err());
        assert_eq!(read().known().attempts, [at(23)]);
        // What the remote had before it went back is not seen again, also where the host stops before the file is gone.
        let mut older = read();
        older.went_back(at(9), Some(OwnerId(5))).unwrap();
        older.write(tmp.path()).unwrap();
        assert!(tmp.path().join(super::attempt::ATTEMPT_NAME).exists());
        let known = read().known();
        assert_eq!((known.seen, known.attempts), (Seen::Newest(at(9)), vec![]));
        assert!(known.owners.len() == 3 && known.owners[..2] == [second, OwnerId(5)], "{:?}", known.owners);
        kept.local().write(tmp.path()).unwrap();
        // An older store has no such file; and of another remote, it says nothing.
        super::super::forget_attempts(tmp.path()).unwrap();
        assert_eq!(read().known().seen, Seen::Newest(late));
        let kept = Kept::new(tmp.path(), read());
        kept.note(late, at(23), 0).unwrap();
        assert_eq!(read().known().attempts, [at(23)]);
        kept.note_apart().unwrap();
        kept.note(at(23), at(24), 0).unwrap();
        Local::new("file:///elsewhere").unwrap().write(tmp.path()).unwrap();
        assert_eq!((read().known().seen, read().known().attempts), (Seen::Nothing, vec![]));
    }
}
