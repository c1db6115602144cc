//! Who owns what is in a remote, and what of it is removed or given up.

use super::mounted::{remote, url};
use crate::support::{Host, pattern, run, shell, state, wait_until};
use serde_json::Value;
use std::fs;
use std::path::Path;

const BUSY: i32 = 5;

/// Puts back what was there.
fn bring_back(copy: &Path, objects: &Path) {
    fs::remove_dir_all(objects).unwrap();
    shell(copy.parent().unwrap(), &format!("cp -a '{}' '{}'", copy.display(), objects.display()));
}

/// It was the advice to who came back after a disaster: what the other host had written was in no volume any more.
#[test]
fn what_another_host_wrote_since_a_remote_went_back_is_given_up_only_if_that_is_said() {
    let (a, b) = (Host::plain(), Host::plain());
    let (objects, copies) = (a.dir("objects"), a.dir("copies"));
    let here = a.volume("db", &["--remote", &url(&objects)]);
    fs::write(here.join("first"), pattern(300_000, 1)).unwrap();
    a.ok(&["remote", "sync", "db"]);
    a.umount("db");
    let there = Path::new(url(&objects).strip_prefix("file://").unwrap()).to_owned();
    let copy = copies.join("first");
    shell(&copies, &format!("cp -a '{}' first", there.display()));
    // Each mount is an owner of its own.
    for i in 0..3 {
        let here = a.mount("db", &[]);
        fs::write(here.join(format!("later{i}")), pattern(100_000, i)).unwrap();
        a.ok(&["remote", "sync", "db"]);
        a.umount("db");
    }
    // Nobody else has been there.
    bring_back(&copy, &there);
    a.ok(&["remote", "accept-older", "db"]);
    let here = a.mount("db", &[]);
    a.ok(&["remote", "sync", "db"]);
    let ours = state(&here);
    a.umount("db");
    // Who works with it, and lets go of it, has.
    bring_back(&copy, &there);
    b.ok(&["attach", &url(&objects)]);
    let work = b.mount("db", &[]);
    fs::write(work.join("theirs"), pattern(50_000, 9)).unwrap();
    b.umount("db");
    b.ok(&["detach", "db"]);
    let here = a.mount("db", &[]);
    wait_until("it is found out", || remote(&a, "db")["trouble"].is_string());
    assert_eq!(state(&here), ours);
    a.umount("db");
    let refused = a.fails(BUSY, &["remote", "accept-older", "db"]);
    assert!(refused.contains("was written by another host") && refused.contains("--discard"), "{refused}");
    // The one way, on another host; and the other.
    b.ok(&["attach", &url(&objects)]);
    assert!(b.mount("db", &[]).join("theirs").exists());
    b.umount("db");
    b.ok(&["detach", "db"]);
    a.ok(&["remote", "accept-older", "--discard", "db"]);
    let here = a.mount("db", &[]);
    a.ok(&["remote", "sync", "db"]);
    assert_eq!(remote(&a, "db")["trouble"], Value::Null);
    assert_eq!(state(&here), ours);
    a.umount("db");
    b.ok(&["attach", &url(&objects)]);
    assert_eq!(state(&b.mount("db", &[])), ours);
}

/// It was removed under them, and what they had only there was gone.
#[test]
fn a_remote_is_not_removed_by_another_name_under_a_volume_of_this_host() {
    let (a, b) = (Host::plain(), Host::plain());
    let (objects, others) = (a.dir("objects"), a.dir("others"));
    let here = a.volume("db", &["--remote", &url(&objects)]);
    fs::write(here.join("f"), pattern(700_000, 1)).unwrap();
    a.ok(&["remote", "sync", "db"]);
    a.umount("db");
    std::os::unix::fs::symlink(&objects, others.join("link")).unwrap();
    let alias = url(&others.join("link"));
    b.ok(&["attach", &url(&objects)]);
    for host in [&a, &b] {
        for args in [&["remote", "rm", "--force", &alias][..], &["remote", "rm", "--steal", &alias]] {
            let said = host.fails(BUSY, args);
            assert!(said.contains("of this host is shipped there (to file://"), "{said}");
        }
    }
    // A moment that was attached by another name needs it as well.
    let record = remote(&b, "db")["record"].to_string();
    b.ok(&["attach", &alias, "moment", "--at", &record]);
    let said = b.fails(BUSY, &["rm", "--now", "db", "--remove-remote"]);
    assert!(said.contains("moment"), "{said}");
    b.ok(&["rm", "--now", "moment"]);
    // A copy that was left behind is another place.
    shell(&others, &format!("cp -a '{}' copy", objects.display()));
    let there = b.mount("db", &[]);
    assert!(fs::read(there.join("f")).unwrap() == pattern(700_000, 1));
    fs::write(there.join("g"), "g").unwrap();
    b.ok(&["remote", "sync", "db"]);
    b.umount("db");
    b.ok(&["remote", "rm", &url(&others.join("copy"))]);
    assert!(!others.join("copy/db/store").exists());
    // Nobody here needs it any more.
    b.ok(&["rm", "--now", "db", "--keep-remote"]);
    b.ok(&["remote", "rm", &alias]);
    let output = run(&mut a.command(&["remote", "check", &url(&objects)]));
    assert!(!output.status.success(), "{output:?}");
}
