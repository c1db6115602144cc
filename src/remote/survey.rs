//! What is to be seen of a remote without the secret of its store, and without being its owner.

use super::claim::ALIVE_BYTES_MAX;
use super::error::Result;
use super::format::{Life, OwnerId, StoreObject};
use super::log::{Held, Log, Seen, newest_number};
use super::names;
use super::objects::{Objects, Trouble};
use super::seal::{RemoteSealer, open_asked_store_object, open_store_object};
use crate::crypto::Keys;
use bytes::Bytes;
use std::sync::Arc;

/// The most bytes in the object `store`.
pub(super) const STORE_BYTES_MAX: u64 = 64 << 10;
/// Names that are asked for at once.
const PAGE: usize = 10_000;

/// An owner's sign of life, from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignOfLife {
    /// Whose it is.
    pub owner: OwnerId,
    /// When it was last written, by the clock of the object store, in seconds since 1970.
    pub written: i64,
    /// What it says; `None` where it is encrypted.
    pub life: Option<Life>,
}

/// What is known of a store in a remote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// What it is.
    pub store: StoreObject,
    /// Number of the newest record; 0: there is none.
    pub newest: u64,
    /// When that was written, by the clock of the object store, in seconds since 1970.
    pub written: i64,
    /// Who has claimed it; `None` if nobody has, or it is encrypted.
    pub held: Option<Held>,
    /// Signs of life.
    pub alive: Vec<SignOfLife>,
    /// Objects, all together.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The object `store` of a remote; `None` if there is none.
///
/// # Errors
/// Those of requests and of opening.
pub fn read_store(objects: &dyn Objects) -> Result<Option<StoreObject>> {
    read_store_as(objects, open_store_object)
}

/// The same, also of a store of which somebody looks whether it may be removed; and whether it is one.
pub(super) fn read_asked_store(objects: &dyn Objects) -> Result<Option<(StoreObject, bool)>> {
    read_store_as(objects, open_asked_store_object)
}

fn read_store_as<T>(objects: &dyn Objects, open: fn(&str, &Bytes) -> Result<T>) -> Result<Option<T>> {
    match objects.get(names::STORE, STORE_BYTES_MAX) {
        Ok(bytes) => open(objects.place(), &bytes).map(Some),
        Err(e) if e.trouble == Trouble::Missing => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Looks at the store in a remote; `None` if there is none.
///
/// # Errors
/// Those of requests and of opening.
pub fn survey(objects: &Arc<dyn Objects>) -> Result<Option<Survey>> {
    let Some(store) = read_store(&**objects)? else { return Ok(None) };
    let sealer = RemoteSealer::new(store.store, &Keys::Plain, objects.place());
    let (newest, held) = if store.encrypted {
        (newest_number(&**objects)?, None)
    } else {
        let log = Log::open(Arc::clone(objects), sealer.clone(), Seen::Nothing)?;
        (log.state().newest.number, log.state().held.clone())
    };
    let written = if newest > 0 { objects.head(&names::record(newest))?.modified } else { 0 };
    let mut alive = Vec::new();
    for listed in objects.list(names::ALIVE, "", PAGE)? {
        let Some((owner, _)) = names::alive_of(&listed.name) else { continue };
        let life = match objects.get(&listed.name, ALIVE_BYTES_MAX) {
            Ok(bytes) if !store.encrypted => Some(sealer.open_alive(&listed.name, bytes)?.life),
            Ok(_) => None,
            Err(e) if e.trouble == Trouble::Missing => continue,
            Err(e) => return Err(e.into()),
        };
        alive.push(SignOfLife { owner, written: listed.modified, life });
    }
    let (mut count, mut bytes, mut after) = (0, 0, String::new());
    loop {
        let page = objects.list("", &after, PAGE)?;
        let Some(last) = page.last() else { break };
        after = last.name.clone();
        count += page.len() as u64;
        bytes += page.iter().map(|listed| listed.bytes).sum::<u64>();
    }
    Ok(Some(Survey { store, newest, written, held, alive, objects: count, bytes }))
}
