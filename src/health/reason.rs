//! Why a volume is not healthy.

use super::{now, now_ms};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Things of one reason that are listed.
pub(super) const LISTED: usize = 100;
/// What is longer than this, in bytes as JSON has it, is cut: names of files can be as long as anybody likes.
const LONGEST: usize = 1024;
/// Of these, so many are named in a sentence.
const NAMED: usize = 3;

/// How well a volume is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", from = "String")]
pub enum Level {
    /// All is as it should be.
    #[default]
    Ok,
    /// It can be used, but something of it is lost, or not as it should be.
    Degraded,
    /// It cannot be used, or takes no changes.
    Failed,
}

impl Level {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Failed => "failed",
        }
    }
}

impl From<String> for Level {
    fn from(name: String) -> Self {
        match name.as_str() {
            "ok" => Self::Ok,
            "failed" => Self::Failed,
            // Whatever a later version means by another word, it is not well.
            _ => Self::Degraded,
        }
    }
}

/// What reasons are called. Stable: programs may rely on them.
pub mod code {
    /// Blocks whose seals do not open, or that the host cannot read.
    pub const UNREADABLE: &str = "unreadable-blocks";
    /// Blocks were damaged here and came back from the remote.
    pub const HEALED: &str = "healed-blocks";
    /// A check or a scrub has found the metadata to be wrong.
    pub const FAULTS: &str = "faults";
    /// Writing or syncing failed: no changes are taken, or were not until the store was opened again.
    pub const WRITES_FAILED: &str = "writes-failed";
    /// What programs had written, and the kernel had taken, could not be kept.
    pub const LOST_WRITES: &str = "lost-writes";
    /// No server could take over: mounts have died.
    pub const TAKEOVER_FAILED: &str = "takeover-failed";
    /// Requests that servers crash on are answered with an error.
    pub const CRASHES: &str = "crashing-requests";
    /// What was noted before cannot be read.
    pub const NOTES_LOST: &str = "notes-lost";
    /// The disk of the host is full.
    pub const HOST_FULL: &str = "host-full";
    /// A mount whose server is gone, and that somebody still has.
    pub const DEAD_MOUNT: &str = "dead-mount";
    /// Containers use the volume, and it is not mounted.
    pub const DOWN: &str = "down";
    /// The server does not answer.
    pub const SILENT: &str = "server-silent";
    /// The server has lost its holder.
    pub const UNHELD: &str = "holder-gone";
    /// The directory of the store is gone.
    pub const NO_STORE: &str = "store-missing";
    /// The file that the secret is in is gone.
    pub const NO_KEY: &str = "key-missing";
    /// The store cannot be opened.
    pub const UNUSABLE: &str = "unusable";
    /// Sealing everything again has stopped.
    pub const REENCRYPTION: &str = "reencryption-stopped";
    /// Another host has taken the store from this one.
    pub const REMOTE_TAKEN: &str = "remote-taken";
    /// Its remote is behind, and does not catch up.
    pub const REMOTE_BEHIND: &str = "remote-behind";
    /// What is only in its remote cannot be read.
    pub const REMOTE_AWAY: &str = "remote-away";
    /// Nothing is answered, because no life can be shown there.
    pub const REMOTE_PAUSED: &str = "remote-paused";
    /// How it is cannot be found out.
    pub const UNKNOWN: &str = "unknown";
}

/// One of the things that a reason is about: a block, a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// When it was met with last, in milliseconds since 1970.
    pub at: u64,
    /// What it is, for people.
    pub what: String,
    /// The snapshot of the volume that it is in, if it is in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
}

impl Item {
    /// What it is, and in which snapshot.
    pub fn sentence(&self) -> String {
        match &self.snapshot {
            Some(snapshot) => format!("snapshot {snapshot:?}, {}", self.what),
            None => self.what.clone(),
        }
    }
}

/// Why a volume is not healthy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// See [`code`].
    pub code: String,
    /// How bad that is.
    pub level: Level,
    /// The volume that it is about, or whose snapshots; none: all of the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// When it began, in seconds since 1970; 0: nobody knows.
    pub since: u64,
    /// What is wrong, in a sentence; what is listed follows it.
    pub message: String,
    /// What to do.
    pub advice: String,
    /// What it is about, by whatever tells one from the other.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub items: BTreeMap<String, Item>,
    /// So many more are not listed, at least.
    #[serde(default)]
    pub more: u64,
}

impl Reason {
    /// One that begins now.
    pub fn new(code: &str, level: Level, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            level,
            volume: None,
            since: now(),
            message: message.into(),
            advice: advice.into(),
            items: BTreeMap::new(),
            more: 0,
        }
    }

    /// About one volume.
    #[must_use]
    pub fn of_volume(mut self, volume: &str) -> Self {
        self.volume = Some(volume.to_owned());
        self
    }

    /// Since another time than now.
    #[must_use]
    pub fn since(self, since: u64) -> Self {
        Self { since, ..self }
    }

    /// About this as well.
    #[must_use]
    pub fn with(self, key: impl Into<String>, what: impl Into<String>) -> Self {
        self.with_in(None, key, what)
    }

    /// About this as well, in a snapshot of the volume.
    #[must_use]
    pub fn with_in(
        mut self,
        snapshot: Option<String>,
        key: impl Into<String>,
        what: impl Into<String>,
    ) -> Self {
        self.items.insert(key.into(), Item { at: now_ms(), what: what.into(), snapshot });
        self
    }

    /// About so many more, which are not listed.
    #[must_use]
    pub fn and_more(mut self, more: u64) -> Self {
        self.more = self.more.saturating_add(more);
        self
    }

    /// Whether both are about the same thing.
    pub fn is_like(&self, other: &Self) -> bool {
        self.code == other.code && self.volume == other.volume
    }

    /// Met with at another time than now, in milliseconds since 1970.
    #[must_use]
    pub fn met_at(mut self, at: u64) -> Self {
        self.since = at / 1000;
        self.items.values_mut().for_each(|item| item.at = at);
        self
    }

    /// When it began, in seconds since 1970, if anybody knows.
    pub fn began(&self) -> Option<u64> {
        Some(self.since).filter(|since| *since != 0)
    }

    /// Takes in what another one of the same kind says; `self` was there before. `room` items are listed at most.
    pub(super) fn merge(&mut self, other: Self, room: usize) {
        self.level = self.level.max(other.level);
        (self.message, self.advice) = (other.message, other.advice);
        self.more = self.more.saturating_add(other.more);
        for (key, item) in other.items {
            self.list(key, item, room);
        }
    }

    /// Lists an item. Where there is no room for more, it takes the place of one that was met with before, which is counted.
    fn list(&mut self, key: String, item: Item, room: usize) {
        if let Some(known) = self.items.get_mut(&key) {
            *known = item;
            return;
        }
        if self.items.len() >= room.min(LISTED) {
            self.more = self.more.saturating_add(1);
            let oldest = self.items.iter().min_by_key(|(_, known)| known.at);
            let oldest = oldest.filter(|(_, known)| known.at < item.at).map(|(key, _)| key.clone());
            let Some(oldest) = oldest else { return };
            self.items.remove(&oldest);
        }
        self.items.insert(key, item);
    }

    /// The same, as much of it as is kept.
    pub(super) fn bounded(mut self, room: usize) -> Self {
        cut(&mut self.message);
        cut(&mut self.advice);
        for (mut key, mut item) in std::mem::take(&mut self.items) {
            cut(&mut key);
            cut(&mut item.what);
            item.snapshot.iter_mut().for_each(cut);
            self.list(key, item, room);
        }
        self
    }

    /// Forgets what was met with before a moment, in milliseconds since 1970, because it was looked for since. Whether anything is left.
    pub fn forget_before(&mut self, moment: u64) -> bool {
        if self.items.is_empty() {
            return self.since >= moment / 1000;
        }
        self.items.retain(|_, item| item.at >= moment);
        // Those that were not listed were looked for as well, and those found then are noted after this.
        self.more = 0;
        !self.items.is_empty()
    }

    /// What is wrong, with the first of what it is about.
    pub fn sentence(&self) -> String {
        if self.items.is_empty() {
            return self.message.clone();
        }
        let mut items: Vec<&Item> = self.items.values().collect();
        items.sort_by_key(|item| std::cmp::Reverse(item.at));
        let named: Vec<String> = items.iter().take(NAMED).map(|item| item.sentence()).collect();
        let rest = (items.len() - named.len()) as u64 + self.more;
        let rest = if rest > 0 { format!("; and {rest} more") } else { String::new() };
        format!("{}: {}{rest}", self.message, named.join("; "))
    }
}

/// Cuts what is too long.
fn cut(text: &mut String) {
    let cost = |c: char| match c {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        '\0'..' ' => 6,
        c => c.len_utf8(),
    };
    let mut left = LONGEST;
    for (at, c) in text.char_indices() {
        match left.checked_sub(cost(c)) {
            Some(rest) => left = rest,
            None => {
                text.truncate(at);
                text.push('…');
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_cut_to_what_can_be_kept() {
        let mut short = "a\n\"猫".to_owned();
        cut(&mut short);
        assert_eq!(short, "a\n\"猫");
        for part in ["a", "猫", "\u{1}", "\"\\\n"] {
            let mut text = part.repeat(2 * LONGEST);
            cut(&mut text);
            let json = serde_json::to_string(&text).unwrap();
            assert!(
                text.ends_with('…') && json.len() < LONGEST + 10 && json.len() > LONGEST - 10,
                "{part:?}"
            );
        }
    }

    #[test]
    fn what_it_is_about_is_bounded_and_counted() {
        let mut reason = Reason::new(code::UNREADABLE, Level::Degraded, "blocks cannot be read", "read");
        for i in 0..LISTED + 7 {
            let other = Reason::new(code::UNREADABLE, Level::Degraded, "blocks cannot be read", "read");
            reason.merge(other.with(format!("{i:05}"), format!("block {i}")), LISTED);
        }
        assert_eq!((reason.items.len(), reason.more), (LISTED, 7));
        let sentence = reason.sentence();
        assert!(sentence.starts_with("blocks cannot be read: block "), "{sentence}");
        assert!(sentence.ends_with(&format!("; and {} more", LISTED + 7 - NAMED)), "{sentence}");
    }

    #[test]
    fn later_versions_may_know_more_levels_and_fields() {
        let text = r#"{"code":"new","level":"on-fire","since":1,"message":"m","advice":"a","news":[1]}"#;
        let reason: Reason = serde_json::from_str(text).unwrap();
        assert_eq!(reason.level, Level::Degraded);
        for level in [Level::Ok, Level::Degraded, Level::Failed] {
            let text = serde_json::to_string(&level).unwrap();
            assert_eq!(text, format!("{:?}", level.name()));
            assert_eq!(serde_json::from_str::<Level>(&text).unwrap(), level);
        }
    }
}
