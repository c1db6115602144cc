//! Removing volumes, whether a server has their store open or not.

use super::alter::begin;
use super::look::{look, server_of, store_of};
use super::own_mounts::is_there;
use super::record::{Place, Record, options_of, place};
use super::secret::Secrets;
use super::trash::{Trashed, discard, kept_for, tidy, usual_period};
use super::users::Users;
use crate::exit_code::Exit;
use crate::mount;
use crate::root::Root;
use crate::store::StoreId;
use crate::volume::{
    self, Alteration, Removed, Rest, Result, VolumeError, held, may_have_holds, remove_shared,
};
use std::time::{Duration, Instant};

/// How long a server may take to end.
const PATIENCE: Duration = Duration::from_secs(3);

/// How a volume is removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removal {
    /// Also if it was made sticky.
    pub force: bool,
    /// For good: not to the trash.
    pub now: bool,
}

/// Removes a volume that is not mounted, with its snapshots and what is remembered of it; waits a moment for a server that nobody
/// uses any more to let go of it. It stays in the trash for as long as its options or the configuration say, and is returned where
/// it does. One that goes for good at once and shares its store is removed from that with `secret`; `progress` is told of each file that
/// goes: how many are gone, of how many.
///
/// # Errors
/// An unknown volume, one that is in use, or the host's.
pub fn remove(
    root: &Root,
    name: &str,
    secret: &Secrets,
    how: Removal,
    progress: impl Fn(u64, u64),
) -> Result<Option<Trashed>> {
    let place = place(root, name)?.ok_or_else(|| VolumeError::no_volume(name))?;
    if !how.force && options_of(root, name, place)?.sticky {
        return Err(VolumeError::new(
            Exit::Busy,
            format!("volume {name:?} is sticky; `larder rm --force {name}` removes it all the same"),
        ));
    }
    let period = match kept_for(root, name, place) {
        _ if how.now => Duration::ZERO,
        // What is remembered of it may be of another volume.
        Err(_) if how.force => usual_period(),
        period => period?,
    };
    if let Place::Store(id) = place {
        must_not_be_held(root, name, id, secret, how.force)?;
    }
    match place {
        Place::Memory => {
            let dir = root.mountpoints().join(name);
            if matches!(mount::resolve(&dir).and_then(|dir| mount::entry_at(&dir)), Ok(Some(_))) {
                let what = format!("volume {name:?} is in use by containers; stop them first");
                return Err(VolumeError::new(Exit::Busy, what));
            }
        }
        // Of one whose store somebody took away by hand there is nothing to keep.
        Place::Store(id) if !period.is_zero() && root.store(id).exists() => {
            let discarded = match discard(root, name, period) {
                Err(e) if e.exit == Exit::NoSpace => {
                    tidy(root);
                    discard(root, name, period)
                }
                other => other,
            };
            match discarded {
                Ok(Some(of)) => return Ok(Some(of)),
                // Interrupted before: its name was all there was.
                Ok(None) => {}
                // As the only one in the trash it would go at once, to make room.
                Err(e) if e.exit == Exit::NoSpace => {
                    log::warn!("volume {name:?} is removed for good: the host is full");
                    while !remove_stored(root, name, secret, &progress)? {}
                }
                Err(e) => return Err(e),
            }
        }
        Place::Store(_) => while !remove_stored(root, name, secret, &progress)? {},
    }
    Record::forget(root, name)?;
    Users::forget(root, name).map(|()| None)
}

/// Refuses to remove a volume of which a snapshot is held. What is damaged so that this cannot be known goes by `force`.
///
/// # Errors
/// `Busy` if one is, or why it is not known.
fn must_not_be_held(root: &Root, name: &str, id: StoreId, secret: &Secrets, force: bool) -> Result<()> {
    match may_have_holds(root, id) {
        Ok(true) => {}
        Ok(false) => return Ok(()),
        // A header that is damaged or gone keeps nobody from removing what nobody can use.
        Err(e) if e.exit == Exit::Damaged || !root.store(id).join("header.json").exists() => return Ok(()),
        Err(e) => return Err(e.hint("snapshots of it may be held, so it is not removed")),
    }
    let snapshots = match look(root, name, Some(secret)) {
        Ok(look) => look.info.snapshots,
        Err(e) if e.exit == Exit::NoVolume || force && e.exit == Exit::Damaged => return Ok(()),
        Err(e) => return Err(e.hint("snapshots of it may be held, so it is not removed")),
    };
    let held_one = snapshots.iter().find(|snapshot| !snapshot.holds.is_empty());
    held_one.map_or(Ok(()), |snapshot| Err(held(name, &snapshot.name, &snapshot.holds)))
}

/// Removes a volume with its store, or from a store that others live in, where what they need stays. False: just now, others came
/// or went.
fn remove_stored(root: &Root, name: &str, secret: &Secrets, progress: &impl Fn(u64, u64)) -> Result<bool> {
    match remove_idle(root, name, progress)? {
        Removed::Done => Ok(true),
        Removed::Shared => {
            let change = Alteration::Remove { volume: name.to_owned() };
            let mut rest = None;
            let removed = remove_shared(root, name, || {
                rest = begin(root, name, secret, &change)?.1;
                Ok(())
            });
            // Whoever makes or removes other names does not wait for this.
            let finished = rest.map_or(Ok(()), Rest::finish);
            removed.and_then(|removed| finished.map(|()| removed))
        }
    }
}

/// Removes a volume; waits a moment for a server that nobody uses any more to let go of it.
fn remove_idle(root: &Root, name: &str, progress: &impl Fn(u64, u64)) -> Result<Removed> {
    let until = Instant::now() + PATIENCE;
    loop {
        match volume::remove(root, name, progress) {
            Err(e) if e.exit == Exit::Busy && Instant::now() < until && !is_served(root, name)? => {
                std::thread::sleep(Duration::from_millis(20));
            }
            other => return other,
        }
    }
}

/// Whether a server has mounts of the volume's store that are still there: of one that was unmounted a moment ago it may
/// not know yet.
///
/// # Errors
/// When it does not answer.
fn is_served(root: &Root, name: &str) -> Result<bool> {
    let asked = store_of(root, name)
        .and_then(|id| server_of(root, id))
        .and_then(|client| client.map(|mut client| client.status()).transpose());
    let status = match asked {
        Err(e) if e.silent => return Err(e),
        other => other.ok().flatten(),
    };
    Ok(status.is_some_and(|status| status.mounts.iter().any(is_there)))
}
