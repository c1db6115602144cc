//! Clients that mean harm, or are broken, or are very many.

use super::client::{Plugin, command, exchange, mounts, parse, request};
use crate::support::{Host, as_user, pattern, shell, stop, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::collections::HashSet;
use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;

#[test]
fn what_is_no_request_is_refused_and_changes_nothing() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    let deep = "[".repeat(500_000);
    let deep_name = format!("{{\"Name\":{deep}");
    for body in [
        "",
        "{",
        "null",
        "[]",
        "\"db\"",
        "{}",
        "{\"Name\":null}",
        "{\"Name\":1}",
        "{\"Name\":[\"db\"]}",
        "{\"name\":\"db\"}",
        "{\"Name\":\"db\"",
        "{\"Name\":\"db\"}}",
        "{\"Name\":\"db\",\"Opts\":[]}",
        "{\"Name\":\"db\",\"Opts\":{\"a\":{}}}",
        "{\"Name\":\"\\ud800\"}",
        &deep,
        &deep_name,
    ] {
        let answer = plugin.raw("VolumeDriver.Create", body.as_bytes());
        assert_eq!(answer.status, 400, "{}", &body[..body.len().min(50)]);
        assert!(!answer.body["Err"].as_str().unwrap().is_empty());
    }
    for salt in 0..20 {
        let answer = plugin.raw("VolumeDriver.Mount", &pattern(1000, salt));
        assert_eq!(answer.status, 400);
    }
    assert_eq!(plugin.ok("VolumeDriver.List", &json!({}))["Volumes"], json!([]));
}

#[test]
fn huge_bodies_and_headers_are_refused() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    let huge = vec![b' '; 3 << 20];
    assert_eq!(plugin.raw("VolumeDriver.Create", &huge).status, 413);
    // It says that it will be huge.
    let promise = b"POST /VolumeDriver.Create HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\nConnection: close\r\n\r\n{";
    assert_eq!(parse(&exchange(&plugin.socket, promise).unwrap()).status, 413);
    // Or does not say, and never ends.
    let mut endless = b"POST /VolumeDriver.Create HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n".to_vec();
    for _ in 0..40 {
        endless.extend_from_slice(b"10000\r\n");
        endless.extend_from_slice(&vec![b'x'; 0x10000]);
        endless.extend_from_slice(b"\r\n");
    }
    assert_eq!(parse(&exchange(&plugin.socket, &endless).unwrap()).status, 413);
    let header = [&b"POST /VolumeDriver.List HTTP/1.1\r\nX: "[..], &vec![b'x'; 10 << 20]].concat();
    let answer = String::from_utf8(exchange(&plugin.socket, &header).unwrap_or_default()).unwrap();
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    for nonsense in
        [&b"\0\x01\x02"[..], b"GET", b"\r\n\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &pattern(5000, 1)]
    {
        let mut stream = UnixStream::connect(&plugin.socket).unwrap();
        let _ = stream.write_all(nonsense);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{nonsense:?}");
    }
    plugin.create("db", &json!({}));
}

#[test]
fn names_ids_and_options_reach_nothing_they_should_not() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    plugin.create("db", &json!({}));
    for id in ["", "a\nb", "\0", &"x".repeat(1000)] {
        let why = plugin.fails("VolumeDriver.Mount", &json!({ "Name": "db", "ID": id }));
        assert!(why.contains("mount ID"), "{why}");
        plugin.unmount("db", id);
    }
    plugin.await_unmounted("db");
    // IDs are names of nothing.
    let dir = plugin.mount("db", "../../../etc/passwd");
    assert!(dir.ends_with("mnt/db"));
    plugin.unmount("db", "../../../etc/passwd");
    let fifo = host.dir("keys").join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (option, value) in [
        ("from", "../../etc"),
        ("from", "/"),
        ("from", "nothing"),
        ("key-file", "../key"),
        ("key-file", "/dev/zero"),
        ("key-file", "/nowhere"),
        ("passphrase-file", fifo.to_str().unwrap()),
        ("size", "0"),
        ("size", "18446744073709551615"),
        ("size", "5000"),
        ("inodes", "-1"),
        ("mode", "77777"),
        ("cache-size", "x"),
        ("commit", "99999999"),
        ("context", "x,fd=0"),
        ("context", "\",rootmode=0"),
        ("label.", "x"),
        ("label.a", "\0"),
        ("label.a\n", "x"),
        ("label.\u{1b}[31m", "x"),
        ("label.\u{9b}", "x"),
        ("o", "o=o=o"),
        ("root", "/etc"),
    ] {
        let mut options = json!({});
        options[option] = json!(value);
        if option.ends_with("-file") {
            options["encrypt"] = json!("true");
        }
        plugin.fails("VolumeDriver.Create", &json!({ "Name": "bad", "Opts": options }));
    }
    assert_eq!(plugin.ok("VolumeDriver.List", &json!({}))["Volumes"][0]["Name"], "db");
    assert_eq!(host.json(&["ls", "--json"]).as_array().unwrap().len(), 1);
}

#[test]
fn thousands_of_calls_at_once_are_all_answered() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    for volume in 0..4 {
        plugin.create(&format!("v{volume}"), &json!({}));
    }
    let (clients, rounds) = (120, 6);
    // Connections that say nothing meanwhile.
    let _idle: Vec<_> = (0..500).map(|_| UnixStream::connect(&plugin.socket).unwrap()).collect();
    thread::scope(|scope| {
        for client in 0..clients {
            let plugin = &plugin.engine;
            scope.spawn(move || {
                for round in 0..rounds {
                    let name = format!("v{}", (client + round) % 4);
                    let id = format!("{client}");
                    let dir = plugin.mount(&name, &id);
                    assert!(dir.join("..").exists() && plugin.path(&name) == dir.to_str().unwrap());
                    assert_eq!(plugin.get(&name)["Name"], *name);
                    plugin.create(&name, &json!({}));
                    plugin.unmount(&name, &id);
                }
            });
        }
    });
    for volume in 0..4 {
        let name = format!("v{volume}");
        plugin.await_unmounted(&name);
        assert_eq!(plugin.get(&name)["Status"]["mount_ids"], json!({}));
        plugin.remove(&name);
    }
    assert!(mounts(&host).is_empty());
}

#[test]
fn one_of_many_makers_makes_it_and_the_others_find_it() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    let answers: Vec<_> = thread::scope(|scope| {
        let make = |n: usize| {
            let plugin = &plugin.engine;
            scope.spawn(move || {
                let options = json!({ "size": if usize::is_multiple_of(n, 2) { "1G" } else { "2G" } });
                plugin.call("VolumeDriver.Create", &json!({ "Name": "db", "Opts": options })).status
            })
        };
        let makers: Vec<_> = (0..40).map(make).collect();
        makers.into_iter().map(|maker| maker.join().unwrap()).collect()
    });
    let good: HashSet<usize> = (0..40).filter(|n| answers[*n] == 200).map(|n| n % 2).collect();
    assert_eq!((good.len(), answers.iter().filter(|status| **status == 200).count()), (1, 20));
    // Requests that were cut off half way do not matter.
    for cut in [10, 60, 100] {
        let whole = request("VolumeDriver.Remove", br#"{"Name":"db"}"#);
        let mut stream = UnixStream::connect(&plugin.socket).unwrap();
        stream.write_all(&whole[..cut.min(whole.len() - 1)]).unwrap();
    }
    assert_eq!(plugin.get("db")["Name"], "db");
}

#[test]
fn no_file_that_others_can_exchange_makes_the_plugin_wait() {
    let host = Host::plain();
    let plugin = Plugin::start(&host);
    let key = host.dir("keys").join("key");
    fs::write(&key, pattern(64, 1)).unwrap();
    plugin.create("db", &json!({ "encrypt": "true", "key-file": key.to_str().unwrap() }));
    plugin.create("other", &json!({}));
    let pipe = |path: &Path| {
        let _ = fs::remove_file(path);
        nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    };
    pipe(&key);
    // More than there are threads.
    thread::scope(|scope| {
        for _ in 0..100 {
            let engine = &plugin.engine;
            scope.spawn(move || assert_eq!(engine.get("db")["Name"], "db"));
        }
    });
    let why = plugin.fails("VolumeDriver.Mount", &json!({ "Name": "db", "ID": "x" }));
    assert!(why.contains("named pipe"), "{why}");
    pipe(&host.store("db").join("header.json"));
    pipe(&host.store("db").join("lock"));
    pipe(&host.root().join("plugin/volumes/db.json"));
    for method in ["Get", "Mount", "Path"] {
        plugin.call(&format!("VolumeDriver.{method}"), &json!({ "Name": "db", "ID": "x" }));
    }
    assert_eq!(plugin.ok("VolumeDriver.List", &json!({}))["Volumes"].as_array().unwrap().len(), 2);
    plugin.mount("other", "x");
    plugin.unmount("other", "x");
    plugin.await_unmounted("other");
    fs::remove_file(host.root().join("plugin/volumes/db.json")).unwrap();
}

#[test]
fn users_of_the_host_do_not_get_to_what_containers_have_made() {
    let host = Host::plain();
    let mode = |dir: &Path| fs::metadata(dir).unwrap().permissions().mode() & 0o7777;
    let set_mode = |dir: &Path, mode| fs::set_permissions(dir, Permissions::from_mode(mode)).unwrap();
    // As versions before made them.
    let mountpoints = host.root().join("mnt");
    fs::create_dir_all(&mountpoints).unwrap();
    set_mode(host.root(), 0o711);
    set_mode(&mountpoints, 0o711);
    set_mode(host.root().parent().unwrap(), 0o755);
    let plugin = Plugin::start(&host);
    assert_eq!((mode(host.root()), mode(&mountpoints)), (0o700, 0o700));
    plugin.create("db", &json!({}));
    plugin.create("devices", &json!({ "dev": "true" }));
    let dir = plugin.mount("db", "x");
    fs::copy("/bin/true", dir.join("program")).unwrap();
    set_mode(&dir.join("program"), 0o4755);
    let device = |dir: &Path| {
        shell(dir, "mknod zero c 1 5; chmod 666 zero");
        File::open(dir.join("zero")).map(drop).map_err(|e| e.raw_os_error())
    };
    assert_eq!(device(&dir), Err(Some(libc::EACCES)), "no devices unless that is asked for");
    assert_eq!(device(&plugin.mount("devices", "x")), Ok(()));
    for path in [dir.clone(), dir.join("program"), host.root().join("volumes"), mountpoints.clone()] {
        let looked = as_user(1000, 1000, &format!("ls {}", path.display()));
        assert!(!looked.status.success(), "{}", path.display());
    }
    // A group that an administrator lets in stays in.
    set_mode(&mountpoints, 0o710);
    for volume in ["db", "devices"] {
        plugin.unmount(volume, "x");
        plugin.await_unmounted(volume);
    }
    plugin.create("another", &json!({}));
    assert_eq!(mode(&mountpoints), 0o710);
}

/// A server that hangs and that nobody may replace is no matter of other volumes, nor of the plugin itself.
#[test]
fn a_server_that_hangs_holds_up_no_other_volume() {
    let host = Host::new();
    let plugin = Plugin::launch(&host, command(&host).env("LARDER_KERNEL_WITHOUT", "resend"));
    plugin.await_ready();
    plugin.create("db", &json!({}));
    plugin.create("copy", &json!({ "from": "db" }));
    plugin.create("other", &json!({}));
    let dir = plugin.mount("db", "a");
    fs::write(dir.join("file"), "x").unwrap();
    let other = plugin.mount("other", "a");
    let server = Pid::from_raw(host.server("db"));
    stop(server.as_raw());
    let says = |why: &str| {
        assert!(
            why.contains(&format!("process {server}, which serves \"copy\", \"db\", does not answer")),
            "{why}"
        );
    };
    assert_eq!(plugin.ok("VolumeDriver.List", &json!({}))["Volumes"].as_array().unwrap().len(), 3);
    let status = plugin.get("db")["Status"].clone();
    assert_eq!((&status["state"], &status["health"]), (&json!("unknown"), &json!("failed")));
    assert_eq!(status["reasons"][0]["code"], "server-silent");
    says(status["failure"].as_str().unwrap());
    says(&plugin.fails("VolumeDriver.Mount", &json!({ "Name": "copy", "ID": "a" })));
    // An engine that has ended its container is not to be kept from ending.
    plugin.unmount("db", "a");
    assert_eq!(plugin.path("db"), dir.to_str().unwrap());
    says(&plugin.fails("VolumeDriver.Remove", &json!({ "Name": "db" })));
    // The others are looked after as ever.
    for _ in 0..2 {
        let before = host.server("other");
        host.kill_server("other");
        wait_until("it is there again", || {
            let server = &host.json(&["inspect", "other"])["server"]["pid"];
            server.as_i64().is_some_and(|pid| pid as i32 != before)
                && fs::write(other.join("file"), "x").is_ok()
        });
    }
    plugin.create("new", &json!({}));
    plugin.mount("new", "a");
    assert_eq!(host.json(&["inspect", "other"])["health"], "ok");
    kill(server, Signal::SIGCONT).unwrap();
    wait_until("it answers", || plugin.get("db")["Status"]["health"] == "ok");
    plugin.remove("db");
    for name in ["other", "new"] {
        plugin.unmount(name, "a");
        plugin.await_unmounted(name);
    }
}
