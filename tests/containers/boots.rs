//! What waits for a volume that a unit mounts: at boot, at shutdown, and when the volume cannot be mounted.

use super::docker::Docker;
use super::machine::Machine;

/// Lets the unit of a volume take some seconds, as with a slow disk or a long log.
fn slow(volume: &str) -> String {
    format!(
        "mkdir -p /etc/systemd/system/larder@{volume}.service.d
         printf '[Service]\\nExecStartPre=/bin/sleep 4\\n' > /etc/systemd/system/larder@{volume}.service.d/slow.conf
         systemctl daemon-reload; systemctl enable -q larder@{volume}"
    )
}

/// A service that says where it writes to, as long as it lives, and that it ends.
const PROBE: &str = "cat > /etc/systemd/system/probe.service <<'END'
[Unit]
RequiresMountsFor=/mnt/larder/my-db/sub
[Service]
ExecStart=/bin/bash -c 'stat -f -c %%T /mnt/larder/my-db >> /root/starts; exec 9>> /mnt/larder/my-db/log || exit 1; \
    trap \"echo end >&9; exit 0\" TERM; echo begin >&9; while echo alive >&9; do sleep 0.1; done'
[Install]
WantedBy=multi-user.target
END
systemctl daemon-reload; systemctl enable -q probe";

#[test]
fn a_service_that_requires_a_directory_of_a_volume_starts_when_it_is_mounted_and_not_without() {
    let machine = Machine::new();
    let mount = "mount=$(systemd-escape -p --suffix=mount /mnt/larder/my-db)";
    machine.sh(&format!("larder create my-db --size 100M; {}; {PROBE}", slow("my-db")));
    machine.reboot();
    machine.wait_for("grep alive /mnt/larder/my-db/log");
    assert_eq!(machine.sh("cat /root/starts"), "fuseblk");
    // A restart, a reload, and the death of a server are nothing to it.
    machine.sh(&format!(
        "{mount}; main() {{ systemctl show -p MainPID --value $1; }}; lines() {{ wc -l < /mnt/larder/my-db/log; }}
         probe=$(main probe); old=$(main larder@my-db); systemctl restart larder@my-db; [ $(main larder@my-db) != $old ]
         systemctl reload larder@my-db; kill -9 $(larder inspect my-db | sed -n 's/.*\"pid\": \\([0-9]*\\).*/\\1/p')
         systemctl daemon-reload; before=$(lines); until_true '[ $(lines) -gt $before ]'
         [ $(main probe) = $probe ]; systemctl is-active \"$mount\""
    ));
    // Nor is the death of the main process, with its server or without: what needs the volume may have to wait, but is not stopped.
    machine.sh(&format!(
        "{mount}; main() {{ systemctl show -p MainPID --value $1; }}
         printf '[Unit]\\nRequiresMountsFor=/mnt/larder/my-db\\n[Service]\\nExecStart=/bin/sleep infinity\\n' > /etc/systemd/system/needs.service
         systemctl daemon-reload; systemctl start needs; needs=$(main needs); probe=$(main probe)
         old=$(main larder@my-db); systemctl kill --kill-who=main -s KILL larder@my-db
         until_true '[ $(main larder@my-db) != $old ] && [ $(main larder@my-db) != 0 ]'; until_true 'systemctl is-active larder@my-db'
         [ $(main probe) = $probe ]; [ $(main needs) = $needs ]
         systemctl reset-failed; systemctl stop probe; systemctl kill -s KILL larder@my-db
         until_true 'systemctl is-active larder@my-db && grep alive /mnt/larder/my-db/log'
         [ $(main needs) = $needs ]; until_true \"systemctl is-active '$mount'\"; systemctl start probe
         until_true '[ $(grep -c begin /mnt/larder/my-db/log) = 2 ]'; systemctl reset-failed"
    ));
    // An order to end the volume's unit ends first what needs the volume.
    machine.sh(&format!(
        "{mount}; systemctl stop larder@my-db; [ \"$(systemctl is-active probe)\" = inactive ]
         [ \"$(systemctl is-active needs)\" = inactive ]
         [ \"$(systemctl is-active \"$mount\")\" = inactive ]; if mounted my-db; then exit 1; fi
         [ -z \"$(ls -A /mnt/larder/my-db)\" ]; systemctl start probe; mounted my-db
         until_true '[ $(grep -c begin /mnt/larder/my-db/log) = 3 ]'; [ $(grep -c end /mnt/larder/my-db/log) = 2 ]
         systemctl stop larder@my-db; if mounted my-db; then exit 1; fi; rm /root/starts"
    ));
    // One that cannot be mounted: what needs it is not started, and the journal says why.
    machine.sh("mkdir -p /etc/larder; echo 'OPTIONS=-o nonsense' > /etc/larder/my-db.env");
    let refused = machine.fails("systemctl start probe");
    assert!(refused.contains("dependency"), "{refused}");
    machine.sh(&format!(
        "{mount}; [ ! -e /root/starts ]; [ -z \"$(ls -A /mnt/larder/my-db)\" ]
         until_true 'journalctl -u \"$mount\" -o cat | grep \"larder@my-db.service has not mounted volume .my-db.\"'"
    ));
    // Once it can, so can they.
    machine.sh(&format!(
        "{mount}; rm /etc/larder/my-db.env; systemctl reset-failed; systemctl start probe
         until_true '[ -s /root/starts ] && [ $(grep -c begin /mnt/larder/my-db/log) = 4 ]'; systemctl is-active probe \"$mount\" larder@my-db"
    ));
    // A shutdown in good order: the last thing in the volume is what its user said at its end.
    machine.shut_down();
    machine.reboot();
    machine.wait_for("[ $(grep -c begin /mnt/larder/my-db/log) = 5 ]");
    machine.sh("systemctl stop larder@my-db; larder check my-db --read-data; systemctl disable -q probe; systemctl start larder@my-db
                [ $(grep -c end /mnt/larder/my-db/log) = 5 ]; tail -n 1 /mnt/larder/my-db/log | grep -x end");
    // An administrator's own unit comes before what is generated; and what is no longer enabled has none.
    machine.sh(&format!(
        "{mount}; systemctl disable -q larder@my-db; systemctl daemon-reload; systemctl stop larder@my-db
         [ \"$(systemctl show -p LoadState --value \"$mount\")\" = not-found ]
         echo 'my-db /mnt/larder/my-db larder noatime 0 0' > /etc/fstab; systemctl enable -q larder@my-db
         systemctl daemon-reload; systemctl cat \"$mount\" | grep -q 'systemd-fstab-generator'; : > /etc/fstab"
    ));
}

#[test]
fn an_engine_does_not_start_before_the_volumes_that_its_containers_need_nor_without_them() {
    let docker = Docker::new("");
    docker.sh(&format!(
        "larder create data --size 100M; {}; systemctl start larder@data
         mkdir -p /etc/systemd/system/docker.service.d
         cp /usr/share/doc/larder/examples/docker.service.d/larder.conf /etc/systemd/system/docker.service.d/
         sed -i 's|/mnt/larder/db|/mnt/larder/data|' /etc/systemd/system/docker.service.d/larder.conf
         systemctl daemon-reload
         docker run -d --restart always --name user -v /mnt/larder/data:/data busybox sh -c \
             'grep -q \" /data fuse.larder \" /proc/mounts && echo mounted >> /data/log || echo bare >> /data/log
              trap \"echo end >> /data/log; exit\" TERM; while :; do sleep 0.1; done'",
        slow("data")
    ));
    docker.wait_for("grep mounted /mnt/larder/data/log");
    // By a power cut, and in good order.
    docker.reboot();
    docker.wait_for("[ $(grep -c mounted /mnt/larder/data/log) = 2 ]");
    docker.shut_down();
    docker.reboot();
    docker.wait_for("[ $(grep -c mounted /mnt/larder/data/log) = 3 ]");
    assert_eq!(docker.sh("cat /mnt/larder/data/log"), "mounted\nmounted\nend\nmounted");
    // A restart of the volume's unit is nothing to it.
    docker.sh("old=$(pidof dockerd); systemctl restart larder@data; [ $(pidof dockerd) = $old ]; docker exec user cat /data/log");
    // Its death is hard on containers that have the volume, and no reason to stop the engine with all others.
    docker.sh("old=$(pidof dockerd); systemctl reset-failed; systemctl kill -s KILL larder@data; until_true 'cat /mnt/larder/data/log'
               systemctl is-active larder@data; systemctl is-active docker; [ $(pidof dockerd) = $old ]; systemctl reset-failed
               docker restart -t 0 user; until_true '[ $(grep -c mounted /mnt/larder/data/log) = 4 ]'");
    // A volume that cannot be mounted.
    docker.sh("systemctl stop docker.service docker.socket larder@data; if mounted data; then exit 1; fi
               mkdir -p /etc/larder; echo 'OPTIONS=-o nonsense' > /etc/larder/data.env");
    docker.fails("systemctl start docker.service");
    docker.sh("[ -z \"$(ls -A /mnt/larder/data)\" ]; [ -z \"$(pidof dockerd)\" ]; rm /etc/larder/data.env
               systemctl reset-failed; systemctl start docker.service
               until_true '[ $(grep -c mounted /mnt/larder/data/log) = 5 ]'; docker rm -f user");
}

/// Where nobody has told the engine's unit of the volume.
#[test]
fn an_engine_that_would_start_containers_on_the_bare_directory_of_a_volume_is_not_started() {
    let docker = Docker::new("");
    let log = "trap exit TERM; until mkdir /data/$(cat /proc/sys/kernel/random/uuid); do :; done; while :; do sleep 0.1; done";
    docker.sh(&format!(
        "larder create data --size 100M; {}; larder create other --size 100M; mkdir -p /srv/other
         echo 'other /srv/other larder nofail' > /etc/fstab; systemctl daemon-reload; systemctl start larder@data srv-other.mount
         systemctl show -p After --value docker.service | grep -qw srv-other.mount
         docker run -d --restart unless-stopped --name user -v /mnt/larder/data:/data busybox sh -c '{log}'
         docker run -d --restart always --name local -v /srv/other:/data busybox sh -c '{log}'
         until_true '[ \"$(ls /mnt/larder/data | wc -l) $(ls /srv/other | wc -l)\" = \"1 1\" ]'",
        slow("data")
    ));
    docker.reboot();
    docker.wait_for("mounted data && mounted other && [ \"$(ls /mnt/larder/data | wc -l) $(ls /srv/other | wc -l)\" = \"2 2\" ]");
    // One that cannot be mounted.
    docker.sh("systemctl stop docker.service docker.socket larder@data; if mounted data; then exit 1; fi
               mkdir -p /etc/larder; echo 'OPTIONS=-o nonsense' > /etc/larder/data.env");
    docker.fails("systemctl start docker.service");
    docker.sh("until_true 'journalctl -u docker.service -o cat | grep \"volume .data. is not mounted on /mnt/larder/data\" | grep \": user;\"'
               systemctl stop docker.service docker.socket; [ -z \"$(pidof dockerd)\" ]; [ -z \"$(ls -A /mnt/larder/data)\" ]");
    // A damaged configuration of Larder says nothing of that.
    docker.sh("echo nonsense > /etc/larder/larder.toml; systemctl reset-failed");
    docker.fails("systemctl start docker.service");
    let refused = docker.fails("larder guard docker");
    assert!(refused.contains("volume \"data\" is not mounted on /mnt/larder/data, "), "{refused}");
    docker.sh("systemctl stop docker.service docker.socket; rm /etc/larder/larder.toml; [ -z \"$(ls -A /mnt/larder/data)\" ]");
    // What nobody mounts at boot is none of its business.
    docker.sh("systemctl disable -q larder@data; systemctl reset-failed docker && systemctl start docker; until_true 'docker version'
               docker rm -f user; systemctl enable -q larder@data");
    // Nor is a volume that no container binds which is started by itself.
    docker.sh("rm -rf /mnt/larder/data/*; docker create --name idle -v /mnt/larder/data:/data busybox true; systemctl reset-failed
               systemctl restart docker.service; until_true 'docker version'");
    // Where its own storage would be on the bare directory, nothing is made there, which would keep the volume from being mounted.
    docker.sh("systemctl stop docker.service docker.socket; systemctl reset-failed; cp /etc/docker/daemon.json /root/
               sed -i 's|{|{ \"data-root\": \"/mnt/larder/data/docker\", |' /etc/docker/daemon.json");
    docker.fails("systemctl start docker.service");
    docker.sh("[ -z \"$(ls -A /mnt/larder/data)\" ]; until_true 'journalctl -u docker.service -o cat | grep \"kept there, in /mnt/larder/data/docker\"'
               systemctl stop docker.service docker.socket; systemctl reset-failed; echo nonsense > /etc/docker/daemon.json");
    // In doubt, it is up to the engine, and the journal says why.
    docker.fails("systemctl start docker.service");
    docker.sh("until_true 'journalctl -u docker.service -o cat | grep \"^larder: it is not known where Docker Engine keeps its containers: /etc/docker/daemon.json\"'
               systemctl stop docker.service docker.socket; mv /root/daemon.json /etc/docker/; systemctl reset-failed; systemctl start docker.service
               until_true 'docker version'");
    // The same with a line of fstab.
    docker
        .sh("systemctl stop docker.service docker.socket srv-other.mount; if mounted other; then exit 1; fi");
    docker.fails("systemctl start docker.service");
    docker.sh("systemctl stop docker.service docker.socket; [ -z \"$(ls -A /srv/other)\" ]; systemctl reset-failed
               systemctl start srv-other.mount docker.service; until_true '[ $(ls /srv/other | wc -l) -ge 3 ]'; docker rm -f local
               systemctl stop srv-other.mount; : > /etc/fstab");
}

/// It was kept from containers that went on without it.
#[test]
fn an_engine_that_leaves_its_containers_alone_is_started_though_the_volume_of_one_is_not_mounted() {
    let docker = Docker::new("\"live-restore\": true");
    docker.sh(&format!(
        "larder create data --size 100M; {}; systemctl start larder@data
         docker run -d --restart always --name user -v /mnt/larder/data:/data busybox sh -c 'trap exit TERM; while :; do sleep 0.1; done'
         systemctl stop docker.service docker.socket; systemctl stop larder@data; if mounted data; then exit 1; fi
         mkdir -p /etc/larder; echo 'OPTIONS=-o nonsense' > /etc/larder/data.env",
        slow("data")
    ));
    docker.start();
    docker.sh("[ \"$(docker inspect -f '{{.State.Running}} {{.RestartCount}}' user)\" = 'true 0' ]; [ -z \"$(ls -A /mnt/larder/data)\" ]");
    // What has ended meanwhile would be started again.
    docker.sh("pid=$(docker inspect -f '{{.State.Pid}}' user); systemctl stop docker.service docker.socket; systemctl reset-failed; kill -9 $pid
               until_true '[ ! -e /proc/'$pid' ]'");
    docker.fails("systemctl start docker.service");
    docker.sh("until_true 'journalctl -u docker.service -o cat | grep \"volume .data. is not mounted on /mnt/larder/data\" | grep \": user;\"'
               systemctl stop docker.service docker.socket; [ -z \"$(ls -A /mnt/larder/data)\" ]; rm /etc/larder/data.env
               systemctl reset-failed; systemctl start larder@data docker.service
               until_true 'mounted data && docker exec user true'; docker rm -f user");
}

#[test]
fn units_wait_for_the_disk_that_the_root_is_on() {
    let machine = Machine::new();
    // Where a host has no volumes, nothing is due.
    machine.sh("systemctl start larder-scrub.service larder-trash.service");
    machine.sh("mkdir -p /var/lib/larder/disk /srv/disk; echo '/var/lib/larder/disk /srv/disk none bind 0 0' > /etc/fstab
                echo 'root = \"/srv/disk/larder\"' > /etc/larder/larder.toml; systemctl daemon-reload; systemctl start srv-disk.mount
                for unit in larder@v larder-plugin larder-scrub larder-trash; do
                    systemctl show -p After --value $unit.service | grep -qw srv-disk.mount
                    systemctl show -p Requires --value $unit.service | grep -qw srv-disk.mount
                done");
    // A root that somebody has named, and that is not there, is a mistake.
    machine.fails("systemctl start larder-scrub.service");
    machine.sh("larder create v; systemctl reset-failed; systemctl enable -q larder@v");
    machine.reboot();
    machine.wait_for("mounted v");
    machine.sh("ls /srv/disk/larder/volumes/v; systemctl start larder-scrub.service; larder inspect v | grep -q '\"finished\": \"20'
                systemctl stop larder@v; : > /etc/fstab");
}

/// mount(8) makes a path of a name that is also that of a file, and systemd runs it in `/`.
#[test]
fn a_line_of_fstab_may_name_a_volume_like_a_directory_of_the_host() {
    let machine = Machine::new();
    machine.sh("larder create media; mkdir -p /media; echo 'media /srv/media larder noatime,nofail 0 0' > /etc/fstab
                systemctl daemon-reload; systemctl start srv-media.mount; findmnt -no SOURCE /srv/media | grep -x media
                systemctl stop srv-media.mount; cd /; mount /srv/media; mounted media; umount /srv/media; : > /etc/fstab");
}
