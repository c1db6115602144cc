//! `larder hold` and `larder release`

use super::secret::SecretArgs;
use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::host::{self, Question, snapshots};
use crate::volume::{Result, Selection, VolumeError, check_tag};

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
    run(context, args, |question, names, failed| host::hold(question, names, &args.tag, failed))
}

pub(super) fn release(context: &Context, args: &HoldArgs) -> CommandResult {
    run(context, args, |question, names, failed| host::release(question, names, &args.tag, failed))
}

/// Changes the snapshots that are named, of one volume after the other: `change` returns those that it did change, and says of others why not.
fn run(
    context: &Context,
    args: &HoldArgs,
    change: impl Fn(&Question<'_>, Vec<String>, &mut dyn FnMut(VolumeError)) -> (Vec<String>, Result<()>),
) -> CommandResult {
    check_tag(&args.tag)?;
    let selections = args.snapshots.iter().map(|text| Selection::parse(text)).collect::<Result<Vec<_>>>()?;
    let mut exit = Exit::Ok;
    // The others are seen to all the same.
    let mut failed = |e: VolumeError| {
        output::error(&e);
        exit = e.exit;
    };
    let mut changed = Vec::new();
    let secret = args.secret.named();
    for selection in &selections {
        let volume = selection.volume.as_str();
        let question = Question::reading(&context.root, volume, Some(&secret));
        let names = match selection.name() {
            Some(name) => Ok(vec![name.to_owned()]),
            None => snapshots(&question).and_then(|all| {
                Ok(selection.choose(&all)?.into_iter().map(|snapshot| snapshot.name.clone()).collect())
            }),
        };
        let done = names.and_then(|names: Vec<String>| match names.is_empty() {
            true => {
                let what = format!(
                    "no snapshot of volume {volume:?} matches; `larder snapshot ls {volume}` lists them"
                );
                Err(VolumeError::new(Exit::NoVolume, what))
            }
            false => Ok(change(&question.clone().to_change(), names, &mut failed)),
        });
        let (names, done) = done.unwrap_or_else(|e| (Vec::new(), Err(e)));
        let names = names.into_iter().map(|name| format!("{volume}@{name}"));
        match context.json {
            true => changed.extend(names),
            false => names.into_iter().try_for_each(|name| output::line(&name))?,
        }
        if let Err(e) = done {
            failed(e);
        }
    }
    if context.json {
        output::json(&changed)?;
    }
    Ok(exit)
}
