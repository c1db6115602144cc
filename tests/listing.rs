//! `ls`, `df`, `inspect` and `get`: what they say of volumes, and that they say the same.

use crate::support::{Host, run, shell, stop, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// The volumes by name, as a command shows them; without what changes from one moment to the next.
fn shown(host: &Host, args: &[&str]) -> Vec<Value> {
    let shown = host.json(args);
    let mut all = if shown.is_array() { shown.as_array().unwrap().clone() } else { vec![shown] };
    for volume in &mut all {
        volume["available"] = json!(volume["available"].is_u64());
        if let Some(server) = volume["server"].as_object_mut() {
            server.remove("uptime_s");
            server.remove("cache_bytes");
            server.remove("cache_limit_bytes");
        }
    }
    all
}

#[test]
fn a_volume_has_one_shape_whoever_shows_it() {
    let host = Host::plain();
    host.ok(&["create", "a", "--size", "64M", "--label", "app=x"]);
    let dir = host.mount("a", &["-o", "noatime"]);
    fs::write(dir.join("file"), vec![7; 1 << 20]).unwrap();
    host.ok(&["snapshot", "create", "a@one"]);
    host.ok(&["clone", "a@one", "b"]);
    host.ok(&["create", "c"]);
    let mut listed = Vec::new();
    // The server may commit in the middle of that.
    wait_until("nothing changes while all of them look", || {
        listed = shown(&host, &["ls", "--json"]);
        let together = [shown(&host, &["df", "--json"]), shown(&host, &["inspect", "a", "b", "c"])];
        let alone = ["a", "b", "c"].map(|name| {
            [&["inspect", name][..], &["ls", name, "--json"], &["df", name, "--json"]]
                .map(|args| shown(&host, args))
        });
        if shown(&host, &["ls", "--json"]) != listed {
            return false;
        }
        together.iter().for_each(|shown| assert_eq!(listed, *shown));
        for (at, by_each) in alone.iter().enumerate() {
            by_each.iter().for_each(|shown| assert_eq!(listed[at..=at], *shown));
        }
        true
    });
    let a = &listed[0];
    assert_eq!((&a["type"], &a["size"], &a["used"]), (&json!("larder"), &json!(64 << 20), &json!(1 << 20)));
    assert_eq!((&a["family"], &listed[2]["family"]), (&json!(["a", "b"]), &json!(["c"])));
    assert_eq!(a["snapshots"][0]["name"], "one");
    assert_eq!((&a["mountpoints"], &a["mounts"][0]["dir"]), (&json!([dir]), &json!(dir)));
    for time in [&a["created"], &a["snapshots"][0]["created"], &listed[2]["created"]] {
        assert!(humantime::parse_rfc3339(time.as_str().unwrap()).is_ok(), "{time}");
    }
    let room = host.json(&["df", "a", "--json"])[0]["available"].as_u64().unwrap();
    assert!(room <= 63 << 20, "{room}");
}

#[test]
fn what_a_family_occupies_is_said_of_each_of_it() {
    let host = Host::new();
    let dir = host.volume("a", &[]);
    let on_disk = |name: &str| host.json(&["inspect", name])["disk_used"].as_u64().unwrap();
    let empty = on_disk("a");
    let file = fs::File::create(dir.join("file")).unwrap();
    (&file).write_all(&crate::support::pattern(8 << 20, 3)).unwrap();
    file.sync_all().unwrap();
    assert!(on_disk("a") >= empty + (8 << 20), "{} {empty}", on_disk("a"));
    host.ok(&["snapshot", "create", "a@one"]);
    host.ok(&["clone", "a@one", "b"]);
    drop(file);
    fs::remove_file(dir.join("file")).unwrap();
    wait_until("what was removed is freed", || host.json(&["inspect", "a"])["used"] == 0);
    // The snapshot holds it, and the clone.
    assert!(on_disk("a") >= 8 << 20 && on_disk("a") == on_disk("b"));
    let table = host.ok(&["ls"]);
    assert_eq!(table.matches("(of 2)").count(), 2, "{table}");
    host.umount("a");
}

#[test]
fn lists_are_of_what_is_asked_for_in_the_form_that_is_asked_for() {
    let host = Host::plain();
    host.ok(&["create", "shop-db", "--size", "1G", "--label", "app=shop", "--label", "tier=db"]);
    host.ok(&["create", "shop-web", "--label", "app=shop"]);
    host.ok(&["create", "other"]);
    let quiet = |args: &[&str]| host.ok(&[&["ls", "-q"], args].concat());
    assert_eq!(quiet(&[]), "other\nshop-db\nshop-web\n");
    assert_eq!(quiet(&["shop-web", "other"]), "shop-web\nother\n");
    assert_eq!(quiet(&["--filter", "label=app=shop"]), "shop-db\nshop-web\n");
    assert_eq!(quiet(&["--filter", "label=app", "--filter", "label!=tier"]), "shop-web\n");
    assert_eq!(quiet(&["-f", "name=web"]), "shop-web\n");
    assert_eq!(quiet(&["-f", "name=^shop", "-f", "name=oth"]), "other\nshop-db\nshop-web\n");
    assert_eq!(quiet(&["-f", "driver=local"]), "");
    assert_eq!(host.json(&["ls", "-q", "--json", "shop-db"]), json!(["shop-db"]));
    let format = |template: &str, args: &[&str]| host.ok(&[&["ls", "--format", template], args].concat());
    assert_eq!(
        format("{{.Name}}: {{.Driver}} {{.Size}} {{.Label \"tier\"}}", &["shop-db", "other"]),
        "shop-db: larder 1G db\nother: larder - \n"
    );
    let table = format("table {{.Name}}\\t{{.Labels}}", &["shop-db"]);
    assert_eq!(
        table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect::<Vec<_>>(),
        [["NAME", "LABELS"], ["shop-db", "app=shop,tier=db"]]
    );
    assert_eq!(format("{{.Name}}\\t{{.Driver}}", &["shop-db"]), "shop-db\tlarder\n");
    let lines = format("json", &[]);
    let objects: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        (objects.len(), &objects[1]["Name"], &objects[1]["Driver"]),
        (3, &json!("shop-db"), &json!("larder"))
    );
    let bad = run(&mut host.command(&["ls", "--format", "{{.Nmae}}"]));
    assert_eq!(bad.status.code(), Some(2));
    assert!(String::from_utf8(bad.stderr).unwrap().contains("did you mean .Name?"));
    // One that is not there is said to be missing; the others are shown.
    let output = run(&mut host.command(&["ls", "-q", "nothing", "other"]));
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "other\n");
    assert!(String::from_utf8(output.stderr).unwrap().contains("no volume \"nothing\""));
}

#[test]
fn a_locked_volume_is_listed_as_what_is_known_of_it() {
    let host = Host::plain();
    let key = host.dir("keys").join("key");
    fs::write(&key, crate::support::pattern(64, 5)).unwrap();
    let key = key.to_str().unwrap();
    host.ok(&["create", "v", "--size", "64M", "--encrypt", "--key-file", key]);
    let listed = host.json(&["ls", "--json"])[0].clone();
    assert_eq!(
        (&listed["encrypted"], &listed["locked"], &listed["used"]),
        (&json!(true), &json!(true), &Value::Null)
    );
    assert!(listed["disk_used"].as_u64().unwrap() > 0);
    for command in ["ls", "df"] {
        let line = host.ok(&[command]).lines().nth(1).unwrap().to_owned();
        assert!(line.starts_with("v ") && line.contains("(encrypted, locked)"), "{line}");
        assert_eq!(line.matches("encrypted").count(), 1, "{line}");
    }
    // Where it is known what opens it, it is opened.
    host.ok(&["set", "v", &format!("key-file={key}")]);
    for command in ["ls", "df"] {
        let row = host.json(&[command, "--json"])[0].clone();
        assert_eq!(
            (&row["locked"], &row["used"], &row["size"]),
            (&json!(false), &json!(0), &json!(64 << 20)),
            "{row}"
        );
    }
    assert_eq!(host.ok(&["get", "v", "key-file"]), format!("{key}\n"));
    // A file that is gone is no reason to show nothing.
    host.ok(&["create", "w"]);
    fs::remove_file(key).unwrap();
    assert_eq!(host.json(&["ls", "--json"])[0]["locked"], json!(true));
    assert_eq!(host.ok(&["ls", "-q"]), "v\nw\n");
    // One that is plain has no secret that could be missing.
    for args in [
        &["key", "list", "w"][..],
        &["key", "add", "w"],
        &["key", "rm", "w", "0"],
        &["key", "reencrypt", "w"],
    ] {
        let line = host.fails(2, args);
        assert!(line.contains("\"w\" is not encrypted, and has no keys"), "{line}");
    }
}

#[test]
fn options_and_labels_are_set_and_shown() {
    for host in Host::each_kind() {
        host.ok(&["create", "v", "--size", "64M", "--label", "app=shop"]);
        for mounted in [false, true] {
            if mounted {
                host.mount("v", &[]);
            }
            let get = |option: &str| host.ok(&["get", "v", option]).trim_end().to_owned();
            host.ok(&["set", "v", "size=1GB", "label.app=x=y", "label.tier=", "metadata=none"]);
            assert_eq!(
                (get("size"), get("label.app"), get("label.tier"), get("metadata")),
                ("1000001536".into(), "x=y".into(), String::new(), "none".into())
            );
            host.ok(&["set", "v", "size=64M", "--unset", "label.tier", "-u", "inodes", "label.app=shop"]);
            assert_eq!((get("size"), get("inodes")), ("64M".into(), "none".into()));
            // A label that is not there was mistyped; an option that is as is usual stays so. Nothing else is done then.
            let line = host.fails(2, &["set", "v", "sticky", "--unset", "label.ap"]);
            assert!(line.contains("no label \"ap\"") && line.contains("did you mean \"app\"?"), "{line}");
            let line = host.fails(2, &["set", "v", "--unset", "label.tier"]);
            assert!(line.contains("no label \"tier\"") && line.contains("its labels are app"), "{line}");
            assert_eq!(get("sticky"), "false");
            host.ok(&["set", "v", "--unset", "nosuid"]);
            assert_eq!(host.json(&["inspect", "v"])["labels"], json!({ "app": "shop" }));
            let line = host.ok(&["set", "v", "sticky"]);
            assert_eq!(line, "v: sticky=true\n");
            assert_eq!(get("sticky"), "true");
            host.fails(5, &["rm", "v"]);
            assert_eq!(host.ok(&["set", "v", "sticky=no"]), "v: sticky=false\n");
            let line = host.ok(&["set", "v", "noatime"]);
            assert!(line.starts_with("v: noatime=true; takes effect at the next mount"), "{line}");
            assert_eq!(
                (get("noatime"), host.json(&["inspect", "v"])["options"]["noatime"].clone()),
                ("true".into(), json!("true"))
            );
            // Of two that exclude each other, the last counts.
            host.ok(&["set", "v", "strictatime=true"]);
            assert_eq!((get("noatime"), get("strictatime")), ("false".into(), "true".into()));
            // Nothing is changed if a part of it makes no sense.
            for bad in ["nonsense=1", "commit=0", "size=10", "sticky=perhaps", "mode=999", "commit="] {
                host.fails(2, &["set", "v", "label.bad=1", bad]);
            }
            host.fails(2, &["set", "v", "size=8M", "size=9M"]);
            assert_eq!(run(&mut host.command(&["set", "v"])).status.code(), Some(2));
            assert_eq!(host.json(&["inspect", "v"])["labels"], json!({ "app": "shop" }));
            assert!(host.fails(2, &["get", "v", "nonsense"]).contains("no option"));
        }
        host.umount("v");
        host.check("v");
    }
}

/// A Docker Engine that answers whoever asks for its containers, or never.
fn engine(host: &Host, answer: Option<&'static str>) -> String {
    let path: PathBuf = host.dir("run").join(if answer.is_some() { "docker.sock" } else { "hangs.sock" });
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        let mut held = Vec::new();
        while let Ok((mut stream, _)) = listener.accept() {
            match answer {
                Some(body) => {
                    let _ = stream.read(&mut [0; 1024]);
                    let _ = write!(stream, "HTTP/1.0 200 OK\r\n\r\n{body}");
                }
                None => held.push(stream),
            }
        }
    });
    format!("unix://{}", path.display())
}

#[test]
fn a_volume_dangles_if_no_container_was_made_with_it() {
    let host = Host::plain();
    for name in ["made", "free"] {
        host.ok(&["create", name]);
    }
    let socket = engine(
        &host,
        Some(
            r#"[{"Id": "0f", "Names": ["/web"], "State": "exited", "Mounts": [{"Type": "volume", "Name": "made", "Driver": "larder"}]}]"#,
        ),
    );
    let listed = |socket: &str, filter: &str| {
        let output = run(host.command(&["ls", "-q", "--filter", filter]).env("DOCKER_HOST", socket));
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(listed(&socket, "dangling=true"), "free\n");
    assert_eq!(listed(&socket, "dangling=false"), "made\n");
    // The container will need it when it runs again.
    host.ok(&["create", "unused"]);
    let output = run(host.command(&["prune", "--force"]).env("DOCKER_HOST", &socket));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "free\nunused\n", "{said}");
    assert!(said.contains("volume \"made\" is kept: containers were made with it (web)"), "{said}");
    host.ok(&["create", "free"]);
    // An engine that hangs keeps nobody waiting; but what it may have is not listed as nobody's, which people remove.
    let hangs = engine(&host, None);
    for socket in [hangs.as_str(), "tcp://nowhere:1"] {
        let output = run(host.command(&["ls", "-q", "--filter", "dangling=true"]).env("DOCKER_HOST", socket));
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("cannot tell which volumes no container uses")
        );
        assert!(run(host.command(&["ls"]).env("DOCKER_HOST", socket)).status.success());
    }
    // Nor is it removed; what goes although it may be needed goes with a word.
    let output = run(host.command(&["prune", "--force"]).env("DOCKER_HOST", "tcp://nowhere:1"));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{said}");
    assert!(
        said.contains("DOCKER_HOST=tcp://nowhere:1") && said.contains("--ignore-silent-engines"),
        "{said}"
    );
    let ignores = ["prune", "--force", "--ignore-silent-engines"];
    let output = run(host.command(&ignores).env("DOCKER_HOST", "tcp://nowhere:1"));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("it is not known which volumes stopped containers need"), "{said}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "free\nmade\n");
}

#[test]
fn every_command_that_prints_something_prints_json_if_asked() {
    let host = Host::plain();
    assert_eq!(host.json(&["create", "v", "--json"]), json!({ "name": "v" }));
    let dir = host.make_mountpoint("v");
    let dir = dir.to_str().unwrap();
    assert_eq!(host.json(&["mount", "v", dir, "--json"]), json!({ "name": "v", "dir": dir }));
    assert_eq!(host.json(&["resize", "v", "--size", "1G", "--json"]), json!({ "name": "v" }));
    assert_eq!(
        host.json(&["set", "v", "noatime", "label.a=b", "--json"]),
        json!({
            "name": "v", "now": { "label.a": "b" }, "at_next_mount": { "noatime": "true" }
        })
    );
    assert_eq!(host.json(&["get", "v", "size", "--json"])["options"]["size"]["value"], json!(1 << 30));
    assert_eq!(
        host.json(&["umount", "v", "--json"]),
        json!({ "name": "v", "dir": dir, "still_used_elsewhere": false })
    );
    host.ok(&["snapshot", "create", "v@one"]);
    assert_eq!(host.json(&["clone", "v@one", "w", "--json"]), json!({ "name": "w", "from": "v@one" }));
    let rolled = host.json(&["rollback", "v@one", "--json"]);
    assert_eq!((&rolled["name"], &rolled["snapshot"]), (&json!("v"), &json!("v@one")));
    assert!(rolled["kept"].as_str().unwrap().starts_with("v@before-rollback-"));
    assert_eq!(host.json(&["check", "v", "--json"])["no_faults"], json!(true));
    assert_eq!(host.json(&["snapshot", "create", "v@x", "v@y", "--json"]), json!(["v@x", "v@y"]));
    let shown = host.json(&["snapshot", "ls", "v", "--json"]);
    let inspected = host.json(&["inspect", "v"])["snapshots"].clone();
    for (one, other) in shown.as_array().unwrap().iter().zip(inspected.as_array().unwrap()) {
        for field in ["name", "id", "created", "referenced", "labels", "holds"] {
            assert_eq!(one[field], other[field], "{field}");
        }
        assert!(one["used"].is_u64() && one["created"].as_str().unwrap().ends_with('Z'), "{one}");
    }
    let would = host.json(&["snapshot", "rm", "v@x", "--dry-run", "--json"]);
    assert_eq!((&would[0]["volume"], &would[0]["name"]), (&json!("v"), &json!("x")));
    let pruned = host.json(&["snapshot", "prune", "v", "--keep-last", "1", "--json"]);
    assert!(
        pruned[0]["remove"][0]["created"].is_string() && pruned[0]["keep"][0]["created"].is_string(),
        "{pruned}"
    );
    // What is asked is not what is printed.
    let mut asked = host.command(&["snapshot", "rm", "v@*", "--json"]);
    let mut child = asked.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"y\n").unwrap();
    let printed = child.wait_with_output().unwrap().stdout;
    assert!(serde_json::from_slice::<Value>(&printed).unwrap().is_array());
    host.ok(&["create", "t"]);
    assert_eq!(host.json(&["rm", "t", "--json"]), json!(["t"]));
    assert_eq!(host.json(&["trash", "restore", "t", "--json"]), json!({ "name": "t" }));
    host.ok(&["rm", "t"]);
    assert!(host.json(&["trash", "empty", "t", "--force", "--json"])[0].as_str().unwrap().starts_with("t~"));
    for command in [
        &["trash", "empty", "--expired", "--json"][..],
        &["mount", "--all", "--json"],
        &["umount", "--all", "--json"],
    ] {
        assert_eq!(host.json(command), json!([]), "{command:?}");
    }
    for names in [["v", "w"], ["x1", "x2"]] {
        for name in names.iter().filter(|name| name.starts_with('x')) {
            host.ok(&["create", name]);
        }
        for name in names {
            host.ok(&[
                "set",
                name,
                &format!("mountpoint={}", host.make_mountpoint(&format!("all-{name}")).display()),
            ]);
        }
        let mounted = host.json(&["mount", "--all", "--json"]);
        let unmounted = host.json(&["umount", "--all", "--json"]);
        assert_eq!((mounted.as_array().unwrap().len(), unmounted.as_array().unwrap().len()), (2, 2));
        for name in names {
            host.ok(&["set", name, "mountpoint=none"]);
        }
        host.ok(&["rm", names[1]]);
        if names[0] == "x1" {
            host.ok(&["rm", "x1"]);
        }
    }
    let key = host.dir("keys").join("key");
    fs::write(&key, crate::support::pattern(64, 5)).unwrap();
    let key = key.to_str().unwrap();
    let made = host.json(&["create", "e", "--encrypt", "--recovery-key", "--key-file", key, "--json"]);
    assert!(made["name"] == "e" && made["recovery_key"].as_str().unwrap().len() > 20, "{made}");
    let added = host.json(&["key", "add", "e", "--recovery-key", "--key-file", key, "--json"]);
    assert!(added["recovery_key"].is_string(), "{added}");
    let removed = host.json(&["key", "rm", "e", &added["slot"].to_string(), "--key-file", key, "--json"]);
    assert_eq!((&removed["slot"], &removed["done"]), (&added["slot"], &json!("removed")));
    let done = host.json(&["key", "reencrypt", "e", "--key-file", key, "--json"]);
    assert_eq!((&done["name"], &done["done"]), (&json!("e"), &json!(true)));
    wait_until("nothing is mounted", || host.json(&["ls", "--json"])[0]["mountpoints"] == json!([]));
}

#[test]
fn what_several_set_at_once_is_all_set() {
    let host = Host::plain();
    host.ok(&["create", "v"]);
    let options = [
        "noatime=true",
        "commit=7",
        "cache-size=64M",
        "sync=true",
        "noexec=true",
        "snapshots=off",
        "sticky=true",
        "idmap=on",
    ];
    std::thread::scope(|scope| {
        for option in options {
            let mut command = host.command(&["set", "v", option]);
            scope.spawn(move || {
                let output = run(&mut command);
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            });
        }
    });
    let set = host.json(&["inspect", "v"])["options"].clone();
    assert_eq!(set.as_object().unwrap().len(), options.len(), "{set}");
}

#[test]
fn inspect_shows_those_that_are_there() {
    let host = Host::plain();
    host.ok(&["create", "a"]);
    host.ok(&["create", "b"]);
    let output = run(&mut host.command(&["inspect", "a", "nothing", "b"]));
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8(output.stderr).unwrap().contains("no volume \"nothing\""));
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&shown[0]["name"], &shown[1]["name"]), (&json!("a"), &json!("b")));
    // Of several, a list, however many there are.
    let output = run(&mut host.command(&["inspect", "a", "nothing"]));
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(shown.as_array().map(Vec::len), Some(1));
    assert!(host.fails(3, &["inspect", "nothing"]).contains("no volume"));
}

/// Those whose keys were gone were left out.
#[test]
fn inspect_shows_what_is_known_of_what_it_cannot_open() {
    let host = Host::plain();
    let key = host.dir("keys").join("key");
    fs::write(&key, [7; 64]).unwrap();
    let key = key.to_str().unwrap();
    host.ok(&["create", "a", "--size", "1G"]);
    host.ok(&["create", "locked", "--encrypt", "--key-file", key]);
    host.ok(&["set", "locked", &format!("key-file={key}")]);
    fs::remove_file(key).unwrap();
    let inspect = |names: &[&str]| {
        let output = run(&mut host.command(&[&["inspect", "--json"], names].concat()));
        assert_eq!(output.status.code(), Some(13), "{output:?}");
        let said: Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!(said["error"]["code"], "secret", "{said}");
        (serde_json::from_slice::<Value>(&output.stdout).unwrap(), said["error"]["message"].clone())
    };
    let (shown, why) = inspect(&["a", "locked", "a"]);
    assert_eq!(shown.as_array().map(Vec::len), Some(3), "{shown}");
    assert_eq!((&shown[0]["name"], &shown[0]["size"]), (&json!("a"), &json!(1u64 << 30)));
    assert_eq!(shown[0]["failure"], Value::Null);
    assert_eq!((&shown[1]["name"], &shown[1]["encrypted"]), (&json!("locked"), &json!(true)));
    assert_eq!((&shown[1]["size"], &shown[1]["locked"]), (&Value::Null, &json!(true)));
    let failure = shown[1]["failure"].as_str().unwrap();
    assert!(failure.contains(key) && why.as_str().unwrap().contains(failure), "{failure}: {why}");
    // Of one there is no list.
    let (one, _) = inspect(&["locked"]);
    assert_eq!((&one["name"], &one["failure"]), (&json!("locked"), &json!(failure)));
}

/// One after the other, they were waited for as long as all of them together.
#[test]
fn prune_asks_servers_side_by_side() {
    let host = Host::plain();
    for name in ["a", "b", "c", "unused"] {
        host.ok(&["create", name]);
    }
    let servers: Vec<i32> = ["a", "b", "c"]
        .map(|name| {
            host.mount(name, &[]);
            host.server(name)
        })
        .into();
    servers.iter().for_each(|pid| stop(*pid));
    let begun = Instant::now();
    let output = run(&mut host.command(&["prune", "--force"]));
    let took = begun.elapsed();
    for pid in servers {
        kill(Pid::from_raw(pid), Signal::SIGCONT).unwrap();
    }
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "unused\n", "{said}");
    for name in ["a", "b", "c"] {
        assert!(said.contains(&format!("volume {name:?} is kept")), "{said}");
    }
    // Each is waited for 10 seconds.
    assert!(took < Duration::from_secs(25), "{took:?}");
}

#[test]
fn the_root_directory_is_shown_as_it_was_asked_for_and_as_it_is() {
    for host in Host::each_kind() {
        host.ok(&["create", "v", "--uid", "1000", "--gid", "2000", "--mode", "1770"]);
        let get = |option: &str| host.ok(&["get", "v", option]).trim_end().to_owned();
        let all = || (get("uid"), get("gid"), get("mode"));
        assert_eq!(all(), ("1000".into(), "2000".into(), "1770".into()));
        let dir = host.mount("v", &[]);
        assert_eq!(all(), ("1000".into(), "2000".into(), "1770".into()));
        std::os::unix::fs::chown(&dir, Some(5), Some(6)).unwrap();
        fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
        assert_eq!(all(), ("5".into(), "6".into(), "711".into()));
        let shown = host.json(&["inspect", "v"]);
        assert_eq!((&shown["uid"], &shown["gid"], &shown["mode"]), (&json!(5), &json!(6), &json!("711")));
        host.umount("v");
        assert_eq!(all(), ("5".into(), "6".into(), "711".into()));
        host.check("v");
    }
}

#[test]
fn owner_and_permissions_of_the_root_directory_are_set_by_name_too() {
    for host in Host::each_kind() {
        host.ok(&["create", "v", "--size", "100M"]);
        host.ok(&["snapshot", "create", "v@before"]);
        let nobody: u32 = shell(host.root(), "id -u nobody").trim().parse().unwrap();
        let get = |option: &str| host.ok(&["get", "v", option]).trim_end().to_owned();
        let all = || (get("uid"), get("gid"), get("mode"));
        let said = host.ok(&["set", "v", "uid=nobody", "gid=7", "mode=2770", "label.a=b", "size=200M"]);
        assert!(said.contains(&format!("uid={nobody}")) && said.contains("mode=2770"), "{said}");
        assert!(!said.contains("next mount"), "{said}");
        assert_eq!(all(), (nobody.to_string(), "7".into(), "2770".into()));
        let dir = host.mount("v", &[]);
        let seen = || {
            let meta = fs::metadata(&dir).unwrap();
            (meta.uid(), meta.gid(), meta.mode() & 0o7777)
        };
        assert_eq!(seen(), (nobody, 7, 0o2770));
        // What the kernel knows of it is changed at once, too.
        host.ok(&["set", "v", "uid=1000"]);
        assert_eq!(seen(), (1000, 7, 0o2770));
        host.ok(&["set", "v", "gid=root", "mode=755"]);
        assert_eq!(seen(), (1000, 0, 0o755));
        let shown = host.json(&["inspect", "v"]);
        assert_eq!((&shown["uid"], &shown["gid"], &shown["mode"]), (&json!(1000), &json!(0), &json!("755")));
        // Snapshots are as they were.
        let before = fs::metadata(dir.join(".snapshots/before")).unwrap();
        assert_eq!(before.mode() & 0o7777, 0o755);
        for (option, says) in [
            ("uid=no-such-user", "no user"),
            ("mode=999", "in octal"),
            ("uid=", "needs a value"),
            ("mode=", "needs a value"),
        ] {
            let why = host.fails(2, &["set", "v", option]);
            assert!(why.contains(says), "{option}: {why}");
        }
        assert!(host.fails(2, &["set", "v", "--unset", "uid"]).contains("needs a value"));
        assert_eq!(seen(), (1000, 0, 0o755));
        // Permissions are a part of an access control list.
        shell(&dir, "setfacl -m u:1234:rwx .");
        let mode = seen().2;
        assert!(host.fails(2, &["set", "v", "mode=700"]).contains("setfacl"));
        host.ok(&["set", "v", "uid=5"]);
        assert_eq!(seen(), (5, 0, mode));
        host.umount("v");
        assert_eq!(get("uid"), "5");
        host.check("v");
    }
}

/// `df` showed it as if it were not mounted.
#[test]
fn a_mount_whose_server_died_is_shown_as_dead() {
    let host = Host::plain();
    host.ok(&["create", "v"]);
    let dir = host.mount("v", &[]);
    let shown = dir.to_str().unwrap();
    assert_eq!(host.json(&["inspect", "v"])["dead_mounts"], json!([]));
    host.kill_server("v");
    let dead = format!("{shown} (dead)");
    for args in [&["df"][..], &["df", "-i"], &["df", "v"], &["ls"]] {
        let said = host.ok(args);
        assert!(said.contains(&dead), "{args:?}: {said}");
    }
    let inspected = host.json(&["inspect", "v"]);
    assert_eq!((&inspected["dead_mounts"], &inspected["mountpoints"]), (&json!([shown]), &json!([])));
    host.ok(&["umount", "--lazy", shown]);
    assert!(!host.ok(&["df"]).contains("dead"));
}
