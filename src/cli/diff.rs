//! `larder diff`

use super::args::DiffArgs;
use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::host::{Question, store_of};
use crate::volume::{Target, VolumeError, diff, inspect_offline};

pub(super) fn run(context: &Context, args: &DiffArgs) -> CommandResult {
    let (volume, _) = Target::parse_snapshot(&args.from)?;
    let to = args.to.clone().unwrap_or_else(|| volume.clone());
    if store_of(&context.root, &volume)? != store_of(&context.root, &to)? {
        let what = format!("{} and {to} cannot be compared: neither was made from the other", args.from);
        return Err(VolumeError::new(Exit::Usage, what));
    }
    let (root, secret) = (&context.root, args.secret.named());
    let differences = Question::reading(root, &volume, Some(&secret)).ask(
        |client| client.diff(&args.from, &to),
        |id, keys| inspect_offline(root, id, &volume, keys, |inspector| diff(inspector, &args.from, &to)),
    )?;
    if context.json {
        output::json(&differences)?;
        return Ok(Exit::Ok);
    }
    for difference in differences {
        let sign = match difference.change.as_str() {
            "added" => "+",
            "removed" => "-",
            "renamed" => "R",
            _ => "M",
        };
        match difference.from {
            Some(from) => output::change(sign, &[&from, &difference.path])?,
            None => output::change(sign, &[&difference.path])?,
        }
    }
    Ok(Exit::Ok)
}
