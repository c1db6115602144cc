//! What ends and begins again under running containers: Docker Engine, the volume driver, a volume's server, the machine.

use super::docker::Docker;

/// A volume with a container that appends to a file all the time.
fn busy(docker: &Docker, name: &str, options: &str) {
    docker.sh(&format!(
        "docker volume create -d larder {name}
         docker run -d --name {name} {options} -v {name}:/data busybox \
             sh -c 'while true; do date >> /data/log || echo failed >> /tmp/failed; sleep 0.1; done'"
    ));
    docker.wait_for(&format!("docker exec {name} grep -q . /data/log"));
}

/// The container writes, and has never failed to.
fn works(docker: &Docker, name: &str) {
    docker.sh(&format!(
        "lines() {{ docker exec {name} sh -c 'wc -l < /data/log'; }}; before=$(lines)
         until_true '[ $(lines) -gt $before ]'
         docker exec {name} true; if docker exec {name} cat /tmp/failed 2>/dev/null; then exit 1; fi"
    ));
}

/// Nothing is left of a volume when its containers are gone.
fn ends(docker: &Docker, name: &str) {
    docker.sh(&format!("docker rm -f {name}"));
    docker.wait_for(&format!("! mounted {name}"));
    docker.sh(&format!("larder check {name} --read-data; docker volume rm {name}"));
}

#[test]
fn containers_that_live_on_keep_their_volumes_whatever_is_restarted() {
    let docker = Docker::new("\"live-restore\": true");
    busy(&docker, "busy", "");
    docker.stop();
    docker.start();
    works(&docker, "busy");
    docker.kill();
    works(&docker, "busy");
    for signal in ["KILL", "TERM"] {
        docker.restart_driver(signal);
        works(&docker, "busy");
        assert_eq!(docker.sh("docker volume ls -q"), "busy");
    }
    // Everything at once.
    docker.sh("systemctl reset-failed; old=$(pidof dockerd)
               systemctl kill --kill-who=main -s KILL docker.service larder-plugin.service
               until_true 'new=$(pidof dockerd); [ $new != $old ]'; until_true 'docker version'");
    works(&docker, "busy");
    // Counts are what they were: other users come and go, and the last one's end unmounts.
    docker.sh("docker run --rm -v busy:/data busybox true; docker cp busy:/data/log - >/dev/null");
    works(&docker, "busy");
    ends(&docker, "busy");
}

#[test]
fn containers_that_are_restarted_with_the_engine_find_their_volumes() {
    let docker = Docker::new("");
    busy(&docker, "busy", "--restart always");
    docker.stop();
    docker.wait_for("! mounted busy");
    docker.start();
    docker.wait_for("docker exec busy true");
    works(&docker, "busy");
    docker.kill();
    docker.wait_for("docker exec busy true");
    works(&docker, "busy");
    ends(&docker, "busy");
}

#[test]
fn containers_do_not_notice_that_servers_die_or_are_replaced() {
    let docker = Docker::new("");
    busy(&docker, "busy", "");
    for _ in 0..10 {
        docker.sh(&format!("kill -9 {}", docker.server("busy")));
        works(&docker, "busy");
    }
    let before = docker.server("busy");
    docker.sh("larder upgrade");
    assert_ne!(docker.server("busy"), before);
    works(&docker, "busy");
    ends(&docker, "busy");
}

#[test]
fn a_killed_holder_and_server_are_replaced_and_containers_go_on_after_their_restart() {
    let docker = Docker::new("");
    busy(&docker, "busy", "");
    docker.sh("docker exec busy sync");
    let before: usize = docker.sh("docker exec busy cat /data/log | wc -l").parse().unwrap();
    docker.kill_server("busy");
    docker.wait_for("docker restart -t 0 busy && docker exec busy cat /data/log");
    // Until then, its mount was dead, which it may have noticed.
    docker.sh("docker exec busy rm -f /tmp/failed");
    let after: usize = docker.sh("docker exec busy cat /data/log | wc -l").parse().unwrap();
    assert!(after >= before, "{after} lines of {before}");
    works(&docker, "busy");
    ends(&docker, "busy");
}

#[test]
fn after_a_power_cut_everything_comes_back() {
    let docker = Docker::new("");
    busy(&docker, "busy", "--restart always");
    docker.sh("docker volume create -d larder -o sticky=true --label a=b unused; docker exec busy sync");
    let before: usize = docker.sh("docker exec busy cat /data/log | wc -l").parse().unwrap();
    // The engine and the driver are enabled: nobody starts them.
    docker.reboot();
    docker.wait_for("docker exec busy true");
    let after: usize = docker.sh("docker exec busy cat /data/log | wc -l").parse().unwrap();
    assert!(after >= before, "{after} lines of {before}");
    works(&docker, "busy");
    // The engine's own record of a volume is there only if the driver never answered an error to Get.
    assert_eq!(docker.sh("docker volume inspect -f '{{json .Labels}}' unused"), "{\"a\":\"b\"}");
    ends(&docker, "busy");
}
