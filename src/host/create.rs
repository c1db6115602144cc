//! Making volumes.

use super::look::look;
use super::policies::may_have_size;
use super::record::Record;
use crate::crypto::Secret;
use crate::exit_code::Exit;
use crate::root::Root;
use crate::store::StoreId;
use crate::volume::{Result, VolumeSpec, create_encrypted};

/// Makes a volume in a store of its own, encrypted if there are `secrets`. A name that an interrupted command left without a
/// volume is free.
///
/// # Errors
/// A bad name or limit, one that the configuration of this host does not allow, a name that exists, or the host's.
pub fn create(root: &Root, spec: &VolumeSpec, secrets: &[Secret]) -> Result<StoreId> {
    may_have_size(&spec.name, spec.limits.size)?;
    let made = match create_encrypted(root, spec, secrets) {
        Err(e) if e.exit == Exit::Exists && stands_for_nothing(root, &spec.name) => {
            create_encrypted(root, spec, secrets)
        }
        other => other,
    }?;
    Record::forget_earlier(root, &spec.name, made)?;
    Ok(made)
}

/// Whether a name stood for no volume, and is gone now that somebody has looked.
fn stands_for_nothing(root: &Root, name: &str) -> bool {
    matches!(look(root, name, None), Err(e) if e.exit == Exit::NoVolume)
        && matches!(root.resolve(name), Ok(None))
}
