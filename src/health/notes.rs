//! What is noted of the volumes of a store.

use super::reason::{LISTED, Level, Reason, code};
use super::scrub::Scrub;
use crate::backing::{OpenMode, open_file};
use crate::durable;
use crate::root::Root;
use crate::store::StoreId;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long another process may have the notes.
const PATIENCE: Duration = Duration::from_secs(2);
const INTERVAL: Duration = Duration::from_millis(2);
/// Reasons that are kept for each volume; of more volumes than that it is said of all.
const MOST: usize = 200;
/// Items that are listed, in all: what is kept can be read again ([`durable`] reads no more than 16 MiB).
const MOST_ITEMS: usize = 3000;
/// Items that every reason may list, all the same.
const FEWEST: usize = 3;

/// What is noted of the volumes of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notes {
    /// What is wrong.
    #[serde(default)]
    pub reasons: Vec<Reason>,
    /// When everything was read.
    #[serde(default)]
    pub scrub: Scrub,
    /// Of each volume, since when what is looked at, and not noted, was seen to be wrong: by code, in seconds since 1970.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub seen: BTreeMap<String, BTreeMap<String, u64>>,
}

fn path(root: &Root, id: StoreId) -> PathBuf {
    root.health().join(format!("{id}.json"))
}

/// Makes the directory of notes.
pub(super) fn make_dir(root: &Root) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(root.health())
}

/// Keeps others from changing what is noted of a store. They have it for a moment; one that stands still is not waited for.
pub(super) fn lock(root: &Root, id: StoreId) -> io::Result<Flock<File>> {
    make_dir(root)?;
    let until = Instant::now() + PATIENCE;
    let mut file = open_file(&root.health().join(format!(".{id}.lock")), OpenMode::Create)?;
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((file, Errno::EWOULDBLOCK)) if Instant::now() < until => file,
            Err((_, Errno::EWOULDBLOCK)) => {
                let what = "another process keeps the notes of this store locked";
                return Err(io::Error::new(io::ErrorKind::TimedOut, what));
            }
            Err((_, e)) => return Err(e.into()),
        };
        sleep(INTERVAL);
    }
}

impl Notes {
    /// What is noted of a store. What cannot be read any more is a reason of its own.
    pub fn of(root: &Root, id: StoreId) -> Self {
        let path = path(root, id);
        match durable::read(&path) {
            Ok(notes) => notes.unwrap_or_default(),
            Err(e) => {
                let message =
                    format!("what was noted of its health cannot be read ({}: {e})", path.display());
                let advice = "read everything with `larder scrub`, and then acknowledge this";
                let lost = Reason::new(code::NOTES_LOST, Level::Degraded, message, advice);
                Self { reasons: vec![lost], ..Self::default() }
            }
        }
    }

    /// Notes what is wrong.
    pub fn note(&mut self, reason: Reason) {
        let listed: usize = self.reasons.iter().map(|reason| reason.items.len()).sum();
        let room = MOST_ITEMS.saturating_sub(listed);
        let mut reason = reason;
        let is_known = self.reasons.iter().any(|known| known.is_like(&reason));
        if !is_known && self.reasons.len() >= MOST {
            // There are not so many kinds that these would become too many as well.
            reason.volume = None;
        }
        match self.reasons.iter_mut().find(|known| known.is_like(&reason)) {
            Some(known) => {
                let room = (known.items.len() + room).max(FEWEST);
                known.merge(reason.bounded(LISTED), room);
            }
            None => self.reasons.push(reason.bounded(room.max(FEWEST))),
        }
    }

    /// One of the things that reasons of this kind are about, which nothing else in the store has for its key, is as it should be again.
    pub fn heal(&mut self, code: &str, key: &str) {
        self.reasons.retain_mut(|reason| {
            reason.code != code
                || reason.items.remove(key).is_none()
                || !reason.items.is_empty()
                || reason.more > 0
        });
    }

    /// A volume is about to get another name, which none has: what is noted of it is noted under both, so that whichever it has then, and
    /// whenever this is interrupted, has it. What is noted under a name that stands for nothing goes with that.
    pub fn rename_soon(&mut self, from: &str, to: &str) {
        self.forget(to);
        let of_it = self.reasons.iter().filter(|reason| reason.volume.as_deref() == Some(from));
        let copies: Vec<Reason> = of_it.map(|reason| reason.clone().of_volume(to)).collect();
        self.reasons.extend(copies);
        if let Some(scrub) = &mut self.scrub.under_way
            && let Some(damaged) = scrub.damaged.get(from).copied()
        {
            scrub.damaged.insert(to.to_owned(), damaged);
        }
    }

    /// A volume has another name, which none had before; after [`Notes::rename_soon`].
    pub fn rename(&mut self, from: &str, to: &str) {
        let is_of_it = |reason: &Reason| reason.volume.as_deref() == Some(from);
        let scrub = self.scrub.under_way.as_ref();
        if !self.reasons.iter().any(is_of_it) && !scrub.is_some_and(|scrub| scrub.damaged.contains_key(from))
        {
            // It was done before, or there was nothing.
            return;
        }
        self.forget(to);
        self.seen.remove(from);
        for reason in self.reasons.iter_mut().filter(|reason| reason.volume.as_deref() == Some(from)) {
            reason.volume = Some(to.to_owned());
        }
        if let Some(scrub) = &mut self.scrub.under_way
            && let Some(damaged) = scrub.damaged.remove(from)
        {
            scrub.damaged.insert(to.to_owned(), damaged);
        }
    }

    /// These are the codes of all that is seen to be wrong with a volume, as of `now`, in seconds since 1970.
    pub fn see(&mut self, volume: &str, codes: &BTreeSet<&str>, now: u64) {
        let seen = self.seen.entry(volume.to_owned()).or_default();
        seen.retain(|code, _| codes.contains(code.as_str()));
        for code in codes {
            seen.entry((*code).to_owned()).or_insert(now);
        }
        if seen.is_empty() {
            self.seen.remove(volume);
        }
    }

    /// Whether [`Notes::see`] would change nothing.
    pub fn has_seen(&self, volume: &str, codes: &BTreeSet<&str>) -> bool {
        let seen = self.seen.get(volume).into_iter().flat_map(BTreeMap::keys).map(String::as_str);
        seen.eq(codes.iter().copied())
    }

    /// A snapshot of a volume has another name.
    pub fn rename_snapshot(&mut self, volume: &str, from: &str, to: &str) {
        for reason in self.reasons.iter_mut().filter(|reason| reason.volume.as_deref() == Some(volume)) {
            for item in reason.items.values_mut().filter(|item| item.snapshot.as_deref() == Some(from)) {
                item.snapshot = Some(to.to_owned());
            }
        }
    }

    /// There is no volume of that name any more, or none that was there when anything was noted.
    pub fn forget(&mut self, volume: &str) {
        self.reasons.retain(|reason| reason.volume.as_deref() != Some(volume));
        self.seen.remove(volume);
        if let Some(scrub) = &mut self.scrub.under_way {
            scrub.damaged.remove(volume);
        }
    }

    /// Everything was read, and so many blocks of each volume were damaged (those of none that is known under the empty name), and so much
    /// of the metadata wrong that is not listed. All that was found was noted; what is not listed of it is counted now.
    pub fn count(&mut self, damaged: &BTreeMap<String, u64>, faults: u64) {
        for reason in &mut self.reasons {
            match reason.code.as_str() {
                code::UNREADABLE => {
                    let volume = reason.volume.as_deref().unwrap_or_default();
                    let found = damaged.get(volume).copied().unwrap_or(0);
                    reason.more = found.saturating_sub(reason.items.len() as u64);
                }
                code::FAULTS => reason.more = reason.more.max(faults),
                _ => {}
            }
        }
    }

    /// Everything was read, from a moment on (in milliseconds since 1970): what was noted before and not found since is over.
    pub fn all_was_read(&mut self, since: u64) {
        self.reasons.retain_mut(|reason| {
            let is_looked_for = [code::UNREADABLE, code::FAULTS].contains(&reason.code.as_str());
            !is_looked_for || reason.forget_before(since)
        });
    }

    /// The metadata was looked at, from a moment on (in milliseconds since 1970).
    pub fn metadata_was_checked(&mut self, since: u64) {
        self.reasons.retain_mut(|reason| reason.code != code::FAULTS || reason.forget_before(since));
    }

    /// The store was opened and takes changes: what made it fail before is a thing of the past, though not forgotten.
    pub fn was_opened(&mut self) {
        for reason in &mut self.reasons {
            if [code::WRITES_FAILED, code::TAKEOVER_FAILED].contains(&reason.code.as_str()) {
                reason.level = reason.level.min(Level::Degraded);
            }
        }
    }

    /// Somebody has taken note of what is wrong with a volume, and with its store. What was.
    pub fn acknowledge(&mut self, volume: &str) -> Vec<Reason> {
        let is_of_it = |reason: &Reason| reason.concerns(volume);
        let (gone, left) = std::mem::take(&mut self.reasons).into_iter().partition(is_of_it);
        self.reasons = left;
        gone
    }
}

impl Reason {
    /// Whether it is about a volume, or a snapshot of it, or all of its store.
    pub fn concerns(&self, volume: &str) -> bool {
        self.volume.as_deref().is_none_or(|of| of.split('@').next() == Some(volume))
    }
}

/// Changes what is noted of a store, if `change` does; durable when this returns. Of a store that is gone nothing is noted.
///
/// # Errors
/// The host's: its disk may be full.
pub fn update<T>(root: &Root, id: StoreId, change: impl FnOnce(&mut Notes) -> T) -> io::Result<T> {
    let _lock = lock(root, id)?;
    let before = Notes::of(root, id);
    let mut notes = before.clone();
    let result = change(&mut notes);
    if notes != before && root.store(id).exists() {
        durable::write(&path(root, id), &notes)?;
    }
    Ok(result)
}

/// The same, if anything was ever noted of the store.
///
/// # Errors
/// As [`update`].
pub fn amend(root: &Root, id: StoreId, change: impl FnOnce(&mut Notes)) -> io::Result<()> {
    if path(root, id).exists() { update(root, id, change) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::super::{Item, Scrubbed, now_ms};
    use super::*;

    fn root() -> (tempfile::TempDir, Root, StoreId) {
        let tmp = tempfile::tempdir().unwrap();
        let (root, id) = (Root::new(tmp.path()), StoreId(7));
        std::fs::create_dir_all(root.store(id)).unwrap();
        (tmp, root, id)
    }

    fn unreadable(key: &str) -> Reason {
        Reason::new(code::UNREADABLE, Level::Degraded, "blocks cannot be read", "restore").with(key, key)
    }

    #[test]
    fn what_is_noted_stays_until_it_is_healed_or_acknowledged() {
        let (_tmp, root, id) = root();
        update(&root, id, |notes| {
            notes.note(unreadable("1:1"));
            notes.note(unreadable("1:2"));
            notes.note(
                Reason::new(code::LOST_WRITES, Level::Degraded, "m", "a").of_volume("v").with("5", "f"),
            );
            notes.note(Reason::new(code::DOWN, Level::Failed, "m", "a").of_volume("w"));
        })
        .unwrap();
        let notes = Notes::of(&root, id);
        assert_eq!(notes.reasons.len(), 3);
        assert_eq!(notes.reasons[0].items.len(), 2);
        // A scrub that began later and found one of them again.
        let began = now_ms() + 10;
        update(&root, id, |notes| {
            let mut again = unreadable("1:2");
            again.items.get_mut("1:2").unwrap().at = now_ms() + 100;
            notes.note(again);
            notes.all_was_read(began);
        })
        .unwrap();
        let kept: Vec<_> = Notes::of(&root, id).reasons[0].items.keys().cloned().collect();
        assert_eq!(kept, ["1:2"]);
        update(&root, id, |notes| notes.all_was_read(now_ms() + 1000)).unwrap();
        assert!(Notes::of(&root, id).reasons.iter().all(|reason| reason.code != code::UNREADABLE));
        update(&root, id, |notes| notes.heal(code::LOST_WRITES, "5")).unwrap();
        assert_eq!(Notes::of(&root, id).reasons.len(), 1);
        assert!(update(&root, id, |notes| notes.acknowledge("v")).unwrap().is_empty());
        assert_eq!(update(&root, id, |notes| notes.acknowledge("w")).unwrap().len(), 1);
        assert!(Notes::of(&root, id).reasons.is_empty());
    }

    #[test]
    fn what_is_noted_goes_with_its_volume() {
        let of = |volume: &str, snapshot: Option<&str>, key: &str| {
            let reason = Reason::new(code::UNREADABLE, Level::Degraded, "m", "a").of_volume(volume);
            reason.with_in(snapshot.map(str::to_owned), key, key)
        };
        let mut notes = Notes::default();
        for reason in
            [of("a", None, "1:1"), of("a", Some("s"), "1:2"), of("b", None, "1:3"), unreadable("1:4")]
        {
            notes.note(reason);
        }
        let said = |notes: &Notes, volume: &str| {
            let mut said: Vec<String> = notes
                .reasons
                .iter()
                .filter(|reason| reason.concerns(volume))
                .flat_map(|reason| reason.items.values().map(Item::sentence).collect::<Vec<_>>())
                .collect();
            said.sort();
            said
        };
        // Before it is renamed, and whether it is or not.
        notes.rename_soon("a", "c");
        assert_eq!(said(&notes, "a"), said(&notes, "c"));
        let mut not_renamed = notes.clone();
        not_renamed.forget("c");
        assert_eq!(said(&not_renamed, "a"), ["1:1", "1:4", "snapshot \"s\", 1:2"]);
        notes.rename("a", "c");
        notes.rename("a", "c");
        notes.rename_snapshot("c", "s", "t");
        assert_eq!(said(&notes, "c"), ["1:1", "1:4", "snapshot \"t\", 1:2"]);
        assert_eq!(said(&notes, "a"), ["1:4"], "and nothing of one that gets the name later");
        // Who knows what is wrong with one and with its store knows nothing of another one.
        assert_eq!(notes.acknowledge("c").len(), 2);
        assert_eq!(said(&notes, "b"), ["1:3"]);
        notes.forget("b");
        assert_eq!(notes, Notes::default());
    }

    #[test]
    fn what_is_kept_can_be_read_again_however_much_and_whatever_there_is() {
        let (_tmp, root, id) = root();
        let volumes = MOST + 50;
        update(&root, id, |notes| {
            for volume in 0..volumes {
                let reason = Reason::new(code::UNREADABLE, Level::Degraded, "\u{1}".repeat(1 << 20), "a");
                let mut reason = reason.of_volume(&format!("v{volume}"));
                for i in 0..120 {
                    let key = format!("{volume}:{i}{}", "\"".repeat(2000));
                    reason = reason.with_in(Some("s".repeat(2000)), key, "\u{1b}".repeat(2000));
                }
                notes.note(reason);
            }
        })
        .unwrap();
        let notes = Notes::of(&root, id);
        assert!(notes.reasons.len() <= MOST + 1);
        assert!(
            notes.reasons.iter().all(|reason| reason.code == code::UNREADABLE && !reason.items.is_empty())
        );
        // All are said to be damaged, and nothing is left out of the count.
        for volume in 0..volumes {
            assert!(notes.reasons.iter().any(|reason| reason.concerns(&format!("v{volume}"))));
        }
        let all: u64 = notes.reasons.iter().map(|reason| reason.items.len() as u64 + reason.more).sum();
        assert_eq!(all, volumes as u64 * 120);
    }

    #[test]
    fn what_everything_was_read_for_is_counted_once() {
        let mut notes = Notes::default();
        let of = |i: u64, at: u64| {
            let reason = Reason::new(code::UNREADABLE, Level::Degraded, "m", "a").of_volume("v");
            reason.with(format!("{i:04}"), "x").met_at(at)
        };
        for (scrub, found) in [(1000, 150), (2000, 150), (3000, 70), (4000, 0)] {
            (0..found).for_each(|i| notes.note(of(i, scrub + 1)));
            notes.all_was_read(scrub);
            notes.count(&BTreeMap::from([("v".to_owned(), found)]), 0);
            let more = found.saturating_sub(100);
            match notes.reasons.first() {
                Some(reason) => assert_eq!((reason.items.len() as u64, reason.more), (found - more, more)),
                None => assert_eq!(found, 0),
            }
        }
    }

    #[test]
    fn what_is_damaged_is_said_once_and_does_not_hide_what_comes() {
        let (_tmp, root, id) = root();
        for damage in [&b""[..], b"{\"reasons\": [{]", b"\xff\xfe", b"[1]"] {
            std::fs::write(path(&root, id), damage)
                .or_else(|_| {
                    std::fs::create_dir_all(root.health())
                        .and_then(|()| std::fs::write(path(&root, id), damage))
                })
                .unwrap();
            let reasons = Notes::of(&root, id).reasons;
            assert_eq!((reasons.len(), reasons[0].code.as_str()), (1, code::NOTES_LOST), "{damage:?}");
        }
        update(&root, id, |notes| notes.note(unreadable("1:1"))).unwrap();
        let codes: Vec<_> = Notes::of(&root, id).reasons.into_iter().map(|reason| reason.code).collect();
        assert_eq!(codes, [code::NOTES_LOST, code::UNREADABLE]);
    }

    #[test]
    fn many_note_at_once_and_who_stands_still_is_not_waited_for() {
        let (_tmp, root, id) = root();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let root = &root;
                scope.spawn(move || {
                    for i in 0..10 {
                        update(root, id, |notes| notes.note(unreadable(&format!("{thread}:{i}")))).unwrap();
                    }
                });
            }
        });
        assert_eq!(Notes::of(&root, id).reasons[0].items.len(), 40);
        let _lock = lock(&root, id).unwrap();
        assert_eq!(update(&root, id, |_| ()).unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn nothing_is_noted_of_a_store_that_is_gone() {
        let (_tmp, root, id) = root();
        std::fs::remove_dir(root.store(id)).unwrap();
        update(&root, id, |notes| notes.note(unreadable("1:1"))).unwrap();
        assert_eq!(Notes::of(&root, id), Notes::default());
    }

    #[test]
    fn notes_of_other_versions_are_read() {
        let (_tmp, root, id) = root();
        make_dir(&root).unwrap();
        std::fs::write(
            path(&root, id),
            r#"{"later": 1, "scrub": {"last": {"started": 1, "finished": 2, "x": 3}}}"#,
        )
        .unwrap();
        let last = Some(Scrubbed { started: 1, finished: 2, ..Scrubbed::default() });
        assert_eq!(Notes::of(&root, id).scrub.last, last);
    }
}
