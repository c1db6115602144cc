//! `larder create`

use super::args::{CloneArgs, CreateArgs};
use super::shipping::name_of;
use super::{CommandResult, Context, family, output};
use crate::exit_code::Exit;
use crate::host::{
    Secrets, VolumeOptions, create, may_be_plain, may_have_size, or_usual, secrets_of, usual_to_remember,
    usual_volume,
};
use crate::volume::{LimitChange, LimitChanges, VolumeError, VolumeSpec, new_recovery_key};
use nix::unistd::{getegid, geteuid};
use serde_json::json;
use std::collections::BTreeMap;

pub(super) fn run(context: &Context, args: &CreateArgs) -> CommandResult {
    if let Some(source) = &args.from {
        if args.remote.as_deref().is_some_and(|remote| remote != "none") {
            let what = "a clone is in the store of the volume that it is made from, and has its remote; leave out --remote";
            return Err(VolumeError::new(Exit::Usage, what));
        }
        if args.closely.is_given() {
            let what = "a clone is shipped as the volume that it is made from; leave out --durability, --max-lag, --history, --local-size, --lease and --heartbeat, and say afterwards what its syncs wait for (`larder set NAME durability=remote`)";
            return Err(VolumeError::new(Exit::Usage, what));
        }
        if args.encrypt == Some(true) || args.recovery_key {
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
    let named = args.secret.named();
    if named.is_given() && args.encrypt == Some(false) {
        return Err(VolumeError::new(
            Exit::Usage,
            "a secret was given, but the volume is not to be encrypted; leave out one of the two",
        ));
    }
    let mut asked = VolumeOptions {
        size: args.size.unwrap_or_default(),
        inodes: args.inodes.unwrap_or_default(),
        metadata: args.metadata.unwrap_or_default(),
        uid: new.uid,
        gid: new.gid,
        mode: new.mode,
        encrypt: args.encrypt == Some(true),
        labels: new.labels.iter().cloned().collect(),
        remote: args.remote.clone().filter(|remote| remote != "none"),
        ship: args.ship,
        max_lag: args.closely.max_lag,
        history: args.closely.history,
        local_size: args.closely.local_size,
        lease: args.closely.lease,
        heartbeat: args.closely.heartbeat,
        ..family::remembered(new)
    };
    asked.refused.extend((args.remote.as_deref() == Some("none")).then_some("remote"));
    asked.refused.extend((args.encrypt == Some(false)).then_some("encrypt"));
    let mut options = or_usual(asked.clone(), usual_volume()?);
    if named.is_given() {
        if !options.encrypt {
            return Err(VolumeError::new(
                Exit::Usage,
                "a secret was given, but not --encrypt; add it to make an encrypted volume",
            ));
        }
        // There is one that need not be remembered: whoever mounts the volume names it again.
        (options.key_file, options.passphrase_file) = (None, None);
    }
    if options.remote.is_none() && args.closely.is_given() {
        let what = "--durability, --max-lag, --history, --local-size, --lease and --heartbeat need a remote; give the volume one with --remote";
        return Err(VolumeError::new(Exit::Usage, what));
    }
    if args.recovery_key && !options.encrypt {
        let what = "only an encrypted volume has a recovery key; add --encrypt to make one";
        return Err(VolumeError::new(Exit::Usage, what));
    }
    // Before anybody is asked for a secret.
    may_have_size(&args.name, options.size)?;
    let usual = usual_to_remember(&asked, &options);
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
        labels: options.labels.clone(),
        remote: options.new_remote(),
    };
    let mut secrets = match options.encrypt {
        true if named.is_given() => named.new_secrets(&args.name)?,
        true => Secrets { ask: true, ..secrets_of(&options) }.new_secrets(&args.name)?,
        false => may_be_plain(&args.name).map(|()| Vec::new())?,
    };
    let recovery = if args.recovery_key { Some(new_recovery_key()?) } else { None };
    secrets.extend(recovery.iter().map(|(_, secret)| secret.clone()));
    let id = create(&context.root, &spec, &secrets)?;
    // Where its secret is, who needs it has to know.
    let mut usual = if usual.keys().all(|key| key == "encrypt") { BTreeMap::new() } else { usual };
    if let Some(durability) = args.closely.durability {
        usual.insert("durability".into(), name_of(durability).into());
    }
    family::remember(context, &args.name, id, new, usual)?;
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
