//! The protocol: what is answered to what.

use super::client::{Plugin, exchange, parse, request};
use crate::support::{Host, stop, wait_until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

#[test]
fn a_volume_from_its_making_to_its_end() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    assert_eq!(plugin.raw("Plugin.Activate", b"").body, json!({ "Implements": ["VolumeDriver"] }));
    let scope = plugin.ok("VolumeDriver.Capabilities", &json!({}));
    assert_eq!(scope["Capabilities"], json!({ "Scope": "local" }));
    assert_eq!(plugin.ok("VolumeDriver.List", &json!({}))["Volumes"], json!([]));
    plugin.create("db", &json!({ "size": "1G" }));
    assert_eq!(plugin.path("db"), "");
    let dir = plugin.mount("db", "one");
    fs::write(dir.join("file"), "contents").unwrap();
    assert_eq!(plugin.path("db"), dir.to_str().unwrap());
    let listed = plugin.ok("VolumeDriver.List", &json!({}));
    assert_eq!(listed["Volumes"][0]["Name"], "db");
    assert_eq!(listed["Volumes"][0]["Mountpoint"], dir.to_str().unwrap());
    plugin.unmount("db", "one");
    plugin.await_unmounted("db");
    let again = plugin.mount("db", "two");
    assert_eq!((fs::read_to_string(again.join("file")).unwrap().as_str(), &again), ("contents", &dir));
    let why = plugin.fails("VolumeDriver.Remove", &json!({ "Name": "db" }));
    assert!(why.contains("in use by an engine"), "{why}");
    plugin.unmount("db", "two");
    plugin.remove("db");
    assert_eq!(host.json(&["ls", "--json"]), json!([]));
    assert_eq!(plugin.ok("VolumeDriver.List", &json!({}))["Volumes"], json!([]));
}

#[test]
fn the_mountpoint_of_a_volume_is_a_path_also_while_it_is_not_mounted() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    plugin.create("db", &json!({}));
    plugin.create("mem", &json!({ "type": "tmpfs" }));
    let is_bare = |name: &str| {
        let dir = host.root().canonicalize().unwrap().join("mnt").join(name);
        assert_eq!(plugin.mountpoint(name), dir);
        assert_eq!(plugin.get(name)["Mountpoint"], dir.to_str().unwrap());
        let meta = fs::metadata(&dir).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0, 0, 0));
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
        dir
    };
    let dirs = [is_bare("db"), is_bare("mem")];
    // As after a boot of a host whose administrator has tidied up.
    for dir in &dirs {
        fs::remove_dir(dir).unwrap();
    }
    let listed = plugin.ok("VolumeDriver.List", &json!({}))["Volumes"].clone();
    let paths: Vec<&str> =
        listed.as_array().unwrap().iter().map(|v| v["Mountpoint"].as_str().unwrap()).collect();
    assert_eq!(paths, dirs.each_ref().map(|dir| dir.to_str().unwrap()));
    assert!(dirs.iter().all(|dir| dir.is_dir()));
    is_bare("db");
    let dir = plugin.mount("db", "a");
    fs::write(dir.join("file"), "x").unwrap();
    plugin.unmount("db", "a");
    plugin.await_unmounted("db");
    is_bare("db");
    // Nobody but root gets in; what root leaves there is not hidden by a mount.
    fs::write(dir.join("astray"), "x").unwrap();
    let why = plugin.fails("VolumeDriver.Mount", &json!({ "Name": "db", "ID": "a" }));
    assert!(why.contains("is not empty") && why.contains(dir.to_str().unwrap()), "{why}");
    fs::remove_file(dir.join("astray")).unwrap();
    assert_eq!(fs::read_to_string(plugin.mount("db", "a").join("file")).unwrap(), "x");
    plugin.unmount("db", "a");
    // It goes with the volume, whoever removes that.
    plugin.remove("mem");
    assert!(!dirs[1].exists());
    plugin.await_unmounted("db");
    wait_until("the server has ended", || host.servers().is_empty());
    host.ok(&["rm", "db"]);
    wait_until("its directory is gone", || !dirs[0].exists());
}

#[test]
fn fact_1_the_time_of_creation_is_rfc_3339_or_left_out() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    let fine = |created: &Value| humantime_is_rfc3339(created.as_str().unwrap());
    plugin.create("db", &json!({}));
    plugin.create("mem", &json!({ "type": "tmpfs" }));
    assert!(fine(&plugin.get("db")["CreatedAt"]) && fine(&plugin.get("mem")["CreatedAt"]));
    plugin.mount("db", "a");
    assert!(fine(&plugin.get("db")["CreatedAt"]));
    plugin.unmount("db", "a");
    // Nothing can be read of it: there is still no empty time.
    fs::write(host.store("db").join("header.json"), "{").unwrap();
    let broken = plugin.get("db");
    assert!(broken.get("CreatedAt").is_none_or(fine), "{broken}");
}

fn humantime_is_rfc3339(text: &str) -> bool {
    let digits = text.chars().filter(char::is_ascii_digit).count();
    text.len() == 20 && text.ends_with('Z') && text.as_bytes()[10] == b'T' && digits == 14
}

#[test]
fn fact_2_get_does_not_fail_for_a_volume_that_is_there() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    let key = host.dir("keys").join("key");
    fs::write(&key, [7; 64]).unwrap();
    let options = json!({ "encrypt": "", "key-file": key });
    plugin.create("db", &options);
    assert_eq!(plugin.get("db")["Status"]["state"], "unmounted");
    // The key is gone for now: what it hides is not shown, and that is all.
    fs::rename(&key, key.with_extension("away")).unwrap();
    let status = plugin.get("db")["Status"].clone();
    assert_eq!((&status["encrypted"], &status["state"]), (&json!(true), &json!("unmounted")), "{status}");
    assert_eq!((&status["health"], &status["reasons"][0]["code"]), (&json!("failed"), &json!("key-missing")));
    fs::rename(key.with_extension("away"), &key).unwrap();
    plugin.mount("db", "a");
    // A server that does not answer.
    let server = host.server("db");
    stop(server);
    let status = plugin.get("db")["Status"].clone();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(server), Signal::SIGCONT).unwrap();
    assert_eq!((&status["state"], &status["health"]), (&json!("unknown"), &json!("failed")), "{status}");
    assert_eq!(plugin.get("db")["Status"]["health"], "ok");
    plugin.unmount("db", "a");
    plugin.await_unmounted("db");
    fs::remove_file(host.store("db").join("meta.db")).unwrap();
    let status = plugin.get("db")["Status"].clone();
    assert_eq!((&status["state"], &status["health"]), (&json!("unknown"), &json!("failed")), "{status}");
    assert!(status["failure"].as_str().unwrap().contains("meta.db"), "{status}");
}

#[test]
fn fact_3_errors_are_500_and_err() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    for (method, body) in [
        ("Get", json!({ "Name": "nothing" })),
        ("Path", json!({ "Name": "nothing" })),
        ("Mount", json!({ "Name": "nothing", "ID": "a" })),
        ("Create", json!({ "Name": "v", "Opts": { "nonsense": "1" } })),
        ("Create", json!({ "Name": "../v" })),
    ] {
        let why = plugin.fails(&format!("VolumeDriver.{method}"), &body);
        assert!(!why.contains('\n'), "{why}");
    }
    assert_eq!(plugin.ok("VolumeDriver.List", &json!({}))["Volumes"], json!([]));
}

#[test]
fn fact_4_everything_can_be_done_twice_and_a_retry_without_a_body_does_nothing() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    for _ in 0..2 {
        plugin.create("db", &json!({ "size": "1G" }));
    }
    let dir = plugin.mount("db", "a");
    for method in ["Create", "Mount", "Unmount", "Remove", "Get", "Path"] {
        let answer = plugin.raw(&format!("VolumeDriver.{method}"), b"");
        assert_eq!(answer.status, 400, "{method}");
        assert!(!answer.body["Err"].as_str().unwrap().is_empty(), "{method}");
    }
    assert!(dir.join("..").exists() && plugin.path("db") == dir.to_str().unwrap());
    for _ in 0..2 {
        plugin.unmount("db", "a");
    }
    for _ in 0..2 {
        plugin.remove("db");
    }
    plugin.unmount("db", "a");
}

#[test]
fn fact_7_names_that_could_be_paths_are_refused() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    let long = "x".repeat(129);
    for name in ["", ".", "..", "../v", "a/b", "/etc", "a\0b", "a\nb", "-a", "a b", "a@b", "ä", &long] {
        for method in ["Create", "Remove", "Mount", "Unmount", "Get", "Path"] {
            let why = plugin.fails(&format!("VolumeDriver.{method}"), &json!({ "Name": name, "ID": "a" }));
            assert!(why.contains("not a valid volume name"), "{method} {name:?}: {why}");
        }
    }
    assert_eq!(host.json(&["ls", "--json"]), json!([]));
}

#[test]
fn fact_8_get_of_an_unknown_name_is_an_error() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    let why = plugin.fails("VolumeDriver.Get", &json!({ "Name": "db" }));
    assert!(why.contains("no volume"), "{why}");
    plugin.create("db", &json!({}));
    assert_eq!(plugin.get("db")["Name"], "db");
}

#[test]
fn fact_11_a_new_volume_is_completely_empty_and_takes_an_owner() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    plugin.create("db", &json!({}));
    let dir = plugin.mount("db", "a");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    host.ok(&["snapshot", "create", "db@one"]);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    // As engines do, when they copy what the image has there.
    std::os::unix::fs::chown(&dir, Some(1000), Some(1001)).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o1750)).unwrap();
    let meta = dir.metadata().unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (1000, 1001, 0o1750));
    plugin.unmount("db", "a");
}

#[test]
fn media_types_and_other_headers_do_not_matter() {
    let host = Host::new();
    let plugin = Plugin::start(&host);
    for header in [
        "Content-Type: application/vnd.docker.plugins.v1.1+json",
        "Content-Type: text/html; charset=nonsense",
        "Accept: application/vnd.docker.plugins.v1.2+json",
        "Expect: 100-continue",
    ] {
        let body = r#"{"Name":"db"}"#;
        let request = format!(
            "POST /VolumeDriver.Create HTTP/1.1\r\nHost: x\r\n{header}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let answer = exchange(&plugin.socket, request.as_bytes()).unwrap();
        let answer = String::from_utf8(answer).unwrap().replace("HTTP/1.1 100 Continue\r\n\r\n", "");
        assert_eq!(parse(answer.as_bytes()).status, 200, "{header}");
    }
    // In pieces of unknown number, as Go's client sends what it does not know the length of.
    let chunked = "POST /VolumeDriver.Get HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
                   8\r\n{\"Name\":\r\n5\r\n\"db\"}\r\n0\r\n\r\n";
    let answer = exchange(&plugin.socket, chunked.as_bytes());
    let text = String::from_utf8(answer.unwrap()).unwrap();
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("\"db\""), "{text}");
    let answer =
        exchange(&plugin.socket, b"GET /VolumeDriver.List HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert_eq!(parse(&answer.unwrap()).status, 405);
    assert_eq!(parse(&exchange(&plugin.socket, &request("VolumeDriver.Fly", b"{}")).unwrap()).status, 404);
}
