//! What can neither be read here nor is in the remote. Shipping leaves out what does not open, because nothing may refer to it any more; whether
//! something does is only known when all metadata are looked at, which is done where somebody wants to know that everything is there.

use crate::open_store::OpenStore;
use crate::remote::{OnDemand, RemoteError, ShipError};
use crate::store::{ReadError, Run};
use crate::volume::check::live_blocks;
use std::sync::Arc;

/// Blocks that are read at a time: 4 MiB.
const AT_ONCE: u32 = 1024;

/// What to say of blocks that something refers to, that do not open here, and that the remote lacks; `None` if there are none.
///
/// # Errors
/// When it cannot be found out.
pub(super) fn lost(
    store: &Arc<OpenStore>,
    on_demand: &OnDemand,
    remote: &str,
) -> Result<Option<String>, ShipError> {
    let of_meta = |e: crate::meta::MetaError| ShipError::Store(e.to_string());
    // What is freed meanwhile stays where it is.
    let _held = store.hold_freed();
    let inspector = store.meta().inspector().map_err(of_meta)?;
    let live = live_blocks(&inspector).map_err(of_meta)?;
    drop(inspector);
    let lacking = on_demand.lacking(&live).ok_or(RemoteError::Interrupted)?;
    let mut count = 0;
    for run in lacking {
        // What was written since the last state was shipped is lacking, too, and opens.
        count += unreadable(store, run).map_err(|e| ShipError::Store(e.to_string()))?;
    }
    let blocks = match count {
        0 => return Ok(None),
        1 => "1 block".to_owned(),
        n => format!("{n} blocks"),
    };
    Ok(Some(format!(
        "{remote} lacks {blocks} of files, which this host cannot read either; everything else is there; `larder check --read-data` names the files"
    )))
}

fn unreadable(store: &OpenStore, run: Run) -> Result<u64, ReadError> {
    let (mut done, mut count) = (0, 0);
    while done < run.count {
        let some = run.part(done, AT_ONCE.min(run.count - done));
        let opened: u32 = store.segments().read_stored(some)?.iter().map(|blocks| blocks.run.count).sum();
        count += u64::from(some.count - opened);
        done += some.count;
    }
    Ok(count)
}
