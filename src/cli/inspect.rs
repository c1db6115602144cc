//! `larder inspect`

use super::args::InspectArgs;
use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::host::{Inspection, look};

pub(super) fn run(context: &Context, args: &InspectArgs) -> CommandResult {
    let look = look(&context.root, &args.name, Some(&args.secret.named()))?;
    output::json(&Inspection::new(&context.root, look)?)?;
    Ok(Exit::Ok)
}
