//! Whether what is in a log was shipped from a store that is here.

use super::super::error::{RemoteError, Result};
use super::super::format::{Contents, Record};
use super::super::local::Known;
use super::super::objects::Objects;
use super::super::seal::RemoteSealer;
use super::find::listed_after;
use super::{Log, Position, Seen, claim_of, claimed_by, fenced, read};

/// Whether `next` gives back what `record` claims: its owner had the store, and did nothing with it.
fn gives_back(record: &Record, next: &Record) -> bool {
    matches!((&record.contents, &next.contents), (Contents::Claim(_), Contents::Goodbye))
        && record.head.owner == next.head.owner
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
    /// Makes sure that all there is was shipped from the very store of which this is `known`, and is in it. Who claimed the store and gave it
    /// back at once has changed nothing.
    ///
    /// # Errors
    /// [`RemoteError::Fenced`] by the first who has written something else; [`RemoteError::Behind`] if this store has, before it went back
    /// in time, or a copy of it; those of requests and of opening.
    pub fn must_continue(&self, known: &Known) -> Result<()> {
        let (first, before) = first_of(known);
        let mut chain = self.chain(first, before).peekable();
        let mut number = first;
        while let Some(record) = chain.next() {
            let record = match record {
                Ok(record) => record,
                Err(RemoteError::Lost { .. }) => {
                    return Err(verdict_of_removed(&**self.objects(), self.sealer(), known, number)?);
                }
                Err(e) => return Err(e),
            };
            number = record.number + 1;
            if is_attempt(known, &record) {
                continue;
            }
            let is_own = known.owners.contains(&record.head.owner);
            if !is_own && matches!(chain.peek(), Some(Ok(next)) if gives_back(&record, next)) {
                chain.next();
                number += 1;
                continue;
            }
            return Err(verdict(self.sealer(), known, &record));
        }
        Ok(())
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
    loop {
        let record = match read(objects, sealer, number) {
            Ok(record) if before.is_none_or(|before| record.head.before == before) => record,
            Err(e) if e.is_missing() => {
                return verdict_of_removed(objects, sealer, known, number).ok();
            }
            _ => return None,
        };
        (number, before) = (number + 1, Some(record.seal));
        if is_attempt(known, &record) {
            continue;
        }
        if !known.owners.contains(&record.head.owner)
            && let Ok(next) = read(objects, sealer, number)
            && gives_back(&record, &next)
        {
            (number, before) = (number + 1, Some(next.seal));
            continue;
        }
        return Some(verdict(sealer, known, &record));
    }
}
