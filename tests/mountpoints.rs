//! Mountpoints that are recorded, and mounting all that have one.

use crate::support::{Host, Writer, run, wait_until};
use serde_json::json;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

struct Places<'a> {
    host: &'a Host,
    top: PathBuf,
}

impl<'a> Places<'a> {
    fn new(host: &'a Host) -> Self {
        Self { host, top: host.public_dir("places") }
    }

    /// Records a mountpoint, which does not exist yet.
    fn set(&self, volume: &str, place: &str) -> PathBuf {
        let dir = self.top.join(place);
        self.host.ok(&["set", volume, &format!("mountpoint={}", dir.display())]);
        self.host.adopt(&dir);
        dir
    }
}

fn mounted(host: &Host) -> Vec<String> {
    let listed = host.json(&["ls", "--json"]);
    let mut mounted: Vec<String> = listed
        .as_array()
        .unwrap()
        .iter()
        .filter(|volume| volume["mountpoints"] != json!([]))
        .map(|volume| volume["name"].as_str().unwrap().to_owned())
        .collect();
    mounted.sort();
    mounted
}

#[test]
fn all_volumes_that_have_a_mountpoint_are_mounted_and_unmounted() {
    let host = Host::plain();
    for name in ["a", "below", "none", "hand"] {
        host.ok(&["create", name]);
    }
    let key = host.dir("keys").join("key");
    fs::write(&key, [7; 64]).unwrap();
    let key = key.to_str().unwrap();
    host.ok(&["create", "secret", "--encrypt", "--key-file", key]);
    let places = Places::new(&host);
    // In an order that is not that of their names.
    let below = places.set("below", "z/below");
    let a = places.set("a", "z");
    let secret = places.set("secret", "secret");
    host.ok(&["set", "secret", &format!("key-file={key}"), "noatime=true"]);
    let hand = host.mount("hand", &[]);
    places.set("hand", "hand");
    let lines = host.ok(&["mount", "--all"]);
    let is_mounted = |name: &str, dir: &PathBuf| format!("{name} is mounted on {}\n", dir.display());
    assert_eq!(lines, is_mounted("secret", &secret) + &is_mounted("a", &a) + &is_mounted("below", &below));
    assert_eq!(mounted(&host), ["a", "below", "hand", "secret"]);
    let options = host.json(&["inspect", "secret"])["mounts"][0]["options"].as_str().unwrap().to_owned();
    assert!(options.contains("noatime"), "{options}");
    fs::write(below.join("f"), "below").unwrap();
    fs::write(a.join("f"), "a").unwrap();
    // Nothing to do.
    assert_eq!(host.ok(&["mount", "-a"]), "");
    // One that is in use stays, and what it lies in; all others go.
    let open = fs::File::open(below.join("f")).unwrap();
    let output = run(&mut host.command(&["umount", "-a"]));
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    assert_eq!(mounted(&host), ["a", "below"]);
    drop(open);
    host.ok(&["umount", "-a"]);
    assert_eq!(mounted(&host), [""; 0]);
    assert!(fs::read_dir(&hand).unwrap().next().is_none());
    assert_eq!(host.ok(&["umount", "-a"]), "");
    wait_until("their servers end", || host.servers().is_empty());
    // One by one.
    assert_eq!(host.ok(&["mount", "a"]), is_mounted("a", &a));
    assert_eq!(fs::read_to_string(a.join("f")).unwrap(), "a");
    host.ok(&["umount", "a"]);
    assert!(host.fails(2, &["mount", "none"]).contains("mountpoint=DIR"));
    host.ok(&["set", "a", "mountpoint=none"]);
    assert!(host.fails(2, &["mount", "a"]).contains("mountpoint"));
    // Other settings leave it alone, and it goes with another name.
    host.ok(&["set", "below", "commit=1"]);
    host.ok(&["rename", "below", "beside"]);
    assert_eq!(host.ok(&["mount", "beside"]), is_mounted("beside", &below));
    assert_eq!(fs::read_to_string(below.join("f")).unwrap(), "below");
    host.ok(&["umount", "-a"]);
    for (bad, place) in [("relative", "x/y"), ("up", "/mnt/../etc"), ("root", "/")] {
        let why = host.fails(2, &["set", "a", &format!("mountpoint={place}")]);
        assert!(why.contains("mountpoint"), "{bad}: {why}");
    }
}

#[test]
fn what_cannot_be_mounted_is_said_and_nothing_is_mounted_below_it() {
    let host = Host::plain();
    for name in ["a", "b", "c"] {
        host.ok(&["create", name]);
    }
    let places = Places::new(&host);
    let above = places.set("a", "a");
    places.set("b", "a/b");
    places.set("c", "c");
    // It is not empty.
    fs::create_dir(&above).unwrap();
    fs::write(above.join("f"), "of the host").unwrap();
    let output = run(&mut host.command(&["mount", "-a"]));
    assert_eq!(output.status.code(), Some(6));
    let why = String::from_utf8(output.stderr).unwrap();
    assert!(why.contains("volume \"a\" is not mounted") && why.contains("lies below"), "{why}");
    assert_eq!(why.lines().count(), 2, "{why}");
    assert_eq!(mounted(&host), ["c"]);
    assert!(!above.join("b").exists());
    host.ok(&["umount", "-a"]);
}

#[test]
fn all_servers_end_when_that_is_forced_and_keep_what_programs_wrote() {
    let host = Host::plain();
    let dirs = [host.volume("v", &[]), host.volume("w", &[])];
    let mut writer = Writer::open(dirs[0].join("f"));
    writer.write("written");
    let output = run(&mut host.command(&["umount", "--all"]));
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    let output = run(&mut host.command(&["umount", "--force", "v"]));
    assert!(output.status.code() == Some(2) && String::from_utf8_lossy(&output.stderr).contains("--force"));
    host.ok(&["umount", "--all", "--force"]);
    assert_eq!(host.servers(), [0; 0]);
    assert!(dirs.iter().all(|dir| fs::read_dir(dir).unwrap().next().is_none()));
    assert_eq!(fs::read_to_string(host.mount("v", &[]).join("f")).unwrap(), "written");
    host.ok(&["umount", "-a", "-f"]);
    host.ok(&["umount", "-a", "-f"]);
    drop(writer);
}

/// A name says which volume of a root is meant, and nothing of those of others.
#[test]
fn volumes_of_several_roots_that_are_called_alike_are_not_taken_for_each_other() {
    let (host, other) = (Host::plain(), Host::plain());
    let (dir, there) = (host.volume("v", &[]), other.volume("v", &[]));
    let dir_of_other = there.to_str().unwrap();
    // One's server has no say in the other's mount.
    let refused = host.fails(6, &["mount", "-o", "remount,ro", "v", dir_of_other]);
    assert!(refused.contains("of another root") && refused.contains(dir.to_str().unwrap()), "{refused}");
    fs::write(there.join("f"), "still writable").unwrap();
    host.ok(&["umount", dir_of_other]);
    assert!(!there.join("f").exists());
    fs::write(dir.join("f"), "still mounted").unwrap();
    // What died of one is none of the other's affair.
    host.ok(&["umount", "v"]);
    wait_until("the server is on its way", || other.servers().is_empty());
    let there = other.mount("v", &[]);
    other.kill_server("v");
    let listed = host.ok(&["ls"]);
    assert!(!listed.contains("dead"), "{listed}");
    let refused = host.fails(6, &["umount", "v"]);
    assert!(refused.contains("not mounted"), "{refused}");
    let is_mounted_with = |option: &str| {
        let script = format!("findmnt -rno VFS-OPTIONS -M {dir_of_other} | tr , '\\n' | grep -qx {option}");
        run(Command::new("sh").arg("-c").arg(script)).status.success()
    };
    assert!(is_mounted_with("rw"));
    let listed = other.ok(&["ls"]);
    assert!(listed.contains(&format!("{dir_of_other} (dead)")), "{listed}");
    assert!(is_mounted_with("ro"));
    other.ok(&["umount", "v"]);
    assert_eq!(other.mount("v", &[]), there);
    fs::write(there.join("g"), "mounted again").unwrap();
}

#[test]
fn nothing_is_mounted_below_the_place_of_a_volume_that_is_mounted_elsewhere() {
    let host = Host::plain();
    for name in ["a", "b"] {
        host.ok(&["create", name]);
    }
    let places = Places::new(&host);
    let above = places.set("a", "a");
    let below = places.set("b", "a/b");
    let elsewhere = host.mount("a", &[]);
    let output = run(&mut host.command(&["mount", "--all"]));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(6), "{said}");
    assert!(said.contains(&format!("volume \"a\" stays mounted on {}", elsewhere.display())), "{said}");
    assert!(said.contains(&format!("{} lies below {}", below.display(), above.display())), "{said}");
    assert_eq!(mounted(&host), ["a"]);
    host.umount("a");
    host.ok(&["mount", "--all"]);
    assert_eq!(mounted(&host), ["a", "b"]);
    assert_eq!(host.ok(&["mount", "--all"]), "");
    host.ok(&["umount", "--all"]);
}
