//! Servers of an ordinary user that die, and are replaced.

use super::user::User;
use std::process::Stdio;

#[test]
fn another_server_takes_over_what_a_user_has_mounted() {
    let user = User::new();
    user.sh("larder create db; mkdir v; larder mount db v; echo before > v/f");
    // A program that goes on all the while, and checks what it has written.
    let script = "exec 9>> v/log; for i in $(seq 400); do echo $i >&9; sync v/log; [ $(tail -n 1 v/log) = $i ]; sleep 0.005; done";
    let mut program = user.command(script).stdin(Stdio::null()).spawn().unwrap();
    for _ in 0..5 {
        user.replace_server("db");
        user.sh("grep before v/f");
    }
    assert!(program.wait().unwrap().success());
    assert_eq!(user.sh("wc -l < v/log"), "400");
    let before = user.server("db");
    let said = user.sh("larder upgrade db");
    assert!(said.contains("db: version"), "{said}");
    assert_ne!(user.server("db"), before);
    assert!(user.json("larder inspect db")["server"]["takeovers"].as_u64().unwrap() >= 6);
    user.sh("grep before v/f; larder umount db; larder check db --read-data");
    user.await_no_server();
}

#[test]
fn a_dead_mount_of_a_user_is_cleared_away_by_the_next_one() {
    let user = User::new();
    user.sh("larder create db; mkdir v; larder mount db v; echo data > v/f; sync v/f");
    user.kill_server("db");
    let dead = user.run("ls v");
    assert!(String::from_utf8_lossy(&dead.stderr).contains("not connected"), "{dead:?}");
    user.sh("larder ls; larder mount db v; grep data v/f; larder umount v");
    user.sh("larder mount db v");
    user.kill_server("db");
    user.sh("larder umount v; larder check db");
    assert_eq!(user.sh("findmnt -rno TARGET -t fuse.larder || true"), "");
}

#[test]
fn a_server_that_is_told_to_end_unmounts_and_has_everything() {
    let user = User::new();
    user.sh("larder create db; mkdir v; larder mount db v; echo first > v/f");
    let server = user.server("db");
    user.sh(&format!("exec 9> v/g; echo open >&9; kill {server}; for _ in $(seq 600); do [ -e /proc/{server} ] || break; sleep 0.1; done"));
    user.await_no_server();
    assert_eq!(user.sh("findmnt -rno TARGET -t fuse.larder || true"), "");
    user.sh(
        "larder mount db v; grep first v/f; grep open v/g; larder umount db; larder check db --read-data",
    );
}

/// systemd starts it so; nobody but the kernel knows of the mount when its process has ended.
#[test]
fn in_the_foreground_it_mounts_until_it_is_told_to_end() {
    let user = User::new();
    user.sh("larder create db; mkdir v");
    let mut foreground =
        user.command("exec larder mount --foreground db v").stdin(Stdio::null()).spawn().unwrap();
    user.sh("for _ in $(seq 600); do mountpoint -q v && break; sleep 0.1; done; echo data > v/f");
    user.replace_server("db");
    user.sh("grep data v/f; larder umount v");
    assert!(foreground.wait().unwrap().success());
    user.await_no_server();
}
