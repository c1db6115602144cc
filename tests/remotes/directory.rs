//! `file://`: what others may have put into the directory, and what killed writers leave.

use super::suite;
use bytes::Bytes;
use larder::remote::{Directory, Objects, Trouble};
use std::cell::Cell;
use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

#[test]
fn a_directory_does_what_all_object_stores_do() {
    let tmp = tempfile::tempdir().unwrap();
    let count = Cell::new(0);
    suite::everything(&|| {
        count.set(count.get() + 1);
        Arc::new(Directory::new(&tmp.path().join(format!("a/b{}", count.get()))))
    });
    // Nothing is left of writing.
    let left = |dir: &Path| fs::read_dir(dir.join(".new")).map(Iterator::count).unwrap_or_default();
    assert!((1..=count.get()).all(|i| left(&tmp.path().join(format!("a/b{i}"))) == 0));
}

#[test]
fn nothing_is_reached_through_a_link_and_nothing_but_files_is_an_object() {
    let tmp = tempfile::tempdir().unwrap();
    let (dir, outside) = (tmp.path().join("remote"), tmp.path().join("outside"));
    fs::create_dir_all(outside.join("log")).unwrap();
    fs::create_dir_all(dir.join("data/dir")).unwrap();
    fs::write(outside.join("log/x"), "secret").unwrap();
    symlink(outside.join("log"), dir.join("log")).unwrap();
    symlink(outside.join("log/x"), dir.join("data/link")).unwrap();
    nix::unistd::mkfifo(&dir.join("data/pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::write(dir.join("data/real"), "1").unwrap();
    fs::write(dir.join("data/Upper"), "1").unwrap();
    let objects = Directory::new(&dir);
    for name in ["log/x", "data/link", "data/pipe", "data/dir"] {
        assert!(objects.get(name, 100).is_err(), "{name}");
        assert!(objects.get_range(name, 0..1).is_err(), "{name}");
        assert!(objects.head(name).is_err(), "{name}");
    }
    assert!(objects.put("log/y", bytes("y")).is_err() && objects.put_new("log/z", bytes("z")).is_err());
    assert!(objects.delete("log/x").is_err());
    assert_eq!(fs::read_dir(outside.join("log")).unwrap().count(), 1);
    // A link in the place of an object is replaced, and not followed; it is never taken for one that is there no more.
    assert_eq!(objects.put_new("data/link", bytes("2")).unwrap_err().trouble, Trouble::Exists);
    objects.put("data/link", bytes("2")).unwrap();
    assert_eq!(fs::read_to_string(outside.join("log/x")).unwrap(), "secret");
    let names: Vec<String> =
        objects.list("", "", 100).unwrap().into_iter().map(|listed| listed.name).collect();
    assert_eq!(names, ["data/link", "data/real"]);
    assert_eq!(objects.list_dirs("", 100).unwrap(), ["data"]);
    // The directory itself may be one: an administrator has made it.
    symlink(&dir, tmp.path().join("by-link")).unwrap();
    assert_eq!(Directory::new(&tmp.path().join("by-link")).get("data/real", 1).unwrap(), "1");
}

#[test]
fn what_killed_writers_left_is_swept_and_what_is_being_written_is_not() {
    let tmp = tempfile::tempdir().unwrap();
    Directory::new(tmp.path()).put("a", bytes("1")).unwrap();
    let new = tmp.path().join(".new");
    let made = |name: &str, age: u64| {
        let file = File::create(new.join(name)).unwrap();
        let at = SystemTime::now() - Duration::from_secs(age);
        file.set_times(FileTimes::new().set_modified(at)).unwrap();
        file
    };
    drop(made("left", 7200));
    drop(made("young", 10));
    let lock = nix::fcntl::Flock::lock(made("busy", 7200), nix::fcntl::FlockArg::LockExclusive).unwrap();
    Directory::new(tmp.path());
    let mut names: Vec<_> = fs::read_dir(&new).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["busy", "young"]);
    drop(lock);
    Directory::new(tmp.path());
    assert!(!new.join("busy").exists());
}

#[test]
fn a_directory_that_cannot_be_written_to_says_why() {
    let tmp = tempfile::tempdir().unwrap();
    fs::write(tmp.path().join("file"), "").unwrap();
    let objects = Directory::new(&tmp.path().join("file/remote"));
    let e = objects.put_new("a", bytes("1")).unwrap_err();
    assert!(
        e.to_string().starts_with("cannot write file:///") && e.to_string().contains("Not a directory"),
        "{e}"
    );
    // Objects that hold nothing of ours, and directories that go while they are written to.
    let objects = Arc::new(Directory::new(&tmp.path().join("race")));
    std::thread::scope(|scope| {
        for t in 0..4 {
            let objects = &objects;
            scope.spawn(move || {
                for i in 0..100 {
                    let name = format!("data/{}/{t}", i % 3);
                    objects.put_new(&name, bytes("1")).unwrap();
                    objects.delete(&name).unwrap();
                }
            });
        }
    });
    assert!(objects.list("", "", 10).unwrap().is_empty());
}

/// Each page of a list looked at all that there is.
#[test]
fn pages_of_a_list_follow_each_other() {
    let tmp = tempfile::tempdir().unwrap();
    let objects = Directory::new(tmp.path());
    let mut all = Vec::new();
    for dir in ["data/a", "data/a-b", "data/a.c", "data/b", "data/c"] {
        for i in 0..7 {
            all.push(format!("{dir}/{i}"));
            // Beside the directory, and sorted between what is in it and others.
            all.push(format!("{dir}{i}"));
        }
    }
    all.iter().for_each(|name| objects.put_new(name, bytes("x")).unwrap());
    fs::create_dir(tmp.path().join("data/empty")).unwrap();
    all.sort();
    for most in [1, 3, 1000] {
        let (mut found, mut after) = (Vec::new(), String::new());
        loop {
            let page = objects.list("data/", &after, most).unwrap();
            let Some(last) = page.last() else { break };
            after.clone_from(&last.name);
            assert!(page.len() <= most);
            found.extend(page.into_iter().map(|listed| listed.name));
        }
        assert_eq!(found, all, "{most}");
    }
}

/// What is on a file system that is not mounted seemed to be removed.
#[test]
fn a_directory_that_is_out_of_sight_has_lost_nothing() {
    let tmp = tempfile::tempdir().unwrap();
    let (dir, away) = (tmp.path().join("remote"), tmp.path().join("away"));
    let objects = Directory::new(&dir);
    let trouble = |outcome: larder::remote::Outcome<Bytes>| outcome.unwrap_err().trouble;
    assert_eq!(trouble(objects.get("store", 10)), Trouble::Missing, "there is none yet");
    assert_eq!(objects.list("", "", 10).unwrap(), []);
    objects.put_new("store", bytes("x")).unwrap();
    fs::rename(&dir, &away).unwrap();
    for is_empty in [false, true] {
        if is_empty {
            fs::create_dir(&dir).unwrap();
        }
        assert_eq!(trouble(objects.get("store", 10)), Trouble::Unreachable);
        assert_eq!(trouble(objects.get_range("store", 0..1)), Trouble::Unreachable);
        assert_eq!(objects.head("store").unwrap_err().trouble, Trouble::Unreachable);
        assert_eq!(objects.list("", "", 10).unwrap_err().trouble, Trouble::Unreachable);
        assert_eq!(objects.put("a", bytes("x")).unwrap_err().trouble, Trouble::Unreachable);
        assert_eq!(objects.delete("store").unwrap_err().trouble, Trouble::Unreachable);
    }
    fs::remove_dir(&dir).unwrap();
    fs::rename(&away, &dir).unwrap();
    assert_eq!(objects.get("store", 10).unwrap(), bytes("x"));
    assert_eq!(trouble(objects.get("other", 10)), Trouble::Missing);
}

/// One with the same number of its inode, or with a store in it, was taken for it, and what it lacked had been removed.
#[test]
fn another_directory_in_the_place_of_one_is_not_taken_for_it() {
    let tmp = tempfile::tempdir().unwrap();
    let (dir, away) = (tmp.path().join("remote"), tmp.path().join("away"));
    let is_out_of_sight = |objects: &Directory| {
        assert_eq!(objects.get("a", 10).unwrap_err().trouble, Trouble::Unreachable);
        assert_eq!(objects.head("store").unwrap_err().trouble, Trouble::Unreachable);
        assert_eq!(objects.list("", "", 10).unwrap_err().trouble, Trouble::Unreachable);
        assert_eq!(objects.put_new("b", bytes("x")).unwrap_err().trouble, Trouble::Unreachable);
        assert_eq!(objects.delete("a").unwrap_err().trouble, Trouble::Unreachable);
    };
    let objects = Directory::new(&dir);
    objects.put_new("store", bytes("one")).unwrap();
    objects.put_new("a", bytes("a")).unwrap();
    // It is made anew, with nothing in it, or with another store. Many file systems give the number of the inode again.
    let number = fs::metadata(&dir).unwrap().ino();
    fs::create_dir(&away).unwrap();
    for entry in fs::read_dir(&dir).unwrap() {
        let entry = entry.unwrap();
        fs::rename(entry.path(), away.join(entry.file_name())).unwrap();
    }
    for _ in 0..100 {
        fs::remove_dir(&dir).unwrap();
        fs::create_dir(&dir).unwrap();
        if fs::metadata(&dir).unwrap().ino() == number {
            break;
        }
    }
    is_out_of_sight(&objects);
    fs::write(dir.join("store"), "two").unwrap();
    is_out_of_sight(&objects);
    assert!(!dir.join("b").exists() && !dir.join(".new").exists(), "nothing was written there");
    // It comes back as a copy.
    fs::remove_dir_all(&dir).unwrap();
    fs::rename(&away, &dir).unwrap();
    assert_eq!(objects.get("a", 10).unwrap(), bytes("a"));
    objects.put_new("b", bytes("x")).unwrap();
    // What is read of one is as good as what was written.
    let reader = Directory::new(&dir);
    assert_eq!(reader.get("a", 10).unwrap(), bytes("a"));
    fs::rename(&dir, &away).unwrap();
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("store"), "two").unwrap();
    is_out_of_sight(&reader);
}
