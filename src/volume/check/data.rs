//! Opening every seal.

use super::Progress;
use super::blocks::Blocks;
use super::damage::{Suspects, damage};
use super::report::Report;
use crate::meta::{Inspector, Result};
use crate::store::{BLOCK_BYTES, ReadError, Run, Segments, Wait};
use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::{Builder, available_parallelism, scope};

/// Blocks read at a time: 1 MiB.
pub(super) const BATCH: u32 = 256;

/// Threads that read, at most: more only seek against each other on a disk that turns. And where others use the store.
const THREADS: usize = 4;
const THREADS_ONLINE: usize = 2;

/// What a thread has done.
enum Done {
    /// So many blocks more were looked at, of which so many are not on this host.
    Blocks(u64, u64),
    /// All of a segment was, by its place in their order; these did not open.
    Segment(usize, Suspects),
}

/// Reads every block. That can take hours, and where the store is in use, no reader may be in the way of its WAL for so long:
/// which blocks there are is known, and whoever checks keeps those that are freed meanwhile.
pub(super) fn check(
    inspector: &mut Inspector,
    segments: &Segments,
    blocks: &Blocks,
    online: bool,
    (progress, report): (&mut dyn FnMut(Progress), &mut Report),
) -> Result<()> {
    if online {
        inspector.let_go()?;
    }
    let total = report.blocks;
    let mut done = 0;
    // Those who use the store have the rest of the machine.
    let most = if online { THREADS_ONLINE } else { THREADS };
    let threads = available_parallelism().map_or(1, NonZero::get).min(most);
    let damaged = read_all(segments, blocks, threads, &mut |count, absent| {
        done += count;
        report.blocks_absent += absent;
        progress(Progress { phase: "blocks", done, total });
    });
    report.blocks_read += done - report.blocks_absent;
    if online {
        inspector.look_again()?;
    }
    report.add_damage(damage(inspector, damaged)?);
    Ok(())
}

/// Reads all segments on several threads, each of which takes the next one when it has read one. `progress` is told how many blocks more
/// were looked at, and how many of them are not on this host. What did not open is in the order of its addresses, whoever found it.
fn read_all(
    segments: &Segments,
    blocks: &Blocks,
    threads: usize,
    progress: &mut dyn FnMut(u64, u64),
) -> Suspects {
    let ids: Vec<u64> = blocks.segments().collect();
    let next = AtomicUsize::new(0);
    let work = |done: &Sender<Done>| {
        let mut buffer = vec![0u8; BATCH as usize * BLOCK_BYTES];
        let take = || {
            let at = next.fetch_add(1, Ordering::Relaxed);
            ids.get(at).map(|id| (at, *id))
        };
        while let Some((at, id)) = take() {
            let suspects = read_segment(segments, blocks.runs_of(id), &mut buffer, done);
            // Nobody is told any more if telling has panicked.
            if done.send(Done::Segment(at, suspects)).is_err() {
                return;
            }
        }
    };
    let mut damaged = Suspects::default();
    scope(|scope| {
        let (send, receive) = channel();
        let start = |n: &usize| {
            let send = send.clone();
            let name = format!("larder-check-{n}");
            Builder::new().name(name).spawn_scoped(scope, move || work(&send)).is_ok()
        };
        if (0..threads.min(ids.len())).filter(start).count() == 0 {
            work(&send);
        }
        drop(send);
        // Segments that were read before earlier ones.
        let (mut early, mut at) = (BTreeMap::new(), 0);
        for done in receive {
            match done {
                Done::Blocks(count, absent) => progress(count, absent),
                Done::Segment(place, suspects) => drop(early.insert(place, suspects)),
            }
            while let Some(suspects) = early.remove(&at) {
                damaged.append(suspects);
                at += 1;
            }
        }
    });
    damaged
}

fn read_segment(segments: &Segments, runs: Vec<Run>, buffer: &mut [u8], done: &Sender<Done>) -> Suspects {
    let mut suspects = Suspects::default();
    for run in runs {
        let mut skip = 0;
        while skip < run.count {
            let part = run.part(skip, (run.count - skip).min(BATCH));
            skip += part.count;
            let absent = read(segments, part, buffer, &mut suspects);
            if done.send(Done::Blocks(u64::from(part.count), absent)).is_err() {
                return suspects;
            }
        }
    }
    suspects
}

/// Reads a run; if that fails, block by block, to tell which ones are damaged. Returns how many are not on this host, which is no damage.
pub(super) fn read(segments: &Segments, run: Run, buffer: &mut [u8], damaged: &mut Suspects) -> u64 {
    let bytes = run.count as usize * BLOCK_BYTES;
    match segments.read(run, &mut buffer[..bytes], Wait::Here) {
        Ok(()) => 0,
        Err(ReadError::Absent { all: true, .. }) => run.count.into(),
        Err(ReadError::Absent { .. }) if run.count == 1 => 1,
        Err(
            ReadError::Unsealed { .. }
            | ReadError::Io { .. }
            | ReadError::Absent { .. }
            | ReadError::Away { .. }
            | ReadError::Unfetched { .. },
        ) if run.count > 1 => {
            (0..run.count).map(|block| read(segments, run.part(block, 1), buffer, damaged)).sum()
        }
        Err(e) => {
            damaged.add(run.start, e.to_string());
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backing::{Dir, OpenMode, OsDir};
    use crate::crypto::Keys;
    use crate::store::{BlockAddr, Sealer, StoreId};
    use std::io::IoSlice;
    use std::sync::Arc;

    /// The second segment is damaged at its end, all others at their beginning: whoever reads the second is the last to find something.
    #[test]
    fn what_several_threads_find_is_in_the_order_of_addresses() {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::create_dir(tmp.path().join("segments")).unwrap();
        let dir = Arc::new(OsDir::new(tmp.path()));
        let (mut ids, mut at) = (Vec::new(), Vec::new());
        for id in 1..=7u64 {
            let segments = Segments::new(dir.clone(), StoreId(1), Sealer::new(&Keys::Plain), id..id + 1);
            let run = segments.append(&[&vec![id as u8; 600 * BLOCK_BYTES]]).unwrap()[0];
            assert_eq!(run.start.segment, id);
            ids.push(run);
            let index = if id == 2 { 599 } else { id as u32 };
            at.push(BlockAddr { segment: id, index });
            let path = segments.path(id);
            let name = format!("segments/{}", path.file_name().unwrap().to_str().unwrap());
            let offset = crate::store::data_offset(index);
            dir.open(&name, OpenMode::ReadWrite).unwrap().write_at(&[IoSlice::new(b"?")], offset).unwrap();
        }
        let segments = Segments::new(dir, StoreId(1), Sealer::new(&Keys::Plain), 0..0);
        let blocks = Blocks::of_runs(&ids);
        for threads in [0, 1, 2, 16] {
            let mut read = 0;
            let damaged = read_all(&segments, &blocks, threads, &mut |count, _| read += count);
            assert_eq!((damaged.addresses(), read), (at.clone(), 7 * 600), "{threads} threads");
        }
    }
}
