//! `larder rm`

use super::args::RmArgs;
use super::family::alter;
use super::look::{server_of, store_of};
use super::progress::Progress;
use super::secret::SecretArgs;
use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::root::Root;
use crate::store::StoreId;
use crate::volume::{Alteration, Removed, Result, remove, remove_name};
use std::cell::RefCell;
use std::time::{Duration, Instant};

/// How long a server may take to end.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) fn run(context: &Context, args: &RmArgs) -> CommandResult {
    let mut exit = Exit::Ok;
    for name in &args.names {
        let progress = RefCell::new(Progress::new());
        let update = |done, total| progress.borrow_mut().update("removing", done, total);
        let removed = remove_idle(&context.root, name, update).and_then(|removed| match removed {
            Removed::Done => Ok(()),
            Removed::Shared(id) => remove_from(context, id, name, &args.secret),
        });
        match removed {
            Ok(()) => output::line(name)?,
            // The others are removed all the same.
            Err(e) => {
                drop(progress);
                eprintln!("larder: cannot remove {name:?}: {e}");
                exit = e.exit;
            }
        }
    }
    Ok(exit)
}

/// Removes a volume from a store that others live in. What they need stays.
fn remove_from(context: &Context, id: StoreId, name: &str, secret: &SecretArgs) -> Result<()> {
    let change = Alteration::Remove { volume: name.to_owned() };
    match alter(&context.root, (id, name), secret, &change) {
        // Without a volume, the name is all that an interrupted command left.
        Err(e) if e.exit != Exit::NoVolume => Err(e),
        _ => remove_name(&context.root, name),
    }
}

/// Removes a volume; waits a moment for a server that nobody uses any more to let go of it.
fn remove_idle(root: &Root, name: &str, progress: impl Fn(u64, u64)) -> Result<Removed> {
    let until = Instant::now() + PATIENCE;
    loop {
        match remove(root, name, &progress) {
            Err(e) if e.exit == Exit::Busy && Instant::now() < until && !is_served(root, name) => {
                std::thread::sleep(Duration::from_millis(20));
            }
            other => return other,
        }
    }
}

/// Whether a server has mounts of the volume's store.
fn is_served(root: &Root, name: &str) -> bool {
    let client = store_of(root, name).and_then(|id| server_of(root, id));
    let status = client.ok().flatten().and_then(|mut client| client.status().ok());
    status.is_some_and(|status| !status.mounts.is_empty())
}
