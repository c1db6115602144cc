//! `larder.toml`: what is usual on a host, and who has the last word.

use crate::support::{Host, larder, run, shell, succeed};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A configuration, and commands that follow it.
struct Configured {
    host: Host,
    file: PathBuf,
}

impl Configured {
    fn new(text: &str) -> Self {
        let host = Host::plain();
        let file = host.dir("etc").join("larder.toml");
        fs::write(&file, text).unwrap();
        Self { host, file }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.host.command(args);
        command.env("LARDER_CONFIG", &self.file);
        command
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        succeed(&mut self.command(args))
    }

    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(args)).unwrap()
    }

    fn fails(&self, args: &[&str]) -> String {
        said(&run(&mut self.command(args)))
    }
}

/// The line of a command that must have failed because of what it was told.
#[track_caller]
fn said(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

/// How a volume is mounted, by what its server says.
fn mounted(host: &Configured, name: &str) -> String {
    host.json(&["inspect", name])["mounts"][0]["options"].as_str().unwrap().to_owned()
}

#[test]
fn volumes_are_as_is_usual_on_the_host_unless_something_else_is_said() {
    let host = Configured::new(
        "[create]\nsize = \"10GB\"\ninodes = 5000\nuid = \"nobody\"\nmode = 750\nlabel.team = \"web\"\n",
    );
    host.ok(&["create", "usual", "--label", "app=shop"]);
    let usual = host.json(&["inspect", "usual"]);
    // Rounded up to whole blocks.
    assert_eq!((&usual["size"], &usual["inodes"]), (&json!(10_000_003_072_u64), &json!(5000)));
    assert_eq!(usual["labels"], json!({ "app": "shop", "team": "web" }));
    host.ok(&["create", "other", "--size", "1G", "--inodes", "none", "--uid", "root", "--label", "team=db"]);
    let other = host.json(&["inspect", "other"]);
    assert_eq!(
        (&other["size"], &other["inodes"], &other["labels"]["team"]),
        (&json!(1 << 30), &Value::Null, &json!("db"))
    );
    host.ok(&["create", "free", "--size", "none"]);
    assert_eq!(host.json(&["inspect", "free"])["size"], Value::Null);
    // A clone is as its source.
    host.ok(&["create", "copy", "--from", "other"]);
    assert_eq!(host.json(&["inspect", "copy"])["size"], json!(1 << 30));
    let dir = host.host.mount("usual", &[]);
    let nobody = shell(&dir, "id -u nobody").trim().parse::<u32>().unwrap();
    let meta = fs::metadata(&dir).unwrap();
    assert_eq!((meta.uid(), meta.mode() & 0o7777), (nobody, 0o750));
}

#[test]
fn a_mount_is_as_the_command_line_says_then_the_volume_then_the_host() {
    let host = Configured::new("[mount]\nnoatime = true\ncommit = 9\nsnapshots = false\nnoexec = true\n");
    host.ok(&["create", "v"]);
    let dir = host.host.make_mountpoint("v");
    let dir = dir.to_str().unwrap();
    let mounted_with = |options: &[&str]| {
        host.ok(&[&["mount", "v", dir], options].concat());
        let list = mounted(&host, "v");
        host.ok(&["umount", "v"]);
        list
    };
    let list = mounted_with(&[]);
    for option in ["noatime", "commit=9", "snapshots=off", "noexec"] {
        assert!(list.contains(option), "{list}");
    }
    host.ok(&["set", "v", "noexec=false", "commit=7", "snapshots=on"]);
    let list = mounted_with(&[]);
    assert!(list.contains("noatime") && list.contains("commit=7"), "{list}");
    assert!(!list.contains("noexec") && !list.contains("snapshots=off"), "{list}");
    let list = mounted_with(&["-o", "relatime,commit=3,noexec"]);
    assert!(list.contains("relatime") && list.contains("commit=3") && list.contains("noexec"), "{list}");
    assert!(!list.contains("noatime"), "{list}");
    // mount(8)'s helper follows the same.
    let helper = host.host.dir("sbin").join("mount.larder");
    std::os::unix::fs::symlink(larder(), &helper).unwrap();
    let root = format!("root={},commit=2", host.host.root().display());
    let mut mount = Command::new(&helper);
    succeed(mount.args(["v", dir, "-o", &root]).env("LARDER_CONFIG", &host.file));
    let list = mounted(&host, "v");
    assert!(list.contains("noatime") && list.contains("commit=2") && !list.contains("noexec"), "{list}");
    host.ok(&["umount", "v"]);
    // What is taken back is as on the host again, and `get` says who has said what.
    host.ok(&["set", "v", "--unset", "noexec", "-u", "commit"]);
    let options = host.json(&["get", "v", "--json"])["options"].clone();
    let file = host.file.display();
    for (name, value, from) in [
        ("noexec", "true", format!("{file}, line 5")),
        ("commit", "9", format!("{file}, line 3")),
        ("snapshots", "on", "the volume".to_owned()),
        ("nosuid", "false", "built in".to_owned()),
    ] {
        assert_eq!(options[name], json!({ "value": value, "from": from }), "{name}");
    }
}

#[test]
fn the_root_is_where_it_is_said_to_be_wherever_one_stands() {
    let host = Host::plain();
    let (base, etc) = (host.dir("base"), host.dir("etc"));
    let file = etc.join("larder.toml");
    fs::write(&file, format!("root = {:?}\n", base.join("configured"))).unwrap();
    let larder = |args: &[&str], environment: &[(&str, &str)]| {
        let mut command = Command::new(larder());
        command.args(args).current_dir(&base).env_remove("LARDER_ROOT").env("LARDER_CONFIG", &file);
        command.envs(environment.iter().copied());
        command
    };
    succeed(&mut larder(&["create", "a"], &[]));
    assert!(base.join("configured/volumes/a").symlink_metadata().is_ok());
    succeed(&mut larder(&["create", "b"], &[("LARDER_ROOT", "relative")]));
    assert!(base.join("relative/volumes/b").symlink_metadata().is_ok());
    succeed(&mut larder(&["--root", "given", "create", "c"], &[("LARDER_ROOT", "relative")]));
    assert!(base.join("given/volumes/c").symlink_metadata().is_ok());
    // Nothing is what an empty variable says.
    assert_eq!(succeed(&mut larder(&["ls", "-q"], &[("LARDER_ROOT", "")])), "a\n");
    // The server of a mount is a process that stands elsewhere.
    let dir = host.make_mountpoint("b");
    let dir = dir.to_str().unwrap();
    succeed(&mut larder(&["mount", "b", dir], &[("LARDER_ROOT", "relative")]));
    fs::write(Path::new(dir).join("file"), "x").unwrap();
    succeed(&mut larder(&["umount", dir], &[("LARDER_ROOT", "relative")]));
    succeed(&mut larder(&["mount", "c", dir, "-o", "root=given"], &[]));
    succeed(&mut larder(&["--root", "given", "umount", "c"], &[]));
    // What is not there is not taken for empty.
    for (root, says) in
        [("missing", "does not exist"), ("/etc/passwd", "not a directory"), ("/etc", "not a root of larder")]
    {
        for args in [&["ls"][..], &["df"], &["inspect", "a"], &["prune", "--force"]] {
            let output = run(&mut larder(&[&["--root", root], args].concat(), &[]));
            let text = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(3), "{text}");
            assert!(text.contains(says) && text.contains("LARDER_ROOT"), "{text}");
        }
    }
    assert!(!base.join("missing").exists());
}

#[test]
fn a_configuration_is_checked_and_shown() {
    let host = Configured::new("require-encryption = [\"secret\"]\n\n[create]\nsize = \"1G\"\n");
    assert!(host.ok(&["config", "check"]).contains("can be used"));
    let shown = host.json(&["config", "show", "--json"])["settings"].clone();
    let setting = |name: &str| {
        let all = shown.as_array().unwrap();
        all.iter().find(|setting| setting["name"] == name).unwrap_or_else(|| panic!("{shown}")).clone()
    };
    assert_eq!(setting("create.size")["value"], "1G");
    assert!(setting("create.size")["from"].as_str().unwrap().ends_with("larder.toml, line 4"));
    assert_eq!(
        (&setting("cache-total")["value"], &setting("cache-total")["from"]),
        (&json!("25%"), &json!("built in"))
    );
    assert_eq!(setting("require-encryption")["value"], json!(["secret"]));
    assert!(setting("require-encryption")["from"].as_str().unwrap().ends_with("larder.toml, line 1"));
    assert_eq!(setting("root")["value"], host.host.root().to_str().unwrap());
    host.ok(&["create", "v"]);
    for (text, says) in [
        (
            "# x\nrequire-encrytion = true",
            "line 2: the key \"require-encrytion\" is unknown; did you mean \"require-encryption\"?",
        ),
        (
            "[create]\nsice = \"1G\"",
            "line 2: the key \"sice\" of [create] is unknown; did you mean \"size\"?",
        ),
        (
            "[create]\n\nsize = 10",
            "line 3: option \"size=10\": \"10\" is 10 bytes, and the smallest size limit is 1 MiB",
        ),
        (
            "[mount]\nnoatme = true",
            "line 2: the key \"noatme\" of [mount] is unknown; did you mean \"noatime\"?",
        ),
        ("[mount]\ncommit = 0", "line 2: mount option \"commit=0\""),
        ("[mount]\nro = \"perhaps\"", "line 2: option \"ro=perhaps\": write true or false"),
        (
            "[mount]\nkey-file = \"/k\"",
            "line 2: \"key-file\" says what new volumes are like; write it below [create]",
        ),
        (
            "[create]\nnoatime = true",
            "line 2: \"noatime\" says how volumes are mounted; write it below [mount]",
        ),
        ("[create]\nencrypt = \"perhaps\"", "line 2: option \"encrypt=perhaps\": write true or false"),
        ("[create]\nsize = \"1G\"\nsticky = 2", "line 3: option \"sticky=2\": write true or false"),
        ("[create]\nkey-file = \"k\"", "line 2: option \"key-file=k\": write the absolute path"),
        (
            "[create]\nkey-file = \"/k\"\npassphrase-file = \"/p\"",
            "line 3: give key-file or passphrase-file, not both",
        ),
        ("[create]\ntrash = \"soon\"", "line 2: option \"trash=soon\""),
        ("[colour]\nred = 1", "line 1: the key \"colour\" is unknown"),
        (
            "cache-total = 25",
            "line 1: \"25\" is 25 bytes, too little for caches; write a part of the memory, such as \"25%\"",
        ),
        ("\ncache-total = \"some\"", "line 2: \"some\" is not an amount of memory; write"),
        ("\nroot = \"here\"", "line 2: root = \"here\": write an absolute path"),
        ("a = [", "line 1: "),
    ] {
        let other = host.host.dir("etc").join("other.toml");
        fs::write(&other, text).unwrap();
        let line = host.fails(&["config", "check", other.to_str().unwrap()]);
        assert!(line.contains(says), "{text:?}: {line}");
        // Nothing is made or mounted as nobody meant it; what has to go, goes.
        fs::write(&host.file, text).unwrap();
        let dir = host.host.dir("nowhere");
        for args in [&["create", "w"][..], &["mount", "v", dir.to_str().unwrap()], &["config", "show"]] {
            assert!(host.fails(args).contains(says), "{text:?}");
        }
        assert!(host.ok(&["ls"]).contains('v'));
    }
    // Who writes down what is built in has said so.
    let root = host.host.root().display().to_string();
    fs::write(&host.file, format!("# x\ntrash = \"24h\"\nroot = \"{root}\"\ncache-total = \"1G\"\n"))
        .unwrap();
    let shown = host.json(&["config", "show", "--json"])["settings"].clone();
    for (name, line) in [("trash", 2), ("cache-total", 4)] {
        let setting = shown.as_array().unwrap().iter().find(|setting| setting["name"] == name).unwrap();
        assert!(
            setting["from"].as_str().unwrap().ends_with(&format!("larder.toml, line {line}")),
            "{setting}"
        );
    }
    assert!(host.ok(&["get", "v"]).lines().any(|row| row.starts_with("trash") && row.ends_with(", line 2")));
    fs::remove_file(&host.file).unwrap();
    assert!(host.fails(&["config", "check"]).contains("does not exist"));
}

#[test]
fn sizes_are_as_the_policies_of_the_host_demand() {
    let host = Configured::new("");
    let file = host.file.display().to_string();
    host.ok(&["create", "large", "--size", "20G"]);
    host.ok(&["create", "free"]);
    fs::write(&host.file, "[policies]\nrequire-size = true\nmax-size = \"10G\"\n").unwrap();
    assert!(host.ok(&["config", "check"]).contains("can be used"));
    let shown = host.json(&["config", "show", "--json"])["settings"].clone();
    for (name, value, line) in
        [("policies.require-size", json!(true), 2), ("policies.max-size", json!("10G"), 3)]
    {
        let setting = shown.as_array().unwrap().iter().find(|setting| setting["name"] == name).unwrap();
        assert_eq!(setting["value"], value, "{setting}");
        assert!(setting["from"].as_str().unwrap().ends_with(&format!("line {line}")), "{setting}");
    }
    let refuses = |args: &[&str], key: &str| {
        let why = host.fails(args);
        assert!(why.contains(&format!("{key} in [policies] of {file}")), "{args:?}: {why}");
    };
    refuses(&["create", "v"], "require-size");
    refuses(&["create", "v", "--size", "none"], "require-size");
    refuses(&["create", "v", "--size", "11G"], "max-size");
    refuses(&["clone", "large", "v"], "max-size");
    refuses(&["create", "v", "--from", "large"], "max-size");
    refuses(&["clone", "free", "v"], "require-size");
    refuses(&["clone", "free", "v", "--size", "11G"], "max-size");
    assert_eq!(host.ok(&["ls", "-q"]), "free\nlarge\n");
    host.ok(&["create", "v", "--size", "10G"]);
    host.ok(&["clone", "large", "c", "--size", "1G"]);
    host.ok(&["clone", "c", "d"]);
    refuses(&["resize", "v", "+1M"], "max-size");
    refuses(&["resize", "v", "--size", "11G"], "max-size");
    refuses(&["resize", "v", "--size", "none"], "require-size");
    refuses(&["set", "v", "size=11G"], "max-size");
    refuses(&["set", "v", "--unset", "size"], "require-size");
    host.ok(&["resize", "c", "+1G"]);
    host.ok(&["resize", "v", "--inodes", "+5"]);
    // What is larger already can become smaller, and stay as it is.
    host.ok(&["resize", "large", "-1G"]);
    host.ok(&["resize", "large", "--size", "15G"]);
    host.ok(&["resize", "large", "--size", "15G", "--inodes", "none"]);
    refuses(&["resize", "large", "--size", "16G"], "max-size");
    host.ok(&["resize", "free", "--size", "12G"]);
    refuses(&["resize", "free", "--size", "none"], "require-size");
    // Also while it is mounted.
    host.host.mount("v", &[]);
    refuses(&["resize", "v", "+1M"], "max-size");
    host.ok(&["resize", "v", "-1M"]);
    host.host.umount("v");
    // Also by several at once, each of which would be allowed alone.
    let raise = |command: &mut Command| {
        loop {
            let output = run(command);
            if output.status.success() {
                return true;
            }
            let why = String::from_utf8_lossy(&output.stderr).into_owned();
            // Another one has it open for a moment.
            if output.status.code() != Some(5) {
                assert!(
                    why.contains("would have a size limit of 10921967616, and max-size in [policies] of "),
                    "{why}"
                );
                return false;
            }
        }
    };
    let raise_at_once = || {
        let mut commands: Vec<_> = (0..8).map(|_| host.command(&["resize", "v", "+600M"])).collect();
        std::thread::scope(|scope| {
            let raised: Vec<_> =
                commands.iter_mut().map(|command| scope.spawn(move || raise(command))).collect();
            raised.into_iter().filter_map(|raised| raised.join().unwrap().then_some(())).count()
        })
    };
    for mounted in [false, true] {
        host.ok(&["resize", "v", "9G"]);
        if mounted {
            host.host.mount("v", &[]);
        }
        assert_eq!(raise_at_once(), 1);
        let size = host.json(&["inspect", "v", "--json"])["size"].as_u64().unwrap();
        assert_eq!(size, (9 << 30) + (600 << 20));
    }
    host.host.umount("v");
    // The largest is demanded by itself, too.
    fs::write(&host.file, "[policies]\nmax-size = \"10G\"\n").unwrap();
    refuses(&["create", "w"], "max-size");
    fs::write(&host.file, "[policies]\nrequire-size = true\n\n[create]\nsize = \"1G\"\n").unwrap();
    host.ok(&["create", "w"]);
    for (text, says) in [
        (
            "[policies]\nrequire-sice = true",
            "line 2: the key \"require-sice\" is unknown; did you mean \"require-size\"?",
        ),
        ("[policies]\nmax-size = \"much\"", "line 2: \"much\" is not a size"),
        ("[policies]\nmax-size = \"1K\"", "the smallest size limit is 1 MiB"),
        ("[policies]\nrequire-size = \"perhaps\"", "line 2: "),
        (
            "[policies]\nmax-size = \"1G\"\n[create]\nsize = \"2G\"",
            "line 4: the size of [create] is 2G, and max-size in [policies] allows 1G at most",
        ),
    ] {
        fs::write(&host.file, text).unwrap();
        for args in [&["config", "check"][..], &["create", "x", "--size", "1M"]] {
            let why = host.fails(args);
            assert!(why.contains(says), "{text:?}: {why}");
        }
    }
}

#[test]
fn new_volumes_are_encrypted_and_sticky_where_that_is_usual_and_nothing_else_is_said() {
    let host = Configured::new("");
    let keys = host.host.dir("keys");
    let key = keys.join("usual");
    fs::write(&key, [3; 64]).unwrap();
    let usual = format!("encrypt = true\nkey-file = \"{}\"\nsticky = true\ntrash = \"7d\"\n", key.display());
    fs::write(&host.file, format!("[create]\n{usual}")).unwrap();
    let is = |name: &str| {
        let shown = host.json(&["inspect", name]);
        (shown["encrypted"].as_bool().unwrap(), shown["sticky"].as_bool().unwrap())
    };
    assert_eq!(host.ok(&["create", "usual"]), "usual\n");
    host.ok(&["create", "plain", "--encrypt=false", "--sticky=false", "--trash", "1h"]);
    host.ok(&["create", "loose", "--sticky=false"]);
    host.ok(&["create", "plain-clone", "--from", "plain"]);
    // What is usual changes; volumes stay as they are, and can be opened.
    fs::write(&host.file, "").unwrap();
    host.ok(&["create", "later"]);
    assert_eq!([is("usual"), is("plain"), is("loose")], [(true, true), (false, false), (true, false)]);
    assert_eq!([is("plain-clone"), is("later")], [(false, false), (false, false)]);
    let dir = host.host.mount("usual", &[]);
    fs::write(dir.join("file"), "x").unwrap();
    host.host.umount("usual");
    let get =
        |name: &str, option: &str| host.json(&["get", name, "--json"])["options"][option]["value"].clone();
    assert_eq!([get("usual", "trash"), get("plain", "trash")], [json!("7d"), json!("1h")]);
    let why = run(&mut host.command(&["rm", "usual"]));
    assert!(String::from_utf8_lossy(&why.stderr).contains("sticky"), "{why:?}");
    host.ok(&["set", "usual", "sticky=false"]);
    assert_eq!(is("usual"), (true, false));
    // Another secret than the usual one need not be remembered.
    fs::write(&host.file, format!("[create]\n{usual}")).unwrap();
    let other = keys.join("other");
    fs::write(&other, [4; 64]).unwrap();
    let other = other.to_str().unwrap();
    host.ok(&["create", "own", "--key-file", other]);
    host.ok(&["df", "own", "--key-file", other]);
    for (args, says) in [
        (&["create", "x", "--encrypt=false", "--key-file", other][..], "not to be encrypted"),
        (
            &["create", "x", "--encrypt=false", "--recovery-key"],
            "only an encrypted volume has a recovery key",
        ),
        (&["create", "x", "--encrypt=perhaps"], "invalid value"),
    ] {
        let output = run(&mut host.command(args));
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(says), "{output:?}");
    }
    assert!(host.ok(&["create", "x", "--recovery-key"]).contains("recovery key: "));
}

/// It was said to be done, of another root.
#[test]
fn everything_is_unmounted_though_the_configuration_that_names_the_root_cannot_be_used() {
    let host = Configured::new("");
    let dir = host.host.dir("mnt");
    host.ok(&["create", "v"]);
    host.ok(&["mount", "v", dir.to_str().unwrap()]);
    let unmount = |text: &str| {
        fs::write(&host.file, text).unwrap();
        let mut command = Command::new(crate::support::larder());
        run(command.args(["umount", "--all"]).env("LARDER_CONFIG", &host.file).env_remove("LARDER_ROOT"))
    };
    // It names one that is not understood.
    let output = unmount("root = here\n");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && said.contains("--root DIR"), "{said}");
    let root = host.host.root().to_str().unwrap();
    let output = unmount(&format!("root = \"{root}\"\ntrahs = \"1d\"\n"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains(&format!("going on with {root}")), "{said}");
    fs::write(&host.file, "").unwrap();
    assert_eq!(host.json(&["inspect", "v"])["state"], "unmounted");
}

#[test]
fn what_contradicts_itself_is_named() {
    let host = Configured::new("");
    for (text, says) in [
        ("[mount]\nnoatime = true\nrelatime = true", "line 3: noatime and relatime exclude each other"),
        (
            "require-encryption = true\n[create]\nencrypt = false",
            "line 3: new volumes are not encrypted, and",
        ),
        ("[mount]\nnoatime = true\nrelatime = false", ""),
        ("require-encryption = [\"a\"]\n[create]\nencrypt = false", ""),
    ] {
        fs::write(&host.file, text).unwrap();
        let output = run(&mut host.command(&["config", "check"]));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            output.status.success() && said.contains(says) && said.is_empty() == says.is_empty(),
            "{text}: {said}"
        );
    }
    let shown = host.json(&["config", "show", "--json"])["settings"].clone();
    let value = |name: &str| {
        let all = shown.as_array().unwrap();
        all.iter().find(|setting| setting["name"] == name).unwrap_or_else(|| panic!("{shown}"))["value"]
            .clone()
    };
    assert_eq!((value("create.encrypt"), value("trash-reserve")), (json!(false), json!("5%, at most 10G")));
}
