//! The plugin's own life, that of servers, and what is left of them.

use super::client::{Plugin, command, exchange, mounts, parse, request, socket};
use crate::support::{Host, as_user, is_running, run, shell, wait_until};
use nix::sys::signal::Signal;
use serde_json::json;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::Command;

#[test]
fn fact_13_no_socket_is_left_behind_and_a_stale_one_is_replaced() {
    let host = Host::new();
    // What a killed plugin leaves.
    drop(UnixListener::bind(socket(&host)).unwrap());
    let mut plugin = Plugin::start(&host);
    let meta = fs::symlink_metadata(socket(&host)).unwrap();
    assert_eq!((meta.mode() & 0o777, meta.uid(), meta.gid()), (0o600, 0, 0));
    plugin.create("db", &json!({}));
    plugin.signal(Signal::SIGTERM);
    assert!(plugin.await_end().success());
    assert!(!socket(&host).exists());
    // What is no socket is not removed.
    fs::write(socket(&host), "precious").unwrap();
    let output = run(&mut command(&host));
    assert!(!output.status.success());
    assert_eq!(fs::read_to_string(socket(&host)).unwrap(), "precious");
    fs::remove_file(socket(&host)).unwrap();
}

#[test]
fn two_plugins_do_not_take_each_others_place() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    let other = Host::new();
    let output = run(Command::new(crate::support::larder())
        .arg("--root")
        .arg(other.root())
        .args(["plugin", "--socket"])
        .arg(socket(&host)));
    assert_eq!(output.status.code(), Some(5));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("another plugin listens"), "{said}");
    assert_eq!(plugin.ok("VolumeDriver.List", &json!({}))["Volumes"], json!([]));
}

#[test]
fn fact_14_it_ends_when_told_to_and_volumes_go_on() {
    let host = Host::new();
    let mut plugin = Plugin::start(&host);
    plugin.create("db", &json!({}));
    let dir = plugin.mount("db", "a");
    // Connections that are idle, or have half a request, do not hold it up.
    let _idle = std::os::unix::net::UnixStream::connect(socket(&host)).unwrap();
    let mut half = std::os::unix::net::UnixStream::connect(socket(&host)).unwrap();
    std::io::Write::write_all(&mut half, b"POST /VolumeDriver.List HTTP/1.1\r\nContent-Length: 10\r\n\r\n{")
        .unwrap();
    plugin.signal(Signal::SIGTERM);
    assert!(plugin.await_end().success());
    assert!(!socket(&host).exists());
    fs::write(dir.join("file"), "x").unwrap();
    let next = Plugin::start(&host);
    assert_eq!(next.path("db"), dir.to_str().unwrap());
    next.unmount("db", "a");
    next.await_unmounted("db");
    wait_until("the server ends", || host.servers().is_empty());
    drop(next);
    drop(plugin);
}

#[test]
fn fact_14_what_died_is_mounted_again_at_the_start_while_requests_wait() {
    let host = Host::new();
    let mut plugin = Plugin::start(&host);
    plugin.create("db", &json!({}));
    plugin.create("copy", &json!({ "from": "db" }));
    plugin.create("other", &json!({}));
    let dirs: Vec<_> = ["db", "copy", "other"].iter().map(|name| plugin.mount(name, "a")).collect();
    for dir in &dirs {
        fs::write(dir.join("file"), "x").unwrap();
    }
    plugin.signal(Signal::SIGKILL);
    plugin.await_end();
    host.kill_server("db");
    host.kill_server("other");
    assert!(fs::write(dirs[0].join("more"), "x").is_err());
    let next = Plugin::launch(&host, &mut command(&host));
    wait_until("it listens", || std::os::unix::net::UnixStream::connect(socket(&host)).is_ok());
    // The first answers there are: all is there.
    for (name, dir) in ["db", "copy", "other"].iter().zip(&dirs) {
        assert_eq!(next.get(name)["Mountpoint"], dir.to_str().unwrap());
        assert_eq!(fs::read_to_string(dir.join("file")).unwrap(), "x");
        assert_eq!(next.get(name)["Status"]["health"], "ok");
    }
    assert_eq!(mounts(&host).len(), 3);
    drop(next);
    drop(plugin);
}

#[test]
fn fact_15_a_server_that_dies_is_started_again() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    let key = host.dir("keys").join("key");
    fs::write(&key, [7; 64]).unwrap();
    plugin.create("db", &json!({ "encrypt": "", "key-file": key, "noatime": "" }));
    let dir = plugin.mount("db", "a");
    fs::write(dir.join("file"), "x").unwrap();
    for _ in 0..2 {
        let (before, holder) = (host.server("db"), host.holder("db"));
        host.kill_server("db");
        // (What has been read before can be read of a dead mount too.)
        wait_until("it is there again", || {
            let server = &host.json(&["inspect", "db"])["server"]["pid"];
            server.as_i64().is_some_and(|pid| pid as i32 != before)
                && fs::write(dir.join("file"), "x").is_ok()
        });
        // Dead processes are taken note of.
        assert!(!fs::exists(format!("/proc/{holder}")).unwrap());
    }
    assert_eq!(mounts(&host).len(), 1);
    let options = plugin.get("db")["Status"]["mounts"][0]["options"].clone();
    assert!(options.as_str().unwrap().contains("noatime"), "{options}");
    plugin.unmount("db", "a");
    plugin.await_unmounted("db");
}

#[test]
fn a_mount_does_not_wait_for_the_supervisor() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    plugin.create("db", &json!({}));
    let dir = plugin.mount("db", "a");
    host.kill_server("db");
    assert_eq!(plugin.mount("db", "b"), dir);
    fs::write(dir.join("file"), "x").unwrap();
    // Unmounting what is dead is no error either.
    host.kill_server("db");
    plugin.unmount("db", "a");
    plugin.unmount("db", "b");
    wait_until("it is unmounted", || mounts(&host).is_empty());
    plugin.remove("db");
}

#[test]
fn what_cannot_be_mounted_again_is_tried_until_it_can() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    let key = host.dir("keys").join("key");
    fs::write(&key, [7; 64]).unwrap();
    plugin.create("db", &json!({ "encrypt": "", "key-file": key }));
    let dir = plugin.mount("db", "a");
    fs::write(dir.join("file"), "x").unwrap();
    fs::rename(&key, key.with_extension("away")).unwrap();
    host.kill_server("db");
    wait_until("it has been tried", || plugin.log().contains("cannot be mounted again"));
    let status = plugin.get("db")["Status"].clone();
    assert_eq!((&status["state"], &status["health"]), (&json!("down"), &json!("failed")), "{status}");
    fs::rename(key.with_extension("away"), &key).unwrap();
    wait_until("it is there again", || fs::read_to_string(dir.join("file")).is_ok());
    plugin.unmount("db", "a");
}

#[test]
fn fact_16_nothing_is_written_where_a_volume_should_be() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    plugin.create("db", &json!({}));
    let dir = plugin.mount("db", "a");
    // What lies under the mount.
    let script = format!("umount -l '{0}'; stat -c '%a %u' '{0}'", dir.display());
    let bare = run(Command::new("unshare").args(["-m", "--propagation", "slave", "bash", "-euc", &script]));
    assert_eq!(String::from_utf8(bare.stdout).unwrap(), "0 0\n");
    plugin.unmount("db", "a");
    plugin.await_unmounted("db");
    // And when there is no mount, it is as bare, and closed to all but root.
    assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o7777, 0);
    assert!(!as_user(1000, 1000, &format!("ls '{}'", dir.display())).status.success());
}

#[test]
fn fact_17_users_get_to_a_volume_through_a_bind_or_by_a_group_that_is_let_in() {
    let public = tempfile::Builder::new()
        .prefix("larder-test-")
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir_in("/tmp")
        .unwrap();
    let host = Host::with_root(public.path().join("root"));
    let plugin = Plugin::start(&host);
    plugin.create("db", &json!({ "uid": "1000", "gid": "1000", "mode": "0700" }));
    let dir = plugin.mount("db", "a");
    // An engine binds as root; who runs in the container needs no way to where the mount is on the host.
    let bound = host.public_dir("bound");
    let flags = nix::mount::MsFlags::MS_BIND;
    nix::mount::mount(Some(&dir), &bound, None::<&str>, flags, None::<&str>).unwrap();
    host.adopt(&bound);
    let output = as_user(1000, 1000, &format!("cd {} && echo x > file && echo y >> file", bound.display()));
    nix::mount::umount(&bound).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read_to_string(dir.join("file")).unwrap(), "x\ny\n");
    // On the host, nobody gets there.
    let script = format!("cat '{}/file'", dir.display());
    assert!(!as_user(1000, 1000, &script).status.success());
    // As older engines with userns-remap need it, whose root is a user of the host's.
    for dir in [host.root().to_owned(), host.root().join("mnt")] {
        std::os::unix::fs::chown(&dir, None, Some(1000)).unwrap();
        fs::set_permissions(dir, fs::Permissions::from_mode(0o710)).unwrap();
    }
    plugin.create("another", &json!({}));
    assert!(as_user(1000, 1000, &script).status.success());
    // But not to what is another's, and they see no names.
    assert!(!as_user(1001, 1001, &script).status.success());
    assert!(!as_user(1000, 1000, &format!("ls '{}'", host.root().join("mnt").display())).status.success());
    assert!(
        !as_user(1000, 1000, &format!("cat '{}/plugin/state.json'", host.root().display())).status.success()
    );
    plugin.unmount("db", "a");
}

#[test]
fn systemd_passes_the_socket_on_and_is_told_when_it_is_ready() {
    let host = Host::new();
    let path = host.dir("run").join("activated.sock");
    let notify = host.dir("run").join("notify.sock");
    let told = UnixDatagram::bind(&notify).unwrap();
    told.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
    let script = "import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen(100)
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1', NOTIFY_SOCKET=sys.argv[2])
os.execv(sys.argv[3], sys.argv[3:])";
    let mut python = Command::new("python3");
    python.args(["-c", script]).args([&path, &notify]).arg(crate::support::larder());
    python.arg("--root").arg(host.root()).arg("plugin");
    let mut plugin = Plugin::launch(&host, &mut python);
    plugin.engine.socket = path.clone();
    let mut heard = [0; 100];
    let count = told.recv(&mut heard).unwrap();
    assert_eq!(heard[..count].trim_ascii(), b"READY=1");
    plugin.create("db", &json!({}));
    let dir = plugin.mount("db", "a");
    // The server has none of it: no socket to listen on, nobody to notify.
    let server = host.server("db");
    let listening = fs::read_to_string("/proc/net/unix").unwrap();
    let line = listening.lines().find(|line| line.ends_with(path.to_str().unwrap())).unwrap();
    let inode = line.split_whitespace().nth(6).unwrap();
    let open = shell(&dir, &format!("readlink /proc/{server}/fd/*"));
    assert!(!open.contains(&format!("socket:[{inode}]")), "{open}");
    assert!(
        !String::from_utf8_lossy(&fs::read(format!("/proc/{server}/environ")).unwrap()).contains("NOTIFY")
    );
    plugin.unmount("db", "a");
    plugin.signal(Signal::SIGTERM);
    assert!(plugin.await_end().success());
    // The socket is systemd's.
    assert!(path.exists());
}

#[test]
fn a_server_outlives_the_plugin_that_started_it() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    plugin.create("db", &json!({}));
    plugin.mount("db", "a");
    let server = host.server("db");
    let plugin = plugin.crash();
    assert!(is_running(server));
    assert_eq!(host.server("db"), server);
    plugin.unmount("db", "a");
}

#[test]
fn requests_over_one_connection_are_answered_in_order() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    plugin.create("db", &json!({}));
    let first =
        String::from_utf8(request("VolumeDriver.List", b"")).unwrap().replace("Connection: close\r\n", "");
    let both = [first.as_bytes(), &request("VolumeDriver.Get", br#"{"Name":"db"}"#)].concat();
    let answer = String::from_utf8(exchange(&plugin.socket, &both).unwrap()).unwrap();
    let second = answer.rfind("HTTP/1.1 200").unwrap();
    assert!(parse(&answer.as_bytes()[..second]).body["Volumes"].is_array());
    assert_eq!(parse(&answer.as_bytes()[second..]).body["Volume"]["Name"], "db");
}

#[test]
fn a_server_started_for_a_relative_is_not_taken_for_the_one_that_died() {
    let host = Host::new();
    let mut plugin = Plugin::start(&host);
    plugin.create("db", &json!({}));
    plugin.create("copy", &json!({ "from": "db" }));
    let dir = plugin.mount("db", "a");
    plugin.signal(Signal::SIGKILL);
    plugin.await_end();
    host.kill_server("db");
    // By hand, before anybody has noticed.
    host.mount("copy", &[]);
    assert!(fs::write(dir.join("file"), "x").is_err());
    let next = Plugin::start(&host);
    assert_eq!(next.mount("db", "b"), dir);
    fs::write(dir.join("file"), "x").unwrap();
    assert_eq!(mounts(&host).len(), 1);
    drop(next);
    drop(plugin);
}

#[test]
fn a_plugin_whose_program_was_replaced_still_starts_servers() {
    let host = Host::new();
    let program = host.dir("bin").join("larder");
    fs::copy(crate::support::larder(), &program).unwrap();
    let mut old = Command::new(&program);
    old.arg("--root").arg(host.root()).args(["plugin", "--socket"]).arg(socket(&host));
    let plugin = Plugin::launch(&host, &mut old);
    plugin.await_ready();
    // As a package manager does.
    fs::remove_file(&program).unwrap();
    plugin.create("db", &json!({}));
    let dir = plugin.mount("db", "a");
    fs::write(dir.join("file"), "x").unwrap();
    plugin.unmount("db", "a");
}
