//! `larder inspect`

use super::args::InspectArgs;
use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::host::{Opening, Survey};

pub(super) fn run(context: &Context, args: &InspectArgs) -> CommandResult {
    let secret = args.secret.named();
    let survey = Survey::new(&context.root, true);
    let mut exit = Exit::Ok;
    let mut found = Vec::new();
    for name in &args.names {
        let doubt = match survey.volume(name, Opening::With(&secret)) {
            Ok((mut volume, doubt)) => {
                // What is known of it is shown all the same, with why there is no more.
                if let Some(e) = &doubt {
                    volume.failure.get_or_insert_with(|| e.message.clone());
                }
                found.push(volume);
                doubt
            }
            Err(e) => Some(e),
        };
        // So are the others.
        if let Some(e) = doubt {
            exit = e.exit;
            output::error(output::about(name, e));
        }
    }
    // Of one there is nothing to list.
    match (args.names.as_slice(), found.as_slice()) {
        ([_], [volume]) => output::json(volume)?,
        ([_], _) => {}
        (_, found) => output::json(&found)?,
    }
    Ok(exit)
}
