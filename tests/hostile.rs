//! Stores and roots that somebody has made to do harm: to other stores, to files of the host, to whoever looks at them.

use crate::support::{Host, run, shell};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use rusqlite::Connection;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// A volume with something in it, not mounted.
fn filled(host: &Host, name: &str) -> PathBuf {
    let dir = host.volume(name, &["--size", "20M"]);
    shell(&dir, &format!("echo secret of {name} > f; head -c 100000 /dev/urandom > g; sync f g"));
    host.umount(name);
    host.store(name)
}

/// Names and contents of a directory's files.
fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    files.sort();
    files
}

#[test]
fn no_store_reaches_the_segments_of_another() {
    let host = Host::plain();
    let victim = filled(&host, "victim");
    let before = contents(&victim.join("segments"));
    assert!(!before.is_empty());

    // Through a link in the place of the directory.
    let evil = filled(&host, "evil");
    fs::remove_dir_all(evil.join("segments")).unwrap();
    symlink(victim.join("segments"), evil.join("segments")).unwrap();
    let mountpoint = host.dir("mountpoint");
    let mountpoint = mountpoint.to_str().unwrap();
    let output = run(&mut host.command(&["mount", "evil", mountpoint]));
    assert!(!output.status.success(), "what is no store is not mounted");
    assert!(String::from_utf8(output.stderr).unwrap().contains("symbolic link"));
    run(&mut host.command(&["check", "evil", "--read-data"]));
    run(&mut host.command(&["ls"]));
    assert!(contents(&victim.join("segments")) == before);
    // To remove it removes the link.
    host.ok(&["rm", "evil", "--force", "--now"]);
    assert!(contents(&victim.join("segments")) == before);

    // The files themselves, by names of its own.
    let evil = filled(&host, "evil");
    let mut links = Vec::new();
    for ((path, _), id) in before.iter().zip(0xabc..) {
        for name in [format!("{id:016x}.seg"), format!("{id:016x}.seg.new")] {
            links.push(evil.join("segments").join(name));
            fs::hard_link(path, links.last().unwrap()).unwrap();
        }
    }
    host.mount("evil", &[]);
    host.umount("evil");
    assert!(links.iter().all(|link| link.exists()), "it may be all there is of what lives in it");
    assert!(contents(&victim.join("segments")) == before);
    host.check("victim");
    assert_eq!(fs::read_to_string(host.mount("victim", &[]).join("f")).unwrap(), "secret of victim\n");
}

#[test]
fn a_store_that_is_a_link_is_none() {
    let host = Host::plain();
    let victim = filled(&host, "victim");
    let id = "0123456789abcdef0123456789abcdef";
    symlink(&victim, host.root().join("stores").join(id)).unwrap();
    symlink(format!("../stores/{id}"), host.root().join("volumes/evil")).unwrap();
    for command in ["check", "inspect", "rm"] {
        assert!(!run(&mut host.command(&[command, "evil"])).status.success(), "{command}");
    }
    host.check("victim");
}

#[test]
fn what_is_no_regular_file_is_an_error_and_is_not_waited_for() {
    let host = Host::plain();
    let mountpoint = host.dir("mountpoint");
    let mountpoint = mountpoint.to_str().unwrap();
    let store = filled(&host, "v");
    let segment = fs::read_dir(store.join("segments")).unwrap().next().unwrap().unwrap().path();
    let segment = segment.strip_prefix(&store).unwrap().to_str().unwrap();
    let put_back = |name: &str, kept: &Path| {
        let path = store.join(name);
        let removed = if path.is_dir() { fs::remove_dir(&path) } else { fs::remove_file(&path) };
        removed.unwrap();
        if kept.exists() {
            fs::rename(kept, path).unwrap();
        }
    };
    for name in ["header.json", "lock", "meta.db", "meta.db-wal", "redo.0", segment] {
        let (path, kept) = (store.join(name), store.join("kept"));
        for kind in ["pipe", "directory", "device", "link"] {
            if path.exists() {
                fs::rename(&path, &kept).unwrap();
            }
            match kind {
                "pipe" => mkfifo(&path, Mode::S_IRWXU).unwrap(),
                "directory" => fs::create_dir(&path).unwrap(),
                "device" => drop(shell(&store, &format!("mknod {name} c 1 5"))),
                _ => symlink("/dev/zero", &path).unwrap(),
            }
            let what = format!("{name} is a {kind}");
            // Each of them ends, whatever it finds.
            for command in [&["ls"][..], &["inspect", "v"], &["check", "v", "--read-data"]] {
                run(&mut host.command(command));
            }
            let is_needed = matches!(name, "header.json" | "lock" | "meta.db");
            for command in [&["check", "v"][..], &["mount", "v", mountpoint], &["rm", "v"]] {
                if is_needed && command[0] != "rm" {
                    let output = run(&mut host.command(command));
                    assert!(!output.status.success(), "{what}: {command:?}");
                    let error = String::from_utf8(output.stderr).unwrap();
                    assert!(error.contains(name), "{what}: {error}");
                }
            }
            put_back(name, &kept);
        }
    }
    host.check("v");
    assert_eq!(fs::read_to_string(host.mount("v", &[]).join("f")).unwrap(), "secret of v\n");
}

#[test]
fn no_journal_of_a_store_names_files_to_be_removed() {
    let host = Host::plain();
    let store = filled(&host, "v");
    let target = host.dir("elsewhere").join("precious");
    fs::write(&target, "the only copy\n").unwrap();
    let up: PathBuf = store.components().skip(1).map(|_| "..").collect();
    let relative = up.join(target.strip_prefix("/").unwrap());
    let mountpoint = host.dir("mountpoint");
    for command in [&["ls"][..], &["check", "v"], &["mount", "v", mountpoint.to_str().unwrap()]] {
        for number in 0..4 {
            // See "The Super-Journal File" in SQLite's file format: a rollback journal that ends with the name of a journal of
            // several databases, which SQLite opens, and removes when no database refers to it any more. It knows directories
            // by numbers.
            let name = format!("{number}/{}", relative.display()).into_bytes();
            let sum = name.iter().map(|b| u32::from(*b)).sum::<u32>();
            let mut journal = vec![0xff; 512];
            journal.extend_from_slice(&(0x4000_0000u32 / 4096 + 1).to_be_bytes());
            journal.extend_from_slice(&name);
            journal.extend_from_slice(&(name.len() as u32).to_be_bytes());
            journal.extend_from_slice(&sum.to_be_bytes());
            journal.extend_from_slice(&[0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7]);
            fs::write(store.join("meta.db-journal"), journal).unwrap();
            run(&mut host.command(command));
            if command[0] == "mount" {
                run(&mut host.command(&["umount", "v"]));
            }
            assert!(target.exists(), "{command:?}");
        }
    }
    host.check("v");
}

/// Seals the pages of a plain database, as an enemy can.
fn seal(database: &Path) {
    let mut bytes = fs::read(database).unwrap();
    for (page, number) in bytes.chunks_exact_mut(4096).zip(1..) {
        let (contents, seal) = page.split_at_mut(4080);
        seal.copy_from_slice(&xxh3_128_with_seed(contents, number).to_le_bytes());
    }
    fs::write(database, bytes).unwrap();
}

#[test]
fn tables_that_are_not_larders_are_refused_before_they_are_used() {
    const ENDLESS: &str =
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c) SELECT max(x) FROM c";
    let host = Host::plain();
    let mountpoint = host.dir("mountpoint");
    let store = filled(&host, "v");
    let database = store.join("meta.db");
    let sound = fs::read(&database).unwrap();
    for sql in [
        format!("CREATE TRIGGER t AFTER UPDATE ON store BEGIN SELECT ({ENDLESS}); END"),
        "CREATE TRIGGER t AFTER UPDATE ON store BEGIN UPDATE inode SET mode = mode | 2048, uid = 0; END"
            .into(),
        format!(
            "ALTER TABLE store RENAME TO other; CREATE VIEW store AS SELECT * FROM other WHERE ({ENDLESS}) > 0"
        ),
        format!("ALTER TABLE volume RENAME TO other; CREATE VIEW volume AS SELECT *, ({ENDLESS}) FROM other"),
        "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = \
         replace(sql, 'CHECK (one = 1)', 'CHECK (length(hex(zeroblob(400000000))) > 0)') WHERE name = 'store'"
            .into(),
        "CREATE TABLE more (a)".into(),
        "CREATE INDEX more ON inode (abs(ino))".into(),
        "DROP INDEX inode_of_gen".into(),
        "ANALYZE".into(),
    ] {
        let db = Connection::open(&database).unwrap();
        db.execute_batch(&sql).unwrap();
        db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        drop(db);
        seal(&database);
        for command in
            [&["inspect", "v"][..], &["check", "v"], &["ls"], &["mount", "v", mountpoint.to_str().unwrap()]]
        {
            const DAMAGED: i32 = 9;
            let output = run(&mut host.command(command));
            let error = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(DAMAGED), "{sql}: {command:?}: {error}");
            assert!(error.contains("not larder's"), "{sql}: {command:?}: {error}");
        }
        fs::write(&database, &sound).unwrap();
        for name in ["meta.db-wal", "meta.db-shm"] {
            let _ = fs::remove_file(store.join(name));
        }
    }
    host.check("v");
}

#[test]
fn no_link_in_a_root_leads_elsewhere() {
    let host = Host::plain();
    host.ok(&["create", "v"]);
    let store = host.store("v");
    let id = store.file_name().unwrap().to_str().unwrap();
    let victim = host.dir("victim").join("file");
    let root = host.root();
    let mountpoint = host.dir("mountpoint");
    let mount = ["mount", "v", mountpoint.to_str().unwrap()];
    let unnamed = [&["create", "w"][..], &["rm", "v"]];
    for (link, commands) in [
        (root.join("lock"), &unnamed[..]),
        (root.join("log").join(format!("{id}.log")), &[&mount[..]]),
        (root.join("plugin/volumes/v.json"), &[&["inspect", "v"], &["set", "v", "sticky=true"]]),
    ] {
        for there in [false, true] {
            let _ = fs::remove_file(&link);
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            symlink(&victim, &link).unwrap();
            let _ = fs::remove_file(&victim);
            if there {
                fs::write(&victim, "original").unwrap();
            }
            for command in commands {
                let output = run(&mut host.command(command));
                if link.ends_with("lock") || command[0] == "mount" {
                    assert!(!output.status.success(), "{command:?} through {}", link.display());
                }
            }
            match there {
                true => assert_eq!(fs::read_to_string(&victim).unwrap(), "original", "{}", link.display()),
                false => assert!(!victim.exists(), "{}", link.display()),
            }
            let _ = fs::remove_file(&link);
        }
    }
    // A socket of somebody else's.
    let listener = UnixListener::bind(host.dir("victim").join("socket")).unwrap();
    listener.set_nonblocking(true).unwrap();
    symlink(host.dir("victim").join("socket"), store.join("control")).unwrap();
    for command in [&["inspect", "v"][..], &["ls"], &mount] {
        run(&mut host.command(command));
    }
    assert!(listener.accept().is_err(), "somebody else was asked");
    fs::remove_file(store.join("control")).unwrap();
    // A store that marks itself with a file of somebody else's.
    symlink(&victim, store.join("unnamed")).unwrap();
    fs::write(&victim, "original").unwrap();
    host.ok(&["rm", "--now", "v"]);
    assert_eq!(fs::read_to_string(&victim).unwrap(), "original");
    assert!(!store.exists());
}

#[test]
fn no_name_of_a_volume_acts_on_a_terminal() {
    let host = Host::plain();
    let dir = host.volume("v", &[]);
    host.ok(&["snapshot", "create", "v@a"]);
    let names =
        ["\x1b]0;title\x07\x1b[2J", "a\n-\tpasswd", "csi\u{9b}31m", "\u{202e}txt", "back\\slash", "\r"];
    for name in names {
        fs::write(dir.join(name), "0123456789").unwrap();
    }
    let acts = |c: char| c.is_control() && c != '\n' && c != '\t' || c == '\u{202e}';
    let text = host.ok(&["diff", "v@a"]);
    assert!(!text.contains(acts), "{text:?}");
    assert_eq!(
        text.lines().filter(|line| line.starts_with('+')).count(),
        names.len(),
        "a line for each: {text}"
    );
    assert!(text.contains("+\t/a\\n-\\tpasswd\n") && text.contains("+\t/back\\\\slash\n"), "{text}");
    let output = host.ok(&["diff", "v@a", "--json"]);
    assert!(!output.contains(acts), "{output:?}");
    let found: serde_json::Value = serde_json::from_str(&output).unwrap();
    let found: Vec<&str> =
        found.as_array().unwrap().iter().map(|row| row["path"].as_str().unwrap()).collect();
    for name in names {
        assert!(found.contains(&format!("/{name}").as_str()), "{name:?} in {found:?}");
    }

    // Damaged, so that they are named.
    shell(&dir, "sync -f .");
    host.umount("v");
    let store = host.store("v");
    for segment in fs::read_dir(store.join("segments")).unwrap() {
        let path = segment.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        bytes[8192..].fill(7);
        fs::write(&path, bytes).unwrap();
    }
    let output = run(&mut host.command(&["check", "v", "--read-data"]));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("fault: ") && text.contains("csi") && !text.contains(acts), "{text:?}");
    assert!(text.lines().all(|line| !line.starts_with('-')), "{text}");
    let output = run(&mut host.command(&["check", "v", "--read-data", "--json"]));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains(acts), "{text:?}");
    assert!(serde_json::from_str::<serde_json::Value>(&text).unwrap()["faults"].as_array().is_some());
    let dir = host.mount("v", &[]);
    for name in names {
        assert!(fs::read(dir.join(name)).is_err());
    }
    host.umount("v");
    let log = host.root().join("log").join(format!("{}.log", store.file_name().unwrap().to_str().unwrap()));
    let log = fs::read_to_string(log).unwrap();
    assert!(log.contains("damaged") && !log.contains(acts), "{log:?}");
}
