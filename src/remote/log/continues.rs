//! Whether what is in a log was shipped from a store that is here.

use super::super::claim::has_stopped;
use super::super::error::{RemoteError, Result};
use super::super::format::{Contents, Record};
use super::super::local::Known;
use super::super::objects::Objects;
use super::super::seal::RemoteSealer;
use super::find::listed_after;
use super::{Log, Position, Seen, claim_of, claimed_by, fenced, read};

/// Whether a record changes nothing but who has the store.
fn changes_nothing(record: &Record) -> bool {
    matches!(record.contents, Contents::Claim(_) | Contents::Goodbye)
}

fn first_of(known: &Known) -> (u64, Option<[u8; 16]>) {
    match known.seen {
        Seen::Newest(position) => (position.number.saturating_add(1), Some(position.seal)),
        Seen::Nothing => (1, None),
    }
}

fn behind(sealer: &RemoteSealer, record: u64) -> RemoteError {
    RemoteError::Behind { place: sealer.place().into(), record }
}

/// What it means that this record is behind all that is in the store here.
fn verdict(sealer: &RemoteSealer, known: &Known, record: &Record) -> RemoteError {
    if known.owners.contains(&record.head.owner) {
        behind(sealer, record.number)
    } else {
        fenced(sealer, record.number, &claimed_by(record), record.head.time)
    }
}

/// The same where record `number` was removed, as it is when nothing needs it: claims stay. All that was attempted from here and is not there
/// any more was the newest when somebody else claimed the store, or there was more.
fn verdict_of_removed(
    objects: &dyn Objects,
    sealer: &RemoteSealer,
    known: &Known,
    number: u64,
) -> Result<RemoteError> {
    let mut last = number;
    while known.attempts.iter().any(|attempt| attempt.number == last) {
        last += 1;
    }
    let Some(found) = listed_after(objects, last.saturating_sub(1))? else {
        return Ok(behind(sealer, number));
    };
    let record = read(objects, sealer, found)?;
    let is_next = found == last && last > number && claim_of(&record).is_some();
    Ok(if is_next { verdict(sealer, known, &record) } else { behind(sealer, number) })
}

impl Log {
    /// Makes sure that all there is was shipped from the very store of which this is `known`, and is in it. Who claimed the store and let go of it
    /// has changed nothing, if nobody who had it meanwhile has written anything: neither in between, nor behind that. Whoever said goodbye
    /// has let go, and so has who says that it has stopped, as those do who only attach the store: a claim of theirs that was never used,
    /// because they were killed, keeps it from nobody.
    ///
    /// # Errors
    /// [`RemoteError::Fenced`] by the first who has written something else, or has the store; [`RemoteError::Behind`] if this store has, before
    /// it went back in time, or a copy of it; those of requests and of opening.
    pub fn must_continue(&self, known: &Known) -> Result<()> {
        let (first, before) = first_of(known);
        let mut number = first;
        // Who was the first of others since this store had it.
        let mut other = None;
        for record in self.chain(first, before) {
            let record = match record {
                Ok(record) => record,
                Err(RemoteError::Lost { .. }) => {
                    return Err(verdict_of_removed(&**self.objects(), self.sealer(), known, number)?);
                }
                Err(e) => return Err(e),
            };
            number = record.number + 1;
            if is_attempt(known, &record) {
                other = None;
                continue;
            }
            let verdict = verdict(self.sealer(), known, &record);
            if known.owners.contains(&record.head.owner) {
                return Err(verdict);
            }
            if !changes_nothing(&record) {
                return Err(other.unwrap_or(verdict));
            }
            other.get_or_insert(verdict);
        }
        match (&self.state().held, other) {
            (Some(held), Some(other)) if !has_stopped(self, held)? => Err(other),
            _ => Ok(()),
        }
    }
}

fn is_attempt(known: &Known, record: &Record) -> bool {
    known.attempts.contains(&Position { number: record.number, seal: record.seal })
}

/// Who has taken the store since then, if that can be told where the newest record does not open here: the keys may be others by now, and
/// the claim is sealed with those of before.
pub(in super::super) fn who_took(
    objects: &dyn Objects,
    sealer: &RemoteSealer,
    known: &Known,
) -> Option<RemoteError> {
    let (mut number, mut before) = first_of(known);
    let mut other = None;
    loop {
        let record = match read(objects, sealer, number) {
            Ok(record) if before.is_none_or(|before| record.head.before == before) => record,
            Err(e) if other.is_none() && e.is_missing() => {
                return verdict_of_removed(objects, sealer, known, number).ok();
            }
            _ => return other,
        };
        (number, before) = (number + 1, Some(record.seal));
        if is_attempt(known, &record) {
            other = None;
            continue;
        }
        let verdict = verdict(sealer, known, &record);
        if known.owners.contains(&record.head.owner) {
            return Some(verdict);
        }
        if !changes_nothing(&record) {
            return Some(other.unwrap_or(verdict));
        }
        other.get_or_insert(verdict);
    }
}
