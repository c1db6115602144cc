//! Volumes and their remotes, whether a server has them open or not.

use super::look::{server_of, store_of};
use super::secret::Secrets;
use super::upgrade::upgrade;
use crate::backing::{Dir, OsDir};
use crate::crypto::Keys;
use crate::exit_code::Exit;
use crate::remote::Local;
use crate::root::Root;
use crate::server::{RemoteStatus, ship_closed};
use crate::store::StoreId;
use crate::volume::{
    NewRemote, Result, VolumeError, add_remote, forget_remote, is_encrypted, remote_of, unlock_keys,
};
use std::path::Path;
use std::time::Duration;

/// What is known of a volume's remote.
#[derive(Clone, Debug)]
pub struct RemoteLook {
    /// What its store remembers.
    pub local: Local,
    /// How shipping goes; `None` where no server has it open.
    pub status: Option<RemoteStatus>,
}

fn without(name: &str) -> VolumeError {
    let what = format!("volume {name:?} has no remote; give it one with `larder remote add {name} URL`");
    VolumeError::new(Exit::Usage, what)
}

/// How it is with the remote of a volume.
///
/// # Errors
/// `NoVolume`, or that it has none.
pub fn remote_status(root: &Root, name: &str) -> Result<RemoteLook> {
    let id = store_of(root, name)?;
    let status = match server_of(root, id)? {
        Some(mut client) => client.status()?.remote,
        None => None,
    };
    let local = remote_of(root, id)?.ok_or_else(|| without(name))?;
    Ok(RemoteLook { local, status })
}

/// Gives the family of a volume a remote, to which it is shipped from now on, or from when it is mounted. True if that is now.
///
/// # Errors
/// As [`add_remote`]; and where what is mounted cannot be taken over by another server, which has to begin with it: then nothing has
/// changed until it is unmounted and mounted again.
pub fn begin_remote(root: &Root, name: &str, remote: &NewRemote, program: &Path) -> Result<bool> {
    let id = store_of(root, name)?;
    add_remote(root, id, name, remote)?;
    match upgrade(root, id, program) {
        Ok(done) => Ok(done.is_some()),
        Err(e) => Err(e.context(&format!(
            "volume {name:?} has its remote, but nothing is shipped before it is unmounted and mounted again"
        ))),
    }
}

/// Lets the family of a volume be without a remote again, and returns the URL that it had. What is there stays there, as it was shipped last.
///
/// # Errors
/// As [`forget_remote`]; and where what is mounted cannot be taken over by another server: then the one that serves it ships on until it is
/// unmounted.
pub fn end_remote(root: &Root, name: &str, program: &Path) -> Result<String> {
    let id = store_of(root, name)?;
    let url = forget_remote(root, id, name)?;
    match upgrade(root, id, program) {
        Ok(_) => Ok(url),
        Err(e) => Err(e.context(&format!(
            "volume {name:?} is shipped until it is unmounted, and not any more after that"
        ))),
    }
}

fn keys_of(root: &Root, id: StoreId, name: &str, secrets: &Secrets) -> Result<Keys> {
    if !is_encrypted(root, id)? {
        return Ok(Keys::Plain);
    }
    let dir: &dyn Dir = &OsDir::new(root.store(id));
    unlock_keys(dir, &secrets.secret(name)?)
}

/// Waits until everything in the store of a volume is in its remote.
///
/// # Errors
/// Why it is not after `timeout`, and `NoVolume`, `Secret`, or that it has none.
pub fn sync_remote(root: &Root, name: &str, secrets: &Secrets, timeout: Duration) -> Result<()> {
    let id = store_of(root, name)?;
    if remote_of(root, id)?.is_none() {
        return Err(without(name));
    }
    match server_of(root, id)? {
        Some(mut client) => client.sync_remote(timeout),
        None => ship_closed(root, id, keys_of(root, id, name, secrets)?, timeout),
    }
}
