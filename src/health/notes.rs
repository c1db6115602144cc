//! What is noted of the volumes of a store.

use super::reason::{Level, Reason, code};
use super::scrub::Scrub;
use crate::backing::{OpenMode, open_file};
use crate::durable;
use crate::root::Root;
use crate::store::StoreId;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long another process may have the notes.
const PATIENCE: Duration = Duration::from_secs(2);
const INTERVAL: Duration = Duration::from_millis(2);
/// Reasons that are kept. There are not so many kinds.
const MOST: usize = 200;

/// What is noted of the volumes of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notes {
    /// What is wrong.
    #[serde(default)]
    pub reasons: Vec<Reason>,
    /// When everything was read.
    #[serde(default)]
    pub scrub: Scrub,
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
                Self { reasons: vec![lost], scrub: Scrub::default() }
            }
        }
    }

    /// Notes what is wrong.
    pub fn note(&mut self, reason: Reason) {
        let has_room = self.reasons.len() < MOST;
        match self.reasons.iter_mut().find(|known| known.is_like(&reason)) {
            Some(known) => known.merge(reason),
            None if has_room => self.reasons.push(reason),
            None => {}
        }
    }

    /// One of the things that reasons of this kind are about is as it should be again.
    pub fn heal(&mut self, code: &str, volume: &str, key: &str) {
        self.reasons.retain_mut(|reason| {
            if reason.code != code || reason.volume.as_deref() != Some(volume) {
                return true;
            }
            reason.items.remove(key);
            !reason.items.is_empty() || reason.more > 0
        });
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
    /// Whether it is about a volume, or a snapshot of it.
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

#[cfg(test)]
mod tests {
    use super::super::{Scrubbed, now_ms};
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
        update(&root, id, |notes| notes.heal(code::LOST_WRITES, "v", "5")).unwrap();
        assert_eq!(Notes::of(&root, id).reasons.len(), 1);
        assert!(update(&root, id, |notes| notes.acknowledge("v")).unwrap().is_empty());
        assert_eq!(update(&root, id, |notes| notes.acknowledge("w")).unwrap().len(), 1);
        assert!(Notes::of(&root, id).reasons.is_empty());
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
