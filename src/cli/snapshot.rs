//! `larder snapshot`

mod create;
mod prune;
mod rm;

use super::secret::SecretArgs;
use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::host::{Question, Snapshot, snapshots, time};
use crate::size;
use crate::volume::VolumeError;
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(super) enum SnapshotCommand {
    /// Make a snapshot of a volume as it is now
    Create(create::SnapshotCreateArgs),
    /// List the snapshots of a volume
    #[command(alias = "list")]
    Ls(SnapshotLsArgs),
    /// Remove snapshots
    #[command(alias = "remove")]
    Rm(rm::SnapshotRmArgs),
    /// Give a snapshot another name, also while its volume is mounted
    Rename(super::rename::SnapshotRenameArgs),
    /// Remove all snapshots of volumes but those that rules keep, as `restic forget` does
    #[command(alias = "forget")]
    Prune(Box<prune::SnapshotPruneArgs>),
}

#[derive(Debug, clap::Args)]
pub(super) struct SnapshotLsArgs {
    /// Name of the volume
    volume: String,
    #[command(flatten)]
    secret: SecretArgs,
}

pub(super) fn run(context: &Context, command: &SnapshotCommand) -> CommandResult {
    match command {
        SnapshotCommand::Create(args) => create::run(context, args),
        SnapshotCommand::Ls(args) => ls(context, args),
        SnapshotCommand::Rm(args) => rm::run(context, args),
        SnapshotCommand::Rename(args) => super::rename::snapshot(context, args),
        SnapshotCommand::Prune(args) => prune::run(context, args),
    }
}

fn ls(context: &Context, args: &SnapshotLsArgs) -> CommandResult {
    if let Some((volume, _)) = args.volume.split_once('@') {
        let what = format!(
            "{:?} is a snapshot; `larder snapshot ls {volume}` lists those of its volume",
            args.volume
        );
        return Err(VolumeError::new(Exit::Usage, what));
    }
    let secret = args.secret.named();
    let snapshots = snapshots(&Question::reading(&context.root, &args.volume, Some(&secret)))?;
    if context.json {
        output::json(&snapshots.into_iter().map(Snapshot::from).collect::<Vec<_>>())?;
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
                snapshot.holds.join(","),
            ]
        })
        .collect();
    output::table(&["NAME", "CREATED", "USED", "REFERENCED", "LABELS", "HOLDS"], &rows)?;
    Ok(Exit::Ok)
}
