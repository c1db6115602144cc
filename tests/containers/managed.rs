//! The managed plugin, installed from disk.

use super::docker::Docker;
use crate::support::{larder, succeed};
use std::path::Path;
use std::process::Command;

#[test]
fn the_managed_plugin_is_installed_without_a_registry_and_serves_volumes() {
    let docker = Docker::new("");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/managed-plugin");
    succeed(Command::new(script).arg(docker.exchange().join("plugin")).env("PROGRAM", larder()));
    // One driver serves a root.
    docker.sh("systemctl disable -q --now larder-plugin.socket larder-plugin.service
               docker plugin create larder-managed /exchange/plugin; docker plugin enable larder-managed");
    assert_eq!(docker.sh("docker plugin inspect -f '{{.Enabled}}' larder-managed"), "true");
    docker.sh("docker volume create -d larder-managed:latest -o size=1G vol
               docker run -d --name vol -v vol:/data busybox sh -c 'echo data > /data/f; sleep 1000'");
    docker.wait_for("docker exec vol cat /data/f");
    assert_eq!(docker.sh("docker exec vol df -k /data | awk 'END { print $2 }'"), "1048576");
    assert!(docker.fails("docker plugin disable larder-managed").contains("in use"));
    // The same volumes as those of the command on the host.
    assert!(docker.sh("larder ls").contains("vol "), "the host sees the volume");
    docker.sh("docker rm -f vol; docker run --rm -v vol:/data busybox grep data /data/f");
    // A new version takes the place of an old one, and a restart of the engine that of the plugin.
    docker.stop();
    docker.start();
    docker.wait_for("docker plugin inspect -f '{{.Enabled}}' larder-managed | grep true");
    docker.sh("docker run --rm -v vol:/data busybox grep data /data/f
               docker plugin disable -f larder-managed; docker plugin enable larder-managed
               docker run --rm -v vol:/data busybox grep data /data/f; docker volume rm vol");
    assert!(!docker.sh("larder ls").contains("vol "));
    docker.sh("docker plugin disable larder-managed; docker plugin rm larder-managed");
}
