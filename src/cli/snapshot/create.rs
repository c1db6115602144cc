//! `larder snapshot create`

use crate::cli::args::parse_label;
use crate::cli::prune::{Filter, parse_filter};
use crate::cli::secret::{SecretArgs, all_secrets};
use crate::cli::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::host::{Looker, Secrets, alter, store_of};
use crate::store::StoreId;
use crate::volume::{Alteration, Result, Target, VolumeError};
use std::collections::BTreeMap;
use std::time::SystemTime;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct SnapshotCreateArgs {
    /// The volumes, and the names of the new snapshots. With --all or --filter, only @SNAPSHOT [default: the time]
    #[arg(value_name = "VOLUME@SNAPSHOT", required_unless_present_any = ["all", "filter"])]
    snapshots: Vec<String>,
    /// Of all volumes. Those of volumes of one family (a volume and its clones) are of one moment
    #[arg(short, long)]
    all: bool,
    /// Of all volumes with a label: label=KEY, label=KEY=VALUE, or label!=... for those without; can be given more than once
    #[arg(long, value_name = "FILTER", value_parser = parse_filter)]
    filter: Vec<Filter>,
    /// A label of the new snapshot; can be given more than once
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    #[command(flatten)]
    secret: SecretArgs,
}

/// Volumes of one family, and the names of their snapshots.
type Family = (StoreId, Vec<(String, String)>);

pub(super) fn run(context: &Context, args: &SnapshotCreateArgs) -> CommandResult {
    let mut exit = Exit::Ok;
    let of_all = args.all || !args.filter.is_empty();
    let (targets, secret) = match of_all {
        true => {
            let secret = all_secrets(&args.secret);
            let targets = all(context, args, &secret, &mut exit)?;
            // Whoever has mistyped a label would take it for done.
            if targets.is_empty() && !args.filter.is_empty() && exit == Exit::Ok {
                let what = "no volume has such labels; `larder ls --filter label=KEY` shows which do";
                return Err(VolumeError::new(Exit::NoVolume, what));
            }
            (targets, secret)
        }
        false => {
            let targets =
                args.snapshots.iter().map(|text| Target::parse_snapshot(text)).collect::<Result<_>>()?;
            (targets, args.secret.named())
        }
    };
    let mut families: Vec<Family> = Vec::new();
    for (volume, name) in targets {
        let id = match store_of(&context.root, &volume) {
            Ok(id) => id,
            // It was removed after it was found.
            Err(e) if of_all && e.exit == Exit::NoVolume => continue,
            Err(e) => return Err(e),
        };
        match families.iter_mut().find(|(other, _)| *other == id) {
            Some((_, snapshots)) => snapshots.push((volume, name)),
            None => families.push((id, vec![(volume, name)])),
        }
    }
    let labels: BTreeMap<String, String> = args.labels.iter().cloned().collect();
    let mut made = Vec::new();
    for (id, mut snapshots) in families {
        match make(context, &secret, (id, &mut snapshots), &labels, of_all) {
            Ok(()) => {
                let names = snapshots.iter().map(|(volume, name)| format!("{volume}@{name}"));
                match context.json {
                    true => made.extend(names),
                    false => names.into_iter().try_for_each(|name| output::line(&name))?,
                }
            }
            // Those of other families are made all the same.
            Err(e) => {
                let names: Vec<String> =
                    snapshots.iter().map(|(volume, name)| format!("{volume}@{name}")).collect();
                exit = e.exit;
                output::error(e.context(&format!("cannot make {}", names.join(", "))));
            }
        }
    }
    if context.json {
        output::json(&made)?;
    }
    Ok(exit)
}

/// Makes snapshots of volumes of one family, of one moment. Of those that were all that there are, some may have been removed since: they are
/// taken out of the list.
fn make(
    context: &Context,
    secret: &Secrets,
    (id, snapshots): (StoreId, &mut Vec<(String, String)>),
    labels: &BTreeMap<String, String>,
    of_all: bool,
) -> Result<()> {
    let root = &context.root;
    while let Some((volume, name)) = snapshots.first().cloned() {
        let change = match snapshots.as_slice() {
            // Any server knows this one.
            [_] => Alteration::Snapshot { volume: volume.clone(), name, labels: labels.clone() },
            _ => Alteration::Snapshots { snapshots: snapshots.clone(), labels: labels.clone() },
        };
        match alter(root, &volume, secret, &change) {
            Err(e) if of_all && e.exit == Exit::NoVolume => {
                let before = snapshots.len();
                snapshots
                    .retain(|(volume, _)| matches!(root.resolve(volume), Ok(Some(found)) if found == id));
                // All of them are there: it is something else.
                if snapshots.len() == before {
                    return Err(e);
                }
            }
            other => return other.map(drop),
        }
    }
    Ok(())
}

/// All volumes that are meant, with the name that their snapshots get.
fn all(
    context: &Context,
    args: &SnapshotCreateArgs,
    secret: &Secrets,
    exit: &mut Exit,
) -> Result<Vec<(String, String)>> {
    let usage = |what: &str| VolumeError::new(Exit::Usage, what);
    let name = match args.snapshots.as_slice() {
        [] => {
            let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
            now.trim_end_matches('Z').replace(':', ".")
        }
        [name] if name.starts_with('@') => Target::parse_snapshot(&format!("x{name}"))?.1,
        _ => {
            return Err(usage(
                "with --all or --filter, all snapshots get the same name; write it as @SNAPSHOT",
            ));
        }
    };
    let root = &context.root;
    let names = root.names().map_err(|e| VolumeError::io(&root.volumes(), &e))?;
    let looker = Looker::new(root);
    let mut targets = Vec::new();
    for volume in names {
        match looker.look(&volume, Some(secret)) {
            Ok(look) if args.filter.iter().all(|filter| filter.admits(&look.info.labels)) => {
                targets.push((volume, name.clone()));
            }
            Ok(_) => {}
            // All that an interrupted command left of a volume is its name.
            Err(e) if e.exit == Exit::NoVolume => {}
            Err(e) => {
                *exit = e.exit;
                output::error(output::about(&volume, e));
            }
        }
    }
    Ok(targets)
}
