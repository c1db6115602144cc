//! Removing from a remote what nothing needs any more.
//!
//! Needed is what some *base* needs, and what has come since: the base is the newest image that is old enough. So whoever has begun to read
//! the remote lately, from an image that was the newest then, finds all of it. Claims are never removed: the number behind the last record
//! that an owner knows of stays taken, and so one that was fenced finds that out, however late it comes.
//!
//! Only the owner removes anything, and looks again and again whether it still is. One that stood still in the middle of that and goes on later
//! may remove what was listed before, and no more: all of that was needed by nothing, and was old.

use super::catalog::Catalog;
use super::clock::Clock;
use super::error::{RemoteError, Result};
use super::format::{Contents, Image, PartRef};
use super::log::{CLAIM_OBJECT_MAX, Log};
use super::names;
use super::objects::{Listed, Trouble};
use super::ship::{each, read_tables};
use std::collections::HashSet;
use std::time::Duration;

/// Names that are listed at a time.
const PAGE: usize = 1000;
/// How long what was listed is good for.
const FRESH: Duration = Duration::from_secs(60);
/// Images that are gone back at most, to one that is old enough.
const IMAGES_MAX: usize = 10_000;

/// What to remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Collect {
    /// What was needed within that time stays, and what is not older.
    pub min_age: Duration,
    /// Objects that are removed at most.
    pub most: u64,
}

impl Default for Collect {
    fn default() -> Self {
        Self { min_age: Duration::from_secs(24 * 3600), most: 2000 }
    }
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// There is nothing more to be removed for now.
    pub is_done: bool,
}

/// What stays.
#[derive(Debug, Default)]
struct Needed {
    /// Number of the base.
    base: u64,
    /// Records before it with blocks.
    records: HashSet<u64>,
    /// Names of parts and pieces.
    names: HashSet<String>,
    /// Version of the header at the base.
    header: u64,
}

fn image_of(log: &Log, number: u64) -> Result<Option<Image>> {
    match log.read(number)?.contents {
        Contents::Image(image) => Ok(Some(*image)),
        _ => Ok(None),
    }
}

/// The newest image that is old enough; `None` if there is none.
fn base(log: &Log, is_old: &dyn Fn(&Listed) -> bool) -> Result<Option<u64>> {
    let mut number = log.state().image;
    for _ in 0..IMAGES_MAX {
        if number == 0 || is_old(&log.objects().head(&names::record(number))?) {
            break;
        }
        number = match log.read(number - 1) {
            Ok(record) => record.head.image,
            Err(e) if e.is_missing() => 0,
            // Nobody has the keys any more that it is sealed with, or it is of no use to anybody.
            Err(RemoteError::Damaged { .. }) => 0,
            Err(e) => return Err(e),
        };
    }
    Ok((number > 0).then_some(number))
}

impl Needed {
    fn image(&mut self, image: &Image) {
        self.names.extend(image.database.iter().chain(&image.tables).map(|piece| names::piece(&piece.hash)));
    }

    fn by(log: &Log, base: u64, spare: Vec<PartRef>) -> Result<Option<Self>> {
        let record = log.read(base)?;
        let mut needed = Self { base, header: record.head.header.number, ..Self::default() };
        let Some(image) = image_of(log, base)? else { return Ok(None) };
        needed.image(&image);
        let catalog: Catalog = read_tables(&**log.objects(), log.sealer(), &image)?;
        needed.records.extend(catalog.records().into_keys());
        needed.names.extend(catalog.parts().into_keys().chain(spare).map(|part| names::part(&part)));
        for record in log.chain(base + 1, Some(record.seal)) {
            match record?.contents {
                Contents::Commit(commit) => {
                    needed.names.extend(commit.parts.iter().map(names::part));
                    needed.names.extend(commit.pieces.iter().map(|piece| names::piece(&piece.hash)));
                }
                Contents::Image(image) => needed.image(&image),
                Contents::Claim(_) | Contents::Goodbye => {}
            }
        }
        Ok(Some(needed))
    }

    /// Whether an object stays, whatever its age. What is not understood does.
    fn has(&self, listed: &Listed) -> bool {
        let name = listed.name.as_str();
        if let Some(number) = names::record_number(name) {
            return number >= self.base || self.records.contains(&number) || listed.bytes <= CLAIM_OBJECT_MAX;
        }
        if let Some(number) = names::header_number(name) {
            return number >= self.header;
        }
        let ours = names::is_part(name) || names::is_piece(name);
        !ours || self.names.contains(name)
    }
}

/// Removes what is not needed. `spare` are parts that the next record is to name.
///
/// # Errors
/// Those of requests and of opening.
pub(super) fn collect(
    log: &Log,
    spare: Vec<PartRef>,
    options: Collect,
    clock: &dyn Clock,
) -> Result<Collected> {
    let objects = &**log.objects();
    // Time is that of the object store.
    let now = objects.head(&names::record(log.state().newest.number))?.modified;
    let min_age = i64::try_from(options.min_age.as_secs()).unwrap_or(i64::MAX);
    let is_old = |listed: &Listed| listed.modified.saturating_add(min_age) <= now;
    let nothing = Collected { is_done: true, ..Collected::default() };
    let Some(base) = base(log, &is_old)? else { return Ok(nothing) };
    let Some(needed) = Needed::by(log, base, spare)? else { return Ok(nothing) };
    let next = names::record(log.state().newest.number + 1);
    let mut done = nothing;
    for under in [names::LOG, names::DATA, names::IMAGE, names::HEADER] {
        let mut after = String::new();
        loop {
            let listed_at = clock.now();
            let page = objects.list(under, &after, PAGE)?;
            let Some(last) = page.last() else { break };
            after.clone_from(&last.name);
            let is_last = page.len() < PAGE;
            let mut gone: Vec<Listed> =
                page.into_iter().filter(|listed| is_old(listed) && !needed.has(listed)).collect();
            let room = usize::try_from(options.most - done.objects).unwrap_or(usize::MAX);
            if gone.len() > room {
                gone.truncate(room);
                done.is_done = false;
            }
            // Whoever has it now is not disturbed.
            match objects.head(&next) {
                Err(e) if e.trouble == Trouble::Missing => {}
                Ok(_) => return Ok(Collected { is_done: false, ..done }),
                Err(e) => return Err(e.into()),
            }
            let removed = each(&gone, |listed| {
                if clock.now().saturating_sub(listed_at) > FRESH {
                    return Ok(0);
                }
                objects.delete(&listed.name).map_err(RemoteError::from)?;
                Ok(1)
            })?;
            done.objects += removed.iter().sum::<u64>();
            done.bytes +=
                gone.iter().zip(&removed).map(|(listed, removed)| listed.bytes * removed).sum::<u64>();
            if removed.contains(&0) || !done.is_done {
                return Ok(Collected { is_done: false, ..done });
            }
            if is_last {
                break;
            }
        }
    }
    Ok(done)
}
