//! Why a volume is not healthy.

use super::{now, now_ms};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Things of one reason that are listed.
const LISTED: usize = 100;
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
}

/// Why a volume is not healthy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// See [`code`].
    pub code: String,
    /// How bad that is.
    pub level: Level,
    /// The volume that it is about; none: all of the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// When it began, in seconds since 1970.
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
    pub fn with(mut self, key: impl Into<String>, what: impl Into<String>) -> Self {
        self.items.insert(key.into(), Item { at: now_ms(), what: what.into() });
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

    /// Takes in what another one of the same kind says; `self` was there before.
    pub fn merge(&mut self, other: Self) {
        self.level = self.level.max(other.level);
        (self.message, self.advice) = (other.message, other.advice);
        self.more = self.more.saturating_add(other.more);
        for (key, item) in other.items {
            let has_room = self.items.len() < LISTED;
            match self.items.get_mut(&key) {
                Some(known) => *known = item,
                None if has_room => drop(self.items.insert(key, item)),
                None => self.more = self.more.saturating_add(1),
            }
        }
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
        let named: Vec<&str> = items.iter().take(NAMED).map(|item| item.what.as_str()).collect();
        let rest = (items.len() - named.len()) as u64 + self.more;
        let rest = if rest > 0 { format!("; and {rest} more") } else { String::new() };
        format!("{}: {}{rest}", self.message, named.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_is_about_is_bounded_and_counted() {
        let mut reason = Reason::new(code::UNREADABLE, Level::Degraded, "blocks cannot be read", "read");
        for i in 0..LISTED + 7 {
            let other = Reason::new(code::UNREADABLE, Level::Degraded, "blocks cannot be read", "read");
            reason.merge(other.with(format!("{i:05}"), format!("block {i}")));
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
