//! `larder prune`

use super::args::PruneArgs;
use super::confirm::{confirm, refused};
use super::engines::Engines;
use super::mount::recorded;
use super::named_by::mounted_by;
use super::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::host::trash::kept_for;
use crate::host::{
    Asking, Containers, Opening, Place, Removal, Survey, each, look, names, options_of, place, remove,
    secrets_of, users,
};
use crate::root::Root;
use crate::volume::{Result, VolumeError};
use crate::{period, size};
use std::collections::BTreeMap;
use std::time::Duration;

/// Which volumes are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    key: String,
    /// Any, if there is none.
    value: Option<String>,
    /// Those that do not have it.
    without: bool,
}

/// Reads `label=KEY`, `label=KEY=VALUE`, `label!=...`.
pub(super) fn parse_filter(text: &str) -> Result<Filter, String> {
    let (rest, without) = match (text.strip_prefix("label!="), text.strip_prefix("label=")) {
        (Some(rest), _) => (rest, true),
        (None, Some(rest)) => (rest, false),
        (None, None) => ("", false),
    };
    let (key, value) = match rest.split_once('=') {
        Some((key, value)) => (key, Some(value.to_owned())),
        None => (rest, None),
    };
    if key.is_empty() {
        return Err(format!(
            "{text:?} is not a filter; write it as label=KEY, label=KEY=VALUE or label!=KEY"
        ));
    }
    Ok(Filter { key: key.to_owned(), value, without })
}

impl Filter {
    pub(super) fn admits(&self, labels: &BTreeMap<String, String>) -> bool {
        let has = labels.get(&self.key).is_some_and(|value| self.value.as_ref().is_none_or(|v| v == value));
        has != self.without
    }
}

/// A volume that may go.
struct Candidate {
    name: String,
    place: Place,
    /// Its number in its store.
    id: Option<u64>,
    used: u64,
    snapshots: usize,
    labels: BTreeMap<String, String>,
}

/// The volume, if nobody uses it and it is meant.
fn candidate(root: &Root, name: &str, filters: &[Filter]) -> Result<Option<Candidate>> {
    let Some(place) = place(root, name)? else { return Ok(None) };
    let options = options_of(root, name, place)?;
    if options.sticky || !users(root, name).is_empty() {
        return Ok(None);
    }
    let (labels, mounted, used, snapshots, id) = match place {
        Place::Memory => {
            let (found, _) = Survey::new(root, false).volume(name, Opening::Remembered)?;
            (found.labels, !found.mountpoints.is_empty(), found.used.unwrap_or(0), 0, None)
        }
        Place::Store(_) => {
            let found = look(root, name, Some(&secrets_of(&options)))?;
            // A snapshot that is mounted is a use of its volume.
            let of_it =
                |other: &str| other == name || other.split_once('@').is_some_and(|(of, _)| of == name);
            let mounts = found.status.iter().flat_map(|status| &status.mounts);
            let mounted = mounts.into_iter().any(|mount| of_it(&mount.volume));
            (found.info.labels, mounted, found.info.used, found.info.snapshots.len(), found.info.id)
        }
    };
    let meant = match filters {
        [] => labels.is_empty(),
        filters => filters.iter().all(|filter| filter.admits(&labels)),
    };
    Ok((meant && !mounted).then(|| Candidate { name: name.to_owned(), place, id, used, snapshots, labels }))
}

pub(super) fn run(context: &Context, args: &PruneArgs) -> CommandResult {
    let root = &context.root;
    let mut candidates = Vec::new();
    let names = names(root)?;
    let found = each(root, &names, |name| candidate(root, name, &args.filter));
    for (name, found) in names.iter().zip(found) {
        match found {
            Ok(found) => candidates.extend(found),
            Err(e) if e.exit == Exit::NoVolume => {}
            // What is not known is not removed.
            Err(e) => output::warning(e.context(&format!("volume {name:?} is kept"))),
        }
    }
    candidates.retain(|of| !is_to_be_mounted(root, &of.name));
    candidates = without_those_of_containers(root, candidates, args, true)?;
    if !candidates.is_empty() && !args.force {
        if !agreed(context, &candidates)? {
            return Err(refused());
        }
        // A container may have been made with one meanwhile.
        candidates = without_those_of_containers(root, candidates, args, false)?;
    }
    let mut exit = Exit::Ok;
    let mut removed = Vec::new();
    for chosen in candidates {
        // Somebody may have thought about it for a while.
        match candidate(root, &chosen.name, &args.filter) {
            Ok(Some(found)) if (found.place, found.id) == (chosen.place, chosen.id) => {}
            Err(e) if e.exit != Exit::NoVolume => {
                exit = e.exit;
                output::error(e.context(&format!("volume {:?} is kept", chosen.name)));
                continue;
            }
            // It is used by now, or is another one.
            _ => continue,
        }
        let Candidate { name, place: found, .. } = chosen;
        if is_to_be_mounted(root, &name) {
            continue;
        }
        let options = place(root, &name)?.map(|place| options_of(root, &name, place)).transpose()?;
        let secret = secrets_of(&options.unwrap_or_default());
        let store = if let Place::Store(id) = found { Some(id) } else { None };
        match remove(root, &name, &secret, Removal { store, ..Removal::default() }, |_, _| {}) {
            Ok(_) if context.json => removed.push(name),
            Ok(_) => output::line(&name)?,
            // Somebody mounted it meanwhile, perhaps.
            Err(e) => {
                output::error(e.clone().context(&format!("cannot remove {name:?}")));
                exit = e.exit;
            }
        }
    }
    if context.json {
        output::json(&removed)?;
    }
    Ok(exit)
}

/// Whether somebody has said where a volume is to be mounted, at boot or by `larder mount`: it is not mounted just now, and that is said.
fn is_to_be_mounted(root: &Root, name: &str) -> bool {
    let mut by = mounted_by(name);
    // What is not known is not removed.
    match recorded(root, name) {
        Ok(dir) => by.extend(dir.map(|dir| format!("its mountpoint, {}", dir.display()))),
        Err(e) => by.push(e.to_string()),
    }
    if !by.is_empty() {
        let by = by.join("; ");
        output::warning(format!(
            "volume {name:?} is kept: it is to be mounted ({by}); take it out there first, or remove it with `larder rm`"
        ));
    }
    !by.is_empty()
}

/// Those that no container was made with, not even one that is stopped and will need it again; the others are named.
///
/// # Errors
/// When an engine that may have containers does not say which, unless these are ignored: then that is said the first time.
fn without_those_of_containers(
    root: &Root,
    candidates: Vec<Candidate>,
    args: &PruneArgs,
    is_first: bool,
) -> Result<Vec<Candidate>> {
    if candidates.is_empty() {
        return Ok(candidates);
    }
    let containers = Containers::of_engines(root, Asking::Patiently);
    let engines = Engines::ask(&containers, Asking::Patiently);
    let doubts = engines.doubts().join("; ");
    if !doubts.is_empty() && !args.ignore_silent_engines {
        let what = format!(
            "nothing was removed, because it is not known which volumes stopped containers need: {doubts}; if none of that helps, \
             --ignore-silent-engines uses only what is known"
        );
        return Err(VolumeError::new(Exit::Failure, what));
    }
    if !doubts.is_empty() && is_first {
        output::warning(format!("it is not known which volumes stopped containers need: {doubts}"));
    }
    let is_free = |of: &Candidate| {
        let made = engines.made_with(root, &of.name);
        if !made.is_empty() {
            let (name, made) = (&of.name, made.join(", "));
            output::warning(format!(
                "volume {name:?} is kept: containers were made with it ({made}); remove these containers first, or remove the volume with `larder rm`"
            ));
        }
        made.is_empty()
    };
    Ok(candidates.into_iter().filter(is_free).collect())
}

/// Asks whether to go on.
fn agreed(context: &Context, candidates: &[Candidate]) -> Result<bool> {
    let root = &context.root;
    let mut shortest = Duration::MAX;
    let mut rows = Vec::new();
    for of in candidates {
        shortest = shortest.min(kept_for(root, &of.name, of.place)?);
        let labels: Vec<String> = of.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        rows.push(vec![
            of.name.clone(),
            size::format(of.used),
            of.snapshots.to_string(),
            output::list(&labels),
        ]);
    }
    output::table_to_ask(context, &["VOLUME", "USED", "SNAPSHOTS", "LABELS"], &rows)?;
    let fate = match shortest {
        Duration::ZERO => "for good, with all data and snapshots?".to_owned(),
        period => format!("? `larder trash restore` can bring them back for {}.", period::in_words(period)),
    };
    let what = "Nobody has these volumes mounted, and no container of this user's engines was made with them. Remove them";
    confirm(&if shortest.is_zero() { format!("{what} {fate}") } else { format!("{what}{fate}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_admit_what_they_name() {
        let labels = BTreeMap::from([("app".to_owned(), "shop".to_owned())]);
        for (filter, admits) in [
            ("label=app", true),
            ("label=app=shop", true),
            ("label=app=other", false),
            ("label=other", false),
            ("label!=app", false),
            ("label!=app=other", true),
            ("label!=other", true),
        ] {
            assert_eq!(parse_filter(filter).unwrap().admits(&labels), admits, "{filter}");
        }
        for bad in ["", "app", "label=", "label!=", "until=1h", "label==x"] {
            assert!(parse_filter(bad).is_err(), "{bad}");
        }
    }
}
