//! Changing a family, whether a server has its store open or not.

use super::look::{look, server_of, store_of};
use super::secret::Secrets;
use crate::crypto::Keys;
use crate::exit_code::Exit;
use crate::root::Root;
use crate::store::StoreId;
use crate::volume::{Alteration, Altered, Result, Target, VolumeError, alter_offline, clone_volume};
use std::time::{Duration, Instant};

/// How long a server that is ending may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Lets the server of a store change its family, or does it here if there is none; then `secret` opens an encrypted one.
///
/// # Errors
/// As the change.
pub fn alter(
    root: &Root,
    (id, name): (StoreId, &str),
    secret: &Secrets,
    what: &Alteration,
) -> Result<Altered> {
    let mut known: Option<Keys> = None;
    let until = Instant::now() + PATIENCE;
    loop {
        let result = match server_of(root, id)? {
            Some(mut client) => client.alter(what),
            None => {
                let keys = match &known {
                    Some(keys) => keys,
                    None => known.insert(secret.keys(root, id, name)?),
                };
                alter_offline(root, id, keys.clone(), what)
            }
        };
        match result {
            // The server that we met was ending.
            Err(e) if e.exit == Exit::Failure && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(50));
            }
            other => return other,
        }
    }
}

/// Whether a name stands for a volume; one that an interrupted command left does not.
fn exists(root: &Root, name: &str) -> Result<bool> {
    match look(root, name, None) {
        Ok(_) => Ok(true),
        Err(e) if e.exit == Exit::NoVolume => Ok(false),
        // What cannot be looked into without its secret is there.
        Err(e) if e.exit == Exit::Secret => Ok(true),
        Err(e) => Err(e),
    }
}

/// Makes a clone.
///
/// # Errors
/// `Exists`, an unknown source, or as [`alter`].
pub fn clone(root: &Root, change: &Alteration, secret: &Secrets) -> Result<()> {
    let Alteration::Clone { source, name, .. } = change else {
        return Err(VolumeError::new(Exit::Usage, format!("{change:?} makes no clone")));
    };
    let source = Target::parse(source)?;
    let id = store_of(root, &source.volume)?;
    let alter = || alter(root, (id, &source.volume), secret, change);
    clone_volume(root, id, name, |name| exists(root, name), alter)
}
