//! Removing a store from a remote.
//!
//! First, the object `store` says that it is being removed, in the place of what it said before: from then on, nobody takes what is there
//! for a store, however much of it is left. That object goes last, when nothing else is there. So a removal that was interrupted is known
//! for what it is, and is given again.
//!
//! Whoever removes a store looks who has it, says that it asks for its removal, and looks again, before it says that it is being removed; whoever
//! claims one looks after that whether it is still there ([`must_still_be`](super::must_still_be)). So of two that do so at the same time, one
//! finds the other. Who is killed when it has asked leaves a store that is whole, and that its owner has as ever; the next one who is to
//! remove it takes the question back.
//!
//! Only objects with names that stores have are removed: the prefix may be shared.

use super::claim::ALIVE_BYTES_MAX;
use super::clock::{BootClock, Clock};
use super::error::{RemoteError, Result};
use super::format::{BEING_REMOVED, Life, OwnerId, REMOVAL_ASKED, StoreObject};
use super::heartbeat::HEARTBEAT;
use super::log::newest_number;
use super::names;
use super::objects::{Listed, Objects, Trouble};
use super::seal::RemoteSealer;
use super::side_by_side::each_of;
use super::survey::{Survey, read_asked_store, survey};
use crate::crypto::Keys;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Names that are listed at a time.
const PAGE: usize = 1000;
/// Objects that are removed side by side.
const AT_ONCE: usize = 8;
/// How long signs of life are looked at: whoever is alive shows it more often.
const STILL: Duration = Duration::from_secs(2 * HEARTBEAT.as_secs() + 5);
/// How often whoever waits is told.
const LOOK: Duration = Duration::from_secs(2);
/// How long whoever has asked takes at most, roughly, until it removes the store, or has taken the question back.
const ASKING: Duration = Duration::from_secs(3);
/// How often it is looked whether something is left that was not listed before.
const ROUNDS: u32 = 5;

/// What there is to be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remains {
    /// A store.
    Store(Box<Survey>),
    /// What is left of one whose removal was interrupted.
    Half,
    /// A store with damage, so that it is not known who has it; what is wrong.
    Damaged(String),
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Erased {
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Whether a store has objects of that name.
fn is_of_a_store(name: &str) -> bool {
    names::record_number(name).is_some()
        || names::header_number(name).is_some()
        || names::alive_of(name).is_some()
        || names::is_part(name)
        || names::is_piece(name)
}

/// Where the names of objects of a store begin, but for that of [`names::STORE`].
const UNDER: [&str; 5] = [names::LOG, names::HEADER, names::IMAGE, names::DATA, names::ALIVE];

/// The first objects below something that a store has, behind `after`; none if there are no more.
fn page(objects: &dyn Objects, under: &str, after: &mut String) -> Result<Option<Vec<Listed>>> {
    let page = objects.list(under, after, PAGE)?;
    let Some(last) = page.last() else { return Ok(None) };
    after.clone_from(&last.name);
    Ok(Some(page.into_iter().filter(|listed| is_of_a_store(&listed.name)).collect()))
}

/// Whether something of a store is there.
///
/// # Errors
/// Those of requests.
fn has_leftovers(objects: &dyn Objects) -> Result<bool> {
    for under in UNDER {
        let mut after = String::new();
        while let Some(page) = page(objects, under, &mut after)? {
            if !page.is_empty() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Refuses to begin a store where something is left of another one.
///
/// # Errors
/// [`RemoteError::BeingRemoved`]; those of requests.
pub fn must_be_empty(objects: &dyn Objects) -> Result<()> {
    match has_leftovers(objects)? {
        true => Err(RemoteError::BeingRemoved { place: objects.place().into() }),
        false => Ok(()),
    }
}

/// Lets the object `store` say what it said before, and `feature`.
fn put_store(objects: &dyn Objects, store: &StoreObject, feature: Option<&str>) -> Result<()> {
    let sealer = RemoteSealer::new(store.store, &Keys::Plain, objects.place());
    let mut said = store.clone();
    said.features.extend(feature.map(str::to_owned));
    Ok(objects.put(names::STORE, sealer.seal_store(&said)?.bytes)?)
}

/// Takes back the question of who was killed while it looked whether the store may be removed.
fn take_question_back(objects: &dyn Objects) -> Result<()> {
    let asked = || match read_asked_store(objects) {
        Ok(Some((store, true))) => Some(store),
        // (Whoever looks at what is there says what is wrong with it.)
        _ => None,
    };
    if asked().is_none() {
        return Ok(());
    }
    BootClock.sleep(ASKING);
    asked().map_or(Ok(()), |store| put_store(objects, &store, None))
}

/// What there is to be removed; `None` if there is nothing.
///
/// # Errors
/// Those of requests and of opening.
pub fn remains(objects: &Arc<dyn Objects>) -> Result<Option<Remains>> {
    take_question_back(&**objects)?;
    match survey(objects) {
        Ok(Some(survey)) => Ok(Some(Remains::Store(Box::new(survey)))),
        Ok(None) => Ok(has_leftovers(&**objects)?.then_some(Remains::Half)),
        Err(RemoteError::BeingRemoved { .. }) => Ok(Some(Remains::Half)),
        Err(e @ (RemoteError::Damaged { .. } | RemoteError::Lost { .. })) => {
            Ok(Some(Remains::Damaged(e.to_string())))
        }
        Err(e) => Err(e),
    }
}

/// Who has a store that was looked at, and has not said goodbye: by the names of their hosts, where these are known. Owners of whom
/// `is_ours` says so have ended.
pub fn not_let_go(survey: &Survey, is_ours: &dyn Fn(OwnerId) -> bool) -> Option<String> {
    let name = |owner: OwnerId| match &survey.held {
        Some(held) if held.by.id == owner => format!("host {:?}", held.by.host),
        _ => format!("a host (owner {owner})"),
    };
    let mut alive = survey.alive.iter().filter(|sign| sign.life != Some(Life::Over) && !is_ours(sign.owner));
    if let Some(sign) = alive.next() {
        return Some(name(sign.owner));
    }
    let is_over = |owner| survey.alive.iter().any(|sign| sign.owner == owner);
    let held = survey.held.as_ref().map(|held| held.by.id);
    held.filter(|owner| !is_ours(*owner) && !is_over(*owner)).map(name)
}

fn signs(objects: &dyn Objects) -> Result<BTreeMap<String, Bytes>> {
    let (mut all, mut after) = (BTreeMap::new(), String::new());
    while let Some(page) = page(objects, names::ALIVE, &mut after)? {
        for Listed { name, .. } in page {
            match objects.get(&name, ALIVE_BYTES_MAX) {
                Ok(bytes) => drop(all.insert(name, bytes)),
                Err(e) if e.trouble == Trouble::Missing => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
    Ok(all)
}

/// Waits long enough to know that nobody shows life. `told` is told how long that still takes, again and again, and returns whether to go
/// on.
///
/// # Errors
/// [`RemoteError::Alive`] as soon as somebody does; [`RemoteError::Interrupted`]; those of requests.
pub fn nobody_lives(
    objects: &dyn Objects,
    clock: &dyn Clock,
    told: &mut dyn FnMut(Duration) -> bool,
) -> Result<()> {
    let (first, since) = (signs(objects)?, clock.now());
    loop {
        let left = STILL.saturating_sub(clock.now().saturating_sub(since));
        if !told(left) {
            return Err(RemoteError::Interrupted);
        }
        let is_over = left.is_zero();
        clock.sleep(left.min(LOOK));
        if signs(objects)? != first {
            return Err(RemoteError::Alive { place: objects.place().into() });
        }
        if is_over {
            return Ok(());
        }
    }
}

/// What changes as soon as somebody claims a store, or has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activity {
    newest: u64,
    signs: BTreeMap<String, Bytes>,
}

impl Activity {
    /// The number of the newest record.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// Whether somebody may have what is left of a store, and that has to be waited for ([`nobody_lives`]): who came when its removal was begun may
    /// have stayed, and nothing says any more whose signs of life there are.
    pub fn is_in_doubt(&self, there: &Remains) -> bool {
        *there == Remains::Half && !self.signs.is_empty()
    }
}

/// What is to be seen of whoever has the store there, before it is looked whether it may go.
///
/// # Errors
/// Those of requests.
pub fn activity(objects: &dyn Objects) -> Result<Activity> {
    Ok(Activity { newest: newest_number(objects)?, signs: signs(objects)? })
}

/// As [`erase`], if nobody has come to have the store since `before`.
///
/// # Errors
/// [`RemoteError::Changed`]: nothing has changed; those of [`erase`].
pub fn erase_unchanged(
    objects: &dyn Objects,
    before: &Activity,
    progress: &mut dyn FnMut(u64),
) -> Result<Erased> {
    let may_go = || match activity(objects)? == *before {
        true => Ok(()),
        false => Err(RemoteError::Changed { place: objects.place().into() }),
    };
    may_go()?;
    erase_if(objects, Some(&may_go), progress)
}

/// Removes the store that is there, or what is left of one. `progress` is told how many objects are gone.
///
/// # Errors
/// Those of requests; what is left is removed when this is asked for again.
pub fn erase(objects: &dyn Objects, progress: &mut dyn FnMut(u64)) -> Result<Erased> {
    erase_if(objects, None, progress)
}

/// The same; `may_go` is asked when nobody claims the store any more.
fn erase_if(
    objects: &dyn Objects,
    may_go: Option<&dyn Fn() -> Result<()>>,
    progress: &mut dyn FnMut(u64),
) -> Result<Erased> {
    let mut erased = Erased::default();
    let is_store = match read_asked_store(objects) {
        Ok(Some((store, _))) => {
            if let Some(may_go) = may_go {
                put_store(objects, &store, Some(REMOVAL_ASKED))?;
                if let Err(e) = may_go() {
                    // Somebody has it: that is what there is to be said, whether or not it can be taken back.
                    if let Err(put) = put_store(objects, &store, None) {
                        log::warn!(
                            "{put}; `larder remote rm`, which will be refused, takes back what it says there"
                        );
                    }
                    return Err(e);
                }
            }
            put_store(objects, &store, Some(BEING_REMOVED))?;
            true
        }
        Ok(None) => false,
        // (Nobody takes what is damaged for a store, either.)
        Err(RemoteError::BeingRemoved { .. } | RemoteError::Damaged { .. }) => true,
        Err(e) => return Err(e),
    };
    // What was put just now may not be listed yet.
    for _ in 0..ROUNDS {
        if erase_all(objects, &mut erased, progress)? == 0 {
            break;
        }
    }
    objects.delete(names::PROBE)?;
    if is_store {
        let bytes = objects.head(names::STORE).map_or(0, |listed| listed.bytes);
        objects.delete(names::STORE)?;
        (erased.objects, erased.bytes) = (erased.objects + 1, erased.bytes + bytes);
    }
    Ok(erased)
}

fn erase_all(objects: &dyn Objects, erased: &mut Erased, progress: &mut dyn FnMut(u64)) -> Result<u64> {
    let before = erased.objects;
    for under in UNDER {
        let mut after = String::new();
        while let Some(page) = page(objects, under, &mut after)? {
            each_of(AT_ONCE, &page, |listed| Ok(objects.delete(&listed.name)?))?;
            erased.objects += page.len() as u64;
            erased.bytes += page.iter().map(|listed| listed.bytes).sum::<u64>();
            progress(erased.objects);
        }
    }
    Ok(erased.objects - before)
}
