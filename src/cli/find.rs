//! `larder find`

use super::secret::SecretArgs;
use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::host::Question;
use crate::store::BlockAddr;
use crate::volume::{Found, FoundFiles, Sought, VolumeError, find, inspect_offline, not_found};
use std::collections::HashSet;

#[derive(Debug, clap::Args)]
pub(super) struct FindArgs {
    /// Name of the volume
    name: String,
    #[command(flatten)]
    what: WhatArgs,
    #[command(flatten)]
    secret: SecretArgs,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct WhatArgs {
    /// The file that has this inode number, with all of its names, also in snapshots
    #[arg(long, value_name = "N")]
    inode: Option<u64>,
    /// The files that have this block, also in snapshots and clones
    #[arg(long, value_name = "SEGMENT:BLOCK")]
    block: Option<BlockAddr>,
}

pub(super) fn run(context: &Context, args: &FindArgs) -> CommandResult {
    let (root, name, secret) = (&context.root, &args.name, args.secret.named());
    let block = args.what.block.map(Sought::Block);
    let Some(sought) = args.what.inode.map(Sought::Inode).or(block) else {
        return Err(VolumeError::new(Exit::Usage, "give --inode or --block, to say what to look for"));
    };
    let found = Question::reading(root, name, Some(&secret)).ask(
        |client| client.find(name, sought),
        |id, keys| inspect_offline(root, id, name, keys, |inspector| find(inspector, name, sought)),
    )?;
    let FoundFiles { found, more } = found;
    if found.is_empty() {
        return Err(not_found(name, sought));
    }
    if context.json {
        output::json(&found)?;
        say_more(&found, more);
        return Ok(Exit::Ok);
    }
    for found in &found {
        let at = found.offset.map_or(String::new(), |offset| format!(", at byte {offset}"));
        let inode = format!("inode {}", found.inode);
        match (found.paths.is_empty(), found.more_paths) {
            (false, _) => {}
            (true, 0) => output::change(&found.volume, &[&format!("{inode}, removed and still open{at}")])?,
            (true, n) => output::change(&found.volume, &[&format!("{inode}, with {n} names{at}")])?,
        }
        for path in &found.paths {
            output::change(&found.volume, &[&format!("{path}{at}")])?;
        }
    }
    say_more(&found, more);
    Ok(Exit::Ok)
}

/// Says what is not listed.
fn say_more(found: &[Found], more: u64) {
    let mut seen = HashSet::new();
    let first = found.iter().filter(|found| seen.insert((&found.volume, found.inode)));
    let names: u64 = first.map(|found| found.more_paths).sum();
    if names > 0 {
        output::warning(format!("{names} more names of these files are not listed"));
    }
    if more > 0 {
        output::warning(format!("{more} more places in files have this block, and are not listed"));
    }
}
