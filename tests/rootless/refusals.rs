//! What an ordinary user cannot do is refused with what to do about it, and leaves nothing behind; or it is done a little worse.

use super::user::User;
use crate::support::{Host, larder};
use std::time::Duration;

/// A user with a volume and a directory for it.
fn user() -> User {
    let user = User::new();
    user.sh("larder create db; mkdir v");
    user
}

/// Nothing is mounted, and nobody serves.
#[track_caller]
fn nothing_is_left(user: &User) {
    user.await_no_server();
    assert_eq!(user.sh("findmnt -rno TARGET -t fuse.larder || true"), "");
    user.sh("larder mount db v; touch v/f; larder umount db; larder check db");
}

#[test]
fn devices_set_user_id_and_shifted_users_are_for_root() {
    let user = user();
    for option in ["dev", "suid", "idmap=on"] {
        let refused = user.fails(7, &format!("larder mount db v -o {option}"));
        assert!(refused.contains(option) && refused.contains("needs root"), "{refused}");
    }
    // Left as it is by default, and asked for by nobody.
    user.sh("larder mount db v -o nodev,nosuid; larder umount db; larder mount db v -o suid,nosuid; larder umount db");
    nothing_is_left(&user);
}

#[test]
fn a_user_mounts_on_what_is_his() {
    let user = user();
    let dir = user.public().display();
    user.as_root(&format!("cd {dir}; mkdir of-root sticky; chmod 755 of-root; chmod 1777 sticky"));
    for name in ["of-root", "sticky"] {
        let refused = user.fails(6, &format!("larder mount db {dir}/{name}"));
        assert!(refused.contains("a directory of your own"), "{refused}");
    }
    let refused = user.fails(6, "larder mount db /proc/self");
    assert!(refused.contains("/proc"), "{refused}");
    nothing_is_left(&user);
}

#[test]
fn without_fusermount3_it_says_which_package_has_it() {
    let user = user();
    let disk = user.disk().display().to_string();
    user.as_root(&format!(
        "mkdir {disk}/upper {disk}/work; mknod {disk}/upper/fusermount3 c 0 0; mknod {disk}/upper/fusermount c 0 0
         mount -t overlay overlay -o lowerdir=/usr/bin,upperdir={disk}/upper,workdir={disk}/work /usr/bin"
    ));
    let refused = user.fails(7, "larder mount db v");
    assert!(refused.contains("install the package fuse3"), "{refused}");
    user.await_no_server();
    user.as_root("umount -l /usr/bin");
    // Nor can what is mounted be unmounted.
    user.sh("larder mount db v");
    user.as_root(&format!(
        "mount -t overlay overlay -o lowerdir=/usr/bin,upperdir={disk}/upper,workdir={disk}/work /usr/bin"
    ));
    let refused = user.fails(7, "larder umount db");
    assert!(refused.contains("fusermount3"), "{refused}");
    user.as_root("umount -l /usr/bin");
    user.sh("larder umount db");
    nothing_is_left(&user);
}

#[test]
fn what_keeps_fusermount3_from_mounting_is_explained() {
    let user = user();
    // Not set-user-ID, or not allowed to be.
    let refused = user.fails(7, "setpriv --no-new-privs larder mount db v");
    assert!(refused.contains("Operation not permitted") && refused.contains("no_new_privs"), "{refused}");
    user.await_no_server();
    let disk = user.disk().display().to_string();
    user.as_root(&format!(
        "cp /usr/bin/fusermount3 {disk}/plain; chmod 755 {disk}/plain; mount --bind {disk}/plain /usr/bin/fusermount3"
    ));
    let refused = user.fails(7, "larder mount db v");
    assert!(refused.contains("set-user-ID"), "{refused}");
    user.as_root("umount /usr/bin/fusermount3");
    // The device is root's, as without udev.
    user.as_root("chmod 600 /dev/fuse");
    let refused = user.fails(7, "larder mount db v");
    assert!(refused.contains("/dev/fuse") && refused.contains("mode 666"), "{refused}");
    user.as_root("chmod 666 /dev/fuse");
    user.configure_fuse("mount_max = 0");
    let refused = user.fails(1, "larder mount db v");
    assert!(refused.contains("mount_max"), "{refused}");
    user.configure_fuse("");
    nothing_is_left(&user);
}

#[test]
fn a_mount_of_somebody_else_is_not_his_to_unmount() {
    let user = user();
    let host = Host::plain();
    host.ok(&["create", "theirs"]);
    let (root, dir) = (host.root().display(), user.public().join("theirs").display().to_string());
    user.as_root(&format!("mkdir {dir}; {} --root {root} mount theirs {dir}", larder()));
    let refused = user.fails(7, &format!("larder umount {dir}"));
    user.as_root(&format!("umount {dir}"));
    host.end_servers(Duration::from_secs(5));
    assert!(refused.contains("needs root, or the user who has mounted it"), "{refused}");
    nothing_is_left(&user);
}

/// Threads that come before everybody else's, memory that stays, and as many files as one likes: a server goes without.
#[test]
fn what_a_user_may_not_have_a_server_goes_without() {
    let user = user();
    user.sh("ulimit -l 0; ulimit -n 300; larder mount db v -o sched=fifo; head -c 20M /dev/urandom > v/f; sync v/f");
    user.replace_server("db");
    user.sh("echo more >> v/f; larder umount db; larder check db --read-data");
    // Where it could not keep its promises, it says so.
    let refused = user.fails(1, "ulimit -f 1000; larder mount db v");
    assert!(refused.contains("ulimit -f"), "{refused}");
    nothing_is_left(&user);
}
