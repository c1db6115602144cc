//! Finding out about volumes, whether a server has them open or not.

use super::ask::{PATIENCE, Question};
use super::secret::Secrets;
use crate::crypto::Keys;
use crate::exit_code::Exit;
use crate::root::Root;
use crate::server::{Client, Status};
use crate::store::StoreId;
use crate::volume::{Result, Target, VolumeError, VolumeInfo, read_info};
use std::time::Duration;

/// A volume and, if one runs, its server.
#[derive(Clone, Debug)]
pub struct Look {
    /// The volume.
    pub info: VolumeInfo,
    /// How its server is.
    pub status: Option<Status>,
}

/// The store of the volume `name`, or of the volume of the snapshot `name`.
///
/// # Errors
/// `NoVolume`, or `Damaged` if its store is gone.
pub fn store_of(root: &Root, name: &str) -> Result<StoreId> {
    let target = Target::parse(name)?;
    let name = target.volume.as_str();
    match root.resolve(name) {
        Ok(Some(id)) if root.store(id).exists() => Ok(id),
        Ok(Some(id)) => Err(VolumeError::new(
            Exit::Damaged,
            format!(
                "volume {name:?}: its store {} is gone; restore it from a backup",
                root.store(id).display()
            ),
        )),
        Ok(None) => Err(VolumeError::no_volume(name)),
        Err(e) => Err(VolumeError::io(&root.link(name), &e)),
    }
}

/// The server of a store, if one runs.
///
/// # Errors
/// As connect(2).
pub fn server_of(root: &Root, id: StoreId) -> Result<Option<Client>> {
    let path = root.store(id);
    Client::connect(&path).map_err(|e| VolumeError::io(&path, &e))
}

/// All there is to know about a volume. A server that is starting or ending is waited for. `secret` is asked for what opens
/// an encrypted one that no server has open; without it, that is an error with the exit code `Secret`.
///
/// # Errors
/// `NoVolume`, damage, or the host's.
pub fn look(root: &Root, name: &str, secret: Option<&Secrets>) -> Result<Look> {
    look_for(root, name, secret, PATIENCE)
}

/// As [`look`], for `patience` at most.
///
/// # Errors
/// As [`look`].
pub fn look_for(root: &Root, name: &str, secret: Option<&Secrets>, patience: Duration) -> Result<Look> {
    let by_server = |client: &mut Client| {
        client.set_patience(patience).map_err(|e| VolumeError::io(&root.volumes(), &e))?;
        let status = client.status()?;
        let info = status.volumes.iter().find(|info| info.name == name).cloned();
        let info = info.ok_or_else(|| VolumeError::no_volume(name))?;
        Ok(Look { info, status: Some(status) })
    };
    let here = |id, keys: &Keys| read_info(root, id, name, keys).map(|info| Look { info, status: None });
    Question::reading(root, name, secret).within(patience).ask(by_server, here)
}
