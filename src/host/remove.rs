//! Removing volumes, whether a server has their store open or not.

use super::alter::begin;
use super::ask::{self, ask_store, without_asking};
use super::hold::held_by_server;
use super::look::{out_of_sight, server_of, store_of, unless_gone};
use super::own_mounts::is_there;
use super::record::{Place, Record, options_of, place};
use super::secret::Secrets;
use super::trash::{Trashed, discard, kept_for, no_volume, tidy, usual_period};
use super::users::Users;
use crate::exit_code::Exit;
use crate::mount;
use crate::root::Root;
use crate::store::{HEADER_NAME, StoreId, StoreLock};
use crate::volume::{
    self, Alteration, Removed, Rest, Result, VolumeError, held, held_snapshot, inspect_locked,
    inspect_offline, may_have_holds, remove_shared,
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
    /// Only if it is in this store: another volume may have got the name since somebody chose it.
    pub store: Option<StoreId>,
}

/// Refuses to remove what was made sticky. What is not there, or not known, is told to whoever removes it.
///
/// # Errors
/// `Busy`.
pub fn refuse_sticky(root: &Root, name: &str) -> Result<()> {
    match place(root, name) {
        Ok(Some(place)) => match refuse_sticky_at(root, name, place) {
            Err(e) if e.exit == Exit::Busy => Err(e),
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

fn refuse_sticky_at(root: &Root, name: &str, place: Place) -> Result<()> {
    if !options_of(root, name, place)?.sticky {
        return Ok(());
    }
    let what = format!("volume {name:?} is sticky; `larder rm --force {name}` removes it anyway");
    Err(VolumeError::new(Exit::Busy, what))
}

/// Removes a volume that is not mounted, with its snapshots and what is remembered of it; waits a moment for a server that nobody
/// uses any more to let go of it. It stays in the trash for as long as its options or the configuration say, and is returned where
/// it does. One that goes for good at once and shares its store is removed from that with `secret`; `progress` is told of each file that
/// goes: how many are gone, of how many.
///
/// # Errors
/// An unknown volume, one that is in use or of which a snapshot is held, or the host's.
pub fn remove(
    root: &Root,
    name: &str,
    secret: &Secrets,
    how: Removal,
    progress: impl Fn(u64, u64),
) -> Result<Option<Trashed>> {
    let place = place(root, name)?.ok_or_else(|| no_volume(root, name))?;
    if how.store.is_some_and(|id| place != Place::Store(id)) {
        return Err(VolumeError::new(
            Exit::NoVolume,
            format!(
                "volume {name:?} has been replaced by another one of that name meanwhile, which was not removed"
            ),
        ));
    }
    if !how.force {
        refuse_sticky_at(root, name, place)?;
    }
    let period = match kept_for(root, name, place) {
        _ if how.now => Duration::ZERO,
        // What is remembered of it may be of another volume.
        Err(_) if how.force => usual_period(),
        period => period?,
    };
    let id = match place {
        Place::Memory => return remove_in_memory(root, name).map(|()| None),
        Place::Store(id) => id,
    };
    // Its disk may be away for a moment: the trash and holds would be passed by, and the store nobody's when it is back.
    if !how.force && !root.store(id).exists() && matches!(root.resolve(name), Ok(Some(found)) if found == id)
    {
        let what = format!(
            "if the store is lost, `larder rm --force {name}` gives up the name, and whatever is still in the store"
        );
        return Err(out_of_sight(root, id, name).hint(&what));
    }
    let job = Job { root, id, name, force: how.force };
    // Without a secret first: mostly, none is needed.
    let removed = match job.remove(&secret.only_known(), period, &progress) {
        Err(e) if e.exit == Exit::Secret => {
            without_asking(root, (id, name), secret, |secret| job.remove(secret, period, &progress))
        }
        other => other,
    };
    let removed = removed.map_err(|e| unless_gone(root, id, name, e));
    removed.map_err(|e| match may_have_holds(root, id) {
        Ok(true) if e.exit == Exit::Secret => e.hint("snapshots of it may be held, so it is not removed"),
        _ => e,
    })
}

/// A volume in memory is what is remembered of it.
fn remove_in_memory(root: &Root, name: &str) -> Result<()> {
    let _lock = root.lock().map_err(|e| VolumeError::io(root.path(), &e))?;
    if place(root, name)? != Some(Place::Memory) {
        return Err(VolumeError::no_volume(name));
    }
    let dir = root.mountpoints().join(name);
    if matches!(mount::resolve(&dir).and_then(|dir| mount::entry_at(&dir)), Ok(Some(_))) {
        let what = format!("volume {name:?} is in use by containers; stop them first");
        return Err(VolumeError::new(Exit::Busy, what));
    }
    Record::forget_in_memory(root, name)?;
    Users::forget(root, name)
}

/// A volume in a store that is to go.
#[derive(Clone, Copy)]
struct Job<'a> {
    root: &'a Root,
    id: StoreId,
    name: &'a str,
    force: bool,
}

impl Job<'_> {
    /// What fails with `Secret` has changed nothing.
    fn remove(
        &self,
        secret: &Secrets,
        period: Duration,
        progress: &impl Fn(u64, u64),
    ) -> Result<Option<Trashed>> {
        let Self { root, id, name, .. } = *self;
        // Of one that is given up with a store that is not there, there is nothing to keep.
        if !period.is_zero() && root.store(id).exists() {
            self.must_not_be_held(secret, ask::PATIENCE)?;
            // Once more under the root's lock, for which others wait.
            let discard = || discard(root, (id, name), period, || self.must_not_be_held(secret, ask::ANSWER));
            let discarded = match discard() {
                Err(e) if e.exit == Exit::NoSpace => {
                    tidy(root);
                    discard()
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
                    while !self.remove_stored(secret, progress)? {}
                }
                Err(e) => return Err(e),
            }
        } else {
            while !self.remove_stored(secret, progress)? {}
        }
        self.forget().map(|()| None)
    }

    /// Forgets what is remembered of a volume that is gone.
    fn forget(&self) -> Result<()> {
        let Self { root, id, name, .. } = *self;
        let _lock = root.lock().map_err(|e| VolumeError::io(root.path(), &e))?;
        // Another one may have the name by now, perhaps of the same family.
        let found = place(root, name)?;
        if found != Some(Place::Store(id)) {
            Record::forget_about(root, name, id)?;
        }
        if found.is_none() { Users::forget(root, name) } else { Ok(()) }
    }

    /// Refuses to remove a volume of which a snapshot is held. What is damaged so that this cannot be known goes by `force`. A server that
    /// does not answer is waited for within `patience`.
    ///
    /// # Errors
    /// `Busy` if one is, or why it is not known.
    fn must_not_be_held(&self, secret: &Secrets, patience: Duration) -> Result<()> {
        let Self { root, id, name, .. } = *self;
        self.unless_held(|| {
            ask_store(
                root,
                (id, name),
                secret,
                patience,
                |client| held_by_server(client, name),
                |keys| inspect_offline(root, id, name, keys, |inspector| held_snapshot(inspector, name)),
            )
        })
    }

    /// The same for whoever has the lock of its store.
    fn must_not_be_held_now(&self, secret: &Secrets, lock: &StoreLock) -> Result<()> {
        let Self { root, id, name, .. } = *self;
        self.unless_held(|| {
            let keys = secret.keys(root, id, name)?;
            inspect_locked(root, id, &keys, lock, |inspector| held_snapshot(inspector, name))
        })
    }

    fn unless_held(&self, find: impl FnOnce() -> Result<Option<(String, Vec<String>)>>) -> Result<()> {
        match may_have_holds(self.root, self.id) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            // A header that is damaged or gone keeps nobody from removing what nobody can use.
            Err(e) if e.exit == Exit::Damaged || !self.root.store(self.id).join(HEADER_NAME).exists() => {
                return Ok(());
            }
            Err(e) => return Err(e.hint("snapshots of it may be held, so it is not removed")),
        }
        match find() {
            Ok(None) => Ok(()),
            Ok(Some((snapshot, tags))) => Err(held(self.name, &snapshot, &tags)),
            Err(e) if self.force && e.exit == Exit::Damaged => Ok(()),
            // Who calls says so, when nobody has the secret either.
            Err(e) if e.exit == Exit::Secret => Err(e),
            Err(e) => Err(e.hint("snapshots of it may be held, so it is not removed")),
        }
    }

    /// Removes a volume with its store, or from a store that others live in, where what they need stays. False: just now, others came
    /// or went.
    fn remove_stored(&self, secret: &Secrets, progress: &impl Fn(u64, u64)) -> Result<bool> {
        let Self { root, id, name, .. } = *self;
        match self.remove_idle(secret, progress)? {
            Removed::Done => Ok(true),
            Removed::Shared => {
                let change = Alteration::Remove { volume: name.to_owned() };
                let mut rest = None;
                let removed = remove_shared(root, (id, name), || {
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
    fn remove_idle(&self, secret: &Secrets, progress: &impl Fn(u64, u64)) -> Result<Removed> {
        let until = Instant::now() + PATIENCE;
        loop {
            let may_go = |lock: &StoreLock| self.must_not_be_held_now(secret, lock);
            match volume::remove(self.root, (self.id, self.name), may_go, progress) {
                Err(e) if e.exit == Exit::Busy && Instant::now() < until && !self.is_served()? => {
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
    fn is_served(&self) -> Result<bool> {
        let asked = store_of(self.root, self.name)
            .and_then(|id| server_of(self.root, id))
            .and_then(|client| client.map(|mut client| client.status()).transpose());
        let status = match asked {
            Err(e) if e.silent => return Err(e),
            other => other.ok().flatten(),
        };
        Ok(status.is_some_and(|status| status.mounts.iter().any(is_there)))
    }
}
