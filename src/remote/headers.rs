//! Versions of `header.json` in a remote: what has to be read in order to have the keys.

use super::error::{RemoteError, Result};
use super::format::HeaderRef;
use super::names;
use super::objects::{Objects, Trouble};
use super::seal::{RemoteSealer, SEALED_HEAD_BYTES, open_header};
use crate::crypto::hash;
use crate::store::{Header, StoreId};
use bytes::Bytes;

/// The most bytes in a version of the header, with what it is sealed by.
pub const HEADER_BYTES_MAX: u64 = (64 << 10) + SEALED_HEAD_BYTES as u64;
/// Versions that are listed at once.
const PAGE: usize = 10_000;

/// Puts a version of the header into the remote, which the next record is to name.
///
/// # Errors
/// That of another version with this number, and those of requests.
pub fn put_header(
    objects: &dyn Objects,
    sealer: &RemoteSealer,
    number: u64,
    json: &[u8],
) -> Result<HeaderRef> {
    objects.put_new(&names::header(number), sealer.seal_header(number, json)?.bytes)?;
    Ok(HeaderRef { number, hash: hash(json) })
}

/// Reads the version of the header of the store `id` that a record names: the bytes of the file, and what they say.
///
/// # Errors
/// When it is not there, or is another one.
pub fn read_header(objects: &dyn Objects, id: StoreId, header: HeaderRef) -> Result<(Bytes, Header)> {
    let name = names::header(header.number);
    let bytes = objects.get(&name, HEADER_BYTES_MAX).map_err(|e| match e.trouble {
        Trouble::Missing => RemoteError::Lost { place: objects.place().into(), name: name.clone() },
        _ => e.into(),
    })?;
    let (json, found) = open_header(objects.place(), id, header.number, &bytes)?;
    if hash(&json) == header.hash {
        Ok((json, found))
    } else {
        Err(RemoteError::damaged(objects.place(), &name, "it is not the version that the log names"))
    }
}

/// The numbers of the versions of the header that are there, the newest first: to have keys for the log, which says which one is in force.
/// Newer ones may be of somebody who has not written, or was not the owner any more.
///
/// # Errors
/// Those of requests.
pub fn header_versions(objects: &dyn Objects) -> Result<Vec<u64>> {
    let listed = objects.list(names::HEADER, "", PAGE)?;
    let mut numbers: Vec<u64> =
        listed.iter().filter_map(|listed| names::header_number(&listed.name)).collect();
    numbers.sort_unstable();
    // Lists may be late.
    loop {
        let next = numbers.last().map_or(1, |newest| newest + 1);
        match objects.head(&names::header(next)) {
            Ok(_) => numbers.push(next),
            Err(e) if e.trouble == Trouble::Missing => break,
            Err(e) => return Err(e.into()),
        }
    }
    numbers.reverse();
    Ok(numbers)
}

/// A version of the header of the store `id`; `None` if it is not there.
///
/// # Errors
/// Those of requests and of opening.
pub fn read_version(objects: &dyn Objects, id: StoreId, number: u64) -> Result<Option<Header>> {
    match objects.get(&names::header(number), HEADER_BYTES_MAX) {
        Ok(bytes) => Ok(Some(open_header(objects.place(), id, number, &bytes)?.1)),
        Err(e) if e.trouble == Trouble::Missing => Ok(None),
        Err(e) => Err(e.into()),
    }
}
