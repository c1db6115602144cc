//! Mounts whose server is gone, wherever somebody still has them: here, or in a container.

use super::table::{MountEntry, parse};
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// A mount of a volume, in the mount namespace of some process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The number of its connection in the kernel.
    pub connection: u32,
    /// Where it is mounted, as that process sees it.
    pub dir: PathBuf,
    /// The process, if it is in another mount namespace than this one.
    pub process: Option<u32>,
    /// The ID of its container, if it is in one, as far as its control group says.
    pub container: Option<String>,
    /// Whether its server is gone.
    pub is_dead: bool,
}

/// The mounts of volumes in all mount namespaces that this process may look into. They are looked for once, when somebody first asks.
#[derive(Debug, Default)]
pub struct Everywhere(OnceLock<Vec<Place>>);

/// Where a volume is mounted.
#[derive(Debug)]
struct Place {
    entry: MountEntry,
    connection: u32,
    /// The process that sees it, if it is in another namespace.
    process: Option<u32>,
}

impl Everywhere {
    /// The mounts with one of these connections: a place in each namespace.
    pub fn seen(&self, wanted: &[(&str, u32)]) -> Vec<Seen> {
        if wanted.is_empty() {
            return Vec::new();
        }
        let is_wanted = |place: &&Place| {
            place.entry.volume().is_some_and(|volume| wanted.contains(&(volume, place.connection)))
        };
        self.0.get_or_init(look).iter().filter(is_wanted).map(Place::see).collect()
    }
}

impl Place {
    fn see(&self) -> Seen {
        let Self { entry, connection, process } = self;
        let of = process.map(|process| PathBuf::from(format!("/proc/{process}")));
        let is_dead = match &of {
            None => entry.is_dead(),
            Some(of) => {
                let there = entry.dir.strip_prefix("/").unwrap_or(&entry.dir);
                MountEntry { dir: of.join("root").join(there), ..entry.clone() }.is_dead()
            }
        };
        let container = of.and_then(|of| container(&of));
        Seen { connection: *connection, dir: entry.dir.clone(), process: *process, container, is_dead }
    }
}

fn look() -> Vec<Place> {
    let mut out = Vec::new();
    let mut namespaces = HashSet::new();
    namespaces.extend(fs::read_link("/proc/self/ns/mnt"));
    look_into(Path::new("/proc/self"), None, &mut out);
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let path = process.path();
        if fs::read_link(path.join("ns/mnt")).is_ok_and(|namespace| namespaces.insert(namespace)) {
            look_into(&path, Some(pid), &mut out);
        }
    }
    out
}

fn look_into(of: &Path, process: Option<u32>, out: &mut Vec<Place>) {
    let Ok(table) = fs::read(of.join("mountinfo")) else { return };
    let mut known = HashSet::new();
    for entry in parse(&table) {
        let (Some(_), Some(connection)) = (entry.volume(), entry.connection()) else { continue };
        if known.insert(connection) {
            out.push(Place { entry, connection, process });
        }
    }
}

/// The container that a process is in: engines name its control group after the container's id.
fn container(process: &Path) -> Option<String> {
    id_in(&fs::read_to_string(process.join("cgroup")).ok()?).map(str::to_owned)
}

fn id_in(groups: &str) -> Option<&str> {
    const DIGITS: usize = 64;
    let parts = groups.split(|c: char| !c.is_ascii_hexdigit());
    parts.into_iter().find(|part| part.len() == DIGITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_known_by_their_control_groups() {
        let id = "0123456789abcdef".repeat(4);
        for groups in [
            format!("0::/system.slice/docker-{id}.scope\n"),
            format!("0::/docker/{id}\n"),
            format!("12:pids:/x\n0::/machine.slice/libpod-{id}.scope/container\n"),
        ] {
            assert_eq!(id_in(&groups), Some(id.as_str()), "{groups}");
        }
        for groups in ["", "0::/user.slice\n", "0::/init.scope", "0::/docker/0123abcd\n"] {
            assert_eq!(id_in(groups), None);
        }
    }
}
