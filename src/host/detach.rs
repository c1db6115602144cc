//! Leaving a volume to its remote: all of it is shipped, and goes from this host.

use super::ask::without_asking;
use super::look::{server_of, store_of};
use super::record::Record;
use super::secret::Secrets;
use super::users::Users;
use crate::exit_code::Exit;
use crate::root::Root;
use crate::server::ship_to_leave;
use crate::store::StoreId;
use crate::volume::{Result, VolumeError, leave_to_remote, must_not_be_in_trash, names_in, remote_of};
use std::time::{Duration, Instant};

/// How long a server that has no mounts may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// What would go with a volume that is detached.
#[derive(Clone, Debug)]
pub struct Leaving {
    /// Its store.
    pub id: StoreId,
    /// URL of its remote.
    pub remote: String,
    /// What users call that in a command.
    pub called: String,
    /// All volumes of its store.
    pub names: Vec<String>,
}

/// What would go with a volume that is detached.
///
/// # Errors
/// `NoVolume`, or `Usage` if it has no remote.
pub fn leaving(root: &Root, name: &str) -> Result<Leaving> {
    let id = store_of(root, name)?;
    let Some(local) = remote_of(root, id)? else {
        let what = format!("volume {name:?} has no remote, and would be lost; `larder rm {name}` removes it");
        return Err(VolumeError::new(Exit::Usage, what));
    };
    if let Some(at) = local.at {
        let what = format!(
            "volume {name:?} is the state of {at} in {}: nothing of it is shipped; `larder rm --now {name}` removes it here",
            local.remote
        );
        return Err(VolumeError::new(Exit::Usage, what));
    }
    let called = local.called();
    Ok(Leaving { id, remote: local.remote, called, names: names_in(root, id)? })
}

/// Ships what there is of the store of a volume that nobody uses, says goodbye, and removes the store from this host, with the names of all
/// its volumes.
///
/// # Errors
/// `Busy` if one of them is mounted; why not all of it is in the remote after `timeout`: then nothing is removed here.
pub fn leave(
    root: &Root,
    name: &str,
    leaving: &Leaving,
    secrets: &Secrets,
    timeout: Duration,
    progress: impl Fn(u64, u64),
) -> Result<Vec<String>> {
    let id = leaving.id;
    must_not_be_in_trash(root, id)?;
    await_server(root, id, name)?;
    let (shipped, lock) = without_asking(root, (id, name), secrets, |secrets| {
        ship_to_leave(root, id, secrets.keys(root, id, name)?, timeout)
    })?;
    let names = leave_to_remote(root, id, name, (&shipped, lock), progress)?;
    let _lock = root.lock().map_err(|e| VolumeError::io(root.path(), &e))?;
    for name in &names {
        // Another one may have the name by now.
        if !matches!(root.resolve(name), Ok(Some(_))) {
            Record::forget_about(root, name, id)?;
            Users::forget(root, name)?;
        }
    }
    Ok(names)
}

/// Waits for a server to end that has nothing mounted any more.
fn await_server(root: &Root, id: StoreId, name: &str) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    while let Some(mut client) = server_of(root, id)? {
        let status = client.status()?;
        if !status.mounts.is_empty() || Instant::now() >= until {
            let volumes: Vec<&str> = status.mounts.iter().map(|mount| mount.volume.as_str()).collect();
            let what = match volumes.as_slice() {
                [] => format!("volume {name:?} is in use"),
                [one] => format!("volume {one:?} is mounted; unmount it first with `larder umount {one}`"),
                more => format!("the volumes {} are mounted; unmount them first", more.join(", ")),
            };
            return Err(VolumeError::new(Exit::Busy, what));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
