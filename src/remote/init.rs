//! Beginning a remote.

use super::erase::must_be_empty;
use super::error::{RemoteError, Result};
use super::format::StoreObject;
use super::names;
use super::objects::{Objects, Trouble};
use super::seal::RemoteSealer;
use super::survey::read_store;

/// Makes an empty prefix the remote of a store; that it is already is no error.
///
/// # Errors
/// [`RemoteError::OtherStore`]; [`RemoteError::BeingRemoved`] where something is left of another one; those of requests and of opening.
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
                Ok(()) => return Ok(()),
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
    Ok(())
}
