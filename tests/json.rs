//! `--json`: what every command prints, of what it has done and of what went wrong, is JSON.

use crate::support::{Host, larder, pattern, run, wait_until};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;

/// A key file.
fn key(host: &Host, name: &str, seed: u64) -> PathBuf {
    let path = host.dir("keys").join(name);
    fs::write(&path, pattern(64, seed)).unwrap();
    path
}

#[test]
fn what_is_done_to_names_snapshots_and_keys_is_json() {
    let host = Host::plain();
    host.ok(&["create", "v"]);
    host.ok(&["snapshot", "create", "v@a", "v@b"]);
    assert_eq!(host.json(&["hold", "tag", "v@a", "v@b", "--json"]), json!(["v@a", "v@b"]));
    assert_eq!(host.json(&["release", "tag", "v@*", "--json"]), json!(["v@a", "v@b"]));
    assert_eq!(host.json(&["rename", "v", "w", "--json"]), json!({ "name": "w", "was": "v" }));
    assert_eq!(host.json(&["rename", "w@a", "c", "--json"]), json!({ "name": "w@c", "was": "w@a" }));
    let renamed = host.json(&["snapshot", "rename", "w@c", "d", "--json"]);
    assert_eq!(renamed, json!({ "name": "w@d", "was": "w@c" }));
    assert_eq!(host.json(&["resize", "w", "1G", "--json"]), json!({ "name": "w" }));
    assert_eq!(host.json(&["upgrade", "--json"]), json!([]));
    let dir = host.mount("w", &[]);
    fs::write(dir.join("f"), "x").unwrap();
    let upgraded = host.json(&["upgrade", "w", "--json"]);
    assert_eq!((&upgraded[0]["volumes"], upgraded.as_array().map(Vec::len)), (&json!(["w"]), Some(1)));
    for field in ["from", "to", "pid"] {
        assert!(!upgraded[0][field].is_null(), "{upgraded}");
    }
    let changed = host.json(&["diff", "w@d", "--json"]);
    assert!(changed.as_array().is_some_and(|all| all.iter().any(|one| one["path"] == "/f")), "{changed}");
    let found = host.json(&["find", "w", "--inode", "1", "--json"]);
    assert!(found.is_array(), "{found}");
    host.umount("w");
    assert!(host.json(&["scrub", "w", "--json"]).is_array());
    assert_eq!(host.json(&["check", "--all", "--json"])[0]["no_faults"], true);
    assert_eq!(host.json(&["status", "--json"])[0]["health"], "ok");
    assert_eq!(host.json(&["trash", "ls", "--json"]), json!([]));
    assert_eq!(host.json(&["snapshot", "rm", "w@d", "--json"]), json!(["w@d"]));
    for line in host.ok(&["logs", "w", "--json"]).lines() {
        assert!(serde_json::from_str::<Value>(line).unwrap().is_object(), "{line}");
    }
    let (old, new) = (key(&host, "old", 1), key(&host, "new", 2));
    let (old, new) = (old.to_str().unwrap(), new.to_str().unwrap());
    host.ok(&["create", "e", "--encrypt", "--key-file", old]);
    let rotated = host.json(&["key", "rotate", "e", "--key-file", old, "--new-key-file", new, "--json"]);
    assert_eq!(rotated["done"], "replaced");
    assert_eq!(host.json(&["key", "list", "e", "--json"])["slots"][0]["slot"], rotated["slot"]);
    let added = host.json(&["key", "add", "e", "--key-file", new, "--new-key-file", old, "--json"]);
    assert!(added["slot"].is_u64(), "{added}");
}

#[test]
fn who_mounts_in_the_foreground_is_told_in_json_too() {
    let host = Host::plain();
    host.ok(&["create", "v"]);
    let dir = host.make_mountpoint("v");
    let mut command = host.command(&["mount", "--foreground", "v", dir.to_str().unwrap(), "--json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let said: Result<Value, _> = serde_json::from_str(&line);
    host.umount("v");
    wait_until("it ends", || child.try_wait().unwrap().is_some());
    assert_eq!(said.unwrap(), json!({ "name": "v", "dir": dir }), "{line}");
}

/// What a command says that fails: nothing but an error in JSON, in a line.
fn refusal(host: &Host, args: &[&str]) -> Value {
    let output = run(host.command(args).arg("--json"));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{args:?}");
    assert_eq!(said.lines().count(), 1, "{args:?}: {said}");
    // (Of several that were asked for, none was done.)
    let done = String::from_utf8(output.stdout).unwrap();
    assert!(matches!(done.trim(), "" | "[]"), "{args:?}: {done}");
    let error = serde_json::from_str::<Value>(&said).unwrap_or_else(|e| panic!("{args:?}: {e}: {said}"));
    let error = error["error"].clone();
    assert_eq!(error["status"].as_i64(), output.status.code().map(i64::from), "{args:?}: {said}");
    assert!(error["code"].is_string() && error["message"].is_string(), "{args:?}: {said}");
    error
}

#[test]
fn what_goes_wrong_is_json_whatever_the_command() {
    let host = Host::plain();
    host.ok(&["create", "v"]);
    host.ok(&["snapshot", "create", "v@a"]);
    let dir = host.dir("mnt");
    let dir = dir.to_str().unwrap();
    let key = key(&host, "key", 1);
    let key = key.to_str().unwrap();
    for args in [
        &["clone", "no", "c"][..],
        &["rollback", "no@a"],
        &["hold", "t", "no@a"],
        &["hold", "t", "v@no"],
        &["release", "t", "v@a"],
        &["release", "t", "no@a"],
        &["rename", "no", "w"],
        &["rename", "v@no", "w"],
        &["snapshot", "rename", "v@no", "w"],
        &["snapshot", "create", "no@a"],
        &["snapshot", "rm", "v@no"],
        &["snapshot", "ls", "no"],
        &["snapshot", "prune", "no", "--keep-last", "1"],
        &["diff", "v@no"],
        &["resize", "no", "+1G"],
        &["ls", "no"],
        &["df", "no"],
        &["inspect", "no"],
        &["logs", "no"],
        &["mount", "no", dir],
        &["rm", "no"],
        &["trash", "restore", "no"],
        &["trash", "empty", "no", "--force"],
        &["get", "no"],
        &["set", "no", "sticky=true"],
        &["check", "no"],
        &["status", "no"],
        &["scrub", "no"],
        &["find", "no", "--inode", "1"],
        &["upgrade", "no"],
        &["key", "list", "no"],
        &["key", "rotate", "no", "--key-file", key, "--new-key-file", key],
        &["remote", "status", "no"],
        &["remote", "sync", "no"],
        &["detach", "no"],
    ] {
        assert_eq!(refusal(&host, args)["code"], "no-volume", "{args:?}");
    }
    assert_eq!(refusal(&host, &["create", "v"])["code"], "exists");
    for args in [
        &["create", "../v"][..],
        &["resize", "v"],
        &["resize", "v", "+x"],
        &["set", "v", "nonsense=1"],
        &["get", "v", "nonsense"],
        &["config", "check", "/nonexistent/larder.toml"],
        &["nonsense"],
        &["prune", "--nonsense"],
        &["plugin", "--nonsense"],
        &["completions", "nonsense"],
    ] {
        assert_eq!(refusal(&host, args)["code"], "usage", "{args:?}");
    }
    assert!(refusal(&host, &["umount", "v"])["code"].is_string());
    assert!(refusal(&host, &["key", "rotate", "v", "--key-file", key])["code"].is_string());
    assert!(refusal(&host, &["remote", "ls", "file:///nonexistent"])["code"].is_string());
}

/// Commands that do nothing to a volume.
#[test]
fn completions_and_the_configuration_are_what_they_are() {
    let output = run(std::process::Command::new(larder()).args(["completions", "bash", "--json"]));
    assert!(output.status.success());
    let host = Host::plain();
    host.ok(&["create", "v"]);
    assert!(host.json(&["config", "show", "--json"])["settings"].is_array());
    assert_eq!(host.json(&["prune", "--force", "--json"]), json!(["v"]));
}
