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

/// The newest version of the header that is there, to have keys for the log; only the log says which one is in force. `None` if there is none.
///
/// # Errors
/// Those of requests and of opening.
pub fn newest_header(objects: &dyn Objects, id: StoreId) -> Result<Option<(HeaderRef, Header)>> {
    let listed = objects.list(names::HEADER, "", PAGE)?;
    let newest = listed.iter().rev().find_map(|listed| names::header_number(&listed.name));
    // Lists may be late.
    let (mut number, mut found) = (newest.unwrap_or(0).max(1), None);
    loop {
        match objects.get(&names::header(number), HEADER_BYTES_MAX) {
            Ok(bytes) => {
                let (json, header) = open_header(objects.place(), id, number, &bytes)?;
                found = Some((HeaderRef { number, hash: hash(&json) }, header));
                number += 1;
            }
            Err(e) if e.trouble == Trouble::Missing => return Ok(found),
            Err(e) => return Err(e.into()),
        }
    }
}
