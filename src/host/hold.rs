//! Holds that mean something. Whoever removes a volume looks for holds when its name is gone already, and whoever has set one looks for the
//! name after that: one of the two sees what the other did.

use super::alter::alter_each;
use super::ask::{PATIENCE, Question, ask_store};
use super::trash;
use crate::crypto::Keys;
use crate::exit_code::Exit;
use crate::server::Client;
use crate::store::StoreId;
use crate::volume::{Alteration, Rest, Result, VolumeError, alter_offline};

/// Holds snapshots of the volume that is asked about, and tells `failed` of those that cannot be. The names of those that are held are
/// returned, and what kept it from going on to others, as [`alter_each`]; or that the volume was removed meanwhile.
pub fn hold(
    question: &Question<'_>,
    snapshots: Vec<String>,
    tag: &str,
    failed: impl FnMut(VolumeError),
) -> (Vec<String>, Result<()>) {
    let hold = |volume, snapshot| Alteration::Hold { volume, snapshot, tag: tag.to_owned() };
    let (held, done) = change_each(question, snapshots, hold, failed);
    match must_be_there(question, &held, tag) {
        Ok(()) => (held, done),
        Err(e) => (Vec::new(), Err(e)),
    }
}

/// Releases snapshots of the volume that is asked about from a hold; returns as [`hold`].
pub fn release(
    question: &Question<'_>,
    snapshots: Vec<String>,
    tag: &str,
    failed: impl FnMut(VolumeError),
) -> (Vec<String>, Result<()>) {
    let release = |volume, snapshot| Alteration::Release { volume, snapshot, tag: tag.to_owned() };
    change_each(question, snapshots, release, failed)
}

/// Does for each of the snapshots what `change` makes of its volume and its name. The names of those for which it was done are returned, and
/// what kept it from going on to others; `failed` is told of those for which it could not be.
fn change_each(
    question: &Question<'_>,
    snapshots: Vec<String>,
    change: impl Fn(String, String) -> Alteration,
    mut failed: impl FnMut(VolumeError),
) -> (Vec<String>, Result<()>) {
    let (_, volume) = question.volume();
    let changes: Vec<Alteration> =
        snapshots.iter().map(|snapshot| change(volume.to_owned(), snapshot.clone())).collect();
    let mut names = snapshots.into_iter();
    let mut changed = Vec::new();
    // It is told of each in their order.
    let done = alter_each(question, &changes, |_, result| match (names.next(), result) {
        (name, Ok(_)) => changed.extend(name),
        (_, Err(e)) => failed(e),
    });
    (changed, done)
}

fn must_be_there(question: &Question<'_>, held: &[String], tag: &str) -> Result<()> {
    let [first, ..] = held else { return Ok(()) };
    let (root, volume) = question.volume();
    let _lock = root.lock().map_err(|e| VolumeError::io(root.path(), &e))?;
    let id = match question.the_store() {
        Ok(_) => return Ok(()),
        Err(e) => question.store().ok_or(e)?,
    };
    let is_it = |of: &trash::Trashed| of.store == id && of.entry.name == volume;
    if trash::list(root)?.iter().any(is_it) {
        for snapshot in held {
            let_go(question, id, snapshot, tag);
        }
    }
    let what = format!("volume {volume:?} was removed or renamed just now; {volume}@{first} is not held");
    Err(VolumeError::new(Exit::NoVolume, what))
}

/// A snapshot of a volume that is held, and by what, as the server of its store says; `None` if none is.
///
/// # Errors
/// As the server.
pub(super) fn held_by_server(client: &mut Client, volume: &str) -> Result<Option<(String, Vec<String>)>> {
    let volumes = client.status()?.volumes;
    let snapshots = volumes.into_iter().filter(|info| info.name == volume).flat_map(|info| info.snapshots);
    let held = snapshots.into_iter().find(|snapshot| !snapshot.holds.is_empty());
    Ok(held.map(|snapshot| (snapshot.name, snapshot.holds)))
}

/// What nobody was told of holds nobody up: in the trash it would keep the volume there for good.
fn let_go(question: &Question<'_>, id: StoreId, snapshot: &str, tag: &str) {
    let (root, volume) = question.volume();
    let (snapshot, tag) = (snapshot.to_owned(), tag.to_owned());
    let change = Alteration::Release { volume: volume.to_owned(), snapshot, tag };
    let released = question.secrets().map_or(Ok(()), |secrets| {
        let here = |keys: &Keys| alter_offline(root, id, keys.clone(), &change).map(|(_, rest)| Some(rest));
        let rest = ask_store(
            root,
            (id, volume),
            &secrets,
            PATIENCE,
            |client| client.alter(&change).map(|_| None),
            here,
        );
        rest.and_then(|rest| rest.map_or(Ok(()), Rest::finish))
    });
    if let Err(e) = released {
        log::warn!("a hold of a volume that was removed meanwhile: {e}");
    }
}
