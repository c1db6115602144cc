//! Volumes that are left to their remote.

use crate::support::{Host, pattern, state};
use std::fs;
use std::os::unix::fs::FileExt;

const BUSY: i32 = 5;

#[test]
fn a_volume_leaves_its_host_when_all_of_it_is_elsewhere() {
    for host in Host::each_kind() {
        let objects = host.dir("objects");
        let url = format!("file://{}/db", objects.display());
        let here = host.volume("db", &["--remote", &url]);
        fs::write(here.join("big"), pattern(3_000_000, 1)).unwrap();
        host.ok(&["snapshot", "create", "db@one"]);
        host.ok(&["clone", "db@one", "copy"]);
        let said = host.fails(BUSY, &["detach", "db"]);
        assert!(said.contains("\"db\" is mounted"), "{said}");
        let copy = host.mount("copy", &[]);
        fs::write(copy.join("more"), "more").unwrap();
        let then = (state(&here), state(&copy));
        host.umount("db");
        let said = host.fails(BUSY, &["detach", "db"]);
        assert!(said.contains("\"copy\" is mounted"), "{said}");
        host.umount("copy");
        // What was written last is shipped before it goes: here, where the remote is away, it does not go.
        fs::write(host.mount("db", &["-o", "ro"]).join("late"), "").unwrap_err();
        host.umount("db");
        let away = objects.with_file_name("away");
        fs::rename(&objects, &away).unwrap();
        let said = host.fails(1, &["detach", "db", "--timeout", "1"]);
        assert!(said.contains("objects/db"), "{said}");
        assert_eq!(host.ok(&["ls", "-q"]), "copy\ndb\n");
        fs::rename(&away, &objects).unwrap();
        let said = host.ok(&["detach", "db"]);
        assert!(said.contains("copy, db left this host") && said.contains(&url), "{said}");
        assert!(host.ok(&["ls", "-q"]).is_empty());
        assert_eq!(fs::read_dir(host.root().join("stores")).unwrap().count(), 0);
        // Here again, or elsewhere.
        host.ok(&["attach", &url]);
        assert_eq!((state(&host.mount("db", &[])), state(&host.mount("copy", &[]))), then);
        host.umount("db");
        host.umount("copy");
        host.ok(&["create", "plain"]);
        assert!(host.fails(2, &["detach", "plain"]).contains("has no remote"));
        // What is in the trash would go as well.
        host.ok(&["rm", "copy"]);
        assert!(host.fails(BUSY, &["detach", "db"]).contains("trash"));
    }
}

/// What could not be read here was left out of what was shipped, without a word, and then removed here.
#[test]
fn a_volume_with_damage_does_not_leave_its_host() {
    let host = Host::plain();
    let url = format!("file://{}/db", host.dir("objects").display());
    fs::write(host.volume("db", &[]).join("big"), pattern(3_000_000, 1)).unwrap();
    host.umount("db");
    let segments = fs::read_dir(host.store("db").join("segments")).unwrap();
    let largest = segments.map(|file| file.unwrap().path()).max_by_key(|path| path.metadata().unwrap().len());
    let file = fs::OpenOptions::new().write(true).open(largest.unwrap()).unwrap();
    // In the middle of what it has.
    file.write_all_at(&[0xa5; 100], 8192 + 100 * 4096 + 10).unwrap();
    host.ok(&["remote", "add", "db", &url]);
    let said = host.fails(9, &["detach", "db"]);
    assert!(said.contains("1 block of files could not be read here"), "{said}");
    assert_eq!(host.ok(&["ls", "-q"]), "db\n");
}

/// It was the last copy: what the remote has lost since was removed here.
#[test]
fn a_volume_that_its_remote_has_lost_does_not_leave_its_host() {
    let host = Host::plain();
    let objects = host.dir("objects");
    let url = format!("file://{}/db", objects.display());
    let here = host.volume("db", &["--remote", &url]);
    fs::write(here.join("big"), pattern(3_000_000, 1)).unwrap();
    host.ok(&["remote", "sync", "db"]);
    host.umount("db");
    let segments = fs::read_dir(objects.join("db/data")).unwrap();
    let parts = segments.flat_map(|segment| fs::read_dir(segment.unwrap().path()).unwrap());
    let part = parts.map(|part| part.unwrap().path()).next().unwrap();
    let aside = objects.join("part");
    fs::rename(&part, &aside).unwrap();
    let said = host.fails(9, &["detach", "db"]);
    assert!(
        said.contains("does not have all of it any more") && said.contains("nothing is removed"),
        "{said}"
    );
    assert_eq!(host.ok(&["ls", "-q"]), "db\n");
    fs::rename(&aside, &part).unwrap();
    host.ok(&["detach", "db"]);
    assert!(host.ok(&["ls", "-q"]).is_empty());
}
