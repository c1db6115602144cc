//! Podman of an ordinary user, with the user's own volume driver, under the user's own systemd.

use super::images;
use super::machine::Machine;

/// A machine with such a user and an engine that knows the driver. `as-user COMMAND...` runs a command as the user.
fn machine() -> Machine {
    let machine = Machine::new();
    machine.sh(r#"chmod 666 /dev/fuse
        useradd --create-home --shell /bin/bash --uid 4321 --user-group user
        grep -q '^user:' /etc/subuid || echo user:200000:65536 | tee -a /etc/subuid >> /etc/subgid
        # Images lie on the disk itself, for overlays cannot be stacked at will.
        mkdir -p /var/lib/containers/user /home/user/.local/share /home/user/.config/containers
        ln -s /var/lib/containers/user /home/user/.local/share/containers
        cat > /home/user/.config/containers/containers.conf <<'END'
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[containers]
netns = "none"
log_driver = "k8s-file"
END
        mkdir -p /home/user/.config/containers/containers.conf.d
        printf '[engine.volume_plugins]\nlarder = "/run/user/4321/larder/larder.sock"\n' > /home/user/.config/containers/containers.conf.d/larder.conf
        printf '[storage]\ndriver = "vfs"\n' > /home/user/.config/containers/storage.conf
        chown -R user: /home/user /var/lib/containers/user
        cat > /usr/bin/as-user <<'END'
#!/bin/sh
cd /home/user
exec setpriv --reuid=4321 --regid=4321 --init-groups env -i HOME=/home/user USER=user XDG_RUNTIME_DIR=/run/user/4321 \
    DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/4321/bus PATH=/usr/bin:/bin:/usr/sbin:/sbin LANG=C.UTF-8 "$@"
END
        chmod 755 /usr/bin/as-user"#);
    log_in(&machine);
    images::busybox(&machine, "as-user podman");
    machine
}

/// As logind does it, which does not run here: a directory for sockets, and the user's systemd.
fn log_in(machine: &Machine) {
    machine.sh("chmod 666 /dev/fuse; install -d -m 700 -o user -g user /run/user/4321
        systemd-run --quiet --unit=user-manager --uid=4321 --gid=4321 -p Delegate=yes -p KillMode=mixed -p TimeoutStopSec=20 \
            -E HOME=/home/user -E XDG_RUNTIME_DIR=/run/user/4321 /lib/systemd/systemd --user
        until_true 'as-user systemctl --user is-system-running | grep -E \"running|degraded\"'");
}

#[test]
fn rootless_podman_uses_a_driver_in_its_own_namespaces() {
    let machine = machine();
    machine.sh("as-user systemctl --user enable -q --now larder-plugin
                as-user systemctl --user is-active larder-plugin
                as-user podman volume create --driver larder -o size=1G db
                as-user podman run --rm -v db:/data busybox sh -c 'echo data > /data/f; chown www /data/f'");
    assert_eq!(machine.sh("as-user podman run --rm -v db:/data busybox cat /data/f"), "data");
    let df = machine.sh("as-user podman run --rm -v db:/data busybox df -k /data | awk 'END { print $2 }'");
    assert_eq!(df, "1048576");
    // Another user of the container than its root, who is the user of the host.
    machine.sh("as-user podman run --rm --user www -v db:/data busybox sh -c 'echo more >> /data/f; stat -c %U /data/f | grep -x www'");
    // Copy-up, and one who only reads.
    machine.sh("as-user podman volume create --driver larder copy
                as-user podman run --rm -v copy:/usr/share/nginx/html nginx true");
    assert_eq!(
        machine.sh("as-user podman run --rm --user www -v copy:/v:ro busybox cat /v/index.html"),
        "hello"
    );
    // A container goes on while its server, and the driver, are replaced.
    machine.sh(r#"as-user podman run -d --name db -v db:/data busybox sh -c 'while true; do date >> /data/log; sleep 0.1; done'
                until_true 'as-user podman exec db grep -q . /data/log'
                server() { as-user larder inspect db | sed -n 's/.*"pid": \([0-9]*\).*/\1/p'; }
                old=$(server); kill -9 $old; until_true '[ $(server) != $old ]'; as-user podman exec db touch /data/after-server
                main() { as-user systemctl --user show -p MainPID --value larder-plugin; }
                old=$(main); as-user systemctl --user restart larder-plugin; [ $(main) != $old ]
                old=$(main); kill -9 $old; until_true '[ $(main) != $old ] && [ $(main) != 0 ]'
                until_true 'as-user systemctl --user is-active larder-plugin'
                as-user podman exec db touch /data/after-driver; as-user podman volume inspect db | grep -q larder
                as-user larder snapshot create db@one; as-user podman exec db ls /data/.snapshots/one/after-driver"#);
    assert!(machine.fails("as-user podman volume rm db").contains("being used"));
    // Podman makes new namespaces, in which nothing of the driver's is to be seen: no container gets the bare directory.
    machine.sh("as-user podman stop -t 0 db; as-user podman system migrate");
    let refused = machine.fails("as-user podman run --rm -v db:/data busybox true");
    assert!(refused.contains("does not see what the driver mounts"), "{refused}");
    machine.sh("as-user systemctl --user restart larder-plugin; as-user podman start db; as-user podman exec db ls /data/after-driver");
    // And after a restart of the machine.
    machine.sh("as-user podman exec db sync");
    machine.reboot();
    log_in(&machine);
    machine.sh("until_true 'as-user systemctl --user is-active larder-plugin'
                as-user podman start db; as-user podman exec db ls /data/after-driver");
    // Nothing of it is root's, or to be seen outside.
    machine.sh("if mounted db; then exit 1; fi; [ -z \"$(find /home/user/.local/share/larder -uid 0 2>/dev/null)\" ]");
    machine.sh("as-user podman rm -f -t 0 db; until_true '! as-user podman unshare findmnt -rnt fuse.larder'
                as-user podman volume rm db copy; if as-user larder inspect db; then exit 1; fi");
}

#[test]
fn rootless_podman_uses_a_driver_on_the_host_where_others_are_allowed() {
    let machine = machine();
    machine.sh("echo user_allow_other >> /etc/fuse.conf
                mkdir -p /home/user/.config/systemd/user/larder-plugin.service.d
                printf '[Service]\\nExecStart=\\nExecStart=/usr/bin/larder plugin\\n' > /home/user/.config/systemd/user/larder-plugin.service.d/host.conf
                chown -R user: /home/user/.config; as-user systemctl --user daemon-reload
                as-user podman unshare true; as-user systemctl --user start larder-plugin
                as-user podman volume create --driver larder db
                as-user podman run -d --name db -v db:/data busybox sleep 1000
                as-user podman exec db sh -c 'echo data > /data/f; touch /data/g; chown www /data/g'
                as-user podman exec --user www db sh -c 'cat /data/f; echo more > /data/g'; mounted db");
    // With the numbers of the host.
    let dir = "/home/user/.local/share/larder/mnt/db";
    let owners = machine.sh(&format!("as-user stat -c %u {dir}/f {dir}/g"));
    let first: u32 = machine.sh("sed -n 's/^user:\\([0-9]*\\):.*/\\1/p' /etc/subuid").parse().unwrap();
    assert_eq!(owners, format!("4321\n{}", first + 999));
    machine.sh("as-user podman rm -f -t 0 db; until_true '! mounted db'; as-user podman volume rm db");
}

/// The user's systemd ends, and whatever is left of its units is killed.
#[test]
fn what_was_written_is_kept_when_the_user_logs_out() {
    let machine = machine();
    machine.sh(r#"as-user systemctl --user enable -q --now larder-plugin; as-user larder create mine
                as-user systemctl --user enable -q --now larder@mine; as-user sh -c 'echo mine > larder/mine/f'
                as-user podman volume create --driver larder db
                as-user podman run -d --name db -v db:/data busybox sh -c 'exec 9> /data/f; echo written >&9; exec sleep 1000'
                until_true 'as-user podman exec db grep written /data/f'
                main() { as-user systemctl --user show -p MainPID --value larder-plugin; }; ended() { journalctl -q -o cat "$1" | grep -c 'the server ends'; }
                # The death of the driver is none of its volumes'.
                old=$(main); kill -9 $old; until_true '[ $(main) != $old ] && [ $(main) != 0 ]'; [ $(ended LARDER_VOLUME=db) = 0 ]
                systemctl stop user-manager; until_true '[ $(ended LARDER_VOLUME=db) = 1 ]'; [ $(ended LARDER_VOLUME=mine) = 1 ]
                if pgrep 'larder: '; then exit 1; fi; if mounted mine; then exit 1; fi
                # As logind does it, when nobody of the user's is there any more.
                rm -rf /run/user/4321; systemctl reset-failed user-manager 2>/dev/null || true"#);
    log_in(&machine);
    machine.sh(r#"until_true 'as-user systemctl --user is-active larder-plugin'; until_true 'as-user systemctl --user is-active larder@mine'
                as-user grep mine larder/mine/f
                as-user podman run --rm -v db:/data busybox grep written /data/f; as-user podman rm -f -t 0 db"#);
}

#[test]
fn a_users_unit_mounts_his_volume_and_keeps_it_over_restarts() {
    let machine = machine();
    machine.sh(r#"as-user systemd-analyze --user verify --man=no larder@v.service larder-plugin.service
                as-user larder create v; as-user systemctl --user start larder@v; as-user sh -c 'echo data > larder/v/f'
                main() { as-user systemctl --user show -p MainPID --value larder@v; }
                server() { as-user larder inspect v | sed -n 's/.*"pid": \([0-9]*\).*/\1/p'; }
                as-user sh -c 'exec 9> larder/v/g; touch /run/user/4321/opened; until [ -e /run/user/4321/restarted ]; do sleep 0.1; done; echo open >&9' &
                until_true '[ -e /run/user/4321/opened ]'
                old=$(main); as-user systemctl --user restart larder@v; [ $(main) != $old ]
                old=$(server); as-user systemctl --user reload larder@v; [ $(server) != $old ]
                as-user touch /run/user/4321/restarted; wait; as-user grep open larder/v/g
                as-user systemctl --user stop larder@v; if mounted v; then exit 1; fi; as-user larder check v"#);
    assert_eq!(machine.sh("as-user systemctl --user is-failed larder@v || true"), "inactive");
    // What the administrator demands of volumes, holds for users who may read it; the package has the directory closed.
    machine.sh("echo 'require-encryption = true' > /etc/larder/larder.toml; as-user larder create w; chmod 755 /etc/larder");
    let refused = machine.fails("as-user larder create x");
    assert!(refused.contains("encrypt"), "{refused}");
}
