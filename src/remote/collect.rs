//! Removing from a remote what nothing needs any more.
//!
//! Needed is what some *base* needs, and what has come since: the base is the newest image that is old enough. So whoever has begun to read
//! the remote lately, from an image that was the newest then, finds all of it. Claims are never removed: the number behind the last record
//! that an owner knows of stays taken, and so one that was fenced finds that out, however late it comes.
//!
//! Only the owner removes anything, and looks again and again whether it still is. One that stood still in the middle of that and goes on later
//! may remove what was listed before, and no more: all of that was needed by nothing, and was old.
//!
//! To look for what is not needed ([`look`]) takes long, and nobody waits for that: it may be done while records are appended. What was put
//! since is not removed, nor what was put again.

use super::catalog::Catalog;
use super::clock::Clock;
use super::error::{RemoteError, Result};
use super::format::{Contents, Image, ObjectSeal, PartRef, Record};
use super::log::{CLAIM_OBJECT_MAX, Log, Position};
use super::names;
use super::objects::{Listed, Trouble};
use super::ship::read_tables;
use super::side_by_side::each_of;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

/// Names that are listed at a time.
const PAGE: usize = 1000;
/// How long it is good for that an object was looked at.
const FRESH: Duration = Duration::from_secs(60);
/// Objects that are removed side by side: each takes two requests, and little comes and goes with them.
const AT_ONCE: usize = 16;
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

/// What is known of a record without reading it again.
#[derive(Clone, Debug)]
struct Named {
    seal: ObjectSeal,
    before: ObjectSeal,
    /// Number of the newest image.
    image: u64,
    /// Parts and pieces that it names.
    names: Vec<String>,
}

impl Named {
    fn by(record: &Record) -> Self {
        let names = named_by(&record.contents);
        Self { seal: record.seal, before: record.head.before, image: record.head.image, names }
    }
}

/// Parts and pieces that a record names.
pub(super) fn named_by(contents: &Contents) -> Vec<String> {
    match contents {
        Contents::Commit(commit) => {
            let pieces = commit.pieces.iter().map(|piece| names::piece(&piece.hash));
            commit.parts.iter().map(names::part).chain(pieces).collect()
        }
        Contents::Image(image) => names_of(image).collect(),
        Contents::Claim(_) | Contents::Goodbye => Vec::new(),
    }
}

fn names_of(image: &Image) -> impl Iterator<Item = String> {
    image.database.iter().chain(&image.tables).map(|piece| names::piece(&piece.hash))
}

/// Records that were read, by number: they stay as they are, and can be long.
#[derive(Debug, Default)]
pub(super) struct Read(Mutex<BTreeMap<u64, Named>>);

impl Read {
    /// A record that was read.
    pub(super) fn note(&self, record: &Record) {
        self.0.lock().insert(record.number, Named::by(record));
    }

    /// The same of one that was written, from what it has.
    pub(super) fn add(&self, at: Position, before: ObjectSeal, image: u64, names: Vec<String>) {
        self.0.lock().insert(at.number, Named { seal: at.seal, before, image, names });
    }

    fn image_at(&self, log: &Log, number: u64) -> Result<u64> {
        if let Some(named) = self.0.lock().get(&number) {
            return Ok(named.image);
        }
        let record = log.read(number)?;
        self.note(&record);
        Ok(record.head.image)
    }

    /// What the records behind the base name, up to the newest.
    fn names_since(&self, log: &Log, base: u64, seal: ObjectSeal) -> Result<HashSet<String>> {
        let mut all = HashSet::new();
        let (mut next, mut before) = (base + 1, seal);
        // Those before it, nobody asks for again, but the one that says which image was there then.
        self.0.lock().retain(|number, _| *number + 1 >= base);
        while next <= log.state().newest.number {
            let known = self.0.lock().get(&next).filter(|named| named.before == before).cloned();
            if let Some(named) = known {
                all.extend(named.names);
                (next, before) = (next + 1, named.seal);
                continue;
            }
            for record in log.chain(next, Some(before)) {
                let record = record?;
                self.note(&record);
                all.extend(Named::by(&record).names);
                (next, before) = (record.number + 1, record.seal);
            }
        }
        Ok(all)
    }
}

/// The newest image that is old enough; `None` if there is none.
fn base(log: &Log, read: &Read, is_old: &dyn Fn(u64, &Listed) -> bool) -> Result<Option<u64>> {
    let mut number = log.state().image;
    for _ in 0..IMAGES_MAX {
        if number == 0 || is_old(number, &log.objects().head(&names::record(number))?) {
            break;
        }
        number = match read.image_at(log, number - 1) {
            Ok(image) => image,
            Err(e) if e.is_missing() => 0,
            // Nobody has the keys any more that it is sealed with, or it is of no use to anybody.
            Err(RemoteError::Damaged { .. }) => 0,
            Err(e) => return Err(e),
        };
    }
    Ok((number > 0).then_some(number))
}

impl Needed {
    fn by(log: &Log, read: &Read, base: u64, spare: Vec<PartRef>) -> Result<Option<Self>> {
        let record = log.read(base)?;
        let mut needed = Self { base, header: record.head.header.number, ..Self::default() };
        let Some(image) = image_of(log, base)? else { return Ok(None) };
        needed.names.extend(names_of(&image));
        let catalog: Catalog = read_tables(&**log.objects(), log.sealer(), &image)?;
        needed.records.extend(catalog.records().into_keys());
        needed.names.extend(catalog.parts().into_keys().chain(spare).map(|part| names::part(&part)));
        needed.names.extend(read.names_since(log, base, record.seal)?);
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

/// What is not needed.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// The last is removed first.
    gone: Vec<Listed>,
    /// The image that was the newest then.
    pub(super) image: u64,
    /// There is more, or what was found is not removed now.
    is_partial: bool,
}

/// Looks for what is not needed, as of the newest record of the log. `spare` are parts that the next record is to name; no record behind `old` is
/// old, if that is given.
///
/// # Errors
/// Those of requests and of opening.
pub(super) fn look(
    log: &Log,
    read: &Read,
    (spare, old): (Vec<PartRef>, Option<u64>),
    options: Collect,
) -> Result<Look> {
    let objects = &**log.objects();
    // Time is that of the object store.
    let now = objects.head(&names::record(log.state().newest.number))?.modified;
    let min_age = i64::try_from(options.min_age.as_secs()).unwrap_or(i64::MAX);
    let is_old = |listed: &Listed| listed.modified.saturating_add(min_age) <= now;
    let mut look = Look { image: log.state().image, ..Look::default() };
    let may_be_old = |number: u64| old.is_none_or(|old| number <= old);
    let Some(base) = base(log, read, &|number, listed| may_be_old(number) && is_old(listed))? else {
        return Ok(look);
    };
    let Some(needed) = Needed::by(log, read, base, spare)? else { return Ok(look) };
    let most = usize::try_from(options.most).unwrap_or(usize::MAX);
    for under in [names::LOG, names::DATA, names::IMAGE, names::HEADER] {
        let mut after = String::new();
        loop {
            let page = objects.list(under, &after, PAGE)?;
            let Some(last) = page.last() else { break };
            after.clone_from(&last.name);
            let is_last = page.len() < PAGE;
            let gone = page.into_iter().filter(|listed| is_old(listed) && !needed.has(listed));
            look.gone.extend(gone);
            if look.gone.len() > most {
                look.gone.truncate(most);
                look.is_partial = true;
                return Ok(look);
            }
            if is_last {
                break;
            }
        }
    }
    Ok(look)
}

/// Removes some of what was found, `most` objects at most; nothing for which `stays` says so. `log` is where the owner is now.
///
/// # Errors
/// Those of requests. What was not removed is looked for again.
pub(super) fn remove(
    log: &Log,
    look: &mut Look,
    stays: &dyn Fn(&str) -> bool,
    most: usize,
    clock: &dyn Clock,
) -> Result<Collected> {
    let objects = &**log.objects();
    let mut some = look.gone.split_off(look.gone.len().saturating_sub(most));
    some.retain(|listed| !stays(&listed.name));
    if !some.is_empty() {
        // Whoever has it now is not disturbed.
        match objects.head(&names::record(log.state().newest.number + 1)) {
            Err(e) if e.trouble == Trouble::Missing => {}
            Ok(_) => {
                (look.gone, look.is_partial) = (Vec::new(), true);
                some.clear();
            }
            Err(e) => return Err(e.into()),
        }
    }
    let removed = each_of(AT_ONCE, &some, |listed| {
        let looked_at = clock.now();
        match objects.head(&listed.name) {
            // It was not put again, by whoever has the store now, either.
            Ok(now) if now.modified == listed.modified => {}
            Ok(_) => return Ok(false),
            Err(e) if e.trouble == Trouble::Missing => return Ok(false),
            Err(e) => return Err(e.into()),
        }
        // (Who stood still between the two finds out at the next one.)
        if clock.now().saturating_sub(looked_at) > FRESH {
            return Ok(false);
        }
        objects.delete(&listed.name).map_err(RemoteError::from)?;
        Ok(true)
    })?;
    let mut done = Collected::default();
    for (listed, is_removed) in some.into_iter().zip(removed) {
        if is_removed {
            done.objects += 1;
            done.bytes += listed.bytes;
        }
        look.is_partial |= !is_removed;
    }
    done.is_done = look.gone.is_empty() && !look.is_partial;
    Ok(done)
}

impl Look {
    /// Nothing of it is left to be removed.
    pub(super) fn is_over(&self) -> bool {
        self.gone.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::{LeaseKind, OwnerId, PieceHash};
    use super::super::objects::Objects;
    use super::super::{BootClock, Directory, Owner, RemoteSealer, Seen, Steal, claim, init};
    use super::*;
    use crate::crypto::Keys;
    use crate::store::StoreId;
    use bytes::Bytes;
    use std::sync::Arc;

    /// It was looked at only a minute after it was listed: who had the store by then had put it again meanwhile.
    #[test]
    fn what_was_put_again_since_it_was_listed_stays() {
        let tmp = tempfile::tempdir().unwrap();
        let objects: Arc<dyn Objects> = Arc::new(Directory::new(&tmp.path().join("objects")));
        let sealer = RemoteSealer::new(StoreId(1), &Keys::Plain, objects.place());
        init(&*objects, &sealer, 1).unwrap();
        let mut log = Log::open(Arc::clone(&objects), sealer, Seen::Nothing).unwrap();
        let me = Owner { id: OwnerId(1), host: "h".into(), lease: LeaseKind::None };
        claim(&mut log, &me, Steal::No, &BootClock, &mut |_| true).unwrap();
        let pieces = [1, 2].map(|i| names::piece(&PieceHash([i; 32])));
        for name in &pieces {
            objects.put(name, Bytes::from_static(b"piece")).unwrap();
            let file = std::fs::File::open(tmp.path().join("objects").join(name)).unwrap();
            file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(1000)).unwrap();
        }
        let listed = objects.list(names::IMAGE, "", 10).unwrap();
        let mut look = Look { gone: listed, ..Look::default() };
        objects.put(&pieces[0], Bytes::from_static(b"piece")).unwrap();
        let done = remove(&log, &mut look, &|_| false, 10, &BootClock).unwrap();
        assert_eq!((done.objects, done.is_done), (1, false));
        assert!(objects.head(&pieces[0]).is_ok() && objects.head(&pieces[1]).is_err());
    }
}
