//! Names of the objects of a remote, below its prefix.

use super::format::{OwnerId, PartRef, PieceHash};

/// The first object that is made: what the store is.
pub const STORE: &str = "store";
/// What tells whether the object store lets itself be written over. Its contents mean nothing.
pub const PROBE: &str = "probe";
/// What the names of records begin with.
pub const LOG: &str = "log/";
/// What the names of parts begin with.
pub const DATA: &str = "data/";
/// What the names of pieces of images begin with.
pub const IMAGE: &str = "image/";
/// What the names of versions of the header begin with.
pub const HEADER: &str = "header/";
/// What the names of signs of life begin with.
pub const ALIVE: &str = "alive/";

/// The largest number of a record, or of a version of the header. No owner comes so far: what is called by a larger one is something else.
pub const NUMBER_MAX: u64 = u64::MAX >> 1;

/// Record `number` of the log.
pub fn record(number: u64) -> String {
    format!("{LOG}{number:016x}")
}

/// The number of the record of that name.
pub fn record_number(name: &str) -> Option<u64> {
    number(name.strip_prefix(LOG)?)
}

/// Version `number` of `header.json`.
pub fn header(number: u64) -> String {
    format!("{HEADER}{number:016x}")
}

/// The number of the version of the header of that name.
pub fn header_number(name: &str) -> Option<u64> {
    number(name.strip_prefix(HEADER)?)
}

/// A part.
pub fn part(part: &PartRef) -> String {
    format!("{DATA}{:016x}/{:04x}-{:04x}-{:016x}", part.segment, part.first, part.count, part.random)
}

/// What the names of the parts of a segment begin with.
pub fn parts_of(segment: u64) -> String {
    format!("{DATA}{segment:016x}/")
}

/// Whether a part is called so.
pub fn is_part(name: &str) -> bool {
    let hex = |text: &str, digits: usize| {
        text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let Some((segment, part)) = name.strip_prefix(DATA).and_then(|rest| rest.split_once('/')) else {
        return false;
    };
    let fields: Vec<&str> = part.split('-').collect();
    hex(segment, 16)
        && matches!(fields[..], [a, b, c] if hex(a, 4) && b.len() >= 4 && hex(b, b.len()) && hex(c, 16))
}

/// Whether a piece is called so.
pub fn is_piece(name: &str) -> bool {
    let digits = name.strip_prefix(IMAGE);
    digits
        .is_some_and(|hash| hash.len() == 64 && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
}

/// A piece of an image.
pub fn piece(hash: &PieceHash) -> String {
    format!("{IMAGE}{hash}")
}

/// An owner's sign of life, for the claim with this random number.
pub fn alive(owner: OwnerId, sign: u64) -> String {
    format!("{ALIVE}{owner}-{sign:016x}")
}

/// Whose sign of life, and for which claim, has that name.
pub fn alive_of(name: &str) -> Option<(OwnerId, u64)> {
    let (owner, sign) = name.strip_prefix(ALIVE)?.split_once('-')?;
    Some((owner.parse().ok()?, hex16(sign)?))
}

fn number(digits: &str) -> Option<u64> {
    hex16(digits).filter(|number| *number <= NUMBER_MAX)
}

fn hex16(digits: &str) -> Option<u64> {
    let fine = digits.len() == 16 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    fine.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}
