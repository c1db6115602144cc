//! What commands say of a remote, and take.

use super::mounted::{remote, url};
use crate::support::{Host, pattern, run, state, wait_until};
use std::fs;

const USAGE: i32 = 2;

#[test]
fn how_it_is_with_a_remote_is_said() {
    let a = Host::plain();
    let objects = a.dir("objects");
    let here = a.volume("db", &["--remote", &url(&objects)]);
    fs::write(here.join("f"), pattern(5_000_000, 1)).unwrap();
    a.ok(&["remote", "sync", "db"]);
    let said = remote(&a, "db");
    let shipped: jiff::Timestamp = said["shipped"].as_str().unwrap().parse().unwrap();
    assert!(shipped <= jiff::Timestamp::now(), "{said}");
    let host = nix::unistd::gethostname().unwrap();
    assert_eq!(said["owner_host"].as_str().unwrap(), host.to_str().unwrap());
    assert!(said["bytes"].as_u64().unwrap() >= 5_000_000 && said["objects"].as_u64().unwrap() > 0, "{said}");
    assert_eq!(said["uploading"], serde_json::Value::Null);
    let lists = said["requests"]["lists"].as_u64().unwrap();
    let text = a.ok(&["remote", "status", "db"]);
    assert!(text.contains("stored:   ") && text.contains(" on host "), "{text}");
    assert_eq!(a.json(&["inspect", "db"])["remote"]["objects"], said["objects"]);
    // Nobody is asked for that.
    assert!(remote(&a, "db")["requests"]["lists"].as_u64().unwrap() <= lists + 2);
    a.umount("db");
    assert_eq!(remote(&a, "db")["shipped"], serde_json::Value::Null);
    // The remote of a volume is checked by the name of that.
    let checked = a.json(&["remote", "check", "db", "--read-data", "--json"]);
    assert_eq!((&checked["clean"], &checked["url"]), (&true.into(), &url(&objects).into()));
    a.ok(&["create", "other"]);
    assert!(a.fails(USAGE, &["remote", "check", "other"]).contains("has no remote"));
}

#[test]
fn how_far_an_upload_is_is_said_while_it_is_under_way() {
    let a = Host::plain();
    let remotes = a.dir("config").join("remotes.toml");
    let text = format!("[slow]\nurl = \"file://{}\"\nupload = \"2M\"\n", a.dir("objects").display());
    fs::write(&remotes, text).unwrap();
    a.ok(&["create", "db"]);
    let here = a.make_mountpoint("db");
    // What is started for it knows the name as well.
    crate::support::succeed(
        a.command(&["mount", "db", here.to_str().unwrap()]).env("LARDER_REMOTES", &remotes),
    );
    fs::write(here.join("f"), pattern(40_000_000, 1)).unwrap();
    let mut add = a.command(&["remote", "add", "db", "slow"]);
    crate::support::succeed(add.env("LARDER_REMOTES", &remotes));
    wait_until("something was uploaded, and not all", || {
        let upload = remote(&a, "db")["uploading"].clone();
        let of = |key: &str| upload[key].as_u64().unwrap_or(0);
        of("total_bytes") > 30_000_000 && of("done_bytes") > 0 && of("done_bytes") < of("total_bytes")
    });
    let output = run(&mut a.command(&["remote", "status", "db"]));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("upload:   "), "{text}");
}

#[test]
fn mount_options_say_how_a_family_is_shipped() {
    let a = Host::plain();
    a.ok(&["create", "db", "--remote", &url(&a.dir("objects"))]);
    let here = a.mount("db", &["-o", "ship=60,max-lag=1G"]);
    let said = |key: &str| remote(&a, "db")[key].clone();
    assert_eq!((said("ship_s"), said("max_lag_bytes")), (60.into(), (1u64 << 30).into()));
    let dir = here.to_str().unwrap();
    a.ok(&["mount", "db", dir, "-o", "remount,ship=7,history=2d,local-size=1G"]);
    assert_eq!((said("ship_s"), said("max_lag_bytes")), (7.into(), (1u64 << 30).into()));
    assert_eq!((said("history_s"), said("local_size_bytes")), (172_800.into(), (1u64 << 30).into()));
    a.ok(&["mount", "db", dir, "-o", "remount,max-lag=none,local-size=none"]);
    assert!(said("max_lag_bytes").is_null() && said("local_size_bytes").is_null());
    for option in ["ship=0", "max-lag=much", "history=1s", "local-size=1"] {
        let refused = a.fails(USAGE, &["mount", "db", dir, "-o", &format!("remount,{option}")]);
        assert!(refused.contains(option), "{refused}");
    }
    assert_eq!(said("ship_s"), 7);
    a.umount("db");
    a.mount("db", &[]);
    assert_eq!(said("ship_s"), 7, "what was said once stays");
    a.ok(&["create", "plain"]);
    let dir = a.make_mountpoint("plain");
    let refused = a.fails(USAGE, &["mount", "plain", dir.to_str().unwrap(), "-o", "ship=9"]);
    assert!(refused.contains("has no remote"), "{refused}");
}

#[test]
fn the_newest_state_is_read_beside_who_has_the_volume() {
    for (a, b) in Host::each_kind().into_iter().zip(Host::each_kind()) {
        let objects = a.dir("objects");
        let here = a.volume("db", &["--remote", &url(&objects)]);
        fs::write(here.join("f"), pattern(500_000, 1)).unwrap();
        a.ok(&["remote", "sync", "db"]);
        let then = state(&here);
        let newest = remote(&a, "db")["record"].as_u64().unwrap();
        let said = b.ok(&["attach", &url(&objects), "look", "--read-only"]);
        assert!(said.contains(&format!("record {newest} ")), "{said}");
        let there = b.mount("look", &[]);
        assert_eq!(state(&there), then);
        assert!(fs::write(there.join("g"), "g").is_err());
        // Nothing was claimed.
        fs::write(here.join("f"), pattern(400_000, 2)).unwrap();
        a.ok(&["remote", "sync", "db"]);
        assert_eq!(state(&there), then);
        for with in [&["--steal"][..], &["--ship", "9"]] {
            let mut command = b.command(&["attach", &url(&objects), "x", "--read-only"]);
            assert_eq!(run(command.args(with)).status.code(), Some(USAGE));
        }
    }
}
