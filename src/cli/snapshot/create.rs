//! `larder snapshot create`

use crate::cli::args::parse_label;
use crate::cli::secret::SecretArgs;
use crate::cli::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::host::alter;
use crate::volume::{Alteration, Target};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct SnapshotCreateArgs {
    /// The volume, and the name of the new snapshot
    #[arg(value_name = "VOLUME@SNAPSHOT")]
    snapshot: String,
    /// A label; can be given more than once
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    #[command(flatten)]
    secret: SecretArgs,
}

pub(super) fn run(context: &Context, args: &SnapshotCreateArgs) -> CommandResult {
    let (volume, name) = Target::parse_snapshot(&args.snapshot)?;
    let labels = args.labels.iter().cloned().collect();
    let change = Alteration::Snapshot { volume: volume.clone(), name, labels };
    alter(&context.root, &volume, &args.secret.named(), &change)?;
    output::line(&args.snapshot)?;
    Ok(Exit::Ok)
}
