//! Fetching all of a store of which a part is in its remote only.

use super::check::live_blocks;
use super::error::{Result, VolumeError};
use super::info::read_offline;
use super::remote::remote_of;
use crate::crypto::Keys;
use crate::exit_code::Exit;
use crate::remote::{LOCAL_NAME, Local, OfMoment, OnDemand};
use crate::root::Root;
use crate::store::{
    BLOCK_BYTES, ElsewhereError, Header, HeaderLock, ReadError, Run, Sealer, Segments, StoreId, Wait,
};
use std::sync::Arc;

/// Blocks that are asked for at a time: 1 MiB.
const BATCH: u32 = 256;

/// Fetches what is not here of a store that no process has open for writing. When this returns, nothing of it is only in its remote.
/// `progress` is told of how many blocks are here, of how many.
///
/// # Errors
/// `Busy` when a process has it open; when the remote cannot be reached, or lacks something; `NoSpace`. What was fetched stays.
pub fn make_whole(
    root: &Root,
    id: StoreId,
    name: &str,
    keys: &Keys,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let path = root.store(id);
    let Some(local) = remote_of(root, id)?.filter(|local| local.partial) else { return Ok(()) };
    read_offline((root, id, name), keys, |dir, inspector| {
        let runs = live_blocks(inspector)?;
        // (What was attached as it was at some moment is in a directory that is called otherwise.)
        let store = Header::read(&*dir)?.store;
        let segments = Segments::new(dir, store, Sealer::new(keys), 0..0);
        segments.set_partial(true);
        let on_demand = OnDemand::of(&local, store, keys, &Arc::default());
        on_demand.connect().map_err(|e| match e {
            ElsewhereError::Away(why) => VolumeError::new(Exit::HostIo, cannot_fetch(name, &local, &why)),
            ElsewhereError::Failed(why) => VolumeError::new(Exit::Damaged, cannot_fetch(name, &local, &why)),
        })?;
        let on_demand = Arc::new(on_demand);
        match local.at.clone() {
            Some(at) => segments.fetch_from(Arc::new(OfMoment::new(on_demand, at))),
            None => segments.fetch_from(on_demand),
        }
        fetch_all(&segments, &runs, progress).map_err(|e| not_all(name, &local, &e))?;
        if !segments.has_kept_all() {
            let what = format!(
                "not all of volume {name:?} could be kept here: see the log; free some space on the disk of {} and try again",
                path.display()
            );
            return Err(VolumeError::new(Exit::NoSpace, what));
        }
        segments.sync_all().map_err(|e| VolumeError::io(&path, &e))
    })?;
    let io = |e| VolumeError::io(&path.join(LOCAL_NAME), &e);
    // Whoever lets blocks go from here on says so before, as another owner.
    let _lock = HeaderLock::acquire(&path).map_err(io)?;
    match Local::read(&path).map_err(io)? {
        Some(mut now) if now.owner == local.owner => {
            now.partial = false;
            now.write(&path).map_err(io)
        }
        _ => Ok(()),
    }
}

fn not_all(name: &str, local: &Local, e: &ReadError) -> VolumeError {
    let exit = match e {
        ReadError::Io { source, .. } => Exit::of_io(source),
        ReadError::Away { .. } => Exit::HostIo,
        _ => Exit::Damaged,
    };
    VolumeError::new(exit, cannot_fetch(name, local, &e.to_string()))
}

fn cannot_fetch(name: &str, local: &Local, why: &str) -> String {
    format!("what of volume {name:?} is only in {} cannot be fetched: {why}", local.remote)
}

fn fetch_all(segments: &Segments, runs: &[Run], progress: &mut dyn FnMut(u64, u64)) -> Result<(), ReadError> {
    let mut buffer = vec![0; BATCH as usize * BLOCK_BYTES];
    let total = runs.iter().map(|run| u64::from(run.count)).sum();
    let mut done = 0;
    for run in runs {
        let mut skip = 0;
        while skip < run.count {
            let part = run.part(skip, (run.count - skip).min(BATCH));
            segments.read(part, &mut buffer[..part.count as usize * BLOCK_BYTES], Wait::Passing)?;
            skip += part.count;
            done += u64::from(part.count);
            progress(done, total);
        }
    }
    Ok(())
}
