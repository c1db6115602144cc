//! What the configuration of the host demands of the sizes of volumes.

use super::look::look;
use super::secret::{Secrets, config};
use crate::config::Config;
use crate::exit_code::Exit;
use crate::root::Root;
use crate::size::format_exact;
use crate::volume::{Alteration, LimitChange, Result, VolumeError};

/// Refuses a new volume that the configuration of the host does not allow to have this size limit.
///
/// # Errors
/// `Usage`, with the key that says so and its file, or when that cannot be read.
pub fn may_have_size(name: &str, size: LimitChange) -> Result<()> {
    let limit = if let LimitChange::Set(limit) = size { Some(limit) } else { None };
    refusal(&config()?, name, limit).map_or(Ok(()), |what| {
        Err(usage(format!(
            "{what}; set a limit that fits with --size (for containers, with the option size)"
        )))
    })
}

/// Refuses a change that would make a volume, or leave one, with a size limit that the configuration of the host does not allow. One that
/// has such a limit already may get a smaller one.
///
/// # Errors
/// As [`may_have_size`], or as a look at the volume: `secret` opens it.
pub(super) fn may_change_size(root: &Root, secret: &Secrets, change: &Alteration) -> Result<()> {
    let (volume, name, size, is_new) = match change {
        Alteration::Clone { source, name, size, .. } => {
            (source.split('@').next().unwrap_or(source), name, *size, true)
        }
        Alteration::Resize { volume, size, .. } => (volume.as_str(), volume, *size, false),
        _ => return Ok(()),
    };
    let config = config()?;
    let is_free = !config.requires_size() && config.max_size().is_none();
    if is_free || !is_new && matches!(size, LimitChange::Keep | LimitChange::Lower(_)) {
        return Ok(());
    }
    // What needs no look, as the limit is known.
    if matches!(size, LimitChange::Set(_)) && refusal(&config, name, limit_after(size, None)).is_none() {
        return Ok(());
    }
    let old = look(root, volume, Some(secret))?.info.size;
    let new = limit_after(size, old);
    let is_smaller = match (old, new) {
        (Some(old), Some(new)) => new < old,
        (None, new) => new.is_some(),
        (Some(_), None) => false,
    };
    let is_kept = old == new;
    match refusal(&config, name, new) {
        Some(what) if is_new || !(is_smaller || is_kept) => Err(usage(format!("{what}; give another size"))),
        _ => Ok(()),
    }
}

/// The same change, with what only whoever makes it can see to: others may raise the limit of the same volume between a look at it and that.
///
/// # Errors
/// As [`may_have_size`].
pub(super) fn bounded_by_policies(change: &Alteration) -> Result<Alteration> {
    let mut change = change.clone();
    if let Alteration::Resize { size: LimitChange::Raise(_), size_max, .. } = &mut change {
        *size_max = config()?.max_size();
    }
    Ok(change)
}

/// The size limit, in bytes, that comes of an `old` one.
fn limit_after(change: LimitChange, old: Option<u64>) -> Option<u64> {
    match change {
        LimitChange::Keep => old,
        LimitChange::Lift => None,
        LimitChange::Set(limit) => Some(limit),
        LimitChange::Raise(by) => old.map(|old| old.saturating_add(by)),
        LimitChange::Lower(by) => old.map(|old| old.saturating_sub(by)),
    }
}

/// Why a volume may not have a size limit, if it may not.
fn refusal(config: &Config, name: &str, limit: Option<u64>) -> Option<String> {
    let file = Config::path().0;
    let file = file.display();
    match (limit, config.max_size()) {
        (None, _) if config.requires_size() => Some(format!(
            "volume {name:?} must have a size limit, because require-size in [policies] of {file} demands it"
        )),
        (None, Some(max)) => Some(format!(
            "volume {name:?} would have no size limit, and max-size in [policies] of {file} allows {} at most",
            format_exact(max)
        )),
        (Some(limit), Some(max)) if limit > max => Some(format!(
            "volume {name:?} would have a size limit of {}, and max-size in [policies] of {file} allows {} at most",
            format_exact(limit),
            format_exact(max)
        )),
        _ => None,
    }
}

fn usage(what: String) -> VolumeError {
    VolumeError::new(Exit::Usage, what)
}
