//! Beginning a remote.

use super::erase::must_be_empty;
use super::error::{RemoteError, Result};
use super::format::{StoreObject, random};
use super::names;
use super::objects::{Objects, Trouble};
use super::seal::RemoteSealer;
use super::survey::read_store;

/// Makes sure that the object store does not write what is there already when it is told not to: on that alone it rests that a store has one
/// owner. It takes one request, and two the first time.
///
/// # Errors
/// [`RemoteError::Overwrites`] where it does; those of requests.
pub fn must_not_overwrite(objects: &dyn Objects) -> Result<()> {
    for _ in 0..2 {
        // Bytes that are not there yet.
        let bytes = random::<16>().map_err(|e| RemoteError::host("cannot get random bytes", &e))?;
        match objects.put_new(names::PROBE, bytes.to_vec().into()) {
            Ok(()) => {}
            Err(e) if e.trouble == Trouble::Exists => return Ok(()),
            Err(e) => return Err(e.into()),
        }
    }
    Err(RemoteError::Overwrites { place: objects.place().into() })
}

/// Makes an empty prefix the remote of a store; that it is already is no error. The object store must be one on which that can be.
///
/// # Errors
/// [`RemoteError::OtherStore`], [`RemoteError::Overwrites`]; [`RemoteError::BeingRemoved`] where something is left of another one; those of
/// requests and of opening.
pub fn init(objects: &dyn Objects, sealer: &RemoteSealer, created: u64) -> Result<()> {
    let other = |found: &StoreObject| RemoteError::OtherStore {
        place: objects.place().into(),
        found: found.store.to_string(),
    };
    let encrypted = sealer.keys().is_encrypted();
    let found = match read_store(objects)? {
        Some(found) => found,
        None => {
            // Whoever attached what is shipped there now would find records of two stores.
            must_be_empty(objects)?;
            let store = StoreObject::new(sealer.store(), created, encrypted);
            match objects.put_new(names::STORE, sealer.seal_store(&store)?.bytes) {
                Ok(()) => return must_not_overwrite(objects),
                // Somebody else was quicker.
                Err(e) if e.trouble == Trouble::Exists => read_store(objects)?.ok_or(e)?,
                Err(e) => return Err(e.into()),
            }
        }
    };
    if found.store != sealer.store() {
        return Err(other(&found));
    }
    if found.encrypted != encrypted {
        return Err(RemoteError::Secret { place: objects.place().into(), encrypted: found.encrypted });
    }
    must_not_overwrite(objects)
}
