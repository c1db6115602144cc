//! Letting blocks go from this host that are in the remote, for certain: it is looked whether each object that has them is still there.

use super::super::catalog::Place;
use super::super::error::{RemoteError, Result};
use super::super::format::part_bytes;
use super::super::names;
use super::super::objects::{Objects, Trouble};
use super::super::seal::{SEALED_HEAD_BYTES, record_bytes};
use super::super::side_by_side::{AT_ONCE, each_of};
use super::{ShipError, Shipper};
use crate::store::{BLOCK_BYTES, Evicted, Piece, Run, Segments, coalesce};
use std::collections::BTreeMap;
use std::time::Duration;

/// Pieces that are looked at at a time, at most, and for how long.
const PIECES: usize = 1024;
const LOOK: Duration = Duration::from_millis(500);
/// Objects that are asked for at a time, roughly.
const OBJECTS: usize = 128;
/// Requests under way at a time.
const REQUESTS: usize = 2 * AT_ONCE;

/// Lengths of records that are kept: each can be asked for again, and many are of records that are not there any more.
const LENGTHS_KEPT: usize = 1 << 16;

/// How long an object must be.
#[derive(Clone, Copy, Debug)]
enum Length {
    Bytes(u64),
    /// As the record of this number itself says.
    OfRecord(u64),
}

/// What may go of a piece.
struct Going {
    piece: Piece,
    key_epoch: u64,
    /// What goes, and the name of the object that has it.
    runs: Vec<(Run, String)>,
    /// Whether nothing of the piece stays.
    is_all: bool,
}

impl Shipper {
    /// Lets some blocks go from this host that are in the remote, in the pieces that were used least recently: of as many pieces as have
    /// `bytes` of them, and of few at a time. Nothing goes where somebody else has the store, or the newest record is not there; and it is known,
    /// durably, that the store is partial ([`Segments::set_partial`]).
    ///
    /// # Errors
    /// Those of requests; [`RemoteError::Lost`] where an object is missing that has blocks, or another one is in its place: what else could go
    /// has gone. And as [`Segments::evict`].
    pub fn evict(&mut self, segments: &Segments, bytes: u64) -> std::result::Result<Evicted, ShipError> {
        let failed = |e: crate::store::ReadError| ShipError::Store(e.to_string());
        if self.log.is_pending() || !self.has_newest()? {
            return Ok(Evicted::default());
        }
        let mut going: Vec<Going> = Vec::new();
        let mut objects: BTreeMap<String, Length> = BTreeMap::new();
        let (mut blocks, mut back, began) = (0, 0, self.clock.now());
        for piece in segments.least_used(PIECES) {
            let is_late = || self.clock.now().saturating_sub(began) >= LOOK;
            if blocks * BLOCK_BYTES as u64 + back >= bytes || objects.len() >= OBJECTS || is_late() {
                break;
            }
            let looked = segments.sealed_here(&piece).and_then(|here| {
                let back = here.as_ref().filter(|here| here.keeps_absent);
                let back = back.map_or(Ok(0), |_| segments.give_back_absent(&piece))?;
                Ok((here, back))
            });
            let here = match looked {
                Ok((Some(here), some)) => {
                    back += some;
                    here
                }
                Ok((None, _)) => {
                    segments.set_aside(&piece, true);
                    continue;
                }
                // Nobody knows which blocks of it are here: it stays, and others go.
                Err(e) if e.is_unreadable() => {
                    log::debug!("a piece of segment {:x} stays: {e}", piece.segment);
                    segments.set_aside(&piece, false);
                    continue;
                }
                Err(e) => return Err(failed(e)),
            };
            let all: u64 = here.runs.iter().map(|run| u64::from(run.count)).sum();
            let mut runs = Vec::new();
            let mut count = 0;
            for (run, place) in self.places(&here.runs, here.key_epoch) {
                // What is damaged there may be good here.
                if self.rewrite.has_found_damage(&place) {
                    continue;
                }
                count += u64::from(run.count);
                let (name, len) = match place {
                    Place::Part(part) => (names::part(&part), Length::Bytes(part_bytes(part.count))),
                    Place::Record(number) => {
                        let known = self.record_lengths.get(&number).copied();
                        (names::record(number), known.map_or(Length::OfRecord(number), Length::Bytes))
                    }
                };
                objects.insert(name.clone(), len);
                runs.push((run, name));
            }
            if runs.is_empty() {
                segments.set_aside(&piece, all == 0);
                continue;
            }
            blocks += count;
            going.push(Going { piece, key_epoch: here.key_epoch, runs, is_all: count == all });
        }
        let lost = self.lost_of(&mut objects)?;
        let is_there = |name: &String| objects.contains_key(name);
        let mut runs: Vec<(Run, u64)> = Vec::new();
        for Going { key_epoch, runs: of_piece, .. } in &going {
            let mut there: Vec<Run> =
                of_piece.iter().filter(|(_, name)| is_there(name)).map(|(run, _)| *run).collect();
            coalesce(&mut there);
            runs.extend(there.into_iter().map(|run| (run, *key_epoch)));
        }
        let mut evicted = segments.evict(&runs).map_err(failed)?;
        evicted.bytes += back;
        for Going { piece, runs, is_all, .. } in &going {
            segments.set_aside(piece, *is_all && runs.iter().all(|(_, name)| is_there(name)));
        }
        match lost {
            None => Ok(evicted),
            Some(name) => Err(RemoteError::Lost { place: self.log.sealer().place().into(), name }.into()),
        }
    }

    /// Where those of the blocks are that are in the remote as they are here.
    fn places(&self, runs: &[Run], key_epoch: u64) -> Vec<(Run, Place)> {
        let catalog = self.catalog.lock();
        runs.iter().flat_map(|run| catalog.find_sealed(*run, key_epoch)).collect()
    }

    /// Whether this owner has the store, as far as can be known, and the remote has all that it has written.
    fn has_newest(&self) -> Result<bool> {
        let newest = self.log.state().newest.number;
        if newest == 0 || self.log.state().held.as_ref().is_none_or(|held| held.by.id != self.me.id) {
            return Ok(false);
        }
        let objects = self.log.objects();
        match objects.head(&names::record(newest + 1)) {
            Ok(_) => return Ok(false),
            Err(e) if e.trouble == Trouble::Missing => {}
            Err(e) => return Err(e.into()),
        }
        match objects.head(&names::record(newest)) {
            Ok(_) => Ok(true),
            Err(e) if e.trouble == Trouble::Missing => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Takes out the objects that are not there, or are not as long as they must be; the name of one of them.
    fn lost_of(&mut self, objects: &mut BTreeMap<String, Length>) -> Result<Option<String>> {
        let all: Vec<(String, Length)> = std::mem::take(objects).into_iter().collect();
        let at = self.log.objects();
        let found = each_of(REQUESTS, &all, |(name, len)| match whole_length(&**at, name, *len) {
            Ok(found) => Ok(found),
            Err(e) if e.is_missing() => Ok(None),
            Err(e) => Err(e),
        })?;
        let mut lost = None;
        for ((name, len), found) in all.into_iter().zip(found) {
            let Some(bytes) = found else {
                lost = Some(name);
                continue;
            };
            if let Length::OfRecord(number) = len {
                if self.record_lengths.len() >= LENGTHS_KEPT {
                    self.record_lengths.clear();
                }
                self.record_lengths.insert(number, bytes);
            }
            objects.insert(name, len);
        }
        Ok(lost)
    }
}

/// The length of an object, if it is what it must be.
fn whole_length(objects: &dyn Objects, name: &str, len: Length) -> Result<Option<u64>> {
    let found = objects.head(name)?.bytes;
    let must = match len {
        Length::Bytes(bytes) => Some(bytes),
        Length::OfRecord(_) if found < SEALED_HEAD_BYTES as u64 => None,
        Length::OfRecord(number) => {
            record_bytes(&objects.get_range(name, 0..SEALED_HEAD_BYTES as u64)?, number)
        }
    };
    Ok(must.filter(|must| *must == found))
}
