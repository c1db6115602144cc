//! Containers that Docker Engine starts by itself when it starts, and what they bind, as it has written it down: whoever asks does so before
//! the engine runs.

use super::Asking;
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
    has_been_manually_stopped: bool,
    has_been_started_before: Option<bool>,
    mount_points: Option<BTreeMap<String, MountPoint>>,
    config: Labelled,
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
}

/// `opts.json` of a volume of the driver that the engine brings.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct LocalVolume {
    mount_device: PathBuf,
}

impl Config {
    /// Whether the engine starts it by itself, by its policy; one that ends on failure counts, because nobody knows yet.
    fn restarts(&self, policy: &str) -> bool {
        let of_swarm = self.config.labels.as_ref().is_some_and(|labels| labels.contains_key(OF_SWARM));
        let by_policy = match policy {
            "always" | "on-failure" => true,
            "unless-stopped" => !self.has_been_manually_stopped,
            _ => false,
        };
        of_swarm || by_policy && self.has_been_started_before != Some(false)
    }
}

/// The containers that root's Docker Engine starts by itself, and why not all of them are known.
pub fn restarting_of_docker() -> (Vec<Restarting>, Vec<String>) {
    restarting_at(&Places::of_this_user(Asking::Briefly))
}

fn restarting_at(places: &Places) -> (Vec<Restarting>, Vec<String>) {
    let (mut found, mut doubts) = (Vec::new(), places.doubts.clone());
    for storage in &places.docker {
        match restarting_in(&storage.path, &mut doubts) {
            Ok(some) => found.extend(some),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => doubts.push(unknown(&storage.path, &e)),
        }
    }
    (found, doubts)
}

fn unknown(path: &Path, e: &io::Error) -> String {
    format!(
        "it is not known which containers Docker Engine starts: {}: {e} (make it readable)",
        path.display()
    )
}

fn restarting_in(data: &Path, doubts: &mut Vec<String>) -> io::Result<Vec<Restarting>> {
    // With users of their own for containers, these are one level below.
    let mut dirs = vec![data.to_owned()];
    for entry in fs::read_dir(data)? {
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
            match restarting(&dir, &container) {
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
fn restarting(data: &Path, container: &Path) -> io::Result<Option<Restarting>> {
    let config: Config = read(&container.join("config.v2.json"))?;
    let host: HostConfig = read(&container.join("hostconfig.json"))?;
    if !config.restarts(&host.restart_policy.name) {
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
    use super::super::places::Storage;
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn containers_that_an_engine_starts_by_itself_are_found_with_what_they_bind() {
        let tmp = tempfile::tempdir().unwrap();
        let docker = tmp.path().join("docker");
        let mut places =
            Places { docker: vec![Storage { path: docker.clone(), is_named: false }], ..Places::default() };
        assert_eq!(restarting_at(&places), (vec![], vec![]), "it was never installed");
        let make = |below: &str, name: &str, policy: &str, more: Value| {
            let dir = docker.join(below).join("containers").join(name);
            fs::create_dir_all(&dir).unwrap();
            let mut config = json!({ "ID": name, "Name": format!("/{name}"),
                "MountPoints": { "/data": { "Type": "bind", "Source": format!("/mnt/{name}"), "Driver": "" } } });
            config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            fs::write(dir.join("config.v2.json"), config.to_string()).unwrap();
            fs::write(
                dir.join("hostconfig.json"),
                json!({ "RestartPolicy": { "Name": policy } }).to_string(),
            )
            .unwrap();
        };
        make("", "no", "no", json!({}));
        make("", "none", "", json!({ "MountPoints": null }));
        make("", "stopped", "unless-stopped", json!({ "HasBeenManuallyStopped": true }));
        make("", "new", "always", json!({ "HasBeenStartedBefore": false }));
        assert_eq!(restarting_at(&places), (vec![], vec![]));
        make("", "always", "always", json!({ "HasBeenManuallyStopped": true, "HasBeenStartedBefore": true }));
        make("", "failing", "on-failure", json!({}));
        make("", "unless", "unless-stopped", json!({}));
        make("", "task", "", json!({ "Config": { "Labels": { OF_SWARM: "x" } } }));
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
        let (mut found, doubts) = restarting_at(&places);
        found.sort_by(|one, other| one.name.cmp(&other.name));
        assert_eq!(doubts, [""; 0]);
        let names: Vec<_> = found.iter().map(|of| of.name.as_str()).collect();
        assert_eq!(names, ["always", "failing", "mapped", "task", "unless", "volume"]);
        for of in &found {
            assert_eq!(of.binds, [PathBuf::from(format!("/mnt/{}", of.name))]);
        }
        // What cannot be read is said, and hides nothing.
        fs::write(docker.join("containers/no/hostconfig.json"), "{").unwrap();
        fs::create_dir(docker.join("containers/half")).unwrap();
        places.docker.push(Storage { path: docker.join("volumes/v/opts.json"), is_named: true });
        let (found, doubts) = restarting_at(&places);
        assert_eq!((found.len(), doubts.len()), (6, 2), "{doubts:?}");
    }
}
