//! `larder inspect`

use super::args::InspectArgs;
use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::host::{Opening, Survey};

pub(super) fn run(context: &Context, args: &InspectArgs) -> CommandResult {
    let secret = args.secret.named();
    let survey = Survey::new(&context.root, true);
    let look = |name: &String| match survey.volume(name, Opening::With(&secret))? {
        (_, Some(e)) => Err(e),
        (volume, None) => Ok(volume),
    };
    // Of one there is nothing to list.
    if let [name] = args.names.as_slice() {
        output::json(&look(name)?)?;
        return Ok(Exit::Ok);
    }
    let mut exit = Exit::Ok;
    let mut found = Vec::new();
    for result in args.names.iter().map(look) {
        match result {
            Ok(volume) => found.push(volume),
            // The others are shown all the same.
            Err(e) => {
                exit = e.exit;
                output::error(e);
            }
        }
    }
    output::json(&found)?;
    Ok(exit)
}
