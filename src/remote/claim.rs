//! Becoming the owner of a store, and ceasing to be.
//!
//! A claim is a record, and the record alone decides. What is waited for beside it, so that two hosts never serve at once, is at the
//! head of [`lease`](super::lease). Invariants:
//! - an owner's sign of life is there before its claim is;
//! - it is removed only when that owner and all that it or others took the store from have stopped for sure.
//!
//! So whoever claims looks back from claim to claim, up to the first without a sign of life.

use super::attach::header_in_force;
use super::clock::Clock;
use super::error::{RemoteError, Result};
use super::format::{Claim, Contents, LeaseKind, Life, OwnerId, REMOTE_FEATURES, Record};
use super::heartbeat::{ASK_AGAIN, HEARTBEAT, put_alive, random_number};
use super::lease::{Permit, Stopped, claim_after};
use super::local::{Kept, Known};
use super::log::{Held, Log, Owner, Position, claim_of, own_gap, who_took};
use super::names;
use super::objects::{Objects, Trouble};
use super::presence::must_have;
use super::seal::RemoteSealer;
use super::survey::read_store;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// How often a claimer looks at a sign of life.
const LOOK: Duration = Duration::from_secs(2);
/// The most bytes in a sign of life.
pub(super) const ALIVE_BYTES_MAX: u64 = 4096;

/// Whether to take the store from an owner that is alive, or may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steal {
    /// Only from one that has said goodbye, or has a strict lease and shows no life.
    No,
    /// From any.
    Yes,
}

/// What a claimer waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The owner that has to have stopped.
    pub owner: Owner,
    /// Whether the store was claimed already, and it is only waited until that owner has stopped for sure.
    pub claimed: bool,
    /// How long at most.
    pub left: Duration,
}

/// A claim that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The record by which it was.
    pub record: u64,
    /// Whom the store was taken from, without its consent.
    pub from: Option<Owner>,
    /// Whether that one may still be serving what it had: it had no strict lease.
    pub may_still_serve: bool,
}

/// What is where an owner's sign of life would be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Sign {
    None,
    /// These bytes, which no two signs have in common; and whether they say that the owner has stopped.
    Some(Bytes, Life),
}

/// What does not open here shows life as long as it changes: it is sealed with keys that came into use since, or somebody has damaged it. Who
/// claims the store must not fail because of that.
fn sign(log: &Log, held: &Held) -> Result<Sign> {
    let name = names::alive(held.by.id, held.sign);
    match log.objects().get(&name, ALIVE_BYTES_MAX) {
        Ok(bytes) => {
            let life = log.sealer().open_alive(&name, bytes.clone()).map_or(Life::On, |alive| alive.life);
            Ok(Sign::Some(bytes, life))
        }
        Err(e) if e.trouble == Trouble::Missing => Ok(Sign::None),
        Err(e) => Err(e.into()),
    }
}

/// What `look` finds; it looks again, a few times within some seconds, where it seems that a record is missing which was there: an object store
/// may say late what it has.
fn for_sure<T>(clock: &dyn Clock, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let mut found = look();
    for pause in ASK_AGAIN {
        match &found {
            Err(e @ (RemoteError::Older { .. } | RemoteError::Behind { .. })) => {
                log::debug!("{e}; asking again");
                clock.sleep(pause);
                found = look();
            }
            _ => break,
        }
    }
    found
}

/// Makes `me` the owner of the log's store, which it may be already. `told` is told what is waited for, every other second, and returns
/// whether to go on.
///
/// When this returns, no owner with a strict lease serves the store any more, other than `me`.
///
/// # Errors
/// [`RemoteError::InUse`]; [`RemoteError::Interrupted`] and trouble of requests, after which the claim may have been made: it is to be
/// asked for again, with the same `me`.
pub fn claim(
    log: &mut Log,
    me: &Owner,
    steal: Steal,
    clock: &dyn Clock,
    told: &mut dyn FnMut(&Waiting) -> bool,
) -> Result<Claimed> {
    claim_as(log, (me, Life::On), None, steal, clock, told)
}

/// As [`claim`], by who only attaches the store and answers nothing: its sign of life says from the beginning that it has stopped. So a claim
/// of which nothing came, because whoever made it was killed, keeps the store from nobody; and whoever claims next looks further back, for
/// who may still serve.
///
/// # Errors
/// As [`claim`].
pub fn claim_to_attach(
    log: &mut Log,
    me: &Owner,
    steal: Steal,
    clock: &dyn Clock,
    told: &mut dyn FnMut(&Waiting) -> bool,
) -> Result<Claimed> {
    claim_as(log, (me, Life::Over), None, steal, clock, told)
}

/// Whether who holds a claim has stopped, as it says itself: anybody may claim the store.
///
/// # Errors
/// Those of requests.
pub(super) fn has_stopped(log: &Log, held: &Held) -> Result<bool> {
    Ok(matches!(sign(log, held)?, Sign::Some(_, Life::Over)))
}

/// Opens the log of a store that is here and was shipped from here, if it ever was, and makes a new owner of this opening. That takes it
/// from the owners that the store was before, which have ended; if they ran at another place, as before the host was started anew, or where
/// the directory was copied from, that is waited for. `told` is as for [`claim`].
///
/// # Errors
/// [`RemoteError::Fenced`] where another store has gone on; [`RemoteError::Behind`] where this one has gone back in time; those of
/// [`claim`]. It is to be asked for again where these say so.
pub fn take_up(
    objects: Arc<dyn Objects>,
    sealer: RemoteSealer,
    kept: &Arc<Kept>,
    clock: &dyn Clock,
    told: &mut dyn FnMut(&Waiting) -> bool,
) -> Result<(Log, Owner)> {
    take_up_if(objects, sealer, kept, clock, &mut |_| Ok(()), told)
}

/// What it means that something is missing which must be there, if it is that. Where the remote has gone back in time, an owner that this store was
/// and that was killed right then may have left a record behind the gap. It goes, as that one would have seen to: nobody can use them, and nobody
/// can attach the store as long as they are there. Where a single record is missing, somebody may rather have removed that, and can bring it back.
fn went_back(
    e: RemoteError,
    objects: &dyn Objects,
    sealer: &RemoteSealer,
    clock: &dyn Clock,
    known: &Known,
) -> RemoteError {
    if !matches!(e, RemoteError::Lost { .. }) {
        return e;
    }
    match own_gap(objects, sealer, clock, &known.attempts) {
        Ok(Some(gap)) if gap.missing > 1 && gap.close(objects).is_ok() => {
            let (place, now) = (sealer.place().into(), format!("now {} is the newest", gap.before));
            RemoteError::Older { place, seen: gap.newest, now }
        }
        _ => e,
    }
}

/// The same, if `look` finds nothing that speaks against it in the log: it is called before anything is claimed.
///
/// # Errors
/// As [`take_up`]; those of `look`.
pub(super) fn take_up_if(
    objects: Arc<dyn Objects>,
    sealer: RemoteSealer,
    kept: &Arc<Kept>,
    clock: &dyn Clock,
    look: &mut dyn FnMut(&Log) -> Result<()>,
    told: &mut dyn FnMut(&Waiting) -> bool,
) -> Result<(Log, Owner)> {
    let failed = |e: std::io::Error| RemoteError::host("cannot note who ships the store", &e);
    let local = kept.local();
    let known = local.known();
    let mut log = for_sure(clock, || {
        let log = match Log::open(Arc::clone(&objects), sealer.clone(), local.seen()) {
            // Whoever has it may have given it other keys.
            Err(e @ RemoteError::Damaged { .. }) => {
                return Err(who_took(&*objects, &sealer, &known).unwrap_or(e));
            }
            Err(e @ RemoteError::Lost { .. }) => return Err(went_back(e, &*objects, &sealer, clock, &known)),
            log => log?,
        };
        log.must_continue(&known).map(|()| log)
    })?;
    look(&log).map_err(|e| went_back(e, &*objects, &sealer, clock, &known))?;
    let no_owner = || RemoteError::Host {
        what: super::LOCAL_NAME.into(),
        why: "it names no owner, or an unknown kind of lease".into(),
    };
    let me = Owner { id: kept.begin().map_err(failed)?, ..local.me().ok_or_else(no_owner)? };
    log.note_in(Arc::clone(kept));
    // Keys that are new here are in no header that is there.
    match header_in_force(&log) {
        Ok((_, header)) => {
            header.epochs().last().into_iter().for_each(|newest| log.sealer().seal_up_to(*newest));
        }
        Err(e) if e.is_passing() => return Err(e),
        // There is none yet; or what is there is of no use to anybody, and another one follows.
        Err(_) => {}
    }
    claim_as(&mut log, (&me, Life::On), Some(kept), Steal::No, clock, told)?;
    // Before it is taken for the newest record that has been there: it may have to go again.
    must_still_be(&log, &me)?;
    must_follow(&log, &me, clock)?;
    kept.began(log.state().newest).map_err(failed).inspect_err(|_| say_over(&log, &me))?;
    Ok((log, me))
}

/// See [`claim`] and [`take_up`]: `kept` is of the store that goes on, and `life` what the claim's sign says.
fn claim_as(
    log: &mut Log,
    (me, life): (&Owner, Life),
    kept: Option<&Arc<Kept>>,
    steal: Steal,
    clock: &dyn Clock,
    told: &mut dyn FnMut(&Waiting) -> bool,
) -> Result<Claimed> {
    let earlier = kept.map(|kept| kept.local().known().owners).unwrap_or_default();
    let have_ended = kept.is_some_and(|kept| kept.has_ended());
    // A claim of before whose outcome was not known.
    match log.settle() {
        Ok(_) | Err(RemoteError::Fenced { .. }) => {}
        Err(e) => return Err(e),
    }
    loop {
        log.follow()?;
        if let Some(kept) = kept {
            // What came meanwhile must be of an earlier process of this store.
            let known = kept.local().known();
            for_sure(clock, || log.must_continue(&known))?;
        }
        let held = log.state().held.clone();
        let (from, seen) = match &held {
            Some(held) if held.by.id == me.id => {
                let record = log.read(held.record)?;
                if held.by == *me {
                    return finish(log, (me, &earlier), &record, None, clock.now(), clock, told);
                }
                // The same owner, with another lease.
                (None, None)
            }
            Some(held) if earlier.contains(&held.by.id) => {
                if !have_ended {
                    stands_still(log, held, true, clock, told)?;
                }
                (None, None)
            }
            None => (None, None),
            Some(held) if steal == Steal::Yes => (Some(held.by.clone()), None),
            Some(held) => {
                let seen = stands_still(log, held, false, clock, told)?;
                (Some(held.by.clone()), Some(seen))
            }
        };
        let number = random_number()?;
        put_alive(&**log.objects(), log.sealer(), me, (number, random_number()?), HEARTBEAT, life)?;
        let claim = Contents::Claim(Claim {
            host: me.host.clone(),
            lease: me.lease,
            from: from.as_ref().map(|owner| owner.id),
            before: held.map_or(0, |held| held.record),
            sign: number,
            features: REMOTE_FEATURES.iter().map(|&name| name.to_owned()).collect(),
        });
        match log.append(me, claim, None, clock.wall()) {
            Ok(position) => {
                let record = log.read(position.number)?;
                if record.seal != position.seal {
                    return Err(RemoteError::Overwrites { place: log.sealer().place().into() });
                }
                return finish(log, (me, &earlier), &record, seen, clock.now(), clock, told);
            }
            // Somebody else was quicker: an owner who is alive, or another claimer.
            Err(RemoteError::Fenced { .. }) => {
                log.objects().delete(&names::alive(me.id, number))?;
            }
            Err(e) => {
                // Where it is known that nothing was claimed, nobody shows life.
                if !log.is_pending()
                    && let Err(e) = log.objects().delete(&names::alive(me.id, number))
                {
                    log::debug!("{e}");
                }
                return Err(e);
            }
        }
    }
}

/// Says that `me`, who has claimed the store of this log, has stopped, where it cannot say goodbye: nobody waits for it then. If that
/// cannot be said either, it is not. Who has no strict lease has not stopped: programs are answered, and what was not shipped may be much.
pub(super) fn say_over(log: &Log, me: &Owner) {
    if me.lease != LeaseKind::Strict {
        return;
    }
    let Some(mine) = log.state().held.as_ref().filter(|held| held.by.id == me.id) else { return };
    let said = random_number().and_then(|counter| {
        put_alive(&**log.objects(), log.sealer(), me, (mine.sign, counter), HEARTBEAT, Life::Over)
    });
    if let Err(e) = said {
        log::debug!("{e}");
    }
}

fn in_use(log: &Log, held: &Held) -> RemoteError {
    RemoteError::InUse {
        place: log.sealer().place().into(),
        owner: held.by.id,
        host: held.by.host.clone(),
        record: held.record,
    }
}

/// Refuses what [`claim`] would refuse at once, and claims nothing.
///
/// # Errors
/// [`RemoteError::InUse`]; those of requests and of opening.
pub fn must_be_free(log: &Log, steal: Steal) -> Result<()> {
    match &log.state().held {
        Some(held) if steal == Steal::No && held.by.lease == LeaseKind::None => match sign(log, held)? {
            Sign::Some(_, Life::Over) => Ok(()),
            _ => Err(in_use(log, held)),
        },
        _ => Ok(()),
    }
}

/// Gives back what `me` has claimed, or may have, and has done nothing with: whoever had the store before may go on with it.
///
/// # Errors
/// As [`Log::append`]; [`RemoteError::InUse`] where an owner with a strict lease may not have stopped yet, for whom whoever comes next has
/// to wait as well, and looks no further back than a goodbye.
pub fn give_back(log: &mut Log, me: &Owner, clock: &Arc<dyn Clock>) -> Result<()> {
    match log.settle() {
        Ok(_) => {}
        // It is not there, and does not get there.
        Err(RemoteError::Fenced { .. }) => return Ok(()),
        Err(e) => return Err(e),
    }
    let Some(mine) = log.state().held.clone().filter(|held| held.by.id == me.id) else { return Ok(()) };
    let mut record = log.read(mine.record)?;
    while let Contents::Claim(Claim { before, .. }) = record.contents
        && before > 0
    {
        record = match log.read(before) {
            Ok(record) => record,
            Err(e) if e.is_missing() => break,
            Err(e) => return Err(e),
        };
        let Some(held) = claim_of(&record) else { break };
        match sign(log, &held)? {
            Sign::None => break,
            Sign::Some(_, Life::On) if held.by.lease == LeaseKind::Strict => return Err(in_use(log, &mine)),
            Sign::Some(..) => {}
        }
    }
    goodbye(log, me, &Permit::new(me.lease, Arc::clone(clock)), &**clock)
}

/// Makes sure that the record is still there that the claim of `me` follows on. Where it is not, the claim goes again.
fn must_follow(log: &Log, me: &Owner, clock: &dyn Clock) -> Result<()> {
    let Some(mine) = log.state().held.as_ref().filter(|held| held.by.id == me.id && held.record > 1) else {
        return Ok(());
    };
    let before = Position { number: mine.record - 1, seal: log.read(mine.record)?.head.before };
    must_have(&**log.objects(), log.sealer(), clock, before).inspect_err(|e| {
        if matches!(e, RemoteError::Older { .. } | RemoteError::Gone { .. }) {
            withdraw(log, me);
        }
    })
}

/// Removes the claim of `me` and its sign of life from where they are of no store.
fn withdraw(log: &Log, me: &Owner) {
    if let Some(mine) = log.state().held.as_ref().filter(|held| held.by.id == me.id) {
        for name in [names::record(mine.record), names::alive(me.id, mine.sign)] {
            if let Err(e) = log.objects().delete(&name) {
                log::warn!("{e}");
            }
        }
    }
}

/// After a claim: makes sure that the store was not removed meanwhile. Whoever removes one marks it as removed and then looks who has claimed it,
/// so one of the two finds the other. What `me` has written there goes again where it is of no store.
///
/// # Errors
/// [`RemoteError::NoStore`], [`RemoteError::BeingRemoved`] and [`RemoteError::OtherStore`]; those of requests and of opening, after which
/// it is not known.
pub fn must_still_be(log: &Log, me: &Owner) -> Result<()> {
    let place = || log.sealer().place().to_owned();
    let gone = match read_store(&**log.objects()) {
        Ok(Some(found)) if found.store == log.sealer().store() => return Ok(()),
        Ok(Some(found)) => RemoteError::OtherStore { place: place(), found: found.store.to_string() },
        Ok(None) => RemoteError::NoStore { place: place() },
        Err(e @ RemoteError::BeingRemoved { .. }) => e,
        Err(e) => return Err(e),
    };
    withdraw(log, me);
    Err(gone)
}

/// Waits until the owner's sign of life and the log have stood still for [`LEASE_CLAIM`](super::LEASE_CLAIM), and returns the sign. Without a strict lease, that
/// means something only if it was the claimer's own (`is_earlier`).
fn stands_still(
    log: &mut Log,
    held: &Held,
    is_earlier: bool,
    clock: &dyn Clock,
    told: &mut dyn FnMut(&Waiting) -> bool,
) -> Result<Sign> {
    let first = sign(log, held)?;
    if matches!(first, Sign::Some(_, Life::Over)) || is_earlier && first == Sign::None {
        return Ok(first);
    }
    if held.by.lease != LeaseKind::Strict && !is_earlier {
        return Err(in_use(log, held));
    }
    // From when it was seen; it is older than that.
    let since = clock.now();
    loop {
        let left = claim_after().saturating_sub(clock.now().saturating_sub(since));
        if !told(&Waiting { owner: held.by.clone(), claimed: false, left }) {
            return Err(RemoteError::Interrupted);
        }
        if left.is_zero() {
            return Ok(first);
        }
        clock.sleep(left.min(LOOK));
        let now = sign(log, held)?;
        if matches!(now, Sign::Some(_, Life::Over)) {
            return Ok(now);
        }
        let newest = log.state().newest.number;
        if now != first || log.objects().head(&names::record(newest + 1)).is_ok() {
            return Err(in_use(log, held));
        }
    }
}

/// After the claim was made: waits until all that may still serve have stopped, and removes their signs of life. `seen` is the sign of
/// the last one that stood still before the claim, if it was looked at; `since` is when the claim was there for sure.
fn finish(
    log: &Log,
    (me, earlier): (&Owner, &[OwnerId]),
    claimed: &Record,
    seen: Option<Sign>,
    since: Duration,
    clock: &dyn Clock,
    told: &mut dyn FnMut(&Waiting) -> bool,
) -> Result<Claimed> {
    let mut stopped: Vec<Held> = Vec::new();
    let mut from = None;
    let mut may_still_serve = false;
    let mut seen = seen;
    let mut record = claimed.clone();
    while let Contents::Claim(Claim { before, from: taken, .. }) = record.contents
        && before > 0
    {
        record = match log.read(before) {
            Ok(record) => record,
            // Given up, with all that was before it.
            Err(e) if e.is_missing() => break,
            Err(e) => return Err(e),
        };
        let Some(held) = claim_of(&record) else { break };
        let was_seen = seen.take();
        if stopped.is_empty() && taken == Some(held.by.id) {
            from = Some(held.by.clone());
        }
        let is_own = held.by.id == me.id || earlier.contains(&held.by.id);
        match sign(log, &held)? {
            // All before it have stopped, too.
            Sign::None => break,
            Sign::Some(_, Life::Over) => {}
            // An earlier process of this one, or of its store, which has ended.
            Sign::Some(..) if is_own => {}
            Sign::Some(..) if held.by.lease == LeaseKind::None => {
                // (Whoever took it from this one and stopped has served nothing.)
                if !may_still_serve {
                    from = Some(held.by.clone());
                }
                may_still_serve = true;
            }
            now if was_seen.as_ref() == Some(&now) => {}
            Sign::Some(..) => wait_for_end(log, &held, since, clock, told)?,
        }
        stopped.push(held);
    }
    // Whoever is interrupted here, or finds it half done, still finds the newer ones, and looks further back from these.
    for held in stopped.iter().rev() {
        log.objects().delete(&names::alive(held.by.id, held.sign))?;
    }
    Ok(Claimed { record: claimed.number, from, may_still_serve })
}

/// Waits until the owner of a claim says that it has stopped, or must have: [`LEASE_CLAIM`](super::LEASE_CLAIM) after `since`.
fn wait_for_end(
    log: &Log,
    held: &Held,
    since: Duration,
    clock: &dyn Clock,
    told: &mut dyn FnMut(&Waiting) -> bool,
) -> Result<()> {
    loop {
        let left = claim_after().saturating_sub(clock.now().saturating_sub(since));
        if !told(&Waiting { owner: held.by.clone(), claimed: true, left }) {
            return Err(RemoteError::Interrupted);
        }
        if left.is_zero() || matches!(sign(log, held), Ok(Sign::None | Sign::Some(_, Life::Over))) {
            return Ok(());
        }
        clock.sleep(left.min(LOOK));
    }
}

/// Gives the store up: when everything is shipped, and the heartbeat has ended. Nothing is answered from here on. Only for whom
/// [`claim`] has made the owner: who was interrupted in it may not have waited for all others yet.
///
/// # Errors
/// As [`Log::append`].
pub fn goodbye(log: &mut Log, me: &Owner, permit: &Permit, clock: &dyn Clock) -> Result<()> {
    permit.stop(Stopped::Ended);
    let sign = log.state().held.as_ref().map(|held| held.sign);
    log.append(me, Contents::Goodbye, None, clock.wall())?;
    // Without it, nobody would have to wait; with it, nobody has to, either.
    if let Some(sign) = sign
        && let Err(e) = log.objects().delete(&names::alive(me.id, sign))
    {
        log::debug!("{e}");
    }
    Ok(())
}
