//! `larder hold` and `larder release`

use super::secret::SecretArgs;
use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::host::{Question, alter_each, snapshots};
use crate::volume::{Alteration, Result, Selection, VolumeError, check_tag};

#[derive(Debug, clap::Args)]
pub(super) struct HoldArgs {
    /// The name of the hold: why, or for whom. A snapshot can have several
    tag: String,
    /// The snapshots: by name, by a pattern, or from one to another, as for `snapshot rm`
    #[arg(required = true, value_name = "VOLUME@SNAPSHOT")]
    snapshots: Vec<String>,
    #[command(flatten)]
    secret: SecretArgs,
}

pub(super) fn hold(context: &Context, args: &HoldArgs) -> CommandResult {
    run(context, args, |volume, snapshot, tag| Alteration::Hold { volume, snapshot, tag })
}

pub(super) fn release(context: &Context, args: &HoldArgs) -> CommandResult {
    run(context, args, |volume, snapshot, tag| Alteration::Release { volume, snapshot, tag })
}

fn run(
    context: &Context,
    args: &HoldArgs,
    change: impl Fn(String, String, String) -> Alteration,
) -> CommandResult {
    check_tag(&args.tag)?;
    let selections = args.snapshots.iter().map(|text| Selection::parse(text)).collect::<Result<Vec<_>>>()?;
    let mut exit = Exit::Ok;
    let mut changed = Vec::new();
    let secret = args.secret.named();
    for selection in &selections {
        let question = Question::reading(&context.root, &selection.volume, Some(&secret));
        let mut one = || -> Result<()> {
            let names: Vec<String> = match selection.name() {
                Some(name) => vec![name.to_owned()],
                None => {
                    let all = snapshots(&question)?;
                    selection.choose(&all)?.into_iter().map(|snapshot| snapshot.name.clone()).collect()
                }
            };
            if names.is_empty() {
                let what = format!("no snapshot of volume {:?} matches", selection.volume);
                return Err(VolumeError::new(Exit::NoVolume, what));
            }
            let changes: Vec<Alteration> = names
                .into_iter()
                .map(|name| change(selection.volume.clone(), name, args.tag.clone()))
                .collect();
            let mut said = Ok(());
            alter_each(&question.clone().to_change(), &changes, |change, result| match result {
                Ok(_) => {
                    let (Alteration::Hold { volume, snapshot, .. }
                    | Alteration::Release { volume, snapshot, .. }) = change
                    else {
                        return;
                    };
                    let name = format!("{volume}@{snapshot}");
                    if context.json {
                        changed.push(name);
                    } else if let Err(e) = output::line(&name) {
                        said = Err(e);
                    }
                }
                // The others are seen to all the same.
                Err(e) => {
                    output::error(&e);
                    exit = e.exit;
                }
            })?;
            said
        };
        if let Err(e) = one() {
            output::error(&e);
            exit = e.exit;
        }
    }
    if context.json {
        output::json(&changed)?;
    }
    Ok(exit)
}
