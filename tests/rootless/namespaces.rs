//! An ordinary user who is root in a user namespace of his own, as rootless engines make them: the kernel lets him mount there himself,
//! for all users of that namespace.

use super::plugin::Plugin;
use super::user::{SUB_UID, UID, User};
use crate::support::{is_running, wait_until};
use nix::sys::signal::Signal;
use serde_json::json;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Output, Stdio};

/// A user namespace, with a namespace of mounts, that lives as long as this: what `podman unshare` enters.
struct Space(Child);

impl Space {
    fn new(user: &User) -> Self {
        let script = "exec unshare --user --map-root-user --map-auto --mount bash -c 'echo $$; exec cat'";
        let mut child = user.command(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(is_running(line.trim().parse().expect("a namespace is made")));
        fs::write(user.public().join("pid"), &line).unwrap();
        let enter = "#!/bin/sh\nexec nsenter --preserve-credentials --user --mount --target $(cat ${0%/*}/../pid) -- \"$@\"\n";
        let path = user.public().join("bin/inside");
        fs::write(&path, enter).unwrap();
        user.as_root(&format!("chmod 755 {}", path.display()));
        Self(child)
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Runs a script inside as one of the users there, as a container does: in a namespace of mounts of its own, with `dir` on `/mnt`, where
/// it begins.
fn in_container(user: &User, dir: &str, uid: u32, script: &str) -> Output {
    user.run(&format!(
        "inside unshare --mount bash -euc 'mount --bind {dir} /mnt; cd /mnt
         exec setpriv --reuid={uid} --regid={uid} --clear-groups bash -euc \"{script}\"'"
    ))
}

/// The same; it must succeed.
#[track_caller]
fn inside(user: &User, dir: &str, uid: u32, script: &str) {
    let output = in_container(user, dir, uid, script);
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

#[track_caller]
fn is_refused(user: &User, dir: &str, uid: u32, script: &str) {
    let output = in_container(user, dir, uid, script);
    assert!(String::from_utf8_lossy(&output.stderr).contains("Permission denied"), "{output:?}");
}

#[test]
fn in_a_user_namespace_the_plugin_mounts_for_all_of_its_users() {
    let user = User::new();
    let _space = Space::new(&user);
    // The root is the user's, although he is root here.
    let plugin = Plugin::start(&user, "inside");
    plugin.create("db", &json!({ "size": "1G" }));
    let dir = plugin.mount("db");
    assert_eq!(dir, user.home().join(".local/share/larder/mnt/db"));
    let dir = dir.display().to_string();
    // Owners are those that the namespace has: they are stored, and none of the host's has to be there.
    inside(&user, &dir, 0, "echo data > f; mkdir theirs; chown 999:999 theirs; stat -c %u . | grep -x 0");
    inside(&user, &dir, 999, "cat f; echo more > theirs/g; stat -c %u:%g theirs/g | grep -x 999:999");
    is_refused(&user, &dir, 998, "touch theirs/x");
    // Nothing is mounted outside.
    assert_eq!(
        user.sh(&format!("findmnt -rno TARGET -t fuse.larder || true; ls {dir} 2>/dev/null || true")),
        ""
    );
    // An engine that is not there would bind the bare directory.
    let outside = "curl -s --unix-socket $XDG_RUNTIME_DIR/larder/larder.sock -d '{\"Name\":\"db\",\"ID\":\"two\"}' http://x/VolumeDriver.Mount";
    let refused = user.sh(outside);
    assert!(refused.contains("does not see what the driver mounts"), "{refused}");
    // From the host, the volume is looked at and kept all the same.
    user.sh("larder ls; larder snapshot create db@one; larder check db");
    inside(&user, &dir, 0, "cat .snapshots/one/f");
    // Its server dies, and is upgraded; the plugin goes and comes.
    user.replace_server("db");
    inside(&user, &dir, 999, "cat theirs/g");
    user.sh("inside larder upgrade db");
    inside(&user, &dir, 999, "cat theirs/g; sync theirs/g");
    plugin.end(Signal::SIGKILL);
    let plugin = Plugin::start(&user, "inside");
    user.kill_server("db");
    wait_until("it is mounted again", || in_container(&user, &dir, 999, "cat theirs/g").status.success());
    // In memory, too.
    plugin.create("memory", &json!({ "type": "tmpfs", "size": "1M" }));
    let memory = plugin.mount("memory").display().to_string();
    inside(&user, &memory, 999, "echo data > f");
    plugin.unmount("memory");
    plugin.unmount("db");
    user.sh("larder check db --read-data");
    // Mounted by hand, it has the same numbers inside.
    user.sh("mkdir v; inside larder mount db ~/v; inside stat -c %u ~/v/theirs | grep -x 999; inside larder umount db");
    plugin.remove("db");
}

/// As fusermount3 mounts it, outside: with the numbers of the host.
#[test]
fn a_volume_that_is_mounted_outside_is_used_in_a_user_namespace() {
    let user = User::new();
    user.configure_fuse("user_allow_other");
    let plugin = Plugin::start(&user, "");
    plugin.create("db", &json!({}));
    let dir = plugin.mount("db").display().to_string();
    // Made after it was mounted, as a container is; one that was there before has to follow the mounts of the host.
    let space = Space::new(&user);
    inside(&user, &dir, 0, "echo data > f; mkdir theirs; chown 999:999 theirs; chmod 711 .");
    inside(&user, &dir, 999, "cat f; echo more > theirs/g; stat -c %u:%g theirs/g | grep -x 999:999");
    is_refused(&user, &dir, 998, "touch theirs/x");
    // `unshare --map-auto` gives 1 to the first of the numbers that are the user's to give.
    let other = SUB_UID + 998;
    assert_eq!(user.sh(&format!("stat -c %u {dir} {dir}/f {dir}/theirs")), format!("{UID}\n{UID}\n{other}"));
    user.replace_server("db");
    inside(&user, &dir, 999, "cat theirs/g");
    drop(space);
    plugin.unmount("db");
}

/// Without leave to let others in, only he himself gets there: as root inside.
#[test]
fn without_leave_only_the_user_himself_gets_to_what_is_mounted_outside() {
    let user = User::new();
    user.sh("larder create db; mkdir v; larder mount db v; echo data > v/f");
    let space = Space::new(&user);
    let dir = user.home().join("v").display().to_string();
    inside(&user, &dir, 0, "cat f; chown 999:999 f; stat -c %u f | grep -x 999");
    is_refused(&user, &dir, 999, "cat f");
    drop(space);
    user.sh("larder umount db; larder check db");
}
