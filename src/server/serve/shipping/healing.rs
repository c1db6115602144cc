//! What is damaged here, from the remote.

use crate::open_store::{Healed, Incident, OpenStore};
use crate::store::Elsewhere;
use std::sync::Arc;

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
