//! Who uses a volume, and how often: what makes it stay mounted, over all that can happen to engines, plugin and host.

use super::client::{Plugin, command, mounts, request};
use crate::support::{Background, Host, wait_until};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

fn users(host: &Host, name: &str) -> Value {
    host.json(&["inspect", name])["mount_ids"].clone()
}

#[test]
fn fact_5_mounts_are_counted_by_volume_and_id() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    plugin.create("db", &json!({}));
    plugin.create("other", &json!({}));
    let dir = plugin.mount("db", "a");
    // As docker cp on a container that runs.
    assert_eq!(plugin.mount("db", "a"), dir);
    plugin.mount("db", "b");
    plugin.mount("other", "a");
    assert_eq!(users(&host, "db"), json!({ "a": 2, "b": 1 }));
    plugin.unmount("db", "a");
    plugin.unmount("db", "unknown");
    plugin.unmount("db", "b");
    plugin.unmount("db", "b");
    assert_eq!(plugin.path("db"), dir.to_str().unwrap());
    plugin.unmount("db", "a");
    assert_eq!(users(&host, "db"), json!({}));
    plugin.await_unmounted("db");
    assert_ne!(plugin.path("other"), "");
    plugin.unmount("other", "a");
}

#[test]
fn fact_5_counts_survive_a_killed_plugin() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    plugin.create("db", &json!({}));
    let dir = plugin.mount("db", "a");
    plugin.mount("db", "a");
    plugin.mount("db", "b");
    fs::write(dir.join("file"), "x").unwrap();
    let plugin = plugin.crash();
    // Containers have noticed nothing.
    assert_eq!(fs::read_to_string(dir.join("file")).unwrap(), "x");
    assert_eq!(users(&host, "db"), json!({ "a": 2, "b": 1 }));
    plugin.unmount("db", "b");
    plugin.unmount("db", "a");
    let plugin = plugin.crash();
    assert_eq!(plugin.path("db"), dir.to_str().unwrap());
    plugin.mount("db", "a");
    assert_eq!(users(&host, "db"), json!({ "a": 2 }));
    plugin.unmount("db", "a");
    plugin.unmount("db", "a");
    plugin.await_unmounted("db");
}

#[test]
fn fact_5_a_crashed_engine_mounts_again_with_the_old_id() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    plugin.create("db", &json!({}));
    let dir = plugin.mount("db", "a");
    plugin.mount("db", "a");
    // The engine crashes, comes back, and starts its container.
    plugin.ok("Plugin.Activate", &json!({}));
    assert_eq!(plugin.mount("db", "a"), dir);
    assert_eq!(users(&host, "db"), json!({ "a": 1 }));
    plugin.mount("db", "a");
    plugin.unmount("db", "a");
    assert_ne!(plugin.path("db"), "");
    plugin.unmount("db", "a");
    plugin.await_unmounted("db");
}

#[test]
fn fact_5_with_live_restore_nothing_but_an_unmount_comes() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    plugin.create("db", &json!({}));
    plugin.mount("db", "a");
    plugin.ok("Plugin.Activate", &json!({}));
    assert_ne!(plugin.path("db"), "");
    plugin.unmount("db", "a");
    plugin.await_unmounted("db");
}

#[test]
fn a_volume_can_be_removed_when_a_crashed_engine_forgot_who_used_it() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    plugin.create("db", &json!({}));
    plugin.mount("db", "a");
    plugin.fails("VolumeDriver.Remove", &json!({ "Name": "db" }));
    plugin.ok("Plugin.Activate", &json!({}));
    plugin.remove("db");
    assert!(mounts(&host).is_empty());
    plugin.create("db", &json!({}));
    assert_eq!(users(&host, "db"), json!({}));
}

#[test]
fn fact_5_after_a_boot_of_the_host_nothing_is_mounted() {
    let host = Host::new();
    let mut plugin = Plugin::start(&host);
    plugin.create("db", &json!({}));
    let dir = plugin.mount("db", "a");
    fs::write(dir.join("file"), "x").unwrap();
    plugin.signal(Signal::SIGTERM);
    plugin.await_end();
    // Power goes, and comes back: no mount, no server, another boot id.
    host.kill_server("db");
    umount2(&dir, MntFlags::MNT_DETACH).unwrap();
    let state = host.root().join("plugin/state.json");
    let mut changed: Value = serde_json::from_slice(&fs::read(&state).unwrap()).unwrap();
    changed["boot"] = json!("00000000-0000-0000-0000-000000000000");
    fs::write(&state, changed.to_string()).unwrap();
    drop(plugin);
    let plugin = Plugin::start(&host);
    assert_eq!((plugin.path("db").as_str(), users(&host, "db")), ("", json!({})));
    // The container starts again.
    let dir = plugin.mount("db", "a");
    assert_eq!(fs::read_to_string(dir.join("file")).unwrap(), "x");
    assert_eq!(users(&host, "db"), json!({ "a": 1 }));
    plugin.unmount("db", "a");
}

#[test]
fn fact_6_podman_activates_with_every_command_and_has_one_id_for_all() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    plugin.create("db", &json!({}));
    for _ in 0..3 {
        plugin.ok("Plugin.Activate", &json!({}));
        plugin.mount("db", "podman");
        plugin.ok("Plugin.Activate", &json!({}));
        plugin.unmount("db", "podman");
        plugin.await_unmounted("db");
    }
}

#[test]
fn a_mount_that_nobody_waits_for_any_more_is_taken_back() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    let passphrase = host.dir("keys").join("passphrase");
    fs::write(&passphrase, "correct horse").unwrap();
    plugin.create("db", &json!({ "encrypt": "", "passphrase-file": passphrase }));
    // Deriving the key takes longer than this client waits.
    let mut stream = UnixStream::connect(&plugin.socket).unwrap();
    stream.write_all(&request("VolumeDriver.Mount", br#"{"Name":"db","ID":"a"}"#)).unwrap();
    std::thread::sleep(Duration::from_millis(30));
    drop(stream);
    wait_until("the mount is taken back", || {
        plugin.log().contains("taking it back") && plugin.path("db").is_empty()
    });
    assert_eq!(mounts(&host), Vec::<std::path::PathBuf>::new());
    // The next one is as if nothing had been.
    plugin.mount("db", "a");
    assert_eq!(users(&host, "db"), json!({ "a": 1 }));
    plugin.unmount("db", "a");
}

#[test]
fn a_container_that_nobody_counts_keeps_the_mount_that_others_will_share() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    plugin.create("db", &json!({}));
    let dir = plugin.mount("db", "a");
    // As a container: what happens to the host's mounts happens to its copies of them, but not to its volume.
    let script = format!("mount --bind '{}' /mnt; mount --make-private /mnt; exec sleep 1000", dir.display());
    let holder = Background::start(Command::new("unshare").args([
        "-m",
        "--propagation",
        "slave",
        "bash",
        "-euc",
        &script,
    ]));
    let pid = holder.0.id();
    wait_until("it has a namespace of its own", || {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n")
    });
    plugin.unmount("db", "a");
    assert_eq!((users(&host, "db"), plugin.path("db")), (json!({}), dir.display().to_string()));
    let why = plugin.fails("VolumeDriver.Remove", &json!({ "Name": "db" }));
    assert!(why.contains(&pid.to_string()), "{why}");
    // Another container gets the same mount at once.
    assert_eq!(plugin.mount("db", "b"), dir);
    fs::write(dir.join("file"), "x").unwrap();
    plugin.unmount("db", "b");
    let plugin = plugin.crash();
    assert_eq!(plugin.path("db"), dir.display().to_string());
    drop(holder);
    wait_until("it is unmounted when the container is gone", || plugin.path("db").is_empty());
    plugin.remove("db");
}

#[test]
fn a_program_on_the_host_keeps_the_mount_until_it_goes() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    plugin.create("db", &json!({}));
    let dir = plugin.mount("db", "a");
    let shell = Background::start(Command::new("sleep").arg("1000").current_dir(&dir));
    plugin.unmount("db", "a");
    assert_ne!(plugin.path("db"), "");
    drop(shell);
    wait_until("it is unmounted when the program is gone", || plugin.path("db").is_empty());
}

#[test]
fn what_is_mounted_and_counted_by_nobody_is_unmounted_at_the_start() {
    let host = Host::new();
    let mut plugin = Plugin::start(&host);
    plugin.create("db", &json!({}));
    plugin.mount("db", "a");
    plugin.signal(Signal::SIGKILL);
    plugin.await_end();
    // Killed between mounting and counting.
    fs::remove_file(host.root().join("plugin/mounts/db.json")).unwrap();
    let next = Plugin::launch(&host, &mut command(&host));
    next.await_ready();
    next.await_unmounted("db");
    assert!(mounts(&host).is_empty());
    drop(next);
    drop(plugin);
}
