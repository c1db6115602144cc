//! `larder inspect`

use super::args::InspectArgs;
use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::host::{Opening, Survey};
use crate::volume::Result;

pub(super) fn run(context: &Context, args: &InspectArgs) -> CommandResult {
    let secret = args.secret.named();
    let survey = Survey::new(&context.root, true);
    let found = args.names.iter().map(|name| match survey.volume(name, Opening::With(&secret))? {
        (_, Some(e)) => Err(e),
        (volume, None) => Ok(volume),
    });
    let found = found.collect::<Result<Vec<_>>>()?;
    match found.as_slice() {
        // Of one there is nothing to list.
        [one] => output::json(one)?,
        several => output::json(&several)?,
    }
    Ok(Exit::Ok)
}
