//! What happens between opening the files of a store and its first use.
//!
//! SQLite brings the metadata back to the last durable commit. What the segments hold beyond that was never promised
//! to anyone and goes: files the metadata does not know, and blocks behind the tail of segments that were being
//! filled. What was freed but perhaps not punched is punched again.

use super::OpenError;
use crate::backing::Dir;
use crate::meta::{GiveBack, Ino, Meta, MetaFiles, ReleaseError, VolumeId};
use crate::store::{Header, Sealer, Segments};
use std::collections::BTreeSet;
use std::sync::Arc;

pub(super) struct Recovered {
    pub(super) meta: Meta,
    pub(super) segments: Segments,
    pub(super) give_back: Vec<GiveBack>,
    pub(super) orphans: Vec<(VolumeId, Ino)>,
}

pub(super) fn recover(dir: &Arc<dyn Dir>, header: &Header) -> Result<Recovered, OpenError> {
    let io = |source| OpenError::Io { path: dir.path(""), source };
    let files = MetaFiles::new(Arc::clone(dir), false).map_err(io)?;
    let mut meta = Meta::open(Arc::clone(&files), header.store)?;
    let segments = |ids| Segments::new(Arc::clone(dir), header.store, Sealer::Checksum, ids);
    remove_leftovers(&meta, &segments(0..0)).map_err(io)?;
    let first = meta.reserve_segments()?;
    let segments = segments(first..first);

    let mut give_back: Vec<GiveBack> = meta
        .unpunched()?
        .into_iter()
        .map(|freed| GiveBack { freed: Some(freed), empty_segments: Vec::new() })
        .collect();
    let empty_segments = meta.segments().iter().filter(|row| row.live == 0).map(|row| row.id).collect();
    give_back.push(GiveBack { freed: None, empty_segments });
    let mut orphans = Vec::new();
    for volume in meta.volumes()? {
        orphans.extend(meta.orphans(volume.id)?.into_iter().map(|ino| (volume.id, ino)));
    }

    // The ids must be reserved for good before the first of them is used.
    files.reserve_wal();
    let committed = meta.commit(&[])?;
    files.release(committed.mark).map_err(|e| match e {
        ReleaseError::Write(source) | ReleaseError::Sync(source) => {
            OpenError::Io { path: files.database_path(), source }
        }
    })?;
    segments.reserve_ids(committed.reserved_segments);
    Ok(Recovered { meta, segments, give_back, orphans })
}

fn remove_leftovers(meta: &Meta, segments: &Segments) -> std::io::Result<()> {
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
            if row.live > 0 {
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
