//! `larder upgrade`

use super::args::UpgradeArgs;
use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::host::{Upgraded, names, store_of, upgrade};
use crate::store::StoreId;
use crate::volume::{Result, VolumeError};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// The program that is to serve from now on: this one, unless another was named.
fn program(args: &UpgradeArgs) -> Result<PathBuf> {
    let failed = |what: String| VolumeError::new(Exit::Usage, what);
    match &args.program {
        Some(path) => path.canonicalize().map_err(|e| failed(format!("{}: {e}", path.display()))),
        None => {
            std::env::current_exe().map_err(|e| failed(format!("cannot find out where this program is: {e}")))
        }
    }
}

pub(super) fn run(context: &Context, args: &UpgradeArgs) -> CommandResult {
    let root = &context.root;
    let program = program(args)?;
    let named = if args.names.is_empty() {
        // Volumes in memory have no server.
        names(root)?.into_iter().filter(|name| store_of(root, name).is_ok()).collect()
    } else {
        args.names.clone()
    };
    let stores: BTreeSet<StoreId> = named.iter().map(|name| store_of(root, name)).collect::<Result<_>>()?;
    let mut upgraded: Vec<Upgraded> = Vec::new();
    let mut failure = None;
    for store in stores {
        match upgrade(root, store, &program) {
            Ok(done) => upgraded.extend(done),
            Err(e) => {
                // The others are tried all the same.
                if let Some(before) = failure.replace(e) {
                    output::error(before);
                }
            }
        }
    }
    if context.json {
        output::json(&upgraded)?;
    } else {
        for Upgraded { volumes, from, to, pid } in &upgraded {
            output::line(&format!("{}: version {from} -> {to}, process {pid}", volumes.join(", ")))?;
        }
        if upgraded.is_empty() && failure.is_none() {
            output::line("nothing is mounted")?;
        }
    }
    failure.map_or(Ok(Exit::Ok), Err)
}
