//! Podman with the volume driver, and with volumes bound by hand.

use super::images;
use super::machine::Machine;

/// A machine with Podman that knows the driver.
fn podman() -> Machine {
    let machine = Machine::new();
    // The runtime that knows all arrangements of control groups; no network, for that would be the host's.
    machine.sh(r#"mkdir -p /etc/containers; cat > /etc/containers/containers.conf <<'END'
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[containers]
netns = "none"
log_driver = "k8s-file"
END
mkdir -p /etc/containers/containers.conf.d
printf '[engine.volume_plugins]\nlarder = "/run/docker/plugins/larder.sock"\n' > /etc/containers/containers.conf.d/larder.conf"#);
    images::busybox(&machine, "podman");
    machine
}

#[test]
fn podman_uses_volumes_through_the_driver_and_by_hand() {
    let machine = podman();
    machine
        .sh("podman volume create --driver larder -o size=1G db; podman volume create --driver larder copy");
    assert_eq!(machine.sh("podman volume inspect --format '{{.Driver}}' db"), "larder");
    machine.sh("podman run --rm -v db:/data busybox sh -c 'echo data > /data/f'");
    assert_eq!(machine.sh("podman run --rm -v db:/data busybox cat /data/f"), "data");
    let df = machine.sh("podman run --rm -v db:/data busybox df -k /data | awk 'END { print $2 }'");
    assert_eq!(df, "1048576");
    // Copy-up, sharing, read-only, another user.
    machine.sh("podman run --rm -v copy:/usr/share/nginx/html nginx true");
    assert_eq!(machine.sh("podman run --rm -v copy:/v:ro busybox cat /v/index.html"), "hello");
    let refused = machine.fails("podman run --rm -v copy:/v:ro busybox touch /v/x");
    assert!(refused.contains("Read-only file system"), "{refused}");
    machine.sh("podman run -d --name one -v db:/data busybox sleep 1000; podman run -d --name two -v db:/data busybox sleep 1000
                podman exec one sh -c 'echo shared > /data/g'; podman exec two grep shared /data/g
                podman rm -f -t 0 one; podman exec two grep shared /data/g
                podman cp two:/data/g /root/g; grep shared /root/g; podman exec two grep shared /data/g");
    assert!(machine.fails("podman volume rm db").contains("being used"));
    assert_eq!(machine.sh("larder ls --format '{{.Containers}}' db"), "two");
    machine.sh("podman rm -f -t 0 two");
    machine.wait_for("! mounted db");
    machine.sh("podman volume rm db copy; if larder inspect db; then exit 1; fi");

    // What a container that is stopped will need again is nobody's to prune.
    machine.sh("podman volume create --driver larder needed; podman create --name stopped -v needed:/data busybox; larder create free");
    let said = machine.sh("larder prune --force 2>&1");
    assert!(said.contains("volume \"needed\" is kept: containers were made with it (stopped)"), "{said}");
    assert_eq!(machine.sh("larder ls -q"), "needed");
    machine.sh("podman rm stopped; podman volume rm needed");

    // By hand, as with any engine.
    machine.sh("larder create hand --uid 1000; mkdir -p /mnt/hand; mount -t larder hand /mnt/hand; echo hello > /mnt/hand/f
                podman run --rm -v /mnt/hand:/data:ro busybox grep hello /data/f
                podman run --rm --user 1000:1000 -v /mnt/hand:/data busybox touch /data/mine
                podman run --rm --mount type=bind,source=/mnt,target=/mnt,bind-propagation=rslave busybox cat /mnt/hand/f");
    assert_eq!(machine.sh("stat -c %u /mnt/hand/mine"), "1000");
    machine.sh("umount /mnt/hand; larder rm hand");
}

#[test]
fn podman_exports_and_imports_volumes_and_removes_only_what_was_made_through_the_driver() {
    let machine = podman();
    // (Podman 4 exports and imports what is mounted; later versions mount it themselves.)
    machine.sh("podman volume create --driver larder db; podman volume create --driver larder copy
                podman run --rm -v db:/data busybox sh -c 'echo data > /data/f; chown 1000:1000 /data/f'
                dir=/var/lib/larder/mnt/db; [ -d $dir ]; [ -z \"$(ls -A $dir)\" ]
                podman run -d --name one -v db:/data -v copy:/copy busybox sleep 1000
                podman volume export db --output /root/db.tar; tar -xOf /root/db.tar f | grep data
                podman volume import copy /root/db.tar; podman exec one cat /copy/f | grep data
                [ $(podman exec one stat -c %u /copy/f) = 1000 ]; podman rm -f -t 0 one");
    // One that no container has is mounted by Podman first.
    let export = "podman volume export alone --output /root/a.tar";
    machine.sh("podman volume create --driver larder alone");
    let said = machine.fails(export);
    assert!(said.contains("not mounted"), "{said}");
    machine.sh(&format!(
        "podman volume mount alone; podman volume import alone /root/db.tar; {export}; podman volume unmount alone
         tar -xOf /root/a.tar f | grep data; until_true '! mounted alone'; podman volume rm alone; larder trash empty --force"
    ));
    // By hand, and one of each.
    machine.sh("larder create hand; mkdir -p /mnt/hand; mount -t larder hand /mnt/hand; echo precious > /mnt/hand/f; umount /mnt/hand
                larder snapshot create hand@one; larder create labelled --label env=prod
                podman volume reload; podman volume ls -q | grep -x hand");
    let said = machine.fails("podman volume rm hand");
    assert!(said.contains("larder rm hand"), "{said}");
    machine.wait_for("! mounted db && ! mounted copy");
    machine.sh("podman volume prune -f || true; larder inspect labelled; larder snapshot ls hand | grep one
                if larder inspect db; then exit 1; fi");
    // What it has removed comes back.
    machine.sh("larder trash restore db; podman volume reload; podman run --rm -v db:/data busybox grep data /data/f
                podman volume rm db; larder rm hand labelled; larder trash ls; [ $(larder trash ls | wc -l) = 5 ]
                larder trash empty --force; [ -z \"$(ls -A /var/lib/larder/stores)\" ]");
    // The timer sees to it that nothing stays for ever.
    machine.sh("systemctl is-enabled larder-trash.timer; systemctl is-active larder-trash.timer; larder create x; larder rm x
                sed -i 's/\"until\":[0-9]*/\"until\":1/' /var/lib/larder/trash/*.json; systemctl stop larder-plugin.socket larder-plugin.service
                systemctl start larder-trash.service; [ -z \"$(ls -A /var/lib/larder/trash)\" ]");
}

#[test]
fn podmans_containers_survive_a_restart_of_the_driver_and_a_power_cut() {
    let machine = podman();
    machine.sh("podman volume create --driver larder db
                podman run -d --name db -v db:/data busybox sh -c 'while true; do date >> /data/log; sleep 0.1; done'");
    machine.wait_for("podman exec db grep -q . /data/log");
    machine.restart_driver("KILL");
    machine.sh("podman exec db sh -c 'echo go > /data/go'; podman stop -t 0 db; podman start db; podman exec db cat /data/go; sync");
    machine.reboot();
    machine.sh("podman start db; podman exec db cat /data/go; podman rm -f -t 0 db; podman volume rm db");
}

#[test]
fn podman_restarts_containers_after_their_volumes_are_mounted_and_not_without_them() {
    let machine = podman();
    machine.sh(
        "larder create data --size 100M; systemctl enable -q --now larder@data
         mkdir -p /etc/systemd/system/podman-restart.service.d
         cp /usr/share/doc/larder/examples/podman-restart.service.d/larder.conf /etc/systemd/system/podman-restart.service.d/
         sed -i 's|/mnt/larder/db|/mnt/larder/data|' /etc/systemd/system/podman-restart.service.d/larder.conf
         systemctl daemon-reload
         for unit in larder@data.service larder-plugin.service larder-plugin.socket; do
             systemctl show -p Before --value $unit | grep -qw podman-restart.service
         done
         podman run -d --restart always --name user -v /mnt/larder/data:/data busybox sh -c \
             'grep -q \" /data fuse.larder \" /proc/mounts && echo mounted >> /data/log || echo bare >> /data/log
              trap exit TERM; while :; do sleep 0.1; done'",
    );
    machine.wait_for("grep mounted /mnt/larder/data/log");
    // A volume that cannot be mounted.
    machine.sh("systemctl stop podman-restart.service; podman stop -t 0 user; systemctl stop larder@data
                if mounted data; then exit 1; fi; mkdir -p /etc/larder; echo 'OPTIONS=-o nonsense' > /etc/larder/data.env");
    machine.fails("systemctl start podman-restart.service");
    machine.sh("[ -z \"$(podman ps -q)\" ]; [ -z \"$(ls -A /mnt/larder/data)\" ]; rm /etc/larder/data.env; systemctl reset-failed
                systemctl start podman-restart.service; until_true '[ $(grep -c mounted /mnt/larder/data/log) = 2 ]'
                if grep bare /mnt/larder/data/log; then exit 1; fi; podman rm -f -t 0 user");
}

/// Where nobody has told the unit of the volume.
#[test]
fn podman_starts_no_containers_at_boot_that_would_write_to_the_bare_directory_of_a_volume() {
    let machine = podman();
    let user = "busybox sh -c 'mkdir /data/$(cat /proc/sys/kernel/random/uuid); trap exit TERM; while :; do sleep 0.1; done'";
    machine.sh(&format!(
        "larder create data --size 100M; systemctl enable -q --now larder@data
         podman volume create -o type=none -o o=bind -o device=/mnt/larder/data bound
         podman run -d --restart always --name user -v /mnt/larder/data:/data {user}
         podman run -d --restart always --name volume -v bound:/data {user}
         podman run -d --restart on-failure --name other -v /mnt/larder/data:/data {user}
         until_true '[ $(ls /mnt/larder/data | wc -l) = 3 ]'; podman stop -t 0 -a; systemctl stop larder@data
         if mounted data; then exit 1; fi; mkdir -p /etc/larder; echo 'OPTIONS=-o nonsense' > /etc/larder/data.env"
    ));
    let says = |pattern: &str| {
        machine.wait_for(&format!("journalctl -u podman-restart.service -o cat | grep '{pattern}'"));
    };
    machine.fails("systemctl start podman-restart.service");
    says("volume .data. is not mounted on /mnt/larder/data, .*directory: \\(user, volume\\|volume, user\\);");
    machine.sh("[ -z \"$(podman ps -q)\" ]; [ -z \"$(ls -A /mnt/larder/data)\" ]; podman rm -f user volume");
    // One that the unit does not start.
    machine.sh("systemctl reset-failed; systemctl start podman-restart.service; systemctl stop podman-restart.service
                [ -z \"$(ls -A /mnt/larder/data)\" ]");
    // Where Podman speaks for another host, nobody knows.
    machine.sh("sed -i 's|^.engine.$|&\\nremote = true|' /etc/containers/containers.conf");
    let said = machine.sh("larder guard podman 2>&1");
    assert!(said.contains("it is not known which containers podman-restart.service starts"), "{said}");
    machine.sh("sed -i '/^remote/d' /etc/containers/containers.conf");
    // Its own storage: to ask it would make one there.
    machine.sh("printf '[storage]\\ndriver = \"vfs\"\\ngraphroot = \"/mnt/larder/data/storage\"\\n' > /etc/containers/storage.conf");
    machine.fails("systemctl start podman-restart.service");
    says("kept there, in /mnt/larder/data/storage");
    machine.sh("[ -z \"$(ls -A /mnt/larder/data)\" ]");
}
