//! Finding out about volumes, whether a server has them open or not.

use super::ask::{PATIENCE, Question};
use super::secret::Secrets;
use crate::crypto::Keys;
use crate::exit_code::Exit;
use crate::root::Root;
use crate::server::{Client, Status};
use crate::store::StoreId;
use crate::volume::{
    Result, SnapshotInfo, Target, VolumeError, VolumeInfo, inspect_offline, read_info, snapshots_of,
};
use std::collections::HashMap;
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
        Ok(None) if root.memory(name).exists() => Err(VolumeError::new(
            Exit::Usage,
            format!(
                "volume {name:?} lives in memory only: it has no store, and so no snapshots, clones, keys or checks, and is mounted \
                 for containers alone; while it is, `mount --bind {} DIR` shows it elsewhere too",
                root.mountpoints().join(name).display()
            ),
        )),
        Ok(None) => Err(VolumeError::no_volume(name)),
        Err(e) => Err(VolumeError::io(&root.link(name), &e)),
    }
}

/// The server of a store, if one runs.
///
/// # Errors
/// As connect(2), or when it does not answer.
pub fn server_of(root: &Root, id: StoreId) -> Result<Option<Client>> {
    Client::connect(root, id)
}

/// The same, if it answers within `patience`, also whatever it is asked.
///
/// # Errors
/// As [`server_of`].
pub fn server_within(root: &Root, id: StoreId, patience: Duration) -> Result<Option<Client>> {
    Client::connect_within(root, id, patience)
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
        let status = client.status()?;
        let info = status.volumes.iter().find(|info| info.name == name).cloned();
        let info = info.ok_or_else(|| VolumeError::no_volume(name))?;
        Ok(Look { info, status: Some(status) })
    };
    let here = |id, keys: &Keys| read_info(root, id, name, keys).map(|info| Look { info, status: None });
    Question::reading(root, name, secret).within(patience).ask(by_server, here)
}

/// The snapshots of the volume that is asked about, the oldest first, with what each of them alone holds.
///
/// # Errors
/// `NoVolume`, damage, or the host's.
pub fn snapshots(question: &Question<'_>) -> Result<Vec<SnapshotInfo>> {
    let (root, volume) = question.volume();
    question.ask(
        |client| client.snapshots(volume),
        |id, keys| inspect_offline(root, id, volume, keys, |inspector| snapshots_of(inspector, volume)),
    )
}

/// Looks at many volumes, one after the other. A server that has not answered is not asked for the next volume of its store again.
#[derive(Debug)]
pub struct Looker<'a> {
    root: &'a Root,
    patience: Duration,
    silent: HashMap<StoreId, VolumeError>,
}

impl<'a> Looker<'a> {
    /// One that has seen nothing yet.
    pub fn new(root: &'a Root) -> Self {
        Self { root, patience: PATIENCE, silent: HashMap::new() }
    }

    /// The same, with another patience with servers.
    #[must_use]
    pub fn within(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// As [`look`].
    ///
    /// # Errors
    /// As [`look`].
    pub fn look(&mut self, name: &str, secret: Option<&Secrets>) -> Result<Look> {
        let id = store_of(self.root, name)?;
        if let Some(e) = self.silent.get(&id) {
            return Err(e.clone());
        }
        let found = look_for(self.root, name, secret, self.patience);
        if let Err(e) = &found
            && e.silent
        {
            self.silent.insert(id, e.clone());
        }
        found
    }
}
