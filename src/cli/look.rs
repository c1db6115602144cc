//! Finding out about volumes, whether a server has them open or not.

use crate::exit_code::Exit;
use crate::root::Root;
use crate::server::{Client, Status};
use crate::store::StoreId;
use crate::volume::{Result, Target, VolumeError, VolumeInfo, read_info};
use std::time::{Duration, Instant};

/// A volume and, if one runs, its server.
pub(super) struct Look {
    pub(super) info: VolumeInfo,
    pub(super) status: Option<Status>,
}

/// The store of the volume `name`, or of the volume of the snapshot `name`.
pub(super) fn store_of(root: &Root, name: &str) -> Result<StoreId> {
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
pub(super) fn server_of(root: &Root, id: StoreId) -> Result<Option<Client>> {
    let path = root.store(id);
    Client::connect(&path).map_err(|e| VolumeError::io(&path, &e))
}

/// All there is to know about a volume. A server that is starting or ending is waited for.
pub(super) fn look(root: &Root, name: &str) -> Result<Look> {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let id = store_of(root, name)?;
        let result = match server_of(root, id)? {
            Some(mut client) => client.status().and_then(|status| {
                let info = status.volumes.iter().find(|info| info.name == name).cloned();
                let info = info.ok_or_else(|| VolumeError::no_volume(name))?;
                Ok(Look { info, status: Some(status) })
            }),
            None => read_info(root, id, name).map(|info| Look { info, status: None }),
        };
        match result {
            Err(e) if matches!(e.exit, Exit::Busy | Exit::Failure) && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(50));
            }
            other => return other,
        }
    }
}
