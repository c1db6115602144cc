//! `larder snapshot`

use super::args::{SnapshotCommand, SnapshotCreateArgs, SnapshotLsArgs, SnapshotRmArgs};
use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::host::{Question, alter, time};
use crate::size;
use crate::volume::{Alteration, Target, inspect_offline, snapshots_of};

pub(super) fn run(context: &Context, command: &SnapshotCommand) -> CommandResult {
    match command {
        SnapshotCommand::Create(args) => create(context, args),
        SnapshotCommand::Ls(args) => ls(context, args),
        SnapshotCommand::Rm(args) => rm(context, args),
    }
}

fn create(context: &Context, args: &SnapshotCreateArgs) -> CommandResult {
    let (volume, name) = Target::parse_snapshot(&args.snapshot)?;
    let labels = args.labels.iter().cloned().collect();
    let change = Alteration::Snapshot { volume: volume.clone(), name, labels };
    alter(&context.root, &volume, &args.secret.named(), &change)?;
    output::line(&args.snapshot)?;
    Ok(Exit::Ok)
}

fn ls(context: &Context, args: &SnapshotLsArgs) -> CommandResult {
    let (root, volume, secret) = (&context.root, &args.volume, args.secret.named());
    let snapshots = Question::reading(root, volume, Some(&secret)).ask(
        |client| client.snapshots(volume),
        |id, keys| inspect_offline(root, id, volume, keys, |inspector| snapshots_of(inspector, volume)),
    )?;
    if context.json {
        output::json(&snapshots)?;
        return Ok(Exit::Ok);
    }
    let rows: Vec<Vec<String>> = snapshots
        .into_iter()
        .map(|snapshot| {
            let labels = snapshot.labels.iter().map(|(key, value)| format!("{key}={value}"));
            vec![
                snapshot.name,
                time(snapshot.created),
                snapshot.used.map_or("-".into(), size::format),
                size::format(snapshot.referenced),
                labels.collect::<Vec<_>>().join(","),
            ]
        })
        .collect();
    output::table(&["NAME", "CREATED", "USED", "REFERENCED", "LABELS"], &rows)?;
    Ok(Exit::Ok)
}

fn rm(context: &Context, args: &SnapshotRmArgs) -> CommandResult {
    let mut exit = Exit::Ok;
    for snapshot in &args.snapshots {
        let removed = Target::parse_snapshot(snapshot).and_then(|(volume, name)| {
            let change = Alteration::RemoveSnapshot { volume: volume.clone(), name };
            alter(&context.root, &volume, &args.secret.named(), &change)
        });
        match removed {
            Ok(_) => output::line(snapshot)?,
            // The others are removed all the same.
            Err(e) => {
                output::error(format!("cannot remove {snapshot:?}: {e}"));
                exit = e.exit;
            }
        }
    }
    Ok(exit)
}
