//! The keys of a store that is in a remote.

use super::error::{Result, VolumeError};
use super::keys::{failed, keyring_of};
use crate::backing::OsDir;
use crate::crypto::{Keys, Secret};
use crate::exit_code::Exit;
use crate::remote::{
    BootClock, Log, Objects, RemoteError, RemoteSealer, Seen, header_in_force, header_versions, names,
    or_breaks_off, read_store, read_version,
};
use crate::store::{Header, StoreId};
use std::path::Path;
use std::sync::Arc;

/// Versions of the header that are tried at most.
const VERSIONS_MAX: usize = 32;

/// Opens the log of the store `id`, with the keys that the header in force there has; `secret` is asked for the secret of an encrypted one.
///
/// A newer version of the header may be there than the one in force: of an owner who began with new keys and never wrote with them, or who was
/// not the owner any more. What is put down or written must not be sealed with these. Nor does one count that has keys where the store is not
/// encrypted, or none where it is.
///
/// # Errors
/// `Secret` when it opens nothing; `NoVolume` where there is no store, or no header; those of the remote.
pub fn open_log(
    objects: &Arc<dyn Objects>,
    id: StoreId,
    secret: &mut dyn FnMut() -> Result<Secret>,
) -> Result<(Log, Keys)> {
    open_log_as(objects, id, secret, &|objects, sealer| {
        let log = Log::open(Arc::clone(objects), sealer.clone(), Seen::Nothing);
        log.map_err(|e| or_breaks_off(e, &**objects, sealer, &BootClock))
    })
}

/// The same of a log that may break off: what is behind the gap does not count.
///
/// # Errors
/// As [`open_log`].
pub(super) fn open_log_before_gap(
    objects: &Arc<dyn Objects>,
    id: StoreId,
    secret: &mut dyn FnMut() -> Result<Secret>,
) -> Result<(Log, Keys)> {
    open_log_as(objects, id, secret, &|objects, sealer| {
        Ok(Log::open_before_gap(Arc::clone(objects), sealer.clone(), &BootClock)?.0)
    })
}

type OpenLog<'a> = &'a dyn Fn(&Arc<dyn Objects>, &RemoteSealer) -> std::result::Result<Log, RemoteError>;

fn open_log_as(
    objects: &Arc<dyn Objects>,
    id: StoreId,
    secret: &mut dyn FnMut() -> Result<Secret>,
    opens: OpenLog<'_>,
) -> Result<(Log, Keys)> {
    let place = objects.place();
    let open = |keys: &Keys| opens(objects, &RemoteSealer::new(id, keys, place));
    let Some(store) = read_store(&**objects)? else {
        return Err(RemoteError::NoStore { place: place.into() }.into());
    };
    let mut known: Option<Secret> = None;
    let mut first_error: Option<VolumeError> = None;
    for number in header_versions(&**objects)?.into_iter().take(VERSIONS_MAX) {
        let Some(header) = read_version(&**objects, id, number)? else { continue };
        if header.keyring.is_some() != store.encrypted {
            let what = match store.encrypted {
                true => "it has no keys, and the store is encrypted",
                false => "it has keys, and the store is not encrypted",
            };
            let (place, name) = (place.into(), names::header(number));
            let e = RemoteError::Damaged { place, name, what: what.into() };
            first_error.get_or_insert(e.into());
            continue;
        }
        if header.keyring.is_none() {
            return Ok((open(&Keys::Plain)?, Keys::Plain));
        }
        let secret = match &known {
            Some(secret) => secret,
            None => known.insert(secret()?),
        };
        let keys = match keys_of(&header, secret, place) {
            Ok(keys) => keys,
            Err(e) => {
                first_error.get_or_insert(e);
                continue;
            }
        };
        let log = match open(&keys) {
            Ok(log) => log,
            // Of a history that is none.
            Err(e @ RemoteError::Damaged { .. }) => {
                first_error.get_or_insert(e.into());
                continue;
            }
            Err(e) => return Err(e.into()),
        };
        if [0, number].contains(&log.state().header.number) {
            return Ok((log, keys));
        }
        let keys = keys_of(&header_in_force(&log)?.1, secret, place)?;
        return Ok((open(&keys)?, keys));
    }
    Err(first_error.unwrap_or_else(|| RemoteError::NoStore { place: place.into() }.into()))
}

fn keys_of(header: &Header, secret: &Secret, place: &str) -> Result<Keys> {
    let here = OsDir::new(Path::new("."));
    let (keyring, store) = keyring_of(&here, header)?;
    let subkeys = keyring.unlock(&store, secret).and_then(|unlocked| keyring.subkeys(&store, &unlocked));
    let wrong = |e| match failed(&here, e) {
        e if e.exit == Exit::Secret => e.context(&format!("cannot open what is in {place}")),
        e => e,
    };
    Keys::new(subkeys.map_err(wrong)?).map_err(|e| VolumeError::new(Exit::Failure, e.to_string()))
}
