//! Finding out about volumes, whether a server has them open or not.

use super::secret::Secrets;
use crate::crypto::Keys;
use crate::exit_code::Exit;
use crate::root::Root;
use crate::server::{Client, Status};
use crate::store::StoreId;
use crate::volume::{Result, Target, VolumeError, VolumeInfo, read_info};
use std::time::{Duration, Instant};

/// How long a server that is starting or ending is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

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

fn gone(root: &Root, id: StoreId, e: &std::io::Error) -> VolumeError {
    VolumeError::io(&root.store(id), e)
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
    let mut known: Option<Keys> = None;
    let until = Instant::now() + patience;
    loop {
        let id = store_of(root, name)?;
        let result = match server_of(root, id)? {
            Some(mut client) => client
                .set_patience(patience)
                .map_err(|e| gone(root, id, &e))
                .and_then(|()| client.status())
                .and_then(|status| {
                    let info = status.volumes.iter().find(|info| info.name == name).cloned();
                    let info = info.ok_or_else(|| VolumeError::no_volume(name))?;
                    Ok(Look { info, status: Some(status) })
                }),
            None => {
                let keys = match (&known, secret) {
                    (Some(keys), _) => keys.clone(),
                    (None, Some(secret)) => secret.keys(root, id, name)?,
                    (None, None) => Keys::Plain,
                };
                known = Some(keys.clone());
                read_info(root, id, name, &keys).map(|info| Look { info, status: None })
            }
        };
        match result {
            Err(e) if matches!(e.exit, Exit::Busy | Exit::Failure) && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(50));
            }
            other => return other,
        }
    }
}
