//! `larder set`

use super::args::SetArgs;
use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::host::{Place, Record, VolumeOptions, place};
use crate::volume::{VolumeError, is_encrypted};
use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

/// What a volume is from its making on, and how else it is changed.
const MADE: &[(&str, &str)] = &[
    ("size", "use `larder resize`"),
    ("inodes", "use `larder resize`"),
    ("metadata", "use `larder resize`"),
    ("from", "create another volume"),
    ("encrypt", "create another volume"),
    ("uid", "use chown on the mounted volume"),
    ("gid", "use chown on the mounted volume"),
    ("mode", "use chmod on the mounted volume"),
    ("type", "create another volume"),
    ("device", "create another volume"),
    ("encrypted", "create another volume"),
    ("parent", "create another volume"),
    ("snapshot", "create another volume"),
    ("o", "give each option by itself"),
];

pub(super) fn run(context: &Context, args: &SetArgs) -> CommandResult {
    let root = &context.root;
    let usage = |what: String| VolumeError::new(Exit::Usage, what);
    let found = place(root, &args.name)?.ok_or_else(|| VolumeError::no_volume(&args.name))?;
    let given: BTreeMap<String, String> = args
        .options
        .iter()
        .map(|option| option.split_once('=').unwrap_or((option, "")))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    let refuse = |key: &str| match MADE.iter().find(|(made, _)| *made == key) {
        Some((_, instead)) => Err(usage(format!("option {key:?} cannot be changed; {instead}"))),
        None if key.starts_with("label.") => Err(usage(format!("option {key:?} cannot be changed"))),
        None => Ok(()),
    };
    let before = Record::of(root, &args.name, found)?;
    let mut inherited = before.as_ref().map_or_else(Default::default, |record| record.inherited.clone());
    let mut options = before.as_ref().map_or_else(Default::default, |record| record.options.clone());
    for (key, value) in &given {
        refuse(key)?;
        if key.ends_with("-file") {
            if !matches!(found, Place::Store(id) if is_encrypted(root, id)?) {
                return Err(usage(format!("volume {:?} is not encrypted, so it needs no {key}", args.name)));
            }
            // There is one secret; the new takes the place of the old.
            options.retain(|old, _| !old.ends_with("-file"));
            inherited.clear();
            options.insert("encrypt".into(), "true".into());
        }
        options.insert(key.clone(), value.clone());
    }
    let options = VolumeOptions::parse(&options).map_err(usage)?.to_map();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let store = match found {
        Place::Store(id) => Some(id.to_string()),
        Place::Memory => None,
    };
    let created = before.map_or(now, |record| record.created);
    Record { store, created, options, inherited }.keep(root, &args.name)?;
    let set: Vec<String> = given.iter().map(|(key, value)| format!("{key}={value}")).collect();
    output::line(&format!(
        "{}: {}; takes effect at the next mount for containers",
        args.name,
        set.join(", ")
    ))?;
    Ok(Exit::Ok)
}
