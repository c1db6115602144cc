//! `larder create`

use super::args::CreateArgs;
use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::volume::{VolumeError, VolumeSpec, create_encrypted, new_recovery_key};

pub(super) fn run(context: &Context, args: &CreateArgs) -> CommandResult {
    let spec = VolumeSpec {
        name: args.name.clone(),
        size: args.size,
        inodes: args.inodes,
        uid: args.uid,
        gid: args.gid,
        mode: args.mode,
        labels: args.labels.iter().cloned().collect(),
    };
    if args.secret.is_given() && !args.encrypt {
        return Err(VolumeError::new(Exit::Usage, "a secret was given for a volume without --encrypt"));
    }
    let mut secrets = if args.encrypt { args.secret.new_secrets(&args.name)? } else { Vec::new() };
    let recovery = if args.recovery_key { Some(new_recovery_key()?) } else { None };
    secrets.extend(recovery.iter().map(|(_, secret)| secret.clone()));
    create_encrypted(&context.root, &spec, &secrets)?;
    output::line(&args.name)?;
    if let Some((key, _)) = recovery {
        output::line(&format!("recovery key: {}", *key.text()))?;
    }
    Ok(Exit::Ok)
}
