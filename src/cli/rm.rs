//! `larder rm`

use super::args::RmArgs;
use super::family::alter;
use super::progress::Progress;
use super::secret::SecretArgs;
use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::store::StoreId;
use crate::volume::{Alteration, Removed, Result, remove, remove_name};
use std::cell::RefCell;

pub(super) fn run(context: &Context, args: &RmArgs) -> CommandResult {
    let mut exit = Exit::Ok;
    for name in &args.names {
        let progress = RefCell::new(Progress::new());
        let update = |done, total| progress.borrow_mut().update("removing", done, total);
        let removed = remove(&context.root, name, update).and_then(|removed| match removed {
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
        // The name is all that an interrupted command left.
        Err(e) if e.exit == Exit::NoVolume => remove_name(&context.root, name),
        Ok(_) => remove_name(&context.root, name),
        Err(e) => Err(e),
    }
}
