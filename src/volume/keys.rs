//! The secrets of encrypted volumes: opening with one, and changing them.

use super::error::{Result, VolumeError};
use crate::backing::{Dir, OsDir};
use crate::crypto::{KeySlot, Keyring, KeyringError, Keys, RecoveryKey, Secret, Subkeys, Unlocked};
use crate::exit_code::Exit;
use crate::root::Root;
use crate::store::{Feature, HEADER_NAME, Header, HeaderLock, StoreId};

pub(super) fn failed(dir: &dyn Dir, e: KeyringError) -> VolumeError {
    let path = dir.path(HEADER_NAME);
    match e {
        KeyringError::Wrong(what) => VolumeError::new(Exit::Secret, what),
        KeyringError::Refused(what) => VolumeError::new(Exit::Usage, what),
        KeyringError::Damaged(what) => VolumeError::new(
            Exit::Damaged,
            format!("{}: {what}; restore the file from a backup of the store", path.display()),
        ),
        KeyringError::Io(e) => VolumeError::io(&path, &e),
    }
}

/// Whether a store is encrypted.
///
/// # Errors
/// As the header.
pub fn is_encrypted(root: &Root, id: StoreId) -> Result<bool> {
    Ok(Header::read(&OsDir::new(root.store(id)))?.keyring.is_some())
}

/// Whether snapshots of a store may be held.
///
/// # Errors
/// As its header.
pub fn may_have_holds(root: &Root, id: StoreId) -> Result<bool> {
    Ok(Header::read(&OsDir::new(root.store(id)))?.features.contains(&Feature::Holds))
}

/// The keys of an encrypted store, for a process that serves it or reads it.
///
/// # Errors
/// `Secret` when the secret is wrong, and when the store is not encrypted; or what is wrong with the header.
pub fn unlock(dir: &dyn Dir, secret: &Secret) -> Result<Vec<Subkeys>> {
    let header = Header::read(dir)?;
    let (keyring, store) = keyring_of(dir, &header)?;
    keyring
        .unlock(&store, secret)
        .and_then(|unlocked| keyring.subkeys(&store, &unlocked))
        .map_err(|e| failed(dir, e))
}

/// As [`unlock`], ready for use.
///
/// # Errors
/// As [`unlock`].
pub fn unlock_keys(dir: &dyn Dir, secret: &Secret) -> Result<Keys> {
    Keys::new(unlock(dir, secret)?).map_err(|e| VolumeError::io(&dir.path(HEADER_NAME), &e))
}

pub(super) fn keyring_of(dir: &dyn Dir, header: &Header) -> Result<(Keyring, [u8; 16])> {
    match &header.keyring {
        Some(keyring) => Ok((keyring.clone(), header.store.0.to_be_bytes())),
        None => Err(crate::store::HeaderError::NotEncrypted { path: dir.path(HEADER_NAME) }.into()),
    }
}

/// What a store that is to be made gets, to be opened with these secrets: nothing if there are none.
pub(super) fn new_keyring(id: StoreId, secrets: &[Secret], dir: &dyn Dir) -> Result<(Option<Keyring>, Keys)> {
    if secrets.is_empty() {
        return Ok((None, Keys::Plain));
    }
    let store = id.0.to_be_bytes();
    let made = Keyring::create_unlocked(&store, secrets, None).and_then(|(keyring, unlocked)| {
        let keys = Keys::new(keyring.subkeys(&store, &unlocked)?)?;
        Ok((Some(keyring), keys))
    });
    made.map_err(|e| failed(dir, e))
}

/// The key slots of an encrypted store.
///
/// # Errors
/// As the header, and when the store is not encrypted.
pub fn key_slots(root: &Root, id: StoreId) -> Result<Vec<KeySlot>> {
    let dir = OsDir::new(root.store(id));
    Ok(keyring_of(&dir, &Header::read(&dir)?)?.0.slots().to_vec())
}

/// Changes the keyring of a store, in one step that happens whole or not at all. A server that has the store open goes on
/// with the keys it has: they do not change.
fn change<T>(
    root: &Root,
    id: StoreId,
    unlock: impl FnOnce(&Keyring, &[u8; 16]) -> Result<Unlocked, KeyringError>,
    change: impl FnOnce(&mut Keyring, &[u8; 16], &Unlocked) -> Result<T, KeyringError>,
) -> Result<T> {
    let path = root.store(id);
    // Of two that change it at once, the second must see what the first made of it.
    let _lock = HeaderLock::acquire(&path).map_err(|e| VolumeError::io(&path, &e))?;
    let dir = OsDir::new(path);
    let mut header = Header::read(&dir)?;
    let (mut keyring, store) = keyring_of(&dir, &header)?;
    let unlocked = unlock(&keyring, &store).map_err(|e| failed(&dir, e))?;
    let result = change(&mut keyring, &store, &unlocked).map_err(|e| failed(&dir, e))?;
    header.keyring = Some(keyring);
    header.replace(&dir)?;
    Ok(result)
}

/// Adds a key slot for `new`; returns its number.
///
/// # Errors
/// `Secret` when `secret` is wrong; when there are too many slots; or the host's.
pub fn add_key(root: &Root, id: StoreId, secret: &Secret, new: &Secret) -> Result<u32> {
    change(
        root,
        id,
        |keyring, store| keyring.unlock(store, secret),
        |keyring, store, unlocked| keyring.add(store, unlocked, new, None),
    )
}

/// Replaces the key slot that `secret` opens by one for `new`; returns its number.
///
/// # Errors
/// `Secret` when `secret` is wrong; or the host's.
pub fn rotate_key(root: &Root, id: StoreId, secret: &Secret, new: &Secret) -> Result<u32> {
    change(
        root,
        id,
        |keyring, store| keyring.unlock(store, secret),
        |keyring, store, unlocked| keyring.replace(store, unlocked, new, None).map(|()| unlocked.slot),
    )
}

/// Removes a key slot. `secret` must open another one, so that nobody locks himself out.
///
/// # Errors
/// `Secret` when it does not; when there is no such slot, or no other; or the host's.
pub fn remove_key(root: &Root, id: StoreId, slot: u32, secret: &Secret) -> Result<()> {
    change(
        root,
        id,
        |keyring, store| {
            keyring.clone().remove(slot)?;
            keyring.unlock_except(store, secret, Some(slot))
        },
        |keyring, _, _| keyring.remove(slot),
    )
}

/// A new recovery key: what is printed, and the secret that it is.
///
/// # Errors
/// When the operating system has no randomness to give.
pub fn new_recovery_key() -> Result<(RecoveryKey, Secret)> {
    Keyring::recovery_secret()
        .map_err(|e| VolumeError::new(Exit::Failure, format!("cannot make a recovery key: {e}")))
}
