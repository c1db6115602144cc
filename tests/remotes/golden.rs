//! Remotes that earlier programs made: every version attaches them, finds what was in them, and goes on with them. `make_golden_remotes`
//! made them.

use super::mounted::remote;
use crate::support::{Host, shell, state, succeed};
use std::fs;
use std::path::{Path, PathBuf};

/// Of the golden remotes: 1 has the feature `remote-1`.
const VERSION: u32 = 1;
/// What there is in them, and may be mounted.
const VOLUMES: [&str; 4] = ["db", "db@one", "db@two", "twin"];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn key() -> String {
    fixtures().join("golden.key").display().to_string()
}

/// The options of a command, and of a mount, that open an encrypted one.
fn secret(name: &str) -> (Vec<String>, Vec<String>) {
    match name.ends_with("encrypted") {
        false => (Vec::new(), Vec::new()),
        true => (vec!["--key-file".into(), key()], vec!["-o".into(), format!("key-file={}", key())]),
    }
}

fn with(host: &Host, args: &[&str], more: &[String]) -> String {
    succeed(host.command(args).args(more))
}

fn mount(host: &Host, volume: &str, options: &[String]) -> PathBuf {
    host.mount(volume, &options.iter().map(String::as_str).collect::<Vec<_>>())
}

fn state_file(name: &str, volume: &str) -> PathBuf {
    fixtures().join(format!("{name}.{}.state", volume.replace('@', "-")))
}

/// All that is in a host's volumes is as it was when the remote was made.
fn has_all(host: &Host, name: &str, prefix: &str, options: &[String]) {
    for volume in VOLUMES {
        let called = format!("{prefix}{volume}");
        let dir = mount(host, &called, options);
        assert_eq!(state(&dir), fs::read_to_string(state_file(name, volume)).unwrap(), "{name}: {volume}");
        host.umount(&called);
    }
}

fn opens(name: &str) {
    let (host, other) = (Host::plain(), Host::plain());
    let objects = host.dir("objects");
    shell(&objects, &format!("tar -xJf {}", fixtures().join(format!("{name}.tar.xz")).display()));
    let url = format!("file://{}/db", objects.display());
    let (given, options) = secret(name);
    let files = || shell(&objects, "find . -type f -exec sha256sum {} + | sort");
    let before = files();
    // Who only looks changes nothing.
    assert!(with(&host, &["remote", "check", &url, "--read-data"], &given).contains("clean"));
    let listed = with(&host, &["remote", "history", &url, "--json"], &given);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let moments = listed["moments"].as_array().unwrap();
    let newest = moments.last().unwrap()["record"].to_string();
    assert!(moments.iter().any(|moment| moment["kind"] == "image") && moments.len() > 3, "{listed}");
    with(&host, &["attach", &url, "then", "--at", &newest], &given);
    has_all(&host, name, "then-", &options);
    assert_eq!(files(), before);
    // It goes on.
    assert_eq!(with(&host, &["attach", &url], &given), "db\ntwin\n");
    has_all(&host, name, "", &options);
    let dir = mount(&host, "db", &options);
    assert_eq!(shell(&dir, "getfattr -n user.golden --only-values dir/f3"), "yes");
    shell(&dir, "echo more > more; rm dir/f7; sync more");
    host.ok(&["remote", "sync", "db"]);
    assert_eq!(remote(&host, "db")["lag_s"], 0);
    let now = state(&dir);
    host.umount("db");
    with(&host, &["check", "db", "--read-data"], &given);
    with(&other, &["attach", &url], &given);
    assert_eq!(state(&mount(&other, "db", &options)), now);
    other.umount("db");
    // What it was is still there.
    with(&other, &["attach", &url, "then", "--at", &newest], &given);
    has_all(&other, name, "then-", &options);
}

#[test]
fn version_1() {
    opens("golden-remote-1");
}

#[test]
fn version_1_encrypted() {
    opens("golden-remote-1-encrypted");
}

/// To be run once when what is written has changed, with a new version.
#[test]
#[ignore = "makes the golden remotes, which are not made again"]
fn make_golden_remotes() {
    for name in [format!("golden-remote-{VERSION}"), format!("golden-remote-{VERSION}-encrypted")] {
        let archive = fixtures().join(format!("{name}.tar.xz"));
        assert!(!archive.exists(), "{} is there: golden remotes are not made again", archive.display());
        let host = Host::plain();
        let objects = host.dir("objects");
        let url = format!("file://{}/db", objects.display());
        let (given, options) = secret(&name);
        let encrypt: Vec<String> =
            given.first().map(|_| "--encrypt".to_owned()).into_iter().chain(given).collect();
        let create =
            ["create", "db", "--size", "64M", "--inodes", "500", "--label", "app=golden", "--remote", &url];
        with(&host, &create, &encrypt);
        let dir = mount(&host, "db", &options);
        shell(
            &dir,
            "mkdir -p dir/sub empty; for i in {1..20}; do seq 1 $((i * 40)) > dir/f$i; done
             head -c 60000 /dev/zero | tr '\\0' 'g' > large
             truncate -s 1M sparse; printf x | dd of=sparse bs=1 seek=700000 conv=notrunc status=none
             ln dir/f1 hard; ln -s dir/f2 soft; mkfifo pipe; setfattr -n user.golden -v yes dir/f3
             chmod 4755 dir/f4; chown 1000:1000 dir/f5; fallocate -l 9M reserved",
        );
        host.ok(&["remote", "sync", "db"]);
        host.ok(&["snapshot", "create", "db@one", "--label", "when=first"]);
        shell(&dir, "rm dir/f1?; echo changed > dir/f20; mv dir/sub moved; truncate -s 20000 large");
        host.ok(&["remote", "sync", "db"]);
        host.ok(&["snapshot", "create", "db@two"]);
        host.ok(&["clone", "db@one", "twin"]);
        host.ok(&["clone", "db@one", "gone"]);
        shell(&dir, "rm -r moved; echo last > last; sync last");
        host.ok(&["rm", "gone"]);
        host.ok(&["remote", "sync", "db"]);
        // Each opening of the store ships all of its metadata, which do not compress where they are encrypted.
        for volume in VOLUMES {
            let dir = if volume == "db" { dir.clone() } else { mount(&host, volume, &options) };
            fs::write(state_file(&name, volume), state(&dir)).unwrap();
        }
        VOLUMES.iter().rev().for_each(|volume| host.umount(volume));
        shell(&objects, &format!("tar --sort=name --owner=0 --group=0 -cJf {} db", archive.display()));
    }
}
