//! Names that stand for no volume: what is left of a removal, or of the making of a clone, that was interrupted.
//!
//! Of a store that several volumes share, a volume is removed first and its name last. Whoever looks into such a store, or
//! opens it, and finds a name without a volume, finishes that.

use super::ask::{ANSWER, ask_id};
use super::health;
use super::record::Record;
use super::trash;
use super::users::Users;
use crate::crypto::Keys;
use crate::root::Root;
use crate::store::StoreId;
use crate::volume::{Result, has_relatives, inspect_offline, remove_bare_names};

/// Takes away the names of store `id` that stand for no volume, with what is remembered of them, if the store can be looked
/// into: by its server, or with these keys. Nothing is done while somebody else makes or removes names.
pub(super) fn finish_removals(root: &Root, id: StoreId, name: &str, keys: &Keys) {
    let forget = |name: &str| {
        health::forget(root, id, name);
        trash::name_goes(root, id, name);
        if let Err(e) = Record::forget_stored(root, name).and_then(|()| Users::forget(root, name)) {
            log::warn!("what is recorded about {name:?}: {e}");
        }
    };
    match remove_bare_names(root, id, || volumes(root, id, name, keys), forget) {
        Ok(names) => {
            for name in names {
                log::info!(
                    "removed the name {name:?}, which an interrupted command had left without a volume"
                );
            }
        }
        Err(e) => log::warn!("cannot look for names without a volume: {e}"),
    }
}

/// The same for a store whose server runs, if it has more than one name.
pub(super) fn finish_removals_of_served(root: &Root, id: StoreId, name: &str) {
    if has_relatives(root, name, id).unwrap_or(false) {
        finish_removals(root, id, name, &Keys::Plain);
    }
}

/// The names of the volumes that a store holds.
fn volumes(root: &Root, id: StoreId, name: &str, keys: &Keys) -> Result<Vec<String>> {
    ask_id(
        root,
        id,
        ANSWER,
        |client| Ok(client.status()?.volumes.into_iter().map(|info| info.name).collect()),
        || {
            inspect_offline(root, id, name, keys, |inspector| {
                Ok(inspector.volumes()?.into_iter().map(|row| row.name).collect())
            })
        },
    )
}
