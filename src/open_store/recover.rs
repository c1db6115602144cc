//! What happens between opening the files of a store and its first use.
//!
//! SQLite brings the metadata back to the last durable commit, and the redo log brings on top of that what was done
//! since, as far as it survived. What the segments hold beyond that was never promised to anyone and goes: files the
//! metadata does not know, and blocks behind the tail of segments that were being filled. What was freed but perhaps not
//! punched is punched again.
//!
//! A store of an earlier version gets the format of this one last: up to there, nothing was written that the program before would
//! not read, so that it can go on when this one cannot.

use super::requests::{Executed, KeepExecuted, Latest, Legacy};
use super::{OpenError, redo};
use crate::backing::{Dir, is_full};
use crate::crypto::Keys;
use crate::meta::{
    Checkpointer, DATABASE_NAME, GiveBack, Ino, Meta, MetaFiles, ReleaseError, VolumeId, WAL_NAME,
    wal_key_epoch,
};
use crate::store::{
    BlockAddr, Header, HeaderError, PagesElsewhere, Run, Sealer, Segments, StoreLock, coalesce,
    newest_key_epoch,
};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

pub(super) struct Recovered {
    /// As it is now.
    pub(super) header: Header,
    pub(super) meta: Meta,
    pub(super) checkpointer: Checkpointer,
    pub(super) segments: Segments,
    pub(super) give_back: Vec<GiveBack>,
    /// Orphans that nobody has open.
    pub(super) orphans: Vec<(VolumeId, Ino)>,
    /// For who takes over mounts.
    pub(super) legacy: Legacy,
}

/// A store that is opened to take over its mounts.
pub(super) struct Resume<'a> {
    /// What was executed before the predecessor began.
    pub(super) executed: Vec<Executed>,
    pub(super) keep: KeepExecuted<'a>,
}

/// Of what the store keeps for itself on the host's disk, so much is given back for a header at most.
const HEADER_ROOM: u64 = 64 << 10;
/// The same for blocks that only the redo log has, at a time.
const BLOCKS_ROOM: u64 = 256 << 10;

/// Ids of segments that an encrypted store may pass over when it is opened: so many that the ranges of two openings are
/// as good as never the same, and so few that there are enough for millions of openings.
const IDS_SKIPPED: u64 = 1 << 40;

/// How many ids of segments to pass over. Where ids are nonces, a store that is opened twice from one state (the second
/// time from a backup, say) must not give the same ones out twice.
fn ids_to_skip(keys: &Keys) -> std::io::Result<u64> {
    if !keys.is_encrypted() {
        return Ok(0);
    }
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
    Ok(u64::from_le_bytes(bytes) % IDS_SKIPPED)
}

/// Whether `keys` are those to open the store with. Who takes over has what its predecessor had: the keys of an epoch that is
/// in the header since a moment ago may not have reached that. They are given to the holder before anything is sealed with
/// them, so that nothing is; where something is nevertheless, it would be overlooked, and lost.
pub(super) fn check_keys(
    header: &Header,
    dir: &dyn Dir,
    keys: &Keys,
    takes_over: bool,
) -> Result<(), OpenError> {
    let io = |source| OpenError::Io { path: dir.path(""), source };
    match header.check_keys(dir, keys) {
        Err(HeaderError::Stale { .. })
            if takes_over && header.lacks_newest(keys) && !is_sealed_later(dir, keys).map_err(io)? =>
        {
            log::warn!(
                "the re-encryption of the store continues when `larder key reencrypt` brings its keys"
            );
            Ok(())
        }
        other => Ok(other?),
    }
}

/// Whether something is sealed with newer keys than these, as far as what can be overlooked goes: pages of the database cannot.
fn is_sealed_later(dir: &dyn Dir, keys: &Keys) -> std::io::Result<bool> {
    let newest = keys.newest().map_or(0, |keys| keys.epoch());
    Ok(redo::key_epoch(dir)? > newest
        || wal_key_epoch(dir)? > newest
        || newest_key_epoch(dir)? > newest.into())
}

pub(super) fn recover(
    dir: &Arc<dyn Dir>,
    header: Header,
    lock: Option<&StoreLock>,
    (keys, note_changes, pages): (&Keys, bool, Option<Arc<dyn PagesElsewhere>>),
    resume: Option<Resume<'_>>,
) -> Result<Recovered, OpenError> {
    let io = |source| OpenError::Io { path: dir.path(""), source };
    let is_successor = resume.is_some();
    let files = MetaFiles::with_keys(Arc::clone(dir), false, keys.clone()).map_err(io)?;
    if note_changes {
        files.note_changes();
    }
    if let Some(pages) = pages {
        files.heal_from(pages);
    }
    files.remove_unfinished();
    let mut meta = Meta::open(Arc::clone(&files), header.store)?;
    let segments = |ids| Segments::new(Arc::clone(dir), header.store, Sealer::new(keys), ids);
    let replayed = replay(dir, &header, keys, (&mut meta, &files), &segments(0..0))?;
    remove_leftovers(&meta, &segments(0..0), note_changes).map_err(io)?;
    let first = meta.reserve_segments(ids_to_skip(keys).map_err(io)?)?;
    let segments = segments(first..first);

    let empty_segments = meta.segments().iter().filter(|row| row.live == 0).map(|row| row.id).collect();
    let mut give_back = vec![GiveBack { freed: meta.unpunched()?, empty_segments }];
    let mut orphans = Vec::new();
    for volume in meta.volumes()? {
        orphans.extend(meta.orphans(volume.id)?.into_iter().map(|ino| (volume.id, ino)));
    }
    let mut legacy = Legacy::default();
    if let Some(Resume { executed, keep }) = resume {
        legacy.executed = Latest::new([executed, replayed.executed].concat()).into_all();
        keep(&legacy.executed);
        legacy.rewritten = replayed.rewritten.into_iter().collect();
        legacy.orphans = std::mem::take(&mut orphans);
    }

    // The ids must be reserved for good before the first of them is used.
    files.reserve_wal();
    let committed = meta.commit(&[])?;
    let checkpointer = meta.checkpointer()?;
    let header = if header.is_older() {
        bring_up_to_date(&**dir, lock, (keys, is_successor), &files)?
    } else {
        header
    };
    files.release(committed.mark).map_err(|e| match e {
        ReleaseError::Write(source) | ReleaseError::Sync(source) => {
            OpenError::Io { path: files.database_path(), source }
        }
    })?;
    segments.reserve_ids(committed.reserved_segments);
    give_back.push(committed.give_back);
    redo::remove_leftovers(&**dir);
    Ok(Recovered { header, meta, checkpointer, segments, give_back, orphans, legacy })
}

/// Lets the header of a store of an earlier version name what this program gives it.
fn bring_up_to_date(
    dir: &dyn Dir,
    lock: Option<&StoreLock>,
    (keys, is_successor): (&Keys, bool),
    files: &MetaFiles,
) -> Result<Header, OpenError> {
    let io = |source| OpenError::Io { path: dir.path(""), source };
    let _alone = lock.map(StoreLock::lock_header).transpose().map_err(io)?;
    // Its key slots may have changed until now.
    let mut header = Header::read(dir)?;
    check_keys(&header, dir, keys, is_successor)?;
    header.bring_up_to_date();
    // The new header takes a block for as long as the old one is there.
    let mut prepared = header.prepare(dir);
    let mut lent = None;
    // The least needed first: the commit that follows takes what is kept in the WAL.
    for name in [DATABASE_NAME, WAL_NAME] {
        if !is_without_room(&prepared) {
            break;
        }
        // Where others took the rest, there may be none for the commit, and the program before this one can still go on.
        let bytes = files.lend_room(name, HEADER_ROOM).map_err(io)?;
        if (1..=HEADER_ROOM).contains(&bytes) {
            lent = Some((name, bytes));
            prepared = header.prepare(dir);
        }
    }
    if is_without_room(&prepared) {
        let what = "the host's disk is full, and the store must first be brought to the format of this version; free 64 KiB, \
                    or keep using the version that served it before";
        return Err(io(std::io::Error::new(std::io::ErrorKind::StorageFull, what)));
    }
    prepared?;
    Header::put_in_place(dir)?;
    if let Some((name, bytes)) = lent {
        files.keep_again(name, bytes);
    }
    log::info!("{}: the store has the format of this version now", dir.path("").display());
    Ok(header)
}

fn is_without_room(result: &Result<(), HeaderError>) -> bool {
    matches!(result, Err(HeaderError::Io { source, .. }) if is_full(source))
}

/// Replays the redo log and makes durable what its mutations name, so that the next commit may name it.
fn replay(
    dir: &Arc<dyn Dir>,
    header: &Header,
    keys: &Keys,
    (meta, files): (&mut Meta, &MetaFiles),
    segments: &Segments,
) -> Result<redo::Replayed, OpenError> {
    let more_room = || {
        [DATABASE_NAME, WAL_NAME].into_iter().any(|name| match files.lend_room(name, BLOCKS_ROOM) {
            Ok(bytes) => bytes > 0,
            Err(e) => {
                log::warn!("{}: cannot give host space back: {e}", dir.path(name).display());
                false
            }
        })
    };
    let tails: HashMap<u64, u32> = meta.segments().iter().map(|row| (row.id, row.tail)).collect();
    let mut replayed = redo::replay(&**dir, header.store, keys, meta, (segments, &more_room))?;
    // The killed process may have used both epochs that were open to it.
    meta.skip_epoch();
    if replayed.mutations == 0 {
        return Ok(replayed);
    }
    log::info!("replayed {} changes that were not committed yet", replayed.mutations);
    let mut ends: HashMap<u64, u32> = HashMap::new();
    for run in &replayed.named {
        let end = ends.entry(run.start.segment).or_default();
        *end = (*end).max(run.end_index());
    }
    meta.wasted(&unnamed(&tails, std::mem::take(&mut replayed.named)));
    segments.sync_recovered(ends).map_err(|(path, source)| OpenError::Io { path, source })?;
    Ok(replayed)
}

/// The blocks between those that were named, which no mutation that was replayed came to use.
fn unnamed(tails: &HashMap<u64, u32>, mut named: Vec<Run>) -> Vec<Run> {
    coalesce(&mut named);
    let mut out = Vec::new();
    let mut last: Option<Run> = None;
    for run in named {
        let from = match last {
            Some(last) if last.start.segment == run.start.segment => last.end_index(),
            _ => tails.get(&run.start.segment).copied().unwrap_or(0),
        };
        if from < run.start.index {
            let start = BlockAddr { segment: run.start.segment, index: from };
            out.push(Run::new(start, run.start.index - from));
        }
        last = Some(run);
    }
    out
}

/// `is_elsewhere`: what is missing here can be fetched.
fn remove_leftovers(meta: &Meta, segments: &Segments, is_elsewhere: bool) -> std::io::Result<()> {
    segments.remove_unfinished()?;
    let rows = meta.segments();
    let present: BTreeSet<u64> = segments.list()?.into_iter().collect();
    let known: BTreeSet<u64> = rows.iter().map(|row| row.id).collect();
    for id in present.difference(&known) {
        log::info!("{}: no commit knows this segment; removing it", segments.path(*id).display());
        if let Err(e) = segments.remove(*id) {
            log::warn!("{e}");
        }
    }
    for row in rows {
        if !present.contains(&row.id) {
            if row.live > 0 && !is_elsewhere {
                log::error!(
                    "{}: the segment is missing; what lies in it is lost",
                    segments.path(row.id).display()
                );
            }
        } else if !row.full
            && row.live > 0
            && let Err(e) = segments.cut(row.id, row.tail)
        {
            log::warn!("{e}");
        }
    }
    Ok(())
}
