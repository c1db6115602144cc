//! Which containers were made with a volume, also those that do not run, as the engines of this host say.

use super::named_by::{containers_of_podman, used_by_podman};
use crate::host::{Asking, Container, Containers};
use crate::root::Root;

/// What the engines of a user say.
pub(super) struct Engines<'a> {
    containers: &'a Containers,
    /// The volumes that containers of Podman have: it does not write that down where it could be read.
    of_podman: Vec<String>,
    doubts: Vec<String>,
}

impl<'a> Engines<'a> {
    /// Asks those that are there.
    pub(super) fn ask(containers: &'a Containers, asking: Asking) -> Self {
        let mut doubts = containers.doubts().to_vec();
        let of_podman = if containers.has_some_of_podman() {
            used_by_podman(asking).unwrap_or_else(|why| {
                doubts.push(why);
                Vec::new()
            })
        } else {
            Vec::new()
        };
        Self { containers, of_podman, doubts }
    }

    /// Why not all is known; nothing, if it is.
    pub(super) fn doubts(&self) -> &[String] {
        &self.doubts
    }

    /// What people call the containers that were made with a volume, or may have been: Podman does not say from which root it has it.
    pub(super) fn made_with(&self, root: &Root, volume: &str) -> Vec<String> {
        let of_docker = self.containers.made_with(root, volume);
        let mut made: Vec<String> = of_docker.iter().map(Container::label).collect();
        if self.of_podman.iter().any(|name| name == volume) {
            let named = containers_of_podman(volume);
            let some = || vec!["a container of Podman".to_owned()];
            made.extend(if named.is_empty() { some() } else { named });
        }
        made
    }
}
