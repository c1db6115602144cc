//! Commands that change a family and do little else.

use super::args::{CloneArgs, NewVolumeArgs, ResizeArgs, RollbackArgs};
use super::confirm::{confirm, is_attended};
use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::host::trash::kept_for;
use crate::host::{self, Place, Record, Stay, VolumeOptions, alter, store_of, time};
use crate::store::StoreId;
use crate::volume::{Alteration, LimitChange, Result, Target, VolumeError};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

pub(super) fn clone(context: &Context, args: &CloneArgs) -> CommandResult {
    let change = Alteration::Clone {
        source: args.source.clone(),
        name: args.name.clone(),
        size: args.size.unwrap_or_default(),
        inodes: args.inodes.unwrap_or_default(),
        metadata: args.metadata.unwrap_or_default(),
        labels: args.new.labels.iter().cloned().collect(),
        uid: args.new.uid,
        gid: args.new.gid,
        mode: args.new.mode,
    };
    let id = host::clone(&context.root, &change, &args.secret.named())?;
    remember(context, &args.name, id, &args.new, BTreeMap::new())?;
    output::done(context, &args.name, &json!({ "name": args.name, "from": args.source }))?;
    Ok(Exit::Ok)
}

/// What is asked for of a new volume that its store does not know.
pub(super) fn remembered(new: &NewVolumeArgs) -> VolumeOptions {
    let mut options =
        VolumeOptions { trash: new.trash, sticky: new.sticky == Some(true), ..VolumeOptions::default() };
    options.refused.extend((new.sticky == Some(false)).then_some("sticky"));
    options
}

/// Remembers that of a new volume in store `id`, and what is `usual` on this host.
pub(super) fn remember(
    context: &Context,
    name: &str,
    id: StoreId,
    new: &NewVolumeArgs,
    usual: BTreeMap<String, String>,
) -> Result<()> {
    let mut options = remembered(new).to_record();
    options.extend(usual);
    if options.is_empty() {
        return Ok(());
    }
    let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Record { created, options, by_driver: Some(false), ..Record::default() }.keep_if_there(
        &context.root,
        name,
        id,
    )
}

pub(super) fn rollback(context: &Context, args: &RollbackArgs) -> CommandResult {
    let (volume, snapshot) = Target::parse_snapshot(&args.snapshot)?;
    if is_attended()
        && kept_for(&context.root, &volume, Place::Store(store_of(&context.root, &volume)?))?.is_zero()
    {
        let what = format!(
            "Nothing is kept in the trash (trash=0): the present state of {volume} will be lost. Roll it back?"
        );
        if !confirm(&what)? {
            return Err(VolumeError::new(Exit::Failure, "nothing was rolled back"));
        }
    }
    let before = host::rollback(&context.root, (&volume, &snapshot), args.live, &args.secret.named())?;
    let kept = format!("{volume}@{}", before.snapshot);
    let fate = match before.stay {
        Stay::ForGood => format!("its previous state is kept as {kept}"),
        Stay::Until(until) => format!("its previous state is kept as {kept} until {}", time(until)),
        Stay::Gone => "its previous state is gone, because nothing is kept in the trash (trash=0)".to_owned(),
    };
    let text = format!("{volume} is rolled back to {}; {fate}", args.snapshot);
    let (kept, until) = match before.stay {
        Stay::ForGood => (Some(kept), None),
        Stay::Until(until) => (Some(kept), Some(time(until))),
        Stay::Gone => (None, None),
    };
    let printed = json!({ "name": volume, "snapshot": args.snapshot, "kept": kept, "until": until });
    output::done(context, &text, &printed)?;
    Ok(Exit::Ok)
}

pub(super) fn resize(context: &Context, args: &ResizeArgs) -> CommandResult {
    let size = args.size.or(args.new_size);
    if size.is_none() && args.inodes.is_none() && args.metadata.is_none() {
        let what = "nothing to change: give a size (20G; +5G or -5G: by how much it changes), --inodes or --metadata";
        return Err(VolumeError::new(Exit::Usage, what));
    }
    let change = Alteration::Resize {
        volume: args.name.clone(),
        size: size.unwrap_or_default(),
        inodes: args.inodes.unwrap_or_default(),
        metadata: args.metadata.unwrap_or_default(),
        size_max: None,
    };
    alter(&context.root, &args.name, &args.secret.named(), &change)?;
    output::done(context, &args.name, &json!({ "name": args.name }))?;
    Ok(Exit::Ok)
}

/// A size limit, or `none`.
pub(super) fn parse_size_limit(text: &str) -> Result<LimitChange, String> {
    if text == "none" { Ok(LimitChange::Lift) } else { crate::size::parse_limit(text).map(LimitChange::Set) }
}

/// A limit of metadata, or `none`.
pub(super) fn parse_metadata_limit(text: &str) -> Result<LimitChange, String> {
    if text == "none" { Ok(LimitChange::Lift) } else { crate::size::parse(text).map(LimitChange::Set) }
}

/// A number of inodes, or `none`.
pub(super) fn parse_inode_limit(text: &str) -> Result<LimitChange, String> {
    match digits(text) {
        _ if text == "none" => Ok(LimitChange::Lift),
        Some(0) | None => Err(format!("{text:?} is not a number of inodes; write a number, or `none`")),
        Some(inodes) => Ok(LimitChange::Set(inodes)),
    }
}

/// A number without a sign.
fn digits(text: &str) -> Option<u64> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

/// A change of a limit by so much, `+SIZE` or `-SIZE`; anything else is `whole`.
fn parse_change(
    text: &str,
    amount: fn(&str) -> Result<u64, String>,
    whole: fn(&str) -> Result<LimitChange, String>,
) -> Result<LimitChange, String> {
    match (text.strip_prefix('+'), text.strip_prefix('-')) {
        (Some(by), _) => amount(by).map(LimitChange::Raise),
        (None, Some(by)) => amount(by).map(LimitChange::Lower),
        (None, None) => whole(text),
    }
}

/// A size limit, a change of one, or `none`.
pub(super) fn parse_size_change(text: &str) -> Result<LimitChange, String> {
    parse_change(text, crate::size::parse, parse_size_limit)
}

/// The same without an option before it, where options that nobody knows may stand, too.
pub(super) fn parse_size_given(text: &str) -> Result<LimitChange, String> {
    let is_option =
        text.strip_prefix('-').is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()));
    match is_option {
        true => Err(format!("there is no option {text:?}")),
        false => parse_size_change(text),
    }
}

/// A limit of metadata, a change of one, or `none`.
pub(super) fn parse_metadata_change(text: &str) -> Result<LimitChange, String> {
    parse_change(text, crate::size::parse, parse_metadata_limit)
}

/// A number of inodes, a change of it, or `none`.
pub(super) fn parse_inode_change(text: &str) -> Result<LimitChange, String> {
    let amount = |text: &str| digits(text).ok_or_else(|| format!("{text:?} is not a number of inodes"));
    parse_change(text, amount, parse_inode_limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_given_whole_or_by_how_much_they_change() {
        for (text, change) in [
            ("none", LimitChange::Lift),
            ("1G", LimitChange::Set(1 << 30)),
            ("+1G", LimitChange::Raise(1 << 30)),
            ("-512MiB", LimitChange::Lower(512 << 20)),
        ] {
            assert_eq!(parse_size_change(text), Ok(change), "{text}");
        }
        assert_eq!(parse_inode_change("+10"), Ok(LimitChange::Raise(10)));
        for bad in ["", "+", "-", "++1", "+-1", "+none", "1G+"] {
            assert!(parse_size_change(bad).is_err() && parse_inode_change(bad).is_err(), "{bad}");
        }
    }
}
