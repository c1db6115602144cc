//! Changing a family, whether a server has its store open or not; and the commands that do little else.

use super::args::{CloneArgs, ResizeArgs, RollbackArgs};
use super::look::{look, server_of, store_of};
use super::secret::SecretArgs;
use super::{CommandResult, Context, output};
use crate::crypto::Keys;
use crate::exit_code::Exit;
use crate::root::Root;
use crate::store::StoreId;
use crate::volume::{
    Alteration, Altered, LimitChange, Result, Target, VolumeError, alter_offline, clone_volume,
};
use std::time::{Duration, Instant};

/// How long a server that is ending may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Lets the server of a store change its family, or does it here if there is none; then `secret` opens an encrypted one.
pub(super) fn alter(
    root: &Root,
    (id, name): (StoreId, &str),
    secret: &SecretArgs,
    what: &Alteration,
) -> Result<Altered> {
    let mut known: Option<Keys> = None;
    let until = Instant::now() + PATIENCE;
    loop {
        let result = match server_of(root, id)? {
            Some(mut client) => client.alter(what),
            None => {
                let keys = match &known {
                    Some(keys) => keys,
                    None => known.insert(secret.keys(root, id, name)?),
                };
                alter_offline(root, id, keys.clone(), what)
            }
        };
        match result {
            // The server that we met was ending.
            Err(e) if e.exit == Exit::Failure && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(50));
            }
            other => return other,
        }
    }
}

/// Whether a name stands for a volume; one that an interrupted command left does not.
fn exists(root: &Root, name: &str) -> Result<bool> {
    match look(root, name, None) {
        Ok(_) => Ok(true),
        Err(e) if e.exit == Exit::NoVolume => Ok(false),
        // What cannot be looked into without its secret is there.
        Err(e) if e.exit == Exit::Secret => Ok(true),
        Err(e) => Err(e),
    }
}

pub(super) fn clone(context: &Context, args: &CloneArgs) -> CommandResult {
    let source = Target::parse(&args.source)?;
    let root = &context.root;
    let id = store_of(root, &source.volume)?;
    let change = Alteration::Clone {
        source: args.source.clone(),
        name: args.name.clone(),
        size: args.size.unwrap_or_default(),
        inodes: args.inodes.unwrap_or_default(),
        labels: args.labels.iter().cloned().collect(),
        uid: args.uid,
        gid: args.gid,
        mode: args.mode,
    };
    let alter = || alter(root, (id, &source.volume), &args.secret, &change);
    clone_volume(root, id, &args.name, |name| exists(root, name), alter)?;
    output::line(&args.name)?;
    Ok(Exit::Ok)
}

pub(super) fn rollback(context: &Context, args: &RollbackArgs) -> CommandResult {
    let (volume, snapshot) = Target::parse_snapshot(&args.snapshot)?;
    let id = store_of(&context.root, &volume)?;
    let change = Alteration::Rollback { volume: volume.clone(), snapshot, live: args.live };
    let altered = alter(&context.root, (id, &volume), &args.secret, &change)?;
    let kept = altered.kept.unwrap_or_default();
    output::line(&format!("{volume} is what it was at {}; before, it was {volume}@{kept}", args.snapshot))?;
    Ok(Exit::Ok)
}

pub(super) fn resize(context: &Context, args: &ResizeArgs) -> CommandResult {
    if args.size.is_none() && args.inodes.is_none() {
        return Err(VolumeError::new(Exit::Usage, "nothing to change: give --size, --inodes or both"));
    }
    let id = store_of(&context.root, &args.name)?;
    let change = Alteration::Resize {
        volume: args.name.clone(),
        size: args.size.unwrap_or_default(),
        inodes: args.inodes.unwrap_or_default(),
    };
    alter(&context.root, (id, &args.name), &args.secret, &change)?;
    output::line(&args.name)?;
    Ok(Exit::Ok)
}

/// A size limit, or `none`.
pub(super) fn parse_size_limit(text: &str) -> Result<LimitChange, String> {
    if text == "none" { Ok(LimitChange::Lift) } else { crate::size::parse(text).map(LimitChange::Set) }
}

/// A number of inodes, or `none`.
pub(super) fn parse_inode_limit(text: &str) -> Result<LimitChange, String> {
    match text.parse() {
        _ if text == "none" => Ok(LimitChange::Lift),
        Ok(0) | Err(_) => Err(format!("{text:?} is no number of inodes; write one, or `none`")),
        Ok(inodes) => Ok(LimitChange::Set(inodes)),
    }
}
