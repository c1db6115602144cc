//! Which containers have volumes mounted: by the tables of mounts of their processes, and the control groups that these are in.

use super::engines::{self, Asking, Known, Named};
use crate::mount::{self, MountEntry};
use crate::root::{Root, is_ordinary_user};
use nix::unistd::geteuid;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A container that has a volume mounted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Container {
    /// Its name, if its engine has said it.
    pub name: Option<String>,
    /// What its engine calls it.
    pub id: String,
    /// Whose it is, as far as that can be told: "docker", "podman", "containerd", "cri-o", "systemd-nspawn", "lxc".
    pub engine: Option<&'static str>,
    /// A process of it; null: it does not run.
    pub process: Option<u32>,
}

impl Container {
    /// What people call it.
    pub fn label(&self) -> String {
        // As much of an ID as engines show.
        self.name.clone().unwrap_or_else(|| self.id.chars().take(12).collect())
    }
}

/// What is mounted in containers, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Containers {
    /// By the name of a volume, on which device who has it.
    mounted: HashMap<String, Vec<(String, Container)>>,
    /// What engines say, by ID.
    known: BTreeMap<String, Known>,
    /// Why engines of this host did not say which they have.
    doubts: Vec<String>,
}

impl Containers {
    /// Looks at the processes of this host. Engines are asked for the names of containers only if somebody who is not one of them
    /// wants to know.
    pub fn now(ask: bool) -> Self {
        let (known, doubts) =
            if ask { engines::ask(Asking::Briefly, None) } else { (Vec::new(), Vec::new()) };
        let mut found = Self { known: engines::by_id(known), doubts, ..Self::default() };
        let own = fs::read_link("/proc/self/ns/mnt").ok();
        let mut seen = BTreeSet::new();
        for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let Ok(namespace) = fs::read_link(process.path().join("ns/mnt")) else { continue };
            if Some(&namespace) == own.as_ref() || !seen.insert(namespace.clone()) {
                continue;
            }
            let volumes = volumes_of(&process.path());
            if volumes.is_empty() {
                continue;
            }
            match fs::read(process.path().join("cgroup")).ok().and_then(|text| container_of(&text)) {
                Some((engine, id)) => found.add(volumes, engine, id, pid),
                // One that starts something in the namespace of a container may be in a group of its own: another process will do.
                None => {
                    seen.remove(&namespace);
                }
            }
        }
        found
    }

    /// What engines say to whoever lists or is about to remove volumes of a root that no container has: those of this user, and those of the
    /// user that the root belongs to. Nothing of what is mounted.
    pub fn of_engines(root: &Root, asking: Asking) -> Self {
        let owner = fs::metadata(root.path()).map(|meta| meta.uid()).ok();
        let other = owner.filter(|uid| *uid != geteuid().as_raw() && !is_ordinary_user());
        let (known, doubts) = engines::ask(asking, other);
        Self { known: engines::by_id(known), doubts, ..Self::default() }
    }

    fn add(&mut self, volumes: Vec<MountEntry>, engine: Option<&'static str>, id: String, pid: u32) {
        let known = self.known.get(&id);
        let name = known.map(|of| of.name.clone()).filter(|name| !name.is_empty());
        let engine = known.map(|of| of.engine).or(engine);
        let container = Container { name, id, engine, process: Some(pid) };
        for entry in volumes {
            // (A snapshot that is mounted is a use of its volume.)
            let Ok(source) = String::from_utf8(entry.source) else { continue };
            let volume = source.split('@').next().unwrap_or_default().to_owned();
            self.mounted.entry(volume).or_default().push((entry.device, container.clone()));
        }
    }

    /// Those that have a volume, which is mounted on `devices`: another one may have the same name, in another root.
    pub fn with(&self, volume: &str, devices: &[String]) -> Vec<Container> {
        let found = self.mounted.get(volume).into_iter().flatten();
        let found = found.filter(|(device, _)| devices.contains(device));
        let found: BTreeSet<_> = found.map(|(_, container)| container).collect();
        found.into_iter().cloned().collect()
    }

    /// Whether a container has a volume of this name, of whatever root.
    pub(super) fn has_some_with(&self, volume: &str) -> bool {
        self.mounted.contains_key(volume)
    }

    /// Why it is not known which containers all engines of this host have; nothing, if it is.
    pub fn doubts(&self) -> &[String] {
        &self.doubts
    }

    /// Whether Podman has containers: it does not write down with which volumes it made them.
    pub fn has_some_of_podman(&self) -> bool {
        self.known.values().any(|of| of.engine == "podman")
    }

    /// Those that an engine has made with a volume of a root, whether they run or not; and those of which it does not say of which root it is.
    pub fn made_with(&self, root: &Root, volume: &str) -> Vec<Container> {
        let is_it = |named: &Named| named.name == volume && !is_of_another(root, &named.dir);
        let made = self.known.values().filter(|of| of.volumes.iter().any(is_it));
        let container = |of: &Known| Container {
            name: Some(of.name.clone()).filter(|name| !name.is_empty()),
            id: of.id.clone(),
            engine: Some(of.engine),
            process: None,
        };
        made.map(container).collect()
    }
}

/// Whether a directory on which an engine has a volume is where another root has those for containers.
fn is_of_another(root: &Root, dir: &Path) -> bool {
    let Some(of) = dir.parent().and_then(Path::parent) else { return false };
    let other = Root::new(of);
    let is_root = dir.parent() == Some(other.mountpoints().as_path()) && other.stores().is_dir();
    is_root && !other.is_same(root)
}

/// What a process has mounted that can be a volume.
fn volumes_of(process: &Path) -> Vec<MountEntry> {
    let entries = mount::entries_of(process).unwrap_or_default();
    entries.into_iter().filter(|entry| entry.is_larder() || entry.fs_type == mount::MEMORY_FS_TYPE).collect()
}

/// Which container a process is in, by what `/proc/PID/cgroup` says; `None` if in none.
fn container_of(text: &[u8]) -> Option<(Option<&'static str>, String)> {
    let text = std::str::from_utf8(text).ok()?;
    // Behind the number of the hierarchy and its controllers. The deepest group that is a container's is the one.
    let paths = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.filter_map(|path| path.rsplit('/').find_map(|group| of_group(group, path))).next()
}

fn of_group(group: &str, path: &str) -> Option<(Option<&'static str>, String)> {
    let is_id = |id: &str| id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit());
    let unit = group.strip_suffix(".scope").unwrap_or(group);
    for (prefix, engine) in [
        ("docker-", "docker"),
        ("libpod-", "podman"),
        ("cri-containerd-", "containerd"),
        ("nerdctl-", "containerd"),
        ("crio-", "cri-o"),
    ] {
        if let Some(id) = unit.strip_prefix(prefix).filter(|id| is_id(id)) {
            return Some((Some(engine), id.to_owned()));
        }
    }
    if is_id(group) {
        let above = path.split('/').rev().skip_while(|part| *part != group).nth(1);
        let engine = match above {
            Some("docker") => Some("docker"),
            Some("libpod_parent") => Some("podman"),
            _ => None,
        };
        return Some((engine, group.to_owned()));
    }
    let machine = unit.strip_prefix("machine-").filter(|_| group.ends_with(".scope"));
    let instance = group.strip_prefix("systemd-nspawn@").and_then(|unit| unit.strip_suffix(".service"));
    if let Some(name) = machine.or(instance) {
        return Some((Some("systemd-nspawn"), name.replace(r"\x2d", "-")));
    }
    let lxc = group.strip_prefix("lxc.payload.").filter(|name| !name.is_empty());
    lxc.map(|name| (Some("lxc"), name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn containers_are_known_by_their_control_groups() {
        let id = "0123456789abcdef".repeat(4);
        for (line, engine, known) in [
            (format!("0::/docker/{id}"), Some("docker"), id.as_str()),
            (format!("0::/system.slice/docker-{id}.scope"), Some("docker"), &id),
            (format!("0::/system.slice/docker-{id}.scope/init"), Some("docker"), &id),
            (format!("12:memory:/docker/{id}\n1:name=systemd:/docker/{id}"), Some("docker"), &id),
            (format!("0::/machine.slice/libpod-{id}.scope/container"), Some("podman"), &id),
            (format!("0::/libpod_parent/{id}"), Some("podman"), &id),
            (format!("0::/kubepods.slice/pod1.slice/cri-containerd-{id}.scope"), Some("containerd"), &id),
            (format!("0::/kubepods/burstable/pod1/{id}"), None, &id),
            (format!("0::/kubepods.slice/crio-{id}.scope"), Some("cri-o"), &id),
            // Docker in Docker: the inner one.
            (format!("0::/docker/{}/docker/{id}", "f".repeat(64)), Some("docker"), &id),
            ("0::/machine.slice/machine-web\\x2d1.scope/payload".into(), Some("systemd-nspawn"), "web-1"),
            ("0::/lxc.payload.web".into(), Some("lxc"), "web"),
        ] {
            assert_eq!(container_of(line.as_bytes()), Some((engine, known.to_owned())), "{line}");
        }
        for none in [
            "0::/",
            "0::/user.slice/user-0.slice/session-1.scope",
            "0::/system.slice/docker.service",
            "0::/system.slice/docker-short.scope",
            "",
            "nonsense",
            "0::/lxc.payload.",
        ] {
            assert_eq!(container_of(none.as_bytes()), None, "{none}");
        }
        assert_eq!(container_of(b"\xff\xfe"), None);
    }

    /// Two roots can have volumes of one name, and each got the other's containers.
    #[test]
    fn containers_have_a_volume_of_one_root_and_not_its_namesake_of_another() {
        let tmp = tempfile::tempdir().unwrap();
        let roots = ["one", "two"].map(|name| Root::new(tmp.path().join(name)));
        for root in &roots {
            root.make().unwrap();
        }
        let known = |root: &Root, id: &str| Known {
            engine: "docker",
            id: id.to_owned(),
            name: format!("name-{id}"),
            volumes: vec![Named { name: "db".into(), dir: root.mountpoints().join("db") }],
        };
        // One that does not run, or whose driver is elsewhere, says nothing of where the volume is.
        let unsaid = Known {
            volumes: vec![Named { name: "db".into(), dir: PathBuf::new() }],
            ..known(&roots[0], "unsaid")
        };
        let all = vec![known(&roots[0], "one"), known(&roots[1], "two"), unsaid];
        let known = engines::by_id(all);
        let mut containers = Containers { known, ..Containers::default() };
        for (device, id) in [("0:71", "one"), ("0:72", "two")] {
            let line = format!("36 35 {device} / /data rw - fuse.larder db rw");
            let entry = MountEntry::parse(line.as_bytes()).unwrap();
            containers.add(vec![entry], None, id.to_owned(), 7);
        }
        let labels = |found: Vec<Container>| found.iter().map(Container::label).collect::<Vec<_>>();
        assert_eq!(labels(containers.with("db", &["0:71".into()])), ["name-one"]);
        assert_eq!(labels(containers.with("db", &["0:72".into()])), ["name-two"]);
        assert!(containers.with("db", &[]).is_empty());
        assert_eq!(labels(containers.made_with(&roots[0], "db")), ["name-one", "name-unsaid"]);
        assert_eq!(labels(containers.made_with(&roots[1], "db")), ["name-two", "name-unsaid"]);
        assert!(containers.made_with(&roots[0], "web").is_empty());
        // The driver may have been told another path of the same root.
        std::os::unix::fs::symlink("one", tmp.path().join("link")).unwrap();
        let link = Root::new(tmp.path().join("link"));
        assert_eq!(labels(containers.made_with(&link, "db")), ["name-one", "name-unsaid"]);
    }

    /// With a bind mount, nothing but the directory itself tells that the paths are of one root.
    #[test]
    fn a_root_that_is_mounted_elsewhere_too_has_the_same_containers() {
        let tmp = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| Root::new(tmp.path().join(name)));
        one.make().unwrap();
        std::fs::create_dir(two.path()).unwrap();
        let run = |program: &str, args: &[&Path]| {
            let status =
                std::process::Command::new(program).args(args).stderr(std::process::Stdio::null()).status();
            status.is_ok_and(|status| status.success())
        };
        assert!(
            run("mount", &[Path::new("--bind"), one.path(), two.path()]),
            "this needs root, as other tests do"
        );
        let seen = [is_of_another(&one, &two.mountpoints().join("db")), one.is_same(&two)];
        assert!(run("umount", &[two.path()]));
        assert_eq!(seen, [false, true]);
    }

    #[test]
    fn a_container_is_called_by_its_name_or_by_as_much_of_its_id_as_engines_show() {
        let container = |name: Option<&str>| Container {
            name: name.map(str::to_owned),
            id: "0123456789abcdef".repeat(4),
            engine: None,
            process: None,
        };
        assert_eq!(container(Some("web")).label(), "web");
        assert_eq!(container(None).label(), "0123456789ab");
    }
}
