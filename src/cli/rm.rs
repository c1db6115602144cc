//! `larder rm`

use super::args::RmArgs;
use super::progress::Progress;
use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::host::remove;
use std::cell::RefCell;

pub(super) fn run(context: &Context, args: &RmArgs) -> CommandResult {
    let mut exit = Exit::Ok;
    for name in &args.names {
        let progress = RefCell::new(Progress::new());
        let update = |done, total| progress.borrow_mut().update("removing", done, total);
        let removed = remove(&context.root, name, &args.secret.named(), args.force, update);
        match removed {
            Ok(()) => output::line(name)?,
            // The others are removed all the same.
            Err(e) => {
                drop(progress);
                output::error(&e.clone().context(&format!("cannot remove {name:?}")));
                exit = e.exit;
            }
        }
    }
    Ok(exit)
}
