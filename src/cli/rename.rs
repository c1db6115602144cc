//! `larder rename`

use super::named_by::{is_enabled, mountpoints_in};
use super::secret::SecretArgs;
use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::host::{Place, Record, Secrets, alter, place, rename, trash};
use crate::root::Root;
use crate::volume::{Alteration, Result, Target, VolumeError};
use serde_json::json;
use std::fs;
use std::path::Path;

#[derive(Debug, clap::Args)]
pub(super) struct RenameArgs {
    /// A volume, which must not be mounted, nor a snapshot of it; or a snapshot, which must not be mounted by itself: its volume may be
    #[arg(value_name = "VOLUME[@SNAPSHOT]")]
    from: String,
    /// The new name; of a snapshot, with or without the volume
    #[arg(value_name = "NAME")]
    to: String,
    #[command(flatten)]
    secret: SecretArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct SnapshotRenameArgs {
    /// The snapshot, which must not be mounted by itself; its volume may be
    #[arg(value_name = "VOLUME@SNAPSHOT")]
    from: String,
    /// The new name, with or without the volume
    #[arg(value_name = "NAME")]
    to: String,
    #[command(flatten)]
    secret: SecretArgs,
}

pub(super) fn run(context: &Context, args: &RenameArgs) -> CommandResult {
    let from = Target::parse(&args.from)?;
    let secret = args.secret.named();
    if let Some(name) = from.snapshot {
        return rename_snapshot(context, (&from.volume, &name), &args.to, &secret);
    }
    if args.to.contains('@') {
        let what = format!(
            "{:?} is a volume, and {:?} is the name of a snapshot; a volume is renamed to a name without \"@\"",
            args.from, args.to
        );
        return Err(VolumeError::new(Exit::Usage, what));
    }
    let root = &context.root;
    let is_for_containers = match place(root, &args.from)? {
        Some(Place::Memory) => true,
        // One that only had something set is known to no engine.
        Some(found) => {
            Record::of(root, &args.from, found)?.is_some_and(|record| record.by_driver != Some(false))
        }
        None => false,
    };
    rename(root, &args.from, &args.to, &secret)?;
    output::done(context, &args.to, &json!({ "name": args.to, "was": args.from }))?;
    for place in named_elsewhere(root, &args.from, is_for_containers) {
        output::warning(place);
    }
    Ok(Exit::Ok)
}

/// `larder snapshot rename`
pub(super) fn snapshot(context: &Context, args: &SnapshotRenameArgs) -> CommandResult {
    let (volume, name) = Target::parse_snapshot(&args.from)?;
    rename_snapshot(context, (&volume, &name), &args.to, &args.secret.named())
}

fn rename_snapshot(
    context: &Context,
    (volume, name): (&str, &str),
    to: &str,
    secret: &Secrets,
) -> CommandResult {
    let to = new_snapshot(volume, to)?;
    let change =
        Alteration::RenameSnapshot { volume: volume.to_owned(), name: name.to_owned(), to: to.clone() };
    alter(&context.root, volume, secret, &change)?;
    trash::disown(&context.root, volume, name);
    let now = format!("{volume}@{to}");
    output::done(context, &now, &json!({ "name": now, "was": format!("{volume}@{name}") }))?;
    Ok(Exit::Ok)
}

/// The new name of a snapshot: `NAME`, `@NAME` or `VOLUME@NAME`.
fn new_snapshot(volume: &str, to: &str) -> Result<String> {
    let to = to.strip_prefix('@').unwrap_or(to);
    let full = if to.contains('@') { to.to_owned() } else { format!("{volume}@{to}") };
    let (other, name) = Target::parse_snapshot(&full)?;
    if other != volume {
        let what = format!("a snapshot cannot move to another volume; write the new name as {volume}@{name}");
        return Err(VolumeError::new(Exit::Usage, what));
    }
    Ok(name)
}

/// Who may still call a volume by its old name, as far as can be seen.
fn named_elsewhere(root: &Root, old: &str, is_for_containers: bool) -> Vec<String> {
    let mut found = Vec::new();
    if is_for_containers {
        found.push(format!(
            "containers and Compose files that name {old:?} would make a new, empty volume of that name; change them before they are started"
        ));
    }
    let fstab = fs::read_to_string("/etc/fstab").unwrap_or_default();
    found.extend(
        mountpoints_in(&fstab, old)
            .map(|dir| format!("/etc/fstab mounts {old:?} on {}; change it there", dir.display())),
    );
    let unit = format!("larder@{old}.service");
    let is_default = root.is_same(&Root::new(crate::root::default_root()));
    if is_default && is_enabled(Path::new("/etc/systemd/system"), old) {
        found.push(format!(
            "{unit} is enabled: `systemctl disable {unit}`, and enable the one for the new name"
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_gets_a_name_of_its_own_volume() {
        for to in ["b", "@b", "v@b"] {
            assert_eq!(new_snapshot("v", to).unwrap(), "b", "{to}");
        }
        for bad in ["w@b", "", "@", "v@", "a/b", "v@a@b"] {
            assert!(new_snapshot("v", bad).is_err(), "{bad}");
        }
    }
}
