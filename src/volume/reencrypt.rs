//! Sealing everything in a store again, under new keys.

use super::error::{Result, VolumeError};
use super::keys::{failed, keyring_of};
use super::offline::open_offline;
use crate::backing::{Dir, OsDir};
use crate::crypto::{Keys, Secret, Subkeys};
use crate::exit_code::Exit;
use crate::open_store::{OpenStore, Reencryption, Trouble};
use crate::root::Root;
use crate::store::{Header, HeaderLock, StoreId, count_by_epoch};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How often somebody who waits looks how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A re-encryption that was begun, or found under way: its keys are in the header, and who opens the store goes on with it.
#[derive(Debug)]
pub struct Begun {
    /// The keys of all epochs, for who has the store open already.
    pub keys: Vec<Subkeys>,
    /// The epoch that everything will be sealed in.
    pub epoch: u32,
    /// Key slots that went with the old master key.
    pub removed_slots: Vec<u32>,
}

/// Begins to seal everything in the store again; if that is under way, it goes on. With `new_master`, the store also gets a
/// new master key, and only the slot that `secret` opens is left.
///
/// # Errors
/// `Secret` when `secret` is wrong; or the host's. Nothing was begun then.
pub fn begin_reencryption(root: &Root, id: StoreId, secret: &Secret, new_master: bool) -> Result<Begun> {
    let path = root.store(id);
    let _lock = HeaderLock::acquire(&path).map_err(|e| VolumeError::io(&path, &e))?;
    begin_reencryption_in(&OsDir::new(path), secret, new_master)
}

/// As [`begin_reencryption`], in a directory whose header nobody else changes.
///
/// # Errors
/// As [`begin_reencryption`].
pub fn begin_reencryption_in(dir: &dyn Dir, secret: &Secret, new_master: bool) -> Result<Begun> {
    let mut header = Header::read(dir)?;
    let (mut keyring, store) = keyring_of(dir, &header)?;
    let failed = |e| failed(dir, e);
    let mut unlocked = keyring.unlock(&store, secret).map_err(failed)?;
    let slots: Vec<u32> = keyring.slots().iter().map(|slot| slot.id).collect();
    // Who knows the old master key can read the key of an epoch that was begun with it: that one will not do.
    let begins = new_master || keyring.epochs().len() < 2;
    if new_master {
        unlocked = keyring.renew_master(&store, &unlocked, secret, None).map_err(failed)?;
    }
    if begins {
        keyring.begin_epoch(&store, &unlocked).map_err(failed)?;
    }
    let keys = keyring.subkeys(&store, &unlocked).map_err(failed)?;
    let epoch = keyring.epochs().last().copied().unwrap_or(0);
    let kept = |id: &u32| keyring.slots().iter().any(|slot| slot.id == *id);
    let removed_slots = slots.into_iter().filter(|id| !kept(id)).collect();
    if begins {
        header.keyring = Some(keyring);
        header.replace(dir)?;
    }
    Ok(Begun { keys, epoch, removed_slots })
}

/// How far a re-encryption is, for a message to somebody else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReencryptionInfo {
    /// The key epoch that everything will be sealed in.
    pub epoch: u32,
    /// Bytes that are, of those that were not when the process began that has the store open.
    pub done: u64,
    /// How many these were; 0 while that is not known.
    pub total: u64,
    /// The exit code and the message, if it does not go on.
    pub trouble: Option<(u8, String)>,
}

impl From<Reencryption> for ReencryptionInfo {
    fn from(state: Reencryption) -> Self {
        let Reencryption { epoch, done, total, trouble } = state;
        let trouble = trouble.map(|trouble| {
            let exit = match trouble {
                Trouble::NoSpace(_) => Exit::NoSpace,
                Trouble::Damaged(_) => Exit::Damaged,
                Trouble::Failed(_) => Exit::HostIo,
            };
            (exit as u8, trouble.message().to_owned())
        });
        Self { epoch, done, total, trouble }
    }
}

impl ReencryptionInfo {
    /// Why it does not go on, as an error.
    pub fn error(&self) -> Option<VolumeError> {
        self.trouble.as_ref().map(|(code, what)| VolumeError::new(Exit::of_number(*code), what.clone()))
    }
}

/// Lets an open store seal everything again; continues in the background after this returns.
///
/// # Errors
/// When the header does not hold these keys.
pub fn reencrypt(store: &OpenStore, keys: Vec<Subkeys>) -> Result<()> {
    Ok(store.reencrypt(keys)?)
}

/// Seals everything again in a store that no server has open.
///
/// # Errors
/// `Busy` when another process has the store open, `NoSpace`, damage, or the host's. What was done is not undone.
pub fn reencrypt_offline(
    root: &Root,
    id: StoreId,
    keys: Keys,
    mut progress: impl FnMut(&ReencryptionInfo),
) -> Result<()> {
    let store = open_offline(root, id, keys)?;
    store.hurry_reencryption();
    let result = loop {
        let Some(state) = store.reencryption().map(ReencryptionInfo::from) else { break Ok(()) };
        if let Some(e) = state.error() {
            break Err(e);
        }
        progress(&state);
        std::thread::sleep(LOOK_EVERY);
    };
    let closed = store.close();
    result?;
    closed.map_err(|e| VolumeError::new(Exit::HostIo, format!("{}: {e}", root.store(id).display())))
}

/// What the header and the segments say about the keys of a store. Needs no secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyEpochs {
    /// The epoch in which new things are sealed.
    pub epoch: u32,
    /// Epochs in which something is still sealed, while everything is being sealed again.
    pub older: Vec<u32>,
    /// Segments of the store.
    pub segments: u64,
    /// Those that are sealed with older keys.
    pub segments_left: u64,
}

/// What the header and the segments say about the keys of a store; `None` if it is not encrypted.
///
/// # Errors
/// As the header, or the host's.
pub fn key_epochs(root: &Root, id: StoreId) -> Result<Option<KeyEpochs>> {
    let dir = OsDir::new(root.store(id));
    let mut epochs = Header::read(&dir)?.epochs();
    let Some(epoch) = epochs.pop() else { return Ok(None) };
    let (segments, older) = match epochs.is_empty() {
        true => (0, 0),
        false => count_by_epoch(&dir, epoch).map_err(|e| VolumeError::io(&dir.path(""), &e))?,
    };
    Ok(Some(KeyEpochs { epoch, older: epochs, segments, segments_left: older }))
}
