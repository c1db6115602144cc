//! The end of what is in the trash: when its time has come, when the host is short of room, or when somebody says so.

use super::rows::{alter, must_not_be_held, names_held};
use super::{Fate, Item, Trashed, host_space, items, lock, sweep};
use crate::config::Config;
use crate::exit_code::Exit;
use crate::host::ask::without_asking;
use crate::host::secret::Secrets;
use crate::root::Root;
use crate::volume::{Alteration, Removed, Rest, Result, VolumeError, remove_shared_trashed, remove_trashed};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::time::{Duration, Instant};

/// How long a server that has just removed the last other volume of the store may take to end.
const PATIENCE: Duration = Duration::from_secs(3);

/// Removes a volume in the trash for good. One whose store others share is removed from it, by the store's server, or with the secret
/// that was remembered, or `secrets`. `is_lost`: its store is gone for good, also where no store at all is to be seen. `progress` is told of
/// each file that goes: how many are gone, of how many.
///
/// # Errors
/// `Secret` when the store has to be opened and cannot be, `Damaged` when it is not to be seen and nobody has said that it is lost, or the
/// host's. One that is gone already is no error.
pub fn empty(
    root: &Root,
    of: &Trashed,
    is_lost: bool,
    secrets: &Secrets,
    progress: impl Fn(u64, u64),
) -> Result<()> {
    must_not_be_held(root, of, &of.secrets_or(root, secrets))?;
    let until = Instant::now() + PATIENCE;
    loop {
        let removed = match remove_trashed(root, &of.key, is_lost, &progress) {
            Ok(Removed::Done) => Ok(true),
            Ok(Removed::Shared) => {
                let secrets = of.secrets_or(root, secrets);
                let id = (of.store, of.entry.name.as_str());
                without_asking(root, id, &secrets, |secrets| empty_shared(root, of, secrets))
            }
            Err(e) => Err(e),
        };
        match removed {
            Ok(true) => break,
            // Just now, others came or went.
            Ok(false) => {}
            Err(e) if e.exit == Exit::NoVolume => break,
            Err(e) if e.exit == Exit::Busy && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(e) => return Err(e),
        }
    }
    let _lock = lock(root)?;
    // It may have come back, and been removed again in the same second.
    match root.resolve_trashed(&of.key) {
        Ok(None) => Trashed::forget(root, &of.key),
        _ => Ok(()),
    }
}

fn empty_shared(root: &Root, of: &Trashed, secrets: &Secrets) -> Result<bool> {
    let mut rest = None;
    let removed = remove_shared_trashed(root, &of.key, || {
        let row = of.row(root, &names_held(root, of, secrets)?);
        let volume = row.ok_or_else(|| VolumeError::no_volume(&of.entry.name))?;
        rest = alter(root, of, secrets, &Alteration::Remove { volume })?;
        Ok(())
    });
    // Whoever makes or removes other names does not wait for this.
    let finished = rest.map_or(Ok(()), Rest::finish);
    removed.and_then(|removed| finished.map(|()| removed))
}

/// What was removed for good, and why.
#[derive(Clone, Debug)]
pub struct Emptied {
    /// What it was.
    pub of: Item,
    /// Because the host was short of room, before its time had come.
    pub for_room: bool,
}

/// How many bytes the host lacks of what is to be free.
fn lacking(root: &Root) -> u64 {
    let Ok((free, total)) = host_space(root) else { return 0 };
    // Where nobody knows how much is to be kept free, nothing goes before its time.
    Config::load().map_or(0, |config| config.trash_reserve(total).saturating_sub(free))
}

/// Whether anything in the trash is to go now.
pub fn is_wanting(root: &Root) -> bool {
    match items(root) {
        Ok(all) if !all.is_empty() => all.iter().any(Item::is_expired) || lacking(root) > 0,
        _ => false,
    }
}

/// Removes for good what has been in the trash for long enough; and where the host is short of room, also what came there first, as
/// much as it takes. Nobody is asked for a secret: what cannot be removed stays for another time.
pub fn tidy(root: &Root) -> Vec<Emptied> {
    let mut gone = Vec::new();
    if !root.trash().exists() && !root.replaced().exists() {
        return gone;
    }
    // Of several who find that the host is short of room, one gives back as much as it takes.
    let alone = match File::open(root.path()).map(|dir| Flock::lock(dir, FlockArg::LockExclusiveNonblock)) {
        Ok(Ok(alone)) => alone,
        Ok(Err((_, Errno::EWOULDBLOCK))) => return gone,
        Ok(Err((_, e))) => {
            log::warn!("the trash: {e}");
            return gone;
        }
        Err(e) => {
            log::warn!("the trash: {e}");
            return gone;
        }
    };
    if let Err(e) = sweep(root) {
        log::warn!("the trash: {e}");
    }
    let Ok(all) = items(root) else { return gone };
    let (expired, others): (Vec<_>, Vec<_>) = all.into_iter().partition(Item::is_expired);
    for of in expired {
        if try_empty(root, &of) {
            gone.push(Emptied { of, for_room: false });
        }
    }
    if others.is_empty() {
        return gone;
    }
    let mut lacking = lacking(root);
    for of in others {
        if lacking == 0 {
            break;
        }
        // What others share is given back bit by bit, so that free space says little at once.
        let expected = of.space(root).unwrap_or(0);
        if try_empty(root, &of) {
            log::warn!("{} is gone for good: the host is short of room", shown(&of));
            lacking = lacking.saturating_sub(expected).min(self::lacking(root));
            gone.push(Emptied { of, for_room: true });
        }
    }
    drop(alone);
    gone
}

fn shown(of: &Item) -> String {
    match of {
        Item::Volume(of) => format!("volume {:?}, removed before,", of.entry.name),
        Item::State(of) => format!("{}, which a rollback replaced,", of.name()),
    }
}

fn try_empty(root: &Root, of: &Item) -> bool {
    let gone = match of {
        // Of one whose store is not to be seen, its disk may not be mounted.
        Item::Volume(of) if !root.store(of.store).exists() => return false,
        Item::Volume(of) => empty(root, of, false, &Secrets::default(), |_, _| {}).map(|()| true),
        // What is held or mounted is nothing to warn of.
        Item::State(of) => of.remove(root, &Secrets::default()).map(|fate| fate == Fate::Removed),
    };
    gone.unwrap_or_else(|e| {
        log::warn!("{} stays in the trash: {e}", of.id());
        false
    })
}
