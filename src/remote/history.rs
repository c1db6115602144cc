//! The moments of a log whose states can be attached: the records from the oldest image on of which everything is still there.
//!
//! Collecting keeps what was needed within some time ([`collect`](super::collect)), and takes from what is older in no order that says at
//! which record it has stopped. So the oldest moment is found by looking: records up to the newest without a gap, and an image in them
//! whose pieces are all there. Whether the parts are there that a moment needs is looked at when it is attached ([`first_missing`]).
//!
//! The times of records never go back along the log ([`RecordHead::time`](super::RecordHead)), so a moment is found by halving.

use super::catalog::Catalog;
use super::clock::BootClock;
use super::error::{RemoteError, Result};
use super::format::{Contents, Image, Record, When};
use super::log::{Log, Position, or_breaks_off};
use super::names;
use super::objects::{Objects, Trouble};
use std::collections::HashSet;
use std::fmt;

/// Names that are listed at a time.
const PAGE: usize = 1000;

/// What a record is, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A state of the store that was shipped.
    Commit,
    /// Contents that a later state needs; the state is that of the record before.
    Upload,
    /// The state of the record before, as a whole.
    Image,
    /// A host has taken the store; the state is that of the record before.
    Claim {
        /// Its name, as it calls itself.
        host: String,
    },
    /// The owner has let go of the store; the state is that of the record before.
    Goodbye,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Commit => f.write_str("commit"),
            Self::Upload => f.write_str("upload"),
            Self::Image => f.write_str("image"),
            Self::Claim { host } => write!(f, "claim by host {host}"),
            Self::Goodbye => f.write_str("goodbye"),
        }
    }
}

impl What {
    /// Its kind, in a word.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Upload => "upload",
            Self::Image => "image",
            Self::Claim { .. } => "claim",
            Self::Goodbye => "goodbye",
        }
    }
}

/// A record, as a moment of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Which one it is.
    pub position: Position,
    /// When it was written, by the clock of its owner; never earlier than the record before says.
    pub time: When,
    /// What it is.
    pub what: What,
}

impl Moment {
    fn of(record: &Record) -> Self {
        let what = match &record.contents {
            Contents::Commit(commit) if commit.pages > 0 => What::Commit,
            Contents::Commit(_) => What::Upload,
            Contents::Image(_) => What::Image,
            Contents::Claim(claim) => What::Claim { host: claim.host.clone() },
            Contents::Goodbye => What::Goodbye,
        };
        let position = Position { number: record.number, seal: record.seal };
        Self { position, time: record.head.time, what }
    }
}

/// Which moment is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The record of this number.
    Record(u64),
    /// The last record that was written by then.
    Time(When),
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Record(number) => write!(f, "record {number}"),
            Self::Time(time) => write!(f, "{time}"),
        }
    }
}

/// What there is of a log's history.
#[derive(Debug)]
pub struct History {
    log: Log,
    /// The oldest moment.
    first: Moment,
    /// What is older is there, and cannot be opened, or is something else.
    is_sealed_before: bool,
}

impl History {
    /// What there is up to the newest record of a log.
    ///
    /// # Errors
    /// [`RemoteError::NoStore`] where nothing was shipped yet; those of requests and of opening the newest records.
    pub fn of(log: &Log) -> Result<Self> {
        let log = log.to_read();
        let newest = log.state().newest.number;
        let nothing = || RemoteError::NoStore { place: log.sealer().place().into() };
        if newest == 0 {
            return Err(nothing());
        }
        let start = start_of_run(&**log.objects(), newest)?;
        let listed = all_names(&**log.objects(), names::IMAGE)?;
        let mut number = log.state().image;
        let (mut first, mut is_sealed_before) = (None, false);
        while number >= start && number > 0 {
            let record = match log.read_needed(number) {
                Ok(record) => record,
                Err(e) if first.is_none() => {
                    return Err(or_breaks_off(e, &**log.objects(), log.sealer(), &BootClock));
                }
                Err(RemoteError::Damaged { .. }) => {
                    is_sealed_before = true;
                    break;
                }
                Err(RemoteError::Lost { .. }) => break,
                Err(e) => return Err(e),
            };
            // The newest one is believed: whoever attaches the store now needs it, too.
            if let Contents::Image(image) = &record.contents
                && first.is_some()
                && !is_whole(&**log.objects(), image, &listed)?
            {
                break;
            }
            first = Some(Moment::of(&record));
            if number == start {
                break;
            }
            number = match log.read_needed(number - 1) {
                Ok(record) => record.head.image,
                Err(RemoteError::Damaged { .. }) => {
                    is_sealed_before = true;
                    break;
                }
                Err(RemoteError::Lost { .. }) => break,
                Err(e) => return Err(e),
            };
        }
        if number == 0 && start == 1 {
            match first_state(&log) {
                Ok(state) => first = state.or(first),
                Err(RemoteError::Damaged { .. }) if first.is_some() => is_sealed_before = true,
                Err(e) => return Err(e),
            }
        }
        let Some(first) = first else {
            let gap = log.gap(&BootClock)?;
            return Err(gap.map_or_else(nothing, |gap| gap.error(log.sealer().place())));
        };
        Ok(Self { log, first, is_sealed_before })
    }

    /// The oldest moment.
    pub fn oldest(&self) -> &Moment {
        &self.first
    }

    /// Number of the newest.
    pub fn newest(&self) -> u64 {
        self.log.state().newest.number
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.newest() - self.first.position.number + 1
    }

    /// Whether what is older is there, and cannot be opened with the keys that the store has now.
    pub fn is_sealed_before(&self) -> bool {
        self.is_sealed_before
    }

    /// The newest `most` moments, in order. Each record of them is read.
    pub fn newest_moments(&self, most: u64) -> impl Iterator<Item = Result<Moment>> {
        let first = self.first.position.number.max((self.newest() + 1).saturating_sub(most.max(1)));
        self.log.chain(first, None).map(|record| record.map(|record| Moment::of(&record)))
    }

    fn moment(&self, number: u64) -> Result<Moment> {
        self.log.read_needed(number).map(|record| Moment::of(&record))
    }

    /// The moment that is meant: of a time, the last one that was written by then, by the clock of who wrote it.
    ///
    /// # Errors
    /// [`RemoteError::NoMoment`] if there is none; those of requests and of opening.
    pub fn find(&self, at: At) -> Result<Moment> {
        let none = |what: String| {
            Err(RemoteError::NoMoment { place: self.log.sealer().place().into(), at: at.to_string(), what })
        };
        let (oldest, newest) = (self.first.position.number, self.newest());
        let too_early = || {
            let why = match self.is_sealed_before {
                true => {
                    "; what is older cannot be opened with the keys that the store has now: it was encrypted anew since, or is damaged"
                }
                false => "",
            };
            none(format!("the history there begins with record {oldest} of {}{why}", self.first.time))
        };
        let number = match at {
            At::Record(number) if number < oldest => return too_early(),
            At::Record(number) if number > newest => {
                return none(format!("the newest record there is {newest}"));
            }
            At::Record(number) => number,
            At::Time(time) if time < self.first.time => return too_early(),
            At::Time(time) => {
                // The first is not later, and what is behind the newest is.
                let (mut by_then, mut later) = (oldest, newest + 1);
                while later - by_then > 1 {
                    let middle = by_then + (later - by_then) / 2;
                    match self.moment(middle)?.time <= time {
                        true => by_then = middle,
                        false => later = middle,
                    }
                }
                by_then
            }
        };
        self.moment(number)
    }

    /// The log as it was at a moment, to be read.
    ///
    /// # Errors
    /// As [`Log::at`].
    pub fn log_at(&self, moment: &Moment) -> Result<Log> {
        Log::at(self.log.objects().clone(), self.log.sealer().clone(), moment.position)
    }
}

/// The names of all objects below something.
fn all_names(objects: &dyn Objects, under: &str) -> Result<HashSet<String>> {
    let (mut all, mut after) = (HashSet::new(), String::new());
    loop {
        let page = objects.list(under, &after, PAGE)?;
        let Some(last) = page.last() else { return Ok(all) };
        after.clone_from(&last.name);
        let is_last = page.len() < PAGE;
        all.extend(page.into_iter().map(|listed| listed.name));
        if is_last {
            return Ok(all);
        }
    }
}

/// The number from which on there is no gap up to `newest`. Of those that are not listed yet, the newest ones are there.
fn start_of_run(objects: &dyn Objects, newest: u64) -> Result<u64> {
    let names = all_names(objects, names::LOG)?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| names::record_number(name)).collect();
    numbers.retain(|number| *number <= newest);
    numbers.sort_unstable();
    let Some(mut start) = numbers.last().copied() else { return Ok(newest) };
    for number in numbers.into_iter().rev() {
        if number + 1 < start {
            break;
        }
        start = number;
    }
    Ok(start)
}

fn is_there(objects: &dyn Objects, name: &str, listed: &HashSet<String>) -> Result<bool> {
    if listed.contains(name) {
        return Ok(true);
    }
    match objects.head(name) {
        Ok(_) => Ok(true),
        Err(e) if e.trouble == Trouble::Missing => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn is_whole(objects: &dyn Objects, image: &Image, listed: &HashSet<String>) -> Result<bool> {
    for piece in image.database.iter().chain(&image.tables) {
        if !is_there(objects, &names::piece(&piece.hash), listed)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The first record that has a state, in a log that is whole from its beginning.
fn first_state(log: &Log) -> Result<Option<Moment>> {
    for record in log.chain(1, None) {
        let moment = Moment::of(&record?);
        if matches!(moment.what, What::Commit | What::Image) {
            return Ok(Some(moment));
        }
    }
    Ok(None)
}

/// The first object that is not there of those that have the blocks of a state.
///
/// # Errors
/// Those of requests.
pub fn first_missing(objects: &dyn Objects, catalog: &Catalog) -> Result<Option<String>> {
    let listed = all_names(objects, names::DATA)?;
    let parts = catalog.parts().into_keys().map(|part| names::part(&part));
    for name in parts.chain(catalog.records().into_keys().map(names::record)) {
        if !is_there(objects, &name, &listed)? {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::super::directory::Directory;
    use super::super::format::{Claim, Commit, LeaseKind, OwnerId, Page};
    use super::super::log::{Owner, Seen};
    use super::super::seal::RemoteSealer;
    use super::*;
    use crate::store::StoreId;
    use std::sync::Arc;

    fn at(seconds: u64) -> When {
        When { seconds, nanoseconds: 0 }
    }

    /// The clock of the second owner is behind.
    #[test]
    fn of_a_time_it_is_the_last_record_in_order_that_was_written_by_then() {
        let tmp = tempfile::tempdir().unwrap();
        let objects: Arc<dyn Objects> = Arc::new(Directory::new(tmp.path()));
        let sealer = RemoteSealer::new(StoreId(7), &crate::crypto::Keys::Plain, objects.place());
        let mut log = Log::open(Arc::clone(&objects), sealer, Seen::Nothing).unwrap();
        assert!(matches!(History::of(&log), Err(RemoteError::NoStore { .. })));
        let owner = |id| Owner { id: OwnerId(id), host: format!("host{id}"), lease: LeaseKind::None };
        let claim = |by: &Owner, before| {
            let (host, features) = (by.host.clone(), Vec::new());
            Contents::Claim(Claim { host, lease: by.lease, from: None, before, sign: 1, features })
        };
        let state = |pages| {
            let changed = vec![Page { number: 1, contents: vec![pages as u8; 4080].into() }];
            Contents::Commit(Box::new(Commit { pages, page_bytes: 4080, changed, ..Commit::default() }))
        };
        let (a, b) = (owner(1), owner(2));
        for (by, contents, time) in [
            (&a, claim(&a, 0), 100),
            (&a, Contents::Commit(Box::default()), 150),
            (&a, state(1), 200),
            (&b, claim(&b, 1), 50),
            (&b, state(1), 60),
            (&b, state(1), 300),
            (&b, Contents::Goodbye, 310),
        ] {
            log.append(by, contents, None, at(time)).unwrap();
        }
        let history = History::of(&log).unwrap();
        assert_eq!((history.oldest().position.number, history.count()), (3, 5));
        let moments: Vec<Moment> = history.newest_moments(u64::MAX).map(|moment| moment.unwrap()).collect();
        let times: Vec<u64> = moments.iter().map(|moment| moment.time.seconds).collect();
        assert_eq!(times, [200, 200, 200, 300, 310], "never earlier than the one before");
        assert_eq!(moments[1].what, What::Claim { host: "host2".into() });
        assert_eq!(history.newest_moments(2).count(), 2);
        let found = |time| history.find(At::Time(at(time))).map(|moment| moment.position.number).ok();
        let by_time = [199, 200, 299, 300, 309, 310, 9999].map(found);
        assert_eq!(by_time, [None, Some(5), Some(5), Some(6), Some(6), Some(7), Some(7)]);
        for number in [0, 2, 8] {
            let refused = history.find(At::Record(number)).unwrap_err();
            assert!(matches!(refused, RemoteError::NoMoment { .. }), "{refused}");
        }
        assert_eq!(history.find(At::Record(4)).unwrap(), moments[1]);
    }
}
