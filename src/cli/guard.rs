//! `larder guard ENGINE`: keeps an engine from starting containers on the bare directory of a volume that is mounted at boot and is not there.
//! The units of engines run it (`packaging/systemd/*.service.d`), before they start.
//!
//! It refuses nothing but that: where nothing is missing, where no container that the engine starts by itself binds what is, and where it
//! cannot tell, the engine starts.

use super::CommandResult;
use super::generator::at_boot;
use super::named_by::restarting_of_podman;
use super::output;
use crate::exit_code::Exit;
use crate::host::{Restarting, restarting_of_docker};
use crate::mount::{self as mounts, MountEntry};
use crate::volume::VolumeError;
use std::path::PathBuf;

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
    fn name(self) -> &'static str {
        match self {
            Self::Docker => "Docker",
            Self::Podman => "Podman",
        }
    }
}

/// A volume that is to be mounted when the host has booted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AtBoot {
    pub(super) volume: String,
    pub(super) dir: PathBuf,
    /// The unit that mounts it.
    pub(super) unit: String,
    /// What keeps it from being mounted at boot.
    pub(super) without: String,
}

pub(super) fn run(args: &GuardArgs) -> CommandResult {
    // (Whoever cannot read the table of mounts knows nothing.)
    let Ok(mounted) = mounts::entries() else { return Ok(Exit::Ok) };
    let missing = missing(at_boot(), &mounted);
    if missing.is_empty() {
        return Ok(Exit::Ok);
    }
    let (containers, doubts) = match args.engine {
        Engine::Docker => restarting_of_docker(),
        Engine::Podman => (restarting_of_podman(), Vec::new()),
    };
    doubts.into_iter().for_each(output::warning);
    let mut exit = Exit::Ok;
    for refusal in refusals(args.engine, &missing, &containers) {
        output::error(VolumeError::new(Exit::MountPoint, refusal));
        exit = Exit::MountPoint;
    }
    Ok(exit)
}

/// Those that are not mounted.
fn missing(at_boot: Vec<AtBoot>, mounted: &[MountEntry]) -> Vec<AtBoot> {
    let is_there = |of: &AtBoot| {
        let dir = mounts::resolve(&of.dir).unwrap_or_else(|_| of.dir.clone());
        mounted.iter().any(|entry| entry.is_larder() && (entry.dir == dir || entry.dir == of.dir))
    };
    at_boot.into_iter().filter(|of| !is_there(of)).collect()
}

/// Why an engine may not start, a line for each volume that its containers need.
fn refusals(engine: Engine, missing: &[AtBoot], containers: &[Restarting]) -> Vec<String> {
    let refusal = |of: &AtBoot| {
        let binds = |container: &&Restarting| container.binds.iter().any(|path| path.starts_with(&of.dir));
        let names: Vec<&str> = containers.iter().filter(binds).map(|of| of.name.as_str()).collect();
        let AtBoot { volume, dir, unit, without } = of;
        (!names.is_empty()).then(|| {
            format!(
                "{} is not started, because volume {volume:?} is not mounted on {} and these containers would write to the bare directory: \
                 {}; `systemctl status {unit}` says why it is not mounted; to do without the volume, {without}",
                engine.name(),
                dir.display(),
                names.join(", ")
            )
        })
    };
    missing.iter().filter_map(refusal).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_is_kept_from_starting_only_where_a_container_would_write_to_the_bare_directory() {
        let of = |volume: &str| AtBoot {
            volume: volume.to_owned(),
            dir: format!("/nowhere/{volume}").into(),
            unit: format!("larder@{volume}.service"),
            without: format!("`systemctl disable larder@{volume}`"),
        };
        let line = b"36 35 0:40 / /nowhere/there rw - fuse.larder there rw";
        let mounted = [MountEntry::parse(line).unwrap()];
        assert_eq!(missing(vec![of("there"), of("db")], &mounted), [of("db")]);
        // Something else is mounted there.
        let line = b"36 35 0:40 / /nowhere/db rw - ext4 db rw";
        assert_eq!(missing(vec![of("db")], &[MountEntry::parse(line).unwrap()]), [of("db")]);
        let container = |name: &str, bind: &str| Restarting {
            name: name.to_owned(),
            binds: vec!["/etc".into(), bind.into()],
        };
        let others = [container("a", "/nowhere/db2"), container("b", "/nowhere"), container("c", "/")];
        assert_eq!(refusals(Engine::Docker, &[of("db")], &others), [""; 0]);
        let users = [
            container("a", "/nowhere/db"),
            container("b", "/nowhere/db/sub"),
            container("c", "/nowhere/there"),
        ];
        let said = refusals(Engine::Docker, &[of("db"), of("there2")], &users);
        assert!(
            said.len() == 1 && said[0].contains("Docker is not started") && said[0].contains(": a, b; "),
            "{said:?}"
        );
    }
}
