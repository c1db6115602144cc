//! What a host keeps of the remote of one of its stores: `remote.json`, in the store's directory.

use super::connect::Address;
use super::format::{LeaseKind, OwnerId};
use super::log::{Owner, Position, Seen};
use crate::durable;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

/// Its name.
pub const LOCAL_NAME: &str = "remote.json";

/// What is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Local {
    /// The remote: its URL.
    pub remote: String,
    /// The remote of `/etc/larder/remotes.toml` that says how to speak to it, if it was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub named: Option<String>,
    /// The owner that this host is, as it stands in records.
    pub owner: String,
    /// How often it is shipped, in seconds.
    #[serde(default = "every")]
    pub ship: u64,
    /// `none` or `strict`.
    #[serde(default = "none")]
    pub lease: String,
    /// Whether something of the store may be in the remote only.
    #[serde(default)]
    pub partial: bool,
    /// The newest record that was seen.
    #[serde(default)]
    pub seen: u64,
    /// Its seal, as digits.
    #[serde(default)]
    pub seal: String,
}

fn every() -> u64 {
    5
}

fn none() -> String {
    LeaseKind::None.to_string()
}

impl Local {
    /// For a store that gets a remote, with a new owner.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn new(remote: &str) -> io::Result<Self> {
        let (owner, seal) = (OwnerId::random()?.to_string(), String::new());
        let (ship, lease) = (every(), none());
        Ok(Self { remote: remote.into(), named: None, owner, ship, lease, partial: false, seen: 0, seal })
    }

    /// What is kept in the directory of a store; `None` if it has no remote.
    ///
    /// # Errors
    /// As open(2) and read(2); `InvalidData` for what is none.
    pub fn read(store: &Path) -> io::Result<Option<Self>> {
        durable::read(&store.join(LOCAL_NAME))
    }

    /// Keeps this, durably.
    ///
    /// # Errors
    /// As the host.
    pub fn write(&self, store: &Path) -> io::Result<()> {
        durable::write(&store.join(LOCAL_NAME), self)
    }

    /// Where the remote is, and how to speak to it.
    ///
    /// # Errors
    /// What is wrong with it, without secrets.
    pub fn address(&self) -> Result<Address, String> {
        let Some(name) = &self.named else { return Address::of(&self.remote, None) };
        let settings = Address::of(name, None)?.settings;
        Ok(Address { url: self.remote.parse()?, settings })
    }

    /// The owner, if the text is one.
    pub fn owner(&self) -> Option<OwnerId> {
        self.owner.parse().ok()
    }

    /// The lease, if the text is one.
    pub fn lease(&self) -> Option<LeaseKind> {
        self.lease.parse().ok()
    }

    /// The owner that this host is; `None` if what is kept names none.
    pub fn me(&self) -> Option<Owner> {
        let host = nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned();
        Some(Owner { id: self.owner()?, host, lease: self.lease()? })
    }

    /// The newest record that was seen.
    pub fn seen(&self) -> Seen {
        match u128::from_str_radix(&self.seal, 16) {
            Ok(seal) if self.seen > 0 => {
                Seen::Newest(Position { number: self.seen, seal: seal.to_be_bytes() })
            }
            _ => Seen::Nothing,
        }
    }

    /// From now on, this is the newest.
    pub fn saw(&mut self, newest: Position) {
        self.seen = newest.number;
        self.seal = format!("{:032x}", u128::from_be_bytes(newest.seal));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_kept() {
        let tmp = tempfile::tempdir().unwrap();
        assert_eq!(Local::read(tmp.path()).unwrap(), None);
        let mut local = Local::new("file:///remote").unwrap();
        assert_eq!((local.seen(), local.lease()), (Seen::Nothing, Some(LeaseKind::None)));
        let newest = Position { number: 7, seal: [9; 16] };
        local.saw(newest);
        local.write(tmp.path()).unwrap();
        let read = Local::read(tmp.path()).unwrap().unwrap();
        assert_eq!((read.seen(), read.owner()), (Seen::Newest(newest), local.owner()));
        std::fs::write(tmp.path().join(LOCAL_NAME), r#"{"remote":"x","owner":"y"}"#).unwrap();
        let read = Local::read(tmp.path()).unwrap().unwrap();
        assert_eq!((read.ship, read.owner(), read.seen()), (5, None, Seen::Nothing));
    }
}
