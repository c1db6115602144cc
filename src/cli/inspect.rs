//! `larder inspect`

use super::args::InspectArgs;
use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::host::{Inspection, MemoryInspection, Place, look, place};

pub(super) fn run(context: &Context, args: &InspectArgs) -> CommandResult {
    if place(&context.root, &args.name)? == Some(Place::Memory) {
        output::json(&MemoryInspection::new(&context.root, &args.name)?)?;
        return Ok(Exit::Ok);
    }
    let look = look(&context.root, &args.name, Some(&args.secret.named()))?;
    output::json(&Inspection::new(&context.root, look)?)?;
    Ok(Exit::Ok)
}
