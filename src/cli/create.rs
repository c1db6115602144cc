//! `larder create`

use super::args::{CloneArgs, CreateArgs};
use super::{CommandResult, Context, family, output};
use crate::exit_code::Exit;
use crate::host::{VolumeOptions, create, may_be_plain, or_usual, usual_volume};
use crate::volume::{LimitChange, LimitChanges, VolumeError, VolumeSpec, new_recovery_key};
use nix::unistd::{getegid, geteuid};
use serde_json::json;

pub(super) fn run(context: &Context, args: &CreateArgs) -> CommandResult {
    if let Some(source) = &args.from {
        if args.encrypt {
            let what = "a clone has the keys of the volume that it is made from; leave out --encrypt";
            return Err(VolumeError::new(Exit::Usage, what));
        }
        return family::clone(
            context,
            &CloneArgs {
                source: source.clone(),
                name: args.name.clone(),
                size: args.size,
                inodes: args.inodes,
                metadata: args.metadata,
                new: args.new.clone(),
                secret: args.secret.clone(),
            },
        );
    }
    let new = &args.new;
    let asked = VolumeOptions {
        size: args.size.unwrap_or_default(),
        inodes: args.inodes.unwrap_or_default(),
        metadata: args.metadata.unwrap_or_default(),
        uid: new.uid,
        gid: new.gid,
        mode: new.mode,
        labels: new.labels.iter().cloned().collect(),
        ..VolumeOptions::default()
    };
    let options = or_usual(asked, usual_volume()?);
    let spec = VolumeSpec {
        name: args.name.clone(),
        limits: LimitChanges {
            size: if options.size == LimitChange::Keep { LimitChange::Lift } else { options.size },
            inodes: options.inodes,
            metadata: options.metadata,
        },
        uid: options.uid.unwrap_or_else(|| geteuid().as_raw()),
        gid: options.gid.unwrap_or_else(|| getegid().as_raw()),
        mode: options.mode.unwrap_or(0o755),
        labels: options.labels,
    };
    if args.secret.named().is_given() && !args.encrypt {
        return Err(VolumeError::new(
            Exit::Usage,
            "a secret was given, but not --encrypt; add it to make an encrypted volume",
        ));
    }
    let mut secrets = match args.encrypt {
        true => args.secret.named().new_secrets(&args.name)?,
        false => may_be_plain(&args.name).map(|()| Vec::new())?,
    };
    let recovery = if args.recovery_key { Some(new_recovery_key()?) } else { None };
    secrets.extend(recovery.iter().map(|(_, secret)| secret.clone()));
    create(&context.root, &spec, &secrets)?;
    family::remember_trash(context, &args.name, &args.new)?;
    let Some((key, _)) = recovery else {
        output::done(context, &args.name, &json!({ "name": args.name }))?;
        return Ok(Exit::Ok);
    };
    let key = key.text();
    if context.json {
        output::json(&json!({ "name": args.name, "recovery_key": *key }))?;
    } else {
        output::line(&args.name)?;
        output::line(&format!("recovery key: {}", *key))?;
    }
    Ok(Exit::Ok)
}
