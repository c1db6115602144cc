//! Going on from a remote that has gone back in time, because a human says so.
//!
//! What the remote has now counts as what was seen, and its owner as one that this store was. So the next server of the store claims it and
//! ships what is here: all of it that is not there, as whoever opens a store for the first time does. Nothing is written before that.

use super::error::{Result, VolumeError};
use super::moment::must_not_be_moment;
use super::offline::{LOCK_PATIENCE, lock_store};
use super::remote::{objects_at, remote_of};
use crate::backing::OsDir;
use crate::crypto::Keys;
use crate::exit_code::Exit;
use crate::remote::{
    BootClock, Contents, LOCAL_NAME, Log, OwnerId, RemoteError, RemoteSealer, Seen, When, forget_attempts,
    nobody_lives, own_gap, read_store,
};
use crate::root::Root;
use crate::store::{Header, HeaderLock, StoreId};
use std::sync::Arc;
use std::time::Duration;

/// What was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Older {
    /// URL of the remote.
    pub remote: String,
    /// The newest record that was seen there before.
    pub seen: u64,
    /// The newest that is there now; 0: there is none.
    pub newest: u64,
}

/// Whether what another host has written behind what the remote has gone back to is to be given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OfOthers {
    /// It stays, and the remote is refused.
    Stays,
    /// It is not in the volume any more, and goes with the history.
    Goes,
}

/// Who has written the newest state that the log has, if that was not this store, of which one owner is known; and when. Whoever has only claimed the store
/// has changed nothing.
fn written_by_another(log: &Log, ours: Option<OwnerId>) -> Result<Option<(String, When)>> {
    let state = log.state();
    let unknown = || Some(("unknown".to_owned(), state.time));
    let mut number = state.newest.number;
    while number > 0 {
        let record = match log.read(number) {
            Ok(record) => record,
            // It was given up, or is sealed with keys that came later: what is here has not written it.
            Err(e) if e.is_missing() || matches!(e, RemoteError::Damaged { .. }) => return Ok(unknown()),
            Err(e) => return Err(e.into()),
        };
        if ours.is_some_and(|owner| owner.is_of_store_of(record.head.owner)) {
            return Ok(None);
        }
        if matches!(record.contents, Contents::Commit(_) | Contents::Image(_)) {
            let claim = log.read(record.head.claim).map(|claim| claim.contents);
            let Ok(Contents::Claim(claim)) = claim else { return Ok(unknown()) };
            return Ok(Some((claim.host, record.head.time)));
        }
        number -= 1;
    }
    Ok(None)
}

/// Takes what the remote of a store has now for what it is to have, although it had more: it has gone back in time, as when it was restored
/// from an older copy. `told` is told again and again how long it is waited to be sure that no other host has it, and returns whether to go on.
///
/// # Errors
/// `Usage` where it has no remote, or that has not gone back; `Busy` where a process has the store open, or another host shows life, or has
/// written there, and that is to stay; and those of requests. Nothing has changed then.
pub fn accept_older(
    root: &Root,
    (id, volume): (StoreId, &str),
    keys: &Keys,
    of_others: OfOthers,
    told: &mut dyn FnMut(Duration) -> bool,
) -> Result<Older> {
    must_not_be_moment(root, id, volume)?;
    let path = root.store(id);
    let _lock = lock_store(&path, LOCK_PATIENCE)
        .map_err(|e| e.hint(&format!("unmount it first, with `larder umount {volume}`")))?;
    let usage = |what: String| VolumeError::new(Exit::Usage, what);
    let local = remote_of(root, id)?.ok_or_else(|| usage(format!("volume {volume:?} has no remote")))?;
    let address = local.address().map_err(usage)?;
    let objects = objects_at(&address)?;
    let place = objects.place().to_owned();
    let store = Header::read(&OsDir::new(&path))?.store;
    match read_store(&*objects)? {
        // Where nothing is, a directory is not mounted.
        None => return Err(RemoteError::NoStore { place }.into()),
        Some(found) if found.store != store => {
            let what = format!(
                "{place} has another store now, {}; nothing of volume {volume:?} is there",
                found.store
            );
            return Err(VolumeError::new(Exit::Exists, what));
        }
        Some(_) => {}
    }
    let sealer = RemoteSealer::new(store, keys, &place);
    match Log::open(Arc::clone(&objects), sealer.clone(), local.seen()) {
        Err(RemoteError::Older { .. }) => {}
        Err(e) if !matches!(e, RemoteError::Lost { .. }) => return Err(e.into()),
        // Who was killed before it found that out may have left something behind the gap.
        opened => match (own_gap(&*objects, &sealer, &BootClock, &local.known().attempts)?, opened) {
            (Some(gap), _) => gap.close(&*objects)?,
            (None, Err(e)) => return Err(e.into()),
            (None, Ok(_)) => {
                return Err(usage(format!(
                    "{place} has not gone back: it has record {}, the newest that was seen",
                    local.seen
                )));
            }
        },
    }
    let log = Log::open(Arc::clone(&objects), sealer, Seen::Nothing)?;
    let state = log.state();
    let held = state.held.as_ref().filter(|held| !local.known().owners.contains(&held.by.id));
    if of_others == OfOthers::Stays
        && let Some((host, time)) = written_by_another(&log, local.owner())?
    {
        let (newest, called) = (state.newest.number, local.called());
        // It may be of this volume, from before what is remembered of who it was.
        let said = match local.me().is_some_and(|me| me.host == host) {
            true => format!(
                "{place} has record {newest}, and what it has was written by another host of this name, or here, before it was remembered by whom, until \
                 {time}. Compare it with what is here (`larder attach {called} NAME --read-only` on another host); to go on with what is here, add \
                 --discard"
            ),
            false => format!(
                "{place} has record {newest}, and what it has was written by another host, {host:?}, until {time}: that is not in what is here, \
                 if it was written since the remote has gone back. To go on with it, remove what is here (`larder rm --now --keep-remote \
                 {volume}`) and attach it (`larder attach {called}`); to give it up, add --discard"
            ),
        };
        return Err(VolumeError::new(Exit::Busy, said));
    }
    if held.is_some() {
        nobody_lives(&*objects, &BootClock, told)?;
    }
    let io = |e| VolumeError::io(&path.join(LOCAL_NAME), &e);
    let _header = HeaderLock::acquire(&path).map_err(io)?;
    let mut local = remote_of(root, id)?.ok_or_else(|| usage(format!("volume {volume:?} has no remote")))?;
    let seen = local.seen;
    local.went_back(state.newest, held.map(|held| held.by.id)).map_err(io)?;
    local.write(&path).map_err(io)?;
    // Of an owner that it is not any more: nothing depends on whether it still gets to this.
    if let Err(e) = forget_attempts(&path) {
        log::debug!("{e}");
    }
    Ok(Older { remote: local.remote, seen, newest: state.newest.number })
}
