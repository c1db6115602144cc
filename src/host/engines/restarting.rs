//! Containers that Docker Engine starts by itself when it starts, and what they bind, as it has written it down: whoever asks does so before
//! the engine runs.

use super::places::Places;
use super::{BYTES_MAX, is_of_users};
use crate::backing::open_linked;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// A container that its engine starts by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restarting {
    /// What people call it.
    pub name: String,
    /// The directories of the host that it has.
    pub binds: Vec<PathBuf>,
}

/// What labels a container that a swarm starts, whatever policy it has itself.
const OF_SWARM: &str = "com.docker.swarm.service.id";

/// `config.v2.json`, of which the rest is not looked at.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Config {
    name: String,
    state: State,
    restart_count: u64,
    has_been_manually_stopped: bool,
    has_been_started_before: Option<bool>,
    mount_points: Option<BTreeMap<String, MountPoint>>,
    config: Labelled,
}

/// How it was when the engine last wrote that down.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct State {
    running: bool,
    pid: u32,
    exit_code: i64,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Labelled {
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct MountPoint {
    source: PathBuf,
    name: String,
    driver: String,
}

/// `hostconfig.json`.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct HostConfig {
    restart_policy: RestartPolicy,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct RestartPolicy {
    name: String,
    /// 0: as often as it fails.
    maximum_retry_count: u64,
}

/// `opts.json` of a volume of the driver that the engine brings.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct LocalVolume {
    mount_device: PathBuf,
}

impl Config {
    /// Whether it is certain that the engine starts it by itself.
    fn restarts(&self, policy: &RestartPolicy) -> bool {
        let State { running, exit_code, .. } = self.state;
        // Images may have the label, too, and tasks that ended stay ended.
        let of_swarm =
            running && self.config.labels.as_ref().is_some_and(|labels| labels.contains_key(OF_SWARM));
        let by_policy = match policy.name.as_str() {
            "always" => true,
            "unless-stopped" => !self.has_been_manually_stopped,
            // One that ran when the host lost its power has failed.
            "on-failure" => {
                let max = policy.maximum_retry_count;
                (running || exit_code != 0) && (max == 0 || self.restart_count < max)
            }
            _ => false,
        };
        of_swarm || by_policy && self.has_been_started_before != Some(false)
    }
}

/// The Docker Engine that `docker.service` starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerOfUnit {
    /// Where it keeps all that it has.
    pub storage: PathBuf,
    /// Where containers that run can be seen, if it leaves those alone when it starts.
    proc: Option<PathBuf>,
}

/// The Docker Engine that `docker.service` starts.
///
/// # Errors
/// Why it is not certain where it keeps what it has.
pub fn docker_of_unit() -> Result<DockerOfUnit, String> {
    let places = Places::of_units();
    let storage = places.docker_in_use()?.to_owned();
    Ok(DockerOfUnit { storage, proc: places.live_restore.then(|| places.host.join("proc")) })
}

/// Where root's Podman keeps all that it has.
///
/// # Errors
/// Why that is not certain.
pub fn storage_of_podman() -> Result<PathBuf, String> {
    Places::of_units().podman_in_use().map(Path::to_owned)
}

/// The containers that a Docker Engine certainly starts by itself, and why others are not known.
pub fn restarting_of_docker(docker: &DockerOfUnit) -> (Vec<Restarting>, Vec<String>) {
    let mut doubts = Vec::new();
    let found = restarting_in(docker, &mut doubts).unwrap_or_else(|e| {
        // (Where nothing is, it was never started.)
        doubts.extend((e.kind() != io::ErrorKind::NotFound).then(|| unknown(&docker.storage, &e)));
        Vec::new()
    });
    (found, doubts)
}

impl DockerOfUnit {
    /// Whether a container goes on as it is when the engine starts: what has its number may be another process, after a boot of the host.
    fn leaves_alone(&self, id: &str, state: &State) -> bool {
        let Some(proc) = self.proc.as_ref().filter(|_| state.running && state.pid > 0) else { return false };
        let group = fs::read(proc.join(state.pid.to_string()).join("cgroup")).unwrap_or_default();
        !id.is_empty() && String::from_utf8_lossy(&group).contains(id)
    }
}

fn unknown(path: &Path, e: &io::Error) -> String {
    format!(
        "it is not known which containers Docker Engine starts: {}: {e} (make it readable)",
        path.display()
    )
}

fn restarting_in(docker: &DockerOfUnit, doubts: &mut Vec<String>) -> io::Result<Vec<Restarting>> {
    // With users of their own for containers, these are one level below.
    let mut dirs = vec![docker.storage.clone()];
    for entry in fs::read_dir(&docker.storage)? {
        let entry = entry?;
        dirs.extend(is_of_users(&entry.file_name()).then(|| entry.path()));
    }
    let mut found = Vec::new();
    for dir in dirs {
        let entries = match fs::read_dir(dir.join("containers")) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        for entry in entries {
            let container = entry?.path();
            match restarting(docker, &dir, &container) {
                Ok(some) => found.extend(some),
                // One that was just removed, or never quite made.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => doubts.push(unknown(&container, &e)),
            }
        }
    }
    Ok(found)
}

/// A container, by its directory, if the engine starts it by itself.
fn restarting(docker: &DockerOfUnit, data: &Path, container: &Path) -> io::Result<Option<Restarting>> {
    let config: Config = read(&container.join("config.v2.json"))?;
    let host: HostConfig = read(&container.join("hostconfig.json"))?;
    let id = container.file_name().and_then(|id| id.to_str()).unwrap_or_default();
    if !config.restarts(&host.restart_policy) || docker.leaves_alone(id, &config.state) {
        return Ok(None);
    }
    let mut binds = Vec::new();
    for mount in config.mount_points.unwrap_or_default().into_values() {
        // A volume of the engine's own may be a bind as well.
        if mount.driver == "local" && !mount.name.contains('/') {
            let options = data.join("volumes").join(&mount.name).join("opts.json");
            binds.extend(read::<LocalVolume>(&options).ok().map(|volume| volume.mount_device));
        }
        binds.push(mount.source);
    }
    binds.retain(|path| path.is_absolute());
    Ok(Some(Restarting { name: config.name.trim_start_matches('/').to_owned(), binds }))
}

fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    let mut text = Vec::new();
    open_linked(path)?.take(BYTES_MAX).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn containers_that_an_engine_starts_by_itself_are_found_with_what_they_bind() {
        let tmp = tempfile::tempdir().unwrap();
        let docker = tmp.path().join("docker");
        let restarting_of_docker =
            |storage: &Path| restarting_of_docker(&DockerOfUnit { storage: storage.to_owned(), proc: None });
        assert_eq!(restarting_of_docker(&docker), (vec![], vec![]), "it was never installed");
        let make = |below: &str, name: &str, policy: &str, more: Value| {
            let dir = docker.join(below).join("containers").join(name);
            fs::create_dir_all(&dir).unwrap();
            let mut config = json!({ "ID": name, "Name": format!("/{name}"),
                "MountPoints": { "/data": { "Type": "bind", "Source": format!("/mnt/{name}"), "Driver": "" } } });
            config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            fs::write(dir.join("config.v2.json"), config.to_string()).unwrap();
            let (policy, max) = policy.split_once(':').unwrap_or((policy, "0"));
            let policy = json!({ "Name": policy, "MaximumRetryCount": max.parse::<u64>().unwrap() });
            fs::write(dir.join("hostconfig.json"), json!({ "RestartPolicy": policy }).to_string()).unwrap();
        };
        make("", "no", "no", json!({}));
        make("", "none", "", json!({ "MountPoints": null }));
        make("", "stopped", "unless-stopped", json!({ "HasBeenManuallyStopped": true }));
        make("", "new", "always", json!({ "HasBeenStartedBefore": false }));
        // What has ended well, or too often otherwise; and a label of an image, or of a task that has ended.
        make("", "done", "on-failure", json!({ "State": { "Running": false, "ExitCode": 0 } }));
        make("", "often", "on-failure:3", json!({ "State": { "ExitCode": 1 }, "RestartCount": 3 }));
        make(
            "",
            "labelled",
            "",
            json!({ "Config": { "Labels": { OF_SWARM: "x" } }, "State": { "ExitCode": 1 } }),
        );
        assert_eq!(restarting_of_docker(&docker), (vec![], vec![]));
        make("", "always", "always", json!({ "HasBeenManuallyStopped": true, "HasBeenStartedBefore": true }));
        make("", "failing", "on-failure", json!({ "State": { "ExitCode": 1 }, "RestartCount": 3 }));
        make("", "running", "on-failure:3", json!({ "State": { "Running": true }, "RestartCount": 2 }));
        make("", "unless", "unless-stopped", json!({}));
        make(
            "",
            "task",
            "",
            json!({ "Config": { "Labels": { OF_SWARM: "x" } }, "State": { "Running": true } }),
        );
        make("1000.1000", "mapped", "always", json!({}));
        make(
            "",
            "volume",
            "always",
            json!({ "MountPoints": {
                "/a": { "Type": "volume", "Name": "v", "Driver": "local", "Source": "" },
                "/b": { "Type": "volume", "Name": "../v", "Driver": "local" } } }),
        );
        fs::create_dir_all(docker.join("volumes/v")).unwrap();
        let options = json!({ "MountType": "none", "MountOpts": "bind", "MountDevice": "/mnt/volume" });
        fs::write(docker.join("volumes/v/opts.json"), options.to_string()).unwrap();
        let (mut found, doubts) = restarting_of_docker(&docker);
        found.sort_by(|one, other| one.name.cmp(&other.name));
        assert_eq!(doubts, [""; 0]);
        let names: Vec<_> = found.iter().map(|of| of.name.as_str()).collect();
        assert_eq!(names, ["always", "failing", "mapped", "running", "task", "unless", "volume"]);
        for of in &found {
            assert_eq!(of.binds, [PathBuf::from(format!("/mnt/{}", of.name))]);
        }
        // What cannot be read is said, and hides nothing.
        fs::write(docker.join("containers/no/hostconfig.json"), "{").unwrap();
        fs::create_dir(docker.join("containers/half")).unwrap();
        let (found, doubts) = restarting_of_docker(&docker);
        assert_eq!((found.len(), doubts.len()), (7, 1), "{doubts:?}");
        let (found, doubts) = restarting_of_docker(&docker.join("volumes/v/opts.json"));
        assert_eq!((found.len(), doubts.len()), (0, 1), "{doubts:?}");
    }

    /// An engine was kept from its containers, which went on without it.
    #[test]
    fn what_still_runs_is_not_started_by_an_engine_that_leaves_it_alone() {
        let tmp = tempfile::tempdir().unwrap();
        let (storage, proc) = (tmp.path().join("docker"), tmp.path().join("proc"));
        let id = |digit: char| digit.to_string().repeat(64);
        let make = |digit: char, state: Value| {
            let dir = storage.join("containers").join(id(digit));
            fs::create_dir_all(&dir).unwrap();
            let config = json!({ "Name": format!("/{digit}"), "State": state });
            fs::write(dir.join("config.v2.json"), config.to_string()).unwrap();
            let host = json!({ "RestartPolicy": { "Name": "always" } });
            fs::write(dir.join("hostconfig.json"), host.to_string()).unwrap();
        };
        let process = |number: &str, group: String| {
            fs::create_dir_all(proc.join(number)).unwrap();
            fs::write(proc.join(number).join("cgroup"), group).unwrap();
        };
        make('a', json!({ "Running": true, "Pid": 7 }));
        process("7", format!("0::/system.slice/docker-{}.scope\n", id('a')));
        make('b', json!({ "Running": true, "Pid": 8 }));
        process("8", format!("12:cpu:/docker/{0}\n0::/docker/{0}/init\n", id('b')));
        // Its number is another one's since the host was started again; it has ended; it is about to be started again; it had ended.
        make('c', json!({ "Running": true, "Pid": 9 }));
        process("9", format!("0::/system.slice/docker-{}.scope\n", id('a')));
        make('d', json!({ "Running": true, "Pid": 10 }));
        make('e', json!({ "Running": true, "Restarting": true, "Pid": 0 }));
        make('f', json!({ "Running": false, "Pid": 7 }));
        let names = |docker: &DockerOfUnit| {
            let (found, doubts) = restarting_of_docker(docker);
            assert_eq!(doubts, [""; 0]);
            let mut names: Vec<String> = found.into_iter().map(|of| of.name).collect();
            names.sort();
            names.concat()
        };
        let mut docker = DockerOfUnit { storage: storage.clone(), proc: Some(proc.clone()) };
        assert_eq!(names(&docker), "cdef");
        // One that ends them when it starts.
        docker.proc = None;
        assert_eq!(names(&docker), "abcdef");
    }
}
