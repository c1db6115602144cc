//! `larder guard ENGINE`: keeps an engine from starting containers on the bare directory of a volume that is mounted at boot and is not there.
//! The units of engines run it (`packaging/systemd/*.service.d`), before they start.
//!
//! It refuses nothing but what is certain: that a container which the engine starts by itself binds the directory of a volume that is
//! missing, or that the engine's own storage is there, which nothing could be mounted over afterwards. Where it cannot tell, the engine
//! starts, and the journal says why it could not. Containers that still run and that their engine leaves alone when it starts
//! (`live-restore`) are not started by it.

use super::CommandResult;
use super::generator::at_boot;
use super::named_by::restarting_of_podman;
use super::output;
use crate::exit_code::Exit;
use crate::host::{DockerOfUnit, Restarting, docker_of_unit, restarting_of_docker, storage_of_podman};
use crate::mount::{self as mounts, MountEntry};
use crate::volume::VolumeError;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// How long it may take to see where paths lead: what is on the way may not answer.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
pub(super) struct GuardArgs {
    /// Which engine is about to start its containers
    engine: Engine,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Engine {
    Docker,
    Podman,
}

impl Engine {
    /// What is started, and the unit that does it.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Docker => ("Docker", "docker"),
            Self::Podman => ("podman-restart.service", "podman-restart"),
        }
    }
}

/// What the unit of an engine starts.
enum Started {
    Docker(DockerOfUnit),
    /// Where its storage is.
    Podman(PathBuf),
}

/// A volume that is to be mounted before engines start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AtBoot {
    pub(super) volume: String,
    pub(super) dir: PathBuf,
    /// The unit that mounts it.
    pub(super) unit: String,
}

/// One that is not mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Missing {
    of: AtBoot,
    /// Where its directory is, without symbolic links.
    real: PathBuf,
}

pub(super) fn run(args: &GuardArgs) -> CommandResult {
    let mut doubts = Vec::new();
    let refusals = refusals(args.engine, &mut doubts);
    doubts.into_iter().for_each(output::warning);
    let exit = if refusals.is_empty() { Exit::Ok } else { Exit::MountPoint };
    refusals.into_iter().for_each(|refusal| output::error(VolumeError::new(Exit::MountPoint, refusal)));
    Ok(exit)
}

/// Why an engine may not start; nothing if it may.
fn refusals(engine: Engine, doubts: &mut Vec<String>) -> Vec<String> {
    let mounted = match mounts::entries() {
        Ok(mounted) => mounted,
        Err(e) => {
            doubts.push(format!("it is not known what is mounted: /proc/self/mountinfo: {e}"));
            return Vec::new();
        }
    };
    let missing = missing(at_boot(), &mounted, doubts);
    if missing.is_empty() {
        return Vec::new();
    }
    let started = match engine {
        Engine::Docker => docker_of_unit().map(Started::Docker),
        Engine::Podman => storage_of_podman().map(Started::Podman),
    };
    let started = match started {
        Ok(started) => started,
        Err(why) => {
            doubts.push(why);
            return Vec::new();
        }
    };
    let (Started::Docker(DockerOfUnit { storage, .. }) | Started::Podman(storage)) = &started;
    // Before Podman is asked, which makes a storage where there is none.
    let refused = refused_for_storage(engine, &missing, storage, &mounted);
    if !refused.is_empty() {
        return refused;
    }
    let (containers, more) = match &started {
        Started::Docker(docker) => restarting_of_docker(docker),
        Started::Podman(_) => {
            restarting_of_podman().map_or_else(|why| (vec![], vec![why]), |all| (all, vec![]))
        }
    };
    doubts.extend(more);
    refused_for_containers(engine, &missing, &containers, &mounted)
}

/// Those that are not mounted.
fn missing(at_boot: Vec<AtBoot>, mounted: &[MountEntry], doubts: &mut Vec<String>) -> Vec<Missing> {
    let is_there = |dir: &Path| mounted.iter().any(|entry| entry.is_larder() && entry.dir == dir);
    // Where it is usually, so that nothing need be asked.
    let absent: Vec<AtBoot> = at_boot.into_iter().filter(|of| !is_there(&of.dir)).collect();
    let real = targets_of(absent.iter().map(|of| &*of.dir), mounted);
    let missing = absent.into_iter().filter_map(|of| match real.get(&of.dir) {
        Some(real) => (!is_there(real)).then(|| Missing { of, real: real.clone() }),
        None => {
            let AtBoot { volume, dir, .. } = of;
            let dir = dir.display();
            doubts.push(format!(
                "it is not known whether volume {volume:?} is mounted on {dir}: a directory on the path to it does not answer"
            ));
            None
        }
    });
    missing.collect()
}

/// Where paths lead, without those of which nobody says so in time.
fn targets_of<'a>(
    paths: impl Iterator<Item = &'a Path>,
    mounted: &[MountEntry],
) -> BTreeMap<PathBuf, PathBuf> {
    // A server that does not answer would keep this process from ending, and with it the engine from starting. (Not that of `/`.)
    let is_served = |entry: &&MountEntry| entry.fs_type.starts_with("fuse") && entry.dir.parent().is_some();
    let served: Vec<&MountEntry> = mounted.iter().filter(is_served).collect();
    let is_served = |path: &&Path| served.iter().any(|entry| path.starts_with(&entry.dir));
    let asked: Vec<PathBuf> = paths.filter(|path| !is_served(path)).map(Path::to_owned).collect();
    let (send, receive) = channel();
    let ask = move || asked.into_iter().try_for_each(|path| send.send((target_of(&path), path)));
    // (Without the thread, nobody sends anything.)
    let _ = std::thread::Builder::new().spawn(ask);
    let until = Instant::now() + PATIENCE;
    let told = || receive.recv_timeout(until.saturating_duration_since(Instant::now())).ok();
    std::iter::from_fn(told).map(|(target, path)| (path, target)).collect()
}

/// Where a path leads. What is not there lies in the nearest directory above it that is.
fn target_of(path: &Path) -> PathBuf {
    let there = path.ancestors().find_map(|dir| Some((dir, mounts::resolve(dir).ok()?)));
    let below = there.and_then(|(dir, real)| Some(real.join(path.strip_prefix(dir).ok()?)));
    below.unwrap_or_else(|| path.to_owned())
}

/// Whether a path that leads to `target` is on what is below a volume that is missing: in its directory, and on nothing that is mounted there.
fn is_bare(path: &Path, target: Option<&PathBuf>, missing: &Missing, mounted: &[MountEntry]) -> bool {
    let target = target.map_or(path, PathBuf::as_path);
    let is_below = path.starts_with(&missing.of.dir) || target.starts_with(&missing.real);
    let is_between = |dir: &Path| dir != missing.real && dir.starts_with(&missing.real);
    is_below && !mounted.iter().any(|entry| is_between(&entry.dir) && target.starts_with(&entry.dir))
}

/// Why an engine may not start that keeps its containers in `storage`.
fn refused_for_storage(
    engine: Engine,
    missing: &[Missing],
    storage: &Path,
    mounted: &[MountEntry],
) -> Vec<String> {
    let target = targets_of([storage].into_iter(), mounted);
    let refused = missing.iter().filter(|missing| is_bare(storage, target.get(storage), missing, mounted));
    let kept = format!("and its containers are kept there, in {}", storage.display());
    refused.map(|missing| refusal(engine, &missing.of, &kept)).collect()
}

/// Why an engine may not start, a line for each volume that its containers need.
fn refused_for_containers(
    engine: Engine,
    missing: &[Missing],
    containers: &[Restarting],
    mounted: &[MountEntry],
) -> Vec<String> {
    let binds = containers.iter().flat_map(|container| &container.binds);
    let targets = targets_of(binds.map(PathBuf::as_path), mounted);
    let refused = |missing: &Missing| {
        let is_its = |path: &PathBuf| is_bare(path, targets.get(path), missing, mounted);
        let users = containers.iter().filter(|container| container.binds.iter().any(is_its));
        let names: Vec<&str> = users.map(|container| container.name.as_str()).collect();
        let what = format!("and these containers would write to the bare directory: {}", names.join(", "));
        (!names.is_empty())
            .then(|| refusal(engine, &missing.of, &what) + ", or take the volume away from these containers")
    };
    missing.iter().filter_map(refused).collect()
}

fn refusal(engine: Engine, of: &AtBoot, what: &str) -> String {
    let (name, service) = engine.names();
    let AtBoot { volume, dir, unit } = of;
    format!(
        "{name} is not started: volume {volume:?} is not mounted on {}, {what}; `systemctl status {unit}` says why it is not mounted; mount it \
         and start {name} again (`systemctl reset-failed {service} && systemctl start {service}`)",
        dir.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn of(dir: &Path, volume: &str) -> AtBoot {
        AtBoot { volume: volume.to_owned(), dir: dir.join(volume), unit: format!("larder@{volume}.service") }
    }

    fn mount(dir: &Path, kind: &str) -> MountEntry {
        let line = format!("36 35 0:40 / {} rw - {kind} x rw", dir.display());
        MountEntry::parse(line.as_bytes()).unwrap()
    }

    fn container(name: &str, bind: PathBuf) -> Restarting {
        Restarting { name: name.to_owned(), binds: vec!["/etc".into(), bind] }
    }

    /// Those that are missing, all of which are known.
    fn missing_of(at_boot: Vec<AtBoot>, mounted: &[MountEntry]) -> Vec<Missing> {
        let mut doubts = Vec::new();
        let missing = missing(at_boot, mounted, &mut doubts);
        assert_eq!(doubts, [""; 0]);
        missing
    }

    #[test]
    fn an_engine_is_kept_from_starting_only_where_a_container_would_write_to_the_bare_directory() {
        let nowhere = Path::new("/nowhere");
        let of = |volume: &str| of(nowhere, volume);
        let missing_of = |at_boot: Vec<AtBoot>, mounted: &[MountEntry]| {
            missing_of(at_boot, mounted).into_iter().map(|missing| missing.of).collect::<Vec<_>>()
        };
        let mounted = [mount(Path::new("/nowhere/there"), "fuse.larder")];
        assert_eq!(missing_of(vec![of("there"), of("db")], &mounted), [of("db")]);
        // Something else is mounted there.
        assert_eq!(missing_of(vec![of("db")], &[mount(Path::new("/nowhere/db"), "ext4")]), [of("db")]);
        let refused = |volumes: &[&str], containers: &[Restarting], mounted: &[MountEntry]| {
            let missing = volumes.iter().map(|volume| of(volume));
            let missing: Vec<_> = missing.map(|of| Missing { real: of.dir.clone(), of }).collect();
            refused_for_containers(Engine::Docker, &missing, containers, mounted)
        };
        let container = |name: &str, bind: &str| container(name, bind.into());
        let others = [container("a", "/nowhere/db2"), container("b", "/nowhere"), container("c", "/")];
        assert_eq!(refused(&["db"], &others, &[]), [""; 0]);
        let users = [
            container("a", "/nowhere/db"),
            container("b", "/nowhere/db/sub"),
            container("c", "/nowhere/there"),
        ];
        let said = refused(&["db", "there2"], &users, &[]);
        assert!(said.len() == 1 && said[0].starts_with("Docker is not started: volume \"db\""), "{said:?}");
        assert!(
            said[0].contains(" the bare directory: a, b; `systemctl status larder@db.service`"),
            "{said:?}"
        );
        // Another file system is mounted below.
        let below = [mount(Path::new("/nowhere/db/sub"), "ext4")];
        let said = refused(&["db"], &users, &below);
        assert!(said.len() == 1 && said[0].contains(": a; "), "{said:?}");
    }

    /// Only the words of both paths were compared.
    #[test]
    fn a_container_may_reach_the_bare_directory_through_a_link() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().canonicalize().unwrap();
        fs::create_dir_all(dir.join("real/db")).unwrap();
        symlink(dir.join("real"), dir.join("volumes")).unwrap();
        symlink("volumes/db", dir.join("data")).unwrap();
        let missing = missing_of(vec![of(&dir.join("volumes"), "db")], &[]);
        assert_eq!(missing[0].real, dir.join("real/db"));
        for bind in ["data", "data/not-yet", "volumes/db", "real/db", "real/db/not-yet"] {
            let said =
                refused_for_containers(Engine::Podman, &missing, &[container("a", dir.join(bind))], &[]);
            assert!(
                said.len() == 1 && said[0].starts_with("podman-restart.service is not"),
                "{bind}: {said:?}"
            );
        }
        let others = [container("a", dir.join("real/db2")), container("b", dir.join("volumes"))];
        assert_eq!(refused_for_containers(Engine::Docker, &missing, &others, &[]), [""; 0]);
        // The volume itself is found where the link leads.
        let mounted = [mount(&dir.join("real/db"), "fuse.larder")];
        assert_eq!(missing_of(vec![of(&dir.join("volumes"), "db")], &mounted), []);
        // What may not answer is not looked at.
        let mut doubts = Vec::new();
        let mounted = [mount(&dir, "fuse.sshfs")];
        assert_eq!(super::missing(vec![of(&dir, "db")], &mounted, &mut doubts), []);
        assert!(doubts.len() == 1 && doubts[0].contains("\"db\" is mounted on "), "{doubts:?}");
    }

    /// What it makes there keeps the volume from being mounted.
    #[test]
    fn an_engine_whose_storage_is_on_a_missing_volume_is_not_started() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().canonicalize().unwrap();
        fs::create_dir(dir.join("db")).unwrap();
        symlink("db/docker", dir.join("lib")).unwrap();
        fs::create_dir(dir.join("db/docker")).unwrap();
        let missing = missing_of(vec![of(&dir, "db")], &[]);
        let refused = |storage: &str| refused_for_storage(Engine::Docker, &missing, &dir.join(storage), &[]);
        for storage in ["db", "db/docker", "db/not-yet", "lib"] {
            let said = refused(storage);
            assert!(said.len() == 1 && said[0].contains("its containers are kept there, in "), "{said:?}");
        }
        assert_eq!(refused("db2"), [""; 0]);
    }
}
