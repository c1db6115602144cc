//! Whether a remote still has what its owner has claimed there, and what it wrote last.
//!
//! Whoever empties a remote, or brings it back from an older copy, asks nobody. A create-only PUT succeeds there as ever: that a record could
//! be appended says nothing of the one before it. So an owner looks: for the object `store` with each sign of life, and, while a record is
//! written, for the one that it follows on. Nothing counts as shipped before that was seen. What was written behind a gap goes again, because
//! whoever attaches the store would come upon it.

use super::clock::Clock;
use super::error::{RemoteError, Result};
use super::format::OwnerId;
use super::heartbeat::ASK_AGAIN;
use super::log::{Log, Position, claimed_by, fenced, listed_after, read};
use super::names;
use super::objects::{Objects, Trouble};
use super::seal::{RemoteSealer, SEALED_HEAD_BYTES, seal_in_head};
use super::side_by_side::each;
use super::survey::read_asked_store;

/// Asks again, a few times within some seconds, as long as nothing is found: an object store may say late what it has.
pub(super) fn patiently<T>(clock: &dyn Clock, look: impl Fn() -> Result<Option<T>>) -> Result<Option<T>> {
    for pause in ASK_AGAIN {
        if let Some(found) = look()? {
            return Ok(Some(found));
        }
        clock.sleep(pause);
    }
    look()
}

/// Makes sure that the store is there, and is not being removed. Where somebody looks whether it may be, it is there: its owner is found by that.
///
/// # Errors
/// [`RemoteError::Gone`]; those of requests and of opening.
pub(super) fn must_hold(objects: &dyn Objects, sealer: &RemoteSealer, clock: &dyn Clock) -> Result<()> {
    let gone = |what: String| Err(RemoteError::Gone { place: sealer.place().into(), what });
    let found = patiently(clock, || match read_asked_store(objects) {
        Err(RemoteError::BeingRemoved { .. }) => Ok(Some(None)),
        found => Ok(found?.map(|(store, _)| Some(store))),
    })?;
    match found {
        Some(Some(found)) if found.store == sealer.store() => Ok(()),
        Some(Some(found)) => gone(format!("it has another store, {}", found.store)),
        Some(None) => gone("what was there is being removed".into()),
        None => gone(format!("the object {:?} is missing", names::STORE)),
    }
}

/// The seal of a record, without reading all of it; `None` if it is missing.
pub(super) fn seal_of(objects: &dyn Objects, number: u64) -> Result<Option<[u8; 16]>> {
    match objects.get_range(&names::record(number), 0..SEALED_HEAD_BYTES as u64) {
        // (What is too short is another one.)
        Ok(head) => Ok(Some(seal_in_head(&head).unwrap_or_default())),
        Err(e) if e.trouble == Trouble::Missing => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Makes sure that a record is there, and is the one that it was.
///
/// # Errors
/// [`RemoteError::Older`]; [`RemoteError::Gone`] where the store is not there either; those of requests and of opening.
pub(super) fn must_have(
    objects: &dyn Objects,
    sealer: &RemoteSealer,
    clock: &dyn Clock,
    at: Position,
) -> Result<()> {
    let now = match patiently(clock, || seal_of(objects, at.number))? {
        Some(seal) if seal == at.seal => return Ok(()),
        // What is no record is damage, of which nothing follows: perhaps the answer was.
        Some(_) => match read(objects, sealer, at.number) {
            Ok(found) if found.seal == at.seal => return Ok(()),
            Ok(_) => "another one has its number now",
            Err(e) if e.is_missing() => "it is missing now",
            Err(e) => return Err(e),
        },
        None => "it is missing now",
    };
    must_hold(objects, sealer, clock)?;
    Err(RemoteError::Older { place: sealer.place().into(), seen: at.number, now: now.into() })
}

/// Makes sure that what whoever attaches the store reads first is there: the store, the newest record, and what that names.
///
/// # Errors
/// As [`must_have`]; [`RemoteError::Lost`], which names what is missing.
pub(super) fn must_be_whole(log: &Log, clock: &dyn Clock) -> Result<()> {
    let (objects, sealer, state) = (&**log.objects(), log.sealer(), log.state());
    must_hold(objects, sealer, clock)?;
    if state.newest.number == 0 {
        return Ok(());
    }
    must_have(objects, sealer, clock, state.newest)?;
    let claim = state.held.as_ref().map_or(0, |held| held.record);
    let records = [claim, state.image].into_iter().filter(|number| *number > 0).map(names::record);
    let header = (state.header.number > 0).then(|| names::header(state.header.number));
    let all: Vec<String> = records.chain(header).collect();
    each(&all, |name| {
        let found = patiently(clock, || match objects.head(name) {
            Ok(found) => Ok(Some(found)),
            Err(e) if e.trouble == Trouble::Missing => Ok(None),
            Err(e) => Err(e.into()),
        })?;
        let lost = || RemoteError::Lost { place: sealer.place().into(), name: name.clone() };
        found.map(drop).ok_or_else(lost)
    })
    .map(drop)
}

/// Makes sure that nobody has gone on behind what `me` has written: up to `newest` for sure, and up to `last` perhaps. An owner removes what it
/// does not need, also of its predecessors: so what a predecessor misses says nothing of the remote. But a store is claimed by the record
/// behind its last one, and claims stay.
///
/// # Errors
/// [`RemoteError::Fenced`]; those of requests and of opening, after which it is not known.
pub(super) fn nobody_went_on(
    objects: &dyn Objects,
    sealer: &RemoteSealer,
    me: OwnerId,
    (newest, last): (u64, u64),
) -> Result<()> {
    for number in (newest + 1..=last + 1).chain(listed_after(objects, last)?) {
        match read(objects, sealer, number) {
            Ok(record) if record.head.owner == me => {}
            Ok(record) => return Err(fenced(sealer, number, &claimed_by(&record), record.head.time)),
            Err(e) if e.is_missing() => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Removes the records of `me` behind record `before` that is not there any more, up to `last`: nobody can get to them, and who finds
/// the newest of them looks for the others in vain. What somebody else has written, and what is before that, stays. Only where
/// [`nobody_went_on`]: whoever did needs them.
pub(super) fn take_back(objects: &dyn Objects, sealer: &RemoteSealer, me: OwnerId, before: u64, last: u64) {
    for number in (before + 1..=last).rev() {
        let gone = match read(objects, sealer, number) {
            Ok(record) if record.head.owner == me => {
                objects.delete(&names::record(number)).map_err(RemoteError::from)
            }
            Ok(_) => return,
            Err(e) if e.is_missing() => Ok(()),
            Err(e) => Err(e),
        };
        if let Err(e) = gone {
            log::warn!("record {number} of {} stays behind a gap: {e}", sealer.place());
            return;
        }
    }
}
