//! What somebody has chosen, and somebody else changes before it is done: commands that wait for an answer, or for a secret, here until the
//! test lets them go on.

use super::Kept;
use crate::support::{Host, run, shell, wait_until};
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// A command on a terminal that has asked, and waits for the answer.
struct Asked {
    child: Child,
    said: String,
}

impl Asked {
    fn new(host: &Kept, args: &[&str]) -> Self {
        let words: Vec<String> = [crate::support::larder(), "--root", host.root().to_str().unwrap()]
            .iter()
            .chain(args)
            .map(|word| format!("'{word}'"))
            .collect();
        let mut child = Command::new("script")
            .args(["-qec", &words.join(" "), "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut said, mut byte) = (Vec::new(), [0]);
        let out = child.stdout.as_mut().unwrap();
        while !said.ends_with(b"[y/N] ") {
            assert_eq!(out.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&said));
            said.push(byte[0]);
        }
        Self { child, said: String::from_utf8_lossy(&said).into_owned() }
    }

    /// Answers; all that was to be seen.
    fn yes(mut self) -> String {
        self.child.stdin.take().unwrap().write_all(b"y\n").unwrap();
        let mut rest = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
        self.child.wait().unwrap();
        self.said + &rest
    }
}

/// Holds up whoever opens a volume with its key command.
struct Gate {
    dir: PathBuf,
    key: PathBuf,
}

impl Gate {
    fn new(host: &Kept) -> Self {
        let dir = host.dir("gate");
        for name in ["open", "waiting"] {
            let _ = fs::remove_file(dir.join(name));
        }
        Self { dir, key: host.key_file().unwrap().to_owned() }
    }

    /// Starts a command that waits before the gate.
    fn wait(&self, host: &Kept, args: &[&str]) -> Child {
        let dir = self.dir.display();
        let script = format!(
            "touch {dir}/waiting; while [ ! -e {dir}/open ]; do sleep 0.02; done; cat {}",
            self.key.display()
        );
        let mut command = host.larder(&[args, &["--key-command", &script]].concat());
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_until("it waits", || self.dir.join("waiting").exists());
        child
    }

    /// Lets it go on; its exit code, and what it said.
    fn open(&self, child: Child) -> (Option<i32>, String) {
        fs::write(self.dir.join("open"), "").unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }
}

fn snapshots(host: &Kept, volume: &str) -> Vec<(String, Value)> {
    let listed = host.host.json(&["snapshot", "ls", volume, "--json"]);
    let one = |of: &Value| (of["name"].as_str().unwrap().to_owned(), of["labels"].clone());
    listed.as_array().unwrap().iter().map(one).collect()
}

#[test]
fn snapshots_that_were_chosen_are_removed_and_not_others_that_have_their_names() {
    let host = Kept::new(Host::plain());
    host.does(&["create", "v"]);
    for name in ["v@a", "v@b"] {
        host.does(&["snapshot", "create", name]);
    }
    let asked = Asked::new(&host, &["snapshot", "rm", "v@*"]);
    host.does(&["snapshot", "rm", "v@a"]);
    host.does(&["snapshot", "create", "v@a", "--label", "is=new"]);
    let said = asked.yes();
    assert!(
        said.contains(
            "snapshot v@a has been replaced by another one of that name meanwhile, which was not removed"
        ),
        "{said}"
    );
    assert_eq!(snapshots(&host, "v"), [("a".to_owned(), json!({ "is": "new" }))]);
    // Another volume gets the name, with snapshots that have the same names and numbers.
    host.does(&["snapshot", "create", "v@b"]);
    let asked = Asked::new(&host, &["snapshot", "rm", "v@*"]);
    host.does(&["rm", "v"]);
    host.does(&["create", "v"]);
    for name in ["v@b", "v@a"] {
        host.does(&["snapshot", "create", name]);
    }
    let said = asked.yes();
    assert!(said.contains("another one has its name"), "{said}");
    assert_eq!(snapshots(&host, "v").len(), 2);
}

#[test]
fn volumes_that_were_shown_are_removed_and_not_others_that_have_their_names() {
    let host = Kept::new(Host::plain());
    for args in [&["prune"][..], &["rm", "v"]] {
        host.does(&["create", "v"]);
        let asked = Asked::new(&host, args);
        host.does(&["rm", "v"]);
        host.does(&["create", "v"]);
        host.does(&["set", "v", "noatime=true"]);
        let before = host.host.store("v");
        let said = asked.yes();
        assert!(host.names() == ["v"] && host.host.store("v") == before, "{said}");
        host.does(&["rm", "v"]);
    }
}

#[test]
fn who_types_a_secret_keeps_nobody_from_making_volumes() {
    let host = Kept::new(Host::encrypted());
    host.host.ok(&["create", "v"]);
    host.host.ok(&["clone", "v", "w"]);
    for (args, names) in [
        (&["clone", "v", "x"][..], &["other", "v", "w", "x"][..]),
        (&["rename", "x", "y"], &["other", "v", "w", "y"]),
        (&["rm", "--now", "y"], &["other", "v", "w"]),
    ] {
        let gate = Gate::new(&host);
        let waiting = gate.wait(&host, args);
        // (This would wait for the other one.)
        host.does(&["create", "other"]);
        assert_eq!(gate.open(waiting), (Some(0), String::new()), "{args:?}");
        assert_eq!(host.names(), names);
        host.does(&["rm", "--now", "other"]);
    }
    for args in [&["trash", "restore", "w", "x"][..], &["trash", "empty", "--force", "x"]] {
        host.does(&["rm", if args[1] == "restore" { "w" } else { "x" }]);
        let gate = Gate::new(&host);
        let waiting = gate.wait(&host, args);
        host.does(&["create", "other"]);
        assert_eq!(gate.open(waiting), (Some(0), String::new()), "{args:?}");
        host.does(&["rm", "--now", "other"]);
    }
    assert_eq!(host.names(), ["v"]);
    host.check("v");
}

#[test]
fn a_mount_that_waited_for_its_secret_is_not_of_a_volume_that_was_removed_meanwhile() {
    let host = Kept::new(Host::encrypted());
    host.host.ok(&["create", "v"]);
    let dir = host.make_mountpoint("v");
    let gate = Gate::new(&host);
    let waiting = gate.wait(&host, &["mount", "v", dir.to_str().unwrap()]);
    host.does(&["rm", "v"]);
    host.host.ok(&["create", "v"]);
    let (code, said) = gate.open(waiting);
    assert!(code == Some(3) && said.contains("another one has its name"), "{said}");
    assert!(larder::mount::entry_at(&dir).unwrap().is_none());
    // Both are there, and free.
    wait_until("the server has ended", || host.servers().is_empty());
    host.does_with_key(&["trash", "restore", "v", "w"]);
    host.check("v");
    host.check("w");
}

#[test]
fn a_hold_of_a_volume_that_was_removed_meanwhile_is_none() {
    let host = Kept::new(Host::encrypted());
    host.host.ok(&["create", "v"]);
    host.host.ok(&["snapshot", "create", "v@a"]);
    host.host.ok(&["clone", "v", "relative"]);
    let gate = Gate::new(&host);
    let waiting = gate.wait(&host, &["hold", "backup", "v@a"]);
    host.does(&["rm", "v"]);
    let (code, said) = gate.open(waiting);
    assert!(code == Some(3) && said.contains("v@a is not held"), "{said}");
    host.does(&["trash", "restore", "v"]);
    assert_eq!(host.host.json(&["snapshot", "ls", "v", "--json"])[0]["holds"], json!([]));
    host.does_with_key(&["rm", "v"]);
    host.does_with_key(&["trash", "empty", "--force"]);
    host.check("relative");
}

#[test]
fn a_secret_from_a_pipe_is_read_once_for_all_that_needs_it() {
    let host = Kept::new(Host::plain());
    let pass = host.dir("secrets").join("pass");
    fs::write(&pass, "open sesame\n").unwrap();
    let pass = pass.display();
    let script = |command: &str| {
        format!(
            "larder() {{ '{}' --root '{}' \"$@\"; }}; {command}",
            crate::support::larder(),
            host.root().display()
        )
    };
    let does = |command: &str| shell(host.root().parent().unwrap(), &script(command));
    does(&format!("larder create v --encrypt --passphrase-file {pass}"));
    does(&format!("larder clone v relative --passphrase-file {pass}"));
    // What it is called in the store is looked at, and changed.
    does("larder rm v");
    does(&format!("larder trash restore v x --passphrase-fd 3 3< <(cat {pass})"));
    does(&format!("larder snapshot create --all @s --passphrase-fd 3 3< <(cat {pass})"));
    assert_eq!(host.names(), ["relative", "x"]);
}

#[test]
fn what_comes_back_is_what_was_removed_and_may_be_there() {
    let host = Kept::new(Host::plain());
    host.does(&["create", "v"]);
    host.does(&["clone", "v", "relative"]);
    host.does(&["rm", "v"]);
    // What an interruption has left of another volume.
    let record = super::record(&host, "v");
    fs::create_dir_all(record.parent().unwrap()).unwrap();
    let stale = json!({ "store": "0".repeat(32), "created": 0, "options": { "sticky": "true" } });
    fs::write(&record, stale.to_string()).unwrap();
    host.does(&["trash", "restore", "v"]);
    assert!(!record.exists());
    host.does(&["rm", "v"]);
    // What the host demands since.
    host.configure("require-encryption = [\"v\"]\n");
    let why = host.refuses(13, &["trash", "restore", "v"]);
    assert!(why.contains("must be encrypted"), "{why}");
    assert_eq!((host.trashed_names(), host.names()), (vec!["v".to_owned()], vec!["relative".to_owned()]));
    host.does(&["trash", "restore", "v", "w"]);
    // A secret that opens others is not held against what is not encrypted.
    host.does(&["rm", "w"]);
    let key = host.dir("secrets").join("key");
    fs::write(&key, [7; 64]).unwrap();
    host.does(&["trash", "empty", "--force", "--key-file", key.to_str().unwrap()]);
    assert!(host.trash().is_empty());
    host.check("relative");
}

/// A hold that comes between the look of a removal and the removal itself has either kept the volume, or was refused.
#[test]
fn a_hold_beside_a_removal_holds_or_is_refused() {
    for is_served in [false, true] {
        let host = Kept::new(Host::plain());
        host.does(&["create", "relative"]);
        for round in 0..6u64 {
            host.does(&["clone", "relative", "v"]);
            host.does(&["snapshot", "create", "v@a"]);
            if is_served {
                host.mount("relative", &[]);
            }
            let now: &[&str] = if round % 2 == 0 { &["rm", "v"] } else { &["rm", "v", "--now"] };
            let mut removal = host.larder(now).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
            std::thread::sleep(std::time::Duration::from_millis(round * 3));
            let held = run(&mut host.larder(&["hold", "backup", "v@a"]));
            let is_removed = removal.wait().unwrap().success();
            assert_ne!(is_removed, held.status.success(), "round {round}: {held:?}");
            if is_removed {
                assert!(!host.names().contains(&"v".to_owned()));
                host.does(&["trash", "empty", "--force"]);
            } else {
                assert_eq!(host.host.json(&["snapshot", "ls", "v", "--json"])[0]["holds"], json!(["backup"]));
                host.does(&["release", "backup", "v@a"]);
                host.does(&["rm", "--now", "v"]);
            }
            if is_served {
                host.umount("relative");
            }
        }
        host.check("relative");
    }
}
