//! Requests that servers died of.
//!
//! The kernel gives a request again until it is answered. One that kills the server that works on it would kill all of them, one
//! after the other, and with them whatever else is asked of the store. So it is noted what each server was working on when it
//! crashed, or had come no further with when it was killed because of that. What was noted once is worked on alone the next time, so
//! that nothing else is blamed for it; what was noted twice is answered EIO.
//!
//! Servers that others kill, or the kernel because memory runs out, are no fault of any request.

use crate::meta::VolumeId;
use serde::{Deserialize, Serialize};

/// So many servers may die of a request.
const DEATHS_MAX: u32 = 2;

/// A request that was being worked on when servers died of themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::server) struct Suspect {
    /// The volume of the mount that it came by.
    pub(in crate::server) volume: VolumeId,
    /// The kernel's number of the request.
    pub(in crate::server) unique: u64,
    /// Servers that died meanwhile.
    pub(in crate::server) deaths: u32,
}

impl Suspect {
    /// Whether no further server is to work on it.
    pub(in crate::server) fn is_convicted(&self) -> bool {
        self.deaths >= DEATHS_MAX
    }
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Suspects(Vec<Suspect>);

impl Suspects {
    /// What another holder has left.
    pub(super) fn new(suspects: Vec<Suspect>) -> Self {
        Self(suspects)
    }

    /// A server died while it worked on these requests, each the volume of its mount and its number.
    pub(super) fn note(&mut self, requests: impl IntoIterator<Item = (VolumeId, u64)>) {
        for (volume, unique) in requests {
            match self.0.iter_mut().find(|known| (known.volume, known.unique) == (volume, unique)) {
                Some(known) => known.deaths += 1,
                None => self.0.push(Suspect { volume, unique, deaths: 1 }),
            }
        }
    }

    /// All requests of a mount that servers before this one took are answered, or the mount is gone.
    pub(super) fn clear(&mut self, volume: VolumeId) {
        self.0.retain(|known| known.volume != volume);
    }

    pub(super) fn all(&self) -> &[Suspect] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_convicted_by_the_second_death_and_forgotten_when_it_is_answered() {
        let mut suspects = Suspects::default();
        suspects.note([(1, 10), (1, 12), (2, 10)]);
        assert!(suspects.all().iter().all(|suspect| !suspect.is_convicted()));
        // The mount of 2 was taken over since.
        suspects.clear(2);
        suspects.note([(1, 12), (2, 10)]);
        let convicted: Vec<_> = suspects.all().iter().filter(|suspect| suspect.is_convicted()).collect();
        assert_eq!(convicted, [&Suspect { volume: 1, unique: 12, deaths: 2 }]);
        suspects.clear(1);
        assert_eq!(suspects.all(), [Suspect { volume: 2, unique: 10, deaths: 1 }]);
    }
}
