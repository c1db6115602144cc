//! An engine whose images and containers are on a volume: Docker-in-Docker, runners of CI, nodes of kind.

use super::docker::Docker;

/// Functions for scripts: an engine beside the machine's, and its client.
const ENGINE: &str = "
    start() {
        systemctl reset-failed; echo '{}' > /etc/docker/nested.json
        systemd-run -q --unit nested dockerd --config-file /etc/docker/nested.json --data-root /mnt/nested/docker --exec-root /run/nested \\
            --host unix:///run/nested.sock --pidfile /run/nested.pid --storage-driver overlay2 --bridge none --iptables=false \\
            --ip6tables=false --ip-forward=false --containerd-namespace nested --containerd-plugins-namespace nested-plugins
        until_true 'docker -H unix:///run/nested.sock version'
    }
    nested() { docker -H unix:///run/nested.sock \"$@\"; }
    runs() { nested run --rm --network none \"$@\"; }\n";

#[test]
fn an_engine_keeps_its_images_and_containers_on_a_volume() {
    // Not the one that tests share: which volumes have no container is not known there while this engine starts and ends.
    let docker = Docker::new("");
    let run = |script: &str| docker.sh(&format!("{ENGINE}{script}"));
    run(
        "larder create nested >/dev/null; mkdir /mnt/nested; larder mount nested /mnt/nested >/dev/null; start",
    );
    assert_eq!(run("nested info -f '{{.Driver}}'"), "overlay2");
    run("tar -C /tmp/busybox -c . | nested import - busybox >/dev/null");
    let changes =
        "echo text > /x; mv /x /y; mv /usr /usr2; rm /bin/vi; mkdir /bin/vi; rm -r /tmp; ln -s y /z; cat /z";
    assert_eq!(run(&format!("nested run --name one --network none busybox sh -c '{changes}'")), "text");
    let changed = run("nested diff one | sort");
    for line in ["A /usr2", "A /y", "A /z", "C /bin/vi", "D /usr", "D /tmp"] {
        assert!(changed.lines().any(|found| found == line), "{line}: {changed}");
    }
    let look = "[ -d /bin/vi ] && [ ! -e /usr ] && [ ! -e /tmp ] && cat /z && ls /usr2";
    run("nested commit one two >/dev/null");
    let found = run(&format!("runs two sh -c '{look}'"));
    assert!(found.starts_with("text\n") && found.contains("sbin"), "{found}");
    // Another server takes the volume over while containers run.
    run(
        "nested run -d --name three --network none two sh -c 'i=0; while :; do i=$((i+1)); echo $i > /count; done' >/dev/null",
    );
    docker.sh(&format!("kill -9 {}; sleep 1", docker.server("nested")));
    run(
        "before=$(nested exec three cat /count); until_true '[ $(docker -H unix:///run/nested.sock exec three cat /count) != '$before' ]'",
    );
    run("nested rm -f three >/dev/null; systemctl stop nested; larder umount /mnt/nested; larder check nested --read-data >/dev/null
         larder mount nested /mnt/nested >/dev/null; start");
    assert_eq!(run(&format!("runs two sh -c '{look}'")), found);
    run("nested rm -f one >/dev/null; nested rmi two busybox >/dev/null; systemctl stop nested; larder umount /mnt/nested
         larder check nested --read-data >/dev/null; larder rm nested; rmdir /mnt/nested");
}
