//! What changed between two snapshots, or a snapshot and its volume.

use super::error::{Result, VolumeError};
use super::target::no_snapshot;
use crate::exit_code::Exit;
use crate::meta::{ChangeKind, Inspector};
use serde::{Deserialize, Serialize};

/// A path that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// `added`, `removed`, `modified` or `renamed`.
    pub change: String,
    /// The path, from the root of the volume; bytes that are no text are replaced.
    pub path: String,
    /// Where it was, if it was renamed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub from: Option<String>,
}

/// Compares two views of a family: volumes, or snapshots as `VOLUME@SNAPSHOT`.
///
/// # Errors
/// `NoVolume` for an unknown one, damage, or the host's.
pub fn diff(inspector: &Inspector, one: &str, two: &str) -> Result<Vec<Difference>> {
    let views = inspector.views()?;
    let find = |name: &str| {
        views.iter().find(|view| view.name == name).ok_or_else(|| match name.split_once('@') {
            Some((volume, snapshot)) if views.iter().any(|view| view.name == volume) => {
                no_snapshot(volume, snapshot)
            }
            _ => VolumeError::new(Exit::NoVolume, format!("there is no {name:?} in this family of volumes")),
        })
    };
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let changes = inspector.diff(find(one)?, find(two)?)?;
    let differences = changes.into_iter().map(|change| Difference {
        change: match change.kind {
            ChangeKind::Added => "added",
            ChangeKind::Removed => "removed",
            ChangeKind::Modified => "modified",
            ChangeKind::Renamed => "renamed",
        }
        .into(),
        path: text(change.path),
        from: change.from.map(text),
    });
    Ok(differences.collect())
}
