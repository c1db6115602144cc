//! Into the trash.

use super::rows::hide_row;
use super::{Entry, Trashed, forget_names, lock, now, settle};
use crate::config::Config;
use crate::exit_code::Exit;
use crate::host::ask::ANSWER;
use crate::host::look::{look_for, server_within};
use crate::host::mount::is_mounted_at;
use crate::host::record::{Place, Record, options_of, secrets_of};
use crate::host::secret::config;
use crate::host::users::users;
use crate::mount;
use crate::root::Root;
use crate::store::StoreId;
use crate::volume::{
    Result, Served, VolumeError, VolumeInfo, may_have_holds, put_away, put_back_for, remote_of,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant, UNIX_EPOCH};

/// How long a look at the volume may take: what is seen is only shown.
const LOOK: Duration = Duration::from_secs(2);
/// How long a volume that is just being unmounted is waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long volumes are kept where their options do not say, and the configuration cannot be read either.
pub(in crate::host) fn usual_period() -> Duration {
    Config::load().unwrap_or_default().trash()
}

/// How long a volume is kept after its removal; zero if it is not.
///
/// # Errors
/// `Usage` when the configuration cannot be read, or the host's.
pub fn kept_for(root: &Root, name: &str, place: Place) -> Result<Duration> {
    match (place, options_of(root, name, place)?.trash) {
        // Its contents are gone with its last mount.
        (Place::Memory, _) => Ok(Duration::ZERO),
        (Place::Store(_), Some(period)) => Ok(period),
        (Place::Store(_), None) => Ok(config()?.trash()),
    }
}

/// Moves the volume of store `id` to the trash, where it stays for `period`, unless it `must_stay`: that is asked when it is there, so that
/// what somebody does to it by its name has happened, or does not happen any more. None if the name was all there was of it, and is gone
/// now.
///
/// # Errors
/// An unknown volume, one that is in use, as `must_stay`, or the host's. It is where it was then; or, with the exit code `Failure` and
/// words that say so, in the trash, if the host did not let it be brought back.
pub(in crate::host) fn discard(
    root: &Root,
    (id, name): (StoreId, &str),
    period: Duration,
    must_stay: impl Fn() -> Result<()>,
) -> Result<Option<Trashed>> {
    // What an encrypted volume holds is shown where its key file is known. (A passphrase takes its time.)
    let options = options_of(root, name, Place::Store(id)).ok();
    let secret = options.map(|options| secrets_of(&options)).filter(|secret| secret.key_file.is_some());
    let seen = look_for(root, name, secret.as_ref(), LOOK);
    let info = match seen {
        Ok(look) => Some(look.info),
        Err(e) if e.exit == Exit::NoVolume && matches!(root.resolve(name), Ok(None)) => return Ok(None),
        // What cannot be looked at is kept all the same.
        Err(e) if !e.silent => None,
        Err(e) => return Err(e),
    };
    let until = Instant::now() + PATIENCE;
    loop {
        match discard_now(root, (id, name), period, info.as_ref(), &must_stay) {
            Err(e) if passes(&e) && Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
            other => return other.map(Some),
        }
    }
}

/// What is only being unmounted, or opened for a moment, is said with this code.
fn passes(e: &VolumeError) -> bool {
    e.exit == Exit::Busy && ![" is mounted on ", " is held "].iter().any(|stays| e.message.contains(stays))
}

fn discard_now(
    root: &Root,
    (id, name): (StoreId, &str),
    period: Duration,
    info: Option<&VolumeInfo>,
    must_stay: impl Fn() -> Result<()>,
) -> Result<Trashed> {
    root.make().map_err(|(path, e)| VolumeError::io(&path, &e))?;
    let _lock = lock(root)?;
    settle(root)?;
    let link = root.link(name);
    if root.resolve(name).map_err(|e| VolumeError::io(&link, &e))? != Some(id) {
        return Err(VolumeError::no_volume(name));
    }
    let time = now();
    let removed = time.as_secs();
    let entry = Entry {
        name: name.to_owned(),
        removed,
        removed_ns: time.subsec_nanos(),
        until: removed.saturating_add(period.as_secs()),
        names: vec![name.to_owned()],
        used: info.map(|info| info.used),
        snapshots: info.map(|info| info.snapshots.len()),
        labels: info.map_or_else(BTreeMap::new, |info| info.labels.clone()),
        record: Record::of(root, name, Place::Store(id)).unwrap_or_else(|e| {
            log::warn!("volume {name:?}: {e}");
            None
        }),
        unchecked: !matches!(may_have_holds(root, id), Ok(false)),
    };
    let mut of = Trashed { key: new_key(root, name, removed), store: id, entry };
    of.keep(root)?;
    let put = put_away(root, id, name, &of.key, || must_be_free(root, id, name));
    let put = put.and_then(|()| must_stay().map_err(|e| put_back_for(root, &of.key, name, e)));
    if let Err(e) = put {
        return Err(match root.resolve_trashed(&of.key) {
            Ok(None) => {
                let _ = Trashed::forget(root, &of.key);
                e
            }
            _ => stuck(name, &of.key, &e),
        });
    }
    // It is in the trash, whatever cannot be written now on a full disk, say.
    if of.entry.unchecked {
        of.entry.unchecked = false;
        if let Err(e) = of.keep(root) {
            of.entry.unchecked = true;
            log::warn!("volume {name:?}, in the trash: {e}");
        }
    }
    if remote_of(root, id).is_ok_and(|remote| remote.is_some()) {
        hide_row(root, &mut of, name);
    }
    if let Err(e) = forget_names(root, &of) {
        log::warn!("volume {name:?}, in the trash: {e}");
    }
    Ok(of)
}

/// The error of a volume that was to stay, and could not be brought back from the trash. It is none that is tried again, or that lets the
/// volume go for good, as one that has no room for the trash may: its entry is there, and keeps what is held.
fn stuck(name: &str, key: &str, e: &VolumeError) -> VolumeError {
    let what = format!(
        "volume {name:?} was not to be removed, but is in the trash now: {e}; fix that, and `larder trash restore {key}` brings \
         it back"
    );
    VolumeError::new(Exit::Failure, what)
}

/// A key that nothing in the trash has.
fn new_key(root: &Root, name: &str, removed: u64) -> String {
    let time = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(removed)).to_string();
    let stamp: String = time.chars().filter(char::is_ascii_alphanumeric).collect();
    let mut key = format!("{name}~{stamp}");
    let is_taken = |path: &Path| path.symlink_metadata().is_ok();
    let mut n = 1;
    while is_taken(&root.trash_link(&key)) || is_taken(&root.trash_entry(&key)) {
        n += 1;
        key = format!("{name}~{stamp}-{n}");
    }
    key
}

/// Refuses what the store's server has mounted, the volume or one of its snapshots.
fn must_be_free(root: &Root, id: StoreId, name: &str) -> Result<Served> {
    let Some(mut client) = server_within(root, id, ANSWER)? else { return Ok(Served::No) };
    let status = match client.status() {
        Ok(status) => status,
        Err(e) if e.silent => return Err(e),
        // It is dying, or ending.
        Err(_) => return Ok(Served::No),
    };
    let is_of_it = |other: &str| other == name || other.split_once('@').is_some_and(|(of, _)| of == name);
    let Some(mounted) = status.mounts.into_iter().find(|mount| is_of_it(&mount.volume)) else {
        return Ok(Served::Yes);
    };
    let dir = mount::path_from_bytes(mounted.dir);
    let what = mounted.volume;
    let message = match is_mounted_at(&what, &dir) {
        true if !users(root, name).is_empty() => format!(
            "volume {name:?} is in use by containers, for which {what} is mounted on {}; stop them first (`docker ps -a --filter \
             volume={name}` shows them)",
            dir.display()
        ),
        true => format!(
            "volume {name:?} is in use: {what} is mounted on {0}; unmount it first with `larder umount {what}`",
            dir.display()
        ),
        // Of one that was unmounted a moment ago the server may not know yet.
        false => format!(
            "volume {name:?} is in use: {what} was mounted on {}, and is just being unmounted or still in use elsewhere, perhaps in \
             a container",
            dir.display()
        ),
    };
    Err(VolumeError::new(Exit::Busy, message))
}

#[cfg(test)]
mod tests {
    use super::super::list;
    use super::*;
    use crate::volume::put_back;
    use std::cell::Cell;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn root_with(name: &str) -> (tempfile::TempDir, Root, StoreId) {
        let tmp = tempfile::tempdir().unwrap();
        let (root, id) = (Root::new(tmp.path()), StoreId(7));
        root.make().unwrap();
        fs::create_dir_all(root.store(id)).unwrap();
        symlink(Root::link_target(id), root.link(name)).unwrap();
        (tmp, root, id)
    }

    /// Whatever it was that failed first, also that there is no room: then, a volume may go without the trash.
    #[test]
    fn what_cannot_be_brought_back_is_in_the_trash_and_said_to_be_there() {
        for exit in [Exit::Busy, Exit::NoSpace, Exit::Secret, Exit::NoVolume] {
            let (_tmp, root, id) = root_with("v");
            let times = Cell::new(0);
            let must_stay = || {
                times.set(times.get() + 1);
                // A volume of that name.
                fs::create_dir_all(root.memory("v")).unwrap();
                Err(VolumeError::new(exit, "it must stay"))
            };
            let e = discard(&root, (id, "v"), Duration::from_secs(60), must_stay).unwrap_err();
            assert_eq!((e.exit, times.get()), (Exit::Failure, 1), "{e}");
            let there = list(&root).unwrap();
            assert_eq!((there.len(), there[0].store), (1, id));
            for part in ["it must stay", &format!("larder trash restore {}", there[0].key)] {
                assert!(e.message.contains(part), "{e}");
            }
            assert!(there[0].entry.unchecked, "it may be held");
            fs::remove_dir(root.memory("v")).unwrap();
            put_back(&root, &there[0].key, "v").unwrap();
        }
    }

    #[test]
    fn what_must_stay_is_where_it_was() {
        let (_tmp, root, id) = root_with("v");
        let e = discard(&root, (id, "v"), Duration::from_secs(60), || {
            Err(VolumeError::new(Exit::NoSpace, "it must stay"))
        });
        assert_eq!(e.unwrap_err(), VolumeError::new(Exit::NoSpace, "it must stay"));
        assert_eq!(root.resolve("v").unwrap(), Some(id));
        assert!(list(&root).unwrap().is_empty() && fs::read_dir(root.trash()).unwrap().next().is_none());
    }
}
