//! Notes what a server meets with where it outlives it: see [`crate::health`].
//!
//! Whoever meets with something waits for nothing. A thread notes it, and finds out which files it is about; it is started when there is
//! something to note, and ends when there is nothing more. What cannot be noted because the host's disk is full is tried again, and told to
//! whoever asks the server meanwhile.

use crate::fs::{FsError, Ino, Lost, VolumeId};
use crate::health::{Level, Made, Notes, Reason, code, forget_mounts, note_mount, now_ms, update};
use crate::meta::{MetaError, Refusal};
use crate::mount::is_connected;
use crate::open_store::{Healed, Incident, OpenStore};
use crate::root::Root;
use crate::scheduling::be_gentle;
use crate::store::StoreId;
use crate::volume::{Naming, is_encrypted, paths};
use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::BTreeSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::{Builder, sleep};
use std::time::Duration;

/// How long more of the same is waited for.
const GATHER: Duration = Duration::from_millis(100);
/// How long until something is tried again that could not be noted.
const AGAIN: Duration = Duration::from_secs(10);
/// What waits to be noted at most.
const WAITING: usize = 4096;

/// What is met with again and again is noted anew after so many milliseconds.
const ANEW: u64 = 5_000;
/// Files that are looked for when somebody asks, as many as are listed in the notes.
const LOSSY: usize = 100;
/// What is noted to be as it should be again, at most, as long as nothing can be noted.
const HEALED: usize = 4096;

/// Something to note.
#[derive(Clone, Debug)]
enum Event {
    Met(Incident),
    /// Something is missing from a file of the mount of a volume, or no more.
    Lost {
        volume: String,
        id: VolumeId,
        lost: Lost,
    },
    Other(Reason),
}

/// A file that something is about.
#[derive(Clone, Debug)]
struct File {
    /// `VOLUME` or `VOLUME@SNAPSHOT`, if that is known.
    view: Option<String>,
    /// Its path, or which inode it is.
    name: String,
}

/// With when it was, in milliseconds since 1970.
type Dated = (u64, Event);

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Dated>,
    /// Taken from there, and not noted yet.
    unnoted: Unnoted,
    /// A thread is at work.
    is_worked_on: bool,
}

/// Changes of what is noted that could not be made: each kind once, however often it is tried.
#[derive(Clone, Debug, Default)]
struct Unnoted {
    /// What is as it should be again, by the code of the reason and what that has it under. It comes first: what is wrong again since is
    /// among the reasons.
    healed: BTreeSet<(&'static str, String)>,
    reasons: Notes,
}

impl Unnoted {
    fn is_empty(&self) -> bool {
        self.healed.is_empty() && self.reasons.reasons.is_empty()
    }

    fn add(&mut self, change: Change) {
        match change {
            Change::Note(reason) => self.reasons.note(reason),
            Change::Heal { code, key } => {
                self.reasons.heal(code, &key);
                if self.healed.len() < HEALED {
                    self.healed.insert((code, key));
                }
            }
        }
    }

    fn into_changes(self) -> Vec<Change> {
        let healed = self.healed.into_iter().map(|(code, key)| Change::Heal { code, key });
        healed.chain(self.reasons.reasons.into_iter().map(Change::Note)).collect()
    }
}

#[derive(Debug)]
struct Inner {
    root: Root,
    id: StoreId,
    store: OnceLock<Weak<OpenStore>>,
    /// The store is about to be closed.
    is_closing: AtomicBool,
    queue: Mutex<Queue>,
    /// Held while something is noted, so that it is noted in the order in which it was met with.
    noting: Mutex<()>,
    /// Files from which something is missing, by volume, as far as they are noted.
    lossy: Mutex<BTreeSet<(String, VolumeId, Ino)>>,
}

/// Notes what a server meets with.
#[derive(Clone, Debug)]
pub(super) struct Recorder(Arc<Inner>);

/// A change of what is noted.
#[derive(Clone, Debug)]
enum Change {
    Note(Reason),
    Heal { code: &'static str, key: String },
}

impl Change {
    fn met_at(self, at: u64) -> Self {
        match self {
            Self::Note(reason) => Self::Note(reason.met_at(at)),
            heal => heal,
        }
    }
}

impl Recorder {
    pub(super) fn new(root: Root, id: StoreId) -> Self {
        let (queue, noting) = (Mutex::default(), Mutex::default());
        let lossy = Mutex::default();
        Self(Arc::new(Inner {
            root,
            id,
            store: OnceLock::new(),
            is_closing: AtomicBool::new(false),
            queue,
            noting,
            lossy,
        }))
    }

    /// The store is open: what it meets with from now on is noted, and what made it fail before is past.
    pub(super) fn attend(&self, store: &Arc<OpenStore>) {
        let _ = self.0.store.set(Arc::downgrade(store));
        let recorder = self.clone();
        store.health().watch(Box::new(move |incident| recorder.push(Event::Met(incident))));
        let opened = update(&self.0.root, self.0.id, |notes| {
            notes.was_opened();
            lossy(notes)
        });
        match opened {
            Ok(files) => *self.0.lossy.lock() = files,
            Err(e) => log::warn!("noting that the store is open: {e}"),
        }
    }

    /// Nothing is missing any more from files that were removed. Somebody wants to know how the store is.
    pub(super) fn look_for_removed(&self) {
        let files: Vec<_> = self.0.lossy.lock().iter().cloned().collect();
        for (volume, id, ino) in files.into_iter().filter(|(_, id, ino)| self.is_removed(*id, *ino)) {
            let (missing, error) = (Vec::new(), FsError::NoSpace);
            self.lost(
                &volume,
                id,
                Lost { ino, missing, error, wanted: 0, has_gap: false, is_given_up: true },
            );
        }
    }

    /// Whether [`Recorder::look_for_removed`] has something to look at, as far as that is known without waiting.
    pub(super) fn may_know_of_losses(&self) -> bool {
        self.0.lossy.try_lock().is_none_or(|lossy| !lossy.is_empty())
    }

    /// The store is about to be closed: names of files are not looked for any more.
    pub(super) fn detach(&self) {
        self.note_all();
        self.0.is_closing.store(true, Ordering::Release);
        // Whoever looks for some is done with it.
        drop(self.0.noting.lock());
    }

    /// Notes everything that was met with so far, or says that it cannot be.
    pub(super) fn note_all(&self) {
        if let Err(e) = self.flush() {
            log::warn!("noting what is wrong with the store: {e}");
        }
    }

    fn open_store(&self) -> Option<Arc<OpenStore>> {
        let is_closing = self.0.is_closing.load(Ordering::Acquire);
        self.0.store.get().and_then(Weak::upgrade).filter(|_| !is_closing)
    }

    /// Something is missing from a file, or no more.
    pub(super) fn lost(&self, volume: &str, id: VolumeId, lost: Lost) {
        self.push(Event::Lost { volume: volume.to_owned(), id, lost });
    }

    /// Something else is wrong.
    pub(super) fn note(&self, reason: Reason) {
        self.push(Event::Other(reason));
    }

    /// A mount was made.
    pub(super) fn mounted(&self, volume: &str, connection: Option<u32>) {
        let Some(connection) = connection else { return };
        let made = Made { volume: volume.to_owned(), connection };
        if let Err(e) = note_mount(&self.0.root, self.0.id, made) {
            log::debug!("noting the mount of volume {volume:?}: {e}");
        }
    }

    /// A mount has ended. One whose connection was only aborted is still there, and dead.
    pub(super) fn unmounted(&self, connection: Option<u32>) {
        let Some(connection) = connection else { return };
        if matches!(is_connected(connection), Ok(true)) {
            return;
        }
        if let Err(e) = forget_mounts(&self.0.root, self.0.id, &[connection]) {
            log::debug!("noting that a mount has ended: {e}");
        }
    }

    /// What is wrong and could not be noted yet.
    pub(super) fn unnoted(&self) -> Vec<Reason> {
        self.0.queue.lock().unnoted.reasons.reasons.clone()
    }

    fn push(&self, event: Event) {
        let mut queue = self.0.queue.lock();
        if queue.waiting.len() >= WAITING {
            return;
        }
        queue.waiting.push((now_ms(), event));
        if std::mem::replace(&mut queue.is_worked_on, true) {
            return;
        }
        drop(queue);
        let recorder = self.clone();
        let started = Builder::new().name("larder-notes".into()).spawn(move || recorder.work());
        if let Err(e) = started {
            log::warn!("noting what is wrong with the store: {e}");
            self.0.queue.lock().is_worked_on = false;
        }
    }

    fn work(&self) {
        be_gentle();
        loop {
            sleep(GATHER);
            match catch_unwind(AssertUnwindSafe(|| self.flush())) {
                Ok(Ok(())) => {}
                Ok(Err(e)) => {
                    log::warn!("noting what is wrong with the store: {e}; it is tried again");
                    sleep(AGAIN);
                }
                // What comes next is noted all the same.
                Err(_) => {
                    log::error!("noting what is wrong with the store panicked; some of it may not be noted");
                    sleep(AGAIN);
                }
            }
            let mut queue = self.0.queue.lock();
            if queue.waiting.is_empty() && queue.unnoted.is_empty() {
                queue.is_worked_on = false;
                return;
            }
        }
    }

    /// Notes everything that was met with so far.
    ///
    /// # Errors
    /// The host's. It is not forgotten then.
    fn flush(&self) -> io::Result<()> {
        let _turn = self.0.noting.lock();
        let (events, unnoted) = {
            let mut queue = self.0.queue.lock();
            // Who asks is told of it until it is noted.
            (std::mem::take(&mut queue.waiting), queue.unnoted.clone())
        };
        if events.is_empty() && unnoted.is_empty() {
            return Ok(());
        }
        let mut changes = unnoted.into_changes();
        changes.extend(self.changes(events));
        let done = update(&self.0.root, self.0.id, |notes| {
            for change in &changes {
                match change {
                    Change::Note(reason) if is_known(notes, reason) => {}
                    Change::Note(reason) => notes.note(reason.clone()),
                    Change::Heal { code, key } => notes.heal(code, key),
                }
            }
        });
        let mut unnoted = Unnoted::default();
        if done.is_err() {
            changes.into_iter().for_each(|change| unnoted.add(change));
        }
        self.0.queue.lock().unnoted = unnoted;
        done
    }

    fn changes(&self, events: Vec<Dated>) -> Vec<Change> {
        let files = events.iter().filter_map(|(_, event)| match event {
            Event::Met(Incident::Unreadable { volume, ino, .. }) => Some((*volume, *ino)),
            Event::Lost { id, lost, .. } => Some((*id, lost.ino)),
            Event::Met(Incident::Failed(_) | Incident::Healed { .. }) | Event::Other(_) => None,
        });
        let files = self.files(files.collect());
        let file = |volume: VolumeId, ino: Ino| {
            let known = files.get(&(volume, ino)).cloned();
            known.unwrap_or_else(|| File { view: None, name: format!("inode {ino}") })
        };
        let change = |event| match event {
            Event::Other(reason) => Change::Note(reason),
            Event::Met(Incident::Failed(why)) => Change::Note(failed(&why)),
            Event::Met(Incident::Healed { what, place }) => {
                Change::Note(healed(&place).with(what.to_string(), what.to_string()))
            }
            Event::Met(Incident::Unreadable { volume, ino, offset, addr, why }) => {
                let File { view, name } = file(volume, ino);
                let (key, what) = match addr {
                    Some(addr) => (addr.to_string(), format!("block {addr}")),
                    None => (format!("{volume}/{ino}"), why),
                };
                let what = format!("{name}, at byte {offset} ({what})");
                Change::Note(match view.as_deref().map(|view| view.split_once('@').unwrap_or((view, ""))) {
                    None => unreadable().with(key, what),
                    Some((volume, "")) => unreadable().of_volume(volume).with(key, what),
                    Some((volume, snapshot)) => {
                        unreadable().of_volume(volume).with_in(Some(snapshot.to_owned()), key, what)
                    }
                })
            }
            Event::Lost { volume, id, lost } if lost.missing.is_empty() => {
                self.0.lossy.lock().remove(&(volume, id, lost.ino));
                Change::Heal { code: code::LOST_WRITES, key: format!("{id}/{}", lost.ino) }
            }
            Event::Lost { volume, id, lost } => {
                let mut lossy = self.0.lossy.lock();
                if lossy.len() < LOSSY {
                    lossy.insert((volume.clone(), id, lost.ino));
                }
                drop(lossy);
                let first = lost.missing.first().map_or(0, |range| range.0);
                let what = format!("{}, from byte {first} on", file(id, lost.ino).name);
                Change::Note(
                    lost_writes(lost.error).of_volume(&volume).with(format!("{id}/{}", lost.ino), what),
                )
            }
        };
        let is_news = |event: &Event| match event {
            // It was noted when it was lost, and stays so, unless the file was removed.
            Event::Lost { id, lost, .. } if lost.is_given_up => self.is_removed(*id, lost.ino),
            _ => true,
        };
        let news = events.into_iter().filter(|(_, event)| is_news(event));
        let changes = news.flat_map(|(at, event)| {
            let heals = match &event {
                Event::Met(Incident::Healed { what: Healed::Block(addr), .. }) => {
                    Some(Change::Heal { code: code::UNREADABLE, key: addr.to_string() })
                }
                _ => None,
            };
            heals.into_iter().chain([change(event).met_at(at)])
        });
        changes.collect()
    }

    /// Whether a file has no name any more.
    fn is_removed(&self, volume: VolumeId, ino: Ino) -> bool {
        self.open_store().is_some_and(|store| match store.meta().inode(volume, ino) {
            Ok(inode) => inode.nlink == 0,
            // What cannot be read is not gone.
            Err(e) => matches!(e, MetaError::Refused(Refusal::NotFound | Refusal::Gone)),
        })
    }

    /// What files are called, and the volume or snapshot that they are in, as far as that can be found out. What is noted lies open
    /// beside the store, so those of an encrypted one have no names there.
    fn files(&self, wanted: Vec<(VolumeId, Ino)>) -> FxHashMap<(VolumeId, Ino), File> {
        let mut out = FxHashMap::default();
        let Some(store) = self.open_store().filter(|_| !wanted.is_empty()) else { return out };
        let hides_names = is_encrypted(&self.0.root, self.0.id).unwrap_or(true);
        // Files that were made a moment ago are to have names.
        if !hides_names && let Err(e) = store.commit_now() {
            log::debug!("committing before names are looked for: {e}");
        }
        let mut look = || -> crate::meta::Result<()> {
            let inspector = store.meta().inspector()?;
            for row in inspector.views()? {
                let mine: FxHashSet<Ino> =
                    wanted.iter().filter(|(volume, _)| *volume == row.id).map(|(_, ino)| *ino).collect();
                let file = |name| File { view: Some(row.name.clone()), name };
                out.extend(mine.iter().map(|ino| ((row.id, *ino), file(format!("inode {ino}")))));
                if hides_names || mine.is_empty() {
                    continue;
                }
                for (ino, paths) in paths(&inspector, &row, &mine, Naming::one())? {
                    out.extend(paths.names.into_iter().next().map(|name| ((row.id, ino), file(name))));
                }
            }
            Ok(())
        };
        if let Err(e) = look() {
            log::debug!("looking for the names of files: {e}");
        }
        out
    }
}

/// Whether all that a reason is about was noted a moment ago, and is noted still.
fn is_known(notes: &Notes, reason: &Reason) -> bool {
    let Some(known) = notes.reasons.iter().find(|known| known.is_like(reason)) else { return false };
    let mut items = reason.items.iter();
    !reason.items.is_empty()
        && items.all(|(key, item)| known.items.get(key).is_some_and(|known| known.at + ANEW > item.at))
}

/// The files that are noted to miss something.
fn lossy(notes: &Notes) -> BTreeSet<(String, VolumeId, Ino)> {
    let losses = notes.reasons.iter().filter(|reason| reason.code == code::LOST_WRITES);
    let files = losses.flat_map(|reason| reason.items.keys().map(|key| (reason.volume.clone(), key)));
    let file = |(volume, key): (Option<String>, &String)| {
        let (id, ino) = key.split_once('/')?;
        Some((volume?, id.parse().ok()?, ino.parse().ok()?))
    };
    files.filter_map(file).collect()
}

/// What somebody is to do about blocks that cannot be read.
pub(super) fn unreadable() -> Reason {
    Reason::new(
        code::UNREADABLE,
        Level::Degraded,
        "contents are damaged, and reading them is an error",
        "look at the disk (dmesg, smartctl), and restore or remove these files; `larder scrub` finds the rest of it, and clears this once \
         all can be read",
    )
}

/// What is said of what was damaged here and came back from `place`.
pub(super) fn healed(place: &str) -> Reason {
    Reason::new(
        code::HEALED,
        Level::Degraded,
        format!("the disk here had damaged something, which came back whole from {place}"),
        "nothing is lost; look at the disk (dmesg, smartctl), read everything with `larder scrub`, and acknowledge this with `larder status \
         --acknowledge`",
    )
}

/// What is said of damage of the metadata.
pub(super) fn damaged(what: &str) -> Reason {
    let reason = Reason::new(
        code::FAULTS,
        Level::Degraded,
        "the metadata are damaged, and what needs these parts of them is an error",
        "`larder check` says more; copy what can be read to another volume, or restore a backup",
    );
    reason.with(what, what)
}

fn failed(why: &str) -> Reason {
    Reason::new(
        code::WRITES_FAILED,
        Level::Failed,
        format!("the store has stopped taking changes, because {why}"),
        "look at the disk (dmesg, smartctl); unmount it and mount it again to return to the last good state",
    )
}

fn lost_writes(error: FsError) -> Reason {
    let why = match error {
        FsError::NoSpace => "there was no room for it",
        FsError::TooLarge => "files cannot be so large",
        FsError::ReadOnly => "the store had stopped taking changes",
        _ => "of an error of the disk",
    };
    Reason::new(
        code::LOST_WRITES,
        Level::Degraded,
        format!("what programs wrote was not kept, because {why}"),
        "programs that check the results of fsync and close were told; make room, and write these files again",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorder() -> (tempfile::TempDir, Root, Recorder) {
        let tmp = tempfile::tempdir().unwrap();
        let (root, id) = (Root::new(tmp.path()), StoreId(7));
        std::fs::create_dir_all(root.store(id)).unwrap();
        (tmp, root.clone(), Recorder::new(root, id))
    }

    fn lost(missing: &[(u64, u64)], is_given_up: bool) -> Lost {
        Lost {
            ino: 5,
            missing: missing.to_vec(),
            error: FsError::NoSpace,
            wanted: 1,
            has_gap: false,
            is_given_up,
        }
    }

    #[test]
    fn what_was_lost_is_noted_until_it_is_written_again() {
        let (_tmp, root, recorder) = recorder();
        let reasons = || Notes::of(&root, StoreId(7)).reasons;
        recorder.lost("v", 1, lost(&[(100, 200)], false));
        recorder.flush().unwrap();
        assert_eq!(reasons()[0].code, code::LOST_WRITES);
        assert!(
            reasons()[0].sentence().ends_with("no room for it: inode 5, from byte 100 on"),
            "{:?}",
            reasons()
        );
        // The kernel has forgotten the file: what was lost stays lost.
        recorder.lost("v", 1, lost(&[], true));
        recorder.flush().unwrap();
        assert_eq!(reasons().len(), 1);
        recorder.lost("v", 1, lost(&[], false));
        recorder.flush().unwrap();
        assert!(reasons().is_empty());
    }

    #[test]
    fn what_cannot_be_noted_is_told_and_noted_later() {
        let (_tmp, root, recorder) = recorder();
        // In the way of the directory.
        std::fs::write(root.health(), "").unwrap();
        for i in 0..3 {
            recorder.note(unreadable().with(i.to_string(), i.to_string()));
            assert!(recorder.flush().is_err());
        }
        assert_eq!((recorder.unnoted().len(), recorder.unnoted()[0].items.len()), (1, 3));
        std::fs::remove_file(root.health()).unwrap();
        recorder.flush().unwrap();
        assert!(recorder.unnoted().is_empty());
        assert_eq!(Notes::of(&root, StoreId(7)).reasons[0].items.len(), 3);
    }

    #[test]
    fn what_is_whole_again_while_nothing_can_be_noted_is_not_said_to_miss_something_for_good() {
        let (_tmp, root, recorder) = recorder();
        recorder.lost("v", 1, lost(&[(100, 200)], false));
        recorder.flush().unwrap();
        let away = root.path().join("away");
        std::fs::rename(root.health(), &away).unwrap();
        std::fs::write(root.health(), "").unwrap();
        recorder.lost("v", 1, lost(&[], false));
        assert!(recorder.flush().is_err());
        // Another file, which is not.
        recorder.lost("v", 1, Lost { ino: 6, ..lost(&[(0, 1)], false) });
        assert!(recorder.flush().is_err());
        assert_eq!(recorder.unnoted().len(), 1);
        std::fs::remove_file(root.health()).unwrap();
        std::fs::rename(&away, root.health()).unwrap();
        recorder.flush().unwrap();
        let reasons = Notes::of(&root, StoreId(7)).reasons;
        assert_eq!(reasons[0].items.keys().collect::<Vec<_>>(), ["1/6"]);
    }

    #[test]
    fn what_came_back_is_noted_and_cannot_be_read_no_more() {
        let (_tmp, root, recorder) = recorder();
        let addr = |index| crate::store::BlockAddr { segment: 3, index };
        let met = |index| {
            Event::Met(Incident::Healed { what: Healed::Block(addr(index)), place: "s3://b/db".into() })
        };
        recorder.note(unreadable().of_volume("v").with(addr(5).to_string(), "f"));
        recorder.flush().unwrap();
        [5, 6].into_iter().for_each(|index| recorder.push(met(index)));
        recorder.flush().unwrap();
        let reasons = Notes::of(&root, StoreId(7)).reasons;
        let codes: Vec<&str> = reasons.iter().map(|reason| reason.code.as_str()).collect();
        assert_eq!(codes, [code::HEALED]);
        assert_eq!(reasons[0].items.len(), 2);
        assert!(reasons[0].sentence().contains("s3://b/db"), "{reasons:?}");
        // A scrub that finds nothing does not make it unsaid.
        update(&root, StoreId(7), |notes| notes.all_was_read(now_ms() + 1000)).unwrap();
        assert_eq!(Notes::of(&root, StoreId(7)).reasons.len(), 1);
    }

    #[test]
    fn what_is_met_with_is_noted_by_itself() {
        let (_tmp, root, recorder) = recorder();
        recorder.note(unreadable().with("1", "one"));
        let until = std::time::Instant::now() + Duration::from_secs(60);
        while Notes::of(&root, StoreId(7)).reasons.is_empty() {
            assert!(std::time::Instant::now() < until);
            sleep(Duration::from_millis(5));
        }
        // And the thread ends, and another one is started.
        recorder.note(unreadable().with("2", "two"));
        while Notes::of(&root, StoreId(7)).reasons[0].items.len() < 2 {
            assert!(std::time::Instant::now() < until);
            sleep(Duration::from_millis(5));
        }
    }
}
