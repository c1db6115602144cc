//! Returning a volume to a snapshot. What it was before stays for a while, as a removed volume does.

use super::alter::alter;
use super::look::store_of;
use super::record::Place;
use super::secret::Secrets;
use super::trash::{self, Fate};
use crate::exit_code::Exit;
use crate::root::Root;
use crate::volume::{Alteration, Result, VolumeError};

/// What a volume was before a rollback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Before {
    /// The name of the snapshot that it is kept as.
    pub snapshot: String,
    /// How long it is.
    pub stay: Stay,
}

/// How long something stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stay {
    /// Until somebody removes it.
    ForGood,
    /// Until then, in seconds since 1970; as long as it is held, or if it is called something else by then, until somebody removes it.
    Until(u64),
    /// It is gone already.
    Gone,
}

/// Returns a volume to one of its snapshots, also while it is mounted if that is to happen `live`. What it was before stays for as long as its
/// options or the configuration say of removed volumes.
///
/// # Errors
/// An unknown volume or snapshot, `Busy` for a volume that is mounted, or the host's.
pub fn rollback(
    root: &Root,
    (volume, snapshot): (&str, &str),
    live: bool,
    secret: &Secrets,
) -> Result<Before> {
    let id = store_of(root, volume)?;
    let period = trash::kept_for(root, volume, Place::Store(id))?;
    let change = Alteration::Rollback { volume: volume.to_owned(), snapshot: snapshot.to_owned(), live };
    let altered = alter(root, volume, secret, &change)?;
    let kept = altered.kept.ok_or_else(|| {
        VolumeError::new(Exit::Failure, format!("volume {volume:?}: nothing kept its state"))
    })?;
    let before = |stay| Before { snapshot: kept.clone(), stay };
    // A server of an earlier version does not say which one it is.
    let Some(number) = altered.kept_id else { return Ok(before(Stay::ForGood)) };
    let noted = trash::note(root, (id, number), (volume, &kept), period, secret).and_then(|note| {
        let fate = if period.is_zero() { note.remove(root, secret)? } else { Fate::Kept };
        Ok(if fate == Fate::Kept { Stay::Until(note.until) } else { Stay::Gone })
    });
    Ok(before(noted.unwrap_or_else(|e| {
        // What was to be done is done.
        log::warn!("{volume}@{kept} stays until it is removed: {e}");
        Stay::ForGood
    })))
}
