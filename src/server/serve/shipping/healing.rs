//! What is damaged here, from the remote.

use crate::crypto::Keys;
use crate::open_store::{Healed, Incident, OpenStore};
use crate::remote::{Local, ShippedPages};
use crate::store::{Elsewhere, PagesElsewhere};
use std::path::Path;
use std::sync::Arc;

/// Where pages of the metadata of the store in the directory `path` are once more, if it has a remote.
pub(in crate::server) fn pages_of(
    path: &Path,
    local: Option<&Local>,
    keys: &Keys,
) -> Option<Arc<dyn PagesElsewhere>> {
    local.map(|local| Arc::new(ShippedPages::new(path, local, keys)) as Arc<_>)
}

/// Fetches what is not here, or damaged here, from there; of what was damaged, whoever looks after the store is told.
pub(super) fn fetch_from(store: &Arc<OpenStore>, elsewhere: Arc<dyn Elsewhere>) {
    let (place, weak): (Arc<str>, _) = (elsewhere.place().into(), Arc::downgrade(store));
    let tell = move |what| {
        log::warn!("{what} was damaged on the disk here, and came back from {place}");
        if let Some(store) = weak.upgrade() {
            store.health().met(Incident::Healed { what, place: Arc::clone(&place) });
        }
    };
    let tell_page = tell.clone();
    store.segments().tell_healed(Box::new(move |addr| tell(Healed::Block(addr))));
    store.meta_files().tell_healed(Box::new(move |number| tell_page(Healed::Page(number))));
    store.segments().fetch_from(elsewhere);
}
