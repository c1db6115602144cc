//! What becomes of a remote when the last volume of its store goes.

use super::record::{Place, place};
use super::secret::Secrets;
use super::trash::no_volume;
use crate::backing::OsDir;
use crate::exit_code::Exit;
use crate::remote::{
    Activity, BootClock, Erased, Local, Log, Objects, Remains, RemoteError, RemoteSealer, activity,
    erase_unchanged, nobody_lives, not_let_go, read_store, remains,
};
use crate::root::Root;
use crate::store::{Header, StoreId};
use crate::volume::{Result, VolumeError, is_moment, lock_store, names_in, objects_at, remote_of};
use std::sync::Arc;
use std::time::Duration;

/// How long a server that nobody uses any more may take to let go of a store.
const LET_GO: Duration = Duration::from_secs(3);

/// The remote of a volume, and all volumes of its store that there are; what is in the trash is among them.
#[derive(Clone, Debug)]
pub struct RemoteOf {
    /// What is kept of the remote.
    pub local: Local,
    /// The others.
    pub others: Vec<String>,
}

/// The remote that a volume is shipped to; `None` if it has none, or is the state of a moment.
///
/// # Errors
/// An unknown volume, or the host's.
pub fn remote_of_volume(root: &Root, name: &str) -> Result<Option<RemoteOf>> {
    let Some(Place::Store(id)) = place(root, name)? else { return Ok(None) };
    let Some(local) = remote_of(root, id)?.filter(|local| local.at.is_none()) else { return Ok(None) };
    let mut others = names_in(root, id)?;
    others.retain(|other| other != name);
    let trashed = root.trashed().map_err(|e| VolumeError::io(&root.trash(), &e))?;
    others.extend(
        trashed.into_iter().filter(|key| matches!(root.resolve_trashed(key), Ok(Some(of)) if of == id)),
    );
    Ok(Some(RemoteOf { local, others }))
}

/// Refuses to remove the remote of a volume that is not its owner: another host goes on with it, or this is the state of a moment. What was to
/// be seen there before that was looked at, for [`remove_remote`]: what changes later was not looked at.
///
/// # Errors
/// `Usage` if it has none; `Busy` if it is another host's; `Secret`; and when it cannot be reached.
pub fn must_own_remote(root: &Root, name: &str, secrets: &Secrets) -> Result<Activity> {
    let Some(Place::Store(id)) = place(root, name)? else { return Err(no_volume(root, name)) };
    let Some(local) = remote_of(root, id)? else {
        let what = format!("volume {name:?} has no remote that could be removed; leave out --remove-remote");
        return Err(VolumeError::new(Exit::Usage, what));
    };
    if let Some(at) = &local.at {
        return Err(is_moment(name, &local.remote, at).context("the remote is another volume's"));
    }
    let refused =
        |e: VolumeError| e.context(&format!("{} is not removed, and so the volume is not", local.remote));
    owns(root, (id, name), &local, secrets).map_err(refused)
}

fn owns(root: &Root, (id, name): (StoreId, &str), local: &Local, secrets: &Secrets) -> Result<Activity> {
    let address = local.address().map_err(|e| VolumeError::new(Exit::Usage, e))?;
    let objects = objects_at(&address)?;
    // A server that nobody uses any more lets go of the remote first. (One that somebody does keeps the volume from being removed.)
    drop(lock_store(&root.store(id), LET_GO)?);
    let before = activity(&*objects)?;
    if read_store(&*objects)?.is_none() {
        return must_have_been_empty(&objects, local).map(|()| before);
    }
    let store = Header::read(&OsDir::new(root.store(id)))?.store;
    let sealer = RemoteSealer::new(store, &secrets.keys(root, id, name)?, objects.place());
    let now = remote_of(root, id)?;
    let local = now.as_ref().filter(|now| now.remote == local.remote).unwrap_or(local);
    Log::open(Arc::clone(&objects), sealer, local.seen())?.must_continue(&local.known())?;
    must_be_let_go(&objects, local).map(|_| before)
}

/// A remote without a store is removed only where nothing was ever shipped to it: else it is somewhere else, as where a directory is not
/// mounted, or somebody has removed it.
fn must_have_been_empty(objects: &Arc<dyn Objects>, local: &Local) -> Result<()> {
    if local.seen == 0 {
        return Ok(());
    }
    let what = format!(
        "{} holds no store, and record {} was there: it was removed, or what is there cannot be seen now, as where a directory is not \
         mounted; leave out --remove-remote where it does not matter",
        objects.place(),
        local.seen
    );
    Err(VolumeError::new(Exit::NoVolume, what))
}

/// What there is in a remote, if nobody has it but the store that this is kept of.
fn must_be_let_go(objects: &Arc<dyn Objects>, local: &Local) -> Result<Option<Remains>> {
    let there = remains(objects)?;
    if let Some(Remains::Damaged(why)) = there {
        return Err(VolumeError::new(Exit::Damaged, why));
    }
    let ours = local.known().owners;
    if let Some(Remains::Store(survey)) = &there
        && let Some(who) = not_let_go(survey, &|owner| ours.contains(&owner))
    {
        return Err(VolumeError::new(Exit::Busy, format!("{who} has not let go of it")));
    }
    Ok(there)
}

/// Removes the remote of a volume that is gone, of which this was kept, as long as nobody has come to have it since `before`, which is of
/// [`must_own_remote`]. `progress` is told how many objects are.
///
/// # Errors
/// `Busy` if a host has it by now, or has had it since, or a volume of this one needs it; `NoVolume` if it is not there; when it cannot be reached: what is left is removed when `larder remote rm` says so.
pub fn remove_remote(
    root: &Root,
    local: &Local,
    before: &Activity,
    progress: &mut dyn FnMut(u64),
) -> Result<Erased> {
    let mut removed = || {
        let address = local.address().map_err(|e| VolumeError::new(Exit::Usage, e))?;
        let objects = objects_at(&address)?;
        // Clones that were made since it was asked for, and moments that were attached.
        if let Some(what) = needs_objects(root, (&*objects, &local.remote), None)? {
            return Err(VolumeError::new(Exit::Busy, what));
        }
        let Some(there) = must_be_let_go(&objects, local)? else {
            return must_have_been_empty(&objects, local).map(|()| Erased::default());
        };
        if before.is_in_doubt(&there) {
            nobody_lives(&*objects, &BootClock, &mut |_| true)?;
        }
        Ok(erase_unchanged(&*objects, before, progress)?)
    };
    removed().map_err(|e: VolumeError| {
        let url = local.called();
        e.context(&format!("the volume is gone, and what was shipped of it is still in {url}"))
            .hint(&format!("`larder remote rm {url}` removes that"))
    })
}

/// A volume of this host that needs what is in a remote, or is shipped there, but for those of the store `except`; with what to do. Of one in
/// the trash, its key.
///
/// # Errors
/// The host's.
pub fn needs_remote(root: &Root, url: &str, except: Option<StoreId>) -> Result<Option<String>> {
    needed_where((root, url), &|id, local| Ok(except != Some(id) && local.remote == url))
}

/// The same of the remote with these objects, also where the volume has it by another URL: through a link, another mount, or another name of
/// its server.
///
/// # Errors
/// The host's; when it cannot be reached.
pub fn needs_objects(
    root: &Root,
    (objects, url): (&dyn Objects, &str),
    except: Option<StoreId>,
) -> Result<Option<String>> {
    if let Some(what) = needs_remote(root, url, except)? {
        return Ok(Some(what));
    }
    let there = match read_store(objects) {
        Ok(Some(store)) => (store, activity(objects)?.newest()),
        // Nobody takes that for a store any more.
        Ok(None) | Err(RemoteError::BeingRemoved { .. } | RemoteError::Damaged { .. }) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    needed_where((root, url), &|id, local| {
        if except == Some(id) || Header::read(&OsDir::new(root.store(id)))?.store != there.0.store {
            return Ok(false);
        }
        // Another place may have the same store: a copy of it, or what was shipped of it before. Where that is not to be seen, it is the same.
        let address = local.address().map_err(|e| VolumeError::new(Exit::Usage, e))?;
        let here = objects_at(&address).and_then(|objects| {
            let store = read_store(&*objects)?;
            Ok(store.map(|store| activity(&*objects).map(|seen| (store, seen.newest()))).transpose()?)
        });
        Ok(here.map_or(true, |here| here.is_none_or(|here| here == there)))
    })
}

/// A volume whose remote `is_it` says is the one with this URL.
fn needed_where(
    (root, url): (&Root, &str),
    is_it: &dyn Fn(StoreId, &Local) -> Result<bool>,
) -> Result<Option<String>> {
    let names = root.names().map_err(|e| VolumeError::io(&root.volumes(), &e))?;
    let here = |id: StoreId| match remote_of(root, id)? {
        Some(local) => Ok::<_, VolumeError>(is_it(id, &local)?.then_some(local)),
        None => Ok(None),
    };
    for name in names {
        if let Ok(Some(id)) = root.resolve(&name)
            && let Some(local) = here(id)?
        {
            let by_name = if local.remote == url { String::new() } else { format!(" (to {})", local.remote) };
            return Ok(Some(format!(
                "volume {name:?} of this host is shipped there{by_name}, or has a part of it only there; `larder remote detach {name}` ends \
                 that"
            )));
        }
    }
    for key in root.trashed().map_err(|e| VolumeError::io(&root.trash(), &e))? {
        if let Ok(Some(id)) = root.resolve_trashed(&key)
            && here(id)?.is_some_and(|local| local.partial)
        {
            return Ok(Some(format!(
                "{key}, which is in the trash of this host, has a part of it only there; `larder trash restore {key}` or `larder trash empty \
                 {key}`"
            )));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Keys;
    use crate::remote::{Clock, LeaseKind, Owner, OwnerId, Permit, Seen, Steal, claim, goodbye};
    use crate::server::ship_to_leave;
    use crate::volume::{LimitChanges, VolumeSpec, create};
    use std::collections::BTreeMap;

    /// The volume is removed for minutes, and whoever attached the remote meanwhile lost what it had written.
    #[test]
    fn a_remote_that_somebody_has_had_since_it_was_looked_at_stays() {
        let tmp = tempfile::tempdir().unwrap();
        let root = Root::new(tmp.path().join("root"));
        let (name, labels, limits) = ("v".into(), BTreeMap::new(), LimitChanges::default());
        let spec = VolumeSpec { name, limits, uid: 0, gid: 0, mode: 0o755, labels, remote: None };
        let id = create(&root, &spec).unwrap();
        std::fs::create_dir(tmp.path().join("objects")).unwrap();
        let url = format!("file://{}", tmp.path().join("objects").display());
        Local::new(&url).unwrap().write(&root.store(id)).unwrap();
        let (local, lock) = ship_to_leave(&root, id, Keys::Plain, Duration::from_secs(60)).unwrap();
        drop(lock);
        let before = must_own_remote(&root, "v", &Secrets::default()).unwrap();
        crate::volume::remove(&root, (id, "v"), |_| Ok(()), |_, _| {}).unwrap();
        // Another host attaches it, and lets go of it.
        let objects = objects_at(&local.address().unwrap()).unwrap();
        let sealer = RemoteSealer::new(read_store(&*objects).unwrap().unwrap().store, &Keys::Plain, &url);
        let mut log = Log::open(Arc::clone(&objects), sealer, Seen::Nothing).unwrap();
        let other = Owner { id: OwnerId(7), host: "other".into(), lease: LeaseKind::None };
        let clock: Arc<dyn Clock> = Arc::new(BootClock);
        claim(&mut log, &other, Steal::No, &*clock, &mut |_| true).unwrap();
        goodbye(&mut log, &other, &Permit::new(LeaseKind::None, Arc::clone(&clock)), &*clock).unwrap();
        let refused = remove_remote(&root, &local, &before, &mut |_| {}).unwrap_err();
        assert!(refused.message.contains("what was shipped of it is still in"), "{}", refused.message);
        assert!(read_store(&*objects).unwrap().is_some());
        let now = activity(&*objects).unwrap();
        remove_remote(&root, &local, &now, &mut |_| {}).unwrap();
        assert!(read_store(&*objects).unwrap().is_none());
    }
}
